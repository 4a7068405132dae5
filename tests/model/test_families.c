/* The other families against values computed by an independent implementation (../shared/golden):
 * qwen2-tiny is trained, the rest has random weights and tests exactness alone. */
#include "tests/t_model.h"

#define QWEN2 "models/qwen2-tiny"

static void t_qwen2_logits(void)
{
    tm_logits(T_SHARED(QWEN2), "golden/qwen2-tiny", 2e-3);
}

static void t_qwen2_greedy(void)
{
    tm_greedy(T_SHARED(QWEN2), "golden/qwen2-tiny");
}

static void t_qwen2_perplexity(void)
{
    T_LONG();
    T_NEAR(tm_perplexity(T_SHARED(QWEN2), NULL), 14.932916074567329, 14.9329 * 0.0005);
}

/* One prompt, the last 8 positions. */
static void one_prompt(const char *model, const char *golden)
{
    q_err err = { 0 };
    fmt_json *doc = NULL;
    const fmt_json *ids;
    rt_session *s;
    char path[96];
    double diff;

    snprintf(path, sizeof path, "%s/inputs.json", golden);
    T_OK(fmt_json_read(&doc, T_SHARED(path), (size_t)1 << 24, &err), err);
    ids = fmt_json_get(doc, "input_ids");
    s = tm_open(model, NULL);
    snprintf(path, sizeof path, "%s/logits.npy", golden);
    diff = tm_logits_diff(s, ids, fmt_json_size(ids), T_SHARED(path), 8);
    printf("# %s: max abs difference %.2g\n", path, diff);
    T_TRUE(diff <= tm_bound(2e-3));
    rt_session_close(s);
    fmt_json_free(doc);
}

static void copy_in(const char *dir, const char *name)
{
    q_err err = { 0 };
    q_buf data = { 0 };
    char from[96], *to = q_path_join(dir, name);

    snprintf(from, sizeof from, "%s/%s", QWEN2, name);
    T_OK(q_file_slurp(&data, T_SHARED(from), (size_t)1 << 26, &err), err);
    T_OK(q_out_whole(to, 1, data.data, data.size, &err), err);
    q_buf_free(&data);
    q_free(to);
}

/* qwen2-tiny with YaRN: another config.json beside the same weights */
static void yarn(const char *golden)
{
    static const char *const same[] = { "model.safetensors", "tokenizer.json",
                                        "tokenizer_config.json", "generation_config.json" };
    q_err err = { 0 };
    q_buf text = { 0 };
    char *dir = q_path_join(t_tmpdir(), golden + strlen("golden/")), *path;
    const char *at;

    T_OK(q_dir_make(dir, &err), err);
    for (size_t i = 0; i < sizeof same / sizeof same[0]; i++)
        copy_in(dir, same[i]);
    T_OK(q_file_slurp(&text, T_SHARED(QWEN2 "/config.json"), 1 << 16, &err), err);
    at = strstr(text.data, "\"max_position_embeddings\": 1024");
    T_TRUE(at != NULL);
    *(char *)(uintptr_t)at = '\0';
    path = q_path_join(dir, "config.json");
    {
        q_buf out = { 0 };

        T_OK(q_buf_printf(&out, &err,
                          "%s\"max_position_embeddings\": 4096, \"rope_scaling\": {\"type\": "
                          "\"yarn\", \"factor\": 4.0, "
                          "\"original_max_position_embeddings\": 1024}%s",
                          text.data, at + strlen("\"max_position_embeddings\": 1024")),
             err);
        T_OK(q_out_whole(path, 1, out.data, out.size, &err), err);
        q_buf_free(&out);
    }
    one_prompt(dir, golden);
    q_free(path);
    q_free(dir);
    q_buf_free(&text);
}

static void t_yarn_700(void)
{
    yarn("golden/qwen2-tiny-yarn4-700");
}

static void t_yarn_1500(void)
{
    yarn("golden/qwen2-tiny-yarn4-1500");
}

static void t_qwen3(void)
{
    one_prompt(T_SHARED("models/qwen3-random"), "golden/qwen3-random");
}

static void t_chatglm3(void)
{
    one_prompt(T_SHARED("models/chatglm3-random"), "golden/chatglm3-random");
}

static void t_chatglm3_32k(void)
{
    one_prompt(T_SHARED("models/chatglm3-32k-random"), "golden/chatglm3-32k-random");
}

static const t_case cases[] = { T(t_qwen2_logits), T(t_qwen2_greedy), T(t_qwen2_perplexity),
                                T(t_yarn_700),     T(t_yarn_1500),    T(t_qwen3),
                                T(t_chatglm3),     T(t_chatglm3_32k), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
