/* Attention of 8 query rows, 16 keys of a warp at a time or T times 16, straight from memory into
 * registers.
 *
 *   scores  S' [16 keys, 8 rows] = K Q'     which d go to which lane is free, as in gemv.cuh
 *   values  O' [HD, 8 rows] += V' P'        the same
 *
 *           of keys g and g + 8                of values 2 q, 2 q + 1, 2 q + 8, 2 q + 9
 *   f16     d = 32 i + 8 q .. + 7              d = 64 i + 8 g .. + 7
 *   int8    d = 64 i + 16 q .. + 15            d = g HD / 8 ..
 *
 * for lane 4 g + q.  P' is S' turned by movmatrix.  Codes become halves in registers; the scale of
 * the head's keys is in the factor of the scores, that of its values comes last.  Scores and sums
 * are f32; q, k, p and v enter the products as f16.
 *
 * I8 is 1 for an int8 cache, 0 for f16 (or f32 that becomes f16 on its way).  HD is the width of
 * the head or more: what is missing counts as zero. */
#ifndef ATTN_KEYS_CUH
#define ATTN_KEYS_CUH

#include "runtime/cuda/cu_codes.cuh"

#define ATTN_KEYS   16
#define ATTN_ROWS   8
#define ATTN_LD(hd) ((hd) + 32) /* halves of a row of q: 64 bytes off the banks */

static __device__ __forceinline__ uint32_t turn_matrix(uint32_t v)
{
    uint32_t d;

    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(v));
    return d;
}

/* What a warp knows: rows 2 q and 2 q + 1 of a lane, the sums of its own keys.  o[m]: element
 * attn_out_d of the head and the next, each of the two rows. */
template <int HD> struct attn_out {
    float max[2], sum[2];
    float o[HD / 16][4];
};

template <int HD, int I8> static __device__ __forceinline__ int attn_out_d(int g, int m)
{
    return I8 ? g * (HD / 8) + 2 * m : m / 4 * 64 + 8 * g + m % 4 * 2;
}

template <int HD> static __device__ __forceinline__ void attn_out_clear(attn_out<HD> &x)
{
    x.max[0] = x.max[1] = -INFINITY;
    x.sum[0] = x.sum[1] = 0;
#pragma unroll
    for (int m = 0; m < HD / 16; m++)
        x.o[m][0] = x.o[m][1] = x.o[m][2] = x.o[m][3] = 0;
}

/* Place of element d of q in shared memory: a lane's are neighbours, 16 bytes at a time. */
template <int I8> static __device__ __forceinline__ int attn_q_place(int d)
{
    return I8 ? d / 64 * 64 + d % 16 / 8 * 32 + d % 64 / 16 * 8 + d % 8 : d;
}

/* 16 keys and their values. */
template <int HD, int I8> struct attn_keys;
template <int HD> struct attn_keys<HD, 0> {
    typedef __half element;
    uint4 k[HD / 32][2], v[4][HD / 64];
};
template <int HD> struct attn_keys<HD, 1> {
    typedef int8_t element;
    uint4 k[HD / 64][2], v[4][(HD + 127) / 128];
};

/* 16 bytes, past L1.  Volatile, so that they leave where they stand in the program: the compiler
 * puts loads off until registers are free. */
static __device__ __forceinline__ uint4 attn_fetch(const void *from)
{
    uint4 v;

    asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from));
    return v;
}

/* 8 halves, zeros if they are not there. */
static __device__ __forceinline__ uint4 attn_halves(const __half *from, int there)
{
    return there ? attn_fetch(from) : make_uint4(0, 0, 0, 0);
}

static __device__ __forceinline__ uint4 attn_halves(const float *from, int there)
{
    __align__(16) __half v[8] = {};

    for (int i = 0; there && i < 8; i++)
        v[i] = cu_half(__ldcg(from + i));
    return *(const uint4 *)v;
}

/* Keys from k on, rows of hd elements.  Those past the last of the sequence are read as well: they
 * are in the page, and a score that nobody sees may be anything. */
template <int HD, typename E>
static __device__ __forceinline__ void attn_load_k(attn_keys<HD, 0> &r, const E *k, int hd)
{
    const int lane = (int)threadIdx.x % 32, g = lane / 4, q = lane % 4;
    const E *from = k + g * hd + 8 * q;

#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int i = 0; i < HD / 32; i++)
            r.k[i][h] = attn_halves(from + 8 * h * hd + 32 * i, hd == HD || 32 * i + 8 * q < hd);
}

/* Values from v on; row `last` again in place of those past it: what is there may not be a number.
 * last below 0: zeros. */
template <int HD, typename E>
static __device__ __forceinline__ void attn_load_v(attn_keys<HD, 0> &r, const E *v, int last,
                                                   int hd)
{
    const int lane = (int)threadIdx.x % 32, g = lane / 4, q = lane % 4;
    const E *from = v + 8 * g;

#pragma unroll
    for (int n = 0; n < 4; n++)
#pragma unroll
        for (int i = 0; i < HD / 64; i++)
            r.v[n][i] = attn_halves(from + min(2 * q + n % 2 + n / 2 * 8, last) * hd + 64 * i,
                                    last >= 0 && (hd == HD || 64 * i + 8 * g < hd));
}

/* N codes, 8 or 16, of which `left` are there: a multiple of 8.  whole: all of every row is. */
template <int N>
static __device__ __forceinline__ uint4 attn_codes(const int8_t *from, int left, int whole)
{
    uint2 lo = make_uint2(0, 0), hi = lo;

    if (N == 16 && whole)
        return attn_fetch(from);
    if (left >= 8)
        lo = __ldcg((const uint2 *)from);
    if (N == 16 && left >= 16)
        hi = __ldcg((const uint2 *)(from + 8));
    return make_uint4(lo.x, lo.y, hi.x, hi.y);
}

template <int HD>
static __device__ __forceinline__ void attn_load_k(attn_keys<HD, 1> &r, const int8_t *k, int hd)
{
    const int lane = (int)threadIdx.x % 32, g = lane / 4, q = lane % 4;
    const int8_t *from = k + g * hd + 16 * q;

#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int i = 0; i < HD / 64; i++)
            r.k[i][h] = attn_codes<16>(from + 8 * h * hd + 64 * i, hd - 64 * i - 16 * q, hd == HD);
}

/* Any code is a number: past the last as well. */
template <int HD>
static __device__ __forceinline__ void attn_load_v(attn_keys<HD, 1> &r, const int8_t *v, int,
                                                   int hd)
{
    const int lane = (int)threadIdx.x % 32, g = lane / 4, q = lane % 4;
    const int N = HD > 64 ? 16 : 8;
    const int8_t *from = v + 2 * q * hd + g * (HD / 8);

#pragma unroll
    for (int n = 0; n < 4; n++)
#pragma unroll
        for (int i = 0; i < (HD + 127) / 128; i++)
            r.v[n][i] = attn_codes<N>(from + (n % 2 + n / 2 * 8) * hd + 16 * i,
                                      hd - g * (HD / 8) - 16 * i, hd == HD);
}

/* Both, of a cache of halves or codes. */
template <int HD, int I8>
static __device__ __forceinline__ void attn_load(attn_keys<HD, I8> &r, const char *k, const char *v,
                                                 int last, int hd)
{
    typedef typename attn_keys<HD, I8>::element element;

    attn_load_k<HD>(r, (const element *)k, hd);
    attn_load_v<HD>(r, (const element *)v, last, hd);
}

/* Adds to the scores of 16 keys what elements 32 i .. 32 i + 31 give.  b: of q. */
template <int HD>
static __device__ __forceinline__ void attn_score(float s[4], const attn_keys<HD, 0> &r, int i,
                                                  const uint4 &b)
{
    cu_mma(s, r.k[i][0].x, r.k[i][1].x, r.k[i][0].y, r.k[i][1].y, b.x, b.y);
    cu_mma(s, r.k[i][0].z, r.k[i][1].z, r.k[i][0].w, r.k[i][1].w, b.z, b.w);
}

template <int HD>
static __device__ __forceinline__ void attn_score(float s[4], const attn_keys<HD, 1> &r, int i,
                                                  const uint4 &b)
{
#pragma unroll
    for (int e = 0; e < 2; e++) {
        uint32_t a0, a1, a2, a3;

        cu_decode_i8(word_of(r.k[i / 2][0], i % 2 * 2 + e), &a0, &a2);
        cu_decode_i8(word_of(r.k[i / 2][1], i % 2 * 2 + e), &a1, &a3);
        cu_mma(s, a0, a1, a2, a3, word_of(b, 2 * e), word_of(b, 2 * e + 1));
    }
}

/* q: row g in shared memory, at 8 q. */
template <int HD, int I8, int T>
static __device__ __forceinline__ void attn_scores(float s[T][4], const attn_keys<HD, I8> *r,
                                                   const __half *q)
{
#pragma unroll
    for (int t = 0; t < T; t++)
        s[t][0] = s[t][1] = s[t][2] = s[t][3] = 0;
#pragma unroll
    for (int i = 0; i < HD / 32; i++) {
        const uint4 b = *(const uint4 *)(q + 32 * i);

#pragma unroll
        for (int t = 0; t < T; t++)
            attn_score<HD>(s[t], r[t], i, b);
    }
}

template <int HD>
static __device__ __forceinline__ void attn_values(attn_out<HD> &x, const attn_keys<HD, 0> &r,
                                                   const uint32_t p[2])
{
#pragma unroll
    for (int m = 0; m < HD / 16; m++) {
        const uint32_t a = word_of(r.v[0][m / 4], m % 4), b = word_of(r.v[1][m / 4], m % 4);
        const uint32_t c = word_of(r.v[2][m / 4], m % 4), d = word_of(r.v[3][m / 4], m % 4);

        cu_mma(x.o[m], __byte_perm(a, b, 0x5410), __byte_perm(a, b, 0x7632),
               __byte_perm(c, d, 0x5410), __byte_perm(c, d, 0x7632), p[0], p[1]);
    }
}

template <int HD>
static __device__ __forceinline__ void attn_values(attn_out<HD> &x, const attn_keys<HD, 1> &r,
                                                   const uint32_t p[2])
{
#pragma unroll
    for (int i = 0; i < HD / 32; i++) {
        uint32_t a[4], b[4];

        cu_decode_pairs(word_of(r.v[0][i / 4], i % 4), word_of(r.v[1][i / 4], i % 4), a);
        cu_decode_pairs(word_of(r.v[2][i / 4], i % 4), word_of(r.v[3][i / 4], i % 4), b);
        cu_mma(x.o[2 * i], a[0], a[1], b[0], b[1], p[0], p[1]);
        cu_mma(x.o[2 * i + 1], a[2], a[3], b[2], b[3], p[0], p[1]);
    }
}

/* 2^v for v up to 0 or a little more; of minus infinity 0 */
static __device__ __forceinline__ float attn_exp2(float v)
{
    float r;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
}

/* Weights are 2^(score - max) for a maximum that may lag behind by so much: f16 holds 2^8 as well
 * as 1, and the lanes need not agree on a new one every time. */
#define ATTN_LAG 8.0f

/* A maximum that is not behind, where a row's is; sums of before fade. */
template <int HD, int T>
static __device__ __forceinline__ void attn_catch_up(attn_out<HD> &x, const float s[T][4])
{
    float fade[2];

#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = s[0][h];

#pragma unroll
        for (int t = 0; t < T; t++)
            most = fmaxf(most, fmaxf(s[t][h], s[t][2 + h]));
        for (int d = 4; d < 32; d *= 2)
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, d));
        fade[h] = 1;
        if (most > x.max[h] + ATTN_LAG) {
            fade[h] = attn_exp2(x.max[h] - most);
            x.max[h] = most;
        }
        x.sum[h] *= fade[h];
    }
#pragma unroll
    for (int m = 0; m < HD / 16; m++) {
        x.o[m][0] *= fade[0];
        x.o[m][1] *= fade[1];
        x.o[m][2] *= fade[0];
        x.o[m][3] *= fade[1];
    }
}

/* Scores of T times 16 keys become weights, turned for the product with values.  last[t][h]: of
 * these keys, the last that row 2 q + h sees, below 0 where it sees none. */
template <int HD, int T>
static __device__ __forceinline__ void attn_weigh(attn_out<HD> &x, uint32_t p[T][2], float s[T][4],
                                                  const int last[T][2], float scale)
{
    const int g = (int)threadIdx.x % 32 / 4;
    int behind = 0;

#pragma unroll
    for (int t = 0; t < T; t++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            s[t][h] = g <= last[t][h] ? s[t][h] * scale : -INFINITY;
            s[t][2 + h] = g + 8 <= last[t][h] ? s[t][2 + h] * scale : -INFINITY;
            behind |= fmaxf(s[t][h], s[t][2 + h]) > x.max[h] + ATTN_LAG;
        }
    if (__any_sync(0xffffffffu, behind))
        attn_catch_up<HD, T>(x, s);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        /* nothing seen yet: 2^-inf, not of inf - inf */
        const float base = x.max[h] == -INFINITY ? 0 : x.max[h];

#pragma unroll
        for (int t = 0; t < T; t++) {
            s[t][h] = attn_exp2(s[t][h] - base);
            s[t][2 + h] = attn_exp2(s[t][2 + h] - base);
            x.sum[h] += s[t][h] + s[t][2 + h];
        }
    }
#pragma unroll
    for (int t = 0; t < T; t++) {
        p[t][0] = turn_matrix(cu_as_u32(__floats2half2_rn(s[t][0], s[t][1])));
        p[t][1] = turn_matrix(cu_as_u32(__floats2half2_rn(s[t][2], s[t][3])));
    }
}

/* Adds 16 keys. */
template <int HD, int I8>
static __device__ __forceinline__ void attn_add(attn_out<HD> &x, const attn_keys<HD, I8> &r,
                                                const __half *q, const int last[2], float scale)
{
    const int seen[1][2] = { { last[0], last[1] } };
    float s[1][4];
    uint32_t p[1][2];

    attn_scores<HD, I8, 1>(s, &r, q);
    attn_weigh<HD, 1>(x, p, s, seen, scale);
    attn_values<HD>(x, r, p[0]);
}

/* The state of a warp's rows as [hd + 4] floats each: values not yet divided, maximum, sum. */
template <int HD, int I8>
static __device__ __forceinline__ void attn_keep(float *states, const attn_out<HD> &x, int rows)
{
    const int lane = (int)threadIdx.x % 32, g = lane / 4, q = lane % 4;

#pragma unroll
    for (int h = 0; h < 2; h++) {
        float *row = states + (2 * q + h) * (HD + 4), sum = x.sum[h];

        for (int d = 4; d < 32; d *= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, d);
        if (2 * q + h >= rows)
            continue;
#pragma unroll
        for (int m = 0; m < HD / 16; m++)
            *(float2 *)(row + attn_out_d<HD, I8>(g, m)) = make_float2(x.o[m][h], x.o[m][2 + h]);
        if (g == 0) {
            row[HD] = x.max[h];
            row[HD + 1] = sum;
        }
    }
}

#endif
