/* Every tensor of a decoder, once.  Adding a role: a row here, rows in the families that have it,
 * a file row in ft_names.c, and its use in runtime/decoder.c. */
#include "formats/roles.h"

#include <assert.h>

#include "formats/family.h"

#define ONE(rows) { { "", rows } }, 1

static const fmt_role_row role_rows[FMT_ROLES] = {
    /*                    name        pieces by rows                cols        layer quant split */
    [FMT_TOK_EMBD] = { "tok_embd", ONE(FMT_D_VOCAB), FMT_D_HID, 0, 0, FMT_COPY },
    [FMT_ATTN_NORM] = { "attn_norm", ONE(FMT_D_HID), FMT_D_ONE, 1, 0, FMT_COPY },
    [FMT_ATTN_QKV] = { "attn_qkv",
                       { { "q", FMT_D_Q }, { "k", FMT_D_KV }, { "v", FMT_D_KV } },
                       3,
                       FMT_D_HID,
                       1,
                       1,
                       FMT_BY_ROW },
    [FMT_Q_NORM] = { "q_norm", ONE(FMT_D_HD), FMT_D_ONE, 1, 0, FMT_COPY },
    [FMT_K_NORM] = { "k_norm", ONE(FMT_D_HD), FMT_D_ONE, 1, 0, FMT_COPY },
    [FMT_ATTN_OUT] = { "attn_out", { { "o", FMT_D_HID } }, 1, FMT_D_Q, 1, 1, FMT_BY_COL },
    [FMT_FFN_NORM] = { "ffn_norm", ONE(FMT_D_HID), FMT_D_ONE, 1, 0, FMT_COPY },
    [FMT_FFN_GATE_UP] = { "ffn_gate_up",
                          { { "gate", FMT_D_FFN }, { "up", FMT_D_FFN } },
                          2,
                          FMT_D_HID,
                          1,
                          1,
                          FMT_BY_ROW },
    [FMT_FFN_DOWN] = { "ffn_down", { { "down", FMT_D_HID } }, 1, FMT_D_FFN, 1, 1, FMT_BY_COL },
    [FMT_OUT_NORM] = { "out_norm", ONE(FMT_D_HID), FMT_D_ONE, 0, 0, FMT_COPY },
    [FMT_LM_HEAD] = { "lm_head", ONE(FMT_D_VOCAB), FMT_D_HID, 0, 0, FMT_COPY },
};

const fmt_role_row *fmt_role_get(fmt_role role)
{
    assert((unsigned)role < FMT_ROLES);
    return &role_rows[role];
}

int64_t fmt_dim_size(fmt_dim d, const fmt_model *m)
{
    switch (d) {
    case FMT_D_HID:
        return m->hid;
    case FMT_D_Q:
        return m->n_head * m->hd;
    case FMT_D_KV:
        return m->n_kv * m->hd;
    case FMT_D_HD:
        return m->hd;
    case FMT_D_FFN:
        return m->ffn;
    case FMT_D_VOCAB:
        return m->vocab;
    default:
        return 1;
    }
}

int64_t fmt_role_rows(const fmt_role_row *r, const fmt_model *m)
{
    int64_t n = 0;

    for (int p = 0; p < r->n_pieces; p++)
        n += fmt_dim_size(r->piece[p].rows, m);
    return n;
}
