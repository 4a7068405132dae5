/* The persistent decode kernel: what its host side (step_launch.c) and its kernels (step.cuh)
 * share. */
#ifndef STEP_H
#define STEP_H

#ifdef __cplusplus
extern "C" {
#endif

#include "runtime/cuda/cu_map.h"

#define STEP_LAYERS 48  /* of one launch: the arguments of a kernel end at 32 KB */
#define STEP_WARPS  8   /* that compute; one more copies */
#define STEP_UNITS  4   /* units of 16 rows that a block computes at once */
#define STEP_GROUP  128 /* columns of a group of w4g */
#define STEP_GROUPS 768 /* bytes of scales and zeros of a stage of the ring */

typedef enum step_role { STEP_QKV, STEP_OUT, STEP_GATE_UP, STEP_DOWN, STEP_ROLES } step_role;

typedef struct step_layer {
    CUtensorMap map[STEP_ROLES];
    const float *scale[STEP_ROLES], *bias[STEP_ROLES]; /* or NULL */
    const float *norm1, *norm2, *q_norm, *k_norm;
    union {
        float x_scale[STEP_ROLES];       /* w8a8: as in rt_weight */
        const uint8_t *zero[STEP_ROLES]; /* w4g, whose scales are of groups: or NULL, the middle */
    };
} step_layer;

typedef struct step_shape {
    int N, K, row_bytes;
} step_shape;

/* One launch: the layers first .. first + n_layers - 1 of a model, for n_tok sequences of one token
 * each. */
typedef struct step_args {
    step_layer layer[STEP_LAYERS];
    step_shape w[STEP_ROLES];
    int n_layers, n_tok, stages;
    int n_head, n_kv, group, tiles, hd, pairs, rope_step, rope_gap; /* tiles of 8 heads a group */
    int splits, max_blocks, n_pages, first;
    float eps, mscale, attn_scale;
    float *x;            /* [n_tok, hid] residual stream */
    void *qkv, *att, *h; /* f16 [n_tok, (n_head + 2 n_kv) hd], [n_tok, n_head hd], [n_tok, ffn] */
    void *pages;         /* of all layers */
    const float *k_scale, *v_scale; /* [layers, n_kv] of an int8 cache, else NULL */
    const int32_t *block;           /* [n_seq, max_blocks] */
    const int32_t *pos, *seq;
    const float *inv_freq, *q_scale;
    float *part;       /* [items][8][hd + 4] pieces of split attention */
    int32_t *arrived;  /* [n_tok n_kv tiles] */
    uint32_t *barrier; /* [2] */
    int window;        /* columns of 128 bytes of the input of out and down in shared memory */
    size_t shared;     /* bytes of shared memory: the ring, then x and sums, or attention */
    size_t sums;       /* bytes of x */
} step_args;

q_status cu_step_f16(const cu_be *c, const step_args *a, q_err *err);
q_status cu_step_w8(const cu_be *c, const step_args *a, q_err *err);
q_status cu_step_w8a8(const cu_be *c, const step_args *a, q_err *err);
q_status cu_step_w4(const cu_be *c, const step_args *a, q_err *err);
q_status cu_step_w4g(const cu_be *c, const step_args *a, q_err *err);

#ifdef __cplusplus
}
#endif
#endif
