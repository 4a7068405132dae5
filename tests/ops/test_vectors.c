/* Layers of the original Qwen-1 code on small random weights (../shared/data/vectors), computed
 * through the backend operations.  Formulas, offsets and agreements are in the README there. */
#include "formats/base/q_file.h"
#include "tests/ops/ops.h"

/* The whole file; fails or skips the test. */
static const char *read_vectors(q_buf *b, const char *name, size_t bytes)
{
    char path[128];
    q_err err = { 0 };

    snprintf(path, sizeof path, "data/vectors/%s", name);
    T_OK(q_file_slurp(b, T_SHARED(path), (size_t)1 << 20, &err), err);
    T_INT(b->size, bytes);
    return b->data;
}

static const float *floats(const char *data, size_t offset)
{
    return (const void *)(data + offset); /* q_buf is 64-byte aligned, offsets are multiples of 4 */
}

static rt_weight f32_weight(rt_backend *be, const float *v, const float *bias, int64_t N, int64_t K)
{
    float *means = op_host((size_t)(N * K) * sizeof *means);
    const rt_weight w = op_weight(be, op_tensor("f32", v, bias, N, K, means));

    q_free(means);
    return w;
}

/* y = x W' + bias through the backend, host arrays in and out */
static void linear(rt_backend *be, const float *v, const float *bias, int64_t N, int64_t K,
                   const float *x, int64_t n_tok, rt_epi epi, float *y)
{
    const size_t out = (size_t)(n_tok * (epi == RT_EPI_SILU_MUL ? N / 2 : N));
    rt_weight w = f32_weight(be, v, bias, N, K);
    void *x_be = op_act_up(be, x, (size_t)(n_tok * K)), *y_be = op_act_alloc(be, out);
    void *tmp = op_act_alloc(be, (size_t)(n_tok * N));
    q_err err = { 0 };

    T_OK(
        be->ops->linear(be,
                        &(rt_linear_args){
                            .x = x_be, .w = &w, .y = y_be, .tmp = tmp, .n_tok = n_tok, .epi = epi },
                        &err),
        err);
    op_act_down(be, y, y_be, out);
    be->ops->unprep(be, &w);
    be->ops->free(be, x_be);
    be->ops->free(be, y_be);
    be->ops->free(be, tmp);
}

static void on_all(void (*fn)(rt_backend *be))
{
    for (size_t i = 0; i < OP_BACKENDS; i++) {
        rt_backend *be = op_open(op_backends[i], 2);

        if (be)
            fn(be);
        rt_backend_close(be);
    }
}

/* a bound for f32, and what f16 activations and weights make of it */
static double within(const rt_backend *be, double f32, double f16)
{
    return be->ops->act == FMT_F32 ? f32 : f16;
}

static void qwen_linear(rt_backend *be)
{
    q_buf b = { 0 };
    const char *d = read_vectors(&b, "qwen_linear.data", 2496);
    float y[2 * 16];

    linear(be, floats(d, 0), floats(d, 2048), 16, 32, floats(d, 2112), 2, RT_EPI_NONE, y);
    T_NEAR(t_max_abs_diff(y, floats(d, 2368), 32), 0, within(be, 1e-5, 5e-3)); /* values up to 4 */
    q_buf_free(&b);
}

static void rms_norm(rt_backend *be)
{
    q_buf b = { 0 };
    const char *d = read_vectors(&b, "rms_norm.data", 1792);
    void *w = op_up(be, floats(d, 0), 256), *x = op_up(be, floats(d, 256), 768);
    void *y_be = op_act_alloc(be, 3 * 64);
    float y[3 * 64];
    q_err err = { 0 };

    T_OK(be->ops->rmsnorm(
             be,
             &(rt_rmsnorm_args){ .x = x, .w = w, .y = y_be, .n_rows = 3, .dim = 64, .eps = 1e-5 },
             &err),
         err);
    op_act_down(be, y, y_be, 3 * 64);
    T_NEAR(t_max_abs_diff(y, floats(d, 1024), 192), 0, within(be, 1e-6, 3e-3));
    be->ops->free(be, w);
    be->ops->free(be, y_be);
    be->ops->free(be, x);
    q_buf_free(&b);
}

static void qwen_wte(rt_backend *be)
{
    q_buf b = { 0 };
    const char *d = read_vectors(&b, "qwen7b_wte.data", 52236);
    rt_weight w = f32_weight(be, floats(d, 0), NULL, 48, 256);
    rt_batch batch = { .n_tok = 3, .n_seq = 1, .tok = op_up(be, d + 49152, 12) };
    void *y_be = op_alloc(be, 3 * 256 * sizeof(float));
    float y[3 * 256];
    q_err err = { 0 };

    T_OK(be->ops->embed(be, &(rt_embed_args){ .b = &batch, .w = &w, .y = y_be }, &err), err);
    op_down(be, y, y_be, sizeof y);
    T_NEAR(t_max_abs_diff(y, floats(d, 49164), 3 * 256), 0, within(be, 0, 3e-3));
    be->ops->unprep(be, &w);
    be->ops->free(be, batch.tok);
    be->ops->free(be, y_be);
    q_buf_free(&b);
}

static void qwen_mlp(rt_backend *be)
{
    q_buf b = { 0 };
    const char *d = read_vectors(&b, "qwen7b_mlp.data", 19200);
    float gate_up[96 * 32], h[3 * 48], y[3 * 32];

    memcpy(gate_up, d + 6144, 6144); /* silu is on w2: it is the gate */
    memcpy(gate_up + 48 * 32, d, 6144);
    linear(be, gate_up, NULL, 96, 32, floats(d, 18432), 3, RT_EPI_SILU_MUL, h);
    linear(be, floats(d, 12288), NULL, 32, 48, h, 3, RT_EPI_NONE, y);
    T_NEAR(t_max_abs_diff(y, floats(d, 18816), 96), 0, within(be, 1e-8, 1e-5)); /* up to 3.7e-3 */
    q_buf_free(&b);
}

static void qwen_attn(rt_backend *be)
{
    static const rt_kv_format f32 = { "f32", FMT_F32 };
    const fmt_model m = {
        .n_head = 8, .n_kv = 8, .hd = 4, .rot = 4, .rope_step = 1, .rope_gap = 2, .rope_mscale = 1
    };
    int32_t pos[3] = { 0, 1, 2 }, seq[3] = { 0 }, q_start[2] = { 0, 3 }, kv_len[1] = { 3 };
    int32_t block[1] = { 0 };
    float inv_freq[2] = { 1, 0.01f }, q_scale[3] = { 1, 1, 1 }, qkv[3 * 96], att[3 * 32], y[3 * 32];
    q_buf buf = { 0 };
    const char *d = read_vectors(&buf, "qwen7b_attn.data", 17536);
    rt_kv kv = { .format = &f32,
                 .n_pages = 1,
                 .layers = 1,
                 .n_kv = 8,
                 .hd = 4,
                 .base = op_alloc(be, 2 * 8 * RT_PAGE * 4 * sizeof(float)) };
    const rt_batch b = { .n_tok = 3,
                         .n_seq = 1,
                         .max_blocks = 1,
                         .pos = op_up(be, pos, sizeof pos),
                         .seq = op_up(be, seq, sizeof seq),
                         .q_start = op_up(be, q_start, sizeof q_start),
                         .kv_len = op_up(be, kv_len, sizeof kv_len),
                         .block = op_up(be, block, sizeof block),
                         .inv_freq = op_up(be, inv_freq, sizeof inv_freq),
                         .q_scale = op_up(be, q_scale, sizeof q_scale) };
    void *qkv_be, *q = op_alloc(be, sizeof att), *y_be = op_alloc(be, sizeof att);
    q_err err = { 0 };

    linear(be, floats(d, 0), floats(d, 12288), 96, 32, floats(d, 16768), 3, RT_EPI_NONE, qkv);
    qkv_be = op_up(be, qkv, sizeof qkv);
    T_OK(be->ops->qkv_rope_store(
             be, &(rt_qkv_args){ .b = &b, .m = &m, .qkv = qkv_be, .q = q, .kv = &kv }, &err),
         err);
    T_OK(be->ops->attention(be, &(rt_attn_args){ .b = &b, .m = &m, .q = q, .kv = &kv, .y = y_be },
                            &err),
         err);
    op_down(be, att, y_be, sizeof att);
    linear(be, floats(d, 12672), NULL, 32, 32, att, 3, RT_EPI_NONE, y);
    T_NEAR(t_max_abs_diff(y, floats(d, 17152), 96), 0, 1e-5); /* the file agrees to 1.1e-6 */
    void *all[] = { kv.base,    b.pos,     b.seq,  b.q_start, b.kv_len, b.block,
                    b.inv_freq, b.q_scale, qkv_be, q,         y_be };

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        be->ops->free(be, all[i]);
    q_buf_free(&buf);
}

static void t_qwen_linear(void)
{
    on_all(qwen_linear);
}

static void t_rms_norm(void)
{
    on_all(rms_norm);
}

static void t_qwen_wte(void)
{
    on_all(qwen_wte);
}

static void t_qwen_mlp(void)
{
    on_all(qwen_mlp);
}

static void t_qwen_attn(void)
{
    on_all(qwen_attn);
}

/* without qwen_attn: its heads of 4 are none for the GPU */
static void t_cuda(void)
{
    rt_backend *be = op_need_cuda();

    qwen_linear(be);
    rms_norm(be);
    qwen_wte(be);
    qwen_mlp(be);
}

static const t_case tests[] = { T(t_qwen_linear), T(t_rms_norm), T(t_qwen_wte), T(t_qwen_mlp),
                                T(t_qwen_attn),   T(t_cuda),     { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, tests);
}
