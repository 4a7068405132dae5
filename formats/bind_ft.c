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
               (long long)f->rows, (long long)f->cols, s->ranks);
    out->bytes = want;
    if (!(out->name = q_strdup(f->name)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", s->dir);
out:
    q_file_close(file);
    return st;
}

static q_status bind_file(fmt_src *s, size_t i, const fmt_ft_file *f, fmt_dtype store, q_err *err)
{
    q_status st = Q_OK;
    const fmt_role_row *role = fmt_role_get(f->ref.role);
    fmt_slot *slot = fmt_src_slot(s, f->ref);
    const uint64_t bytes = (uint64_t)f->rows * (uint64_t)f->cols * fmt_dtype_bytes(store);

    Q_TRY(check_file(&s->ft_file[i], s, f, bytes, err));
    s->n_ft_file = i + 1;
    s->bytes += bytes;
    slot->present = 1;
    slot->dtype = store;
    slot->N = fmt_role_rows(role, &s->model);
    slot->K = f->ref.part == FMT_BIAS ? 1 : fmt_dim_size(role->cols, &s->model);
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
    s->ranks = c.ranks;
    Q_TRY(fmt_model_parse(&s->model, s->config, path, err));
    Q_TRY(fmt_ft_check_ranks(&s->model, s->ranks, err));
    Q_TRY(fmt_gen_config_read(&s->gen, s->dir, err));
    Q_TRY(fmt_src_alloc(s, err));
    while (fmt_ft_file_at(&f, &s->model, s->ranks, n))
        n++;
    if (!(s->ft_file = q_calloc(n, sizeof *s->ft_file)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %zu file names", s->dir, n);
    for (size_t i = 0; i < n; i++) {
        fmt_ft_file_at(&f, &s->model, s->ranks, i);
        Q_TRY(bind_file(s, i, &f, c.store, err));
    }
    if (s->model.tied)
        *fmt_src_slot(s, (fmt_ref){ FMT_LM_HEAD, 0, FMT_WEIGHT }) =
            *fmt_src_slot(s, (fmt_ref){ FMT_TOK_EMBD, 0, FMT_WEIGHT });
out:
    q_free(path);
    return st;
}
