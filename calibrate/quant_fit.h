/* Whether a model can be quantized by groups the way it is asked for, known from its shapes alone:
 * before any text is read, not after hours.
 *
 *     Q_TRY(cal_quant_fit(src, bits, group, ranks, err));
 *     if (!cal_quant_shares(model, group, 2))  ... nobody will ever split it ...
 *
 * An archive packs 32 bits of codes along the inputs and of zeros along the outputs, so both are
 * multiples of the codes in a word.  Ranks of tensor parallelism take whole groups of the inputs of
 * attn_out and ffn_down: a group that two of them shared would need its scale twice and its sum
 * halved.  Threads: pure. */
#ifndef CAL_QUANT_FIT_H
#define CAL_QUANT_FIT_H

#include "formats/source.h"

/* group -1: all of a row.  Errors: Q_ESHAPE (a linear that cannot be packed), Q_ECONFIG (ranks),
 * both with what to do. */
q_status cal_quant_fit(const fmt_src *src, int bits, int64_t group, int ranks, q_err *err);
/* 1: `ranks` ranks can share a model in groups of this size */
int cal_quant_shares(const fmt_model *m, int64_t group, int ranks);
/* The largest of 128, 64 and 32 below `group` with which they can; 0: none. */
int64_t cal_quant_smaller_group(const fmt_model *m, int64_t group, int ranks);

#endif
