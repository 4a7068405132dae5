/* Binds the files of an FT directory to roles: the table of ft_names.c read backwards. */
#include <stdio.h>
#include <string.h>

#include "formats/base/q_file.h"
#include "formats/ft_dir.h"
#include "formats/ft_names.h"
#include "formats/source_impl.h"

static q_status check_file(fmt_stored_file *out, const fmt_src *s, const fmt_ft_file *f,
                           uint64_t want, q_err *err)
{
    q_status st = Q_OK;
    q_file *file = NULL;

    Q_TRY(q_file_open_in(&file, s->dir, f->name, err));
    if (q_file_bytes(file) != want)
        Q_FAIL(err, Q_ESHAPE,
               "%s: %llu bytes, wanted %llu ([%lld, %lld] for %d ranks): cut short, or "
               "made for another --tensor-parallelism",
               q_file_path(file), (unsigned long long)q_file_bytes(file), (unsigned long long)want,
               (long long)f->rows, (long long)f->cols, s->layout.ranks);
    out->bytes = want;
    if (!(out->name = q_strdup(f->name)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", s->dir);
out:
    q_file_close(file);
    return st;
}

static q_status bind_file(fmt_src *s, size_t i, const fmt_ft_file *f, q_err *err)
{
    q_status st = Q_OK;
    fmt_slot *slot = fmt_src_slot(s, f->ref);
    const uint64_t bytes = (uint64_t)f->rows * (uint64_t)f->cols * fmt_dtype_bytes(f->dtype);

    Q_TRY(check_file(&s->ft_file[i], s, f, bytes, err));
    s->n_ft_file = i + 1;
    s->bytes += bytes;
    slot->present = 1;
    slot->dtype = f->dtype;
    slot->N = f->N;
    slot->K = f->K;
    for (int k = 0; k < f->n_seg; k++) {
        if (f->seg[k].again)
            continue;
        Q_TRY(fmt_src_add_seg(s, slot,
                              &(fmt_seg){ .box = f->seg[k].box,
                                          .store = i,
                                          .transposed = f->transposed,
                                          .at = f->seg[k].at,
                                          .ld = f->cols,
                                          .row0 = f->seg[k].at },
                              err));
    }
out:
    return st;
}

static q_status check_ones(const fmt_src *s, fmt_ref ref, q_err *err)
{
    q_status st = Q_OK;
    const fmt_box all = fmt_src_shape(s, ref);
    float *v = q_malloc((size_t)all.n1 * sizeof *v);

    if (!v)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %lld values", s->dir, (long long)all.n1);
    Q_TRY(fmt_src_read(s, ref, all, v, err));
    for (int64_t n = 0; n < all.n1; n++)
        if (v[n] != 1.0f)
            Q_FAIL(err, Q_EUNSUPPORTED,
                   "%s: holds %g, wanted 1: activations would have to be divided at run time; "
                   "convert the checkpoint again with qwen-convert --smoothquant",
                   fmt_src_name(s, ref, n), (double)v[n]);
out:
    q_free(v);
    return st;
}

/* The reference leaves half of the smoothing to the run time, and then neither its float nor its
 * int8 weights mean what they say. */
static q_status check_smoothers(const fmt_src *s, q_err *err)
{
    static const fmt_role roles[] = { FMT_ATTN_OUT, FMT_FFN_DOWN };
    q_status st = Q_OK;

    for (int64_t l = 0; l < s->model.layers; l++)
        for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++) {
            const fmt_ref ref = { roles[i], l, FMT_SMOOTHER };

            if (fmt_src_has(s, ref))
                Q_TRY(check_ones(s, ref, err));
        }
out:
    return st;
}

q_status fmt_bind_ft(fmt_src *s, q_err *err)
{
    q_status st = Q_OK;
    fmt_ft_config c = { 0 };
    fmt_ft_file f;
    size_t n = 0;
    char *path = q_path_join(s->dir, "config.ini");

    if (!path)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", s->dir);
    Q_TRY(fmt_ft_config_read(&c, s->dir, err));
    s->doc = c.doc; /* owned by s from here on */
    s->config = c.config;
    s->layout = c.layout;
    Q_TRY(fmt_model_parse(&s->model, s->config, path, err));
    Q_TRY(fmt_ft_check_ranks(&s->model, s->layout.ranks, err));
    Q_TRY(fmt_gen_config_read(&s->gen, &(fmt_files){ .dir = s->dir }, err));
    Q_TRY(fmt_src_alloc(s, err));
    while (fmt_ft_file_at(&f, &s->model, &s->layout, n))
        n++;
    if (!(s->ft_file = q_calloc(n, sizeof *s->ft_file)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %zu file names", s->dir, n);
    for (size_t i = 0; i < n; i++) {
        fmt_ft_file_at(&f, &s->model, &s->layout, i);
        Q_TRY(bind_file(s, i, &f, err));
    }
    if (s->model.tied)
        *fmt_src_slot(s, (fmt_ref){ FMT_LM_HEAD, 0, FMT_WEIGHT }) =
            *fmt_src_slot(s, (fmt_ref){ FMT_TOK_EMBD, 0, FMT_WEIGHT });
    Q_TRY(check_smoothers(s, err));
out:
    q_free(path);
    return st;
}
