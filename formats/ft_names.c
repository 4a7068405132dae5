/* FT file names and cuts.  The table holds one row per file kind; ranks and layers are loops. */
#include "formats/ft_names.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* How the values of a file lie in its part. */
typedef enum form {
    MATRIX, /* [rows of the pieces, K], cut as the role splits */
    ROWS,   /* one value for each of these rows; whole in a file that all ranks share */
    INPUTS, /* one value for each input, cut like the inputs of a BY_COL role */
    ONE,    /* one value for the pieces of this file */
    HEADS   /* one value for each key/value head */
} form;

typedef struct file_row {
    fmt_role role;
    fmt_part part;
    form form;
    int first, n;     /* pieces of the role in this file */
    unsigned sets;    /* 0: always there; else with any of these sets */
    const char *name; /* '#' layer, '@' rank; files without '@' are shared by all ranks */
} file_row;

#define LAYER "model.layers.#."

/* A part of all linears: its form, for q, k and v another one, and the end of the name, for those
 * split by columns another one.  Rows of one part stand together. */
#define LINEARS(part, form_qkv, form, end, end_col, sets_qkv)                                      \
    { FMT_ATTN_QKV, part, form_qkv, 0, 3, sets_qkv, LAYER "attention.qkv." end },                  \
        { FMT_ATTN_OUT, part, form, 0, 1, FMT_FT_W8A8, LAYER "attention.dense." end_col },         \
        { FMT_FFN_GATE_UP, part, form, 1, 1, FMT_FT_W8A8, LAYER "mlp.w1." end },                   \
        { FMT_FFN_GATE_UP, part, form, 0, 1, FMT_FT_W8A8, LAYER "mlp.w2." end },                   \
    {                                                                                              \
        FMT_FFN_DOWN, part, form, 0, 1, FMT_FT_W8A8, LAYER "mlp.c_proj." end_col                   \
    }

static const file_row file_rows[] = {
    { FMT_TOK_EMBD, FMT_WEIGHT, MATRIX, 0, 1, 0, "vocab_embedding.weight.bin" },
    { FMT_LM_HEAD, FMT_WEIGHT, MATRIX, 0, 1, 0, "lm_head.weight.bin" },
    { FMT_OUT_NORM, FMT_WEIGHT, ROWS, 0, 1, 0, "ln_f.weight.bin" },
    { FMT_ATTN_NORM, FMT_WEIGHT, ROWS, 0, 1, 0, LAYER "ln_1.weight.bin" },
    { FMT_ATTN_QKV, FMT_WEIGHT, MATRIX, 0, 3, 0, LAYER "attention.qkv.weight.@.bin" },
    { FMT_ATTN_QKV, FMT_BIAS, ROWS, 0, 3, 0, LAYER "attention.qkv.bias.@.bin" },
    { FMT_Q_NORM, FMT_WEIGHT, ROWS, 0, 1, 0, LAYER "attention.q_norm.weight.bin" },
    { FMT_K_NORM, FMT_WEIGHT, ROWS, 0, 1, 0, LAYER "attention.k_norm.weight.bin" },
    { FMT_ATTN_OUT, FMT_WEIGHT, MATRIX, 0, 1, 0, LAYER "attention.dense.weight.@.bin" },
    { FMT_FFN_NORM, FMT_WEIGHT, ROWS, 0, 1, 0, LAYER "ln_2.weight.bin" },
    { FMT_FFN_GATE_UP, FMT_WEIGHT, MATRIX, 1, 1, 0, LAYER "mlp.w1.weight.@.bin" }, /* up */
    { FMT_FFN_GATE_UP, FMT_WEIGHT, MATRIX, 0, 1, 0, LAYER "mlp.w2.weight.@.bin" }, /* gate */
    { FMT_FFN_DOWN, FMT_WEIGHT, MATRIX, 0, 1, 0, LAYER "mlp.c_proj.weight.@.bin" },
    LINEARS(FMT_CODES, MATRIX, MATRIX, "weight.int8.@.bin", "weight.int8.@.bin", FMT_FT_W8A8),
    LINEARS(FMT_CODES_COL, MATRIX, MATRIX, "weight.int8.col.@.bin", "weight.int8.col.@.bin",
            FMT_FT_W8A8),
    LINEARS(FMT_SCALE_X, ONE, ONE, "scale_x_orig_quant.bin", "scale_x_orig_quant.bin", FMT_FT_W8A8),
    LINEARS(FMT_SCALE_Y, ONE, ONE, "scale_y_quant_orig.bin", "scale_y_quant_orig.bin",
            FMT_FT_W8A8 | FMT_FT_KV8),
    /* of q, k and v the reference reads a value for each row in any mode */
    LINEARS(FMT_SCALE_W, ROWS, ONE, "scale_w_quant_orig.bin", "scale_w_quant_orig.bin",
            FMT_FT_W8A8),
    LINEARS(FMT_SCALE_ACC, ROWS, ONE, "scale_y_accum_quant.bin", "scale_y_accum_quant.bin",
            FMT_FT_W8A8),
    LINEARS(FMT_SCALE_W_COL, ROWS, ROWS, "scale_w_quant_orig.col.@.bin",
            "scale_w_quant_orig.col.bin", FMT_FT_W8A8),
    LINEARS(FMT_SCALE_ACC_COL, ROWS, ROWS, "scale_y_accum_quant.col.@.bin",
            "scale_y_accum_quant.col.bin", FMT_FT_W8A8),
    { FMT_ATTN_OUT, FMT_SMOOTHER, INPUTS, 0, 1, FMT_FT_W8A8,
      LAYER "attention.dense.smoother.@.bin" },
    { FMT_FFN_DOWN, FMT_SMOOTHER, INPUTS, 0, 1, FMT_FT_W8A8, LAYER "mlp.c_proj.smoother.@.bin" },
    { FMT_ATTN_QKV, FMT_K_SCALE, HEADS, 0, 3, FMT_FT_KV8, LAYER "attention.k_scale.bin" },
    { FMT_ATTN_QKV, FMT_V_SCALE, HEADS, 0, 3, FMT_FT_KV8, LAYER "attention.v_scale.bin" },
};

#define N_ROWS (sizeof file_rows / sizeof file_rows[0])

static int is_there(const file_row *r, const fmt_model *m, unsigned sets)
{
    const fmt_name_row *names = fmt_family_names(m->family, r->role);

    if ((r->role == FMT_LM_HEAD && m->tied) || (r->sets && !(r->sets & sets)))
        return 0;
    return names && (r->part != FMT_BIAS || names->bias);
}

static void make_name(char *out, const char *pattern, int64_t layer, int rank)
{
    char number[24];
    size_t n = 0;

    for (const char *p = pattern; *p; p++) {
        if (*p == '#')
            snprintf(number, sizeof number, "%lld", (long long)layer);
        else if (*p == '@')
            snprintf(number, sizeof number, "%d", rank);
        else
            snprintf(number, sizeof number, "%c", *p);
        assert(n + strlen(number) < FMT_FT_NAME_MAX);
        memcpy(out + n, number, strlen(number) + 1);
        n += strlen(number);
    }
}

/* Rows of the stack, with all columns or one value each. */
static void fill_pieces(fmt_ft_file *f, const file_row *r, const fmt_model *m, int T)
{
    const fmt_role_row *role = fmt_role_get(r->role);
    const int ranked = strchr(r->name, '@') != NULL;
    const int by_row = ranked && role->split == FMT_BY_ROW;
    int64_t n0 = 0, width = 0;

    f->N = fmt_role_rows(role, m);
    f->K = r->form == MATRIX ? fmt_dim_size(role->cols, m) : 1;
    for (int p = 0; p < r->first; p++)
        n0 += fmt_dim_size(role->piece[p].rows, m);
    for (int p = r->first; p < r->first + r->n; p++) {
        const fmt_dim dim = role->piece[p].rows;
        const int64_t rows = fmt_dim_size(dim, m),
                      of = by_row && dim == FMT_D_KV ? fmt_ft_kv_copies(m, T) : 1;
        const int64_t take = by_row ? rows * of / T : rows, skip = by_row ? f->rank / of * take : 0;
        fmt_ft_seg *s = &f->seg[f->n_seg++];

        s->box = (fmt_box){ n0 + skip, n0 + skip + take, 0, f->K };
        if (r->form == MATRIX && role->split == FMT_BY_COL) {
            s->box.k0 = f->rank * (f->K / T);
            s->box.k1 = s->box.k0 + f->K / T;
        }
        s->at = width;
        s->again = by_row && f->rank % of != 0;
        width += take;
        n0 += rows;
    }
    f->rows = f->transposed ? f->seg[0].box.k1 - f->seg[0].box.k0 : width;
    f->cols = f->transposed ? width : f->seg[0].box.k1 - f->seg[0].box.k0;
}

/* Values from .. from + n - 1 of a vector of N. */
static void fill_vector(fmt_ft_file *f, int64_t N, int64_t from, int64_t n)
{
    f->N = N;
    f->K = 1;
    f->n_seg = 1;
    f->seg[0].box = (fmt_box){ from, from + n, 0, 1 };
    f->rows = n;
    f->cols = 1;
}

static void fill(fmt_ft_file *f, const file_row *r, const fmt_model *m, const fmt_ft_layout *l,
                 int64_t layer, int rank)
{
    const fmt_role_row *role = fmt_role_get(r->role);
    const int codes = r->part == FMT_CODES || r->part == FMT_CODES_COL;
    const int64_t inputs = fmt_dim_size(role->cols, m) / l->ranks;

    memset(f, 0, sizeof *f);
    make_name(f->name, r->name, layer, rank);
    f->ref = (fmt_ref){ r->role, layer, r->part };
    f->rank = rank;
    f->dtype = codes ? FMT_I8 : r->sets ? FMT_F32 : l->store;
    f->transposed = role->quant && r->form == MATRIX;
    if (r->form == INPUTS)
        fill_vector(f, inputs * l->ranks, rank * inputs, inputs);
    else if (r->form == ONE)
        fill_vector(f, role->n_pieces / r->n, r->first / r->n, 1);
    else if (r->form == HEADS)
        fill_vector(f, m->n_kv, 0, m->n_kv);
    else
        fill_pieces(f, r, m, l->ranks);
}

/* Files that the row stands for in one layer, or in the model. */
static size_t copies(const file_row *r, const fmt_model *m, int per_layer, const fmt_ft_layout *l)
{
    if (fmt_role_get(r->role)->per_layer != per_layer || !is_there(r, m, l->sets))
        return 0;
    return strchr(r->name, '@') ? (size_t)l->ranks : 1;
}

int fmt_ft_file_at(fmt_ft_file *f, const fmt_model *m, const fmt_ft_layout *l, size_t i)
{
    for (int per_layer = 0; per_layer < 2; per_layer++) {
        const size_t layers = per_layer ? (size_t)m->layers : 1;
        size_t n = 0, layer;

        for (size_t k = 0; k < N_ROWS; k++)
            n += copies(&file_rows[k], m, per_layer, l);
        if (n == 0 || i / n >= layers) {
            i -= n * layers;
            continue;
        }
        layer = i / n;
        i %= n;
        for (size_t k = 0; k < N_ROWS; k++) {
            const size_t c = copies(&file_rows[k], m, per_layer, l);

            if (i < c) {
                fill(f, &file_rows[k], m, l, (int64_t)layer, (int)i);
                return 1;
            }
            i -= c;
        }
    }
    return 0;
}

/* The size *n that T does not divide, NULL: none.  Key/value heads may also divide T: ranks share
 * them. */
static const char *misfit(int64_t *n, const fmt_model *m, int T)
{
    const struct {
        const char *what;
        int64_t n;
        int shared;
    } size[] = { { "attention heads", m->n_head, 0 },
                 { "key/value heads", m->n_kv, 1 },
                 { "MLP width", m->ffn, 0 } };

    for (size_t i = 0; i < sizeof size / sizeof size[0]; i++) {
        *n = size[i].n;
        if (*n % T != 0 && !(size[i].shared && T % *n == 0))
            return size[i].what;
    }
    return NULL;
}

int fmt_ft_kv_copies(const fmt_model *m, int T)
{
    return T > m->n_kv ? (int)(T / m->n_kv) : 1;
}

q_status fmt_ft_check_ranks(const fmt_model *m, int T, q_err *err)
{
    int64_t n = 0, other;
    const char *what = misfit(&n, m, T);
    int best = T;

    while (misfit(&other, m, best))
        best--;
    if (what)
        return q_fail(err, Q_ECONFIG, "%d ranks do not divide %s %lld: use --tensor-parallelism %d",
                      T, what, (long long)n, best);
    return Q_OK;
}
