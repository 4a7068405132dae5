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
} values[RND_KINDS] = {
    [RND_MATRIX] = { 0, 0.02 }, [RND_NORM] = { 1, 0.05 }, [RND_BIAS] = { 0, 0.01 }
};

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

/* Two pieces in turn: one thread hands the full one to the writer, all make the next. */
typedef struct belt {
    fmt_hf_writer *w;
    q_progress *progress;
    size_t bytes; /* of an element */
    void *full, *next;
    size_t n_full; /* elements */
} belt;

static q_status turn(belt *t, const void *table, uint64_t key, uint64_t from, size_t n, q_err *err)
{
    q_status st = Q_OK;
    void *made = t->next;

#pragma omp parallel if (t->n_full + n > BLOCK)
    {
#pragma omp master
        st = fmt_hf_write(t->w, t->full, t->n_full * t->bytes, err);
#pragma omp for schedule(dynamic)
        for (size_t b = 0; b < n; b += BLOCK) {
            const size_t m = n - b < BLOCK ? n - b : BLOCK;

            if (t->bytes == 2)
                fill16((uint16_t *)made + b, table, key, from + b, m);
            else
                fill32((float *)made + b, table, key, from + b, m);
        }
    }
    q_progress_add(t->progress, t->n_full * t->bytes);
    t->next = t->full;
    t->full = made;
    t->n_full = n;
    return st;
}

q_status rnd_write(fmt_hf_writer *w, const rnd_opts *o, const rnd_tensor *tensors, size_t n_tensors,
                   q_err *err)
{
    q_status st = Q_OK;
    const size_t bytes = fmt_dtype_bytes(o->dtype);
    uint64_t total = 0;
    belt t = { .w = w, .bytes = bytes, .full = q_malloc(PIECE * bytes) };
    char *table = q_malloc(RND_KINDS * TABLE * bytes);

    t.next = q_malloc(PIECE * bytes);
    for (size_t i = 0; i < n_tensors; i++)
        total += (uint64_t)(tensors[i].shape[0] * tensors[i].shape[1]) * bytes;
    t.progress = q_progress_open(o->log, "writing", total, "B");
    if (!t.full || !t.next || !table)
        Q_FAIL(err, Q_ENOMEM, "no memory for %zu bytes", 2 * PIECE * bytes);
    for (int k = 0; k < RND_KINDS; k++)
        make_table(table + (size_t)k * TABLE * bytes, (rnd_kind)k, o->dtype);
    for (size_t i = 0; i < n_tensors; i++) {
        const void *of_kind = table + (size_t)tensors[i].kind * TABLE * bytes;
        const uint64_t key = mix(o->seed ^ mix(i + 1));
        const size_t n = (size_t)(tensors[i].shape[0] * tensors[i].shape[1]);

        for (size_t from = 0; from < n; from += PIECE)
            Q_TRY(turn(&t, of_kind, key, from, n - from < PIECE ? n - from : PIECE, err));
    }
    Q_TRY(turn(&t, table, 0, 0, 0, err)); /* the last one */
out:
    q_free(t.full);
    q_free(t.next);
    q_free(table);
    q_progress_close(t.progress);
    return st;
}
