/* Command-line glue: what every program shares over argp.
 *
 *     static struct opts { q_cli cli; const char *input; } o;
 *
 *     int main(int argc, char **argv)
 *     {
 *         q_err err = { 0 };
 *         q_status st = q_cli_parse(&o.cli, &argp, argc, argv, &o, &err);
 *
 *         if (st == Q_OK)
 *             st = run(&o, &err);
 *         return q_cli_exit(&o.cli, st, &err);
 *     }
 *
 * argp of the program lists q_cli_children as its children (or q_cli_argp among others).  Its
 * parser sets state->child_inputs[0] = &o->cli on ARGP_KEY_INIT, and reports a bad value with
 * q_cli_bad, so that --help, --usage, --version and exit code 64 behave the same everywhere.
 *
 * Only programs include this file.  Not thread-safe: used by main before and after the work. */
#ifndef Q_CLI_H
#define Q_CLI_H

#include <argp.h>
#include <signal.h>
#include <stdint.h>

#include "formats/base/q_err.h"
#include "formats/base/q_log.h"

typedef struct q_cli {
    int json;                     /* --json: one object on stdout and nothing else */
    int threads;                  /* --threads, 0: one per core */
    uint64_t seed;                /* --seed, default 0 */
    int quiet, verbose, progress; /* progress: -1 by terminal, 0, 1 */
    q_log log;                    /* ready after q_cli_parse */
    int several; /* set before: this program knows what to do when mpirun starts several of it */
    int ranks;   /* how many it has started, 1 without it; after q_cli_parse */
    char **argv; /* as main got it, in argp's order; after q_cli_parse */
} q_cli;

extern const struct argp q_cli_argp;             /* the shared options */
extern const struct argp_child q_cli_children[]; /* --json --threads --seed -q -v --progress ... */

/* Parse, resolve log level and progress.  Exits for --help and usage errors (argp does).  A file
 * size limit becomes a failed write.
 * Errors: Q_EUNSUPPORTED (several ranks of a program that works alone). */
q_status q_cli_parse(q_cli *c, const struct argp *argp, int argc, char **argv, void *input,
                     q_err *err);
/* SIGINT, SIGTERM and SIGHUP (unless ignored, as under nohup) set the flag returned, which long
 * work looks at; a second signal ends the process at once with 128 + its number. */
const volatile sig_atomic_t *q_cli_catch_signals(void);
/* After a signal, when there is a directory OUTPUT.job: warns that it keeps what is done, and gives
 * the command that continues, quoted for a shell, on a line of its own. */
void q_cli_tell_resume(const q_cli *c, const char *output);
/* Print "name: message (exit N)" for a failure; the exit code for main either way. */
int q_cli_exit(const q_cli *c, q_status st, const q_err *err);

/* Strict values: the whole text must be the number, inside [min, max].  On error they print a
 * usage message through argp and exit with 64. */
int64_t q_cli_int(const struct argp_state *state, const char *option, const char *text, int64_t min,
                  int64_t max);
double q_cli_real(const struct argp_state *state, const char *option, const char *text, double min,
                  double max);
uint64_t q_cli_size(const struct argp_state *state, const char *option,
                    const char *text); /* 2GiB */
void q_cli_bad(const struct argp_state *state, const char *option, const char *text,
               const char *wanted);

#define Q_VERSION "0.1.0"

#endif
