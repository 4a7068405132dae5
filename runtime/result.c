/* Results as JSON. */
#include "runtime/result.h"

#include "formats/json.h"

q_status rt_result_json(q_buf *out, const rt_session *s, const rt_engine *e, const rt_seq *seq,
                        q_err *err)
{
    q_status st = Q_OK;
    const rt_stats *t = rt_engine_stats(e);
    const double prefill = t->prefill_s > 0 ? (double)t->prefill_tokens / t->prefill_s : 0;
    const double decode = t->decode_s > 0 ? (double)t->decode_tokens / t->decode_s : 0;
    q_buf text = { 0 };
    fmt_json *doc = NULL, *list = NULL;
    size_t n;
    const size_t n_prompt = rt_seq_prompt_len(seq);
    const int32_t *ids = rt_seq_ids(seq, &n);

    Q_TRY(fmt_json_new(&doc, err));
    Q_TRY(fmt_json_put_int(doc, "prompt_tokens", (int64_t)n_prompt, err));
    Q_TRY(fmt_json_put_arr(&list, doc, "ids", err));
    for (size_t i = n_prompt; i < n; i++)
        Q_TRY(fmt_json_put_int(list, NULL, ids[i], err));
    if (s->tok) {
        Q_TRY(txt_decode(s->tok, ids + n_prompt, n - n_prompt, TXT_SKIP_SPECIALS, &text, err));
        Q_TRY(fmt_json_put_str(doc, "text", text.data ? text.data : "", err));
    }
    Q_TRY(fmt_json_put_str(doc, "finish", rt_seq_finish(seq) == RT_STOP ? "stop" : "length", err));
    Q_TRY(fmt_json_put_real(doc, "prefill_tok_s", prefill, err));
    Q_TRY(fmt_json_put_real(doc, "decode_tok_s", decode, err));
    Q_TRY(fmt_json_print(out, doc, 0, err));
out:
    fmt_json_free(doc);
    q_buf_free(&text);
    return st;
}
