/* PyTorch archives: the golden file, archives with every header bent, storages that do not fit. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/q_file.h"
#include "formats/base/q_hash.h"
#include "formats/base/q_mem.h"
#include "formats/torch_zip.h"
#include "formats/zip_dir.h"
#include "tests/t.h"
#include "tests/t_pickle.h"

#define FILE_NAME "x.bin"

/* w [2, 3] and v [2] share storage 0, h [3] is all of storage 1 */
#define PICKLE                                                                                     \
    PK_DICT(PK_ITEM("w", PK_F32("0", "K\6", "K\0", PK_T2("K\2", "K\3"), PK_T2("K\3", "K\1")))      \
                PK_ITEM("v", PK_F32("0", "K\6", "K\4", PK_T1("K\2"), PK_T1("K\1")))                \
                    PK_ITEM("h", PK_TENSOR(PK_PERSID("HalfStorage", "1", "K\3"), "K\0",            \
                                           PK_T1("K\3"), PK_T1("K\1"))))

static const float floats[6] = { 1, 2, 3, 4, 5, 6 };
static const uint16_t halves[3] = { 0x3c00, 0x4000, 0x4200 };

enum { PKL, ORDER, DATA0, DATA1, ENTRIES };
static const t_entry good[ENTRIES] = { { "a/data.pkl", PICKLE, sizeof PICKLE - 1 },
                                       { "a/byteorder", "little", 6 },
                                       { "a/data/0", floats, sizeof floats },
                                       { "a/data/1", halves, sizeof halves } };

static fmt_tz *z;

static q_status open_it(const void *p, size_t n, q_err *err)
{
    char path[128];

    snprintf(path, sizeof path, "%s/%s", t_tmpdir(), FILE_NAME);
    T_OK(q_out_whole(path, 1, p, n, err), *err);
    fmt_tz_close(z);
    z = NULL;
    return fmt_tz_open(&z, t_tmpdir(), FILE_NAME, err);
}

static q_status open_entries(const t_entry *e, size_t n, q_err *err)
{
    t_zip zip = { 0 };
    q_status st;

    t_zip_build(&zip, e, n, 0);
    st = open_it(zip.b.data, zip.b.size, err);
    q_buf_free(&zip.b);
    return st;
}

static void t_reads(void)
{
    q_err err = { 0 };
    t_zip zip = { 0 };
    float v[6];
    uint16_t h[3];

    for (int big = 0; big < 3; big++) {
        const fmt_tensor *t;

        t_zip_build(&zip, good, ENTRIES, big);
        T_OK(open_it(zip.b.data, zip.b.size, &err), err);
        T_INT(fmt_tz_count(z), 3);
        T_STR(fmt_tz_at(z, 0)->name, "h"); /* by name, not in the order of the pickle */
        T_STR(fmt_tz_at(z, 1)->name, "v");
        T_STR(fmt_tz_at(z, 2)->name, "w");
        T_TRUE(!fmt_tz_at(z, 3) && !fmt_tz_find(z, "x") && !fmt_tz_find(z, ""));
        T_TRUE(strstr(fmt_tz_path(z), "/" FILE_NAME) != NULL);

        t = fmt_tz_find(z, "w");
        T_TRUE(t->dtype == FMT_F32 && t->ndim == 2 && t->shape[0] == 2 && t->shape[1] == 3);
        T_OK(fmt_tz_read(z, t, 0, sizeof v, v, &err), err);
        T_TRUE(memcmp(v, floats, sizeof v) == 0);
        T_INT(fmt_tz_find(z, "v")->offset, t->offset + 16);
        T_OK(fmt_tz_read(z, fmt_tz_find(z, "v"), 4, 4, v, &err), err);
        T_NEAR(v[0], 6, 0);
        t = fmt_tz_find(z, "h");
        T_OK(fmt_tz_read(z, t, 0, sizeof h, h, &err), err);
        T_TRUE(t->dtype == FMT_F16 && memcmp(h, halves, sizeof h) == 0);
        T_ERR(fmt_tz_read(z, t, 4, 3, h, &err), err, Q_ESHAPE,
              FILE_NAME ": 'h': 3 bytes from byte 4 wanted, it has 6");
        T_ERR(fmt_tz_read(z, t, 7, 0, h, &err), err, Q_ESHAPE, "it has 6");
    }
    q_buf_free(&zip.b);
}

static void t_golden(void)
{
    const char *path = T_SHARED("data/formats/torch-zip-pickle.pth");
    static float v[409600];
    const fmt_tensor *t;
    q_err err = { 0 };
    q_buf file = { 0 };
    q_sha256 hash;
    uint8_t digest[32];
    char hex[65];
    float min, max;

    T_OK(q_file_slurp(&file, path, 1 << 21, &err), err);
    T_OK(open_it(file.data, file.size, &err), err);
    T_INT(fmt_tz_count(z), 1);
    t = fmt_tz_at(z, 0);
    T_STR(t->name, "");
    T_TRUE(t->dtype == FMT_F32 && t->ndim == 2 && t->shape[0] == 1 && t->shape[1] == 409600);
    T_TRUE(t->offset == 448 && t->bytes == sizeof v);
    T_OK(fmt_tz_read(z, t, 0, sizeof v, v, &err), err);
    q_sha256_init(&hash);
    q_sha256_update(&hash, v, sizeof v);
    q_sha256_final(&hash, digest);
    q_hex(hex, digest, 32);
    T_STR(hex, "cb3fe9e83b464a16d9261a7cb22c2b3e442f9aba93439d9eebf366c7c91a3e77");
    min = max = v[0];
    for (size_t i = 1; i < 409600; i++) {
        min = v[i] < min ? v[i] : min;
        max = v[i] > max ? v[i] : max;
    }
    T_NEAR(min, -448.0, 0);
    T_NEAR(max, 348.88394, 1e-5);
    T_NEAR(v[0], 3.5832708, 1e-7);
    T_NEAR(v[1], -4.0542417, 1e-7);
    T_NEAR(v[409599], 36.1244125, 1e-6);

    for (size_t n = file.size - 1; n > 4; n -= n < 33000 ? n - 4 : 33000) /* T11: 50 cuts */
        T_ERR(open_it(file.data, n, &err), err, Q_EFORMAT,
              "download is incomplete, fetch it again");
    T_TRUE(z == NULL);
    q_buf_free(&file);
}

/* What lies at the place of a checkpoint and is none. */
static void t_not_an_archive(void)
{
    static const struct {
        const char *p;
        size_t n;
        const char *part;
    } rows[] = {
#define F(literal, part) { literal, sizeof(literal) - 1, part }
        F("", "0 bytes, a PyTorch checkpoint has more: download is incomplete"),
        F("PK\3", "3 bytes, a PyTorch checkpoint has more"),
        F("PK\3\4", "4 bytes, a zip archive has at least 22: download is incomplete"),
        F("PK\3\4..................", "does not end with the end record of a zip archive"),
        F("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
          "is a git-lfs pointer, not the data: run 'git lfs pull' in its directory"),
        F("\x80\x02\x8a\nl\xfc\x9c"
          "F\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\x01",
          "is in the format of PyTorch before 1.6, a row of pickles and no zip archive: load and"),
        F("\x80\x02}.", "begins with bytes 80 02 7d 2e, wanted a zip archive of torch.save"),
        F("<!DOCTYPE html>", "begins with bytes 3c 21 44 4f, wanted a zip archive"),
        F("PK\5\6\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "zip archive without a data.pkl"),
    };
    q_err err = { 0 };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        T_ERR(open_it(rows[i].p, rows[i].n, &err), err, Q_EFORMAT, rows[i].part);
        T_TRUE(z == NULL);
    }
    T_ERR(fmt_tz_open(&z, t_tmpdir(), "absent", &err), err, Q_ENOINPUT, "absent: cannot open");
    T_ERR(fmt_tz_open(&z, t_tmpdir(), "../x", &err), err, Q_EFORMAT, "leaves the directory");
}

/* ---- archives with one field changed -------------------------------------------------------- */

typedef enum where { LOCAL, RECORD, END, END64, LOCATOR } where;

/* `value` of `width` bytes at byte `at` of a header; big as in t_zip_build */
typedef struct poke {
    int big;
    where in;
    int entry, at, width;
    uint64_t value;
    const char *part; /* NULL: opens all the same */
} poke;

#define M64 UINT64_MAX

static const poke pokes[] = {
    /* signatures, entries that are encrypted or compressed */
    { 0, LOCAL, PKL, 0, 4, 0, "begins with bytes 00 00 00 00" },
    { 0, LOCAL, DATA0, 0, 4, 0, "'a/data/0': local header at byte" },
    { 0, RECORD, PKL, 0, 4, 0, "no record at byte 0 of the directory" },
    { 0, RECORD, PKL, 8, 2, 1, "entry 'a/data.pkl' is encrypted" },
    { 0, RECORD, DATA0, 8, 2, 0x40, "entry 'a/data/0' is encrypted" },
    { 0, RECORD, DATA0, 8, 2, 0x2000, "entry 'a/data/0' is encrypted" },
    { 0, RECORD, DATA0, 8, 2, 0x20, "'a/data/0' is compressed (method 0), stored entries only" },
    { 0, RECORD, DATA0, 10, 2, 8, "'a/data/0' is compressed (method 8), stored entries only" },
    { 0, RECORD, DATA0, 10, 2, 99, "'a/data/0' is compressed (method 99), stored entries only" },
    { 0, LOCAL, DATA0, 8, 2, 8, "'a/data/0': local header at byte" },
    { 0, LOCAL, DATA0, 6, 2, 1, "disagrees with the directory: refused" },
    /* sizes that lie: of a bomb, behind the end, below the local header's */
    { 0, RECORD, DATA0, 24, 4, 0xfffffffe, "'a/data/0' has 4294967294 bytes and 24 stored" },
    { 0, RECORD, DATA0, 20, 4, 23, "'a/data/0' has 24 bytes and 23 stored: refused" },
    { 0, LOCAL, DATA0, 18, 4, 23, "'a/data/0': name or size in the local header" },
    { 0, LOCAL, DATA0, 22, 4, 25, "'a/data/0': name or size in the local header" },
    { 0, LOCAL, DATA0, 14, 4, 0, "'a/data/0': name or size in the local header" },
    { 0, LOCAL, DATA0, 28, 2, 0xffff, "'a/data/0': local header at byte" },
    { 0, LOCAL, DATA0, 28, 2, 1,
      "'a/data/0' has 24 bytes, 23 are left to what comes behind it: they overlap" },
    { 0, LOCAL, DATA0, 26, 2, 9, "'a/data/0': local header at byte" },
    { 0, LOCAL, DATA0, 30, 1, 'b', "'a/data/0': name or size in the local header" },
    /* offsets */
    { 0, RECORD, DATA0, 42, 4, 0xfffffffe, "entry 'a/data/0' begins at byte 4294967294" },
    { 0, RECORD, DATA0, 42, 4, 0, "they overlap, refused" },
    { 0, RECORD, DATA0, 42, 4, 0xffffffff, "'a/data/0' has a damaged extra field" },
    { 0, RECORD, DATA0, 34, 2, 1, "entry 'a/data/0' is in another archive part" },
    { 0, RECORD, PKL, 16, 4, 0, "'a/data.pkl': name or size in the local header" },
    /* names: path tricks, control bytes, twice the same, of another length */
    { 0, RECORD, DATA0, 46, 3, 0x2f2e2e, "leaves the archive or has unprintable characters" },
    { 0, RECORD, DATA0, 46, 1, '/', "leaves the archive" },
    { 0, RECORD, DATA0, 47, 1, '\\', "leaves the archive" },
    { 0, RECORD, DATA0, 46, 1, 0, "leaves the archive" },
    { 0, RECORD, DATA0, 47, 1, ':', "leaves the archive" },
    { 0, RECORD, DATA0, 53, 1, '/', "leaves the archive" },
    { 0, RECORD, DATA0, 52, 2, 0x2e2f, "leaves the archive" },
    { 0, RECORD, DATA0, 28, 2, 0, "leaves the archive" },
    { 0, RECORD, DATA0, 28, 2, 0xffff, "leaves the directory: file is damaged" },
    { 0, RECORD, DATA1, 30, 2, 1, "leaves the directory: file is damaged" },
    /* end record */
    { 0, END, 0, 0, 4, 0, "does not end with the end record of a zip archive" },
    { 0, END, 0, 20, 2, 1, "does not end with the end record of a zip archive" },
    { 0, END, 0, 4, 2, 1, "one of several archive parts" },
    { 0, END, 0, 6, 2, 1, "one of several archive parts" },
    { 0, END, 0, 8, 2, 3, "one of several archive parts" },
    { 0, END, 0, 8, 4, 0x00030003, "bytes of the directory belong to no entry: refused" },
    { 0, END, 0, 8, 4, 0x00050005, "5 entries do not fit into a directory of" },
    { 0, END, 0, 8, 4, 0xfffefffe, "65534 entries do not fit into a directory of" },
    { 0, END, 0, 12, 4, 0xffffffff, "directory of 4294967295 bytes, at most" },
    { 0, END, 0, 12, 4, 1, "directory of 1 bytes at byte" },
    { 0, END, 0, 12, 4, 99999999, "directory of 99999999 bytes at byte" },
    { 0, END, 0, 16, 4, 0, "at byte 0 does not end at byte" },
    /* zip64 that lies */
    { 1, LOCATOR, 0, 0, 4, 0, "does not end at byte" },
    { 1, LOCATOR, 0, 4, 4, 1, "one of several archive parts" },
    { 1, LOCATOR, 0, 16, 4, 2, "one of several archive parts" },
    { 1, LOCATOR, 0, 8, 8, 0, "zip64 end record is not at byte" },
    { 1, LOCATOR, 0, 8, 8, M64, "zip64 end record is not at byte" },
    { 1, END64, 0, 0, 4, 0, "zip64 end record is not at byte" },
    { 1, END64, 0, 4, 8, 45, "zip64 end record is not at byte" },
    { 1, END64, 0, 4, 8, M64, "zip64 end record is not at byte" },
    { 1, END64, 0, 16, 4, 1, "zip64 end record and end record disagree" },
    { 1, END64, 0, 24, 8, 5, "zip64 end record and end record disagree" },
    { 1, END64, 0, 40, 8, M64, "zip64 end record and end record disagree" },
    { 1, END64, 0, 48, 8, 0, "zip64 end record and end record disagree" },
    { 2, END64, 0, 32, 8, M64, "one of several archive parts" },
    { 2, END64, 0, 40, 8, M64, "directory of 18446744073709551615 bytes, at most" },
    { 2, END64, 0, 48, 8, M64, "at byte 18446744073709551615 does not end at byte" },
    { 2, RECORD, DATA0, 46 + 8 + 4, 8, M64, "has 18446744073709551615 bytes and 24 stored" },
    { 2, RECORD, DATA0, 46 + 8 + 12, 8, M64, "24 bytes and 18446744073709551615 stored" },
    { 2, RECORD, DATA0, 46 + 8 + 20, 8, M64, "begins at byte 18446744073709551615" },
    { 2, RECORD, DATA0, 46 + 8 + 2, 2, 16, "'a/data/0' has a damaged extra field" },
    { 2, RECORD, DATA0, 46 + 8 + 2, 2, 25, "'a/data/0' has a damaged extra field" },
    { 2, RECORD, DATA0, 46 + 8, 2, 2, "'a/data/0' has a damaged extra field" },
    { 2, LOCAL, DATA0, 30 + 8 + 4, 8, M64, "'a/data/0': name or size in the local header" },
    { 2, LOCAL, DATA0, 30 + 8, 2, 2, "'a/data/0': name or size in the local header" },
    /* what may differ: times, versions, attributes, descriptors */
    { 0, RECORD, DATA0, 12, 4, 0x12345678, NULL },
    { 0, LOCAL, DATA0, 4, 2, 0xffff, NULL },
    { 0, RECORD, DATA0, 38, 4, 0xffffffff, NULL },
    { 0, RECORD, DATA0, 36, 2, 1, NULL },
};

static void t_bent_headers(void)
{
    t_zip zip = { 0 };
    q_err err = { 0 };

    for (size_t i = 0; i < sizeof pokes / sizeof pokes[0]; i++) {
        const poke *p = &pokes[i];
        q_status st;
        size_t at;

        t_zip_build(&zip, good, ENTRIES, p->big);
        at = p->in == LOCAL    ? zip.local[p->entry]
             : p->in == RECORD ? zip.record[p->entry]
             : p->in == END    ? zip.end
             : p->in == END64  ? zip.end64
                               : zip.locator;
        t_poke(&zip.b, at + (size_t)p->at, p->value, (size_t)p->width);
        st = open_it(zip.b.data, zip.b.size, &err);
        if (st != (p->part ? Q_EFORMAT : Q_OK) || q_exit_code(st) != (p->part ? 65 : 0) ||
            (p->part && !strstr(err.msg, p->part)))
            t_fail(__FILE__, __LINE__, "row %zu: %s \"%s\", wanted \"%s\"", i, q_status_name(st),
                   err.msg, p->part ? p->part : "ok");
        err = (q_err){ 0 };
    }
    q_buf_free(&zip.b);
}

/* sizes behind the data (flag bit 3), as PyTorch writes them */
static void t_descriptors(void)
{
    t_zip zip = { 0 };
    q_err err = { 0 };

    t_zip_build(&zip, good, ENTRIES, 0);
    t_poke(&zip.b, zip.local[DATA0] + 6, 8, 2);
    t_poke(&zip.b, zip.record[DATA0] + 8, 8, 2);
    t_poke(&zip.b, zip.local[DATA0] + 14, 0, 12);
    T_OK(open_it(zip.b.data, zip.b.size, &err), err);
    t_poke(&zip.b, zip.local[DATA0] + 18, M64, 8);
    T_OK(open_it(zip.b.data, zip.b.size, &err), err);
    t_poke(&zip.b, zip.local[DATA0] + 18, 23, 4);
    T_ERR(open_it(zip.b.data, zip.b.size, &err), err, Q_EFORMAT, "size in the local header");
    q_buf_free(&zip.b);
}

/* One storage read as two: the second entry lies inside the first (a bomb of small files does it a
 * thousand times). */
static void t_overlap(void)
{
    q_err err = { 0 };
    t_zip inner = { 0 }, zip = { 0 };
    const t_entry hidden[] = { { "a/data/1", halves, sizeof halves } };
    t_entry e[ENTRIES];

    t_zip_build(&inner, hidden, 1, 0);
    memcpy(e, good, sizeof e);
    e[DATA0] = (t_entry){ "a/data/0", inner.b.data, inner.b.size };
    t_zip_build(&zip, e, ENTRIES, 0);
    t_poke(&zip.b, zip.record[DATA1] + 42, zip.local[DATA0] + 30 + 8, 4);
    T_ERR(open_it(zip.b.data, zip.b.size, &err), err, Q_EFORMAT,
          "entry 'a/data/0' has 120 bytes, 0 are left to what comes behind it: they overlap");
    t_poke(&zip.b, zip.record[DATA1] + 42, zip.local[DATA0], 4); /* the very same one */
    T_ERR(open_it(zip.b.data, zip.b.size, &err), err, Q_EFORMAT, "they overlap, refused");
    q_buf_free(&inner.b);
    q_buf_free(&zip.b);
}

/* ---- entries -------------------------------------------------------------------------------- */

static void t_entries(void)
{
    t_entry e[ENTRIES + 1];
    q_err err = { 0 };
    t_zip zip = { 0 };

#define WITH(i, ...) memcpy(e, good, sizeof good), e[i] = (t_entry){ __VA_ARGS__ }
    WITH(ENTRIES, "a/version", "3\n", 2);
    T_OK(open_entries(e, ENTRIES + 1, &err), err);
    WITH(ENTRIES, "a/data/0", "x", 1);
    T_ERR(open_entries(e, ENTRIES + 1, &err), err, Q_EFORMAT, "entry 'a/data/0' is there twice");
    WITH(ENTRIES, "b/data.pkl", "x", 1);
    T_ERR(open_entries(e, ENTRIES + 1, &err), err, Q_EFORMAT, "has 'a/data.pkl' and 'b/data.pkl'");
    WITH(ENTRIES, "a/b/data.pkl", "x", 1); /* one level deeper: nothing to do with it */
    T_OK(open_entries(e, ENTRIES + 1, &err), err);
    WITH(PKL, "data.pkl", "x", 1);
    T_ERR(open_entries(e, ENTRIES, &err), err, Q_EFORMAT, "zip archive without a data.pkl");
    WITH(PKL, "a/data.pkl", "", 0);
    T_ERR(open_entries(e, ENTRIES, &err), err, Q_EFORMAT, "'a/data.pkl' has 0 bytes, from 1 to");
    WITH(ORDER, "a/byteorder", "big", 3);
    T_ERR(open_entries(e, ENTRIES, &err), err, Q_EFORMAT, "byte order is not 'little'");
    WITH(ORDER, "a/byteorder", "tittle", 6);
    T_ERR(open_entries(e, ENTRIES, &err), err, Q_EFORMAT, "byte order is not 'little'");
    WITH(ORDER, "a/other", "", 0); /* before 2.1: no such entry */
    T_OK(open_entries(e, ENTRIES, &err), err);
    WITH(DATA0, "b/data/0", floats, sizeof floats);
    T_ERR(open_entries(e, ENTRIES, &err), err, Q_EFORMAT,
          "'w' is in entry data/0, which is not there");
    WITH(DATA0, "a/data/0", floats, 20);
    T_ERR(open_entries(e, ENTRIES, &err), err, Q_EFORMAT,
          "'w' is in entry data/0 of 20 bytes, wanted 24: file is damaged");
    WITH(DATA1, "a/data/1", floats, 8);
    T_ERR(open_entries(e, ENTRIES, &err), err, Q_EFORMAT, "entry data/1 of 8 bytes, wanted 6");
    WITH(PKL, "a/data.pkl", PK_DICT(""), sizeof PK_DICT("") - 1); /* no tensors */
    T_OK(open_entries(e, ENTRIES, &err), err);
    T_INT(fmt_tz_count(z), 0);
    T_TRUE(fmt_tz_find(z, "w") == NULL);

    /* a pickle with a wrong byte: its CRC says so before it is looked at */
    t_zip_build(&zip, good, ENTRIES, 0);
    zip.b.data[zip.local[PKL] + 30 + strlen("a/data.pkl") + 20] ^= 1;
    T_ERR(open_it(zip.b.data, zip.b.size, &err), err, Q_EFORMAT, "'a/data.pkl' has CRC ");
    q_buf_free(&zip.b);
}

/* A hole of 65 MiB where the pickle should be: refused by its size, never read. */
static void t_large_pickle(void)
{
    static const size_t bytes = ((size_t)64 << 20) + 1;
    char path[128];
    q_err err = { 0 };
    t_zip zip = { 0 };
    int fd;

    t_zip_build(&zip, (t_entry[]){ { "a/data.pkl", "", 0 } }, 1, 0);
    t_poke(&zip.b, zip.local[0] + 18, (uint64_t)bytes << 32 | bytes, 8);
    t_poke(&zip.b, zip.record[0] + 20, (uint64_t)bytes << 32 | bytes, 8);
    t_poke(&zip.b, zip.end + 16, zip.record[0] + bytes, 4);
    snprintf(path, sizeof path, "%s/" FILE_NAME, t_tmpdir());
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    T_TRUE(fd >= 0);
    T_INT(pwrite(fd, zip.b.data, zip.record[0], 0), zip.record[0]);
    T_INT(pwrite(fd, zip.b.data + zip.record[0], zip.b.size - zip.record[0],
                 (off_t)(zip.record[0] + bytes)),
          zip.b.size - zip.record[0]);
    close(fd);
    T_ERR(fmt_tz_open(&z, t_tmpdir(), FILE_NAME, &err), err, Q_EFORMAT,
          "'a/data.pkl' has 67108865 bytes, from 1 to 67108864 are read");
    T_INT(unlink(path), 0);
    q_buf_free(&zip.b);
}

/* the directory by itself: names sorted, found, and read with their CRC */
static void t_zip_dir(void)
{
    static const char *const names[] = { "a/byteorder", "a/data.pkl", "a/data/0", "a/data/1" };
    char path[128], buf[sizeof PICKLE];
    q_err err = { 0 };
    q_file *f = NULL;
    fmt_zip *zip = NULL;

    T_OK(open_entries(good, ENTRIES, &err), err);
    snprintf(path, sizeof path, "%s/" FILE_NAME, t_tmpdir());
    T_OK(q_file_open(&f, path, &err), err);
    T_OK(fmt_zip_open(&zip, f, &err), err);
    T_INT(fmt_zip_count(zip), ENTRIES);
    for (size_t i = 0; i < ENTRIES; i++) {
        T_STR(fmt_zip_at(zip, i)->name, names[i]);
        T_TRUE(fmt_zip_find(zip, names[i]) == fmt_zip_at(zip, i));
    }
    T_TRUE(!fmt_zip_at(zip, ENTRIES) && !fmt_zip_find(zip, "a/data") && !fmt_zip_find(zip, ""));
    T_OK(fmt_zip_read(zip, fmt_zip_find(zip, "a/data.pkl"), buf, &err), err);
    T_TRUE(memcmp(buf, PICKLE, sizeof PICKLE - 1) == 0);
    fmt_zip_close(zip);
    q_file_close(f);
}

static const t_case cases[] = {
    T(t_reads),   T(t_golden),  T(t_not_an_archive), T(t_bent_headers), T(t_descriptors),
    T(t_overlap), T(t_entries), T(t_large_pickle),   T(t_zip_dir),      { 0 }
};

int main(int argc, char **argv)
{
    const int rc = t_main(argc, argv, cases);

    fmt_tz_close(z);
    return rc;
}
