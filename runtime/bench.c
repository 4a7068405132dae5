/* Measuring an engine.
 *
 * A step of the engine may hold prompt chunks, decoding sequences, or both; its own statistics put
 * the time of a mixed step into prefill and the tokens where they belong, which is right for totals
 * and wrong for rates.  So the steps are driven from here, and after each one the statistics tell
 * what it was:
 *
 *     prompt tokens  decode tokens   counts as
 *     some           none            prefill
 *     none           a full batch    decode
 *     anything else                  elapsed time only
 *
 * The first new token of a sequence comes out of its last prompt step, so n_new tokens are n_new -
 * 1 decode steps. */
#include "runtime/bench.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "runtime/kv.h"
#include "runtime/philox.h"

#define READ_BYTES  ((size_t)512 << 20) /* above the last-level cache of nearly every machine */
#define READ_PASSES 8
#define READ_PIECES 1024
#define HUGE_PAGE   ((size_t)2 << 20) /* what weights stand in as well: see runtime/cpu/be_cpu.c */

/* Four of them make a cache line; larger ones spill where the build has no AVX. */
typedef uint64_t pair __attribute__((vector_size(16)));

static uint64_t sum_of(const pair *p, size_t n) /* n divides by 4 */
{
    pair a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 };

    for (size_t i = 0; i < n; i += 4) {
        a += p[i];
        b += p[i + 1];
        c += p[i + 2];
        d += p[i + 3];
    }
    a += b + c + d;
    return a[0] + a[1];
}

q_status rt_bench_bandwidth(double *bytes_s, int threads, q_err *err)
{
    q_status st = Q_OK;
    const size_t piece = READ_BYTES / sizeof(pair) / READ_PIECES;
    const pair one = { 1, 1 };
    pair *p = aligned_alloc(HUGE_PAGE, READ_BYTES);
    double best = 0;

    if (!p)
        Q_FAIL(err, Q_ENOMEM, "no memory for %zu bytes to measure the read bandwidth with",
               READ_BYTES);
    (void)madvise(p, READ_BYTES, MADV_HUGEPAGE); /* advice: refused where it is switched off */
    /* each thread writes what it will read, so that on several sockets its pages are near it */
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size_t i = 0; i < READ_PIECES; i++)
        for (size_t k = 0; k < piece; k++)
            p[i * piece + k] = one;
    for (int pass = 0; pass < READ_PASSES; pass++) {
        const double start = q_now();
        uint64_t total = 0;
        double s;

#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : total)
        for (size_t i = 0; i < READ_PIECES; i++)
            total += sum_of(p + i * piece, piece);
        s = q_now() - start;
        if (total != READ_BYTES / 8) /* also keeps the compiler from dropping the sum */
            Q_FAIL(err, Q_EFAIL, "memory is faulty: %zu ones sum up to %llu", READ_BYTES / 8,
                   (unsigned long long)total);
        if ((double)READ_BYTES / s > best)
            best = (double)READ_BYTES / s;
    }
    *bytes_s = best;
out:
    free(p);
    return st;
}

/* Memory that new blocks can take: of the device, or on the host without swapping, where Linux says
 * it. */
static uint64_t free_memory(rt_backend *be)
{
    FILE *f = fopen("/proc/meminfo", "re");
    uint64_t bytes = UINT64_MAX;
    unsigned long long kib;
    char text[128];

    if (be->ops->free_bytes) {
        uint64_t all;

        if (f)
            fclose(f);
        return be->ops->free_bytes(be, &all);
    }
    while (f && fgets(text, sizeof text, f))
        if (sscanf(text, "MemAvailable: %llu kB", &kib) == 1)
            bytes = (uint64_t)kib * 1024;
    if (f)
        fclose(f);
    return bytes;
}

uint64_t rt_bench_used_bytes(rt_backend *be)
{
    struct rusage u = { 0 };
    uint64_t all;

    if (be->ops->free_bytes) {
        const uint64_t idle = be->ops->free_bytes(be, &all);

        return all - idle;
    }
    (void)getrusage(RUSAGE_SELF, &u);
    return (uint64_t)u.ru_maxrss * 1024; /* Linux counts KiB */
}

double rt_bench_token_flop(const rt_model *m)
{
    double n = 0;

    for (int64_t i = 0; i < m->desc.layers; i++)
        for (int r = 0; r < FMT_ROLES; r++)
            n += 2.0 * (double)m->layer[i].w[r].N * (double)m->layer[i].w[r].K;
    return n;
}

uint64_t rt_bench_kv_token_bytes(const rt_session *s)
{
    return rt_kv_page_bytes(&s->desc, rt_kv_format_find(s->kv_format)) / RT_PAGE;
}

uint64_t rt_bench_model_bytes(const rt_model *m)
{
    const rt_weight *e = &m->embd;
    uint64_t n = m->decode_bytes; /* holds an embedding that is the head */

    if (m->head.data != e->data)
        n += rt_weight_bytes(e);
    for (int64_t i = 0; i < m->desc.layers; i++)
        for (int r = 0; r < FMT_ROLES; r++)
            if (m->layer[i].w[r].bias)
                n += (uint64_t)m->layer[i].w[r].N * 4;
    return n;
}

q_status rt_bench_open(rt_engine **out, uint64_t *memory, rt_session *s, int batch, int64_t longest,
                       q_err *err)
{
    q_status st = Q_OK;
    rt_engine *e = NULL;
    q_err why = { 0 };
    const uint64_t available = free_memory(s->be); /* before the engine takes its part */

    *memory = rt_bench_kv_token_bytes(s) * RT_PAGE * (uint64_t)batch *
              (((uint64_t)longest + RT_PAGE - 1) / RT_PAGE);
    st = rt_session_engine(&e, s, batch, longest, &why);
    if (st == Q_ENOMEM)
        Q_FAIL(err, st, "out of memory: at least %.2f GB needed", (double)*memory / 1e9);
    if (st != Q_OK)
        Q_FAIL(err, st, "%s", why.msg);
    *memory = rt_engine_bytes(e);
    if (*memory > available)
        Q_FAIL(err, Q_ENOMEM, "out of memory: %.2f GB needed, %.2f GB free", (double)*memory / 1e9,
               (double)available / 1e9);
    *out = e;
    e = NULL;
out:
    rt_engine_close(e);
    return st;
}

int rt_bench_list(int *out, int cap, const char *text, int max, int *open)
{
    int n = 0;

    for (const char *p = text;; p++) {
        int64_t v = 0;

        for (; *p >= '0' && *p <= '9' && v <= max; p++)
            v = 10 * v + (*p - '0');
        if (v < 1 || v > max || n == cap)
            return 0;
        out[n++] = (int)v;
        *open = strcmp(p, "..") == 0;
        if (*p == '\0' || *open)
            return n;
        if (*p != ',')
            return 0;
    }
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double rt_bench_median(double *v, size_t n)
{
    assert(n > 0);
    qsort(v, n, sizeof *v, by_value);
    return (v[(n - 1) / 2] + v[n / 2]) / 2;
}

/* The sequences of a run and how many tokens each had after the last step. */
typedef struct flight {
    rt_seq **seq; /* [n] */
    size_t *len;  /* [n] */
    size_t n;
    int64_t batch;
} flight;

/* Counts the step that took the statistics of e from *was to what they are now. */
static void count_step(rt_bench_run *r, const flight *f, const rt_stats *was, const rt_stats *is)
{
    const int64_t prompt = is->prefill_tokens - was->prefill_tokens;
    const int64_t decode = is->decode_tokens - was->decode_tokens;
    int64_t kv = 0;

    for (size_t i = 0; i < f->n; i++) {
        size_t len;

        rt_seq_ids(f->seq[i], &len);
        if (len > f->len[i]) /* took part; the token it got is not in the cache yet */
            kv += (int64_t)len - 1;
        f->len[i] = len;
    }
    if (prompt > 0 && decode == 0) {
        r->prefill_tokens += prompt;
        r->prefill_s += is->prefill_s - was->prefill_s;
    } else if (prompt == 0 && decode == f->batch) {
        r->decode_steps++;
        r->decode_tokens += decode;
        r->decode_s += is->decode_s - was->decode_s;
        r->kv_tokens += kv;
    }
}

q_status rt_bench_jobs(rt_bench_run *out, rt_engine *e, const rt_bench_jobs_opts *o, q_err *err)
{
    q_status st = Q_OK;
    const double start = q_now();
    const size_t n = o->n;
    flight f = { .seq = q_calloc(n, sizeof(rt_seq *)), .len = q_calloc(n, sizeof *f.len), .n = n };

    memset(out, 0, sizeof *out);
    if (!f.seq || !f.len)
        Q_FAIL(err, Q_ENOMEM, "no memory for %zu sequences", n);
    f.batch = (size_t)o->batch < n ? o->batch : (int64_t)n;
    for (size_t i = 0; i < n; i++) {
        const rt_bench_job *job = &o->job[i];
        const rt_seq_opts s = { .ids = job->ids,
                                .n_ids = job->n_ids,
                                .max_new = job->n_new,
                                .sampling = { .top_p = 1, .repetition_penalty = 1 }, /* greedy */
                                .on_token = o->on_token,
                                .user = o->user };

        Q_TRY(rt_engine_add(e, &f.seq[i], &s, err));
        f.len[i] = job->n_ids;
        out->prompt_tokens += (int64_t)job->n_ids;
        out->new_tokens += job->n_new;
    }
    for (int busy = 1; busy;) {
        const rt_stats was = *rt_engine_stats(e);

        Q_TRY(rt_engine_step(e, &busy, err));
        count_step(out, &f, &was, rt_engine_stats(e));
    }
    out->requests = (int64_t)n;
    out->elapsed_s = q_now() - start;
out:
    for (size_t i = 0; f.seq && i < n; i++)
        rt_seq_close(f.seq[i]);
    q_free(f.seq);
    q_free(f.len);
    return st;
}

q_status rt_bench_random(rt_bench_run *out, rt_engine *e, const rt_bench_shape *shape, q_err *err)
{
    q_status st = Q_OK;
    const size_t n = (size_t)shape->batch, n_in = (size_t)shape->n_in;
    rt_bench_job *job = q_calloc(n, sizeof *job);
    int32_t *ids = NULL;
    size_t bytes;

    if (!job || !q_mul_ok(n * sizeof *ids, n_in, &bytes) || !(ids = q_malloc(bytes)))
        Q_FAIL(err, Q_ENOMEM, "no memory for %zu prompts of %zu tokens", n, n_in);
    for (size_t i = 0; i < n; i++) {
        int32_t *v = ids + i * n_in;

        for (size_t k = 0; k < n_in; k++)
            v[k] = (int32_t)(rt_philox_unit(shape->seed, i, k) * (double)shape->vocab);
        job[i] = (rt_bench_job){ .ids = v, .n_ids = n_in, .n_new = shape->n_new };
    }
    Q_TRY(rt_bench_jobs(out, e, &(rt_bench_jobs_opts){ .job = job, .n = n, .batch = shape->batch },
                        err));
out:
    q_free(ids);
    q_free(job);
    return st;
}
