/* Moving and checking, with results for people and for programs. */
#include "convert/rewrite_cli.h"

#include <stdio.h>
#include <string.h>

#include "convert/archive.h"
#include "convert/export.h"
#include "convert/pool.h"
#include "convert/verify.h"
#include "formats/base/q_file.h"
#include "formats/h5file.h"
#include "formats/json_cli.h"

#define TOOL "qwenkit " Q_VERSION

/* ---- moving ---------------------------------------------------------------------------------- */

typedef struct result {
    const char *format, *root; /* root NULL: a directory */
    uint64_t bytes, modules;
} result;

static q_status print_result(const cvt_cli_opts *o, const q_cli *cli, const result *r,
                             double seconds, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *v = NULL;

    if (!cli->json) {
        printf("%s -> %s, %s, %llu modules, %llu bytes, every code read back, %.2f s, %.0f MB/s\n",
               o->input, o->output, r->format, (unsigned long long)r->modules,
               (unsigned long long)r->bytes, seconds,
               seconds > 0 ? (double)r->bytes / 1e6 / seconds : 0);
        return Q_OK;
    }
    Q_TRY(fmt_json_new(&v, err));
    Q_TRY(fmt_json_put_str(v, "input", o->input, err));
    Q_TRY(fmt_json_put_str(v, "output", o->output, err));
    Q_TRY(fmt_json_put_str(v, "format", r->format, err));
    Q_TRY(fmt_json_put_int(v, "modules", (int64_t)r->modules, err));
    Q_TRY(fmt_json_put_int(v, "bytes", (int64_t)r->bytes, err));
    if (r->root)
        Q_TRY(fmt_json_put_str(v, "root_sha256", r->root, err));
    Q_TRY(fmt_json_put_real(v, "seconds", seconds, err));
    Q_TRY(fmt_json_cli_line(v, err));
out:
    fmt_json_free(v);
    return st;
}

q_status cvt_rewrite_cli(const cvt_cli_opts *o, const q_cli *cli, const volatile sig_atomic_t *stop,
                         q_err *err)
{
    static const cvt_export_to to[] = {
        [CVT_TO_HF_GPTQ] = CVT_HF_GPTQ, [CVT_TO_HF_AWQ] = CVT_HF_AWQ, [CVT_TO_HF_CT] = CVT_HF_CT
    };
    q_status st = Q_OK;
    const double start = q_now();
    fmt_src *src = NULL;
    qnt_archive_result a;
    cvt_export_result e;
    result r = { 0 };

    Q_TRY(fmt_src_open(&src, o->input, err));
    if (o->to == CVT_TO_H5) {
        Q_TRY(cvt_archive_check(src, o->output, o->force, err));
        Q_TRY(cvt_archive_write(&a,
                                &(qnt_archive_opts){ .src = src,
                                                     .path = o->output,
                                                     .force = o->force,
                                                     .compress = o->compress,
                                                     .tool = TOOL,
                                                     .stop = stop,
                                                     .log = &cli->log },
                                err));
        r = (result){ "h5", a.root_sha256, a.bytes, a.modules };
    } else {
        Q_TRY(cvt_export(&e,
                         &(cvt_export_opts){ .src = src,
                                             .out = o->output,
                                             .to = to[o->to],
                                             .force = o->force,
                                             .tool = TOOL,
                                             .stop = stop,
                                             .log = &cli->log },
                         err));
        r = (result){ e.format, NULL, e.bytes, e.modules };
    }
    Q_TRY(print_result(o, cli, &r, q_now() - start, err));
out:
    fmt_src_close(src);
    return st;
}

/* ---- checking ---------------------------------------------------------------------------------
 */

static q_status verify_dir(const char *path, const q_cli *cli, const volatile sig_atomic_t *stop,
                           q_err *err)
{
    q_status st = Q_OK;
    cvt_verify_report r;
    q_err why = { 0 };
    fmt_json *v = NULL;
    const int n = cvt_pool_threads(cli->threads);
    const q_status found = cvt_verify(&r, path, n, &cli->log, stop, &why);

    if (found != Q_OK && !r.n_bad) /* it could not look: there is no report */
        Q_FAIL(err, found, "%s", why.msg);
    if (cli->json) {
        Q_TRY(fmt_json_new(&v, err));
        Q_TRY(fmt_json_put_str(v, "directory", path, err));
        Q_TRY(cvt_verify_json(v, &r, err));
        Q_TRY(fmt_json_cli_line(v, err));
    } else if (found == Q_OK) {
        printf("%s: %llu files, %llu bytes, all as written, root %s\n", path,
               (unsigned long long)r.files, (unsigned long long)r.bytes, r.root_sha256);
    } else {
        fputs(r.bad.data, stdout);
    }
    if (found != Q_OK)
        Q_FAIL(err, found, "%s", why.msg);
out:
    fmt_json_free(v);
    cvt_verify_free(&r);
    return st;
}

static q_status verify_archive(const char *path, const q_cli *cli, q_err *err)
{
    q_status st = Q_OK;
    int whole = 0;
    fmt_json *v = NULL;

    Q_TRY(fmt_h5_verify(path, &whole, err));
    if (!cli->json) {
        printf("%s: %s\n", path,
               whole ? "all as written"
                     : "every dataset as written; the last line with the hash of the file is not "
                       "there: another program rewrote the file, or it was cut");
        goto out;
    }
    Q_TRY(fmt_json_new(&v, err));
    Q_TRY(fmt_json_put_str(v, "archive", path, err));
    Q_TRY(fmt_json_put_bool(v, "ok", 1, err));
    Q_TRY(fmt_json_put_bool(v, "whole", whole, err));
    Q_TRY(fmt_json_cli_line(v, err));
out:
    fmt_json_free(v);
    return st;
}

q_status cvt_verify_cli(const char *path, const q_cli *cli, const volatile sig_atomic_t *stop,
                        q_err *err)
{
    if (!*path)
        return q_fail(err, Q_EARG, "the path of what is to be verified is empty");
    return q_path_exists(path) && !q_path_is_dir(path) ? verify_archive(path, cli, err)
                                                       : verify_dir(path, cli, stop, err);
}
