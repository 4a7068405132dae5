/* What qwen-gptq and qwen-awq share: their options and everything that main does.
 *
 *     static struct opts { cal_quant_cli q; q_cli cli; } o;
 *     cal_quant_cli_init(&o.q);                                       on ARGP_KEY_INIT
 *     state->child_inputs[0] = &o.q;  [1] = &o.q.run;  [2] = &o.cli;
 *     cal_quant_cli_check(&o.q, state);                               on ARGP_KEY_END
 *     return cal_quant_main(&o.q, &o.cli, &argp, argc, argv, cvt_archive_write);  in main
 *
 * Threads: one. */
#ifndef CAL_QUANT_CLI_H
#define CAL_QUANT_CLI_H

#include "calibrate/cal_cli.h"
#include "calibrate/obs_quant.h"
#include "quant/archive_opts.h"

typedef struct cal_quant_cli {
    const char *input, *output;
    const char *factors_of; /* archive whose factors are taken; NULL: searched for */
    cal_run_opts run;
    cal_quant_opts quant;
    int ranks; /* that can share what is made */
    int rtn, force, compress, dry_run, no_report;
} cal_quant_cli;

/* -i -o --bits --group-size --sym --asym --force --compress ...; calibration; the common ones */
extern const struct argp_child cal_quant_children[];

void cal_quant_cli_init(cal_quant_cli *o);
void cal_quant_cli_check(const cal_quant_cli *o, const struct argp_state *state);

typedef q_status (*cal_archive_fn)(qnt_archive_result *r, const qnt_archive_opts *o, q_err *err);

/* write: cvt_archive_write, which this folder does not know.  Parses, runs (or with --dry-run says
 * what a run would need), prints.  Returns the exit code. */
int cal_quant_main(cal_quant_cli *o, q_cli *cli, const struct argp *argp, int argc, char **argv,
                   cal_archive_fn write);

#endif
