/* The one door to a device: memory, and the operations of a decoder.
 *
 *     rt_backend *be = NULL;
 *     Q_TRY(rt_backend_open(&be, "cpu", threads, err));
 *     Q_TRY(be->ops->linear(be, &(rt_linear_args){ .x = x, .w = &w, .y = y, .n_tok = n }, err));
 *     ... out: rt_backend_close(be);
 *
 * Backends: "cpu-ref", plain C in float32, the reference of every test; "cpu", the same plus SIMD
 * rows chosen by cpuid; "cuda", an NVIDIA GPU, in builds with nvcc.  Activations have the type
 * ops->act; the residual stream and logits are f32 everywhere.  Operations are enqueued on one
 * stream in call order; none allocates and none waits.  Args structs are shared by all backends and
 * filled with designated initialisers.  All pointers in args are backend memory unless "host" is
 * said. Threads: a backend is driven by one thread. */
#ifndef RT_BACKEND_H
#define RT_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"
#include "formats/family.h"
#include "quant/device.h"
#include "runtime/batch.h"

typedef struct rt_backend rt_backend;
struct rt_comm;

/* A weight prepared for the kernels of one backend.  Made by prep, freed by unprep. */
typedef struct rt_weight {
    const qnt_scheme *scheme;
    int64_t N, K;
    int64_t row_bytes; /* distance of rows in data, may exceed qnt_row_bytes */
    void *data;
    float *scale, *bias; /* [N] or NULL */
    /* Grouped schemes: scales, zeros and the order of columns as the kernels of the backend want
     * them (runtime/cpu/group.h, runtime/cuda/cu.h), or NULL where they are part of data. */
    uint8_t *zero;
    int32_t *g_idx;
    int64_t group;   /* columns that share a scale in data */
    int group_bytes; /* scale and zero of a group, as they are kept */
    float x_scale;   /* w8a8: of the activations; 0: found per token */
} rt_weight;

typedef enum rt_epi {
    RT_EPI_NONE,    /* y  = x W' + b */
    RT_EPI_F32,     /* the same, y f32: logits */
    RT_EPI_ADD,     /* y += x W' + b, y f32: the residual stream */
    RT_EPI_SILU_MUL /* y [n_tok, N/2] = silu(g) * u with [g | u] = x W' + b */
} rt_epi;

typedef enum rt_dir { RT_TO_DEVICE, RT_TO_HOST, RT_ON_DEVICE } rt_dir; /* the last: both are */

typedef struct rt_embed_args {
    const rt_batch *b;
    const rt_weight *w; /* [vocab, hid] */
    void *y;            /* [n_tok, hid] f32 */
} rt_embed_args;

typedef struct rt_rmsnorm_args {
    const float *x;      /* [*, dim] */
    const float *w;      /* [dim] */
    void *y;             /* [n_rows, dim]; may be x when rows is NULL and activations are f32 */
    const int32_t *rows; /* NULL: row i of x; else [n_rows], row rows[i] of x */
    int64_t n_rows, dim;
    double eps; /* y = x / sqrt(mean(x^2) + eps) * w */
    /* The next operation is the product of y with this weight, and nothing else reads y: a backend
     * may keep y in a form of its own and leave y unwritten.  NULL: y is wanted. */
    const rt_weight *reader;
} rt_rmsnorm_args;

typedef struct rt_linear_args {
    const void *x; /* [n_tok, K] */
    const rt_weight *w;
    void *y;   /* [n_tok, N], SILU_MUL: [n_tok, N/2]; not x */
    void *tmp; /* [n_tok, N] scratch, needed by SILU_MUL only */
    int64_t n_tok;
    rt_epi epi;
    int coded; /* 1: the operation before was the rmsnorm of x with w as its reader */
} rt_linear_args;

/* Splits the fused projection, normalises per head where the model does (q_norm, k_norm), rotates q
 * and k, scales q by the logn factor, stores k and v into the pages. */
typedef struct rt_qkv_args {
    const rt_batch *b;
    const fmt_model *m;
    const void *qkv; /* [n_tok, (n_head + 2 n_kv) hd], bias already added */
    void *q;         /* [n_tok, n_head * hd] */
    const rt_kv *kv;
    const float *q_norm, *k_norm; /* [hd] or NULL */
    int layer;
} rt_qkv_args;

typedef struct rt_keys_args {
    const rt_batch *b;
    const rt_kv *kv; /* f32 */
    float *y;
    int64_t n_kv, hd;
    int layer;
} rt_keys_args;

/* Causal attention of each token over positions 0 .. pos of its sequence; scores / sqrt(hd); query
 * head h reads kv head h * n_kv / n_head. */
typedef struct rt_attn_args {
    const rt_batch *b;
    const fmt_model *m;
    const void *q; /* [n_tok, n_head * hd] */
    const rt_kv *kv;
    void *y; /* [n_tok, n_head * hd] */
    int layer;
} rt_attn_args;

typedef struct rt_layer rt_layer; /* model.h */

/* All layers of a step in one call, on the residual stream in place.  Batches in which every
 * sequence has one token; the rest is scratch with the shapes of rt_work (decoder.h). */
typedef struct rt_layers_args {
    const rt_batch *b;
    const fmt_model *m;
    const rt_layer *layer; /* [layers] */
    const rt_kv *kv;
    float *x; /* [n_tok, hid] */
    void *qkv, *att, *h;
} rt_layers_args;

/* How one row is sampled.  Order: repetition penalty (each distinct id of hist once: logit < 0
 * times p, else divided by p), temperature, top-k, top-p (smallest set whose probability reaches
 * top_p, renormalised), draw.  temperature 0 is greedy: the largest logit, the smallest id among
 * equals. */
typedef struct rt_sampling {
    float temperature;        /* 0: greedy */
    float top_p;              /* 1: off */
    float repetition_penalty; /* 1: off */
    int32_t top_k;            /* 0: off */
    uint64_t seed;
} rt_sampling;

typedef struct rt_pick_row {
    rt_sampling s;
    const int32_t *hist; /* ids of prompt and reply so far; used when the penalty is on */
    int32_t n_hist;
    uint64_t stream; /* which sequence: the draw is Philox(seed, stream, pos) */
    uint64_t pos;
} rt_pick_row;

#define RT_PICK_BAD (-1) /* from a backend that does not wait; the CPU fails instead */

typedef struct rt_pick_args {
    float *logits; /* [n_rows, vocab]; overwritten */
    int64_t n_rows, vocab;
    const rt_pick_row *row; /* host, [n_rows] */
    int32_t *out;           /* [n_rows]; RT_PICK_BAD where the logits are not finite */
} rt_pick_args;

/* An array on its way: memory of the backend, or of its host_alloc. */
typedef struct rt_piece {
    void *dst;
    const void *src;
    size_t bytes; /* a multiple of 4 */
} rt_piece;

#define RT_PIECES 8 /* at most, at once */

/* What one step enqueues: the same shapes and addresses whenever it is called. */
typedef q_status (*rt_step_fn)(void *user, q_err *err);

typedef struct rt_backend_ops {
    const char *name;
    fmt_dtype act; /* element type of activations */
    /* Tokens of a step that make products with weights like w as fast as they get. */
    int (*step_tokens)(const rt_weight *w);
    q_status (*open)(rt_backend *be, q_err *err);
    void (*close)(rt_backend *be);
    q_status (*alloc)(rt_backend *be, size_t bytes, void **out, q_err *err);
    void (*free)(rt_backend *be, void *p);
    q_status (*copy)(rt_backend *be, void *dst, const void *src, size_t bytes, rt_dir dir,
                     q_err *err);
    /* Small arrays at once, from and to either side.  A copy waits for what was enqueued before it
     * and is waited for, which costs more than it does itself.  NULL: copy them one by one. */
    q_status (*copy_pieces)(rt_backend *be, const rt_piece *p, int n, q_err *err);
    q_status (*sync)(rt_backend *be, q_err *err);
    /* Host memory that a device reads and writes by itself, several times as fast; a copy from or
     * to it goes on after the call, until a sync.  Freed with host_free, NULL is fine.  NULL: host
     * memory is like any other. */
    q_status (*host_alloc)(rt_backend *be, size_t bytes, void **out, q_err *err);
    void (*host_free)(rt_backend *be, void *p);
    /* Takes the arrays of *src (which is left empty) and brings them into the order of the kernels.
     * Also reserves scratch for this shape, so that later steps need not allocate. */
    q_status (*prep)(rt_backend *be, qnt_tensor *src, rt_weight *dst, q_err *err);
    void (*unprep)(rt_backend *be, rt_weight *w);
    q_status (*embed)(rt_backend *be, const rt_embed_args *a, q_err *err);
    q_status (*rmsnorm)(rt_backend *be, const rt_rmsnorm_args *a, q_err *err);
    q_status (*linear)(rt_backend *be, const rt_linear_args *a, q_err *err);
    q_status (*qkv_rope_store)(rt_backend *be, const rt_qkv_args *a, q_err *err);
    q_status (*attention)(rt_backend *be, const rt_attn_args *a, q_err *err);
    q_status (*pick)(rt_backend *be, const rt_pick_args *a, q_err *err);
    /* Keys as they lie in the pages of a batch, token by token: y [n_tok, n_kv * hd] f32. */
    q_status (*keys)(rt_backend *be, const rt_keys_args *a, q_err *err);
    /* What quantization computes with on this device (quant/device.h); closed before the backend.
     * NULL: on the host. */
    q_status (*math)(rt_backend *be, qnt_dev *out, q_err *err);
    /* Memory of this device takes part in sums over ranks (comm.h): sets c->device, sum and leave.
     * NULL: it is host memory. */
    q_status (*join)(rt_backend *be, struct rt_comm *c, q_err *err);
    /* A weight of floats as f32 rows v [N, K] in device memory, and back, with bias [N] (host,
     * NULL: unchanged).  NULL: use prep. */
    q_status (*weight_get)(rt_backend *be, const rt_weight *w, float *v, q_err *err);
    q_status (*weight_set)(rt_backend *be, const rt_weight *w, const float *v, const float *bias,
                           q_err *err);
    /* The layers of a decode step as one kernel: a chain of operations leaves memory idle at every
     * link, which costs a third of its speed.  *done 0: not for this model or batch, call the
     * operations.  NULL: never. */
    q_status (*layers)(rt_backend *be, const rt_layers_args *a, int *done, q_err *err);
    /* Runs a step, or replays what it enqueued before.  *graph belongs to the caller: NULL before
     * the first call, given back with ungraph.  NULL: launches cost nothing, call the step. */
    q_status (*graph)(rt_backend *be, void **graph, rt_step_fn step, void *user, q_err *err);
    void (*ungraph)(rt_backend *be, void *graph);
    /* mark: what was enqueued before it; wait, with the same slot (0 or 1): until that is done,
     * whatever was enqueued since.  Both or none; with graph and host_alloc. */
    q_status (*mark)(rt_backend *be, int slot, q_err *err);
    q_status (*wait)(rt_backend *be, int slot, q_err *err);
    /* Bytes per second that a large copy inside the device reads and writes; bytes that can still
     * be allocated, and in all; operations per second of dense products, f16 or int8 with f32 or
     * int32 sums, as the maker states them, 0: not known.  NULL: the device is the host. */
    q_status (*bandwidth)(rt_backend *be, double *bytes_s, q_err *err);
    uint64_t (*free_bytes)(rt_backend *be, uint64_t *all);
    double (*peak)(rt_backend *be, int bits);
} rt_backend_ops;

struct rt_backend {
    const rt_backend_ops *ops;
    int threads;     /* of the CPU backends */
    int device;      /* number of the GPU */
    char title[160]; /* what was opened, for people */
    /* Bytes of device memory that are and at most were allocated, counted where ops->free_bytes
     * is; more than max_bytes are refused with Q_ENOMEM, 0: no limit. */
    uint64_t used, peak, max_bytes;
    int64_t n_alloc; /* tests: the n-th allocation from now fails; 0: none does */
    void *impl;      /* of the backend */
};

/* name: a row of the table in backend.c; "cuda:N" is GPU N; "auto" is cuda when a usable GPU
 * exists, else cpu, and title says why.  threads 0: one per core.  Errors: Q_EBACKEND, Q_ENOMEM. */
q_status rt_backend_open(rt_backend **out, const char *name, int threads, q_err *err);
void rt_backend_close(rt_backend *be);

#endif
