/* Binds the arrays of a linear that is quantized by groups: words of codes, words of zeros, scales
 * and the groups of its columns.
 *
 * Each array becomes a slot of its own, stacked over the pieces like the role itself, in the
 * orientation [outputs, ...] that memory has: an array that lies [inputs, outputs] on disk is a
 * transposed segment.  With pw codes in a word and G groups the slots are
 *
 *   qweight   [N, K / pw], or [N / pw, K] where words run along N
 *   qzeros    [N / pw, G]
 *   scales    [N, G]
 *   g_idx     [pieces, K]
 *
 * Shapes follow from config.json and quantization_config, and the stored ones must be those. */
#include <stdio.h>
#include <string.h>

#include "formats/source_impl.h"

int64_t fmt_piece_rows(const fmt_name_row *names, int piece, const fmt_model *m)
{
    const fmt_role_row *role = fmt_role_get(names->role);

    return names->tensor[1] ? fmt_dim_size(role->piece[piece].rows, m) : fmt_role_rows(role, m);
}

typedef struct packed {
    fmt_src *s;
    const fmt_name_row *names;
    int64_t layer, N, K;
    int n_pieces;
    char *used;
} packed;

/* tensor index of one array of a piece, FMT_NONE: absent */
static size_t find(char name[FMT_NAME_CAP], const packed *b, int piece, const char *suffix)
{
    return suffix && fmt_name_make(name, FMT_NAME_CAP, b->names->tensor[piece], b->layer, suffix)
               ? fmt_src_find(b->s, name)
               : FMT_NONE;
}

/* 1: all pieces have the array, 0: none has; *one: the first piece that has it, *other: that has
 * not */
static int count_pieces(const packed *b, const char *suffix, int *one, int *other)
{
    char name[FMT_NAME_CAP];
    int n = 0;

    *one = *other = -1;
    for (int p = 0; p < b->n_pieces; p++) {
        const int has = find(name, b, p, suffix) != FMT_NONE;

        n += has;
        if (has && *one < 0)
            *one = p;
        if (!has && *other < 0)
            *other = p;
    }
    return n == b->n_pieces;
}

/* One array of every piece into its slot.  per: rows of a piece in one row of the slot; cols:
 * columns of the slot. */
static q_status bind_array(const packed *b, fmt_part part, const char *suffix, int64_t per,
                           int64_t cols, q_err *err)
{
    q_status st = Q_OK;
    fmt_src *s = b->s;
    const int turned = s->packing.layout->turned;
    fmt_slot *slot = fmt_src_slot(s, (fmt_ref){ b->names->role, b->layer, part });
    char name[FMT_NAME_CAP];
    int64_t n0 = 0;

    slot->present = 1;
    slot->N = b->N / per;
    slot->K = cols;
    for (int p = 0; p < b->n_pieces; p++) {
        const int64_t rows = fmt_piece_rows(b->names, p, &s->model) / per;
        const size_t i = find(name, b, p, suffix);
        const fmt_tensor *t;

        if (i == FMT_NONE)
            Q_FAIL(err, Q_EFORMAT, "%s: tensor '%s' is missing", s->dir, name);
        t = fmt_src_tensor(s, i);
        Q_TRY(fmt_src_check_shape(s, t, turned ? cols : rows, turned ? rows : cols, err));
        if (part == FMT_QSCALES ? !fmt_dtype_is_float(t->dtype)
                                : t->dtype != FMT_I32 && t->dtype != FMT_U32)
            Q_FAIL(err, Q_EFORMAT, "%s: '%s' is %s, wanted %s", fmt_src_holder(s, i), name,
                   fmt_dtype_st_name(t->dtype), part == FMT_QSCALES ? "F16, BF16 or F32" : "I32");
        if (p > 0 && part == FMT_QSCALES && slot->dtype != t->dtype)
            Q_FAIL(err, Q_EUNSUPPORTED, "%s: '%s' is %s, its sibling is %s: one type is needed",
                   fmt_src_holder(s, i), name, fmt_dtype_st_name(t->dtype),
                   fmt_dtype_st_name(slot->dtype));
        slot->dtype = part == FMT_QSCALES ? t->dtype : FMT_I32;
        fmt_src_use(s, i, b->used);
        Q_TRY(fmt_src_add_seg(s, slot,
                              &(fmt_seg){ .box = { n0, n0 + rows, 0, cols },
                                          .store = i,
                                          .transposed = turned,
                                          .ld = turned ? rows : cols },
                              err));
        n0 += rows;
    }
out:
    return st;
}

/* The group of each column, a row for each piece; absent where groups are in order. */
static q_status bind_g_idx(const packed *b, q_err *err)
{
    q_status st = Q_OK;
    fmt_src *s = b->s;
    const fmt_packing *pk = &s->packing;
    fmt_slot *slot = fmt_src_slot(s, (fmt_ref){ b->names->role, b->layer, FMT_G_IDX });
    char name[FMT_NAME_CAP];
    int one, other;
    const int all = count_pieces(b, pk->layout->g_idx, &one, &other);

    if (!all && (one >= 0 || (pk->desc_act && pk->layout->g_idx))) {
        (void)find(name, b, other, pk->layout->g_idx);
        Q_FAIL(err, Q_EFORMAT, "%s: tensor '%s' is missing%s", s->dir, name,
               one >= 0 ? ", its sibling is there" : ", desc_act needs it");
    }
    if (!all)
        goto out;
    slot->present = 1;
    slot->N = b->n_pieces;
    slot->K = b->K;
    slot->dtype = FMT_I32;
    for (int p = 0; p < b->n_pieces; p++) {
        const size_t i = find(name, b, p, pk->layout->g_idx);
        const fmt_tensor *t = fmt_src_tensor(s, i);

        Q_TRY(fmt_src_check_shape(s, t, b->K, 0, err));
        if (t->dtype != FMT_I32)
            Q_FAIL(err, Q_EFORMAT, "%s: '%s' is %s, wanted I32", fmt_src_holder(s, i), name,
                   fmt_dtype_st_name(t->dtype));
        fmt_src_use(s, i, b->used);
        Q_TRY(fmt_src_add_seg(
            s, slot, &(fmt_seg){ .box = { p, p + 1, 0, b->K }, .store = i, .ld = b->K }, err));
    }
out:
    return st;
}

/* [N, K] that compressed-tensors writes beside the words. */
static q_status check_stored_shape(const packed *b, q_err *err)
{
    q_status st = Q_OK;
    fmt_src *s = b->s;
    char name[FMT_NAME_CAP];

    for (int p = 0; p < b->n_pieces; p++) {
        const size_t i = find(name, b, p, s->packing.layout->shape);
        const int64_t rows = fmt_piece_rows(b->names, p, &s->model);
        int64_t v[2];

        if (i == FMT_NONE)
            continue;
        Q_TRY(fmt_src_check_shape(s, fmt_src_tensor(s, i), 2, 0, err));
        if (fmt_src_tensor(s, i)->dtype != FMT_I64)
            Q_FAIL(err, Q_EFORMAT, "%s: '%s' is %s, wanted I64", fmt_src_holder(s, i), name,
                   fmt_dtype_st_name(fmt_src_tensor(s, i)->dtype));
        Q_TRY(fmt_src_tensor_read(s, i, 0, sizeof v, v, err));
        if (v[0] != rows || v[1] != b->K)
            Q_FAIL(err, Q_ESHAPE, "%s: '%s' says [%lld, %lld], config.json wants [%lld, %lld]",
                   fmt_src_holder(s, i), name, (long long)v[0], (long long)v[1], (long long)rows,
                   (long long)b->K);
        fmt_src_use(s, i, b->used);
    }
out:
    return st;
}

static q_status check_words(const packed *b, int zeros, q_err *err)
{
    const fmt_packing *pk = &b->s->packing;
    const int pw = fmt_packing_per_word(pk);
    char name[FMT_NAME_CAP];

    for (int p = 0; p < b->n_pieces; p++) {
        const int64_t rows = fmt_piece_rows(b->names, p, &b->s->model);

        (void)find(name, b, p, pk->layout->qweight);
        if (!pk->layout->along_n && b->K % pw != 0)
            return q_fail(err, Q_ESHAPE, "%s: '%s': %lld columns are no whole words of %d codes",
                          b->s->dir, name, (long long)b->K, pw);
        if ((pk->layout->along_n || zeros) && rows % pw != 0)
            return q_fail(err, Q_ESHAPE, "%s: '%s': %lld rows are no whole words of %d codes",
                          b->s->dir, name, (long long)rows, pw);
    }
    return Q_OK;
}

/* Words without a configuration that says how to read them, and pieces of two sorts. */
static q_status refuse_mix(const packed *b, int one, int other, q_err *err)
{
    const fmt_packing *pk = &b->s->packing;
    char a[FMT_NAME_CAP], c[FMT_NAME_CAP];

    (void)find(a, b, one, pk->layout->qweight);
    if (!pk->bits)
        return q_fail(
            err, Q_ECONFIG,
            "%s: has '%s' and no quantization_config in config.json that says how to read "
            "it: fetch config.json or quantize_config.json again",
            b->s->dir, a);
    if (!fmt_role_get(b->names->role)->quant)
        return q_fail(err, Q_EUNSUPPORTED,
                      "%s: '%s' is quantized: embedding and head are read in 16 bits only",
                      b->s->dir, a);
    (void)find(c, b, other, ".weight");
    return q_fail(err, Q_EUNSUPPORTED,
                  "%s: '%s' is quantized and '%s' is not: both belong to one product", b->s->dir, a,
                  c);
}

q_status fmt_bind_packed(int *packed_role, fmt_src *s, const fmt_name_row *names, int64_t layer,
                         char *used, q_err *err)
{
    q_status st = Q_OK;
    const fmt_role_row *role = fmt_role_get(names->role);
    const fmt_packing *pk = &s->packing;
    packed b = { .s = s, .names = names, .layer = layer, .used = used };
    fmt_slot *weight = fmt_src_slot(s, (fmt_ref){ names->role, layer, FMT_WEIGHT });
    int one, other, all, zeros;

    *packed_role = 0;
    b.N = fmt_role_rows(role, &s->model);
    b.K = fmt_dim_size(role->cols, &s->model);
    while (b.n_pieces < FMT_MAX_PIECES && names->tensor[b.n_pieces])
        b.n_pieces++;
    all = count_pieces(&b, pk->layout->qweight, &one, &other);
    if (one < 0)
        goto out;
    if (!all || !pk->bits || !role->quant)
        Q_TRY(refuse_mix(&b, one, other, err));
    zeros = pk->layout->sym_zeros || !pk->sym;
    Q_TRY(check_words(&b, zeros, err));
    Q_TRY(bind_array(&b, FMT_QWEIGHT, pk->layout->qweight,
                     pk->layout->along_n ? fmt_packing_per_word(pk) : 1,
                     pk->layout->along_n ? b.K : b.K / fmt_packing_per_word(pk), err));
    if (zeros)
        Q_TRY(bind_array(&b, FMT_QZEROS, pk->layout->qzeros, fmt_packing_per_word(pk),
                         fmt_packing_groups(pk, b.K), err));
    Q_TRY(bind_array(&b, FMT_QSCALES, pk->layout->scales, 1, fmt_packing_groups(pk, b.K), err));
    Q_TRY(bind_g_idx(&b, err));
    if (pk->layout->shape)
        Q_TRY(check_stored_shape(&b, err));
    *weight =
        (fmt_slot){ .dtype = fmt_src_slot(s, (fmt_ref){ names->role, layer, FMT_QSCALES })->dtype,
                    .N = b.N,
                    .K = b.K };
    *packed_role = 1;
out:
    return st;
}
