/* Roles: what a tensor does in a decoder, once for all families.
 *
 *     const fmt_role_row *r = fmt_role_get(FMT_FFN_GATE_UP);
 *     int64_t N = fmt_role_rows(r, model), K = fmt_dim_size(r->cols, model);
 *
 * Files hold pieces under their own names; memory holds the stacked role, [N, K] with the pieces
 * one below the other.  Stacking is along N, everything grouped runs along K, so it is exact for
 * every number format.  Threads: constant tables. */
#ifndef FMT_ROLES_H
#define FMT_ROLES_H

#include <stdint.h>

typedef enum fmt_role {
    FMT_TOK_EMBD,
    FMT_ATTN_NORM,
    FMT_ATTN_QKV,
    FMT_Q_NORM,
    FMT_K_NORM,
    FMT_ATTN_OUT,
    FMT_FFN_NORM,
    FMT_FFN_GATE_UP,
    FMT_FFN_DOWN,
    FMT_OUT_NORM,
    FMT_LM_HEAD,
    FMT_ROLES
} fmt_role;

/* Sizes that depend on the model only. */
typedef enum fmt_dim {
    FMT_D_ONE,
    FMT_D_HID,
    FMT_D_Q,  /* n_head * hd */
    FMT_D_KV, /* n_kv * hd */
    FMT_D_HD,
    FMT_D_FFN,
    FMT_D_VOCAB
} fmt_dim;

/* How tensor-parallel ranks share a role: whole copies, output rows (within each piece), or input
 * columns followed by a sum over ranks. */
typedef enum fmt_split { FMT_COPY, FMT_BY_ROW, FMT_BY_COL } fmt_split;

#define FMT_MAX_PIECES 3

typedef struct fmt_role_row {
    const char *name;
    struct {
        const char *name;
        fmt_dim rows;
    } piece[FMT_MAX_PIECES];
    int n_pieces;
    fmt_dim cols;  /* FMT_D_ONE: a vector */
    int per_layer; /* 0: once in the model */
    int quant;     /* 1: a linear that the schemes quantize */
    fmt_split split;
} fmt_role_row;

struct fmt_model;

const fmt_role_row *fmt_role_get(fmt_role role);
int64_t fmt_dim_size(fmt_dim d, const struct fmt_model *m);
int64_t fmt_role_rows(const fmt_role_row *r,
                      const struct fmt_model *m); /* N: sum over the pieces */

#endif
