/* Linears quantized by groups: from the words that a file holds to the form that memory has, and
 * back.
 *
 *     qnt_tensor t;
 *     Q_TRY(qnt_load_grouped(&t, src, FMT_ATTN_QKV, layer, err));       q, k and v stacked
 *
 *     qnt_packed p;
 *     Q_TRY(qnt_pack(&p, &t, n0, n1, &packing, "model.layers.0.self_attn.k_proj", err));
 *     ... p.a[QNT_QWEIGHT].data, [K/8, n1 - n0] i32 ...
 *     ... out: qnt_packed_free(&p);
 *
 * Both ways are exact: codes, zeros, scales and groups are moved, never computed.  What a layout
 * cannot hold is refused.  Threads: OpenMP inside; results do not depend on their number. */
#ifndef QNT_REPACK_H
#define QNT_REPACK_H

#include "formats/source.h"
#include "quant/scheme.h"

/* The role as a w4g or w8g tensor without bias; caller owns *out.  g_idx is NULL where the file's
 * groups are in order.  Errors: Q_EFORMAT (a scale that is not finite; a group out of range; a zero
 * that GPTQ v1 cannot mean; each with its tensor), Q_EUNSUPPORTED (pieces whose columns are grouped
 * differently), those of fmt_src_read, Q_ENOMEM. */
q_status qnt_load_grouped(qnt_tensor *out, const fmt_src *src, fmt_role role, int64_t layer,
                          q_err *err);
/* What decides which layouts can hold a role; reads zeros and groups, a small part of the file.
 * Errors: as above. */
typedef struct qnt_group_facts {
    int zero_min;  /* the smallest zero */
    int sym;       /* 1: every zero is the middle of the range */
    int act_order; /* 1: groups are not in order */
} qnt_group_facts;
q_status qnt_group_facts_read(qnt_group_facts *out, const fmt_src *src, fmt_role role,
                              int64_t layer, q_err *err);

enum { QNT_QWEIGHT, QNT_QZEROS, QNT_SCALES, QNT_G_IDX, QNT_SHAPE, QNT_ARRAYS };

typedef struct qnt_array {
    const char *suffix; /* behind the module's name; NULL: the layout has no such array here */
    const char *dims;   /* what the dimensions count: "K/8,N" */
    fmt_dtype dtype;
    int ndim;
    int64_t shape[2];
    void *data;
} qnt_array;

size_t qnt_array_bytes(const qnt_array *a); /* 0: none */

typedef struct qnt_packed {
    qnt_array a[QNT_ARRAYS];
} qnt_packed;

/* Names, types and shapes of the arrays of a module [N, K], without data.
 * p->desc_act: its groups may be out of order.  Errors (module is named): Q_ESHAPE (no whole
 * words), Q_EUNSUPPORTED (the layout has no groups out of order, or not this number of bits). */
q_status qnt_packed_shapes(qnt_packed *out, const fmt_packing *p, int64_t N, int64_t K,
                           const char *module, q_err *err);
/* The same with data, of rows n0 .. n1 - 1 of t; *out is freed by qnt_packed_free.  Errors: also
 * Q_EUNSUPPORTED (a zero below what the layout can store, a scale that is no f16 value), Q_ENOMEM.
 */
q_status qnt_pack(qnt_packed *out, const qnt_tensor *t, int64_t n0, int64_t n1,
                  const fmt_packing *p, const char *module, q_err *err);
void qnt_packed_free(qnt_packed *p);

/* A hash of codes, zeros, scales and groups: equal when every code is.  For comparing in one
 * process, not for files. */
void qnt_tensor_hash(uint8_t digest[32], const qnt_tensor *t);

#endif
