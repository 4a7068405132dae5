/* Element types of stored tensors, and conversion of rows between the float types.
 *
 *     fmt_convert(dst, FMT_F16, src, FMT_BF16, n, &n_clipped);
 *
 * One row per type in dtype.c.  Threads: all functions are pure. */
#ifndef FMT_DTYPE_H
#define FMT_DTYPE_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"

typedef enum fmt_dtype {
    FMT_F32,
    FMT_F16,
    FMT_BF16,
    FMT_F64,
    FMT_I8,
    FMT_U8,
    FMT_I16,
    FMT_U16,
    FMT_I32,
    FMT_U32,
    FMT_I64,
    FMT_U64,
    FMT_BOOL,
    FMT_DTYPES
} fmt_dtype;

size_t fmt_dtype_bytes(fmt_dtype t);
const char *fmt_dtype_name(fmt_dtype t);    /* "float16", as configuration files spell it */
const char *fmt_dtype_st_name(fmt_dtype t); /* "F16", as safetensors spells it */
int fmt_dtype_is_float(fmt_dtype t);        /* F32, F16, BF16 */
int fmt_dtype_from_name(const char *name, fmt_dtype *out);    /* 0: unknown; also "torch.float16" */
int fmt_dtype_from_st_name(const char *name, fmt_dtype *out); /* 0: unknown */

/* n elements of a float type into another (or the same) float type, round to nearest even.
 * dst and src must not overlap unless they are equal and of one type.  Finite values outside the
 * range of dst become infinity and are added to *n_clipped (may be NULL). */
void fmt_convert(void *dst, fmt_dtype dst_type, const void *src, fmt_dtype src_type, size_t n,
                 uint64_t *n_clipped);

#endif
