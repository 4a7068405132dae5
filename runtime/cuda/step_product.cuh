/* Products of the persistent decode kernel: y = x W' with the weights taken from the ring.
 *
 * A block takes up to STEP_UNITS units of 16 rows of W (step_units.cuh) at once, a piece of 1 KB of
 * K after the other; a warp has 128 bytes of each piece.  So what a lane reads of x serves all of
 * the units, and sums live in registers until K is through.
 *
 * Order of codes: gemv.cuh.  With 128 bytes of a row at hand, lane q of a group of four reads units
 * q and q + 4 of 16 bytes, s = 0, 1; unit q + 4 s holds, j = 0 .. J - 1, the 8 values from
 *
 *     k = (2 B + s) C + 32 j + 8 q      B: number of the 128 bytes, C = 32 J
 *
 *   f16  J 1       w8  J 2       w4  J 4
 *
 * Lanes 4 g .. 4 g + 3 have row g / 2 + 4 (g % 2) of the 8 of a box: 8 neighbouring lanes then meet
 * in no bank.
 *
 * Codes of w8, w4 and w4g, unsigned, are the mantissas of subnormal halves, u 2^-24 where the code
 * stands low and u 2^-20 where it is a nibble that stands 4 bits higher, so decoding is one mask or
 * one choice of bytes.  The zero is subtracted from the sum: an operand of ones adds up x once for
 * all rows,
 *
 *     sum (u - zero) x = sum u x - zero sum x
 *
 * for 128 or 256 columns at a time, so that the two stay small.  128 are a group of w4g, whose
 * scale follows (s = 0, 1 are two groups).  Sums of these schemes are in units of 2^-24. */
#ifndef STEP_PRODUCT_CUH
#define STEP_PRODUCT_CUH

#include "runtime/cuda/gemv.cuh"
#include "runtime/cuda/step_units.cuh"

#if __CUDA_ARCH__ >= 900
/* Of the 8 rows of a box, the one whose codes this lane reads. */
static __device__ __forceinline__ int step_row(void)
{
    const int g = (int)threadIdx.x % 32 / 4;

    return g / 2 + g % 2 * 4;
}

static __device__ __forceinline__ void step_mma(float d[4], const uint32_t a[4], uint32_t b0,
                                                uint32_t b1)
{
    cu_mma(d, a[0], a[1], a[2], a[3], b0, b1);
}

static __device__ __forceinline__ void step_mma(int32_t d[4], const uint32_t a[4], uint32_t b0,
                                                uint32_t b1)
{
    cu_mma_s8(d, a[0], a[1], a[2], a[3], b0, b1);
}

/* Chains of sums of a unit: with few units at hand two take turns, so that none waits for itself.
 */
#define STEP_CHAINS(U) ((U) <= STEP_UNITS / 2 ? 2 : 1)

/* Where a warp finds what it has of a stage, all addresses in shared memory. */
typedef struct step_stage {
    uint32_t codes, groups, empty;
} step_stage;

/* 128 bytes of 16 rows of U units: c[s][u], rows of the two boxes. */
template <int U>
static __device__ __forceinline__ void step_load_codes(uint4 c[2][U][2], const step_stage w[U])
{
    const uint32_t q = threadIdx.x % 4, row = (uint32_t)step_row();

#pragma unroll
    for (int s = 0; s < 2; s++)
#pragma unroll
        for (int u = 0; u < U; u++)
#pragma unroll
            for (int b = 0; b < 2; b++)
                c[s][u][b] =
                    load_shared(w[u].codes + b * RING_BOX + row * 128 + (((4 * s + q) ^ row) << 4));
}

/* The stages are read. */
template <int S, int U>
static __device__ __forceinline__ void step_give_back(const step_stage w[U])
{
    if (step_form<S>::givers == 1)
        __syncwarp();
    if (step_form<S>::givers == 32 || threadIdx.x % 32 == 0)
#pragma unroll
        for (int u = 0; u < U; u++)
            bar_arrive(w[u].empty);
}

/* d += 128 bytes of 16 rows of U units times x, an address in shared memory, f16 and w8a8.  The
 * stages are given back when they are read, before the arithmetic is done. */
template <int S, int U>
static __device__ __forceinline__ void step_column(typename step_form<S>::sum d[STEP_UNITS][4],
                                                   const step_stage w[U], uint32_t x)
{
    const int J = step_form<S>::J, P = STEP_CHAINS(U);
    uint4 c[2][U][2], v[2 * J];
    uint32_t o[2][U][4]; /* operands of this step and the next */

    step_load_codes<U>(c, w);
    step_give_back<S, U>(w);
#pragma unroll
    for (int i = 0; i < 2 * J; i++)
        v[i] = load_shared(x + 64 * i);
#pragma unroll
    for (int i = 0; i <= 4 * J; i++) { /* decoding is a step ahead */
#pragma unroll
        for (int u = 0; u < U && i < 4 * J; u++)
#pragma unroll
            for (int b = 0; b < 2; b++)
                gemv_operand<CU_F16>(&c[i / (2 * J)][u][b], i % (2 * J), &o[i % 2][u][b],
                                     &o[i % 2][u][b + 2]);
#pragma unroll
        for (int u = 0; u < U && i > 0; u++) {
            const int k = i - 1;

            step_mma(d[u * P + k % P], o[k % 2][u], word_of(v[k / 2], 2 * (k % 2)),
                     word_of(v[k / 2], 2 * (k % 2) + 1));
        }
    }
}

/* ---- w8, w4, w4g ------------------------------------------------------------------------------
 */

#define STEP_ONE 16777216 /* 2^24 */

template <int S> static __device__ __forceinline__ float step_middle(void)
{
    return S == CU_W8 ? 128 : 8;
}

/* Codes of a word as halves of 2^-24, in two pieces: values 0, 1, 4, 5 and 2, 3, 6, 7 of a word of
 * 8 nibbles, the second 16 times as large; the first and the last 4 of two words of bytes. */
template <int S>
static __device__ __forceinline__ void step_operand(const uint4 &c, int j, int piece, uint32_t *lo,
                                                    uint32_t *hi)
{
    if constexpr (S == CU_W8) {
        const uint32_t v = word_of(c, 2 * j + piece);

        *lo = __byte_perm(v, 0, 0x4140);
        *hi = __byte_perm(v, 0, 0x4342);
    } else {
        const uint32_t v = word_of(c, j), mask = piece ? 0x00f000f0u : 0x000f000fu;

        *lo = v & mask;
        *hi = v >> 8 & mask;
    }
}

/* Scales of this lane's rows, and their zeros taken negative in units of 2^-24: [group][row]. */
typedef struct step_range {
    float scale[2][2], zero[2][2];
} step_range;

template <int G, int H>
static __device__ __forceinline__ void step_load_one(step_range *r, uint32_t scale, uint32_t zero,
                                                     int zeros)
{
    r->scale[G][H] = __half2float(load_half<H * STEP_SCALES + 16 * G>(scale));
    r->zero[G][H] = -step_middle<CU_W4G>() / STEP_ONE;
    if (zeros) /* 0.5 + zero 2^-24 as bits */
        r->zero[G][H] =
            0.5f - __uint_as_float(0x3f000000u | load_byte<H * STEP_ZEROS + 8 * G>(zero));
}

/* at: the stage's.  zeros: it has some; else they are the middle. */
static __device__ __forceinline__ void step_load_range(step_range *r, uint32_t at, int zeros)
{
    const uint32_t warp = threadIdx.x / 32, row = (uint32_t)step_row();
    const uint32_t scale = at + 32 * warp + 2 * row, zero = at + 2 * STEP_SCALES + 16 * warp + row;

    step_load_one<0, 0>(r, scale, zero, zeros);
    step_load_one<0, 1>(r, scale, zero, zeros);
    step_load_one<1, 0>(r, scale, zero, zeros);
    step_load_one<1, 1>(r, scale, zero, zeros);
}

/* step_column for codes.  zeros: there are some beside the scales. */
template <int S, int U>
static __device__ __forceinline__ void step_codes(float d[STEP_UNITS][4], const step_stage w[U],
                                                  int zeros, uint32_t x)
{
    const int J = step_form<S>::J, P = STEP_CHAINS(U), grouped = step_form<S>::groups > 0;
    const uint32_t one2 = 0x3c003c00u, ones[4] = { one2, one2, one2, one2 };
    uint4 c[2][U][2], v[J];
    step_range range[U];
    float sum[2][U][4], ones_x[4];

    step_load_codes<U>(c, w);
#pragma unroll
    for (int u = 0; u < U && grouped; u++)
        step_load_range(&range[u], w[u].groups, zeros);
    step_give_back<S, U>(w);
#pragma unroll
    for (int j = 0; j < J; j++)
        v[j] = load_shared(x + 64 * j);
#pragma unroll
    for (int s = 0; s < 2; s++) {
        if (grouped || s == 0) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                ones_x[i] = 0;
#pragma unroll
            for (int i = 0; i < 8 * U; i++)
                sum[i / (4 * U)][i / 4 % U][i % 4] = 0;
        }
#pragma unroll
        for (int j = 0; j < J; j++)
#pragma unroll
            for (int piece = 0; piece < 2; piece++) {
                const uint4 b = v[j];
                const uint32_t b0 = word_of(b, 2 * piece), b1 = word_of(b, 2 * piece + 1);

                step_mma(ones_x, ones, b0, b1);
#pragma unroll
                for (int u = 0; u < U; u++) {
                    uint32_t o[4];

                    step_operand<S>(c[s][u][0], j, piece, &o[0], &o[2]);
                    step_operand<S>(c[s][u][1], j, piece, &o[1], &o[3]);
                    step_mma(sum[piece][u], o, b0, b1);
                }
                if (s == 0 && piece == 1)
                    v[j] = load_shared(x + 64 * (J + j));
            }
#pragma unroll
        for (int i = 0; i < 4 * U && (grouped || s == 1); i++) {
            const int u = i / 4, e = i % 4;
            const float scale = grouped ? range[u].scale[s][e / 2] : 1;
            const float zero = grouped ? range[u].zero[s][e / 2] : -step_middle<S>() / STEP_ONE;
            const float t = sum[1][u][e] * (S == CU_W8 ? 1.0f : 1.0f / 16) + sum[0][u][e];

            d[u * P + s % P][e] += scale * (t + zero * ones_x[e % 2]);
        }
    }
}

/* Columns c0 .. c1 - 1 of U units; the first is the first one in shared memory. */
template <int S, int U>
static __device__ __forceinline__ void step_pieces(ring *r,
                                                   typename step_form<S>::sum d[STEP_UNITS][4],
                                                   const step_product &a, const step_x &x, int c0,
                                                   int c1)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, J = step_form<S>::J;
    /* tokens too many are not stored */
    uint32_t mine = shared_at(x.shared) + (uint32_t)(2 * min(lane / 4, a.M - 1) * x.ld +
                                                     128 * J * warp + 16 * (lane % 4));

#pragma unroll 1
    for (int c = c0 + warp; c < c1 + warp; c += 8, mine += 1024 * J) {
        step_stage w[U];

#pragma unroll
        for (int u = 0; u < U; u++) {
            int parity;
            const int s = ring_at(*r, u, &parity);

            w[u].codes = shared_at(r->data) + (uint32_t)(s * RING_STAGE + warp * 1024);
            w[u].groups = shared_at(r->beside) + (uint32_t)(s * STEP_GROUPS);
            w[u].empty = r->empty + 8 * s;
            bar_wait(r->full + 8 * s, parity);
        }
        if (c >= c1)
            step_give_back<S, U>(w);
        else if constexpr (S == CU_F16 || S == CU_W8A8)
            step_column<S, U>(d, w, mine);
        else
            step_codes<S, U>(d, w, a.zeros, mine);
        __syncwarp();
        ring_step(r, U);
    }
}

/* What a sum is worth. */
template <int S> static __device__ __forceinline__ typename step_form<S>::sum step_unit(void)
{
    return S == CU_F16 || S == CU_W8A8 ? 1 : STEP_ONE;
}

/* threadIdx.x, anew: what follows from it is not kept in registers until then. */
static __device__ __forceinline__ int step_thread(void)
{
    int i;

    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(i));
    return i;
}

/* A product, by the warps that compute.  out: of this thread in the first units, fetched earlier.
 * sums: two of what step_store wants, which take turns: who has nothing to store goes on to the
 * next units, and nobody is two barriers ahead of who still reads. */
template <int S>
static __device__ __forceinline__ void step_multiply(ring *r, const step_product &a,
                                                     const step_x &x, step_out &out, char *sums)
{
    const int warp = (int)threadIdx.x / 32, row = step_row(), q = (int)threadIdx.x % 4;
    const int units = step_units(a.N, a.epi), begin = step_from(units, (int)blockIdx.x),
              end = step_from(units, (int)blockIdx.x + 1);
    const int cols = a.epi == RT_EPI_SILU_MUL ? 8 : 16, columns = a.row_bytes / 128;
    typedef typename step_form<S>::sum sum_t;
    int turn = 0;

#pragma unroll 1
    for (int u0 = begin; u0 < end; u0 += STEP_UNITS, turn ^= 1) {
        const int n = min(STEP_UNITS, end - u0);
        sum_t *sum = (sum_t *)sums + turn * STEP_UNITS * STEP_WARPS * 16 * a.M;
        sum_t d[STEP_UNITS][4];

#pragma unroll
        for (int i = 0; i < 4 * STEP_UNITS; i++)
            d[i / 4][i % 4] = 0;
        if (u0 > begin)
            step_fetch(&out, a, u0, n, (int)threadIdx.x);
#pragma unroll 1
        for (int c0 = 0; c0 < columns; c0 += x.window) {
            const int c1 = min(c0 + x.window, columns);

            if (x.from && (u0 == begin || x.window < columns)) {
                if (c0 > 0)
                    step_meet(); /* everybody is through with the last one */
                step_gather<S>(x, a, c0);
                step_meet();
            }
            switch (n) {
            case 1:
                step_pieces<S, 1>(r, d, a, x, c0, c1);
                break;
            case 2:
                step_pieces<S, 2>(r, d, a, x, c0, c1);
                break;
            case 3:
                step_pieces<S, 3>(r, d, a, x, c0, c1);
                break;
            default:
                step_pieces<S, 4>(r, d, a, x, c0, c1);
                break;
            }
        }
#pragma unroll
        for (int i = 0; i < 2 * STEP_UNITS && n <= 2; i++)
            d[i / 4][i % 4] = d[i / 4 * 2][i % 4] + d[i / 4 * 2 + 1][i % 4];
#pragma unroll
        for (int u = 0; u < STEP_UNITS; u++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int t = 2 * q + e % 2;

                if (u < n && t < a.M)
                    sum[((u * STEP_WARPS + warp) * a.M + t) * 16 + row + e / 2 * 8] =
                        d[u][e] * step_unit<S>();
            }
        step_meet();
        step_store(a, out, x, sum, u0, n, step_thread());
#pragma unroll 1
        for (int i = (int)threadIdx.x + 32 * STEP_WARPS; i < STEP_UNITS * cols * a.M;
             i += 32 * STEP_WARPS) {
            step_fetch(&out, a, u0, n, i);
            step_store(a, out, x, sum, u0, n, i);
        }
    }
}
#endif

#endif
