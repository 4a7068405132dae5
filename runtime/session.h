/* What every program that runs a model opens: source, tokenizer, backend, model, and the defaults
 * of generation_config.json; and the options by which a user changes them.
 *
 *     rt_session_opts so = { .path = "model" };
 *     rt_session *s = NULL;
 *     Q_TRY(rt_session_open(&s, &so, &log, err));
 *     rt_seq_opts o = { .sampling = s->sampling, .stop = s->stop.v, .n_stop = s->stop.n, ... };
 *     ... out: rt_session_close(s);
 *
 * Threads: one. */
#ifndef RT_SESSION_H
#define RT_SESSION_H

#include "formats/source.h"
#include "formats/text/chat_detect.h"
#include "runtime/engine.h"

/* NAN and -1: not given, the value of generation_config.json holds. */
typedef struct rt_sampling_opts {
    int greedy;
    double temperature, top_p, repetition_penalty;
    int64_t top_k;
} rt_sampling_opts;

typedef struct rt_session_opts {
    const char *path;                         /* HF or FT directory */
    const char *weight_only;                  /* NULL, "int8", "int4" */
    const char *head;                         /* NULL, "int8" */
    int smooth_quant, per_token, per_channel; /* as rt_model_opts has them */
    const char *kv_format;                    /* NULL: "f32"; "f16" where activations are f16 */
    const char *chat_format;                  /* NULL: what the files of the checkpoint say */
    txt_thinking thinking;
    const char *backend; /* as rt_backend_open takes it; NULL: "cpu" */
    int device_unasked;  /* 1: which device it is, is told with -v only */
    int threads;
    uint64_t seed;
    int tokenizer_optional; /* 1: a checkpoint without vocabulary opens, tok stays NULL */
    rt_sampling_opts sampling;
} rt_session_opts;

typedef struct rt_session {
    fmt_model desc;
    fmt_gen_config gen;
    uint64_t disk_bytes; /* of the tensors on disk */
    const char *kv_format;
    txt_tok *tok;
    txt_chat_format chat_format; /* raw when chat_err says why none is known */
    txt_thinking thinking;
    q_err chat_err;
    rt_backend *be;
    rt_model *model;
    rt_sampling sampling;
    q_ids stop; /* stop ids of the chat format and eos_token_id, each once */
    double load_s;
} rt_session;

q_status rt_session_open(rt_session **out, const rt_session_opts *o, const q_log *log, q_err *err);
void rt_session_close(rt_session *s);

/* *chat with the format of the model and the defaults; callers set the rest.
 * Errors: why the format is not known, kept from the opening: text can be run without it. */
q_status rt_session_chat(txt_chat *chat, const rt_session *s, q_err *err);

/* An engine for sequences of at most `longest` tokens each, n_seqs at a time; its steps are shorter
 * where memory is. */
q_status rt_session_engine(rt_engine **out, rt_session *s, int n_seqs, int64_t longest, q_err *err);

#endif
