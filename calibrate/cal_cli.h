/* Options of every program that calibrates.
 *
 *     static struct opts { cal_cli_opts cal; q_cli cli; } o;
 *     cal_cli_init(&o.cal);                                    on ARGP_KEY_INIT
 *     state->child_inputs[0] = &o.cal;  state->child_inputs[1] = &o.cli;
 *
 * The group: --calib-data --calib-prompt --calib-samples --calib-seq-len --calib-shuffle
 * --chat-format --device --max-ram --no-resume.  Only programs include this file. */
#ifndef CAL_CAL_CLI_H
#define CAL_CAL_CLI_H

#include "calibrate/calibrate.h"
#include "formats/base/q_cli.h"

typedef struct cal_cli_opts {
    cal_run_opts run; /* data, chat_format, device, max_ram, no_resume are set by options */
} cal_cli_opts;

extern const struct argp cal_argp;

void cal_cli_init(cal_cli_opts *o);

#endif
