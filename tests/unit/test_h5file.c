/* h5file: what is written comes back, equal calls give equal bytes, every flipped bit is found, and
 * files that are not as expected are refused. */
#include <stdlib.h>
#include <string.h>

#include "formats/apart.h"
#include "formats/base/q_file.h"
#include "formats/h5file.h"
#include "tests/t.h"

static const float v32[6] = { 1, -2, 3.5f, 0, 1e-30f, 3e38f };
static const uint16_t v16[4] = { 0x3c00, 0x3f80, 0x0001, 0xffff };
static const int32_t i32[3] = { -1, 0, 2147483647 };
static const int8_t i8[2] = { -128, 127 };

static char *path_of(const char *name)
{
    return q_path_join(t_tmpdir(), name);
}

static void write_file(const char *path, int swap)
{
    q_err err = { 0 };
    fmt_h5w *w = NULL;

    T_OK(fmt_h5_create(&w, path, 1, &err), err);
    T_OK(fmt_h5_put(w, "/a/b/f32", FMT_F32, 2, (int64_t[]){ 2, 3 }, v32, &err), err);
    T_OK(fmt_h5_put(w, "/a/b/f16", FMT_F16, 1, (int64_t[]){ 4 }, v16, &err), err);
    T_OK(fmt_h5_put(w, "/a/bf16", FMT_BF16, 1, (int64_t[]){ 4 }, v16, &err), err);
    T_OK(fmt_h5_put(w, "/i32", FMT_I32, 1, (int64_t[]){ 3 }, i32, &err), err);
    T_OK(fmt_h5_put(w, swap ? "/a/x" : "/a/i8", FMT_I8, 1, (int64_t[]){ 2 }, i8, &err), err);
    T_OK(fmt_h5_put(w, "/none", FMT_F32, 2, (int64_t[]){ 0, 4 }, NULL, &err), err);
    T_OK(fmt_h5_put_bytes(w, "/meta/config.json", "{\"a\": 1}\n", 9, &err), err);
    T_OK(fmt_h5_put_bytes(w, "/meta/binary", "a\0b", 3, &err), err);
    T_OK(fmt_h5_attr_str(w, "/", "format", "test", &err), err);
    T_OK(fmt_h5_attr_int(w, "/a", "n", -5, &err), err);
    T_OK(fmt_h5_attr_real(w, "/a/b/f32", "alpha", 0.1, &err), err);
    T_OK(fmt_h5_commit(w, &err), err);
    fmt_h5w_close(w);
}

/* What fmt_h5_put_bytes wrote lies in the file as it is. */
static void check_bytes(const fmt_h5 *h, const char *path, const char *name, const char *want,
                        size_t n)
{
    q_err err = { 0 };
    uint64_t offset = 0, bytes = 0;
    q_file *f = NULL;
    char have[16]; /* longer than all that is written */

    T_OK(fmt_h5_place(h, name, &offset, &bytes, &err), err);
    T_INT(bytes, n);
    T_OK(q_file_open(&f, path, &err), err);
    T_OK(q_file_pread(f, have, n, offset, &err), err);
    T_INT(memcmp(have, want, n), 0);
    q_file_close(f);
}

static q_status join(void *self, const char *member, q_err *err)
{
    char *s = self;

    (void)err;
    strcat(s, member);
    strcat(s, " ");
    return Q_OK;
}

static const struct {
    const char *name;
    int has, group;
} there[] = { { "/", 1, 1 },      { "/a/b", 1, 1 }, { "/a/b/f32", 1, 0 },
              { "/a/b/c", 0, 0 }, { "/x/y", 0, 0 }, { "/meta/config.json", 1, 0 } };

static void t_round_trip(void)
{
    q_err err = { 0 };
    char *path = path_of("a.h5"), text[64] = "";
    fmt_h5 *h = NULL;
    fmt_h5_info info;
    float f[6];
    uint16_t u[4];
    int32_t i[3];
    int64_t n = 0;
    double alpha = 0;
    int whole = 0, yes = 0;

    write_file(path, 0);
    T_OK(fmt_h5_open(&h, path, &err), err);
    T_OK(fmt_h5_read(h, "/a/b/f32", FMT_F32, 2, (int64_t[]){ 2, 3 }, f, &err), err);
    T_INT(memcmp(f, v32, sizeof f), 0);
    T_OK(fmt_h5_read(h, "/a/b/f16", FMT_F16, 1, (int64_t[]){ 4 }, u, &err), err);
    T_INT(memcmp(u, v16, sizeof u), 0);
    T_OK(fmt_h5_stat(h, "/a/bf16", &info, &err), err);
    T_INT(info.dtype, FMT_BF16);
    T_INT(info.ndim, 1);
    T_INT(info.shape[0], 4);
    T_INT(info.bytes, 8);
    T_OK(fmt_h5_read(h, "/a/bf16", FMT_BF16, 1, (int64_t[]){ 4 }, u, &err), err);
    T_INT(memcmp(u, v16, sizeof u), 0);
    T_OK(fmt_h5_read(h, "/i32", FMT_I32, 1, (int64_t[]){ 3 }, i, &err), err);
    T_INT(memcmp(i, i32, sizeof i), 0);
    T_OK(fmt_h5_read(h, "/none", FMT_F32, 2, (int64_t[]){ 0, 4 }, NULL, &err), err);
    check_bytes(h, path, "/meta/config.json", "{\"a\": 1}\n", 9);
    check_bytes(h, path, "/meta/binary", "a\0b", 3);
    T_OK(fmt_h5_get_str(h, "/", "format", text, sizeof text, &err), err);
    T_STR(text, "test");
    T_OK(fmt_h5_get_int(h, "/a", "n", &n, &err), err);
    T_INT(n, -5);
    T_OK(fmt_h5_get_real(h, "/a/b/f32", "alpha", &alpha, &err), err);
    T_NEAR(alpha, 0.1, 0);
    text[0] = '\0';
    T_OK(fmt_h5_each(h, "/", join, text, &err), err);
    T_STR(text, "a i32 none meta "); /* as they were made */
    for (size_t k = 0; k < sizeof there / sizeof there[0]; k++) {
        T_OK(fmt_h5_has(h, there[k].name, &yes, &err), err);
        T_INT(yes, there[k].has);
        T_OK(fmt_h5_is_group(h, there[k].name, &yes, &err), err);
        T_INT(yes, there[k].group);
    }
    T_OK(fmt_h5_has_attr(h, "/a", "n", &yes, &err), err);
    T_INT(yes, 1);
    T_OK(fmt_h5_has_attr(h, "/a", "m", &yes, &err), err);
    T_INT(yes, 0);
    T_OK(fmt_h5_has_attr(h, "/x", "n", &yes, &err), err);
    T_INT(yes, 0);
    fmt_h5_close(h);
    T_OK(fmt_h5_verify(path, &whole, &err), err);
    T_INT(whole, 1);
    q_free(path);
}

static void t_same_bytes(void)
{
    q_err err = { 0 };
    char *one = path_of("one.h5"), *two = path_of("two.h5");
    q_buf a = { 0 }, b = { 0 };

    write_file(one, 0);
    write_file(two, 1);
    write_file(two, 0); /* again, over another one */
    T_OK(q_file_slurp(&a, one, 1 << 20, &err), err);
    T_OK(q_file_slurp(&b, two, 1 << 20, &err), err);
    T_INT(a.size, b.size);
    T_INT(memcmp(a.data, b.data, a.size), 0);
    q_buf_free(&a);
    q_buf_free(&b);
    q_free(one);
    q_free(two);
}

/* One bit in every byte of the file in turn. */
static void t_every_flip(void)
{
    q_err err = { 0 };
    char *path = path_of("flip.h5");
    q_buf b = { 0 };
    int whole;

    write_file(path, 0);
    T_OK(q_file_slurp(&b, path, 1 << 20, &err), err);
    printf("# %zu bytes\n", b.size);
    for (size_t i = 0; i < b.size; i += i < 512 || i + 200 > b.size ? 1 : 7) {
        const char was = b.data[i];
        q_status st;

        b.data[i] = (char)(was ^ (1 << i % 8));
        T_OK(q_out_whole(path, 1, b.data, b.size, &err), err);
        st = fmt_h5_verify(path, &whole, &err);
        if (st == Q_OK && whole)
            t_fail(__FILE__, __LINE__, "flipping a bit of byte %zu was not found", i);
        err = (q_err){ 0 };
        b.data[i] = was;
    }
    q_buf_free(&b);
    q_free(path);
}

/* Without waiting for the disk. */
static void put_raw(const char *path, const q_buf *b)
{
    FILE *f = fopen(path, "wb");

    T_TRUE(f && fwrite(b->data, 1, b->size, f) == b->size && fclose(f) == 0);
}

/* In a process of its own: *out tells how the questions of `there` were answered. */
static q_status ask(void *self, q_buf *out, q_err *err)
{
    q_status st = Q_OK;
    fmt_h5 *h = NULL;
    int yes[3];

    Q_TRY(fmt_h5_open(&h, self, err));
    for (size_t k = 0; k < sizeof there / sizeof there[0]; k++) {
        Q_TRY(fmt_h5_has(h, there[k].name, &yes[0], err));
        Q_TRY(fmt_h5_is_group(h, there[k].name, &yes[1], err));
        Q_TRY(q_buf_put(out, yes, 2 * sizeof yes[0], err));
    }
    Q_TRY(fmt_h5_has_attr(h, "/a", "n", &yes[0], err));
    Q_TRY(fmt_h5_has_attr(h, "/a/b/f32", "alpha", &yes[1], err));
    Q_TRY(fmt_h5_has_attr(h, "/", "format", &yes[2], err));
    Q_TRY(q_buf_put(out, yes, sizeof yes, err));
out:
    fmt_h5_close(h);
    return st;
}

/* One bit in every byte in turn: the answers are those of the whole file, or an error that names
 * the file; what is there is never absent. */
static void t_damaged_is_not_absent(void)
{
    q_err err = { 0 };
    char *path = path_of("damaged.h5");
    q_buf b = { 0 }, want = { 0 }, got = { 0 };
    int refused = 0, told = 0;

    write_file(path, 0);
    T_OK(fmt_apart(&want, path, ask, path, &err), err);
    T_OK(q_file_slurp(&b, path, 1 << 20, &err), err);
    for (size_t i = 0; i < b.size; i += i < 64 ? 1 : 13) {
        const char was = b.data[i];

        b.data[i] = (char)(was ^ (1 << i % 8));
        put_raw(path, &b);
        if (fmt_apart(&got, path, ask, path, &err) != Q_OK) {
            T_TRUE(strstr(err.msg, "damaged.h5") != NULL);
            told += strstr(err.msg, "cannot be looked up, the file is damaged: fetch") != NULL;
            refused++;
        } else if (got.size != want.size || memcmp(got.data, want.data, want.size) != 0) {
            t_fail(__FILE__, __LINE__, "bit %d of byte %zu changes what is there", (int)(i % 8), i);
        }
        err = (q_err){ 0 };
        b.data[i] = was;
    }
    printf("# %d refused, %d of them when asked for a name\n", refused, told);
    T_TRUE(told > 20);
    q_buf_free(&b);
    q_buf_free(&want);
    q_buf_free(&got);
    q_free(path);
}

static void t_rewritten(void)
{
    q_err err = { 0 };
    char *path = path_of("cut.h5");
    q_buf b = { 0 };
    int whole = 1;
    char *at = NULL;

    write_file(path, 0);
    T_OK(q_file_slurp(&b, path, 1 << 20, &err), err);
    b.size -= 15 + 64 + 1; /* as a program that copies the HDF5 data alone */
    T_OK(q_out_whole(path, 1, b.data, b.size, &err), err);
    T_OK(fmt_h5_verify(path, &whole, &err), err);
    T_INT(whole, 0);
    for (size_t i = 0; i + sizeof v32 <= b.size && !at; i++)
        if (memcmp(b.data + i, v32, sizeof v32) == 0)
            at = b.data + i;
    T_TRUE(at != NULL);
    at[5] ^= 1; /* now the dataset tells */
    T_OK(q_out_whole(path, 1, b.data, b.size, &err), err);
    T_ERR(fmt_h5_verify(path, &whole, &err), err, Q_EFORMAT, "'/a/b/f32' was changed");
    q_buf_free(&b);
    q_free(path);
}

/* Two runs to one name, both of which found it free: the second does not replace the first. */
static void t_two_runs(void)
{
    q_err err = { 0 };
    char *path = path_of("race.h5"), *other = path_of("race.txt");
    q_buf b = { 0 };
    fmt_h5w *w = NULL;

    T_OK(fmt_h5_create(&w, path, 0, &err), err);
    T_OK(q_out_whole(other, 0, "first", 5, &err), err);
    T_INT(rename(other, path), 0);
    T_ERR(fmt_h5_commit(w, &err), err, Q_ECREATE, "race.h5: was made by another run meanwhile");
    fmt_h5w_close(w);
    T_OK(q_file_slurp(&b, path, 100, &err), err);
    T_STR(b.data, "first");
    q_buf_free(&b);
    T_OK(fmt_h5_create(&w, path, 1, &err), err); /* with --force it does */
    T_OK(fmt_h5_commit(w, &err), err);
    fmt_h5w_close(w);
    T_OK(q_file_slurp(&b, path, 100000, &err), err);
    T_TRUE(memcmp(b.data, "\x89HDF", 4) == 0);
    q_buf_free(&b);
    q_free(path);
    q_free(other);
}

static void t_refused(void)
{
    q_err err = { 0 };
    char *path = path_of("r.h5"), *text = path_of("r.txt"), *none = path_of("none.h5");
    char small[3];
    fmt_h5 *h = NULL;
    fmt_h5w *w = NULL;
    fmt_h5_info info;
    int64_t n;
    float f[8];

    write_file(path, 0);
    T_ERR(fmt_h5_create(&w, path, 0, &err), err, Q_ECREATE, "exists; --force overwrites it");
    T_ERR(fmt_h5_create(&w, t_tmpdir(), 1, &err), err, Q_ECREATE, "is a directory");
    T_ERR(fmt_h5_open(&h, none, &err), err, Q_ENOINPUT, "none.h5");
    T_OK(q_out_whole(text, 1, "hello", 5, &err), err);
    T_ERR(fmt_h5_open(&h, text, &err), err, Q_EFORMAT, "not an HDF5 file");
    T_OK(fmt_h5_open(&h, path, &err), err);
    T_ERR(fmt_h5_read(h, "/a/b/f32", FMT_F32, 2, (int64_t[]){ 3, 2 }, f, &err), err, Q_ESHAPE,
          "'/a/b/f32': dimension 0 is 2, wanted 3");
    T_ERR(fmt_h5_read(h, "/a/b/f32", FMT_F32, 1, (int64_t[]){ 6 }, f, &err), err, Q_ESHAPE,
          "has 2 dimensions, wanted 1");
    T_ERR(fmt_h5_read(h, "/a/b/f32", FMT_F16, 2, (int64_t[]){ 2, 3 }, f, &err), err, Q_EFORMAT,
          "is float32, wanted float16");
    T_ERR(fmt_h5_read(h, "/a/b/f64", FMT_F64, 1, (int64_t[]){ 1 }, f, &err), err, Q_EFORMAT,
          "'/a/b/f64' is missing");
    T_ERR(fmt_h5_stat(h, "/a/b", &info, &err), err, Q_EFORMAT, "'/a/b': is no dataset");
    T_ERR(fmt_h5_stat(h, "/meta/config.json", &info, &err), err, Q_EFORMAT, "has a type");
    T_ERR(fmt_h5_get_str(h, "/", "format", small, sizeof small, &err), err, Q_EFORMAT,
          "has 4 bytes, at most 2");
    T_ERR(fmt_h5_get_int(h, "/", "format", &n, &err), err, Q_EFORMAT, "is not one number");
    T_ERR(fmt_h5_get_int(h, "/a", "m", &n, &err), err, Q_EFORMAT, "has no attribute 'm'");
    T_ERR(fmt_h5_each(h, "/i32", join, small, &err), err, Q_EFORMAT, "'/i32' is no group");
    fmt_h5_close(h);
    T_OK(fmt_h5_create(&w, none, 0, &err), err);
    T_ERR(fmt_h5_put(w, "/a//b", FMT_I8, 1, (int64_t[]){ 2 }, i8, &err), err, Q_EFORMAT,
          "'/a//b' is no name");
    T_ERR(fmt_h5_put(w, "/../b", FMT_I8, 1, (int64_t[]){ 2 }, i8, &err), err, Q_EFORMAT, "no name");
    T_OK(fmt_h5_put(w, "/b", FMT_I8, 1, (int64_t[]){ 2 }, i8, &err), err);
    T_ERR(fmt_h5_put(w, "/b", FMT_I8, 1, (int64_t[]){ 2 }, i8, &err), err, Q_EIO, "'/b'");
    fmt_h5w_close(w); /* without commit */
    T_INT(q_path_exists(none), 0);
    q_free(path);
    q_free(text);
    q_free(none);
}

static void t_cut_short(void)
{
    q_err err = { 0 };
    char *path = path_of("short.h5");
    q_buf b = { 0 };
    int whole;

    write_file(path, 0);
    T_OK(q_file_slurp(&b, path, 1 << 20, &err), err);
    for (size_t n = 0; n < b.size; n += 1 + n / 20) {
        q_status st;

        T_OK(q_out_whole(path, 1, b.data, n, &err), err);
        st = fmt_h5_verify(path, &whole, &err);
        if (st == Q_OK && whole)
            t_fail(__FILE__, __LINE__, "a file cut to %zu bytes passes", n);
        err = (q_err){ 0 };
    }
    q_buf_free(&b);
    q_free(path);
}

/* ---- large ones: hashed by a thread while they are written ----------------------------------- */

enum { WIDE = 1 << 18, LONG = 36 }; /* 36 MiB: three strips */

static q_status fill(void *self, int64_t r0, int64_t n, void *dst, q_err *err)
{
    (void)err;
    memcpy(dst, (const float *)self + r0 * WIDE, (size_t)n * WIDE * sizeof(float));
    return Q_OK;
}

static q_status fill_some(void *self, int64_t r0, int64_t n, void *dst, q_err *err)
{
    return r0 > 20 ? q_fail(err, Q_EIO, "row %d cannot be read", (int)r0)
                   : fill(self, r0, n, dst, err);
}

static void t_large(void)
{
    static const int64_t shape[] = { LONG, WIDE };
    q_err err = { 0 };
    char *path = path_of("large.h5"), hex[2][65] = { "", "" };
    float *v = q_calloc((size_t)LONG * WIDE, sizeof *v);
    fmt_h5w *w = NULL;
    int whole = 0;

    T_TRUE(v != NULL);
    for (size_t i = 0; v && i < (size_t)LONG * WIDE; i++)
        v[i] = (float)(i * 2654435761u % 1000003);
    for (int rows = 0; rows < 2; rows++) {
        T_OK(fmt_h5_create(&w, path, 1, &err), err);
        T_OK(rows ? fmt_h5_put_rows(w, "/x", FMT_F32, 2, shape, fill, v, &err)
                  : fmt_h5_put(w, "/x", FMT_F32, 2, shape, v, &err),
             err);
        T_OK(fmt_h5_put_root(w, hex[rows], &err), err);
        T_OK(fmt_h5_commit(w, &err), err);
        fmt_h5w_close(w);
        T_OK(fmt_h5_verify(path, &whole, &err), err);
        T_INT(whole, 1);
    }
    T_STR(hex[1], hex[0]);
    T_INT(remove(path), 0);
    T_OK(fmt_h5_create(&w, path, 1, &err), err);
    T_ERR(fmt_h5_put_rows(w, "/x", FMT_F32, 2, shape, fill_some, v, &err), err, Q_EIO,
          "cannot be read");
    fmt_h5w_close(w);
    T_INT(q_path_exists(path), 0);
    q_free(v);
    q_free(path);
}

static const t_case cases[] = { T(t_round_trip), T(t_same_bytes),
                                T(t_every_flip), T(t_damaged_is_not_absent),
                                T(t_rewritten),  T(t_two_runs),
                                T(t_refused),    T(t_cut_short),
                                T(t_large),      { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
