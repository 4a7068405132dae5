/* FT file names and cuts.  The table holds one row per file kind; ranks and layers are loops. */
#include "formats/ft_names.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

typedef struct file_row {
    fmt_role role;
    fmt_part part;
    int first, n;     /* pieces of the role in this file */
    const char *name; /* '#' layer, '@' rank; files without '@' are shared by all ranks */
} file_row;

static const file_row file_rows[] = {
    { FMT_TOK_EMBD, FMT_WEIGHT, 0, 1, "vocab_embedding.weight.bin" },
    { FMT_LM_HEAD, FMT_WEIGHT, 0, 1, "lm_head.weight.bin" },
    { FMT_OUT_NORM, FMT_WEIGHT, 0, 1, "ln_f.weight.bin" },
    { FMT_ATTN_NORM, FMT_WEIGHT, 0, 1, "model.layers.#.ln_1.weight.bin" },
    { FMT_ATTN_QKV, FMT_WEIGHT, 0, 3, "model.layers.#.attention.qkv.weight.@.bin" },
    { FMT_ATTN_QKV, FMT_BIAS, 0, 3, "model.layers.#.attention.qkv.bias.@.bin" },
    { FMT_Q_NORM, FMT_WEIGHT, 0, 1, "model.layers.#.attention.q_norm.weight.bin" },
    { FMT_K_NORM, FMT_WEIGHT, 0, 1, "model.layers.#.attention.k_norm.weight.bin" },
    { FMT_ATTN_OUT, FMT_WEIGHT, 0, 1, "model.layers.#.attention.dense.weight.@.bin" },
    { FMT_FFN_NORM, FMT_WEIGHT, 0, 1, "model.layers.#.ln_2.weight.bin" },
    { FMT_FFN_GATE_UP, FMT_WEIGHT, 1, 1, "model.layers.#.mlp.w1.weight.@.bin" }, /* up */
    { FMT_FFN_GATE_UP, FMT_WEIGHT, 0, 1, "model.layers.#.mlp.w2.weight.@.bin" }, /* gate */
    { FMT_FFN_DOWN, FMT_WEIGHT, 0, 1, "model.layers.#.mlp.c_proj.weight.@.bin" },
};

#define N_ROWS (sizeof file_rows / sizeof file_rows[0])

static int in_family(const file_row *r, const fmt_model *m)
{
    const fmt_name_row *names = fmt_family_names(m->family, r->role);

    if (r->role == FMT_LM_HEAD && m->tied)
        return 0;
    return names && (r->part == FMT_WEIGHT || names->bias);
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

static void fill(fmt_ft_file *f, const file_row *r, const fmt_model *m, int T, int64_t layer,
                 int rank)
{
    const fmt_role_row *role = fmt_role_get(r->role);
    const int64_t K = r->part == FMT_BIAS ? 1 : fmt_dim_size(role->cols, m);
    const int by_row = role->split == FMT_BY_ROW, by_col = role->split == FMT_BY_COL;
    int64_t n0 = 0, width = 0;

    memset(f, 0, sizeof *f);
    make_name(f->name, r->name, layer, rank);
    f->ref = (fmt_ref){ r->role, layer, r->part };
    f->rank = rank;
    f->transposed = role->quant && r->part == FMT_WEIGHT;
    for (int p = 0; p < r->first; p++)
        n0 += fmt_dim_size(role->piece[p].rows, m);
    for (int p = r->first; p < r->first + r->n; p++) {
        const fmt_dim dim = role->piece[p].rows;
        const int64_t rows = fmt_dim_size(dim, m),
                      of = dim == FMT_D_KV ? fmt_ft_kv_copies(m, T) : 1;
        const int64_t take = by_row ? rows * of / T : rows, skip = by_row ? rank / of * take : 0;
        fmt_ft_seg *s = &f->seg[f->n_seg++];

        s->box = (fmt_box){ n0 + skip, n0 + skip + take, 0, K };
        if (by_col) {
            s->box.k0 = rank * (K / T);
            s->box.k1 = s->box.k0 + K / T;
        }
        s->at = width;
        s->again = rank % of != 0;
        width += take;
        n0 += rows;
    }
    f->rows = f->transposed ? f->seg[0].box.k1 - f->seg[0].box.k0 : width;
    f->cols = f->transposed ? width : f->seg[0].box.k1 - f->seg[0].box.k0;
}

/* Files that the row stands for in one layer, or in the model. */
static size_t copies(const file_row *r, const fmt_model *m, int per_layer, int T)
{
    if (fmt_role_get(r->role)->per_layer != per_layer || !in_family(r, m))
        return 0;
    return strchr(r->name, '@') ? (size_t)T : 1;
}

int fmt_ft_file_at(fmt_ft_file *f, const fmt_model *m, int T, size_t i)
{
    for (int per_layer = 0; per_layer < 2; per_layer++) {
        const size_t layers = per_layer ? (size_t)m->layers : 1;
        size_t n = 0, layer;

        for (size_t k = 0; k < N_ROWS; k++)
            n += copies(&file_rows[k], m, per_layer, T);
        if (n == 0 || i / n >= layers) {
            i -= n * layers;
            continue;
        }
        layer = i / n;
        i %= n;
        for (size_t k = 0; k < N_ROWS; k++) {
            const size_t c = copies(&file_rows[k], m, per_layer, T);

            if (i < c) {
                fill(f, &file_rows[k], m, T, (int64_t)layer, (int)i);
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
