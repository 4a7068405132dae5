/* One weight as f32, any scheme but w8a8: for the embedding, the plain product and dequantizing. */
#ifndef CU_WEIGHT_CUH
#define CU_WEIGHT_CUH

#include "runtime/cuda/cu_device.cuh"

/* Place of unit o (8 codes) of a row whose chunks have n units: see cu.h. */
static __host__ __device__ __forceinline__ int64_t cu_unit(int64_t o, int n)
{
    return o / n * n + o % 4 * (n / 4) + o % n / 4;
}

typedef struct cu_table {
    const char *data;
    const float *scale; /* [N] or NULL */
    int64_t row_bytes;
    int scheme; /* cu_scheme */
} cu_table;

static inline cu_table cu_table_of(const rt_weight *w)
{
    cu_table t;

    t.data = (const char *)w->data;
    t.scale = w->scale;
    t.row_bytes = w->row_bytes;
    t.scheme = (int)cu_scheme_of(w);
    return t;
}

static __device__ __forceinline__ float cu_weight_at(const cu_table &t, int64_t n, int64_t k)
{
    const char *row = t.data + n * t.row_bytes;

    if (t.scheme == CU_F16)
        return __half2float(((const __half *)row)[k]);
    if (t.scheme == CU_W8)
        return (float)((int)((const uint8_t *)row)[8 * cu_unit(k / 8, 8) + k % 8] - 128) *
               t.scale[n];
    return (float)((int)(((const uint32_t *)row)[cu_unit(k / 8, 16)] >>
                             (4 * (k % 8 / 2) + 16 * (k % 2)) &
                         15) -
                   8) *
           t.scale[n];
}

#endif
