/* Making tensor maps.  The function is the driver's; it is asked for through the runtime, so that
 * programs do not link libcuda and start on machines without a GPU. */
#include <string.h>

#include "runtime/cuda/cu_map.h"

typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                              const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                              const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                              CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* A map of bytes: sizes, strides of all dimensions but the first, and the box. */
typedef struct shape {
    cuuint32_t n;
    cuuint64_t size[3], stride[2];
    cuuint32_t box[3];
    CUtensorMapL2promotion promotion; /* as measured for who reads it */
} shape;

static q_status encode(CUtensorMap *out, const void *base, const shape *s, q_err *err)
{
    q_status st = Q_OK;
    const cuuint32_t step[3] = { 1, 1, 1 };
    enum cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    encode_fn fn;
    void *p = NULL, *at;
    CUresult r;

    CU_TRY(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &p, 12000, cudaEnableDefault,
                                            &found));
    if (found != cudaDriverEntryPointSuccess || !p)
        Q_FAIL(err, Q_EBACKEND, "cuda: the driver has no tensor maps: install one for CUDA 12");
    memcpy(&fn, &p, sizeof fn);    /* ISO C has no conversion from void * to a function */
    memcpy(&at, &base, sizeof at); /* and the driver takes what it only reads as not const */
    r = fn(out, CU_TENSOR_MAP_DATA_TYPE_UINT8, s->n, at, s->size, s->stride, s->box, step,
           CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, s->promotion,
           CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (r != CUDA_SUCCESS)
        Q_FAIL(err, Q_EFAIL, "cuda: tensor map of %lld rows of %lld bytes: driver status %d",
               (long long)s->size[1], (long long)s->stride[0], (int)r);
out:
    return st;
}

q_status cu_map_bytes(CUtensorMap *out, const void *base, int64_t rows, int64_t cols,
                      int64_t row_bytes, int box, q_err *err)
{
    return encode(out, base,
                  &(shape){ .n = 2,
                            .size = { (cuuint64_t)cols, (cuuint64_t)rows },
                            .stride = { (cuuint64_t)row_bytes },
                            .box = { 128, (cuuint32_t)box },
                            .promotion = CU_TENSOR_MAP_L2_PROMOTION_L2_256B },
                  err);
}

q_status cu_map_rows(CUtensorMap *out, const void *base, int64_t rows, int64_t cols, q_err *err)
{
    return encode(out, base,
                  &(shape){ .n = 3,
                            .size = { 128, (cuuint64_t)rows, (cuuint64_t)cols / 128 },
                            .stride = { (cuuint64_t)cols, 128 },
                            .box = { 128, 8, 8 },
                            .promotion = CU_TENSOR_MAP_L2_PROMOTION_L2_128B },
                  err);
}
