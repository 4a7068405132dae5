/* Command-line glue over argp: shared options as one argp child, strict number parsing, exit codes.
 * The only file that includes argp.h besides the programs, and the only one in formats/ that exits:
 * argp itself ends the process for --help and for usage errors (64, EX_USAGE). */
#include "formats/base/q_cli.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/q_file.h"

const char *argp_program_version = "qwenkit " Q_VERSION;
const char *argp_program_bug_address = "the issue tracker of qwenkit";

enum { KEY_JSON = 0x400, KEY_THREADS, KEY_SEED, KEY_PROGRESS, KEY_NO_PROGRESS };

static const struct argp_option options[] = {
    { "json", KEY_JSON, 0, 0, "Print the result as one JSON object on standard output", 90 },
    { "threads", KEY_THREADS, "N", 0, "CPU threads (default: one per core)", 90 },
    { "seed", KEY_SEED, "N", 0, "Seed of everything random (default 0)", 90 },
    { "progress", KEY_PROGRESS, 0, 0, "Show progress even when stderr is not a terminal", 91 },
    { "no-progress", KEY_NO_PROGRESS, 0, 0, "Never show progress", 91 },
    { "quiet", 'q', 0, 0, "Errors only (twice: not even those)", 91 },
    { "verbose", 'v', 0, 0, "More messages on stderr", 91 },
    { 0 },
};

static error_t parse_shared(int key, char *arg, struct argp_state *state)
{
    q_cli *c = state->input;

    switch (key) {
    case KEY_JSON:
        c->json = 1;
        return 0;
    case KEY_THREADS:
        c->threads = (int)q_cli_int(state, "--threads", arg, 1, 1024);
        return 0;
    case KEY_SEED:
        c->seed = (uint64_t)q_cli_int(state, "--seed", arg, 0, INT64_MAX);
        return 0;
    case KEY_PROGRESS:
        c->progress = 1;
        return 0;
    case KEY_NO_PROGRESS:
        c->progress = 0;
        return 0;
    case 'q':
        c->quiet++;
        return 0;
    case 'v':
        c->verbose++;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp q_cli_argp = { .options = options, .parser = parse_shared };
const struct argp_child q_cli_children[] = { { &q_cli_argp, 0, "Common options:", 90 }, { 0 } };

/* Processes that an mpirun has started: OpenMPI's, or that of MPICH and its kin. */
static int started_ranks(void)
{
    static const char *const names[] = { "OMPI_COMM_WORLD_SIZE", "PMI_SIZE" };

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *text = getenv(names[i]);

        if (text && atoi(text) > 1)
            return atoi(text);
    }
    return 1;
}

/* A standard descriptor that was closed would be that of the next file, and messages would go into
 * it.  Writing to one that is only open for reading fails as before. */
static void hold_descriptors(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            (void)!open("/dev/null", O_RDONLY);
}

/* The end of the program, before libraries are taken down: OpenBLAS would wait for threads of its
 * own that got no memory and try for ever.  Leaks are looked for behind this, so not with that. */
static void leave(int code, void *unused)
{
    (void)unused;
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == 0) { /* of --help */
        fprintf(stderr, "%s: standard output: %s\n", program_invocation_short_name,
                strerror(errno));
        code = q_exit_code(Q_EIO);
    }
#if !defined(__SANITIZE_ADDRESS__)
    fflush(NULL);
    _exit(code);
#endif
}

q_status q_cli_parse(q_cli *c, const struct argp *argp, int argc, char **argv, void *input,
                     q_err *err)
{
    const char *term = getenv("TERM");
    const int tty = isatty(STDERR_FILENO) && !(term && strcmp(term, "dumb") == 0);
    error_t rc;

    on_exit(leave, NULL);
    hold_descriptors();
    signal(SIGXFSZ, SIG_IGN);
    c->progress = -1;
    argp_err_exit_status = q_exit_code(Q_EARG);
    rc = argp_parse(argp, argc, argv, 0, NULL, input);
    if (rc != 0)
        return q_fail(err, Q_EOS, "cannot parse arguments: %s", strerror(rc));
    c->log.name = program_invocation_short_name;
    c->log.level = c->quiet ? Q_LOG_ERROR : c->verbose ? Q_LOG_DEBUG : Q_LOG_INFO;
    if (c->progress == 0 || (c->progress < 0 && (!tty || c->quiet)))
        c->log.progress = 0;
    else
        c->log.progress = tty ? 2 : 1;
    c->ranks = started_ranks();
    c->argv = argv;
    if (c->ranks > 1 && !c->several)
        return q_fail(
            err, Q_EUNSUPPORTED,
            "mpirun started %d of this program, which works alone: start it without mpirun",
            c->ranks);
    return Q_OK;
}

static volatile sig_atomic_t stop; /* a handler can reach nothing but a global */

static void on_signal(int sig)
{
    if (stop)
        _exit(128 + sig);
    stop = 1;
}

const volatile sig_atomic_t *q_cli_catch_signals(void)
{
    static const int sigs[] = { SIGINT, SIGTERM, SIGHUP };
    struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART }, old;

    for (size_t i = 0; i < sizeof sigs / sizeof sigs[0]; i++)
        if (sigaction(sigs[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(sigs[i], &sa, NULL);
    return &stop;
}

/* A word of a command as a shell reads it back. */
static void put_word(const char *word)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "@%+=:,./_-";

    if (*word && word[strspn(word, plain)] == '\0') {
        fprintf(stderr, " %s", word);
        return;
    }
    fputs(" '", stderr);
    for (; *word; word++)
        if (*word == '\'')
            fputs("'\\''", stderr);
        else
            fputc(*word, stderr);
    fputc('\'', stderr);
}

void q_cli_tell_resume(const q_cli *c, const char *output)
{
    char *job = q_format("%s.job", output);

    if (job && q_path_is_dir(job) && c->log.level >= Q_LOG_WARN) {
        q_log_warn(&c->log, "%s keeps what is done; continue with", job);
        if (c->ranks > 1)
            fprintf(stderr, "  mpirun -n %d", c->ranks);
        else
            fputc(' ', stderr);
        for (char **arg = c->argv; *arg; arg++)
            put_word(*arg);
        fputc('\n', stderr);
    }
    q_free(job);
}

int q_cli_exit(const q_cli *c, q_status st, const q_err *err)
{
    int code = q_exit_code(st);

    if (st != Q_OK && c->quiet < 2)
        fprintf(stderr, "%s: %s (exit %d)\n", program_invocation_short_name,
                err->msg[0] ? err->msg : q_status_text(st), code);
    if (fflush(stdout) != 0 || ferror(stdout)) { /* a full disk behind a redirect is a failure */
        fprintf(stderr, "%s: standard output: %s\n", program_invocation_short_name,
                strerror(errno));
        if (code == 0)
            code = q_exit_code(Q_EIO);
    }
    return code;
}

void q_cli_bad(const struct argp_state *state, const char *option, const char *text,
               const char *wanted)
{
    argp_error(state, "%s: '%s' is not %s", option, text, wanted);
}

int64_t q_cli_int(const struct argp_state *state, const char *option, const char *text, int64_t min,
                  int64_t max)
{
    char wanted[80], *end;
    long long v;

    errno = 0;
    v = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || v < min || v > max) {
        if (max == INT64_MAX)
            snprintf(wanted, sizeof wanted, "a whole number of at least %lld", (long long)min);
        else
            snprintf(wanted, sizeof wanted, "a whole number from %lld to %lld", (long long)min,
                     (long long)max);
        q_cli_bad(state, option, text, wanted);
    }
    return v;
}

double q_cli_real(const struct argp_state *state, const char *option, const char *text, double min,
                  double max)
{
    char wanted[80], *end;
    double v;

    errno = 0;
    v = strtod(text, &end);
    if (errno != 0 || end == text || *end != '\0' || !isfinite(v) || v < min || v > max) {
        snprintf(wanted, sizeof wanted, "a number from %g to %g", min, max);
        q_cli_bad(state, option, text, wanted);
    }
    return v;
}

uint64_t q_cli_size(const struct argp_state *state, const char *option, const char *text)
{
    static const struct {
        const char *suffix;
        int shift;
    } unit[] = { { "", 0 }, { "KiB", 10 }, { "MiB", 20 }, { "GiB", 30 }, { "TiB", 40 } };
    unsigned long long v;
    char *end;

    errno = 0;
    v = strtoull(text, &end, 10);
    /* strtoull takes " -1" for the largest number; a budget of nothing is a slip */
    if (errno == 0 && text[0] >= '0' && text[0] <= '9' && v > 0)
        for (size_t i = 0; i < sizeof unit / sizeof unit[0]; i++)
            if (strcmp(end, unit[i].suffix) == 0 && v <= UINT64_MAX >> unit[i].shift)
                return (uint64_t)v << unit[i].shift;
    q_cli_bad(state, option, text, "a size such as 512MiB or 4GiB");
    return 0;
}
