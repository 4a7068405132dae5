/* Options of every program that calibrates.
 *
 *     static struct opts { cal_cli_opts cal; q_cli cli; } o;
 *     cal_cli_init(&o.cal);                                    on ARGP_KEY_INIT
 *     state->child_inputs[0] = &o.cal;  state->child_inputs[1] = &o.cli;
 *
 * The group: --calib-data --calib-prompt --calib-samples (--samples) --calib-seq-len (--seq-len)
 * --calib-shuffle --chat-format --device --max-ram --max-vram --resume --no-resume, and --stats
 * --save-stats --no-report.  Only programs and *_cli files include this file. */
#ifndef CAL_CAL_CLI_H
#define CAL_CAL_CLI_H

#include "calibrate/calibrate.h"
#include "formats/base/q_cli.h"

typedef struct cal_cli_opts {
    cal_run_opts run;         /* data, chat_format, device, budgets, no_resume are set by options */
    const char *stats, *save; /* statistics files to read, to write */
    int no_report;
    cal_stages stages; /* set by cal_cli_ranges: where its time went */
    cal_cost *cost;    /* set by cal_cli_ranges; [layers], freed by its owner; NULL: with --stats */
} cal_cli_opts;

extern const struct argp cal_argp;
extern const struct argp cal_run_argp; /* the group up to --no-resume; input: cal_run_opts */

void cal_cli_init(cal_cli_opts *o);

/* The ranges of src: of the file --stats, else from a calibration with <output>.job, which stays
 * until cal_cli_done.  *out [layers], freed with cal_stats_free.  force: of --save-stats. */
q_status cal_cli_ranges(qnt_ranges **out, cal_cli_opts *o, const q_cli *cli, const fmt_src *src,
                        const char *output, const volatile sig_atomic_t *stop, int force,
                        q_err *err);
q_status cal_cli_done(const char *output, q_err *err);
/* Tokens, memory, disk and time, on stdout; with --json as an object, *out, owned by the caller.
 * Nothing without a calibration.  Errors: Q_ECONFIG (a budget is too small), those of cal_run_open.
 */
q_status cal_cli_dry_run(fmt_json **out, cal_cli_opts *o, const q_cli *cli, const fmt_src *src,
                         const char *output, q_err *err);

#endif
