/* Options of qwen-calibrate-kv, as an argp child, and what it tells in the end.
 *
 *     static struct opts { cal_kv_cli kv; cal_cli_opts cal; q_cli cli; } o;
 *     cal_kv_cli_init(&o.kv);                                  on ARGP_KEY_INIT
 *     state->child_inputs[0] = &o.kv;
 *
 * Only the program includes this file. */
#ifndef CAL_KV_CLI_H
#define CAL_KV_CLI_H

#include "calibrate/cal_cli.h"
#include "calibrate/gate.h"
#include "calibrate/range_report.h"
#include "formats/ft_cli.h"
#include "formats/json.h"

typedef struct cal_kv_cli {
    const char *model, *output, *text;
    fmt_ft_cli ft; /* of FT directories only */
    int force, dry_run;
    int has_gate;
    cal_gate gate;
} cal_kv_cli;

extern const struct argp cal_kv_argp;

void cal_kv_cli_init(cal_kv_cli *o);

/* With --text compares perplexities; writes the report of r, whose gate is set here; prints lines,
 * or v with what it holds already; last the check of --assert.  Errors: Q_EGATE, those of sessions.
 */
q_status cal_kv_cli_result(const cal_kv_cli *o, const cal_cli_opts *cal, const cal_range_report *r,
                           fmt_json *v, q_err *err);

#endif
