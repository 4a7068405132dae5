/* Options of qwen-convert, as an argp child, and how a plan is shown.
 *
 *     static struct opts { cvt_cli_opts cvt; q_cli cli; } o;
 *     cvt_cli_init(&o.cvt);                                    on ARGP_KEY_INIT
 *     state->child_inputs[0] = &o.cvt;  state->child_inputs[1] = &o.cli;
 *
 * Only programs include this file. */
#ifndef CVT_CONVERT_CLI_H
#define CVT_CONVERT_CLI_H

#include "convert/plan.h"
#include "formats/ft_cli.h"

typedef enum cvt_to { CVT_TO_FT, CVT_TO_H5, CVT_TO_HF_GPTQ, CVT_TO_HF_AWQ, CVT_TO_HF_CT } cvt_to;

typedef struct cvt_cli_opts {
    const char *input, *output, *verify;
    cvt_to to;
    fmt_ft_cli ft;
    int force, compress, strict, dry_run;
    int smooth, kv_scales; /* what the ranges are for */
    double alpha;
} cvt_cli_opts;

extern const struct argp cvt_argp;

void cvt_cli_init(cvt_cli_opts *o);
/* The plan on stdout, as lines or as one object; calibration: a member of it, may be NULL. */
q_status cvt_cli_print_plan(const cvt_plan *p, const fmt_json *calibration, int json, q_err *err);

#endif
