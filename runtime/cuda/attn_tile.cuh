/* Attention of prompts: 64 query rows over pages of one kv head, on tensor cores, with a running
 * softmax (Milakov and Gimelshein 2018; tiles as in Dao et al. 2022).  And what it shares with
 * attention of few rows (attn_decode.cu): arguments and rows.
 *
 * A page (64 keys, 64 values) is a tile.  It is copied to shared memory as f16, zeros in place of
 * what is beyond the sequence or the head width, while the tile before is computed.  Query rows are
 * the tokens of one sequence times the heads of the group, token by token, so all rows share the
 * keys; each of the 4 warps has 16 of the rows and sees all keys.
 *
 * An int8 cache: the codes of a tile become halves once, on their way into shared memory.  The
 * scale of the head's keys goes into the scores, that of its values into the result.
 *
 * Scores and sums are f32; q, k, p and v enter the products as f16.  Rows of shared memory are 8
 * halves longer than the head, so that ldmatrix meets every bank once. */
#ifndef ATTN_TILE_CUH
#define ATTN_TILE_CUH

#include "runtime/cuda/cu_codes.cuh"
#include "runtime/cuda/cu_kv.cuh"

#define ATTN_WARPS 4
/* what the cache holds, as a parameter of templates */
#define ATTN_F16  0
#define ATTN_F32  1
#define ATTN_I8   2
#define ATTN_TILE 64 /* query rows of prefill */
#define ATTN_FEW  16 /* query rows of decode */

typedef struct attn_args {
    const __half *q; /* [n_tok, n_head * hd] */
    __half *y;
    const int32_t *q_start, *kv_len;
    cu_pages kv;
    const float *k_scale, *v_scale; /* [n_kv] of an int8 cache, else NULL */
    float *part;
    int32_t *arrived;
    float scale;                     /* log2(e) / sqrt(hd) */
    int n_seq, group, splits, least; /* least: pages of a block that does not have all */
} attn_args;

/* what a score of kv head h is multiplied by, and a value: codes are taken as they are */
static __device__ __forceinline__ float score_scale(const attn_args &a, int h)
{
    return a.k_scale ? a.scale * a.k_scale[h] : a.scale;
}

static __device__ __forceinline__ float value_scale(const attn_args &a, int h)
{
    return a.v_scale ? a.v_scale[h] : 1.0f;
}

/* The rows of one sequence and kv head. */
typedef struct attn_rows {
    int seq, head;    /* kv head */
    int first, n;     /* row 0 of the tile, rows of it */
    int token, start; /* batch row and position of the sequence's first token in this call */
    int len;          /* of the cache */
} attn_rows;

/* The tile-th piece of `size` rows among the sequences; 0: there are fewer. */
static __device__ __forceinline__ int find_tile(const attn_args &a, int tile, int size, int head,
                                                attn_rows *w)
{
    for (int s = 0; s < a.n_seq; s++) {
        const int token = a.q_start[s], n_tok = a.q_start[s + 1] - token, rows = n_tok * a.group;
        const int tiles = rows <= ATTN_FEW ? 0 : (rows + size - 1) / size;

        if (tile < tiles) {
            tile = tiles - 1 - tile; /* the longest first */
            w->seq = s;
            w->head = head;
            w->first = tile * size;
            w->n = min(rows - w->first, size);
            w->token = token;
            w->len = a.kv_len[s];
            w->start = w->len - n_tok;
            return 1;
        }
        tile -= tiles;
    }
    return 0;
}

static __device__ __forceinline__ void load_matrix(uint32_t r[4], const __half *p)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(p)));
}

static __device__ __forceinline__ void load_matrix_turned(uint32_t r[4], const __half *p)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(p)));
}

/* 16 bytes to shared memory in the background; not from: zeros */
static __device__ __forceinline__ void copy_async(__half *to, const void *from, int valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
}

static __device__ __forceinline__ void copy_end(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int LEFT> static __device__ __forceinline__ void copy_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

/* The codes of a page on their way: a thread's 8 at a time, in registers while the tile before is
 * computed, then as halves in shared memory. */
template <int HDP> struct codes_page {
    static const int per_row = HDP / 8, n = RT_PAGE * per_row / (32 * ATTN_WARPS);
    uint2 v[n];
};

template <int HDP>
static __device__ __forceinline__ void fetch_page(codes_page<HDP> &c, const char *page, int n,
                                                  int hd)
{
#pragma unroll
    for (int i = 0; i < c.n; i++) {
        const int at = (int)threadIdx.x + 32 * ATTN_WARPS * i;
        const int r = at / c.per_row, d = at % c.per_row * 8;

        c.v[i] = r < n && d < hd ? *(const uint2 *)(page + r * hd + d) : make_uint2(0, 0);
    }
}

template <int HDP>
static __device__ __forceinline__ void put_page(__half *to, const codes_page<HDP> &c)
{
#pragma unroll
    for (int i = 0; i < c.n; i++) {
        const int at = (int)threadIdx.x + 32 * ATTN_WARPS * i;
        uint4 h;

        cu_decode_i8(c.v[i].x, &h.x, &h.y);
        cu_decode_i8(c.v[i].y, &h.z, &h.w);
        *(uint4 *)(to + at / c.per_row * (HDP + 8) + at % c.per_row * 8) = h;
    }
}

/* n valid rows of hd elements into 64 rows of HDP + 8 halves */
template <int HDP, int KV>
static __device__ __forceinline__ void load_page(__half *to, const char *page, int n, int hd)
{
    const int per_row = HDP / 8;

    for (int i = (int)threadIdx.x; i < RT_PAGE * per_row; i += 32 * ATTN_WARPS) {
        const int r = i / per_row, at = i % per_row * 8, valid = r < n && at < hd;
        __half *dst = to + r * (HDP + 8) + at;

        if (KV == ATTN_F32) {
            __align__(16) __half v[8];

            for (int e = 0; e < 8; e++)
                v[e] = cu_half(valid ? ((const float *)page)[r * hd + at + e] : 0.0f);
            *(uint4 *)dst = *(const uint4 *)v;
        } else {
            copy_async(dst, valid ? page + 2 * (r * hd + at) : page, valid);
        }
    }
}

/* a row's address in [n_tok, n_head * hd] */
static __device__ __forceinline__ int64_t row_at(const attn_args &a, const attn_rows &w, int r)
{
    const int at = w.first + r;
    const int64_t heads = a.kv.n_kv * a.group;

    return ((w.token + at / a.group) * heads + w.head * a.group + at % a.group) * a.kv.hd;
}

template <int HDP>
static __device__ __forceinline__ void load_rows(__half *to, const attn_args &a, const attn_rows &w,
                                                 int n)
{
    const int per_row = HDP / 8, hd = (int)a.kv.hd;

    for (int i = (int)threadIdx.x; i < n * per_row; i += 32 * ATTN_WARPS) {
        const int r = i / per_row, at = i % per_row * 8, valid = r < w.n && at < hd;

        copy_async(to + r * (HDP + 8) + at, valid ? a.q + row_at(a, w, r) + at : a.q, valid);
    }
}

/* What a warp knows of its 16 rows: lane l holds rows l / 4 and l / 4 + 8. */
template <int HDP> struct attn_state {
    float max[2], sum[2];
    float o[HDP / 8][4];
};

/* Adds 8 KT keys of a page to the state.  k, v: rows of those keys; key0: position of the first. */
template <int HDP, int KT>
static __device__ __forceinline__ void attend(attn_state<HDP> &x, const __half *q, const __half *k,
                                              const __half *v, const int limit[2], int key0,
                                              float scale)
{
    const int lane = (int)threadIdx.x % 32, ld = HDP + 8;
    float s[KT][4];
    uint32_t p[KT][2];

#pragma unroll
    for (int t = 0; t < KT; t++)
        s[t][0] = s[t][1] = s[t][2] = s[t][3] = 0;
#pragma unroll
    for (int d = 0; d < HDP; d += 16) {
        uint32_t a[4], b[4];

        load_matrix(a, q + lane % 16 * ld + d + lane / 16 * 8);
#pragma unroll
        for (int t = 0; t < KT; t += 2) {
            load_matrix(b, k + (8 * t + lane % 8 + lane / 16 * 8) * ld + d + lane / 8 % 2 * 8);
            cu_mma(s[t], a[0], a[1], a[2], a[3], b[0], b[1]);
            cu_mma(s[t + 1], a[0], a[1], a[2], a[3], b[2], b[3]);
        }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = x.max[h], base, fade, sum = 0;

#pragma unroll
        for (int t = 0; t < KT; t++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float *v1 = &s[t][2 * h + e];

                *v1 = key0 + 8 * t + lane % 4 * 2 + e <= limit[h] ? *v1 * scale : -INFINITY;
                most = fmaxf(most, *v1);
            }
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
        base = most == -INFINITY ? 0 : most; /* nothing seen yet: exp2(-inf), not of inf - inf */
        fade = exp2f(x.max[h] - base);
#pragma unroll
        for (int t = 0; t < KT; t++) {
            const float p0 = exp2f(s[t][2 * h] - base), p1 = exp2f(s[t][2 * h + 1] - base);

            sum += p0 + p1;
            p[t][h] = cu_as_u32(__floats2half2_rn(p0, p1));
        }
        x.max[h] = most;
        x.sum[h] =
            x.sum[h] * fade + sum; /* of this lane's keys: the four lanes add up at the end */
#pragma unroll
        for (int d = 0; d < HDP / 8; d++) {
            x.o[d][2 * h] *= fade;
            x.o[d][2 * h + 1] *= fade;
        }
    }
#pragma unroll
    for (int t = 0; t < KT; t += 2)
#pragma unroll
        for (int d = 0; d < HDP; d += 16) {
            uint32_t b[4];

            load_matrix_turned(b, v + (8 * t + lane % 16) * ld + d + lane / 16 * 8);
            cu_mma(x.o[d / 8], p[t][0], p[t][1], p[t + 1][0], p[t + 1][1], b[0], b[1]);
            cu_mma(x.o[d / 8 + 1], p[t][0], p[t][1], p[t + 1][0], p[t + 1][1], b[2], b[3]);
        }
}

/* Keys and values of page j of a sequence, side by side. */
template <int HDP, int KV>
static __device__ __forceinline__ void load_pages(__half *to, const attn_args &a,
                                                  const attn_rows &w, int j)
{
    const int hd = (int)a.kv.hd, n = w.len - j * RT_PAGE;

    load_page<HDP, KV>(to, cu_page(a.kv, w.seq, j, 0, w.head), n, hd);
    load_page<HDP, KV>(to + RT_PAGE * (HDP + 8), cu_page(a.kv, w.seq, j, 1, w.head), n, hd);
}

/* The first `pages`.  shared: HDP + 8 halves a row: ATTN_TILE of q, then stages of K and V. */
template <int HDP, int KV>
static __device__ __forceinline__ void attend_pages(attn_state<HDP> &x, const attn_args &a,
                                                    const attn_rows &w, __half *shared, int pages)
{
    const int ld = HDP + 8, stages = HDP > 128 ? 1 : 2, hd = (int)a.kv.hd;
    const int warp = (int)threadIdx.x / 32, g = (int)threadIdx.x % 32 / 4;
    const float scale = score_scale(a, w.head);
    __half *page = shared + ATTN_TILE * ld;
    const __half *q = shared + warp * 16 * ld;
    int limit[2];

    for (int h = 0; h < 2; h++) {
        const int r = w.first + warp * 16 + g + 8 * h;

        limit[h] = w.start + r / a.group; /* rows past the end see something too; never stored */
        x.max[h] = -INFINITY;
        x.sum[h] = 0;
    }
#pragma unroll
    for (int d = 0; d < HDP / 8; d++)
        x.o[d][0] = x.o[d][1] = x.o[d][2] = x.o[d][3] = 0;
    load_rows<HDP>(shared, a, w, ATTN_TILE);
    for (int j = 1 - stages; j < pages; j++) {
        const int next = j + stages - 1;
        __half *const into = page + next % stages * 2 * RT_PAGE * ld;
        codes_page<KV == ATTN_I8 ? HDP : 16> kc, vc; /* not int8: never touched */

        if constexpr (KV == ATTN_I8) {
            if (next < pages) {
                fetch_page(kc, cu_page(a.kv, w.seq, next, 0, w.head), w.len - next * RT_PAGE, hd);
                fetch_page(vc, cu_page(a.kv, w.seq, next, 1, w.head), w.len - next * RT_PAGE, hd);
            }
            if (next < pages && (stages == 1 || j < 0)) {
                put_page(into, kc);
                put_page(into + RT_PAGE * ld, vc);
            }
        } else if (next < pages) {
            load_pages<HDP, KV>(into, a, w, next);
        }
        copy_end();
        if (j < 0)
            continue;
        copy_wait<HDP <= 128>(); /* all but the newest, or all */
        __syncthreads();
        {
            const __half *k = page + j % stages * 2 * RT_PAGE * ld, *v = k + RT_PAGE * ld;

            attend<HDP, RT_PAGE / 8>(x, q, k, v, limit, j * RT_PAGE, scale);
        }
        if constexpr (KV == ATTN_I8) /* into the stage that was computed before this one */
            if (next < pages && stages > 1) {
                put_page(into, kc);
                put_page(into + RT_PAGE * ld, vc);
            }
        __syncthreads(); /* the next copy overwrites this stage */
    }
    for (int h = 0; h < 2; h++) {
        x.sum[h] += __shfl_xor_sync(0xffffffffu, x.sum[h], 1);
        x.sum[h] += __shfl_xor_sync(0xffffffffu, x.sum[h], 2);
    }
}

#define ATTN_SHARED(hdp)                                                                           \
    (sizeof(__half) * (size_t)((hdp) + 8) *                                                        \
     (size_t)(ATTN_TILE + ((hdp) > 128 ? 1 : 2) * 2 * RT_PAGE))

/* widths of the template: heads are filled up to the next one */
#define ATTN_WIDTH(hd) ((hd) <= 64 ? 64 : (hd) <= 128 ? 128 : 256)

/* Decode: pages of which a warp has keys in registers at a time, and blocks that then fit an SM.
 * One page of f16 and four blocks, two of int8 and three: twice the pages, or spilled registers for
 * another block, cost 5 to 25 %. */
#define ATTN_TILES(hdp, kv)  ((hdp) == 64 || ((hdp) == 128 && (kv) == ATTN_I8) ? 2 : 1)
#define ATTN_BLOCKS(hdp, kv) ((hdp) > 128 ? 2 : (hdp) == 128 && (kv) != ATTN_F16 ? 3 : 4)

/* kv: one of ATTN_F16 .. */
q_status cu_attn_decode(const cu_be *c, const attn_args *a, int kv, q_err *err);
q_status cu_attn_prefill(const cu_be *c, const attn_args *a, int n_tok, int kv, q_err *err);
/* sm_90 alone: an f16 cache of n_pages, heads of at most 128 */
q_status cu_attn_wgmma(const cu_be *c, const attn_args *a, int64_t n_pages, int n_tok, q_err *err);
#define ATTN_WGMMA_PAGES(n_kv)                                                                     \
    (INT32_MAX / (2 * RT_PAGE) / (n_kv)) /* rows are counted in 32 bits */

#endif
