/* How a source stores linears that are quantized by groups: bits, groups, and which way the words
 * lie.
 *
 *     fmt_packing p;
 *     Q_TRY(fmt_packing_parse(&p, config, &files, err));      (p.bits == 0: a float model)
 *     if (p.bits)
 *         ... module + p.layout->qweight ...
 *
 * A linear has N outputs and K inputs, and groups of `group` inputs; w = (code - zero) * scale.
 * Codes and zeros stand in 32-bit words, 32 / bits of them in each.  A layout is a row of
 * fmt_pack_layouts: names, orientation, which way a word runs, and in which order.
 *
 *   layout              qweight        qzeros         scales    g_idx
 *   gptq, gptq_v2, h5   [K/8, N] i32   [G, N/8] i32   [G, N]    [K] i32
 *   awq                 [K, N/8] i32   [G, N/8] i32   [G, N]    -
 *   compressed-tensors  [N, K/8] i32   [N/8, G] i32   [N, G]    [K] i32
 *
 * Sources: AutoGPTQ, GPTQModel, AutoAWQ (gemm), compressed-tensors (pack-quantized); conventions.md
 * section 2.  Threads: constant tables and plain values. */
#ifndef FMT_PACKING_H
#define FMT_PACKING_H

#include <stdint.h>

#include "formats/base/q_err.h"
#include "formats/files.h"
#include "formats/json.h"

typedef enum fmt_pack_kind {
    FMT_PACK_GPTQ,    /* stores zero - 1 */
    FMT_PACK_GPTQ_V2, /* stores zero */
    FMT_PACK_AWQ,
    FMT_PACK_CT,
    FMT_PACK_H5,
    FMT_PACK_KINDS
} fmt_pack_kind;

typedef struct fmt_pack_layout {
    const char *name;
    const char *qweight, *qzeros, *scales; /* behind the name of the module */
    const char *g_idx;                     /* NULL: groups are always in order */
    int g_idx_out;     /* 1: is written; compressed-tensors had it and gave it up */
    const char *shape; /* [N, K] as a tensor of two i64, NULL: none */
    int turned;        /* 1: [inputs, outputs] on disk; 0: [outputs, inputs] */
    int along_n;       /* 1: a word of qweight holds codes of neighbouring outputs, not inputs */
    int zero_offset;   /* zero = stored value + this */
    int sym_zeros;     /* 1: qzeros are there also when every zero is the middle of the range */
    uint8_t order[8];  /* nibble j holds element order[j] of eight */
} fmt_pack_layout;

typedef struct fmt_packing {
    fmt_pack_kind kind;
    const fmt_pack_layout *layout;
    char method[32]; /* the algorithm that found the codes: "gptq", "awq", "" */
    int bits;        /* 4 or 8; 0: nothing is quantized */
    int64_t group;   /* columns of a group; -1: all of a row */
    int sym;         /* every zero is the middle of the range */
    int desc_act;    /* columns may belong to groups in any order */
} fmt_packing;

const fmt_pack_layout *fmt_pack_layout_get(fmt_pack_kind kind);
int fmt_packing_per_word(const fmt_packing *p);              /* codes of a word */
int64_t fmt_packing_group(const fmt_packing *p, int64_t K);  /* columns of a group */
int64_t fmt_packing_groups(const fmt_packing *p, int64_t K); /* G */
/* "int4 gptq, groups of 128" */
void fmt_packing_text(char *out, size_t cap, const fmt_packing *p);

/* config: the keys of config.json.  Looks into its quantization_config, and where it has none into
 * quantize_config.json or quant_config.json beside it.  Neither: out->bits is 0.
 * Errors: Q_EUNSUPPORTED (a method, version or number of bits that is not read, with what to do),
 * Q_ECONFIG (keys that contradict each other or the limits), Q_EFORMAT. */
q_status fmt_packing_parse(fmt_packing *out, const fmt_json *config, const fmt_files *files,
                           q_err *err);
/* The members of quantization_config as loaders of that layout want them.  tool: "NAME:VERSION";
 * floats: the names of linears that are not quantized, which GPTQ has no place for (NULL). */
q_status fmt_packing_json(fmt_json *q, const fmt_packing *p, char *const *floats, size_t n_floats,
                          const char *tool, q_err *err);

#endif
