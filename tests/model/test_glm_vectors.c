/* ChatGLM2 and ChatGLM3 against the hidden states of the original code on a one-layer model
 * (../shared/data/vectors): prefill of three tokens and two decode steps, through the whole engine.
 *
 * The vectors are hidden states after the final norm, and the engine gives logits: the checkpoint
 * written here has the identity as its head, so they are the same.  Steps of 5, 3 and 1 tokens take
 * the prefill, a mixture, and the decode path. */
#include <string.h>

#include "formats/safetensors.h"
#include "runtime/model_cli.h"
#include "tests/t_model.h"

#define HID   32
#define STEPS 5

typedef struct vector_row {
    const char *name;
    int64_t rows, cols; /* cols 0: a vector */
} vector_row;

/* in the order of the file, from byte 0 */
static const vector_row rows[] = {
    { "embedding.word_embeddings.weight", 5, HID },
    { "encoder.layers.0.input_layernorm.weight", HID, 0 },
    { "encoder.layers.0.self_attention.query_key_value.weight", 48, HID },
    { "encoder.layers.0.self_attention.query_key_value.bias", 48, 0 },
    { "encoder.layers.0.self_attention.dense.weight", HID, HID },
    { "encoder.layers.0.post_attention_layernorm.weight", HID, 0 },
    { "encoder.layers.0.mlp.dense_h_to_4h.weight", 96, HID },
    { "encoder.layers.0.mlp.dense_4h_to_h.weight", HID, 48 },
    { "encoder.final_layernorm.weight", HID, 0 },
    { "output_layer.weight", HID, HID }, /* not in the file: the identity */
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

static void write_config(const char *dir)
{
    static const char text[] =
        "{\"model_type\": \"chatglm\", \"hidden_size\": 32, \"num_layers\": 1, "
        "\"num_attention_heads\": 8, \"multi_query_group_num\": 2, \"kv_channels\": 4, "
        "\"ffn_hidden_size\": 48, \"padded_vocab_size\": 32, \"seq_length\": 64, "
        "\"layernorm_epsilon\": 1e-05, \"multi_query_attention\": true, \"add_qkv_bias\": true, "
        "\"add_bias_linear\": false, \"rmsnorm\": true, \"post_layer_norm\": true, "
        "\"original_rope\": true, \"tie_word_embeddings\": false}";
    q_err err = { 0 };
    char *path = q_path_join(dir, "config.json");

    T_OK(q_out_whole(path, 1, text, strlen(text), &err), err);
    q_free(path);
}

/* The embedding gets 27 rows of zeros, so that the vocabulary has as many rows as the identity. */
static void write_tensor(fmt_st_writer *w, const vector_row *r, const char **data)
{
    q_err err = { 0 };
    const size_t n = (size_t)(r->rows * (r->cols ? r->cols : 1)) * sizeof(float);
    float square[HID * HID] = { 0 };

    if (r == &rows[0]) {
        memcpy(square, *data, n);
        T_OK(fmt_st_write(w, square, sizeof square, &err), err);
    } else if (r == &rows[N_ROWS - 1]) {
        for (int i = 0; i < HID; i++)
            square[i * HID + i] = 1;
        T_OK(fmt_st_write(w, square, sizeof square, &err), err);
        return;
    } else {
        T_OK(fmt_st_write(w, *data, n, &err), err);
    }
    *data += n;
}

static const char *write_model(const char *dir, const char *data)
{
    q_err err = { 0 };
    fmt_st_writer *w = NULL;
    char *path = q_path_join(dir, "model.safetensors"), name[96];

    T_OK(q_dir_make(dir, &err), err);
    write_config(dir);
    T_OK(fmt_st_create(&w, path, 1, &err), err);
    for (size_t i = 0; i < N_ROWS; i++) {
        snprintf(name, sizeof name, "transformer.%s", rows[i].name);
        T_OK(fmt_st_declare(w, name, FMT_F32, rows[i].cols ? 2 : 1,
                            (int64_t[]){ i == 0 ? HID : rows[i].rows, rows[i].cols }, &err),
             err);
    }
    for (size_t i = 0; i < N_ROWS; i++)
        write_tensor(w, &rows[i], &data);
    T_OK(fmt_st_commit(w, &err), err);
    fmt_st_writer_close(w);
    q_free(path);
    return data;
}

/* Hidden states of tokens 0 .. 4, at most max_tok of them in one step. */
static void run(rt_session *s, int max_tok, float *out)
{
    static const int32_t ids[STEPS] = { 0, 1, 2, 3, 4 };
    q_err err = { 0 };
    rt_engine *e = NULL;
    rt_seq *seq = NULL;
    tm_rows k = { .vocab = HID, .v = out };

    T_OK(rt_engine_open(
             &e, s->model,
             &(rt_engine_opts){
                 .max_tok = max_tok, .max_seqs = 1, .kv_tokens = 64, .kv_format = s->kv_format },
             &err),
         err);
    T_OK(rt_engine_add(
             e, &seq,
             &(rt_seq_opts){ .ids = ids, .n_ids = STEPS, .on_logits = tm_keep, .user = &k }, &err),
         err);
    T_OK(rt_engine_run(e, &err), err);
    rt_seq_close(seq);
    rt_engine_close(e);
}

static void check(const char *file)
{
    static const int max_tok[] = { 5, 3, 1 };
    q_err err = { 0 };
    q_buf buf = { 0 };
    char path[64], *dir = q_path_join(t_tmpdir(), file);
    float want[STEPS * HID], got[STEPS * HID];
    const char *end;
    rt_session *s;

    snprintf(path, sizeof path, "data/vectors/%s", file);
    T_OK(q_file_slurp(&buf, T_SHARED(path), 1 << 20, &err), err);
    T_INT(buf.size, 30548);
    end = write_model(dir, buf.data);
    T_INT(end - buf.data, 29888);
    memcpy(want, buf.data + 29900, 3 * HID * sizeof *want);
    memcpy(want + 3 * HID, buf.data + 30288, HID * sizeof *want);
    memcpy(want + 4 * HID, buf.data + 30420, HID * sizeof *want);
    s = tm_open(dir, NULL);
    for (size_t i = 0; i < sizeof max_tok / sizeof max_tok[0]; i++) {
        double diff;

        memset(got, 0, sizeof got);
        run(s, max_tok[i], got);
        diff = t_max_abs_diff(got, want, STEPS * HID);
        printf("# %s, steps of %d: max abs difference %.2g\n", file, max_tok[i], diff);
        T_TRUE(diff <= 1e-4);
    }
    rt_session_close(s);
    q_buf_free(&buf);
    q_free(dir);
}

static void t_glm2(void)
{
    check("glm2_model.data");
}

static void t_glm3(void)
{
    check("glm3_model.data");
}

static const t_case cases[] = { T(t_glm2), T(t_glm3), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
