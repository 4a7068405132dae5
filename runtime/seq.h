/* Inside of the engine: sequences and their place in it.  Included by engine.c, engine_step.c and
 * sched.c only. */
#ifndef RT_SEQ_H
#define RT_SEQ_H

#include "runtime/decoder.h"
#include "runtime/engine.h"
#include "runtime/kv.h"

struct rt_seq {
    rt_engine *e;
    rt_seq *next; /* in the engine's list, order of add */
    q_ids ids;    /* prompt and sampled; capacity for all of them is there from the start */
    size_t n_prompt, n_done; /* n_done: tokens whose K and V are stored */
    size_t limit;            /* n_prompt + max_new */
    int32_t *page;           /* [n_page], NULL until admitted */
    int64_t n_page;
    float *inv_freq; /* [rot / 2] */
    int32_t *stop;
    rt_seq_opts o; /* ids and stop are not used: copied above */
    rt_finish finish;
    int done; /* nothing left to run */
    uint64_t stream;
};

/* What one step runs: rows of the batch by sequence, and the rows whose logits are wanted. */
typedef struct rt_slice {
    rt_seq *s;
    int64_t row0, n; /* rows of the batch */
    int64_t pos0;    /* position of row0 */
    int64_t want0;   /* first row with logits for on_logits; row0 + n when none */
    int sample;      /* 1: the last row is sampled */
} rt_slice;

/* The arrays of a batch with their byte counts; n_tok, n_seq and e are the place's. */
#define RT_BATCH(X)                                                                                \
    X(tok, (size_t)n_tok * 4)                                                                      \
    X(pos, (size_t)n_tok * 4)                                                                      \
    X(seq, (size_t)n_tok * 4)                                                                      \
    X(q_scale, (size_t)n_tok * 4)                                                                  \
    X(q_start, ((size_t)n_seq + 1) * 4)                                                            \
    X(kv_len, (size_t)n_seq * 4)                                                                   \
    X(block, (size_t)n_seq *(size_t)e->max_blocks * 4)                                             \
    X(inv_freq, (size_t)n_seq *(size_t)(e->m->desc.rot / 2) * 4)

#define RT_GRAPHS 65 /* decode steps of up to 64 sequences are replayed */

struct rt_engine {
    rt_model *m;
    rt_engine_opts o;
    rt_kv_pool pool;
    rt_work work;
    rt_batch host, dev;              /* the same arrays on both sides */
    void *batch_host[2], *batch_dev; /* all arrays of a batch, in one block of batch_bytes */
    size_t batch_bytes;
    void *graph[RT_GRAPHS]; /* of decode steps, by number of sequences; owned */
    int has_logits;         /* this step's graph has left the logits of all rows */
    int64_t max_blocks;
    int32_t *row_host, *row_dev;      /* [max_rows] rows for the head */
    int32_t *pick_host[2], *pick_dev; /* [max_rows] sampled ids */
    rt_pick_row *pick_row;            /* [max_rows] */
    float *logits_host;               /* [max_rows, vocab] */
    rt_slice *slice, *flying;         /* [max_seqs], see engine_step.c; they change places */
    rt_slice *slices[2];              /* owned */
    int n_slice, n_flying;
    int slot;       /* of the host blocks: where the next step is written */
    int has_prompt; /* the step holds prompt tokens */
    rt_seq *first;
    uint64_t n_added;
    rt_stats stats;
};

/* Admits waiting sequences, chooses the slices of the next step and fills e->host.  n_slice 0:
 * idle. */
void rt_sched_fill(rt_engine *e);
/* The step behind the one that is flying, whose tokens are not known yet: the same sequences, one
 * position on.  0: there is none, because a sequence is at its end, or others have their turn. */
int rt_sched_follow(rt_engine *e);

void rt_engine_lay(const rt_engine *e, rt_batch *b, void *block); /* b's arrays lie in block */
void rt_seq_give_pages(rt_seq *s);

#endif
