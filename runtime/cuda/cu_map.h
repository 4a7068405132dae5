/* Tensor maps: how the copy engine of sm_90 sees a matrix of bytes in device memory.
 *
 *     CUtensorMap map;
 *     Q_TRY(cu_map_bytes(&map, base, rows, cols, row_bytes, 128, err));
 *     kernel<<<...>>>(map, ...);                      (as a __grid_constant__ parameter)
 *
 * A box is 128 bytes of `box` rows; it lands in shared memory with the 128-byte swizzle that wgmma
 * reads: 16 bytes at c of row r lie at c ^ (r % 8) of their 128.  What is outside the matrix
 * becomes zeros.  base and row_bytes are multiples of 16.  Source: CUDA driver API, tensor map
 * object. */
#ifndef CU_MAP_H
#define CU_MAP_H

#include <cuda.h>

#include "runtime/cuda/cu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Errors: Q_EBACKEND (the driver is too old), Q_EFAIL. */
q_status cu_map_bytes(CUtensorMap *out, const void *base, int64_t rows, int64_t cols,
                      int64_t row_bytes, int box, q_err *err);

/* The same matrix in three dimensions, 128 bytes, rows, columns of 128 bytes: a box is 1 KB of 8
 * rows, so that a kernel that only streams asks for more at once.  cols is a multiple of 128. */
q_status cu_map_rows(CUtensorMap *out, const void *base, int64_t rows, int64_t cols, q_err *err);

#ifdef __cplusplus
}
#endif
#endif
