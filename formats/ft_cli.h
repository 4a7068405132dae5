/* Options of programs that write FT directories, as an argp child: how the model is cut and stored.
 *
 *     struct opts { fmt_ft_cli ft; ... } *o;
 *     static const struct argp_child children[] = { { &fmt_ft_argp, 0, NULL, 0 }, { 0 } };
 *     state->child_inputs[0] = &o->ft;                          on ARGP_KEY_INIT
 *
 * The child sets the defaults itself.  Only programs and *_cli files include this file. */
#ifndef FMT_FT_CLI_H
#define FMT_FT_CLI_H

#include "formats/base/q_cli.h"
#include "formats/dtype.h"

typedef struct fmt_ft_cli {
    fmt_dtype store; /* float16 without --storage-type */
    int ranks;       /* 1 without --tensor-parallelism */
    int given;       /* either was: for programs that write other things as well */
} fmt_ft_cli;

extern const struct argp fmt_ft_argp; /* -t -p */

#endif
