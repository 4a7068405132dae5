/* Shapes against groups, words and ranks. */
#include "calibrate/quant_fit.h"

#include <stdio.h>

#include "formats/ft_names.h"

/* The linear whose inputs T ranks cannot share in whole groups; FMT_ROLES: there is none. */
static fmt_role misfit(const fmt_model *m, int64_t group, int T)
{
    for (int i = 0; i < FMT_ROLES; i++) {
        const fmt_role_row *row = fmt_role_get((fmt_role)i);
        const int64_t K = fmt_dim_size(row->cols, m);

        if (row->quant && row->split == FMT_BY_COL &&
            (K % T != 0 || (T > 1 && group > 0 && K / T % group != 0)))
            return (fmt_role)i;
    }
    return FMT_ROLES;
}

int cal_quant_shares(const fmt_model *m, int64_t group, int ranks)
{
    return fmt_ft_check_ranks(m, ranks, NULL) == Q_OK && misfit(m, group, ranks) == FMT_ROLES;
}

int64_t cal_quant_smaller_group(const fmt_model *m, int64_t group, int ranks)
{
    for (int64_t g = 128; g >= 32; g /= 2)
        if (g < group && cal_quant_shares(m, g, ranks))
            return g;
    return 0;
}

static q_status refuse_ranks(const fmt_model *m, fmt_role role, int64_t group, int T, q_err *err)
{
    const int64_t K = fmt_dim_size(fmt_role_get(role)->cols, m);
    const int64_t smaller = cal_quant_smaller_group(m, group, T);
    char other[64] = "";
    int fewer = T - 1;

    while (!cal_quant_shares(m, group, fewer)) /* 1 always fits */
        fewer--;
    if (smaller)
        snprintf(other, sizeof other, ", or --group-size %lld", (long long)smaller);
    return q_fail(err, Q_ECONFIG,
                  "%d ranks do not divide the %lld%s groups of %lld inputs of %s: use "
                  "--tensor-parallelism %d%s",
                  T, (long long)(K / group), K % group ? " and a half" : "", (long long)group,
                  fmt_role_get(role)->name, fewer, other);
}

/* Every tensor of a role has words of its own. */
static q_status check_words(const fmt_src *src, fmt_role role, int bits, q_err *err)
{
    const fmt_model *m = fmt_src_model(src);
    const fmt_name_row *names = fmt_family_names(m->family, role);
    const int64_t K = fmt_dim_size(fmt_role_get(role)->cols, m), per_word = 32 / bits;
    int64_t n0 = 0;

    for (int p = 0; p < FMT_MAX_PIECES && names->tensor[p]; p++) {
        const int64_t N = fmt_piece_rows(names, p, m);

        if (N % per_word || K % per_word)
            return q_fail(err, Q_ESHAPE,
                          "%s: [%lld, %lld]: %d-bit codes are kept in words of %lld, which divide "
                          "both numbers: %s",
                          fmt_src_name(src, (fmt_ref){ role, 0, FMT_WEIGHT }, n0), (long long)N,
                          (long long)K, bits, (long long)per_word,
                          N % 4 || K % 4 || bits == 8 ? "leave this model in 16 bits"
                                                      : "use --bits 8");
        n0 += N;
    }
    return Q_OK;
}

q_status cal_quant_fit(const fmt_src *src, int bits, int64_t group, int ranks, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = fmt_src_model(src);
    fmt_role role;

    for (int i = 0; i < FMT_ROLES; i++)
        if (fmt_role_get((fmt_role)i)->quant)
            Q_TRY(check_words(src, (fmt_role)i, bits, err));
    Q_TRY(fmt_ft_check_ranks(m, ranks, err));
    if ((role = misfit(m, group, ranks)) != FMT_ROLES)
        Q_TRY(refuse_ranks(m, role, group, ranks, err));
out:
    return st;
}
