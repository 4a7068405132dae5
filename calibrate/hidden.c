/* Hidden states.  What goes to or comes from a file passes through a few buffers of one step each;
 * a buffer is free again when the writer has done what was pushed with it.  A file of rows is read
 * through the descriptor it is written with, before it has its name: what was written is seen. */
#include "calibrate/hidden.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

static size_t row_bytes(const cal_hidden *h)
{
    return (size_t)h->o.width * sizeof(float);
}

const char *cal_place_name(cal_place p)
{
    return p == CAL_ON_DEVICE ? "device" : p == CAL_IN_FILES ? "files" : "memory";
}

uint64_t cal_hidden_stage_bytes(int64_t step, int64_t width)
{
    return CAL_STAGES * (uint64_t)step * (uint64_t)width * sizeof(float);
}

/* ---- sums ------------------------------------------------------------------------------------ */

/* Every fourth word goes into the same sum.  A step is one to one in the word and in the sum before
 * it, so that a single changed word always shows; nothing but zeros is no valid file.  SHA-256 can
 * be slower than the disk, and nobody forges these files. */
static const cal_sums no_rows = { { 1, 2, 3, 4 }, 0 };

static void add_up(cal_sums *s, const float *v, size_t n)
{
    cal_sums t = *s;
    uint32_t word;

    for (size_t i = 0; i < n; i++) {
        memcpy(&word, v + i, sizeof word);
        t.lane[t.n % 4] = (t.lane[t.n % 4] ^ word) * 0x9e3779b97f4a7c15u;
        t.n++;
    }
    *s = t;
}

static void drop_file(cal_hidden_file *f)
{
    if (f)
        q_out_close(f->out);
    q_free(f);
}

/* ---- memory --------------------------------------------------------------------------------- */

static q_status host_alloc(rt_backend *be, size_t bytes, float **out, q_err *err)
{
    q_status st = Q_OK;
    void *p = NULL;

    if (be->ops->host_alloc)
        Q_TRY(be->ops->host_alloc(be, bytes, &p, err));
    else if (!(p = q_malloc(bytes)))
        Q_FAIL(err, Q_ENOMEM, "no memory for %zu bytes of hidden states: use --max-ram", bytes);
    *out = p;
out:
    return st;
}

static void host_free(rt_backend *be, void *p)
{
    if (be->ops->host_free)
        be->ops->host_free(be, p);
    else
        q_free(p);
}

/* The next buffer; nobody uses it any more. */
static q_status take_stage(cal_hidden *h, cal_rows **out, q_err *err)
{
    q_status st = Q_OK;
    cal_rows *s = &h->stage[h->turn++ % CAL_STAGES];

    Q_TRY(cal_writer_wait(h->o.writer, s->ticket, err));
    if (!s->v)
        Q_TRY(host_alloc(h->o.be, (size_t)h->o.step * row_bytes(h), &s->v, err));
    *out = s;
out:
    return st;
}

q_status cal_hidden_open(cal_hidden *h, const cal_hidden_opts *o, q_err *err)
{
    q_status st = Q_OK;
    size_t bytes = 0;
    void *p = NULL;

    *h = (cal_hidden){ .o = *o };
    if (o->place == CAL_IN_FILES)
        return Q_OK;
    if (o->place == CAL_ON_DEVICE)
        h->o.device_rows = o->rows;
    if (!q_mul_ok((size_t)o->rows, row_bytes(h), &bytes))
        Q_FAIL(err, Q_ENOMEM, "hidden states of %lld tokens exceed the address space",
               (long long)o->rows);
    if (h->o.device_rows > 0)
        Q_TRY(o->be->ops->alloc(o->be, (size_t)h->o.device_rows * row_bytes(h), &p, err));
    h->near = p;
    if (h->o.device_rows < o->rows)
        Q_TRY(host_alloc(o->be, bytes - (size_t)h->o.device_rows * row_bytes(h), &h->mem, err));
out:
    return st;
}

void cal_hidden_close(cal_hidden *h)
{
    rt_backend *be = h->o.be;

    if (!be)
        return;
    for (int i = 0; i < CAL_STAGES; i++) {
        (void)cal_writer_wait(h->o.writer, h->stage[i].ticket, NULL);
        host_free(be, h->stage[i].v);
    }
    be->ops->free(be, h->near);
    host_free(be, h->mem);
    q_file_close(h->was);
    drop_file(h->next);
    q_free(h->path);
    q_free(h->older);
    q_free(h->next_path);
    memset(h, 0, sizeof *h);
}

/* ---- rows ----------------------------------------------------------------------------------- */

/* Rows of memory to x, or with `put` from x. */
static q_status move_rows(const cal_hidden *h, int64_t row, int64_t n, float *x, int put,
                          q_err *err)
{
    q_status st = Q_OK;
    rt_backend *be = h->o.be;
    const int64_t left = h->o.device_rows - row, on = left < 0 ? 0 : left < n ? left : n;
    const size_t near = (size_t)on * row_bytes(h), far = (size_t)(n - on) * row_bytes(h);
    float *dev = on > 0 ? h->near + row * h->o.width : NULL;
    float *mem = on < n ? h->mem + (row + on - h->o.device_rows) * h->o.width : NULL;

    if (dev)
        Q_TRY(be->ops->copy(be, put ? dev : x, put ? x : dev, near, RT_ON_DEVICE, err));
    if (mem && put)
        Q_TRY(be->ops->copy(be, mem, x + on * h->o.width, far, RT_TO_HOST, err));
    else if (mem)
        Q_TRY(be->ops->copy(be, x + on * h->o.width, mem, far, RT_TO_DEVICE, err));
out:
    return st;
}

q_status cal_hidden_get(cal_hidden *h, int64_t row, int64_t n, float *x, q_err *err)
{
    q_status st = Q_OK;
    rt_backend *be = h->o.be;
    const size_t bytes = (size_t)n * row_bytes(h);
    cal_rows *s;

    assert(n <= h->o.step);
    if (h->o.place != CAL_IN_FILES)
        return move_rows(h, row, n, x, 0, err);
    Q_TRY(take_stage(h, &s, err));
    Q_TRY(q_file_pread(h->was, s->v, bytes, (uint64_t)row * row_bytes(h), err));
    Q_TRY(be->ops->copy(be, x, s->v, bytes, RT_TO_DEVICE, err));
    Q_TRY(be->ops->sync(be, err)); /* the buffer is used again */
out:
    return st;
}

static q_status write_rows(void *self, q_err *err)
{
    const cal_rows *s = self;

    add_up(&s->file->sums, s->v, s->bytes / sizeof *s->v);
    return q_out_write(s->file->out, s->v, s->bytes, err);
}

q_status cal_hidden_put(cal_hidden *h, int64_t row, int64_t n, float *x, q_err *err)
{
    q_status st = Q_OK;
    rt_backend *be = h->o.be;
    const size_t bytes = (size_t)n * row_bytes(h);
    cal_rows *s;

    assert(n <= h->o.step);
    if (h->o.place != CAL_IN_FILES)
        Q_TRY(move_rows(h, row, n, x, 1, err));
    if (!h->next)
        goto out;
    Q_TRY(take_stage(h, &s, err));
    Q_TRY(be->ops->copy(be, s->v, x, bytes, RT_TO_HOST, err));
    Q_TRY(be->ops->sync(be, err));
    s->file = h->next;
    s->bytes = bytes;
    Q_TRY(cal_writer_push(h->o.writer, &(cal_write){ .run = write_rows, .self = s }, &s->ticket,
                          err));
out:
    return st;
}

/* ---- files ---------------------------------------------------------------------------------- */

q_status cal_hidden_begin(cal_hidden *h, const char *path, q_err *err)
{
    q_status st = Q_OK;

    if (!(h->next_path = q_strdup(path)) || !(h->next = q_calloc(1, sizeof *h->next)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    h->next->sums = no_rows;
    Q_TRY(q_out_open(&h->next->out, path, 1, err));
out:
    return st;
}

typedef struct publication {
    cal_hidden_file *file;
    char *before; /* the file that it replaces, NULL: none */
} publication;

static q_status publish(void *self, q_err *err)
{
    q_status st = Q_OK;
    const publication *p = self;

    Q_TRY(q_out_write(p->file->out, p->file->sums.lane, sizeof p->file->sums.lane, err));
    Q_TRY(q_out_commit(p->file->out, err));
    if (p->before)
        unlink(p->before);
out:
    return st;
}

static void drop_publication(void *self)
{
    publication *p = self;

    drop_file(p->file);
    q_free(p->before);
    q_free(p);
}

q_status cal_hidden_turn(cal_hidden *h, q_err *err)
{
    q_status st = Q_OK;
    publication *p = NULL;

    if (!h->next)
        return Q_OK;
    if (h->o.place == CAL_IN_FILES) { /* the next layer reads what this one has written */
        for (int i = 0; i < CAL_STAGES; i++)
            Q_TRY(cal_writer_wait(h->o.writer, h->stage[i].ticket, err));
        q_file_close(h->was);
        h->was = NULL;
        Q_TRY(q_out_read_back(h->next->out, &h->was, err));
    }
    if (!(p = q_calloc(1, sizeof *p)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", h->next_path);
    *p = (publication){ .file = h->next, .before = h->o.kept > 1 ? h->older : h->path };
    if (h->o.kept > 1)
        h->older = h->path;
    h->path = h->next_path;
    h->next = NULL;
    h->next_path = NULL;
    Q_TRY(cal_writer_push(h->o.writer,
                          &(cal_write){ .run = publish, .drop = drop_publication, .self = p },
                          &h->named, err));
out:
    return st;
}

q_status cal_hidden_wait(cal_hidden *h, q_err *err)
{
    return cal_writer_wait(h->o.writer, h->named, err);
}

/* Rows of a file to where they belong; *sums: of all of them. */
static q_status load_rows(cal_hidden *h, const q_file *f, cal_sums *sums, q_err *err)
{
    q_status st = Q_OK;
    rt_backend *be = h->o.be;
    const int64_t near = h->near ? h->o.device_rows : 0;
    cal_rows *s = NULL;

    for (int64_t row = 0, n; row < h->o.rows; row += n) {
        const int64_t left = (row < near ? near : h->o.rows) - row;
        float *v = NULL;
        size_t bytes;

        n = left < h->o.step ? left : h->o.step;
        bytes = (size_t)n * row_bytes(h);
        if (row >= near && h->mem) {
            v = h->mem + (row - near) * h->o.width;
        } else {
            Q_TRY(take_stage(h, &s, err));
            v = s->v;
        }
        Q_TRY(q_file_pread(f, v, bytes, (uint64_t)row * row_bytes(h), err));
        add_up(sums, v, bytes / sizeof *v);
        if (row >= near)
            continue;
        Q_TRY(be->ops->copy(be, h->near + row * h->o.width, v, bytes, RT_TO_DEVICE, err));
        Q_TRY(be->ops->sync(be, err)); /* the buffer is used again */
    }
out:
    return st;
}

q_status cal_hidden_load(cal_hidden *h, const char *path, q_err *err)
{
    q_status st = Q_OK;
    const uint64_t rows = (uint64_t)h->o.rows * row_bytes(h);
    cal_sums is = no_rows, was = no_rows;
    q_file *f = NULL;

    Q_TRY(q_file_open(&f, path, err));
    if (q_file_bytes(f) != rows + sizeof was.lane)
        Q_FAIL(err, Q_EFORMAT, "%s: %llu bytes, wanted %llu", path,
               (unsigned long long)q_file_bytes(f), (unsigned long long)(rows + sizeof was.lane));
    Q_TRY(load_rows(h, f, &is, err));
    Q_TRY(q_file_pread(f, was.lane, sizeof was.lane, rows, err));
    for (int i = 0; i < 4; i++)
        if (is.lane[i] != was.lane[i])
            Q_FAIL(err, Q_EFORMAT,
                   "%s: was changed: a sum of it is %016" PRIx64 ", wanted %016" PRIx64, path,
                   is.lane[i], was.lane[i]);
    if (!(h->path = q_strdup(path)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
    if (h->o.place == CAL_IN_FILES) {
        h->was = f;
        f = NULL;
    }
out:
    q_file_close(f);
    return st;
}
