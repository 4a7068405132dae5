/* config.json of random checkpoints: shapes of published models, and the text for any shape.
 *
 *     const rnd_preset *p = rnd_preset_find("qwen2.5-7b");      NULL: unknown
 *     Q_TRY(rnd_config_text(&text, p->family, &p->s, FMT_BF16, 0, err));
 *
 * Sizes: config.json of the published checkpoints.  Threads: constant tables. */
#ifndef RANDOM_CONFIGS_H
#define RANDOM_CONFIGS_H

#include "formats/base/q_err.h"
#include "formats/base/q_mem.h"
#include "formats/dtype.h"

typedef struct rnd_shape {
    long long hid, layers, n_head, n_kv, hd, ffn, vocab; /* ffn: one branch */
    long long rope_base, ctx;
    int tied;
} rnd_shape;

typedef struct rnd_preset {
    const char *name, *family;
    rnd_shape s;
} rnd_preset;

const rnd_preset *rnd_preset_find(const char *name);
const char *rnd_preset_names(size_t i); /* NULL behind the last one */
int rnd_family_known(const char *family);
/* Appends to *out.  family: known; every size of s is set; group: of a GPTQ checkpoint, 0: none. */
q_status rnd_config_text(q_buf *out, const char *family, const rnd_shape *s, fmt_dtype dtype,
                         int64_t group, q_err *err);

#endif
