/* Element types and conversion of rows.
 *
 * One table row per type.  Every conversion between two different float types goes through f32,
 * which holds f16 and bf16 exactly, so there is a single rounding and q_half.h is the definition of
 * all of them.  On x86-64 the same bits come from F16C and AVX2, eight values at a time, when the
 * processor has them: VCVTPH2PS and VCVTPS2PH quiet a NaN and keep the upper payload just as
 * q_half.h does, and bf16 is integer arithmetic on the f32 bits.  The tail of a row always takes
 * the plain loop.
 *
 * A value is clipped when it is finite in f32 and rounds to infinity in the narrower type; the
 * first such magnitudes are F16_OVER and BF16_OVER. */
#include "formats/dtype.h"

#include <assert.h>
#include <string.h>

#include "formats/base/q_half.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define WIDE __attribute__((target("avx2,f16c")))
#endif

#define F16_OVER  0x477ff000u /* 65520, half way from 65504 to 65536 */
#define BF16_OVER 0x7f7f8000u /* half way from the largest bf16 to 2^128 */
#define F32_INF   0x7f800000u

static const struct {
    const char *name, *st_name;
    size_t bytes;
    int is_float;
} rows[FMT_DTYPES] = {
    [FMT_F32] = { "float32", "F32", 4, 1 },    [FMT_F16] = { "float16", "F16", 2, 1 },
    [FMT_BF16] = { "bfloat16", "BF16", 2, 1 }, [FMT_F64] = { "float64", "F64", 8, 0 },
    [FMT_I8] = { "int8", "I8", 1, 0 },         [FMT_U8] = { "uint8", "U8", 1, 0 },
    [FMT_I16] = { "int16", "I16", 2, 0 },      [FMT_U16] = { "uint16", "U16", 2, 0 },
    [FMT_I32] = { "int32", "I32", 4, 0 },      [FMT_U32] = { "uint32", "U32", 4, 0 },
    [FMT_I64] = { "int64", "I64", 8, 0 },      [FMT_U64] = { "uint64", "U64", 8, 0 },
    [FMT_BOOL] = { "bool", "BOOL", 1, 0 },
};

size_t fmt_dtype_bytes(fmt_dtype t)
{
    assert((unsigned)t < FMT_DTYPES);
    return rows[t].bytes;
}

const char *fmt_dtype_name(fmt_dtype t)
{
    assert((unsigned)t < FMT_DTYPES);
    return rows[t].name;
}

const char *fmt_dtype_st_name(fmt_dtype t)
{
    assert((unsigned)t < FMT_DTYPES);
    return rows[t].st_name;
}

int fmt_dtype_is_float(fmt_dtype t)
{
    assert((unsigned)t < FMT_DTYPES);
    return rows[t].is_float;
}

int fmt_dtype_from_name(const char *name, fmt_dtype *out)
{
    if (strncmp(name, "torch.", 6) == 0)
        name += 6;
    for (unsigned i = 0; i < FMT_DTYPES; i++)
        if (strcmp(name, rows[i].name) == 0) {
            *out = (fmt_dtype)i;
            return 1;
        }
    return 0;
}

int fmt_dtype_from_st_name(const char *name, fmt_dtype *out)
{
    for (unsigned i = 0; i < FMT_DTYPES; i++)
        if (strcmp(name, rows[i].st_name) == 0) {
            *out = (fmt_dtype)i;
            return 1;
        }
    return 0;
}

/* ---- plain loops: the definition, and the tails -------------------------------------------- */

/* One value as f32 bits, and back. */
static uint32_t widen(const void *src, fmt_dtype type, size_t i)
{
    uint32_t u;
    uint16_t h;

    if (type == FMT_F32) {
        memcpy(&u, (const char *)src + 4 * i, sizeof u);
        return u;
    }
    memcpy(&h, (const char *)src + 2 * i, sizeof h);
    return q_f32_to_bits(type == FMT_F16 ? q_f16_to_f32(h) : q_bf16_to_f32(h));
}

static void narrow(void *dst, fmt_dtype type, size_t i, uint32_t u)
{
    uint16_t h;

    if (type == FMT_F32) {
        memcpy((char *)dst + 4 * i, &u, sizeof u);
        return;
    }
    h = type == FMT_F16 ? q_f32_to_f16(q_bits_to_f32(u)) : q_f32_to_bf16(q_bits_to_f32(u));
    memcpy((char *)dst + 2 * i, &h, sizeof h);
}

/* bits of the first magnitude that overflows the type; nothing finite overflows f32 */
static uint32_t over(fmt_dtype type)
{
    return type == FMT_F16 ? F16_OVER : type == FMT_BF16 ? BF16_OVER : F32_INF;
}

static uint64_t convert_plain(void *dst, fmt_dtype dst_type, const void *src, fmt_dtype src_type,
                              size_t from, size_t n)
{
    const uint32_t limit = over(dst_type);
    uint64_t clipped = 0;

    for (size_t i = from; i < n; i++) {
        const uint32_t u = widen(src, src_type, i), a = u & 0x7fffffffu;

        clipped += a >= limit && a < F32_INF;
        narrow(dst, dst_type, i, u);
    }
    return clipped;
}

/* ---- eight at a time ------------------------------------------------------------------------ */

#if defined(__x86_64__)

/* Both are read from a word that was filled once at start: no cpuid per call (slow in a guest).
 * clang 14 does not know the name "f16c" here; every processor that has AVX2 has F16C. */
static int has_wide(void)
{
#if defined(__clang__)
    return __builtin_cpu_supports("avx2") != 0;
#else
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
#endif
}

static inline WIDE __m256i load8(const char *src, fmt_dtype type, size_t i)
{
    __m128i h;

    if (type == FMT_F32)
        return _mm256_loadu_si256((const __m256i *)(const void *)(src + 4 * i));
    h = _mm_loadu_si128((const __m128i *)(const void *)(src + 2 * i));
    if (type == FMT_F16)
        return _mm256_castps_si256(_mm256_cvtph_ps(h));
    return _mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16);
}

/* round to nearest even by adding 0x7fff plus the last kept bit; NaN keeps its bits and gets quiet
 */
static inline WIDE __m128i bf16_of(__m256i u)
{
    const __m256i hi = _mm256_srli_epi32(u, 16);
    const __m256i a = _mm256_and_si256(u, _mm256_set1_epi32(0x7fffffff));
    const __m256i nan = _mm256_cmpgt_epi32(a, _mm256_set1_epi32((int)F32_INF));
    const __m256i odd = _mm256_and_si256(hi, _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    const __m256i r = _mm256_srli_epi32(_mm256_add_epi32(u, up), 16);
    const __m256i q = _mm256_or_si256(hi, _mm256_set1_epi32(0x40));
    const __m256i v = _mm256_blendv_epi8(r, q, nan);

    return _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}

static inline WIDE void store8(char *dst, fmt_dtype type, size_t i, __m256i u)
{
    __m128i h;

    if (type == FMT_F32) {
        _mm256_storeu_si256((__m256i *)(void *)(dst + 4 * i), u);
        return;
    }
    h = type == FMT_F16
            ? _mm256_cvtps_ph(_mm256_castsi256_ps(u), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
            : bf16_of(u);
    _mm_storeu_si128((__m128i *)(void *)(dst + 2 * i), h);
}

/* Always inlined with constant types, so that each pair below is one straight loop.  Each lane of
 * `count` counts down by one per clipped value; it is emptied before it could wrap. */
static inline WIDE __attribute__((always_inline)) uint64_t convert_wide(
    char *dst, fmt_dtype dst_type, const char *src, fmt_dtype src_type, size_t n)
{
    const __m256i limit = _mm256_set1_epi32((int)(over(dst_type) - 1));
    const __m256i inf = _mm256_set1_epi32((int)F32_INF);
    uint64_t clipped = 0;
    size_t i = 0;

    while (i < n) {
        const size_t end = n - i > (size_t)1 << 30 ? i + ((size_t)1 << 30) : n;
        __m256i count = _mm256_setzero_si256();
        int32_t lane[8];

        for (; i < end; i += 8) {
            const __m256i u = load8(src, src_type, i);
            const __m256i a = _mm256_and_si256(u, _mm256_set1_epi32(0x7fffffff));
            const __m256i clip =
                _mm256_and_si256(_mm256_cmpgt_epi32(a, limit), _mm256_cmpgt_epi32(inf, a));

            count = _mm256_add_epi32(count, clip);
            store8(dst, dst_type, i, u);
        }
        _mm256_storeu_si256((__m256i *)(void *)lane, count);
        for (int k = 0; k < 8; k++)
            clipped += (uint64_t) - (int64_t)lane[k];
    }
    return clipped;
}

#define WIDE_PAIR(name, to, from)                                                                  \
    static WIDE uint64_t name(void *dst, const void *src, size_t n)                                \
    {                                                                                              \
        return convert_wide(dst, to, src, from, n);                                                \
    }
WIDE_PAIR(f32_of_f16, FMT_F32, FMT_F16)
WIDE_PAIR(f32_of_bf16, FMT_F32, FMT_BF16)
WIDE_PAIR(f16_of_f32, FMT_F16, FMT_F32)
WIDE_PAIR(f16_of_bf16, FMT_F16, FMT_BF16)
WIDE_PAIR(bf16_of_f32, FMT_BF16, FMT_F32)
WIDE_PAIR(bf16_of_f16, FMT_BF16, FMT_F16)

static uint64_t (*const wide[3][3])(void *dst, const void *src, size_t n) = {
    [FMT_F32] = { [FMT_F16] = f32_of_f16, [FMT_BF16] = f32_of_bf16 },
    [FMT_F16] = { [FMT_F32] = f16_of_f32, [FMT_BF16] = f16_of_bf16 },
    [FMT_BF16] = { [FMT_F32] = bf16_of_f32, [FMT_F16] = bf16_of_f16 },
};

#endif

void fmt_convert(void *dst, fmt_dtype dst_type, const void *src, fmt_dtype src_type, size_t n,
                 uint64_t *n_clipped)
{
    uint64_t clipped = 0;
    size_t done = 0;

    assert(fmt_dtype_is_float(dst_type) && fmt_dtype_is_float(src_type));
    if (dst_type == src_type) {
        if (n && dst != src)
            memcpy(dst, src, n * fmt_dtype_bytes(src_type));
        return;
    }
#if defined(__x86_64__)
    if (has_wide()) {
        done = n / 8 * 8;
        clipped = wide[dst_type][src_type](dst, src, done);
    }
#endif
    clipped += convert_plain(dst, dst_type, src, src_type, done, n);
    if (n_clipped)
        *n_clipped += clipped;
}
