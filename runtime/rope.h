/* Rotary frequencies of a sequence.
 *
 *     float f[m->rot / 2];
 *     rt_inv_freq(f, m, n_prompt);
 *
 * Fixed for the life of a sequence: dynamic NTK looks at the length of the prompt only, YaRN at
 * nothing but the model.  Threads: pure. */
#ifndef RT_ROPE_H
#define RT_ROPE_H

#include "formats/family.h"

/* inv_freq [m->rot / 2], radians per position; n: tokens of the prompt */
void rt_inv_freq(float *inv_freq, const fmt_model *m, int64_t n);
/* Qwen-1: what the query at position pos is multiplied by, 1 within the trained context. */
float rt_logn_factor(const fmt_model *m, int64_t pos);

#endif
