/* Pickles and PyTorch archives for tests, spelled out.
 *
 * Pickles are string literals of opcodes, so that a table row shows the bytes it is about:
 *
 *     PK_DICT(PK_ITEM("w", PK_F32("0", "K\6", "K\0", PK_T1("K\6"), PK_T1("K\1"))))
 *
 * An archive is built whole, with the place of each record, and then damaged byte by byte:
 *
 *     t_zip z = { 0 };
 *     t_zip_build(&z, entries, 3, 0);
 *     z.b.data[z.record[1] + 8] |= 1;           (encrypted)
 *
 * Functions in a header, because fuzz targets and tests are one file each. */
#ifndef T_PICKLE_H
#define T_PICKLE_H

#include <stdint.h>
#include <string.h>

#include "formats/base/q_mem.h"
#include "tests/t.h"

#define PK_PROTO                "\x80\x02"
#define PK_GLOBAL(module, name) "c" module "\n" name "\n"
#define PK_ODICT                PK_GLOBAL("collections", "OrderedDict") ")R"
#define PK_T1(a)                a "\x85"
#define PK_T2(a, b)             a b "\x86"
/* key is one digit */
#define PK_PERSID(class, key, numel)                                                               \
    "(\x8c\x07storage" PK_GLOBAL("torch", class) "\x8c\x01" key "\x8c\x03"                         \
                                                 "cpu" numel "tQ"
#define PK_REBUILD PK_GLOBAL("torch._utils", "_rebuild_tensor_v2")
#define PK_TENSOR(storage, offset, shape, stride)                                                  \
    PK_REBUILD "(" storage offset shape stride "\x89" PK_ODICT "tR"
#define PK_F32(key, numel, offset, shape, stride)                                                  \
    PK_TENSOR(PK_PERSID("FloatStorage", key, numel), offset, shape, stride)
/* name is one byte */
#define PK_ITEM(name, value) "\x8c\x01" name value "s"
#define PK_DICT(items)       PK_PROTO "}" items "."

typedef struct t_entry {
    const char *name;
    const void *data;
    size_t n;
} t_entry;

typedef struct t_zip {
    q_buf b;
    size_t local[16], record[16]; /* offset of the headers of entry i */
    size_t end64, locator, end;
} t_zip;

static inline uint32_t t_crc32(const void *p, size_t n)
{
    uint32_t c = 0xffffffffu;

    for (size_t i = 0; i < n; i++) {
        c ^= ((const uint8_t *)p)[i];
        for (int k = 0; k < 8; k++)
            c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
    }
    return ~c;
}

/* little-endian, n bytes */
static inline void t_put(q_buf *b, uint64_t v, size_t n)
{
    for (size_t i = 0; i < n; i++, v >>= 8)
        if (q_buf_put(b, (char[]){ (char)(uint8_t)v }, 1, NULL) != Q_OK)
            t_fail(__FILE__, __LINE__, "no memory");
}

static inline void t_poke(q_buf *b, size_t at, uint64_t v, size_t n)
{
    for (size_t i = 0; i < n; i++, v >>= 8)
        b->data[at + i] = (char)(uint8_t)v;
}

/* The zip64 extra field of sizes (and the offset, in the directory), as long archives have it. */
static inline void t_put_extra(q_buf *b, uint64_t bytes, const size_t *at)
{
    t_put(b, 1, 2);
    t_put(b, at ? 24 : 16, 2);
    t_put(b, bytes, 8);
    t_put(b, bytes, 8);
    if (at)
        t_put(b, *at, 8);
}

static inline void t_put_header(q_buf *b, const t_entry *e, const size_t *at, int big)
{
    t_put(b, at ? 0x02014b50u : 0x04034b50u, 4);
    t_put(b, 45, at ? 4 : 2); /* versions */
    t_put(b, 0, 2 + 2 + 4);   /* flags, method, time */
    t_put(b, t_crc32(e->data, e->n), 4);
    t_put(b, big ? 0xffffffffu : e->n, 4);
    t_put(b, big ? 0xffffffffu : e->n, 4);
    t_put(b, strlen(e->name), 2);
    t_put(b, big ? (at ? 28 : 20) : 0, 2);
    if (at) {
        t_put(b, 0, 2 + 2 + 2 + 4); /* comment, disk, attributes */
        t_put(b, big ? 0xffffffffu : *at, 4);
    }
    if (q_buf_puts(b, e->name, NULL) != Q_OK)
        t_fail(__FILE__, __LINE__, "no memory");
    if (big)
        t_put_extra(b, e->n, at);
}

/* big: 0 a plain archive, 1 with zip64 end records, 2 and zip64 fields in every entry. */
static inline void t_zip_build(t_zip *z, const t_entry *e, size_t n, int big)
{
    size_t dir;

    q_buf_clear(&z->b);
    for (size_t i = 0; i < n; i++) {
        z->local[i] = z->b.size;
        t_put_header(&z->b, &e[i], NULL, big == 2);
        if (q_buf_put(&z->b, e[i].data, e[i].n, NULL) != Q_OK)
            t_fail(__FILE__, __LINE__, "no memory");
    }
    dir = z->b.size;
    for (size_t i = 0; i < n; i++) {
        z->record[i] = z->b.size;
        t_put_header(&z->b, &e[i], &z->local[i], big == 2);
    }
    z->end64 = z->end = z->b.size;
    if (big) {
        t_put(&z->b, 0x06064b50u, 4);
        t_put(&z->b, 44, 8);
        t_put(&z->b, 45, 2 + 2 + 4 + 4); /* versions, disks */
        t_poke(&z->b, z->b.size - 10, 45, 2);
        t_put(&z->b, n, 8);
        t_put(&z->b, n, 8);
        t_put(&z->b, z->end64 - dir, 8);
        t_put(&z->b, dir, 8);
        z->locator = z->b.size;
        t_put(&z->b, 0x07064b50u, 4);
        t_put(&z->b, 0, 4);
        t_put(&z->b, z->end64, 8);
        t_put(&z->b, 1, 4);
        z->end = z->b.size;
    }
    t_put(&z->b, 0x06054b50u, 4);
    t_put(&z->b, 0, 4);
    t_put(&z->b, big == 2 ? 0xffff : n, 2);
    t_put(&z->b, big == 2 ? 0xffff : n, 2);
    t_put(&z->b, big == 2 ? 0xffffffffu : z->end64 - dir, 4);
    t_put(&z->b, big == 2 ? 0xffffffffu : dir, 4);
    t_put(&z->b, 0, 2);
}

#endif
