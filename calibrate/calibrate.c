/* Wiring of a calibration. */
#include "calibrate/calibrate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_hash.h"
#include "formats/text/chat_detect.h"

#define CAL_WINDOW 2048

/* ---- which model ---------------------------------------------------------------------------- */

/* A block of a matrix that is cheap to read stored either way; a vector as a whole. */
#define BLOCK_ROWS 32
#define BLOCK_COLS 8

static q_status hash_block(q_sha256 *h, const fmt_src *src, fmt_ref ref, int half, q_err *err)
{
    q_status st = Q_OK;
    fmt_box b = fmt_src_shape(src, ref);
    size_t bytes;
    char *v = NULL;

    if (b.k1 > 1) {
        b.n0 = half * (b.n1 / 2);
        b.n1 = b.n1 - b.n0 < BLOCK_ROWS ? b.n1 : b.n0 + BLOCK_ROWS;
        b.k0 = half * (b.k1 / 2);
        b.k1 = b.k1 - b.k0 < BLOCK_COLS ? b.k1 : b.k0 + BLOCK_COLS;
    }
    bytes = (size_t)((b.n1 - b.n0) * (b.k1 - b.k0)) * fmt_dtype_bytes(fmt_src_dtype(src, ref));
    if (!(v = q_malloc(bytes)))
        Q_FAIL(err, Q_ENOMEM, "no memory for %zu bytes", bytes);
    Q_TRY(fmt_src_read(src, ref, b, v, err));
    q_sha256_update(h, v, bytes);
out:
    q_free(v);
    return st;
}

static q_status hash_tensor(q_sha256 *h, const fmt_src *src, fmt_ref ref, q_err *err)
{
    q_status st = Q_OK;
    const fmt_box b = fmt_src_shape(src, ref);
    q_buf text = { 0 };

    Q_TRY(q_buf_printf(&text, err, "%s %s %s [%lld, %lld]\n", fmt_role_get(ref.role)->name,
                       fmt_part_name(ref.part), fmt_dtype_name(fmt_src_dtype(src, ref)),
                       (long long)b.n1, (long long)b.k1));
    q_sha256_update(h, text.data, text.size);
    for (int half = 0; half < (b.k1 > 1 ? 2 : 1); half++)
        Q_TRY(hash_block(h, src, ref, half, err));
out:
    q_buf_free(&text);
    return st;
}

/* What a forward depends on, whatever the keys of the configuration are. */
static q_status hash_sizes(q_sha256 *h, const fmt_model *m, q_err *err)
{
    q_status st = Q_OK;
    q_buf text = { 0 };

    Q_TRY(q_buf_printf(
        &text, err,
        "%s %lld %lld %lld %lld %lld %lld %lld %lld %lld %d %d %.17g %.17g %lld "
        "%lld %lld %.17g %.17g %.17g %.17g %.17g\n",
        m->family->model_type, (long long)m->hid, (long long)m->layers, (long long)m->n_head,
        (long long)m->n_kv, (long long)m->hd, (long long)m->ffn, (long long)m->vocab,
        (long long)m->train_ctx, (long long)m->max_ctx, m->dyn_ntk, m->logn, m->eps, m->rope_base,
        (long long)m->rot, (long long)m->rope_step, (long long)m->rope_gap, m->rope_mscale,
        m->yarn.factor, m->yarn.ctx, m->yarn.beta_fast, m->yarn.beta_slow));
    q_sha256_update(h, text.data, text.size);
out:
    q_buf_free(&text);
    return st;
}

/* The same for a checkpoint and an FT directory of its values: what calibration added there is left
 * out.  Another model differs in what is read, and nothing of its size has to be. */
q_status cal_model_sha256(char hex[65], const fmt_src *src, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = fmt_src_model(src);
    q_sha256 h;
    uint8_t digest[32];

    q_sha256_init(&h);
    Q_TRY(hash_sizes(&h, m, err));
    for (int64_t layer = -1; layer < m->layers; layer++)
        for (int i = 0; i < FMT_ROLES * FMT_PARTS; i++) {
            const fmt_ref ref = { (fmt_role)(i / FMT_PARTS), layer < 0 ? 0 : layer,
                                  (fmt_part)(i % FMT_PARTS) };

            if (fmt_role_get(ref.role)->per_layer != (layer >= 0) || !fmt_src_has(src, ref) ||
                (ref.part > FMT_BIAS && ref.part < FMT_QWEIGHT))
                continue;
            Q_TRY(hash_tensor(&h, src, ref, err));
        }
    q_sha256_final(&h, digest);
    q_hex(hex, digest, sizeof digest);
out:
    return st;
}

/* ---- opening -------------------------------------------------------------------------------- */

static q_status open_data(cal_run *r, q_err *err)
{
    q_status st = Q_OK;
    txt_tok *tok = NULL;
    txt_chat chat = { .format = TXT_CHAT_RAW };
    const txt_chat_files files = { .files = fmt_src_files(r->src),
                                   .chat_format = fmt_src_gen(r->src)->chat_format,
                                   .config = fmt_src_config(r->src) };
    const char *name = r->o.chat_format;

    if (name && !txt_chat_format_from_name(name, &chat.format))
        Q_FAIL(err, Q_EUNSUPPORTED,
               "chat format '%s' is not known: use --chat-format " TXT_CHAT_NAMES, name);
    if (!name && r->o.data.prompt != CAL_RAW && r->o.data.prompt != CAL_WINDOWS)
        Q_TRY(txt_chat_detect(&chat.format, &files, err));
    Q_TRY(txt_tok_open_files(&tok, &files.files, err));
    if (txt_vocab_size(tok) > fmt_src_model(r->src)->vocab)
        Q_FAIL(err, Q_ECONFIG, "%s: the tokenizer has %d ids, the model only %lld",
               fmt_src_dir(r->src), txt_vocab_size(tok), (long long)fmt_src_model(r->src)->vocab);
    /* windows stay inside what the model was trained on; prompts are as long as they are */
    if (r->o.data.prompt == CAL_WINDOWS && !r->o.data.seq_len &&
        fmt_src_model(r->src)->train_ctx < CAL_WINDOW)
        r->o.data.seq_len = fmt_src_model(r->src)->train_ctx;
    Q_TRY(cal_data_open(&r->data, tok, &chat, &r->o.data, err));
    if (r->data.longest > fmt_src_model(r->src)->max_ctx)
        Q_FAIL(err, Q_EARG,
               "a sample has %lld tokens, the model %lld positions: use --calib-seq-len",
               (long long)r->data.longest, (long long)fmt_src_model(r->src)->max_ctx);
out:
    txt_tok_close(tok);
    return st;
}

q_status cal_run_open(cal_run *r, const fmt_src *src, const cal_run_opts *o, q_err *err)
{
    q_status st = Q_OK;

    memset(r, 0, sizeof *r);
    r->o = *o;
    r->src = src;
    cal_stage_begin(o->stages, CAL_T_READ);
    Q_TRY(open_data(r, err));
    r->info = (cal_stats_info){ .m = fmt_src_model(src),
                                .tool = o->tool,
                                .prompt = cal_prompt_name(o->data.prompt),
                                .samples = (int64_t)r->data.n,
                                .tokens = (int64_t)r->data.ids.n };
    cal_data_sha256(&r->data, r->info.data_sha256);
    Q_TRY(cal_model_sha256(r->info.model_sha256, src, err));
    cal_stage_begin(o->stages, CAL_T_START);
out:
    if (st != Q_OK)
        cal_run_close(r);
    return st;
}

void cal_run_close(cal_run *r)
{
    cal_job_close(r->job);
    rt_comm_leave(r->o.comm);
    rt_backend_close(r->be);
    cal_data_free(&r->data);
    memset(r, 0, sizeof *r);
}

/* ---- running -------------------------------------------------------------------------------- */

#define STEP "tokens of a step"

/* step_tok: sums go by steps, so that another size gives other bits */
static q_status open_job(cal_run *r, int64_t step_tok, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *f = NULL;
    char stamp[65];

    if (!r->o.job_dir)
        return Q_OK;
    Q_TRY(fmt_src_stamp(r->src, stamp, err));
    Q_TRY(fmt_json_new(&f, err));
    Q_TRY(fmt_json_put_str(f, "tool", r->o.tool, err));
    Q_TRY(fmt_json_put_str(f, "model", r->info.model_sha256, err));
    Q_TRY(fmt_json_put_str(f, "version of the model's files", stamp, err));
    Q_TRY(fmt_json_put_str(f, "samples", r->info.data_sha256, err));
    Q_TRY(fmt_json_put_str(f, "device", r->be->ops->name, err));
    Q_TRY(fmt_json_put_int(f, STEP, step_tok, err));
    if (r->o.recipe)
        Q_TRY(fmt_json_put_str(f, "recipe", r->o.recipe, err));
    if (r->o.search)
        Q_TRY(fmt_json_put_int(f, "search", 1, err));
    Q_TRY(fmt_json_put_int(f, "number of ranks", rt_comm_ranks(r->o.comm), err));
    if (rt_comm_rank(r->o.comm) == 0)
        Q_TRY(cal_job_open(&r->job, r->o.job_dir, f, !r->o.no_resume, err));
    Q_TRY(rt_comm_wait(r->o.comm, err));
    if (rt_comm_rank(r->o.comm) > 0)
        Q_TRY(cal_job_join(&r->job, r->o.job_dir, rt_comm_rank(r->o.comm), err));
out:
    fmt_json_free(f);
    return st;
}

/* Without an option steps are as long as the memory allows that is free just now: a job goes on
 * with those it was begun with. */
static int64_t step_of(const cal_run *r)
{
    if (r->o.max_tok || !r->o.job_dir || r->o.no_resume)
        return r->o.max_tok;
    return cal_job_begun_with(r->o.job_dir, STEP);
}

static cal_loop_opts loop_opts(const cal_run *r, const cal_client *client)
{
    return (cal_loop_opts){ .src = r->src,
                            .be = r->be,
                            .data = &r->data,
                            .client = client,
                            .comm = r->o.comm,
                            .job = r->job,
                            .max_tok = step_of(r),
                            .max_ram = r->o.max_ram,
                            .max_vram = r->o.max_vram,
                            .stages = r->o.stages,
                            .stop = r->o.stop,
                            .log = r->o.log };
}

/* GPU n + rank for "cuda:n". */
static q_status open_backend(cal_run *r, q_err *err)
{
    const char *name = r->o.device ? r->o.device : "cpu";
    const int any = strcmp(name, "auto") == 0;
    const char *colon = strchr(name, ':');
    char own[32];
    q_err why = { 0 };
    q_status st;

    if (!r->o.comm || (!any && strncmp(name, "cuda", 4) != 0))
        return rt_backend_open(&r->be, name, r->o.threads, err);
    snprintf(own, sizeof own, "cuda:%ld",
             (colon ? strtol(colon + 1, NULL, 10) : 0) + rt_comm_rank(r->o.comm));
    st = rt_backend_open(&r->be, own, r->o.threads, &why);
    if (any && st == Q_EBACKEND)
        return rt_backend_open(&r->be, "cpu", r->o.threads, err);
    return st == Q_OK ? st : q_fail(err, st, "%s", why.msg);
}

/* All ranks compute on the same kind of device, in steps of the same size: sums go by them. */
static q_status agree(cal_run *r, cal_plan *p, const cal_client *client, q_err *err)
{
    q_status st = Q_OK;
    char first[32] = "";
    int64_t step;

    snprintf(first, sizeof first, "%s", r->be->ops->name);
    Q_TRY(rt_comm_bcast(r->o.comm, first, sizeof first, 0, err));
    if (strcmp(first, r->be->ops->name) != 0)
        Q_FAIL(
            err, Q_EBACKEND,
            "rank %d would compute on %s, rank 0 on %s: start as many ranks as there are GPUs, or "
            "use --device cpu",
            rt_comm_rank(r->o.comm), r->be->ops->name, first);
    Q_TRY(rt_comm_join(r->o.comm, r->be, err));
    Q_TRY(cal_run_plan(p, r, client, err));
    step = p->step_tok;
    Q_TRY(rt_comm_reduce(r->o.comm, &step, 1, RT_MIN_I64, err));
    if (step == p->step_tok)
        goto out;
    r->o.max_tok = step;
    Q_TRY(cal_run_plan(p, r, client, err));
out:
    return st;
}

q_status cal_run_plan(cal_plan *p, cal_run *r, const cal_client *client, q_err *err)
{
    q_status st = Q_OK;
    cal_loop_opts lo;

    if (!r->be)
        Q_TRY(open_backend(r, err));
    lo = loop_opts(r, client);
    Q_TRY(cal_plan_make(p, &lo, r->o.job_dir != NULL, err));
out:
    return st;
}

q_status cal_run_loop(cal_run *r, const cal_client *client, q_err *err)
{
    q_status st = Q_OK;
    cal_loop_opts lo;
    cal_plan plan;

    if (!r->be)
        Q_TRY(open_backend(r, err));
    q_log_debug(r->o.log, "calibrating on %s", r->be->title);
    Q_TRY(agree(r, &plan, client, err));
    Q_TRY(open_job(r, plan.step_tok, err));
    lo = loop_opts(r, client);
    lo.plan = &plan;
    Q_TRY(cal_loop_run(&lo, err));
out:
    return st;
}

q_status cal_run_ranges(cal_run *r, cal_ranges *out, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(cal_ranges_open(out, r->src, r->o.search ? (int64_t)r->data.ids.n : 0, err));
    Q_TRY(cal_run_loop(r, &out->client, err));
out:
    if (st != Q_OK)
        cal_ranges_close(out);
    return st;
}
