/* qwen-tiny against values computed in float32 by an independent implementation (../shared/golden):
 * logits, long prefills with dynamic NTK and logn, greedy continuations, perplexities. */
#include "tests/t_model.h"

#define MODEL  "datasets/qwen-tiny"
#define GOLDEN "golden/qwen-tiny"

static void t_logits(void)
{
    tm_logits(MODEL, GOLDEN, 2e-3);
}

/* Above seq_length 1024: dynamic NTK (alpha 3 and 7) and logn are on. */
static void t_long_prefill(void)
{
    q_err err = { 0 };
    fmt_json *doc = NULL;
    const fmt_json *lengths;
    rt_session *s;

    T_OK(fmt_json_read(&doc, T_SHARED("golden/qwen-tiny/long_inputs.json"), (size_t)1 << 24, &err),
         err);
    lengths = fmt_json_get(doc, "lengths");
    s = tm_open(MODEL, NULL);
    T_INT(fmt_json_size(lengths), 3);
    for (size_t i = 0; i < 3; i++) {
        int64_t n = 0;
        char path[64];
        double diff;

        T_TRUE(fmt_json_as_int(fmt_json_at(lengths, i), 1025, 1 << 20, &n));
        snprintf(path, sizeof path, "golden/qwen-tiny/long_%lld.npy", (long long)n);
        diff = tm_logits_diff(s, fmt_json_get(doc, "ids"), (size_t)n, T_SHARED(path), 4);
        printf("# %s: max abs difference %.2g\n", path, diff);
        T_TRUE(diff <= tm_bound(5e-3));
    }
    rt_session_close(s);
    fmt_json_free(doc);
}

static void t_greedy(void)
{
    tm_greedy(MODEL, GOLDEN);
}

static void t_perplexity_f16(void)
{
    T_NEAR(tm_perplexity(MODEL, NULL), 14.62800475962684, 14.628 * 0.0005);
}

static void t_perplexity_int8(void)
{
    T_LONG();
    T_NEAR(tm_perplexity(MODEL, "int8"), 14.6316, 14.632 * 0.005);
}

static void t_perplexity_int4(void)
{
    T_LONG();
    T_NEAR(tm_perplexity(MODEL, "int4"), 15.9883, 15.988 * 0.005);
}

/* rounded while loading, not smoothed */
static void t_perplexity_w8a8(void)
{
    if (!tm_on_gpu())
        T_SKIP("tests/cli/calibrate_golden.sh does it on the CPU, which takes a minute");
    T_NEAR(tm_perplexity(MODEL, "w8a8"), 14.6598, 14.6598 * 0.003);
}

static const t_case cases[] = { T(t_logits),          T(t_long_prefill),
                                T(t_greedy),          T(t_perplexity_f16),
                                T(t_perplexity_int8), T(t_perplexity_int4),
                                T(t_perplexity_w8a8), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
