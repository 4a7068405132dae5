/* What test_step.c tries: shapes, schemes and batches, each at an edge of what the persistent
 * decode kernel takes (step_launch.c) or does: units of every number, one token to as many as it
 * has, heads that share keys, long and short pasts, and whatever it must leave to single
 * operations. */
#ifndef STEP_CASES_H
#define STEP_CASES_H

#include "tests/ops/ops.h"

#define MAX_SEQ 16

typedef struct step_case {
    const char *name, *scheme;
    int64_t hid, n_head, n_kv, hd, ffn, rot, step, gap;
    int bias, norm, logn;
    int taken; /* by the kernel */
    int n_seq, past[MAX_SEQ];
    int kv8;               /* an int8 cache */
    float x_scale;         /* w8a8: of activations; 0: per token */
    int group, order, sym; /* w4g: as in op_groups */
} step_case;

#define HALVES(hd)     (hd), 1, (hd) / 2
#define HALF_PAIRS(hd) (hd) / 2, 2, 1
#define RAGGED                                                                                     \
    2,                                                                                             \
    {                                                                                              \
        1000, 63                                                                                   \
    }
#define GQA7(hd)     896, 14, 2, hd, 1000, HALVES(hd)
#define GQA16        512, 16, 1, 128, 1408, HALF_PAIRS(128)
#define W4G(ffn)     256, 2, 2, 128, ffn, HALVES(128)
#define GQA7_G       1792, 14, 2, 128, 1024, HALVES(128)
#define WIDE_G(n_kv) 2048, 16, n_kv, 128, 5632, HALVES(128)
#define WIDE(n_kv)   2048, 16, n_kv, 128, 5504, HALVES(128) /* units of every number */

static const step_case cases[] = {
    { "first token", "f16", 256, 2, 2, 128, 768, HALVES(128), 1, 0, 0, 1, 1, { 0 } },
    { "f16, mha", "f16", 256, 4, 4, 64, 512, HALVES(64), 1, 0, 1, 1, RAGGED },
    { "w8, mha", "w8", 256, 2, 2, 128, 1536, HALVES(128), 1, 0, 0, 1, RAGGED },
    { "w4, mha", "w4", 256, 2, 2, 128, 1536, HALVES(128), 1, 0, 0, 1, 1, { 1000 } },
    { "f16, gqa 2, q and k norm", "f16", 256, 4, 2, 128, 512, HALVES(128), 0, 1, 0, 1, RAGGED },
    { "w8, gqa 7", "w8", GQA7(64), 1, 0, 0, 1, 2, { 700, 64 } },
    { "w4, gqa 16, half pairs", "w4", GQA16, 1, 0, 0, 1, 1, { 2000 } },
    { "f16, gqa 8", "f16", 512, 8, 1, 64, 1368, HALF_PAIRS(64), 1, 0, 0, 1, 1, { 4000 } },
    { "w8, wide", "w8", WIDE(16), 1, 0, 0, 1, 1, { 300 } },
    { "w4, wide", "w4", WIDE(4), 0, 0, 0, 1, 1, { 31 } },
    { "w8a8, mha", "w8a8", 256, 2, 2, 128, 1536, HALVES(128), 1, 0, 0, 1, RAGGED },
    { "w8a8, first token", "w8a8", 256, 4, 4, 64, 768, HALVES(64), 1, 0, 1, 1, 1, { 0 } },
    { "w8a8, wide", "w8a8", WIDE(16), 1, 0, 0, 1, 1, { 300 } },
    { "w8a8, static, int8 cache", "w8a8", GQA7(64), 1, 0, 0, 1, 2, { 700, 64 }, 1, 0.02f },
    { "w8a8, widest", "w8a8", 128, 2, 2, 64, 24576, HALVES(64), 0, 0, 0, 1, 2, { 5, 9 }, 1 },
    { "w8a8, too wide", "w8a8", 128, 2, 2, 64, 24704, HALVES(64), 0, 0, 0, 0, 1, { 5 } },
    { "w8a8, tiny scale", "w8a8", 256, 4, 4, 64, 512, HALVES(64), 0, 0, 0, 0, 1, { 5 }, 0, 1e-20f },
    { "w8a8, static", "w8a8", WIDE(4), 1, 0, 0, 1, 1, { 9 }, 0, 0.0123f },
    { "w8a8, more heads than ffn", "w8a8", 512, 16, 4, 128, 768, HALVES(128), 0, 0, 0, 1, RAGGED },
    { "f16, more heads than ffn", "f16", 512, 16, 4, 128, 576, HALVES(128), 0, 0, 0, 1, RAGGED },
    { "w4, more heads than ffn", "w4", 512, 16, 4, 128, 768, HALVES(128), 0, 0, 0, 1, RAGGED },
    { "f16, int8 cache", "f16", 256, 4, 4, 64, 512, HALVES(64), 1, 0, 1, 1, RAGGED, 1 },
    { "w8, int8 cache", "w8", 256, 2, 2, 128, 1536, HALVES(128), 1, 0, 0, 1, RAGGED, 1 },
    { "w8, gqa 7, int8 cache", "w8", GQA7(128), 0, 1, 0, 1, 2, { 2000, 15 }, 1 },
    { "w4, gqa 16, int8 cache", "w4", GQA16, 1, 0, 0, 1, 1, { 4000 }, 1 },
    { "width 32", "f16", 128, 4, 4, 32, 256, HALVES(32), 0, 0, 0, 0, 1, { 9 } },
    { "odd ffn", "f16", 128, 2, 2, 64, 258, HALVES(64), 0, 0, 0, 0, 1, { 9 } },
    { "w4, 4 sequences",
      "w4",
      256,
      2,
      2,
      128,
      1536,
      HALVES(128),
      1,
      0,
      0,
      1,
      4,
      { 9, 100, 0, 700 } },
    { "w8, the same", "w8", 256, 2, 2, 128, 1536, HALVES(128), 1, 0, 0, 1, 4, { 9, 100, 0, 700 } },
    { "f16, 3 sequences", "f16", 256, 2, 2, 128, 1536, HALVES(128), 1, 0, 0, 1, 3, { 9, 700, 0 } },
    { "w4g", "w4g", W4G(1536), 1, 0, 0, 1, RAGGED, .group = 128 },
    { "w4g, zero 8", "w4g", W4G(5632), 0, 0, 0, 1, 1, { 31 }, .group = 128, .sym = 1 },
    { "w4g, wide", "w4g", WIDE_G(16), 1, 0, 0, 1, 1, { 300 }, .group = 128 },
    { "w4g, gqa 7, int8 cache", "w4g", GQA7_G, 1, 0, 0, 1, 2, { 700, 64 }, 1, .group = 128 },
    { "w4g, 4 sequences", "w4g", W4G(768), 0, 0, 0, 1, 4, { 9, 100, 0, 700 }, .group = 128 },
    { "w4g, ffn of odd groups", "w4g", W4G(1408), 0, 0, 0, 0, 1, { 5 }, .group = 128 },
    { "w4g, groups of 64", "w4g", W4G(768), 1, 0, 0, 0, 1, { 5 }, .group = 64 },
    { "w4g, groups of 32", "w4g", W4G(768), 1, 0, 0, 0, 1, { 5 }, .group = 32 },
    { "w4g, act-order", "w4g", W4G(768), 0, 0, 0, 0, 1, { 5 }, 0, 0, 128, OP_ACT_ORDER },
    { "w4, 5 sequences", "w4", 256, 2, 2, 128, 768, HALVES(128), 0, 0, 0, 0, 5, { 9, 100 } },
};

#endif
