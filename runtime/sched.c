/* The scheduler: which tokens run in the next step.  First one token of each decoding sequence, so
 * that nobody waits for a long prompt; then prompt chunks in order of arrival. */
#include <assert.h>
#include <string.h>

#include "runtime/rope.h"
#include "runtime/seq.h"

static int64_t pages_for(size_t tokens)
{
    return ((int64_t)tokens + RT_PAGE - 1) / RT_PAGE;
}

static int count_running(const rt_engine *e)
{
    int n = 0;

    for (const rt_seq *s = e->first; s; s = s->next)
        n += s->page[0] >= 0 && !s->done;
    return n;
}

/* In order of arrival: a long sequence at the head is not overtaken, so it cannot starve. */
static void admit(rt_engine *e)
{
    int running = count_running(e);

    for (rt_seq *s = e->first; s; s = s->next) {
        if (s->done || s->page[0] >= 0)
            continue;
        if (running == e->o.max_seqs || e->pool.n_free < s->n_page)
            return;
        for (int64_t i = 0; i < s->n_page; i++)
            s->page[i] = rt_kv_take(&e->pool);
        running++;
    }
}

/* coming: tokens behind ids that the device knows and the host does not. */
static void put_slice(rt_engine *e, rt_seq *s, int64_t n, size_t coming)
{
    rt_batch *b = &e->host;
    const fmt_model *m = &e->m->desc;
    const int64_t row0 = b->n_tok, pos0 = (int64_t)s->n_done;
    const int i = b->n_seq;
    rt_slice *p = &e->slice[e->n_slice++];
    const int64_t from = s->o.on_logits ? s->o.logits_from : INT64_MAX;

    *p = (rt_slice){ .s = s, .row0 = row0, .n = n, .pos0 = pos0 };
    p->want0 = from <= pos0 ? row0 : from < pos0 + n ? row0 + (from - pos0) : row0 + n;
    p->sample = s->n_done + (size_t)n == s->ids.n + coming && s->ids.n + coming < s->limit;
    for (int64_t t = 0; t < n; t++) {
        b->tok[row0 + t] = (size_t)(pos0 + t) < s->ids.n ? s->ids.v[pos0 + t] : 0;
        b->pos[row0 + t] = (int32_t)(pos0 + t);
        b->seq[row0 + t] = i;
        b->q_scale[row0 + t] = rt_logn_factor(m, pos0 + t);
    }
    memcpy(b->inv_freq + i * (m->rot / 2), s->inv_freq, (size_t)(m->rot / 2) * sizeof(float));
    memcpy(b->block + i * e->max_blocks, s->page,
           (size_t)pages_for((size_t)(pos0 + n)) * sizeof *s->page);
    b->kv_len[i] = (int32_t)(pos0 + n);
    b->n_tok += (int)n;
    b->n_seq++;
    b->q_start[b->n_seq] = b->n_tok;
    e->has_prompt |= s->n_done < s->n_prompt;
}

static void empty_batch(rt_engine *e)
{
    e->host.n_tok = e->host.n_seq = 0;
    e->host.q_start[0] = 0;
    e->n_slice = 0;
    e->has_prompt = 0;
}

void rt_sched_fill(rt_engine *e)
{
    rt_batch *b = &e->host;

    empty_batch(e);
    admit(e);
    for (int prompts = 0; prompts < 2; prompts++)
        for (rt_seq *s = e->first; s; s = s->next) {
            const int64_t left = (int64_t)(s->ids.n - s->n_done), room = e->o.max_tok - b->n_tok;

            if (s->done || s->page[0] < 0 || room == 0)
                continue;
            assert(left > 0);
            if ((s->n_done < s->n_prompt) == prompts)
                put_slice(e, s, left < room ? left : room, 0);
        }
}

int rt_sched_follow(rt_engine *e)
{
    const int running = count_running(e);

    for (int i = 0; i < e->n_flying; i++) {
        const rt_seq *s = e->flying[i].s;

        if (!s || s->done || s->ids.n + 1 == s->limit)
            return 0;
        if (s->o.on_logits && s->o.logits_from <= (int64_t)s->n_done) /* of this very step */
            return 0;
    }
    if (running != e->n_flying)
        return 0;
    for (const rt_seq *s = e->first; s; s = s->next)
        if (!s->done && s->page[0] < 0) { /* the first that waits */
            if (running < e->o.max_seqs && e->pool.n_free >= s->n_page)
                return 0;
            break;
        }
    empty_batch(e);
    for (int i = 0; i < e->n_flying; i++)
        put_slice(e, e->flying[i].s, 1, 1);
    return 1;
}
