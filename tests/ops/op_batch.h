/* Batches for tests of operations that touch the cache: ragged, with pages in an order of their
 * own, in host memory and as the backend sees them.
 *
 *     const op_span seq[] = { { 70, 65 }, { 100, 1 } };           tokens in the cache, of this call
 *     const op_batch_shape shape = { .n_seq = 2, .capacity = 6, .n_pages = 13, .rot = 64 };
 *     rt_batch b = op_batch(&shape, seq, 1), dev;                 now 0: the call that fills the
 * cache b.q_scale[3] = 2;                                           1 for all as it is made dev =
 * op_batch_up(be, &shape, &b); op_batch_down(be, &dev);  op_batch_free(&b);
 *
 * Every sequence turns by frequencies of its own, as dynamic NTK makes them.  Beside ops.h because
 * most tests need no batch. */
#ifndef OP_BATCH_H
#define OP_BATCH_H

#include "tests/ops/ops.h"

#define OP_ROPE_BASE 1e4

typedef struct op_span {
    int past, now;
} op_span;

typedef struct op_batch_shape {
    int n_seq, capacity; /* pages of a sequence */
    int64_t n_pages;     /* of the pool, at least n_seq * capacity, not a multiple of 5 */
    int64_t rot;
} op_batch_shape;

/* Sequences of a case: those before the first that does nothing now. */
static inline int op_n_seq(const op_span *seq, int most)
{
    int n = 0;

    while (n < most && seq[n].now > 0)
        n++;
    return n;
}

/* Pages for the longest. */
static inline int op_capacity(const op_span *seq, int n_seq)
{
    int longest = 0;

    for (int i = 0; i < n_seq; i++)
        longest = seq[i].past + seq[i].now > longest ? seq[i].past + seq[i].now : longest;
    return (longest + RT_PAGE - 1) / RT_PAGE;
}

static inline int64_t op_n_pages(int n_seq, int capacity)
{
    const int64_t n = (int64_t)n_seq * capacity + 1; /* one that nobody uses */

    return n % 5 == 0 ? n + 1 : n;
}

/* the arrays and their lengths, for all that is done to each of them */
#define OP_BATCH_ARRAYS(X, s, b)                                                                   \
    X(pos, (b)->n_tok)                                                                             \
    X(seq, (b)->n_tok)                                                                             \
    X(q_start, (b)->n_seq + 1)                                                                     \
    X(kv_len, (b)->n_seq)                                                                          \
    X(block, (b)->n_seq *(s)->capacity)                                                            \
    X(inv_freq, (b)->n_seq *((s)->rot / 2))                                                        \
    X(q_scale, (b)->n_tok)

static inline rt_batch op_batch(const op_batch_shape *s, const op_span *seq, int now)
{
    rt_batch made = { .n_seq = s->n_seq, .max_blocks = s->capacity }, *b = &made;
    const int64_t pairs = s->rot / 2;
    int t = 0;

    for (int i = 0; i < s->n_seq; i++)
        b->n_tok += now ? seq[i].now : seq[i].past;
#define X(name, n) b->name = op_host((size_t)(n) * sizeof *b->name);
    OP_BATCH_ARRAYS(X, s, b)
#undef X
    for (int i = 0; i < s->n_seq; i++) {
        const int from = now ? seq[i].past : 0, to = from + (now ? seq[i].now : seq[i].past);

        b->q_start[i] = t;
        b->kv_len[i] = to;
        for (int p = i * s->capacity; p < (i + 1) * s->capacity; p++)
            b->block[p] = (int32_t)((5 * p + 3) % s->n_pages);
        for (int64_t p = 0; p < pairs; p++)
            b->inv_freq[i * pairs + p] =
                (float)pow(OP_ROPE_BASE * (i + 1), -2.0 * (double)p / (double)s->rot);
        for (int j = from; j < to; j++, t++) {
            b->pos[t] = j;
            b->seq[t] = i;
            b->q_scale[t] = 1;
        }
    }
    b->q_start[s->n_seq] = t;
    return made;
}

static inline rt_batch op_batch_up(rt_backend *be, const op_batch_shape *s, const rt_batch *b)
{
    rt_batch dev = *b;
    q_err err = { 0 };

#define X(name, n) dev.name = op_up(be, b->name, (size_t)(n) * sizeof *b->name);
    OP_BATCH_ARRAYS(X, s, b)
#undef X
    T_OK(be->ops->sync(be, &err), err);
    return dev;
}

static inline void op_batch_down(rt_backend *be, rt_batch *dev)
{
#define X(name, n) be->ops->free(be, dev->name);
    OP_BATCH_ARRAYS(X, , )
#undef X
}

static inline void op_batch_free(rt_batch *b)
{
#define X(name, n) q_free(b->name);
    OP_BATCH_ARRAYS(X, , )
#undef X
}

#endif
