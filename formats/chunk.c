/* Packing and unpacking chunks.
 *
 *   shuffle     byte 0 of all elements, then byte 1 of all, ...; what is no whole element at the
 * end deflate     a zlib stream fletcher32  4 bytes behind it, little-endian: two sums of 16 bits
 * over big-endian words of 16
 *
 * A stream may grow a chunk about a thousand times at most, so that a small file cannot claim a
 * large array. */
#include "formats/chunk.h"

#include <string.h>
#include <zlib.h>

#include "formats/base/q_mem.h"

#define SUM_BYTES   4
#define GROWS_LEAST 1032 /* deflate: 258 bytes from two bits */

int fmt_chunk_form_ok(const fmt_chunk_form *f)
{
    return f->bytes > 0 && f->bytes <= FMT_CHUNK_MAX && f->element > 0 && f->element <= 16;
}

int fmt_chunk_packed_ok(const fmt_chunk_form *f, uint64_t n)
{
    const uint64_t sum = f->sum ? SUM_BYTES : 0;

    if (n <= sum || n > fmt_chunk_bound(f))
        return 0;
    return f->deflate ? (n - sum) * GROWS_LEAST >= f->bytes : n - sum == f->bytes;
}

size_t fmt_chunk_bound(const fmt_chunk_form *f)
{
    return (f->deflate ? compressBound((uLong)f->bytes) + 16 : (size_t)f->bytes) + SUM_BYTES;
}

/* ---- the sum --------------------------------------------------------------------------------- */

/* To 16 bits with what runs over at the top added at the bottom: 0 only for nothing but zeros. */
static uint64_t fold(uint64_t x)
{
    while (x >> 16)
        x = (x & 0xffff) + (x >> 16);
    return x;
}

static uint32_t fletcher32(const uint8_t *p, size_t n)
{
    enum { BLOCK = 1 << 16 }; /* bytes: both sums stay far below 64 bits */
    uint64_t a = 0, b = 0;

    while (n > 0) {
        const size_t block = n < BLOCK ? n : BLOCK;

        for (size_t i = 0; i < block; i += 2) {
            a += (uint64_t)p[i] << 8 | (i + 1 < block ? p[i + 1] : 0);
            b += a;
        }
        a = fold(a);
        b = fold(b);
        p += block;
        n -= block;
    }
    return (uint32_t)(b << 16 | a);
}

/* ---- shuffle --------------------------------------------------------------------------------- */

static void shuffle(uint8_t *dst, const uint8_t *src, size_t n, size_t element)
{
    const size_t count = n / element;

    for (size_t b = 0; b < element; b++)
        for (size_t i = 0; i < count; i++)
            dst[b * count + i] = src[i * element + b];
    memcpy(dst + count * element, src + count * element, n - count * element);
}

static void unshuffle(uint8_t *dst, const uint8_t *src, size_t n, size_t element)
{
    const size_t count = n / element;

    for (size_t b = 0; b < element; b++)
        for (size_t i = 0; i < count; i++)
            dst[i * element + b] = src[b * count + i];
    memcpy(dst + count * element, src + count * element, n - count * element);
}

/* ---- all of it ------------------------------------------------------------------------------- */

q_status fmt_chunk_pack(void *dst, size_t *n, const fmt_chunk_form *f, const void *src, q_err *err)
{
    q_status st = Q_OK;
    const size_t bytes = (size_t)f->bytes;
    uint8_t *apart = f->shuffle ? q_malloc(bytes) : NULL, *end = dst;
    uLongf packed = (uLongf)fmt_chunk_bound(f) - SUM_BYTES;
    uint32_t sum;

    if (f->shuffle && !apart)
        Q_FAIL(err, Q_ENOMEM, "no memory for a chunk of %zu bytes", bytes);
    if (f->shuffle)
        shuffle(apart, src, bytes, f->element);
    if (!f->deflate) {
        memcpy(dst, apart ? apart : src, bytes);
        packed = bytes;
    } else if (compress2(dst, &packed, apart ? apart : src, (uLong)bytes, FMT_CHUNK_LEVEL) !=
               Z_OK) {
        Q_FAIL(err, Q_ENOMEM, "no memory to compress a chunk of %zu bytes", bytes);
    }
    end += packed;
    *n = packed;
    if (f->sum) {
        sum = fletcher32(dst, packed);
        for (int i = 0; i < SUM_BYTES; i++)
            end[i] = (uint8_t)(sum >> 8 * i);
        *n += SUM_BYTES;
    }
out:
    q_free(apart);
    return st;
}

/* *n without the sum */
static q_status check_sum(const uint8_t *src, size_t *n, q_err *err)
{
    uint32_t want = 0, got;

    *n -= SUM_BYTES;
    for (int i = 0; i < SUM_BYTES; i++)
        want |= (uint32_t)src[*n + (size_t)i] << 8 * i;
    got = fletcher32(src, *n);
    return got == want
               ? Q_OK
               : q_fail(err, Q_EFORMAT, "its checksum is %08x, the file says %08x", got, want);
}

q_status fmt_chunk_unpack(void *dst, const fmt_chunk_form *f, const void *src, size_t n, q_err *err)
{
    q_status st = Q_OK;
    uint8_t *apart = NULL, *to = dst;
    uLongf bytes = (uLongf)f->bytes;
    int rc;

    if (!fmt_chunk_form_ok(f) || !fmt_chunk_packed_ok(f, n))
        Q_FAIL(err, Q_EFORMAT, "%zu bytes cannot be a chunk of %llu", n,
               (unsigned long long)f->bytes);
    if (f->sum)
        Q_TRY(check_sum(src, &n, err));
    if (f->shuffle && !(to = apart = q_malloc((size_t)f->bytes)))
        Q_FAIL(err, Q_ENOMEM, "no memory for a chunk of %llu bytes", (unsigned long long)f->bytes);
    if (!f->deflate)
        memcpy(to, src, (size_t)f->bytes);
    rc = f->deflate ? uncompress(to, &bytes, src, (uLong)n) : Z_OK;
    if (rc == Z_MEM_ERROR)
        Q_FAIL(err, Q_ENOMEM, "no memory to unpack a chunk");
    if (rc != Z_OK || bytes != f->bytes)
        Q_FAIL(err, Q_EFORMAT, "it does not unpack to %llu bytes", (unsigned long long)f->bytes);
    if (apart)
        unshuffle(dst, apart, (size_t)f->bytes, f->element);
out:
    q_free(apart);
    return st;
}
