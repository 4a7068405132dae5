/* Random weights, made by all threads and written by one.
 *
 * Element e of tensor t is table[12 bits of mix(seed, t, e / 4)]: a counter, not a sequence, so any
 * part can be made by any thread and the bytes depend on the seed alone.  A table holds 4096 values
 * already in the element type: sums of twelve uniforms, scaled to an exact standard deviation, the
 * upper half the mirror image of the lower so that the mean is exact too.  One 64-bit mix and four
 * loads make four weights.
 *
 * Two pieces are under way, one being made and one being written: memory does not grow with the
 * model, and the copy into the page cache sets the pace. Source of the mix: Steele, Lea, Flood,
 * "Fast splittable pseudorandom number generators", 2014. */
#include "scripts/random_weights.h"

#include <math.h>

#include "formats/base/q_mem.h"

#define TABLE 4096
#define PIECE ((size_t)1 << 24) /* elements between two meetings of the threads */
#define BLOCK ((size_t)1 << 15) /* elements one thread takes at a time; a multiple of four */

static const struct {
    double mean, sd;
} values[RND_FLOATS] = { [RND_MATRIX] = { 0, 0.02 },
                         [RND_NORM] = { 1, 0.05 },
                         [RND_BIAS] = { 0, 0.01 },
                         [RND_SCALE] = { 0.0043, 0.0004 } }; /* codes deviate by 4.6 */

static inline uint64_t mix(uint64_t z) /* the finalizer of SplitMix64 */
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint64_t draw(uint64_t key, uint64_t counter)
{
    return mix(key + (counter + 1) * 0x9e3779b97f4a7c15u);
}

/* 4096 values of one kind in the element type.  Whole-number sums and one division and root each:
 * the same bits on every machine. */
static void make_table(void *table, rnd_kind k, fmt_dtype type)
{
    float v[TABLE];
    double sum[TABLE / 2], square = 0;

    for (size_t i = 0; i < TABLE / 2; i++) {
        int64_t n = 0;

        for (uint64_t j = 0; j < 12; j++)
            n += (int64_t)(draw(0, 12 * i + j) >> 40) - (1 << 23);
        sum[i] = (double)n;
        square += sum[i] * sum[i];
    }
    for (size_t i = 0; i < TABLE / 2; i++) {
        const double x = sum[i] / sqrt(square / (TABLE / 2)) * values[k].sd;

        v[i] = (float)(values[k].mean + x);
        v[TABLE - 1 - i] = (float)(values[k].mean - x);
    }
    fmt_convert(table, type, v, FMT_F32, TABLE, NULL);
}

/* n elements from element `from` of the tensor of this key; from is a multiple of four. */
static void fill16(uint16_t *dst, const uint16_t *table, uint64_t key, uint64_t from, size_t n)
{
    size_t i;

    for (i = 0; i + 4 <= n; i += 4) {
        const uint64_t z = draw(key, (from + i) / 4);

        dst[i] = table[z % TABLE];
        dst[i + 1] = table[(z >> 16) % TABLE];
        dst[i + 2] = table[(z >> 32) % TABLE];
        dst[i + 3] = table[(z >> 48) % TABLE];
    }
    for (; i < n; i++)
        dst[i] = table[(draw(key, (from + i) / 4) >> 16 * (i % 4)) % TABLE];
}

static void fill32(float *dst, const float *table, uint64_t key, uint64_t from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = table[(draw(key, (from + i) / 4) >> 16 * (i % 4)) % TABLE];
}

static void fill_words(uint32_t *dst, rnd_kind kind, uint64_t key, int64_t group, uint64_t from,
                       size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = kind == RND_CODES   ? (uint32_t)draw(key, from + i)
                 : kind == RND_ZEROS ? 0x77777777u
                                     : (uint32_t)((from + i) / (uint64_t)group);
}

/* Two pieces in turn: one thread hands the full one to the writer, all make the next. */
typedef struct belt {
    fmt_hf_writer *w;
    q_progress *progress;
    void *full, *next;
    size_t full_bytes;
} belt;

/* What a piece is made of. */
typedef struct piece {
    rnd_kind kind;
    const void *table; /* of the kinds that have one */
    size_t bytes;      /* of an element */
    uint64_t key, from;
    size_t n;
    int64_t group;
} piece;

static q_status turn(belt *t, const piece *p, q_err *err)
{
    q_status st = Q_OK;
    void *made = t->next;
    const size_t n = p->n;

#pragma omp parallel if (t->full_bytes + n > BLOCK)
    {
#pragma omp master
        st = fmt_hf_write(t->w, t->full, t->full_bytes, err);
#pragma omp for schedule(dynamic)
        for (size_t b = 0; b < n; b += BLOCK) {
            const size_t m = n - b < BLOCK ? n - b : BLOCK;

            if (p->kind >= RND_FLOATS)
                fill_words((uint32_t *)made + b, p->kind, p->key, p->group, p->from + b, m);
            else if (p->bytes == 2)
                fill16((uint16_t *)made + b, p->table, p->key, p->from + b, m);
            else
                fill32((float *)made + b, p->table, p->key, p->from + b, m);
        }
    }
    q_progress_add(t->progress, t->full_bytes);
    t->next = t->full;
    t->full = made;
    t->full_bytes = n * p->bytes;
    return st;
}

q_status rnd_write(fmt_hf_writer *w, const rnd_opts *o, const rnd_tensor *tensors, size_t n_tensors,
                   q_err *err)
{
    q_status st = Q_OK;
    uint64_t total = 0;
    belt t = { .w = w, .full = q_malloc(PIECE * sizeof(float)) };
    float *table = q_malloc(TABLE * sizeof *table);
    piece p = { .group = o->group, .table = table };

    t.next = q_malloc(PIECE * sizeof(float));
    for (size_t i = 0; i < n_tensors; i++)
        total += (uint64_t)(tensors[i].shape[0] * tensors[i].shape[1]) *
                 fmt_dtype_bytes(tensors[i].dtype);
    t.progress = q_progress_open(o->log, "writing", total, "B");
    if (!t.full || !t.next || !table)
        Q_FAIL(err, Q_ENOMEM, "no memory for %zu bytes", 2 * PIECE * sizeof(float));
    for (size_t i = 0; i < n_tensors; i++) {
        const size_t n = (size_t)(tensors[i].shape[0] * tensors[i].shape[1]);

        p.kind = tensors[i].kind;
        p.bytes = fmt_dtype_bytes(tensors[i].dtype);
        p.key = mix(o->seed ^ mix(i + 1));
        if (p.kind < RND_FLOATS && (i == 0 || p.kind != tensors[i - 1].kind))
            make_table(table, p.kind, tensors[i].dtype);
        for (p.from = 0; p.from < n; p.from += PIECE) {
            p.n = n - p.from < PIECE ? n - p.from : PIECE;
            Q_TRY(turn(&t, &p, err));
        }
    }
    p.n = 0;
    Q_TRY(turn(&t, &p, err)); /* the last one */
out:
    q_free(t.full);
    q_free(t.next);
    q_free(table);
    q_progress_close(t.progress);
    return st;
}
