/* The result of one finished sequence as a JSON object on one line.
 *
 *     Q_TRY(rt_result_json(&line, session, engine, seq, err));
 *
 * Keys: prompt_tokens, ids (of the reply), text (when there is a tokenizer), finish ("stop",
 * "length"), prefill_tok_s and decode_tok_s of the engine so far.  *out is replaced. */
#ifndef RT_RESULT_H
#define RT_RESULT_H

#include "runtime/session.h"

q_status rt_result_json(q_buf *out, const rt_session *s, const rt_engine *e, const rt_seq *seq,
                        q_err *err);

#endif
