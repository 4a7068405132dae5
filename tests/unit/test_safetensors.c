/* safetensors: golden files, tables of damaged files with status and message, the writer. */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/q_file.h"
#include "formats/base/q_mem.h"
#include "formats/safetensors.h"
#include "tests/t.h"

#define FILE_NAME "x.safetensors"

static const char *file_path(void)
{
    static char path[128];

    snprintf(path, sizeof path, "%s/%s", t_tmpdir(), FILE_NAME);
    return path;
}

/* A file of u64 length, header text and `data` zero bytes (a hole, so any size is cheap). */
static void put(uint64_t length, const char *header, size_t n, uint64_t data)
{
    uint8_t head[8];
    const int fd = open(file_path(), O_WRONLY | O_CREAT | O_TRUNC, 0600);

    for (int i = 0; i < 8; i++)
        head[i] = (uint8_t)(length >> 8 * i);
    T_TRUE(fd >= 0);
    T_INT(write(fd, head, 8), 8);
    T_INT(write(fd, header, n), n);
    T_INT(ftruncate(fd, (off_t)(8 + n + data)), 0);
    close(fd);
}

static q_status open_it(fmt_st **s, q_err *err)
{
    *s = NULL;
    return fmt_st_open(s, t_tmpdir(), FILE_NAME, err);
}

typedef struct row {
    const char *header;
    uint64_t data;
    q_status status;
    const char *part;
} row;

static void run(const row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        q_err err = { 0 };
        fmt_st *s;

        put(strlen(rows[i].header), rows[i].header, strlen(rows[i].header), rows[i].data);
        if (rows[i].status == Q_OK) {
            T_OK(open_it(&s, &err), err);
        } else {
            T_ERR(open_it(&s, &err), err, rows[i].status, rows[i].part);
            T_TRUE(s == NULL);
            T_INT(q_exit_code(rows[i].status), 65);
        }
        fmt_st_close(s);
    }
}

#define E(dtype, shape, offsets)                                                                   \
    "\"w\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define ONE(dtype, shape, offsets) "{" E(dtype, shape, offsets) "}"

/* T8: sizes that overflow, wrap or are no whole numbers; each names the tensor */
static void t_overflow(void)
{
    static const row rows[] = {
        { ONE("F32", "[2147483648]", "[0,4]"), 4, Q_ESHAPE,
          "'w': data_offsets span 4 bytes, its shape in F32 takes 8589934592" },
        { ONE("U8", "[4294967296]", "[0,4294967296]"), 4, Q_EFORMAT,
          "'w' ends at byte 4294967375, file has 83: download is incomplete, fetch it again" },
        { ONE("I8", "[9223372036854775807]", "[0,9223372036854775807]"), 4, Q_EFORMAT, "'w' ends" },
        { ONE("F16", "[9223372036854775807]", "[0,4]"), 4, Q_ESHAPE, "takes 18446744073709551614" },
        { ONE("F32", "[9223372036854775807]", "[0,4]"), 4, Q_ESHAPE,
          "'w': the product of its shape exceeds 64 bits" },
        { ONE("F32", "[9223372036854775808]", "[0,4]"), 4, Q_EFORMAT, "'w': line 1" },
        { ONE("F32", "[18446744073709551615]", "[0,4]"), 4, Q_EFORMAT, "too big integer" },
        { ONE("F32", "[-1]", "[0,4]"), 4, Q_EFORMAT, "'w': shape[0] is not a whole number >= 0" },
        { ONE("F32", "[0]", "[0,4]"), 4, Q_ESHAPE, "'w': data_offsets span 4 bytes" },
        { ONE("F32", "[1e308]", "[0,4]"), 4, Q_EFORMAT, "'w': shape[0] is not a whole number" },
        { ONE("F32", "[1e999]", "[0,4]"), 4, Q_EFORMAT, "'w': line 1" },
        { ONE("F32", "[1.0]", "[0,4]"), 4, Q_EFORMAT, "'w': shape[0] is not a whole number" },
        { ONE("F32", "[\"1\"]", "[0,4]"), 4, Q_EFORMAT, "'w': shape[0] is not a whole number" },
        { ONE("F32", "[1,null]", "[0,4]"), 4, Q_EFORMAT, "'w': shape[1] is not a whole number" },
        /* 2^32 * 2^32 = 2^64 wraps to 0; 2^62 * 4 bytes wraps too; 2^61 + 1 words wrap to 4 bytes
         */
        { ONE("I8", "[4294967296,4294967296]", "[0,0]"), 0, Q_ESHAPE, "'w': the product" },
        { ONE("F32", "[4611686018427387904]", "[0,0]"), 0, Q_ESHAPE, "'w': the product" },
        { ONE("F64", "[2305843009213693953]", "[0,8]"), 8, Q_ESHAPE, "'w': the product" },
        { ONE("I8", "[4294967296,4294967296,0]", "[0,0]"), 0, Q_ESHAPE, "'w': the product" },
        { ONE("F32", "[1]", "[-4,0]"), 4, Q_EFORMAT, "'w': data_offsets[0] is not a whole" },
        { ONE("F32", "[1]", "[0,-1]"), 4, Q_EFORMAT, "'w': data_offsets[1] is not a whole" },
        { ONE("F32", "[1]", "[0,4.0]"), 4, Q_EFORMAT, "'w': data_offsets[1] is not a whole" },
        { ONE("F32", "[1]", "[8,4]"), 4, Q_EFORMAT, "'w': data_offsets [8, 4] run backwards" },
        { ONE("F32", "[1]", "[0,18446744073709551620]"), 4, Q_EFORMAT, "'w': line 1" },
        { ONE("F32", "[1]", "[9223372036854775803,9223372036854775807]"), 4, Q_EFORMAT,
          "belong to no tensor (before 'w')" },
        { ONE("F32", "[0,9223372036854775807,9223372036854775807]", "[0,0]"), 0, Q_OK, "" },
    };

    run(rows, sizeof rows / sizeof rows[0]);
}

/* T9: headers that are no header */
static void t_headers(void)
{
    static const row rows[] = {
        { "{}", 0, Q_OK, "" },
        { "{} \t\r\n ", 0, Q_OK, "" },
        { "{\r\n  \"__metadata__\" : null ,\r\n " E("I8", "[ 2 ]", "[0 , 2]") "\r\n}\r\n", 2, Q_OK,
          "" },
        { "{\"__metadata__\":{\"format\":\"pt\"}}", 0, Q_OK, "" },
        { "{" E("I8", "[]", "[0,1]") "}", 1, Q_OK, "" },
        { ONE("I8", "[1,1,1,1,1,1,1,2]", "[0,2]"), 2, Q_OK, "" },
        { "{\"w\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1],\"note\":[{}]}}", 1, Q_OK,
          "" },
        { " {}", 0, Q_EFORMAT, "header begins with byte 0x20, wanted '{'" },
        { "\xef\xbb\xbf{}", 0, Q_EFORMAT, "header begins with byte 0xef, wanted '{'" },
        { "[]", 0, Q_EFORMAT, "header begins with byte 0x5b" },
        { "{", 0, Q_EFORMAT, "header of 1 bytes, the smallest is '{}'" },
        { "{ ", 0, Q_EFORMAT, "header ends at byte 2, wanted the quote of a name" },
        { "{}x", 0, Q_EFORMAT, "header byte 2 is 0x78, wanted blanks up to the data" },
        { "{,}", 0, Q_EFORMAT, "header byte 1 is 0x2c, wanted the quote of a name" },
        { "{\"w", 0, Q_EFORMAT, "wanted the end of a string" },
        { "{\"w\\", 0, Q_EFORMAT, "wanted the end of a string" },
        { "{\"w\"}", 0, Q_EFORMAT, "header byte 4 is 0x7d, wanted ':'" },
        { "{\"w\":}", 0, Q_EFORMAT, "'w': line 1 column 0" },
        { "{\"w\":{\"a\":[", 0, Q_EFORMAT, "wanted the end of a value" },
        { "{\"w\":\"}", 0, Q_EFORMAT, "wanted the end of a string" },
        { ONE("I8", "[1]", "[0,1]") ",", 1, Q_EFORMAT, "wanted blanks up to the data" },
        { "{" E("I8", "[1]", "[0,1]") ",}", 1, Q_EFORMAT, "wanted the quote of a name" },
        { "{" E("I8", "[1]", "[0,1]") "]", 1, Q_EFORMAT, "is 0x5d, wanted ',' or '}'" },
        { "{" E("I8", "[1]", "[0,1]") " x}", 1, Q_EFORMAT, "'w': line 1" },
        { "{\"w\":null}", 0, Q_EFORMAT, "'w': the entry is not an object" },
        { "{\"w\":{}}", 0, Q_EFORMAT, "'w': dtype is missing" },
        { "{\"w\":{\"dtype\":1}}", 0, Q_EFORMAT, "'w': dtype is not a string" },
        { ONE("F8_E4M3", "[1]", "[0,1]"), 1, Q_EFORMAT, "'w': dtype 'F8_E4M3' is unknown here" },
        { ONE("f16", "[1]", "[0,2]"), 2, Q_EFORMAT, "'w': dtype 'f16' is unknown here" },
        { "{\"w\":{\"dtype\":\"I8\"}}", 0, Q_EFORMAT, "'w': shape is missing" },
        { ONE("I8", "{}", "[0,1]"), 1, Q_EFORMAT, "'w': shape is not a list" },
        { ONE("I8", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1, Q_EFORMAT,
          "'w': 9 dimensions, at most 8 are read" },
        { "{\"w\":{\"dtype\":\"I8\",\"shape\":[1]}}", 1, Q_EFORMAT, "data_offsets is missing" },
        { ONE("I8", "[1]", "1"), 1, Q_EFORMAT, "'w': data_offsets is not a list" },
        { ONE("I8", "[1]", "[0]"), 1, Q_EFORMAT, "'w': data_offsets has 1 numbers, wanted 2" },
        { ONE("I8", "[1]", "[0,1,2]"), 1, Q_EFORMAT, "'w': data_offsets has 3 numbers, wanted 2" },
        { "{" E("I8", "[1]", "[0,1]") "," E("I8", "[1]", "[1,2]") "}", 2, Q_EFORMAT,
          "'w' appears twice in the header" },
        { "{\"\\u0077\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}," E("I8", "[1]",
                                                                                    "[1,2]") "}",
          2, Q_EFORMAT, "'w' appears twice in the header" },
        { "{\"w\":{\"dtype\":\"I8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
          Q_EFORMAT, "'w': line 1 column 21: duplicate object key" },
        { "{\"__metadata__\":{},\"__metadata__\":{}}", 0, Q_EFORMAT,
          "'__metadata__' appears twice in the header" },
        { "{\"__metadata__\":[]}", 0, Q_EFORMAT, "'__metadata__': wanted an object of strings" },
        { "{\"__metadata__\":{\"n\":1}}", 0, Q_EFORMAT, "'__metadata__': 'n' is not a string" },
        { "{\"__metadata__\":{\"a\":\"\",\"a\":\"\"}}", 0, Q_EFORMAT, "duplicate object key" },
        { "{\"a\\u0000b\":{}}", 0, Q_EFORMAT, "the name at header byte 1: line 1 column" },
        { "{\"a\xff\":{}}", 0, Q_EFORMAT, "the name at header byte 1: line 1 column" },
        { "{\"a\\x\":{}}", 0, Q_EFORMAT, "the name at header byte 1: line 1 column" },
        { "{\"a\nb\":{}}", 0, Q_EFORMAT, "the name at header byte 1: line 1 column" },
    };

    run(rows, sizeof rows / sizeof rows[0]);
}

#define AT(name, offsets)                                                                          \
    "\"" name "\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" offsets "}"
#define EMPTY_AT(name, offsets)                                                                    \
    "\"" name "\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":" offsets "}"

/* T9: ranges that do not tile the data */
static void t_layout(void)
{
    static const row rows[] = {
        { "{" AT("b", "[4,8]") "," AT("a", "[0,4]") "}", 8, Q_OK, "" },
        { "{" AT("a", "[0,4]") "," EMPTY_AT("e", "[4,4]") "," AT("b", "[4,8]") "}", 8, Q_OK, "" },
        { "{" AT("a", "[0,4]") "," EMPTY_AT("e", "[4,4]") "}", 4, Q_OK, "" },
        { "{" AT("a", "[0,4]") "," EMPTY_AT("e", "[2,2]") "}", 4, Q_EFORMAT, "overlaps 'a'" },
        { "{" AT("a", "[4,8]") "}", 8, Q_EFORMAT,
          "bytes 61 to 65 belong to no tensor (before 'a')" },
        { "{" AT("a", "[0,4]") "," AT("b", "[5,9]") "}", 9, Q_EFORMAT,
          "bytes 117 to 118 belong to no tensor (before 'b')" },
        { "{" AT("a", "[0,4]") "," AT("b", "[3,7]") "}", 7, Q_EFORMAT,
          "'b' at byte 116 overlaps 'a'" },
        { "{" AT("a", "[0,4]") "," AT("b", "[0,4]") "}", 4, Q_EFORMAT,
          "'b' at byte 113 overlaps 'a'" },
        { "{" AT("a", "[0,4]") "}", 3, Q_EFORMAT, "'a' ends at byte 65, file has 64: download" },
        { "{" AT("a", "[0,4]") "}", 0, Q_EFORMAT, "'a' ends at byte 65, file has 61: download" },
        { "{" AT("a", "[0,4]") "}", 5, Q_EFORMAT,
          "1 bytes behind the last tensor, which ends at byte 65: file is damaged" },
        { "{}", 1, Q_EFORMAT, "1 bytes behind the last tensor" },
    };

    run(rows, sizeof rows / sizeof rows[0]);
}

/* the length word against file and limit: nothing is allocated for it */
static void t_header_length(void)
{
    static const struct {
        uint64_t length, data;
        const char *part;
    } rows[] = {
        { 0, 0, "header of 0 bytes, the smallest is '{}'" },
        { 1, 0, "header of 1 bytes" },
        { 3, 0, "header ends at byte 11, file has 10: download is incomplete, fetch it again" },
        { 100000000, 0, "header ends at byte 100000008, file has 10: download is incomplete" },
        { 100000001, 0, "header of 100000001 bytes, at most 100000000 are read" },
        { 100000001, 100000001, "header of 100000001 bytes, at most 100000000 are read" },
        { UINT64_MAX, 0, "header of 18446744073709551615 bytes, at most 100000000 are read" },
        { UINT64_MAX - 7, 100, "header of 18446744073709551608 bytes" },
    };
    q_err err = { 0 };
    fmt_st *s;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        put(rows[i].length, "{}", 2, rows[i].data);
        T_ERR(open_it(&s, &err), err, Q_EFORMAT, rows[i].part);
    }
    put(100000000, "{", 1,
        99999999); /* the largest that is read: zeros, and a message about them */
    T_ERR(open_it(&s, &err), err, Q_EFORMAT, "header byte 1 is 0x00, wanted the quote of a name");
}

/* names, entries and metadata that are too large, too deep or too many */
static void t_large(void)
{
    static const char entry[] = "{\"dtype\":\"I8\",\"shape\":[],\"data_offsets\":[";
    q_err err = { 0 };
    q_buf b = { 0 };
    fmt_st *s;
    const size_t big = 10u << 20;
    char *blob = q_malloc(big + 1);

    T_TRUE(blob != NULL);
    memset(blob, 'n', big);
    blob[big] = '\0';
    T_OK(q_buf_printf(&b, &err, "{\"%s\":{}}", blob), err); /* 10 MB name */
    put(b.size, b.data, b.size, 0);
    T_ERR(open_it(&s, &err), err, Q_EFORMAT, "a tensor name of 10485760 bytes, at most 512");
    q_buf_clear(&b);
    T_OK(q_buf_printf(&b, &err, "{\"%.513s\":%s0,1]}}", blob, entry), err);
    put(b.size, b.data, b.size, 1);
    T_ERR(open_it(&s, &err), err, Q_EFORMAT, "a tensor name of 513 bytes, at most 512");
    q_buf_clear(&b);
    T_OK(q_buf_printf(&b, &err, "{\"%.512s\":%s0,1]}}", blob, entry), err);
    put(b.size, b.data, b.size, 1);
    T_OK(open_it(&s, &err), err);
    T_INT(strlen(fmt_st_at(s, 0)->name), 512);
    fmt_st_close(s);

    memset(blob, '[', big); /* depth: within the size of an entry, and beyond */
    q_buf_clear(&b);
    T_OK(q_buf_printf(&b, &err, "{\"w\":{\"a\":%.4000s}", blob), err);
    put(b.size, b.data, b.size, 0);
    T_ERR(open_it(&s, &err), err, Q_EFORMAT, "wanted the end of a value");
    memset(blob + 4000, ']', 4000);
    q_buf_clear(&b);
    T_OK(q_buf_printf(&b, &err, "{\"w\":{\"a\":%.8000s}}", blob), err);
    put(b.size, b.data, b.size, 0);
    T_ERR(open_it(&s, &err), err, Q_EFORMAT, "'w': line 1 column");
    memset(blob, ' ', big);
    q_buf_clear(&b);
    T_OK(q_buf_printf(&b, &err, "{\"w\":{\"dtype\":%.70000s\"I8\"}}", blob), err);
    put(b.size, b.data, b.size, 0);
    T_ERR(open_it(&s, &err), err, Q_EFORMAT, "'w': an entry of 70014 bytes, at most 65536");
    q_buf_clear(&b);
    T_OK(q_buf_printf(&b, &err, "{\"__metadata__\":{%s%s}}", blob, blob), err);
    put(b.size, b.data, b.size, 0);
    T_ERR(open_it(&s, &err), err, Q_EFORMAT, "'__metadata__': 20971522 bytes, at most 16777216");
    q_buf_free(&b);
    q_free(blob);
}

static void t_too_many(void)
{
    q_err err = { 0 };
    q_buf b = { 0 };
    fmt_st *s;

    T_OK(q_buf_puts(&b, "{", &err), err);
    for (int i = 0; i <= 1000000; i++)
        T_OK(q_buf_printf(&b, &err,
                          "%s\"%d\":{\"dtype\":\"I8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                          i ? "," : "", i),
             err);
    T_OK(q_buf_puts(&b, "}", &err), err);
    put(b.size, b.data, b.size, 0);
    T_ERR(open_it(&s, &err), err, Q_EFORMAT, "more than 1000000 tensors");
    q_buf_free(&b);
}

/* T11: a real file cut at 50 places, and what stands in for one */
static void t_truncated(void)
{
    q_err err = { 0 };
    q_buf b = { 0 };
    fmt_st *s;
    size_t full;

    T_OK(q_file_slurp(&b, T_SHARED("data/formats/lora-adapters.safetensors"), 1 << 20, &err), err);
    full = b.size;
    T_OK(q_out_whole(file_path(), 1, b.data, b.size, &err), err);
    q_buf_free(&b);
    T_OK(open_it(&s, &err), err);
    fmt_st_close(s);
    for (int i = 49; i >= 0; i--) {
        static const size_t low[] = { 0, 1, 7, 8, 9, 23, 24, 100, 871, 872, 873, 874 };
        const size_t at = i < 12 ? low[i] : 874 + (full - 874) * (size_t)(i - 11) / 39;
        const size_t cut = at < full ? at : full - 1;

        T_INT(truncate(file_path(), (off_t)cut), 0);
        T_ERR(open_it(&s, &err), err, Q_EFORMAT, "download is incomplete, fetch it again");
    }
}

static void t_stand_ins(void)
{
    static const char lfs[] =
        "version https://git-lfs.github.com/spec/v1\n"
        "oid sha256:9857751b33687461be89f0352281fed271d8cdfada08ebebabf757db31\n"
        "size 1436901\n";
    q_err err = { 0 };
    q_buf b = { 0 };
    fmt_st *s = NULL;

    T_OK(q_out_whole(file_path(), 1, lfs, sizeof lfs - 1, &err), err);
    T_ERR(open_it(&s, &err), err, Q_EFORMAT,
          "is a git-lfs pointer, not the data: run 'git lfs pull' in its directory");
    T_OK(q_out_whole(file_path(), 1, "", 0, &err), err);
    T_ERR(open_it(&s, &err), err, Q_EFORMAT, "0 bytes, a safetensors file has at least 8");
    T_OK(q_out_whole(file_path(), 1, "<!DOCTYPE html>", 15, &err), err);
    T_ERR(open_it(&s, &err), err, Q_EFORMAT, "at most 100000000 are read: not a safetensors file?");
    T_OK(q_file_slurp(&b, T_SHARED("data/formats/torch-zip-pickle.pth"), 2 << 20, &err), err);
    T_OK(q_out_whole(file_path(), 1, b.data, b.size, &err), err);
    q_buf_free(&b);
    T_ERR(open_it(&s, &err), err, Q_EFORMAT, "not a safetensors file?");
    T_ERR(fmt_st_open(&s, t_tmpdir(), "absent.safetensors", &err), err, Q_ENOINPUT, "absent");
    T_TRUE(s == NULL);
}

/* H H' = n I for all orders; tensors start at odd bytes and in the order of their names as text */
static void t_hadamards(void)
{
    q_err err = { 0 };
    fmt_st *s = NULL;
    static int8_t h[256 * 256];
    char name[16];
    int seen = 0;

    T_SHARED("data/formats/hadamards.safetensors");
    T_OK(fmt_st_open(&s, T_SHARED("data/formats"), "hadamards.safetensors", &err), err);
    T_INT(fmt_st_count(s), 66);
    T_STR(fmt_st_at(s, 0)->name, "1");
    T_STR(fmt_st_at(s, 1)->name, "100");
    T_INT(fmt_st_at(s, 0)->offset, 5856);
    T_TRUE(fmt_st_find(s, "3") == NULL && fmt_st_at(s, 66) == NULL);
    T_TRUE(fmt_st_find(s, "__metadata__") == NULL);
    for (int n = 1; n <= 256; n++) {
        const fmt_tensor *t;

        snprintf(name, sizeof name, "%d", n);
        if (!(t = fmt_st_find(s, name)))
            continue;
        seen++;
        T_TRUE(t->dtype == FMT_I8 && t->ndim == 2 && t->shape[0] == n && t->shape[1] == n);
        T_INT(t->bytes, n * n);
        T_OK(fmt_st_read(s, t, 0, (size_t)t->bytes, h, &err), err);
        for (int i = 0; i < n; i++)
            for (int j = i; j < n; j++) {
                int dot = 0;

                for (int k = 0; k < n; k++)
                    dot += h[i * n + k] * h[j * n + k];
                T_INT(dot, i == j ? n : 0);
            }
    }
    T_INT(seen, 66);
    T_ERR(fmt_st_read(s, fmt_st_find(s, "4"), 10, 7, h, &err), err, Q_ESHAPE,
          "'4': 7 bytes from byte 10 wanted, it has 16");
    T_ERR(fmt_st_read(s, fmt_st_find(s, "4"), UINT64_MAX, 2, h, &err), err, Q_ESHAPE, "it has 16");
    T_OK(fmt_st_read(s, fmt_st_find(s, "4"), 16, 0, h, &err), err);
    fmt_st_close(s);
}

/* "__metadata__": null, header in another order than the data */
static void t_lora(void)
{
    q_err err = { 0 };
    fmt_st *s = NULL;
    const fmt_tensor *t;
    float v = 0;

    T_SHARED("data/formats/lora-adapters.safetensors");
    T_OK(fmt_st_open(&s, T_SHARED("data/formats"), "lora-adapters.safetensors", &err), err);
    T_INT(fmt_st_count(s), 8);
    T_STR(fmt_st_at(s, 0)->name, "model.layers.31.self_attn.q_proj.lora_b");
    t = fmt_st_find(s, "model.layers.30.self_attn.q_proj.lora_a");
    T_TRUE(t && t->dtype == FMT_F32 && t->ndim == 2 && t->shape[0] == 4096 && t->shape[1] == 8);
    T_INT(t->offset, 872 + 294912);
    T_OK(fmt_st_read(s, t, 0, sizeof v, &v, &err), err);
    T_NEAR(v, -0.007250439, 1e-9);
    t = fmt_st_find(s, "model.layers.31.self_attn.v_proj.lora_b");
    T_TRUE(t && t->shape[0] == 8 && t->shape[1] == 1024);
    T_TRUE(strstr(fmt_st_path(s), "lora-adapters.safetensors") != NULL);
    fmt_st_close(s);
}

/* ---- writer --------------------------------------------------------------------------------- */

/* every dtype, scalars, empty tensors, names that need escapes; read back equal, also in pieces */
static void t_round_trip(void)
{
    static const int64_t shape[] = { 3, 5, 7 };
    const char *path = file_path();
    q_err err = { 0 };
    fmt_st_writer *w = NULL;
    fmt_st *s;
    q_buf data = { 0 }, text = { 0 };
    char name[64], *got;
    size_t at = 0;

    unlink(path);
    T_OK(fmt_st_create(&w, path, 0, &err), err);
    for (int i = 0; i < FMT_DTYPES; i++) {
        snprintf(name, sizeof name, "t\"\\\n\xc3\xa9.%s", fmt_dtype_name((fmt_dtype)i));
        T_OK(fmt_st_declare(w, name, (fmt_dtype)i, i % 4, shape, &err), err);
        for (size_t n = fmt_dtype_bytes((fmt_dtype)i) * (size_t)(i % 4 > 0 ? 3 : 1) *
                        (size_t)(i % 4 > 1 ? 5 : 1) * (size_t)(i % 4 > 2 ? 7 : 1);
             n > 0; n--)
            T_OK(q_buf_put(&data, &(char){ (char)(data.size * 37 + 11) }, 1, &err), err);
    }
    T_OK(fmt_st_declare(w, "empty", FMT_F32, 1, (int64_t[]){ 0 }, &err), err);
    T_ERR(fmt_st_declare(w, "empty", FMT_F32, 1, shape, &err), err, Q_EARG, "declared twice");
    for (size_t n = 1; at < data.size; at += n, n = n * 3 % 101 + 1) {
        n = n < data.size - at ? n : data.size - at;
        T_OK(fmt_st_write(w, data.data + at, n, &err), err);
    }
    T_TRUE(!q_path_exists(path)); /* appears whole or not at all */
    T_OK(fmt_st_commit(w, &err), err);
    fmt_st_writer_close(w);

    T_OK(q_file_slurp(&text, path, 1 << 20, &err), err);
    T_INT((uint8_t)text.data[0] % 8, 0); /* data start is aligned */
    T_TRUE(strstr(text.data + 8, "\"format\": \"pt\"") != NULL);
    T_TRUE(memcmp(text.data + text.size - data.size, data.data, data.size) == 0);
    q_buf_free(&text);
    T_OK(open_it(&s, &err), err);
    T_INT(fmt_st_count(s), FMT_DTYPES + 1);
    T_INT(fmt_st_find(s, "empty")->bytes, 0);
    got = q_malloc(data.size);
    for (int i = 0; i < FMT_DTYPES; i++) {
        const fmt_tensor *t;

        snprintf(name, sizeof name, "t\"\\\n\xc3\xa9.%s", fmt_dtype_name((fmt_dtype)i));
        t = fmt_st_find(s, name);
        T_TRUE(t && t->dtype == (fmt_dtype)i && t->ndim == i % 4);
        T_TRUE(memcmp(t->shape, shape, (size_t)t->ndim * sizeof *shape) == 0);
        T_OK(fmt_st_read(s, t, 0, (size_t)t->bytes, got, &err), err);
        T_TRUE(memcmp(got, data.data + (t->offset - fmt_st_at(s, 0)->offset), t->bytes) == 0);
    }
    q_free(got);
    q_buf_free(&data);
    fmt_st_close(s);
}

static int entries_in_tmp(void)
{
    DIR *d = opendir(t_tmpdir());
    struct dirent *e;
    int n = 0;

    T_TRUE(d != NULL);
    while ((e = readdir(d)))
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static void t_writer_errors(void)
{
    static const int64_t big[] = { INT64_MAX, 2 }, wrong[] = { -1 }, four[] = { 4 };
    char name[600];
    q_err err = { 0 };
    fmt_st_writer *w = NULL;
    fmt_st *s;

    unlink(file_path());
    memset(name, 'n', sizeof name);
    name[513] = '\0';
    T_OK(fmt_st_create(&w, file_path(), 0, &err), err);
    T_ERR(fmt_st_declare(w, "w", FMT_I8, 2, big, &err), err, Q_ESHAPE,
          "'w': shape[1] = 2 does not");
    T_ERR(fmt_st_declare(w, "w", FMT_F16, 1, big, &err), err, Q_ESHAPE, "'w': shape[0] = 9223");
    T_ERR(fmt_st_declare(w, "w", FMT_I8, 1, wrong, &err), err, Q_ESHAPE, "'w': shape[0] = -1");
    T_ERR(fmt_st_declare(w, "w", FMT_I8, 9, big, &err), err, Q_ESHAPE, "9 dimensions, at most 8");
    T_ERR(fmt_st_declare(w, name, FMT_I8, 1, four, &err), err, Q_EARG, "a name of 513 bytes");
    T_ERR(fmt_st_declare(w, "__metadata__", FMT_I8, 1, four, &err), err, Q_EARG, "declared twice");
    T_OK(fmt_st_declare(w, "w", FMT_I8, 1, four, &err), err);
    T_ERR(fmt_st_declare(w, "v", FMT_I8, 1, big, &err), err, Q_ESHAPE, "'v' would end beyond 2^63");
    T_ERR(fmt_st_commit(w, &err), err, Q_EARG, "0 bytes written, 4 were declared");
    T_OK(fmt_st_write(w, "abc", 3, &err), err);
    T_ERR(fmt_st_declare(w, "x", FMT_I8, 1, four, &err), err, Q_EARG, "'x' is declared after");
    T_ERR(fmt_st_write(w, "de", 2, &err), err, Q_EARG, "2 bytes written, 1 are left");
    T_ERR(fmt_st_commit(w, &err), err, Q_EARG, "3 bytes written, 4 were declared");
    fmt_st_writer_close(w); /* not committed: nothing stays */
    T_INT(entries_in_tmp(), 0);

    T_OK(fmt_st_create(&w, file_path(), 0, &err), err); /* no tensors at all */
    T_OK(fmt_st_commit(w, &err), err);
    fmt_st_writer_close(w);
    T_OK(open_it(&s, &err), err);
    T_INT(fmt_st_count(s), 0);
    T_TRUE(fmt_st_find(s, "w") == NULL && fmt_st_at(s, 0) == NULL);
    fmt_st_close(s);
    w = NULL;
    T_ERR(fmt_st_create(&w, file_path(), 0, &err), err, Q_ECREATE, "exists; --force overwrites it");
    T_ERR(fmt_st_create(&w, "/nowhere/x.safetensors", 0, &err), err, Q_ECREATE, "no directory");
    T_TRUE(w == NULL);
    T_OK(fmt_st_create(&w, file_path(), 1, &err), err);
    fmt_st_writer_close(w);
    T_INT(entries_in_tmp(), 1);
}

static const t_case cases[] = {
    T(t_writer_errors), T(t_overflow),   T(t_headers),   T(t_layout),    T(t_header_length),
    T(t_large),         T(t_too_many),   T(t_truncated), T(t_stand_ins), T(t_hadamards),
    T(t_lora),          T(t_round_trip), { 0 }
};

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
