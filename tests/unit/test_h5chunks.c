/* Compressed datasets: what is written in chunks is read by the library and without it, has the
 * same hashes as what lies as it is, and a damaged chunk is named. */
#include <string.h>

#include "formats/base/q_file.h"
#include "formats/h5file.h"
#include "tests/t.h"

/* Shapes around the size of a chunk, 1 MiB, and types of every width. */
static const struct {
    const char *name;
    fmt_dtype dtype;
    int ndim;
    int64_t shape[3];
    size_t chunks; /* 0: stays contiguous */
} sets[] = {
    { "/few", FMT_F32, 1, { 1023 }, 0 },         { "/g/least", FMT_F32, 1, { 1024 }, 1 },
    { "/g/bytes", FMT_I8, 2, { 70001, 16 }, 2 }, { "/g/half", FMT_F16, 2, { 2000, 600 }, 3 },
    { "/g/bf16", FMT_BF16, 1, { 100001 }, 1 },   { "/g/words", FMT_I32, 3, { 9, 1000, 100 }, 5 },
    { "/wide", FMT_F32, 2, { 3, 300000 }, 3 },   { "/f64", FMT_F64, 1, { 131072 }, 1 },
    { "/none", FMT_F32, 2, { 0, 4096 }, 0 }
};
enum { N_SETS = sizeof sets / sizeof sets[0], MOST_BYTES = 9 * 1000 * 100 * 4 };

static size_t bytes_of(int i)
{
    size_t n = fmt_dtype_bytes(sets[i].dtype);

    for (int d = 0; d < sets[i].ndim; d++)
        n *= (size_t)sets[i].shape[d];
    return n;
}

static uint8_t *data_of(int i)
{
    uint8_t *v = q_malloc(MOST_BYTES);

    T_TRUE(v != NULL);
    for (size_t k = 0; k < MOST_BYTES; k++)
        v[k] = k % 3 ? (uint8_t)((k + (size_t)i) * 2654435761u >> 29) : 0;
    return v;
}

typedef struct row_source {
    const uint8_t *v;
    size_t row;
} row_source;

static q_status fill_row(void *self, int64_t r0, int64_t n, void *dst, q_err *err)
{
    const row_source *s = self;

    (void)err;
    memcpy(dst, s->v + (size_t)r0 * s->row, (size_t)n * s->row);
    return Q_OK;
}

static void write_sets(const char *path, int compress, int by_rows, char hex[65])
{
    q_err err = { 0 };
    fmt_h5w *w = NULL;

    T_OK(fmt_h5_create(&w, path, 1, &err), err);
    if (compress)
        fmt_h5_compress(w);
    for (int i = 0; i < N_SETS; i++) {
        uint8_t *v = data_of(i);
        row_source s = { v, sets[i].shape[0] ? bytes_of(i) / (size_t)sets[i].shape[0] : 0 };

        if (by_rows && s.row)
            T_OK(fmt_h5_put_rows(w, sets[i].name, sets[i].dtype, sets[i].ndim, sets[i].shape,
                                 fill_row, &s, &err),
                 err);
        else
            T_OK(fmt_h5_put(w, sets[i].name, sets[i].dtype, sets[i].ndim, sets[i].shape, v, &err),
                 err);
        q_free(v);
    }
    T_OK(fmt_h5_put_bytes(w, "/text", "{}\n", 3, &err), err);
    T_OK(fmt_h5_put_root(w, hex, &err), err);
    T_OK(fmt_h5_commit(w, &err), err);
    fmt_h5w_close(w);
}

/* Unpacked by the library, and here. */
static void check_sets(const char *path)
{
    q_err err = { 0 };
    fmt_h5 *h = NULL;
    q_file *f = NULL;
    uint8_t *got = q_malloc(MOST_BYTES), *chunk = q_malloc(FMT_CHUNK_MAX);

    T_TRUE(got && chunk);
    T_OK(fmt_h5_open(&h, path, &err), err);
    T_OK(q_file_open(&f, path, &err), err);
    for (int i = 0; i < N_SETS; i++) {
        uint8_t *v = data_of(i);
        size_t left = bytes_of(i);
        fmt_h5_chunks c = { 0 };

        memset(got, 0xee, MOST_BYTES);
        T_OK(fmt_h5_read(h, sets[i].name, sets[i].dtype, sets[i].ndim, sets[i].shape, got, &err),
             err);
        T_INT(memcmp(got, v, bytes_of(i)), 0);
        T_OK(fmt_h5_find_chunks(h, sets[i].name, &c, &err), err);
        T_INT(c.n, sets[i].chunks);
        for (size_t k = 0; k < c.n; k++) {
            const size_t n = left < c.form.bytes ? left : (size_t)c.form.bytes;

            T_OK(fmt_h5_read_chunk(chunk, f, sets[i].name, &c, k, &err), err);
            T_INT(memcmp(chunk, v + k * c.form.bytes, n), 0);
            left -= n;
        }
        T_INT(c.n ? left : 0, 0);
        q_free(c.v);
        q_free(v);
    }
    q_free(got);
    q_free(chunk);
    q_file_close(f);
    fmt_h5_close(h);
}

static void t_chunks(void)
{
    q_err err = { 0 };
    const char *path[3] = { t_tmp("c0.h5"), t_tmp("c1.h5"), t_tmp("c2.h5") };
    char hex[3][65];
    q_buf b[3] = { { 0 } };
    int whole = 0;

    for (int i = 0; i < 3; i++) {
        write_sets(path[i], i > 0, i > 1, hex[i]);
        T_STR(hex[i], hex[0]); /* of what is in it, however it lies */
        T_OK(fmt_h5_verify(path[i], &whole, &err), err);
        T_INT(whole, 1);
        T_OK(q_file_slurp(&b[i], path[i], 1 << 26, &err), err);
    }
    check_sets(path[1]);
    printf("# %zu bytes, in chunks %zu\n", b[0].size, b[1].size);
    T_TRUE(b[1].size < b[0].size / 2);
    T_INT(b[2].size, b[1].size);
    T_INT(memcmp(b[2].data, b[1].data, b[1].size), 0); /* at once or by rows */
    for (int i = 0; i < 3; i++)
        q_buf_free(&b[i]);
}

/* A chunk that was changed is named when it is read, and when the file is verified. */
static void t_damaged_chunk(void)
{
    q_err err = { 0 };
    const char *path = t_tmp("chunk.h5");
    char hex[65];
    uint8_t *chunk = q_malloc(FMT_CHUNK_MAX);
    fmt_h5 *h = NULL;
    q_file *f = NULL;
    fmt_h5_chunks c = { 0 };
    q_buf b = { 0 };
    int whole;

    write_sets(path, 1, 0, hex);
    T_OK(fmt_h5_open(&h, path, &err), err);
    T_OK(fmt_h5_find_chunks(h, "/g/words", &c, &err), err);
    fmt_h5_close(h);
    T_INT(c.n, 5);
    T_OK(q_file_slurp(&b, path, 1 << 26, &err), err);
    b.data[c.v[3].offset + 1000] ^= 4;
    T_OK(q_out_whole(path, 1, b.data, b.size, &err), err);
    T_ERR(fmt_h5_verify(path, &whole, &err), err, Q_EFORMAT,
          "'/g/words': chunk 3 is damaged: its checksum is");
    T_OK(q_file_open(&f, path, &err), err);
    T_OK(fmt_h5_read_chunk(chunk, f, "/g/words", &c, 2, &err), err);
    T_ERR(fmt_h5_read_chunk(chunk, f, "/g/words", &c, 3, &err), err, Q_EFORMAT,
          "chunk.h5: '/g/words': chunk 3 is damaged");
    T_OK(fmt_h5_check_chunks(path, "/x", &c, q_file_bytes(f), &err), err);
    T_ERR(fmt_h5_check_chunks(path, "/x", &c, c.v[4].offset + 10, &err), err, Q_EFORMAT,
          "'/x': chunk 4 has");
    for (size_t i = 1; i < c.n; i++) /* small ones that claim much, each of them all of the file */
        c.v[i] = (fmt_h5_chunk){ 0, b.size };
    T_ERR(fmt_h5_check_chunks(path, "/x", &c, b.size, &err), err, Q_EFORMAT, "'/x': chunk 1 has");
    q_free(c.v);
    q_free(chunk);
    q_buf_free(&b);
    q_file_close(f);
}

static const t_case cases[] = { T(t_chunks), T(t_damaged_chunk), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
