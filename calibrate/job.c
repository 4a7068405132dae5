/* Job directories. */
#include "calibrate/job.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "formats/base/q_file.h"

#define JOB_FILE "job.json"
#define JOB_MAX  ((size_t)1 << 20)

struct cal_job {
    char *dir;
    int lock; /* -1: of another rank */
    int rank;
};

#define LOCK_TRIES 20 /* 0.1 s each */

/* The lock lives as long as the descriptor: a killed run leaves none behind, once the system has
 * taken the process apart, which can be some time after the kill. */
static q_status take_lock(cal_job *job, q_err *err)
{
    q_status st = Q_OK;
    char *path = q_path_join(job->dir, "lock");

    if (!path)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", job->dir);
    job->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (job->lock < 0)
        Q_FAIL_ERRNO(err, Q_ECREATE, "%s: open", path);
    for (int i = 0; flock(job->lock, LOCK_EX | LOCK_NB) != 0; i++) {
        if (i == LOCK_TRIES)
            Q_FAIL(err, Q_ECREATE, "%s: another run works on this job: wait for it", job->dir);
        nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
    }
out:
    q_free(path);
    return st;
}

/* Text of a member, for comparing and for messages. */
static q_status text_of(q_buf *out, const fmt_json *o, const char *key, q_err *err)
{
    const fmt_json *v = fmt_json_get(o, key);

    q_buf_clear(out);
    return v ? fmt_json_print(out, v, 0, err) : q_buf_puts(out, "nothing", err);
}

static q_status compare(const cal_job *job, const fmt_json *was, const fmt_json *is, q_err *err)
{
    q_status st = Q_OK;
    q_buf a = { 0 }, b = { 0 };

    for (fmt_json_iter *it = fmt_json_first(is); it; it = fmt_json_next(is, it)) {
        const char *key = fmt_json_key(it);

        Q_TRY(text_of(&a, was, key, err));
        Q_TRY(text_of(&b, is, key, err));
        if (strcmp(a.data, b.data) != 0)
            Q_FAIL(err, Q_ECONFIG,
                   "%s: was begun with another %s (%s, now %s): use the same again, or --no-resume "
                   "to start anew",
                   job->dir, key, a.data, b.data);
    }
    if (fmt_json_size(was) != fmt_json_size(is))
        Q_FAIL(err, Q_ECONFIG, "%s: was begun by another version: --no-resume starts anew",
               job->dir);
out:
    q_buf_free(&a);
    q_buf_free(&b);
    return st;
}

static q_status check(cal_job *job, const char *path, const fmt_json *fingerprint, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *was = NULL;
    q_buf text = { 0 };
    q_err why = { 0 };

    if (q_path_exists(path)) {
        Q_TRY(cal_job_read(job->dir, fmt_json_read(&was, path, JOB_MAX, &why), &why, err));
        Q_TRY(compare(job, was, fingerprint, err));
    } else {
        Q_TRY(fmt_json_print(&text, fingerprint, 1, err));
        Q_TRY(q_out_whole(path, 1, text.data, text.size, err));
    }
out:
    fmt_json_free(was);
    q_buf_free(&text);
    return st;
}

q_status cal_job_open(cal_job **out, const char *dir, const fmt_json *fingerprint, int resume,
                      q_err *err)
{
    q_status st = Q_OK;
    cal_job *job = q_calloc(1, sizeof *job);
    char *path = q_path_join(dir, JOB_FILE);

    if (!job || !path)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", dir);
    job->lock = -1;
    if (!(job->dir = q_strdup(dir)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", dir);
    Q_TRY(q_dir_make(dir, err));
    Q_TRY(take_lock(job, err));
    if (!resume) {
        Q_TRY(q_dir_remove(dir, err)); /* the lock is held on the file that goes away */
        Q_TRY(q_dir_make(dir, err));
        close(job->lock);
        Q_TRY(take_lock(job, err));
    }
    Q_TRY(check(job, path, fingerprint, err));
    *out = job;
    job = NULL;
out:
    q_free(path);
    cal_job_close(job);
    return st;
}

q_status cal_job_join(cal_job **out, const char *dir, int rank, q_err *err)
{
    q_status st = Q_OK;
    cal_job *job = q_calloc(1, sizeof *job);

    if (!job || !(job->dir = q_strdup(dir)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", dir);
    job->lock = -1;
    job->rank = rank;
    *out = job;
    job = NULL;
out:
    q_free(job);
    return st;
}

void cal_job_close(cal_job *job)
{
    if (!job)
        return;
    if (job->lock >= 0)
        close(job->lock);
    q_free(job->dir);
    q_free(job);
}

int64_t cal_job_begun_with(const char *dir, const char *key)
{
    char *path = q_path_join(dir, JOB_FILE);
    fmt_json *was = NULL;
    int64_t n = 0;

    if (path && fmt_json_read(&was, path, JOB_MAX, NULL) == Q_OK)
        (void)fmt_json_int_opt(was, key, 1, INT32_MAX, &n, NULL);
    fmt_json_free(was);
    q_free(path);
    return n;
}

q_status cal_job_remove(const char *dir, q_err *err)
{
    return q_dir_remove(dir, err);
}

const char *cal_job_dir(const cal_job *job)
{
    return job->dir;
}

q_status cal_job_read(const char *dir, q_status st, const q_err *why, q_err *err)
{
    if (st == Q_EFORMAT || st == Q_ESHAPE)
        return q_fail(err, st, "%s: cannot be continued, --no-resume starts anew: %.400s", dir,
                      why->msg);
    return st == Q_OK ? st : q_fail(err, st, "%s", why->msg);
}

char *cal_job_layer_path(const cal_job *job, int64_t layer)
{
    return q_format("%s/layer-%04lld.h5", job->dir, (long long)layer);
}

char *cal_job_hidden_path(const cal_job *job, int64_t layer)
{
    if (job->rank > 0)
        return q_format("%s/hidden-%04lld.%d.bin", job->dir, (long long)layer, job->rank);
    return q_format("%s/hidden-%04lld.bin", job->dir, (long long)layer);
}

int cal_job_has_layer(const cal_job *job, int64_t layer)
{
    char *path = cal_job_layer_path(job, layer);
    const int yes = path && q_path_exists(path);

    q_free(path);
    return yes;
}

int64_t cal_job_last_hidden(const cal_job *job, int64_t below)
{
    for (int64_t i = below; i >= 0; i--) {
        char *path = cal_job_hidden_path(job, i);
        const int yes = path && q_path_exists(path);

        q_free(path);
        if (yes)
            return i;
    }
    return -1;
}
