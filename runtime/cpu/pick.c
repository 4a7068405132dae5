/* Choosing the next token of each row, in the order of backend.h: penalty, temperature, top-k,
 * top-p, draw.
 *
 * Nothing is sorted.  A limit (the k largest; the largest that hold a share of the probability) is
 * a cut: a key, and how many of the ids that have exactly this key stay, smallest ids first.  The
 * cut is found by radix selection over the bits of the floats: a histogram of the top 12 bits tells
 * in which bucket the limit falls, two more of 10 bits narrow that bucket down to one value.  Each
 * pass is linear in the vocabulary and needs no memory that grows with it.
 *
 * Sums run in double in a fixed order.  The draw walks the kept ids upwards until the running sum
 * passes u times the total, u from Philox(seed, stream, pos). */
#include "runtime/cpu/cpu.h"

#include <math.h>
#include <string.h>

#include "formats/base/q_half.h"
#include "runtime/philox.h"

#define BUCKETS 4096
/* Ids whose visits are remembered at a time, as bits; a larger vocabulary takes several rounds. */
#define WINDOW ((int64_t)1 << 19)

typedef struct work {
    double bucket[BUCKETS];
    uint64_t seen[WINDOW / 64];
} work;

typedef struct cut {
    uint32_t key;
    int64_t equal;
} cut;

enum { BAD_LOGIT = -1, BAD_ID = -2 }; /* in place of a token id */

size_t cpu_pick_scratch(void)
{
    return sizeof(work);
}

/* unsigned integers that order like the floats */
static inline uint32_t key_of(float v)
{
    const uint32_t u = q_f32_to_bits(v);

    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* The largest values that together reach `want`: each counts 1, or its own value (then it is a
 * probability weight, >= 0).  When all of them do not reach it, the cut keeps all. */
static cut select_top(work *wk, const float *v, int64_t n, double want, int by_value)
{
    static const int shift[3] = { 20, 10, 0 };
    cut c = { 0, 0 };
    uint32_t mask = 0;
    double unit = 1;

    for (int pass = 0; pass < 3; pass++) {
        const uint32_t low = pass == 0 ? BUCKETS - 1 : 1023;
        int64_t b = low, last = -1;

        memset(wk->bucket, 0, (low + 1) * sizeof wk->bucket[0]);
        for (int64_t i = 0; i < n; i++) {
            const uint32_t k = key_of(v[i]);

            if ((k & mask) == c.key)
                wk->bucket[(k >> shift[pass]) & low] += by_value ? (double)v[i] : 1.0;
        }
        for (; b >= 0; b--) {
            if (wk->bucket[b] <= 0)
                continue;
            last = b;
            if (wk->bucket[b] >= want)
                break;
            want -= wk->bucket[b];
        }
        if (b < 0) { /* rounding: the sum of all falls short by an ulp */
            b = last < 0 ? 0 : last;
            want += wk->bucket[b];
        }
        c.key |= (uint32_t)b << shift[pass];
        mask |= low << shift[pass];
    }
    if (by_value)
        unit = q_bits_to_f32(c.key ^ 0x80000000u);
    c.equal = unit > 0 ? (int64_t)ceil(want / unit * (1 - 1e-12)) : n;
    c.equal = c.equal < 1 ? 1 : c.equal;
    return c;
}

/* everything outside the cut becomes `gone` */
static void apply_cut(float *v, int64_t n, cut c, float gone)
{
    for (int64_t i = 0; i < n; i++) {
        const uint32_t k = key_of(v[i]);

        if (k < c.key || (k == c.key && c.equal-- <= 0))
            v[i] = gone;
    }
}

static int all_finite(const float *v, int64_t n)
{
    uint32_t bad = 0;

    for (int64_t i = 0; i < n; i++)
        bad |= (q_f32_to_bits(v[i]) & 0x7f800000u) == 0x7f800000u;
    return !bad;
}

/* each distinct id of hist once; 0: an id outside the vocabulary */
static int penalize(work *wk, float *v, int64_t vocab, const rt_pick_row *r)
{
    const float p = r->s.repetition_penalty;

    for (int64_t from = 0; from < vocab; from += WINDOW) {
        memset(wk->seen, 0, sizeof wk->seen);
        for (int32_t i = 0; i < r->n_hist; i++) {
            const int64_t id = r->hist[i], bit = id - from;

            if (id < 0 || id >= vocab)
                return 0;
            if (bit < 0 || bit >= WINDOW || wk->seen[bit / 64] >> (bit % 64) & 1)
                continue;
            wk->seen[bit / 64] |= (uint64_t)1 << (bit % 64);
            v[id] = v[id] < 0 ? v[id] * p : v[id] / p;
        }
    }
    return 1;
}

static int32_t largest(const float *v, int64_t n)
{
    int64_t best = 0;

    for (int64_t i = 1; i < n; i++)
        if (v[i] > v[best])
            best = i;
    return (int32_t)best;
}

static int32_t draw(const float *w, int64_t n, double u)
{
    double sum = 0, run = 0;
    int64_t last = 0;

    for (int64_t i = 0; i < n; i++)
        sum += (double)w[i];
    for (int64_t i = 0; i < n; i++) {
        if (w[i] <= 0)
            continue;
        last = i;
        run += (double)w[i];
        if (run > u * sum)
            break;
    }
    return (int32_t)last;
}

static int32_t pick_row(work *wk, float *v, int64_t vocab, const rt_pick_row *r)
{
    double sum = 0;
    float max;

    if (!all_finite(v, vocab))
        return BAD_LOGIT;
    if (r->s.repetition_penalty != 1.0f && !penalize(wk, v, vocab, r))
        return BAD_ID;
    if (r->s.temperature == 0.0f || r->s.top_k == 1)
        return largest(v, vocab);
    max = v[largest(v, vocab)];
    if (r->s.top_k > 0 && r->s.top_k < vocab)
        apply_cut(v, vocab, select_top(wk, v, vocab, r->s.top_k, 0), -INFINITY);
    for (int64_t i = 0; i < vocab; i++) { /* the difference first: a small temperature overflows */
        v[i] = v[i] > -INFINITY ? expf((v[i] - max) / r->s.temperature) : 0.0f;
        sum += (double)v[i];
    }
    if (r->s.top_p < 1.0f)
        apply_cut(v, vocab, select_top(wk, v, vocab, (double)r->s.top_p * sum, 1), 0.0f);
    return draw(v, vocab, rt_philox_unit(r->s.seed, r->stream, r->pos));
}

static q_status check(const rt_pick_args *a, q_err *err)
{
    if (a->n_rows < 0 || a->vocab < 1 || a->vocab > INT32_MAX)
        return q_fail(err, Q_ESHAPE, "pick: [%lld, %lld]", (long long)a->n_rows,
                      (long long)a->vocab);
    for (int64_t r = 0; r < a->n_rows; r++) {
        const rt_sampling *s = &a->row[r].s;

        if (!(s->temperature >= 0 && s->temperature <= 1e30f && s->top_p >= 0 && s->top_k >= 0 &&
              s->repetition_penalty > 0 && s->repetition_penalty <= 1e30f))
            return q_fail(
                err, Q_EARG,
                "pick: row %lld: temperature %g, top_p %g, top_k %d, penalty %g: none may "
                "be negative, the penalty not 0 (1 is off)",
                (long long)r, (double)s->temperature, (double)s->top_p, s->top_k,
                (double)s->repetition_penalty);
    }
    return Q_OK;
}

q_status cpu_pick(rt_backend *be, const rt_pick_args *a, q_err *err)
{
    const cpu_be *c = cpu_of(be);
    const q_status st = check(a, err);

    if (st != Q_OK)
        return st;
#pragma omp parallel for num_threads(c->threads) schedule(dynamic) if (a->n_rows > 1)
    for (int64_t r = 0; r < a->n_rows; r++)
        a->out[r] = pick_row(cpu_scratch(c), a->logits + r * a->vocab, a->vocab, &a->row[r]);
    for (int64_t r = 0; r < a->n_rows; r++) {
        if (a->out[r] == BAD_LOGIT)
            return q_fail(err, Q_EFAIL,
                          "row %lld: logits are not finite: a weight or an activation "
                          "overflowed",
                          (long long)r);
        if (a->out[r] == BAD_ID)
            return q_fail(err, Q_EARG, "row %lld: the history holds an id outside 0 .. %lld",
                          (long long)r, (long long)a->vocab - 1);
    }
    return Q_OK;
}
