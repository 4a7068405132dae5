/* -t and -p of programs that write FT directories.
 *
 * Values are checked as far as text goes; whether so many ranks can share the model is for
 * fmt_ft_check_ranks, which knows it.  Threads: one. */
#include "formats/ft_cli.h"

#define RANKS_MOST 64

static const struct argp_option options[] = {
    { "storage-type", 't', "TYPE", 0, "float16 (default), bfloat16 or float32", 0 },
    { "tensor-parallelism", 'p', "N", 0, "Cut the model for N ranks (default 1)", 0 },
    { 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    fmt_ft_cli *o = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        *o = (fmt_ft_cli){ .store = FMT_F16, .ranks = 1 };
        return 0;
    case 't':
        if (!fmt_dtype_from_name(arg, &o->store) || !fmt_dtype_is_float(o->store))
            q_cli_bad(state, "--storage-type", arg, "float16, bfloat16 or float32");
        o->given = 1;
        return 0;
    case 'p':
        o->ranks = (int)q_cli_int(state, "--tensor-parallelism", arg, 1, RANKS_MOST);
        o->given = 1;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp fmt_ft_argp = { .options = options, .parser = parse };
