/* Decode attention over an int8 cache: attn_decode.cu's plan with an inner loop for codes, which
 * are half the bytes and so leave half the time for everything else.
 *
 * A warp takes 16 keys of every page through a ring of its own (no barrier until the end): codes
 * arrive in shared memory as they are and become halves in registers, already as operands of the
 * products.  That works because the order of a sum is free:
 *
 *   q k'   depth: of 64 elements lane q = l % 4 has 16 q .. + 15, so 16 bytes of a key are its
 * share of four products; the query is kept in registers in that order p v    columns: value tile d
 * has the elements d, HDP / 8 + d, 2 HDP / 8 + d ..; lane g = l / 4 reads HDP / 8 neighbouring
 * bytes of four keys, its column of every tile
 *
 * In shared memory 16 bytes at chunk c of key r lie at another chunk, so that the lanes that read
 * together meet different banks: keys c ^ 4 (r % 2), values c ^ r % 8. */
#include "runtime/cuda/attn_merge.cuh"

#define KEYS 16 /* of a page, for one warp */

template <int HDP> struct ring {
    static const int chunks = HDP / 16, half = KEYS * HDP; /* bytes of keys, or of values */
    static const int stages = HDP > 128 ? 3 : 4;
    static const int bytes = stages * 2 * half; /* of a warp */
};

/* chunk c of row r: `values` 0 or 1 */
template <int HDP> static __device__ __forceinline__ int chunk_at(int r, int c, int values)
{
    const int n = ring<HDP>::chunks;

    return r * n + (c ^ (values ? r % (n < 8 ? n : 8) : n < 8 ? 0 : r % 2 * 4));
}

static __device__ __forceinline__ void copy8_async(char *to, const void *from, int valid)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(valid ? 8 : 0)
                 : "memory");
}

/* 16 rows of hd bytes, of which n are valid, in the background; what is missing becomes zeros */
template <int HDP>
static __device__ __forceinline__ void load_keys(char *to, const char *rows, int n, int hd,
                                                 int values)
{
    const int per = ring<HDP>::chunks, lane = (int)threadIdx.x % 32;

    if (n >= KEYS && hd == HDP) { /* nearly always: one stretch of memory */
#pragma unroll
        for (int i = 0; i < KEYS * per / 32; i++) {
            const int at = lane + 32 * i;

            copy_async((__half *)(to + 16 * chunk_at<HDP>(at / per, at % per, values)),
                       rows + 16 * at, 1);
        }
        return;
    }
    for (int i = lane; i < KEYS * per * 2; i += 32) { /* hd is a multiple of 8: halves of chunks */
        const int r = i / (2 * per), c = i % (2 * per), valid = r < n && 8 * c < hd;

        copy8_async(to + 16 * chunk_at<HDP>(r, c / 2, values) + c % 2 * 8,
                    valid ? rows + r * hd + 8 * c : rows, valid);
    }
}

/* The warp's keys and values of page j, which is page `id` of the cache. */
template <int HDP>
static __device__ __forceinline__ void load_slice(char *to, const attn_args &a, const attn_rows &w,
                                                  int j, int id)
{
    const int key0 = (int)threadIdx.x / 32 * KEYS, hd = (int)a.kv.hd;
    const int n = w.len - j * RT_PAGE - key0;
    const char *keys = a.kv.base + (((int64_t)id * 2 * a.kv.n_kv + w.head) * RT_PAGE + key0) * hd;

    load_keys<HDP>(to, keys, n, hd, 0);
    load_keys<HDP>(to + ring<HDP>::half, keys + a.kv.n_kv * RT_PAGE * hd, n, hd, 1);
}

/* The query rows g and g + 8 as the left operand: words of step 4 i + s. */
template <int HDP>
static __device__ __forceinline__ void load_query(uint32_t q[HDP / 16][4], const attn_args &a,
                                                  const attn_rows &w)
{
    const int lane = (int)threadIdx.x % 32;

#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int r = lane / 4 + 8 * h;
        const __half *row = a.q + (r < w.n ? row_at(a, w, r) : 0);

#pragma unroll
        for (int i = 0; i < HDP / 32; i++) {
            const int d = i / 2 * 64 + lane % 4 * 16 + i % 2 * 8;
            uint4 v = make_uint4(0, 0, 0, 0);

            if (r < w.n && d < a.kv.hd)
                v = *(const uint4 *)(row + d);
            q[2 * i][h] = v.x;
            q[2 * i][2 + h] = v.y;
            q[2 * i + 1][h] = v.z;
            q[2 * i + 1][2 + h] = v.w;
        }
    }
}

/* Codes of keys r0 and r1 (4 elements each) as the right operand of 4 value tiles: v[e] pairs
 * element e of both. */
static __device__ __forceinline__ void decode_pairs(uint32_t r0, uint32_t r1, uint32_t v[4])
{
    decode_i8(__byte_perm(r0, r1, 0x5140), &v[0], &v[1]);
    decode_i8(__byte_perm(r0, r1, 0x7362), &v[2], &v[3]);
}

static __device__ __forceinline__ uint32_t word(const uint4 &v, int i)
{
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* s[t] = scores of keys 8 t .. 8 t + 7 */
template <int HDP>
static __device__ __forceinline__ void scores(float s[2][4], const uint32_t q[HDP / 16][4],
                                              const char *keys)
{
    const int lane = (int)threadIdx.x % 32;

#pragma unroll
    for (int t = 0; t < 2; t++) {
        s[t][0] = s[t][1] = s[t][2] = s[t][3] = 0;
#pragma unroll
        for (int i = 0; i < HDP / 64; i++) {
            const uint4 v =
                *(const uint4 *)(keys + 16 * chunk_at<HDP>(8 * t + lane / 4, 4 * i + lane % 4, 0));
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const uint32_t *x = q[4 * i + e];
                uint32_t lo, hi;

                decode_i8(word(v, e), &lo, &hi);
                cu_mma(s[t], x[0], x[1], x[2], x[3], lo, hi);
            }
        }
    }
}

/* x.o += p v */
template <int HDP>
static __device__ __forceinline__ void add_values(attn_state<HDP> &x, const uint32_t p[2][2],
                                                  const char *values)
{
    const int lane = (int)threadIdx.x % 32, mine = HDP / 8, n = HDP > 64 ? 4 : 2; /* words */

#pragma unroll
    for (int at = 0; at < mine; at += 16) {
        const int d = lane / 4 * mine + at;
        uint4 v[4];

#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r = lane % 4 * 2 + i % 2 + i / 2 * 8;
            const char *from = values + 16 * chunk_at<HDP>(r, d / 16, 1) + d % 16;

            if (n == 4) {
                v[i] = *(const uint4 *)from;
            } else {
                const uint2 u = *(const uint2 *)from;

                v[i] = make_uint4(u.x, u.y, 0, 0);
            }
        }
#pragma unroll
        for (int i = 0; i < n; i++) {
            uint32_t b0[4], b1[4];

            decode_pairs(word(v[0], i), word(v[1], i), b0);
            decode_pairs(word(v[2], i), word(v[3], i), b1);
#pragma unroll
            for (int e = 0; e < 4; e++)
                cu_mma(x.o[at + 4 * i + e], p[0][0], p[0][1], p[1][0], p[1][1], b0[e], b1[e]);
        }
    }
}

/* Adds 16 keys to the state; rows 8 .. 15 only when there are any.  all: every row sees them. */
template <int HDP>
static __device__ __forceinline__ void attend_slice(attn_state<HDP> &x,
                                                    const uint32_t q[HDP / 16][4],
                                                    const char *slice, const int limit[2], int key0,
                                                    int all, float scale, int rows)
{
    const int lane = (int)threadIdx.x % 32;
    float s[2][4];
    uint32_t p[2][2];

    scores<HDP>(s, q, slice);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = x.max[h], base, fade;

        p[0][h] = p[1][h] = 0;
        if (8 * h >= rows)
            continue;
#pragma unroll
        for (int t = 0; t < 2; t++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float *v = &s[t][2 * h + e];

                *v *= scale;
                if (!all && key0 + 8 * t + lane % 4 * 2 + e > limit[h])
                    *v = -INFINITY;
                most = fmaxf(most, *v);
            }
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
        base = most == -INFINITY ? 0 : most;
        fade = exp2f(x.max[h] - base);
#pragma unroll
        for (int t = 0; t < 2; t++) {
            const float p0 = exp2f(s[t][2 * h] - base), p1 = exp2f(s[t][2 * h + 1] - base);

            x.sum[h] = t == 0 ? x.sum[h] * fade + (p0 + p1) : x.sum[h] + (p0 + p1);
            p[t][h] = cu_as_u32(__floats2half2_rn(p0, p1));
        }
        /* a maximum grows rarely: mostly the whole warp skips this */
        if (__any_sync(0xffffffffu, most != x.max[h]))
#pragma unroll
            for (int d = 0; d < HDP / 8; d++) {
                x.o[d][2 * h] *= fade;
                x.o[d][2 * h + 1] *= fade;
            }
        x.max[h] = most;
    }
    add_values<HDP>(x, p, slice + ring<HDP>::half);
}

template <int HDP>
static __device__ __forceinline__ void attend_codes(attn_state<HDP> &x, const attn_args &a,
                                                    const attn_run &r, char *shared)
{
    const int stages = ring<HDP>::stages, g = (int)threadIdx.x % 32 / 4;
    const int key0 = (int)threadIdx.x / 32 * KEYS, slice = 2 * ring<HDP>::half;
    const int limit[2] = { r.w.start + g / a.group, r.w.start + (g + 8) / a.group };
    const float scale = score_scale(a, r.w.head);
    char *mine = shared + (int)threadIdx.x / 32 * ring<HDP>::bytes;
    const int32_t *pages = a.kv.block + (int64_t)r.w.seq * a.kv.max_blocks;
    uint32_t q[HDP / 16][4];
    int j = r.from, id;

    x.max[0] = x.max[1] = -INFINITY;
    x.sum[0] = x.sum[1] = 0;
#pragma unroll
    for (int d = 0; d < HDP / 8; d++)
        x.o[d][0] = x.o[d][1] = x.o[d][2] = x.o[d][3] = 0;
    /* pages of earlier calls are fetched while the kernel before still runs */
    for (; j < r.from + stages - 1 && j < r.to && (j + 1) * RT_PAGE <= r.w.start; j++) {
        load_slice<HDP>(mine + j % stages * slice, a, r.w, j, pages[j]);
        copy_end();
    }
    cu_wait();
    load_query<HDP>(q, a, r.w);
    for (; j < r.from + stages - 1; j++) {
        if (j < r.to)
            load_slice<HDP>(mine + j % stages * slice, a, r.w, j, pages[j]);
        copy_end();
    }
    id = j < r.to ? pages[j] : 0; /* known one page ahead: a copy waits for nothing */
    for (j = r.from; j < r.to; j++) {
        const int next = j + stages - 1, at = j * RT_PAGE + key0;

        copy_wait<ring<HDP>::stages - 2>();
        __syncwarp(); /* all lanes' copies are there, and all have left the stage that comes next */
        if (next < r.to)
            load_slice<HDP>(mine + next % stages * slice, a, r.w, next, id);
        copy_end();
        id = next + 1 < r.to ? pages[next + 1] : 0;
        attend_slice<HDP>(x, q, mine + j % stages * slice, limit, at, at + KEYS - 1 <= r.w.start,
                          scale, r.w.n);
    }
    for (int h = 0; h < 2; h++) {
        x.sum[h] += __shfl_xor_sync(0xffffffffu, x.sum[h], 1);
        x.sum[h] += __shfl_xor_sync(0xffffffffu, x.sum[h], 2);
    }
}

template <int HDP>
static __global__ void __launch_bounds__(32 * ATTN_WARPS, HDP > 128 ? 2 : 3)
    attn_decode_i8(const attn_args a)
{
    extern __shared__ __align__(16) char codes[];
    attn_state<HDP> x;
    attn_run r;

    if (!find_run(a, &r)) {
        cu_wait(); /* also who has nothing to do: the next kernel relies on it */
        return;
    }
    attend_codes<HDP>(x, a, r, codes);
    __syncthreads(); /* the ring of another warp becomes the place of the states */
    keep_warps<HDP, 1>(x, (float *)codes, r.w.n);
    finish_run<HDP>(a, r, (const float *)codes);
}

template <int HDP> static q_status launch(const cu_be *c, const attn_args *a, q_err *err)
{
    q_status st = Q_OK;
    const int shared = ATTN_WARPS * ring<HDP>::bytes;

    static_assert(sizeof(float) * ATTN_WARPS * ATTN_FEW * (HDP + 2) <=
                      (size_t)ATTN_WARPS * ring<HDP>::bytes,
                  "the merge uses the memory of the rings");
    CU_TRY(cudaFuncSetAttribute(attn_decode_i8<HDP>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                shared));
    CU_LAUNCH(c, attn_decode_i8<HDP>,
              dim3((unsigned)a->n_seq, (unsigned)a->kv.n_kv, (unsigned)a->splits),
              dim3(32 * ATTN_WARPS), (size_t)shared, *a);
out:
    return st;
}

q_status cu_attn_decode_i8(const cu_be *c, const attn_args *a, q_err *err)
{
    switch (ATTN_WIDTH(a->kv.hd)) {
    case 64:
        return launch<64>(c, a, err);
    case 128:
        return launch<128>(c, a, err);
    default:
        return launch<256>(c, a, err);
    }
}
