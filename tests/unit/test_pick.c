/* Sampling: every rule of rt_sampling on small vocabularies by hand, the distribution by
 * chi-square, and a vocabulary of 152064 against a reference that sorts. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_mem.h"
#include "runtime/backend.h"
#include "runtime/philox.h"
#include "tests/t.h"

#define DRAWS 20000

static rt_backend *backend(int threads)
{
    static rt_backend *be;
    q_err err = { 0 };

    rt_backend_close(be);
    be = NULL;
    if (threads > 0)
        T_OK(rt_backend_open(&be, "cpu", threads, &err), err);
    return be;
}

static q_status pick(rt_backend *be, const float *logits, int64_t n_rows, int64_t vocab,
                     const rt_pick_row *row, int32_t *out, q_err *err)
{
    const size_t bytes = (size_t)(n_rows * vocab) * sizeof(float);
    void *l = NULL, *o = NULL;
    q_status st = be->ops->alloc(be, bytes, &l, err);

    T_INT(st, Q_OK);
    T_INT(be->ops->alloc(be, (size_t)n_rows * sizeof *out, &o, err), Q_OK);
    be->ops->copy(be, l, logits, bytes, RT_TO_DEVICE, err);
    st = be->ops->pick(
        be, &(rt_pick_args){ .logits = l, .n_rows = n_rows, .vocab = vocab, .row = row, .out = o },
        err);
    be->ops->copy(be, out, o, (size_t)n_rows * sizeof *out, RT_TO_HOST, err);
    be->ops->free(be, l);
    be->ops->free(be, o);
    return st;
}

static rt_pick_row plain(float temperature)
{
    return (
        rt_pick_row){ .s = { .temperature = temperature, .top_p = 1, .repetition_penalty = 1 } };
}

static int32_t one(const float *logits, int64_t vocab, rt_pick_row row)
{
    int32_t id = -7;
    q_err err = { 0 };

    T_OK(pick(backend(1), logits, 1, vocab, &row, &id, &err), err);
    return id;
}

/* how often each id is drawn at successive positions */
static void count(int *n, const float *logits, int vocab, rt_pick_row row)
{
    rt_backend *be = backend(2);
    q_err err = { 0 };

    memset(n, 0, (size_t)vocab * sizeof *n);
    for (int i = 0; i < DRAWS; i++) {
        int32_t id;

        row.pos = (uint64_t)i;
        T_OK(pick(be, logits, 1, vocab, &row, &id, &err), err);
        T_TRUE(id >= 0 && id < vocab);
        n[id]++;
    }
}

/* Known answers of the authors (Random123, kat_vectors, philox4x32 with 10 rounds). */
static void t_philox(void)
{
    uint32_t zero[4] = { 0 }, ones[4] = { ~0u, ~0u, ~0u, ~0u };
    uint32_t pi[4] = { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 };
    static const uint32_t want[3][4] = { { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 },
                                         { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd },
                                         { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } };

    rt_philox(zero, 0, 0);
    rt_philox(ones, ~0u, ~0u);
    rt_philox(pi, 0xa4093822, 0x299f31d0);
    T_TRUE(memcmp(zero, want[0], 16) == 0);
    T_TRUE(memcmp(ones, want[1], 16) == 0);
    T_TRUE(memcmp(pi, want[2], 16) == 0);
    for (uint64_t i = 0; i < 1000; i++) {
        const double u = rt_philox_unit(i, 2 * i, 3 * i);

        T_TRUE(u >= 0 && u < 1);
    }
}

static void t_greedy(void)
{
    static const float a[] = { 1, 5, -2, 5, 5 }, b[] = { -3, -3 }, c[] = { 0.5f };
    rt_pick_row row = plain(0);

    T_INT(one(a, 5, row), 1); /* the smallest of three equals */
    T_INT(one(b, 2, row), 0);
    T_INT(one(c, 1, row), 0);
    row.s.top_k = 3;
    row.s.top_p = 0.1f;
    T_INT(one(a, 5, row), 1);
    row = plain(1);
    row.s.top_k = 1; /* the same as greedy */
    T_INT(one(a, 5, row), 1);
    row = plain(1e-20f); /* so small that logit / temperature overflows */
    T_INT(one((const float[]){ 1, 80, 79, -80 }, 4, row), 1);
}

static void t_top_k(void)
{
    static const float v[] = { 1, 2, 3, 2, 2, -1 };
    int n[6];
    rt_pick_row row = plain(1);

    row.s.top_k = 3; /* id 2, and of the three equal ones the first two */
    count(n, v, 6, row);
    T_TRUE(n[2] > 0 && n[1] > 0 && n[3] > 0);
    T_INT(n[0] + n[4] + n[5], 0);
    row.s.top_k = 6; /* all of them: as if off */
    count(n, v, 6, row);
    T_TRUE(n[5] > 0);
    row.s.top_k = 99;
    count(n, v, 6, row);
    T_TRUE(n[5] > 0);
}

static void t_top_p(void)
{
    static const float same[] = { 0, 0, 0, 0 };
    const float v[] = { logf(0.05f), logf(0.6f), logf(0.25f), logf(0.1f) };
    int n[4];
    rt_pick_row row = plain(1);

    row.s.top_p = 0.5f; /* exactly two of four equals, the smallest ids */
    count(n, same, 4, row);
    T_TRUE(n[0] > 0 && n[1] > 0);
    T_INT(n[2] + n[3], 0);
    row.s.top_p = 0.55f; /* the best alone reaches it */
    count(n, v, 4, row);
    T_INT(n[1], DRAWS);
    row.s.top_p = 0.65f; /* the second is needed and keeps its whole share: 0.25 of 0.85 */
    count(n, v, 4, row);
    T_INT(n[0] + n[3], 0);
    T_NEAR(n[2] / (double)DRAWS, 0.25 / 0.85, 0.015);
    row.s.top_p = 0.9f;
    count(n, v, 4, row);
    T_INT(n[0], 0);
    T_TRUE(n[3] > 0);
    row.s.top_p = 0; /* the smallest set that reaches nothing is still one token */
    count(n, v, 4, row);
    T_INT(n[1], DRAWS);
    row.s.top_p = 0.6f; /* of the two that top-k leaves (0.706, 0.294) the first is enough */
    row.s.top_k = 2;
    count(n, v, 4, row);
    T_INT(n[1], DRAWS);
}

static void t_penalty(void)
{
    static const int32_t hist[] = { 1, 1, 1, 3, 1, 3 };
    static const int32_t out_of_range[] = { 0, 4 }, negative[] = { -1 };
    rt_pick_row row = plain(0);
    q_err err = { 0 };
    int32_t id;

    row.hist = hist;
    row.n_hist = 6;
    row.s.repetition_penalty = 2;
    /* once: 6 / 2 = 3 still beats 2.5; three times it would not */
    T_INT(one((const float[]){ 2.5f, 6, -1, 0 }, 4, row), 1);
    T_INT(one((const float[]){ 3.5f, 6, -1, 0 }, 4, row), 0);
    /* negative ones are multiplied: -1 becomes -2 */
    T_INT(one((const float[]){ -1.5f, -1, -9, -9 }, 4, row), 0);
    row.s.repetition_penalty = 1;
    T_INT(one((const float[]){ 3.5f, 6, -1, 0 }, 4, row), 1);
    row.s.repetition_penalty = 1.1f;
    row.hist = out_of_range;
    row.n_hist = 2;
    T_ERR(pick(backend(1), (const float[]){ 1, 2, 3, 4 }, 1, 4, &row, &id, &err), err, Q_EARG,
          "outside 0 .. 3");
    row.hist = negative;
    row.n_hist = 1;
    T_ERR(pick(backend(1), (const float[]){ 1, 2, 3, 4 }, 1, 4, &row, &id, &err), err, Q_EARG,
          "row 0: the history");
}

static void t_distribution(void)
{
    static const float v[] = { 0, 1, -1, 2, 0.5f, -3, 1.5f, 0.25f };
    static const float temperature[] = { 1, 0.5f, 2 };

    for (size_t t = 0; t < 3; t++) {
        rt_pick_row row = plain(temperature[t]);
        double sum = 0, chi2 = 0;
        int n[8];

        row.s.seed = 42 + t;
        count(n, v, 8, row);
        for (int i = 0; i < 8; i++)
            sum += exp((double)(v[i] / temperature[t]));
        for (int i = 0; i < 8; i++) {
            const double want = DRAWS * exp((double)(v[i] / temperature[t])) / sum;

            chi2 += (n[i] - want) * (n[i] - want) / want;
        }
        T_TRUE(chi2 < 29.9); /* 7 degrees of freedom: exceeded once in 10000 seeds */
    }
}

static void t_repeatable(void)
{
    enum { ROWS = 6, VOCAB = 50 };
    float v[ROWS * VOCAB];
    rt_pick_row row[ROWS];
    int32_t a[ROWS], b[ROWS], differ = 0;
    q_err err = { 0 };

    for (int i = 0; i < ROWS * VOCAB; i++)
        v[i] = (float)(i * 37 % 101) * 0.03f;
    for (int i = 0; i < ROWS; i++) {
        row[i] = plain(1);
        row[i].s.seed = 7;
        row[i].stream = (uint64_t)i;
        row[i].pos = 100;
    }
    T_OK(pick(backend(1), v, ROWS, VOCAB, row, a, &err), err);
    T_OK(pick(backend(3), v, ROWS, VOCAB, row, b, &err), err);
    T_TRUE(memcmp(a, b, sizeof a) == 0); /* any number of threads */
    for (int i = 0; i < ROWS; i++)
        T_INT(one(v + i * VOCAB, VOCAB, row[i]), a[i]); /* alone or in a batch */
    for (int seed = 0; seed < 20; seed++) {
        row[0].s.seed = (uint64_t)seed;
        differ += one(v, VOCAB, row[0]) != a[0];
    }
    T_TRUE(differ > 5);
}

static void t_not_finite(void)
{
    const float nan[] = { 1, 2, 3, 1, NAN, 3 }, inf[] = { 1, INFINITY, 0 }, minus[] = { -INFINITY };
    const rt_pick_row row[2] = { plain(0), plain(1) };
    int32_t out[2];
    q_err err = { 0 };

    T_ERR(pick(backend(1), nan, 2, 3, row, out, &err), err, Q_EFAIL,
          "row 1: logits are not finite");
    T_ERR(pick(backend(1), inf, 1, 3, row, out, &err), err, Q_EFAIL,
          "row 0: logits are not finite");
    T_ERR(pick(backend(1), minus, 1, 1, row, out, &err), err, Q_EFAIL, "logits are not finite");
}

static void t_arguments(void)
{
    static const rt_sampling bad[] = {
        { .temperature = -1, .top_p = 1, .repetition_penalty = 1 },
        { .temperature = NAN, .top_p = 1, .repetition_penalty = 1 },
        { .temperature = 1, .top_p = -0.5f, .repetition_penalty = 1 },
        { .temperature = 1, .top_p = 1, .repetition_penalty = 0 },
        { .temperature = 1, .top_p = 1, .repetition_penalty = 1, .top_k = -3 },
    };
    const float v[] = { 1, 2 };
    int32_t id;
    q_err err = { 0 };

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        T_ERR(pick(backend(1), v, 1, 2, &(rt_pick_row){ .s = bad[i] }, &id, &err), err, Q_EARG,
              "pick: row 0: temperature");
    T_ERR(backend(1)->ops->pick(backend(1), &(rt_pick_args){ .n_rows = 1, .vocab = 0 }, &err), err,
          Q_ESHAPE, "pick: [1, 0]");
}

/* ---- a real vocabulary ---------------------------------------------------------------------- */

#define VOCAB 152064

typedef struct entry {
    float v;
    int32_t id;
} entry;

static int by_value(const void *a, const void *b) /* largest first, then smallest id */
{
    const entry *x = a, *y = b;

    return x->v > y->v ? -1 : x->v < y->v ? 1 : x->id < y->id ? -1 : x->id > y->id;
}

static int by_id(const void *a, const void *b)
{
    return ((const entry *)a)->id < ((const entry *)b)->id ? -1 : 1;
}

/* The rules of backend.h word for word, with a sort. */
static int32_t reference(const float *v, const rt_pick_row *r, entry *e)
{
    int64_t n = VOCAB;
    double sum = 0, run = 0;

    for (int32_t i = 0; i < VOCAB; i++)
        e[i] = (entry){ v[i], i };
    qsort(e, VOCAB, sizeof *e, by_value);
    if (r->s.top_k > 0 && r->s.top_k < n)
        n = r->s.top_k;
    for (int64_t i = n - 1; i >= 0; i--) {
        e[i].v = (float)exp((double)((e[i].v - e[0].v) / r->s.temperature));
        sum += (double)e[i].v;
    }
    if (r->s.top_p < 1) {
        int64_t keep = 0;

        while (keep < n && run < (double)r->s.top_p * sum)
            run += (double)e[keep++].v;
        n = keep > 0 ? keep : 1;
    }
    qsort(e, (size_t)n, sizeof *e, by_id);
    sum = run = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)e[i].v;
    for (int64_t i = 0; i < n; i++) {
        run += (double)e[i].v;
        if (run > sum * rt_philox_unit(r->s.seed, r->stream, r->pos))
            return e[i].id;
    }
    return e[n - 1].id;
}

static void t_large_vocabulary(void)
{
    static const struct {
        float temperature, top_p;
        int32_t top_k;
    } rows[] = { { 1, 0.8f, 0 },  { 1, 1, 0 },      { 0.7f, 0.95f, 40 }, { 1, 1, 1000 },
                 { 5, 0.99f, 0 }, { 1, 0.5f, 200 }, { 3, 0.3f, 100000 } };
    float *v = q_malloc(VOCAB * sizeof *v);
    entry *e = q_malloc(VOCAB * sizeof *e);
    rt_backend *be = backend(2);
    uint32_t s = 1;

    T_TRUE(v && e);
    for (size_t i = 0; i < VOCAB; i++) { /* about normal, in steps that give ties */
        float sum = 0;

        for (int k = 0; k < 8; k++) {
            s = s * 1664525u + 1013904223u;
            sum += (float)(s >> 24) / 32;
        }
        v[i] = sum - 32;
    }
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (uint64_t pos = 0; pos < 4; pos++) {
            rt_pick_row r = plain(rows[i].temperature);
            int32_t id;
            q_err err = { 0 };

            r.s.top_p = rows[i].top_p;
            r.s.top_k = rows[i].top_k;
            r.s.seed = 11;
            r.pos = pos;
            T_OK(pick(be, v, 1, VOCAB, &r, &id, &err), err);
            T_INT(id, reference(v, &r, e));
        }
    q_free(v);
    q_free(e);
    backend(0);
}

static const t_case tests[] = { T(t_philox),
                                T(t_greedy),
                                T(t_top_k),
                                T(t_top_p),
                                T(t_penalty),
                                T(t_distribution),
                                T(t_repeatable),
                                T(t_not_finite),
                                T(t_arguments),
                                T(t_large_vocabulary),
                                { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, tests);
}
