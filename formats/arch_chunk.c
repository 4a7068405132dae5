/* Reading tensors of an archive that lie in chunks.
 *
 * A part of a chunk costs as much as all of it, and rows of a matrix are asked for by many threads,
 * a few at a time.  So the last chunks stay unpacked in a few places: a chunk has one place, each
 * place a lock, and threads that read different chunks seldom wait for one another.  At most SLOTS
 * chunks are in memory, whatever the archive's size. */
#include <pthread.h>
#include <string.h>

#include "formats/arch_impl.h"

#define SLOTS 16

typedef struct slot {
    pthread_mutex_t lock;
    const fmt_arch_entry *e; /* whose chunk i it holds; NULL: none */
    size_t i;
    char *v;
    uint64_t cap;
} slot;

struct fmt_arch_cache {
    slot slot[SLOTS];
};

q_status fmt_arch_cache_open(fmt_arch_cache **out, q_err *err)
{
    fmt_arch_cache *c = q_calloc(1, sizeof *c);

    if (!c)
        return q_fail(err, Q_ENOMEM, "no memory for chunks");
    for (int i = 0; i < SLOTS; i++)
        pthread_mutex_init(&c->slot[i].lock, NULL);
    *out = c;
    return Q_OK;
}

void fmt_arch_cache_close(fmt_arch_cache *c)
{
    for (int i = 0; c && i < SLOTS; i++) {
        pthread_mutex_destroy(&c->slot[i].lock);
        q_free(c->slot[i].v);
    }
    q_free(c);
}

/* Chunk i of e into the slot, whose lock is held. */
static q_status fill(slot *s, const fmt_arch *a, const fmt_arch_entry *e, size_t i, q_err *err)
{
    q_status st = Q_OK;

    if (s->e == e && s->i == i)
        return Q_OK;
    s->e = NULL;
    if (s->cap < e->chunks.form.bytes) {
        q_free(s->v);
        s->cap = 0;
        if (!(s->v = q_malloc((size_t)e->chunks.form.bytes)))
            Q_FAIL(err, Q_ENOMEM, "%s: no memory for a chunk of '%s'", a->path, e->name);
        s->cap = e->chunks.form.bytes;
    }
    Q_TRY(fmt_h5_read_chunk(s->v, a->f, e->name, &e->chunks, i, err));
    s->e = e;
    s->i = i;
out:
    return st;
}

q_status fmt_arch_read_chunks(const fmt_arch *a, const fmt_arch_entry *e, uint64_t from, size_t n,
                              void *dst, q_err *err)
{
    const uint64_t bytes = e->chunks.form.bytes;
    char *to = dst;
    q_status st = Q_OK;

    while (n > 0 && st == Q_OK) {
        const uint64_t i = from / bytes, at = from % bytes;
        const size_t part = bytes - at < n ? (size_t)(bytes - at) : n;
        slot *s = &a->cache->slot[(i + (uint64_t)(e - a->tensors.e)) % SLOTS];

        pthread_mutex_lock(&s->lock);
        st = fill(s, a, e, (size_t)i, err);
        if (st == Q_OK)
            memcpy(to, s->v + at, part);
        pthread_mutex_unlock(&s->lock);
        to += part;
        from += part;
        n -= part;
    }
    return st;
}
