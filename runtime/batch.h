/* One call of the decoder: tokens of any number of sequences, ragged, over paged KV.
 *
 * Row t of every activation belongs to token t.  Tokens of one sequence are adjacent, in order of
 * position: sequence i owns rows q_start[i] .. q_start[i + 1] - 1.  Prefill, chunked prefill,
 * one-token decode and mixtures are the same call.  The arrays live in backend memory at fixed
 * addresses.
 *
 * KV pages hold RT_PAGE tokens.  Page p of layer l is at
 *     base + ((l * n_pages + p) * 2 + (0 for K, 1 for V)) * n_kv * RT_PAGE * hd  elements,
 * laid out [n_kv][RT_PAGE][hd].  Position j of a sequence is slot j % RT_PAGE of page
 * block[i * max_blocks + j / RT_PAGE].
 *
 * int8 pages hold codes, k = code * k_scale[l, h] and v = code * v_scale[l, h], with
 * code = round_even(k / scale) saturated to -128 .. 127 and 0 for NaN.  A scale belongs to a head,
 * so attention multiplies scores and sums by it, never elements. */
#ifndef RT_BATCH_H
#define RT_BATCH_H

#include <stddef.h>
#include <stdint.h>

#include "formats/dtype.h"

#define RT_PAGE 64

typedef struct rt_batch {
    int n_tok, n_seq;
    int max_blocks;   /* row length of block */
    int32_t *tok;     /* [n_tok] token ids */
    int32_t *pos;     /* [n_tok] absolute position, 0-based */
    int32_t *seq;     /* [n_tok] row of the per-sequence tables */
    int32_t *q_start; /* [n_seq + 1] */
    int32_t *kv_len;  /* [n_seq] tokens in the cache once this call has stored its own */
    int32_t *block;   /* [n_seq, max_blocks] page numbers */
    float *inv_freq;  /* [n_seq, rot / 2] rotary frequencies; dynamic NTK is already inside */
    float *q_scale;   /* [n_tok] logn factor on the query, 1 when off */
} rt_batch;

/* Element format of the KV pages.  One row per format in kv.c. */
typedef struct rt_kv_format {
    const char *name; /* "f32", "f16", "int8" */
    fmt_dtype dtype;
} rt_kv_format;

typedef struct rt_kv {
    const rt_kv_format *format;
    void *base; /* backend memory */
    int64_t n_pages, layers, n_kv, hd;
    const float *k_scale, *v_scale; /* int8: [layers, n_kv] backend memory; else NULL */
} rt_kv;

#endif
