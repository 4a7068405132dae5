/* qwen-convert: a Hugging Face checkpoint becomes an FT directory, one file per tensor and rank; an
 * FT directory is cut again for another number of ranks; --verify checks one against its manifest.
 *
 * A first SIGINT, SIGTERM or SIGHUP stops before the next file, removes what was written and ends
 * with 75; a second one ends at once with 128 + its number and leaves the hidden temporary to the
 * next run. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert/exec.h"
#include "convert/pool.h"
#include "convert/verify.h"
#include "formats/base/q_cli.h"

enum { KEY_DRY_RUN = 0x100, KEY_STRICT, KEY_VERIFY };

static struct opts {
    q_cli cli;
    const char *input, *output, *verify;
    fmt_dtype store;
    int ranks, force, strict, dry_run;
} o = { .store = FMT_F16, .ranks = 1 };

static volatile sig_atomic_t stop;

static const struct argp_option options[] = {
    { "input", 'i', "DIR", 0, "Model to read: a Hugging Face directory, or an FT directory", 0 },
    { "output", 'o', "DIR", 0, "Directory that gets <N>-gpu (made when it is not there)", 0 },
    { "storage-type", 't', "TYPE", 0, "float16 (default), bfloat16 or float32", 0 },
    { "tensor-parallelism", 'p', "N", 0, "Cut the model for N ranks (default 1)", 0 },
    { "dry-run", KEY_DRY_RUN, 0, 0, "Print the plan and write nothing", 0 },
    { "force", 'f', 0, 0, "Replace an existing <N>-gpu", 0 },
    { "strict", KEY_STRICT, 0, 0, "Fail on values outside the range of TYPE, NaN, infinity", 0 },
    { "verify", KEY_VERIFY, "DIR", 0, "Check DIR (out/1-gpu, say) against its manifest.json", 0 },
    { 0 },
};

static const char doc[] =
    "Convert a Qwen checkpoint to an FT directory: raw little-endian arrays that this toolkit and "
    "FasterTransformer loaders read."
    "\v"
    "Examples:\n"
    "  qwen-convert -i Qwen-1_8B-Chat -o ft          writes ft/1-gpu\n"
    "  qwen-convert -i Qwen-7B -o ft -p 2 --dry-run  shows ft/2-gpu\n"
    "  qwen-convert --verify ft/1-gpu                checks every byte\n"
    "\n"
    "The output appears whole or not at all. The input is never changed.\n"
    "\n"
    "Exit codes: 0 done; 64 usage, or the output is the input; 65 bad data; 66 input missing; 71 "
    "out of memory; 73 the output exists, is being written or cannot be created; 74 read or write "
    "failed, disk full; 75 stopped by a signal, nothing left; 77 permission; 78 model or "
    "configuration not supported.";

static void check_args(struct argp_state *state)
{
    if (o.verify && (o.input || o.output || o.dry_run))
        argp_error(state, "--verify stands alone");
    if (!o.verify && (!o.input || (!o.output && !o.dry_run)))
        argp_error(state, "--%s is missing", o.input ? "output" : "input");
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o.cli;
        return 0;
    case 'i':
        o.input = arg;
        return 0;
    case 'o':
        o.output = arg;
        return 0;
    case 't':
        if (!fmt_dtype_from_name(arg, &o.store) || !fmt_dtype_is_float(o.store))
            q_cli_bad(state, "--storage-type", arg, "float16, bfloat16 or float32");
        return 0;
    case 'p':
        o.ranks = (int)q_cli_int(state, "--tensor-parallelism", arg, 1, 64);
        return 0;
    case 'f':
        o.force = 1;
        return 0;
    case KEY_DRY_RUN:
        o.dry_run = 1;
        return 0;
    case KEY_STRICT:
        o.strict = 1;
        return 0;
    case KEY_VERIFY:
        o.verify = arg;
        return 0;
    case ARGP_KEY_END:
        check_args(state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = { options, parse, NULL, doc, q_cli_children, NULL, NULL };

static void on_signal(int sig)
{
    if (stop)
        _exit(128 + sig);
    stop = 1;
}

static void catch_signals(void)
{
    static const int sigs[] = { SIGINT, SIGTERM, SIGHUP };
    struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART }, old;

    for (size_t i = 0; i < sizeof sigs / sizeof sigs[0]; i++)
        if (sigaction(sigs[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN) /* nohup */
            sigaction(sigs[i], &sa, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a file size limit becomes a failed write */
}

static q_status print_json(const fmt_json *v, q_err *err)
{
    q_buf text = { 0 };
    q_status st = fmt_json_print(&text, v, 0, err);

    if (st == Q_OK)
        puts(text.data);
    q_buf_free(&text);
    return st;
}

static q_status print_plan(const cvt_plan *p, q_err *err)
{
    q_status st = Q_OK;
    q_buf text = { 0 };
    fmt_json *v = NULL;

    if (o.cli.json) {
        Q_TRY(fmt_json_new(&v, err));
        Q_TRY(cvt_plan_json(v, p, err));
        Q_TRY(print_json(v, err));
    } else {
        Q_TRY(cvt_plan_text(&text, p, err));
        fputs(text.data, stdout);
    }
out:
    q_buf_free(&text);
    fmt_json_free(v);
    return st;
}

static q_status print_result(const cvt_result *r, double seconds, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *v = NULL;

    if (!o.cli.json) {
        printf("%s -> %s, %llu files, %llu bytes, %.2f s, %.0f MB/s\n", o.input, r->path,
               (unsigned long long)r->files, (unsigned long long)r->bytes, seconds,
               seconds > 0 ? (double)r->bytes / 1e6 / seconds : 0);
        return Q_OK;
    }
    Q_TRY(fmt_json_new(&v, err));
    Q_TRY(fmt_json_put_str(v, "input", o.input, err));
    Q_TRY(cvt_result_json(v, r, err));
    Q_TRY(fmt_json_put_real(v, "seconds", seconds, err));
    Q_TRY(print_json(v, err));
out:
    fmt_json_free(v);
    return st;
}

static q_status convert(q_err *err)
{
    q_status st = Q_OK;
    const double start = q_now();
    const cvt_plan_opts po = { .ranks = o.ranks,
                               .store = o.store,
                               .threads = cvt_pool_threads(o.cli.threads),
                               .tool = "qwenkit " Q_VERSION };
    fmt_src *src = NULL;
    cvt_plan *p = NULL;
    cvt_result r = { 0 };

    Q_TRY(fmt_src_open(&src, o.input, err));
    Q_TRY(cvt_plan_build(&p, src, &po, err));
    if (o.dry_run) {
        Q_TRY(print_plan(p, err));
        goto out;
    }
    Q_TRY(cvt_run(&r, p,
                  &(cvt_run_opts){ .out = o.output,
                                   .force = o.force,
                                   .strict = o.strict,
                                   .stop = &stop,
                                   .log = &o.cli.log },
                  err));
    Q_TRY(print_result(&r, q_now() - start, err));
out:
    cvt_result_free(&r);
    cvt_plan_free(p);
    fmt_src_close(src);
    return st;
}

static q_status verify(q_err *err)
{
    q_status st = Q_OK;
    cvt_verify_report r;
    q_err why = { 0 };
    fmt_json *v = NULL;
    const int n = cvt_pool_threads(o.cli.threads);
    const q_status found = cvt_verify(&r, o.verify, n, &o.cli.log, &stop, &why);

    if (found != Q_OK && !r.n_bad) /* it could not look: there is no report */
        Q_FAIL(err, found, "%s", why.msg);
    if (o.cli.json) {
        Q_TRY(fmt_json_new(&v, err));
        Q_TRY(fmt_json_put_str(v, "directory", o.verify, err));
        Q_TRY(cvt_verify_json(v, &r, err));
        Q_TRY(print_json(v, err));
    } else if (found == Q_OK) {
        printf("%s: %llu files, %llu bytes, all as written, root %s\n", o.verify,
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

int main(int argc, char **argv)
{
    q_err err = { 0 };
    q_status st = q_cli_parse(&o.cli, &argp, argc, argv, &o, &err);

    catch_signals();
    if (st == Q_OK)
        st = o.verify ? verify(&err) : convert(&err);
    return q_cli_exit(&o.cli, st, &err);
}
