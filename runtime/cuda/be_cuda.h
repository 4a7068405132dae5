/* The CUDA row of the backend table.
 *
 * One GPU, one stream.  Activations are f16, sums f32; the residual stream stays f32: models
 * trained in bf16 have outliers there that pass 65504, and the wider stream costs two reads of one
 * row per layer.  f16 stores saturate, so that such an outlier inside a layer is a bound and not an
 * infinity. f32 and bf16 weights are kept as f16 (a bf16 below 2^-17 loses bits nothing depends
 * on). */
#ifndef BE_CUDA_H
#define BE_CUDA_H

#include "runtime/backend.h"

extern const rt_backend_ops cuda_backend;

#endif
