/* Transposing in two levels.
 *
 * Outer: bands of 64 source rows, so that every row of the destination receives whole cache lines
 * (64 x 2 bytes) one after another; writing 8 rows of a band at a time instead left half-filled
 * lines behind and ran at half the speed on large matrices.  Inner: squares of 8 x 8 elements of
 * one or two bytes or 4 x 4 of four in SSE registers, which every x86-64 has.  Edges, other sizes
 * and other processors take the plain loop. */
#include "formats/turn.h"

#include <assert.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define BAND 64

#define PLAIN(type)                                                                                \
    for (int64_t c = c0; c < c1; c++)                                                              \
        for (int64_t r = r0; r < r1; r++)                                                          \
            ((type *)dst)[c * ldd + r] = ((const type *)src)[r * lds + c];

/* rows r0 .. r1-1, columns c0 .. c1-1 of src */
static void plain(void *dst, int64_t ldd, const void *src, int64_t lds, int64_t r0, int64_t r1,
                  int64_t c0, int64_t c1, size_t es)
{
    switch (es) {
    case 1:
        PLAIN(uint8_t)
        break;
    case 2:
        PLAIN(uint16_t)
        break;
    case 4:
        PLAIN(uint32_t)
        break;
    default:
        assert(es == 8);
        PLAIN(uint64_t)
        break;
    }
}

#if defined(__SSE2__)

static __m128i load(const void *p)
{
    return _mm_loadu_si128(p);
}

/* Interleaving neighbours three times moves bit 0, 1, 2 of the row number into the column. */
static void square_8x8(uint16_t *d, int64_t ldd, const uint16_t *s, int64_t lds)
{
    __m128i a[8], b[8];

    for (int i = 0; i < 4; i++) {
        const __m128i x = load(s + 2 * i * lds), y = load(s + (2 * i + 1) * lds);

        a[i] = _mm_unpacklo_epi16(x, y);
        a[4 + i] = _mm_unpackhi_epi16(x, y);
    }
    for (int h = 0; h < 8; h += 4)
        for (int i = 0; i < 2; i++) {
            b[h + i] = _mm_unpacklo_epi32(a[h + 2 * i], a[h + 2 * i + 1]);
            b[h + 2 + i] = _mm_unpackhi_epi32(a[h + 2 * i], a[h + 2 * i + 1]);
        }
    for (int i = 0; i < 4; i++) {
        _mm_storeu_si128((void *)(d + 2 * i * ldd), _mm_unpacklo_epi64(b[2 * i], b[2 * i + 1]));
        _mm_storeu_si128((void *)(d + (2 * i + 1) * ldd),
                         _mm_unpackhi_epi64(b[2 * i], b[2 * i + 1]));
    }
}

static void square_4x4(uint32_t *d, int64_t ldd, const uint32_t *s, int64_t lds)
{
    __m128i a[4];

    for (int i = 0; i < 2; i++) {
        const __m128i x = load(s + 2 * i * lds), y = load(s + (2 * i + 1) * lds);

        a[i] = _mm_unpacklo_epi32(x, y);
        a[2 + i] = _mm_unpackhi_epi32(x, y);
    }
    for (int i = 0; i < 2; i++) {
        _mm_storeu_si128((void *)(d + 2 * i * ldd), _mm_unpacklo_epi64(a[2 * i], a[2 * i + 1]));
        _mm_storeu_si128((void *)(d + (2 * i + 1) * ldd),
                         _mm_unpackhi_epi64(a[2 * i], a[2 * i + 1]));
    }
}

/* The same with bytes, eight to a row. */
static void square_bytes(uint8_t *d, int64_t ldd, const uint8_t *s, int64_t lds)
{
    __m128i a[4], b[4];

    for (int i = 0; i < 4; i++)
        a[i] = _mm_unpacklo_epi8(_mm_loadl_epi64((const void *)(s + 2 * i * lds)),
                                 _mm_loadl_epi64((const void *)(s + (2 * i + 1) * lds)));
    for (int i = 0; i < 2; i++) {
        b[i] = _mm_unpacklo_epi16(a[2 * i], a[2 * i + 1]);
        b[2 + i] = _mm_unpackhi_epi16(a[2 * i], a[2 * i + 1]);
    }
    for (int i = 0; i < 4; i += 2) {
        a[i] = _mm_unpacklo_epi32(b[i], b[i + 1]);
        a[i + 1] = _mm_unpackhi_epi32(b[i], b[i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        _mm_storel_epi64((void *)(d + 2 * i * ldd), a[i]);
        _mm_storel_epi64((void *)(d + (2 * i + 1) * ldd), _mm_unpackhi_epi64(a[i], a[i]));
    }
}

#define SQUARES(type, square, side)                                                                \
    for (int64_t r0 = 0; r0 < rows; r0 += BAND)                                                    \
        for (int64_t c = 0; c < cols; c += side)                                                   \
            for (int64_t r = r0; r < (r0 + BAND < rows ? r0 + BAND : rows); r += side)             \
                square((type *)dst + c * ldd + r, ldd, (const type *)src + r * lds + c, lds);

static void squares(void *dst, int64_t ldd, const void *src, int64_t lds, int64_t rows,
                    int64_t cols, size_t es)
{
    if (es == 2)
        SQUARES(uint16_t, square_8x8, 8)
    else if (es == 4)
        SQUARES(uint32_t, square_4x4, 4)
    else
        SQUARES(uint8_t, square_bytes, 8)
}

#endif

void fmt_turn(void *dst, int64_t ldd, const void *src, int64_t lds, int64_t rows, int64_t cols,
              size_t es)
{
    int64_t r = 0, c = 0;

#if defined(__SSE2__)
    if (es <= 4) {
        const int64_t side = es == 4 ? 4 : 8;

        r = rows / side * side;
        c = cols / side * side;
        squares(dst, ldd, src, lds, r, c, es);
    }
#endif
    for (int64_t b = 0; b < rows; b += BAND) { /* right of the squares, then below them */
        const int64_t end = b + BAND < rows ? b + BAND : rows;

        plain(dst, ldd, src, lds, b, end < r ? end : r, c, cols, es);
        plain(dst, ldd, src, lds, b > r ? b : r, end, 0, cols, es);
    }
}
