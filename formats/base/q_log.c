/* Messages and progress.  The rate is taken over a sliding window of about ten seconds, or of ten
 * rounds, so that the time left follows what the machine does now and not how it started. */
#include "formats/base/q_log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "formats/base/q_mem.h"

#define WINDOW 10 /* one-second buckets */

struct q_progress {
    const q_log *log;
    pthread_mutex_t lock;
    char what[64], unit[16];
    uint64_t total, done;
    double start, last_draw;
    uint64_t at[WINDOW]; /* done at the start of each of the last seconds, or rounds */
    double when[WINDOW];
    int n_at, in_rounds, drawn;
};

double q_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void q_log_put(const q_log *log, q_log_level level, const char *fmt, ...)
{
    static const char *const mark[] = { "", "warning: ", "", "" };
    char text[1024];
    va_list ap;

    if (!log || level > log->level)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (char *p = text; *p; p++) /* names from files must not steer a terminal */
        if (((unsigned char)*p < 0x20 && *p != '\n') || *p == 0x7f)
            *p = '?';
    fprintf(stderr, "%s%s: %s%s\n", log->progress == 2 ? "\r\033[K" : "", log->name, mark[level],
            text);
}

static void quantity(char *out, size_t cap, double v, const char *unit)
{
    static const char *const step[] = { "B", "KB", "MB", "GB", "TB" };
    int i = 0;

    if (strcmp(unit, "B") != 0) {
        snprintf(out, cap, v < 100 ? "%.1f %s" : "%.0f %s", v, unit);
        return;
    }
    for (; v >= 1000 && i < 4; i++)
        v /= 1000;
    snprintf(out, cap, i ? "%.1f %s" : "%.0f %s", v, step[i]);
}

static double rate_now(const q_progress *p, double now)
{
    const int oldest = p->n_at < WINDOW ? 0 : p->n_at % WINDOW;
    const double dt = p->n_at ? now - p->when[oldest] : now - p->start;
    const uint64_t base = p->n_at ? p->at[oldest] : 0;

    return dt > 0 ? (double)(p->done - base) / dt : 0;
}

static void draw(q_progress *p, double now)
{
    char a[32], b[32], r[40];
    const double rate = rate_now(p, now);
    const double left = rate > 0 ? (double)(p->total - p->done) / rate : 0;
    const int percent = p->total ? (int)(100.0 * (double)p->done / (double)p->total) : 0;

    quantity(a, sizeof a, (double)p->done, p->unit);
    quantity(b, sizeof b, (double)p->total, p->unit);
    quantity(r, sizeof r, rate, p->unit);
    if (p->log->progress == 2)
        fprintf(stderr, "\r\033[K%s  %3d%%  %s / %s  %s/s  %.0f s left", p->what, percent, a, b, r,
                left);
    else
        fprintf(stderr, "%s: %s: %d%%, %s / %s, %s/s, %.0f s left\n", p->log->name, p->what,
                percent, a, b, r, left);
    fflush(stderr);
    p->drawn = 1;
    p->last_draw = now;
}

q_progress *q_progress_open(const q_log *log, const char *what, uint64_t total, const char *unit)
{
    q_progress *p;

    if (!log || !log->progress || !(p = q_calloc(1, sizeof *p)))
        return NULL;
    p->log = log;
    snprintf(p->what, sizeof p->what, "%s", what);
    snprintf(p->unit, sizeof p->unit, "%s", unit);
    p->total = total;
    p->start = p->last_draw = q_now();
    pthread_mutex_init(&p->lock, NULL);
    return p;
}

static void mark(q_progress *p, double now)
{
    p->at[p->n_at % WINDOW] = p->done;
    p->when[p->n_at % WINDOW] = now;
    p->n_at++;
}

void q_progress_add(q_progress *p, uint64_t n)
{
    double now;

    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    now = q_now();
    p->done += n;
    if (p->done > p->total)
        p->total = p->done;
    if (!p->in_rounds && (p->n_at == 0 || now - p->when[(p->n_at - 1) % WINDOW] >= 1.0))
        mark(p, now);
    if (now - p->last_draw >= (p->log->progress == 2 ? 0.1 : 10.0))
        draw(p, now);
    pthread_mutex_unlock(&p->lock);
}

void q_progress_round(q_progress *p, const char *what)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    snprintf(p->what, sizeof p->what, "%s", what);
    p->in_rounds = 1;
    mark(p, q_now());
    pthread_mutex_unlock(&p->lock);
}

void q_progress_close(q_progress *p)
{
    if (!p)
        return;
    if (p->drawn && p->log->progress == 2)
        fputs("\r\033[K", stderr);
    pthread_mutex_destroy(&p->lock);
    q_free(p);
}
