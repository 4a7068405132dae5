/* What only the GPU does: opening and refusing, sampling against the CPU, graphs, and an allocation
 * that fails at each possible place; and whole models of groups on every device.  Without a GPU:
 * that it says so. */
#include <stdio.h>

#include "runtime/engine.h"
#include "runtime/model_cli.h"
#include "tests/ops/ops.h"
#include "tests/t_packed.h"

#define MODEL "datasets/qwen-tiny"
#define VOCAB 152064

static void t_open(void)
{
    rt_backend *be = NULL;
    q_err err = { 0 };
    q_status st;

    T_ERR(rt_backend_open(&be, "cuda:x", 0, &err), err, Q_EBACKEND,
          "'cuda:x' is not in this build");
    T_ERR(rt_backend_open(&be, "cpu:1", 0, &err), err, Q_EBACKEND, "'cpu:1' is not in this build");
    T_OK(rt_backend_open(&be, "auto", 0, &err), err);
    T_TRUE(be->title[0] != '\0'); /* what was chosen, or why it is the CPU */
    rt_backend_close(be);
    be = NULL;
    st = rt_backend_open(&be, "cuda:99", 0, &err);
    T_INT(st, Q_EBACKEND);
    T_TRUE(!be && err.msg[0]);
}

static void t_no_gpu(void)
{
    rt_backend *be = op_open("cuda", 0);
    q_err err = { 0 };

    if (be)
        T_SKIP("there is a GPU: %s", be->title);
    T_INT(rt_backend_open(&be, "cuda", 0, &err), Q_EBACKEND);
    T_TRUE(strstr(err.msg, "no usable GPU") || strstr(err.msg, "is not in this build"));
    T_INT(q_exit_code(Q_EBACKEND), 69);
}

/* ---- sampling ------------------------------------------------------------------------------- */

static const rt_sampling settings[] = {
    { 0, 1, 1, 0, 1 },         { 1, 1, 1, 0, 2 },        { 0.7f, 0.95f, 1, 40, 3 },
    { 1, 0.8f, 1, 0, 4 },      { 5, 0.99f, 1.3f, 0, 5 }, { 1, 0.5f, 1, 200, 6 },
    { 3, 0.3f, 1, 100000, 7 }, { 0, 1, 1.2f, 0, 8 },     { 1, 0, 1, 0, 9 },
    { 1, 1, 1, 1, 10 },        { 0.1f, 1, 2, 3, 11 },
};

static void pick_on(rt_backend *be, const float *v, int64_t rows, int64_t vocab,
                    const rt_pick_row *row, int32_t *out)
{
    const size_t bytes = (size_t)(rows * vocab) * sizeof *v;
    void *l = op_up(be, v, bytes), *o = op_alloc(be, (size_t)rows * sizeof *out);
    q_err err = { 0 };

    T_OK(be->ops->pick(
             be,
             &(rt_pick_args){ .logits = l, .n_rows = rows, .vocab = vocab, .row = row, .out = o },
             &err),
         err);
    op_down(be, out, o, (size_t)rows * sizeof *out);
    be->ops->free(be, l);
    be->ops->free(be, o);
}

/* Each setting at several positions: the ids of the CPU.  Logits in steps, so that there are ties
 * at the cuts. */
static void pick_case(rt_backend *gpu, rt_backend *cpu, int64_t vocab, float step)
{
    enum { N = (int)(sizeof settings / sizeof settings[0]), POS = 6, ROWS = N * POS };
    static rt_pick_row row[ROWS];
    int32_t hist[64], a[ROWS], b[ROWS];
    float *v = op_random((size_t)(ROWS * vocab), (uint64_t)vocab, 1);

    for (int64_t i = 0; i < ROWS * vocab; i++)
        v[i] = step > 0 ? step * roundf(8 / step * v[i] * v[i] * v[i]) : 8 * v[i] * v[i] * v[i];
    for (int i = 0; i < 64; i++)
        hist[i] = (int32_t)((i / 2 * 7919) % vocab); /* every id twice */
    for (int i = 0; i < ROWS; i++)
        row[i] = (rt_pick_row){ .s = settings[i % N],
                                .hist = hist,
                                .n_hist = 64,
                                .stream = (uint64_t)i,
                                .pos = (uint64_t)(i / N) };
    pick_on(cpu, v, ROWS, vocab, row, a);
    pick_on(gpu, v, ROWS, vocab, row, b);
    for (int i = 0; i < ROWS; i++)
        if (a[i] != b[i])
            t_fail(__FILE__, __LINE__, "vocab %lld, setting %d, position %d: %d, the CPU picks %d",
                   (long long)vocab, i % N, i / N, b[i], a[i]);
    q_free(v);
}

static void t_pick(void)
{
    rt_backend *gpu = op_need_cuda(), *cpu = op_open("cpu-ref", 1);

    pick_case(gpu, cpu, 1, 0);
    pick_case(gpu, cpu, 7, 0);
    pick_case(gpu, cpu, 1000, 0.125f);
    pick_case(gpu, cpu, 4097, 0);
    pick_case(gpu, cpu, VOCAB, 0.03125f);
    pick_case(gpu, cpu, VOCAB, 0);
    rt_backend_close(cpu);
}

static void t_pick_bad(void)
{
    rt_backend *be = op_need_cuda();
    const float v[3][3] = { { 1, 2, 3 }, { 1, NAN, 3 }, { 1, INFINITY, 0 } };
    const int32_t far[] = { 3 };
    rt_pick_row row[3] = { { .s = { .repetition_penalty = 1 } },
                           { .s = { .temperature = 1, .top_p = 1, .repetition_penalty = 1 } },
                           { .s = { .repetition_penalty = 1 } } };
    int32_t id[3];
    q_err err = { 0 };

    pick_on(be, v[0], 3, 3, row, id);
    T_INT(id[0], 2);
    T_INT(id[1], RT_PICK_BAD);
    T_INT(id[2], RT_PICK_BAD);
    row[0] = (rt_pick_row){ .s = { .repetition_penalty = 2 }, .hist = far, .n_hist = 1 };
    T_ERR(be->ops->pick(be, &(rt_pick_args){ .n_rows = 1, .vocab = 3, .row = row }, &err), err,
          Q_EARG, "outside 0 .. 2");
    row[0].s.repetition_penalty = 0;
    T_ERR(be->ops->pick(be, &(rt_pick_args){ .n_rows = 1, .vocab = 3, .row = row }, &err), err,
          Q_EARG, "pick: row 0");
}

/* ---- what is refused ------------------------------------------------------------------------ */

static void t_limits(void)
{
    static const rt_kv_format f16 = { "f16", FMT_F16 }, bf16 = { "bf16", FMT_BF16 };
    rt_backend *be = op_need_cuda();
    fmt_model m = { .n_head = 1, .n_kv = 1, .hd = 20, .rope_mscale = 1 };
    rt_batch b = { .n_tok = 1, .n_seq = 1 };
    rt_kv kv = { .format = &f16 };
    float big[] = { 1, 1e6f }, means[2];
    qnt_tensor t = op_tensor("f32", big, NULL, 1, 2, means);
    rt_weight w = { 0 };
    q_err err = { 0 };

    T_ERR(be->ops->qkv_rope_store(be, &(rt_qkv_args){ .b = &b, .m = &m, .kv = &kv }, &err), err,
          Q_EUNSUPPORTED, "head width 20");
    T_ERR(be->ops->attention(be, &(rt_attn_args){ .b = &b, .m = &m, .kv = &kv }, &err), err,
          Q_EUNSUPPORTED, "width 20");
    m.hd = 64;
    kv.format = &bf16;
    T_ERR(be->ops->attention(be, &(rt_attn_args){ .b = &b, .m = &m, .kv = &kv }, &err), err,
          Q_EUNSUPPORTED, "type bf16");
    T_ERR(be->ops->prep(be, &t, &w, &err), err, Q_EUNSUPPORTED, "outside the f16 range");
    qnt_tensor_free(&t);
    T_ERR(be->ops->alloc(be, (size_t)1 << 50, &(void *){ NULL }, &err), err, Q_ENOMEM,
          "no device memory for 1125899906842624 bytes");
    T_OK(be->ops->sync(be, &err), err); /* the failure left nothing behind */
}

/* ---- whole models --------------------------------------------------------------------------- */

/* Everything that opens a model and runs it, on a backend whose n-th allocation fails. */
static q_status run_model(rt_backend *be, const char *dir, const char *scheme, int64_t n,
                          q_ids *reply, q_err *err)
{
    static const int32_t prompt[] = { 5, 17, 35, 3, 9 };
    q_status st = Q_OK;
    fmt_src *src = NULL;
    rt_model *m = NULL;
    rt_engine *e = NULL;
    rt_seq *seq[2] = { NULL, NULL };
    const rt_engine_opts eo = {
        .max_tok = 16, .max_seqs = 2, .kv_tokens = 128, .kv_format = "f16"
    };

    Q_TRY(fmt_src_open(&src, dir, err));
    be->n_alloc = n;
    Q_TRY(
        rt_model_open(&m, src, be,
                      scheme && strcmp(scheme, "w8a8") == 0
                          ? &(rt_model_opts){ .smooth_quant = 1, .per_token = 1, .per_channel = 1 }
                          : &(rt_model_opts){ .weight_only = scheme },
                      err));
    Q_TRY(rt_engine_open(&e, m, &eo, err));
    be->n_alloc = 0;
    for (int i = 0; i < 2; i++)
        Q_TRY(rt_engine_add(e, &seq[i],
                            &(rt_seq_opts){ .ids = prompt,
                                            .n_ids = 5 - (size_t)i,
                                            .max_new = 12,
                                            .sampling = { 0, 1, 1, 0, 0 } },
                            err));
    Q_TRY(rt_engine_run(e, err));
    for (int i = 0; i < 2; i++) {
        size_t len;
        const int32_t *ids = rt_seq_ids(seq[i], &len);

        Q_TRY(q_ids_append(reply, ids, len, err));
    }
out:
    be->n_alloc = 0;
    rt_seq_close(seq[0]);
    rt_seq_close(seq[1]);
    rt_engine_close(e);
    rt_model_close(m);
    fmt_src_close(src);
    return st;
}

/* A sequence's ids do not depend on whether its steps were replayed, and agree with the CPU; with
 * int8 activations, where a difference of f16 can turn a code and so a near tie, with themselves.
 */
static void t_model(void)
{
    rt_backend *gpu = op_need_cuda(), *cpu = op_open("cpu", 0);
    static const char *const schemes[] = { NULL, "int8", "int4", "w8a8" };

    for (size_t s = 0; s < sizeof schemes / sizeof schemes[0]; s++) {
        q_ids a = { 0 }, b = { 0 };
        q_err err = { 0 };

        T_OK(run_model(s < 3 ? cpu : gpu, MODEL, schemes[s], 0, &a, &err), err);
        T_OK(run_model(gpu, MODEL, schemes[s], 0, &b, &err), err);
        T_INT(a.n, b.n);
        for (size_t i = 0; i < a.n; i++)
            T_INT(b.v[i], a.v[i]);
        q_ids_free(&a);
        q_ids_free(&b);
    }
    rt_backend_close(cpu);
}

enum { PROMPT = 5 };

static q_status keep_logits(void *user, rt_seq *s, int64_t pos, int64_t n, const float *logits,
                            q_err *err)
{
    (void)s, (void)err;
    memcpy((float *)user + pos * PK_VOCAB, logits, (size_t)(n * PK_VOCAB) * sizeof *logits);
    return Q_OK;
}

static int is_here(const char *backend)
{
    rt_backend *be = op_open(backend, 0);

    if (be)
        op_close(be);
    return be != NULL;
}

/* logits [PROMPT, PK_VOCAB] of a prompt, max_tok tokens a step */
static void prompt_logits(float *v, const char *backend, const char *dir, int64_t max_tok)
{
    static const int32_t prompt[PROMPT] = { 5, 17, 35, 3, 9 };
    rt_backend *be = op_open(backend, 0);
    const rt_engine_opts eo = {
        .max_tok = max_tok, .max_seqs = 1, .kv_tokens = 64, .kv_format = "f16"
    };
    fmt_src *src = NULL;
    rt_model *m = NULL;
    rt_engine *e = NULL;
    rt_seq *seq = NULL;
    q_err err = { 0 };

    T_OK(fmt_src_open(&src, dir, &err), err);
    T_OK(rt_model_open(&m, src, be, &(rt_model_opts){ 0 }, &err), err);
    T_OK(rt_engine_open(&e, m, &eo, &err), err);
    T_OK(rt_engine_add(
             e, &seq,
             &(rt_seq_opts){ .ids = prompt, .n_ids = PROMPT, .on_logits = keep_logits, .user = v },
             &err),
         err);
    T_OK(rt_engine_run(e, &err), err);
    rt_seq_close(seq);
    rt_engine_close(e);
    rt_model_close(m);
    fmt_src_close(src);
    op_close(be);
}

/* Checkpoints in groups, as others write them, against the same numbers in f32 computed in f32.
 * The CPU makes codes of parts of activations (runtime/cpu/group.h), of which up to 3e-6 is left in
 * the logits; the GPU rounds activations to f16, which is less.  A wrong order of columns gives
 * 1e-2, a wrong zero more. */
static void t_model_groups(void)
{
    static const pk_opts sorts[] = {
        { .family = "qwen", .layout = PK_GPTQ, .bits = 4, .group = 32, .sym = 1 },
        { .family = "qwen2", .layout = PK_GPTQ, .bits = 4, .group = 32, .sym = 1, .desc_act = 1 },
        { .family = "qwen2", .layout = PK_GPTQ, .bits = 8, .group = 64, .zero_min = 1 },
        { .family = "qwen2", .layout = PK_GPTQ_V2, .bits = 4, .group = 40 },
        { .family = "qwen2", .layout = PK_AWQ, .bits = 4, .group = 32 },
        { .family = "qwen2", .layout = PK_CT, .bits = 8, .group = -1, .sym = 1 },
    };
    static const char *const backends[] = { "cpu-ref", "cpu", "cuda" };
    enum { N = PROMPT * PK_VOCAB };
    char dir[256], plain_dir[256], name[64];
    float v[N];
    double want[N];

    snprintf(dir, sizeof dir, "%s/groups", t_tmpdir());
    snprintf(plain_dir, sizeof plain_dir, "%s/floats", t_tmpdir());
    for (size_t s = 0; s < sizeof sorts / sizeof sorts[0]; s++) {
        pk_opts plain = sorts[s];

        plain.layout = PK_FLOAT;
        pk_write(dir, &sorts[s]);
        pk_write(plain_dir, &plain);
        prompt_logits(v, "cpu-ref", plain_dir, PROMPT);
        for (int i = 0; i < N; i++)
            want[i] = v[i];
        for (size_t b = 0; b < sizeof backends / sizeof backends[0]; b++)
            for (int64_t step = 1; step <= PROMPT && is_here(backends[b]); step += PROMPT - 1) {
                prompt_logits(v, backends[b], dir, step);
                snprintf(name, sizeof name, "sort %zu, steps of %lld", s, (long long)step);
                op_compare(name, backends[b], v, want, N, 1e-5, 0.02);
            }
    }
}

/* The head alone in int8, on the CPU too: half the bytes of it, other names refused. */
static void t_head(void)
{
    rt_backend *be = op_open("cpu", 1);
    fmt_src *src = NULL;
    rt_model *plain = NULL, *m = NULL;
    q_err err = { 0 };
    uint64_t saved;

    T_OK(fmt_src_open(&src, MODEL, &err), err);
    T_OK(rt_model_open(&plain, src, be, &(rt_model_opts){ 0 }, &err), err);
    T_OK(rt_model_open(&m, src, be, &(rt_model_opts){ .head = "int8" }, &err), err);
    T_STR(m->head.scheme->name, "w8");
    T_STR(m->scheme, plain->scheme); /* of the linears */
    saved = (uint64_t)m->head.N * (qnt_row_bytes(plain->head.scheme, m->head.K) -
                                   qnt_row_bytes(m->head.scheme, m->head.K) - sizeof(float));
    T_INT(plain->decode_bytes - m->decode_bytes, saved);
    rt_model_close(m);
    m = NULL;
    T_ERR(rt_model_open(&m, src, be, &(rt_model_opts){ .head = "int2" }, &err), err, Q_EARG,
          "--head 'int2': wanted int8 or int4");
    rt_model_close(plain);
    fmt_src_close(src);
    rt_backend_close(be);
}

/* The n-th allocation fails: an error, nothing lost, and the backend goes on working. */
static int allocations(rt_backend *be, const char *dir, const char *scheme)
{
    uint64_t all;
    const uint64_t before = be->ops->free_bytes(be, &all);
    q_status st = Q_ENOMEM;
    int n = 0;

    while (st == Q_ENOMEM) {
        q_ids reply = { 0 };
        q_err err = { 0 };

        st = run_model(be, dir, scheme, ++n, &reply, &err);
        if (st == Q_ENOMEM)
            T_TRUE(strstr(err.msg, "no device memory"));
        else
            T_OK(st, err);
        q_ids_free(&reply);
    }
    T_TRUE(be->ops->free_bytes(be, &all) + ((uint64_t)64 << 20) >= before);
    return n;
}

static void t_alloc_fails(void)
{
    const pk_opts groups = {
        .family = "qwen2", .layout = PK_CT, .bits = 4, .group = 32, .desc_act = 1
    };
    rt_backend *be = op_need_cuda();
    char dir[256];

    T_TRUE(allocations(be, MODEL, "w8a8") > 30); /* every weight, norm, page block and buffer */
    snprintf(dir, sizeof dir, "%s/groups", t_tmpdir());
    pk_write(dir, &groups);
    T_TRUE(allocations(be, dir, NULL) > 8 * 4); /* codes, scales, zeros and order of 8 linears */
}

static const t_case tests[] = { T(t_open),        T(t_no_gpu), T(t_pick),  T(t_pick_bad),
                                T(t_limits),      T(t_head),   T(t_model), T(t_model_groups),
                                T(t_alloc_fails), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, tests);
}
