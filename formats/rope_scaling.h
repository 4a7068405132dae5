/* Scaled rotary embeddings as config.json describes them.
 *
 *     Q_TRY(fmt_rope_scaling_parse(m, config, err));   part of fmt_model_parse
 *
 * Sets m->yarn, m->rope_mscale and, with YaRN, m->max_ctx; reads m->train_ctx and m->max_ctx.
 * Errors: Q_ECONFIG, Q_EUNSUPPORTED (a kind of scaling that is not known).  Threads: pure. */
#ifndef FMT_ROPE_SCALING_H
#define FMT_ROPE_SCALING_H

#include "formats/family.h"

q_status fmt_rope_scaling_parse(fmt_model *m, const fmt_json *config, q_err *err);

#endif
