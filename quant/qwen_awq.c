/* qwen-awq: a float checkpoint to an archive of int4 or int8 codes, by AWQ.
 *
 * Quantizing is long and goes layer by layer into OUT.job; writing the archive is short.  A signal
 * ends either, and the same command goes on. */
#include <string.h>

#include "calibrate/quant_cli.h"
#include "convert/archive.h"

enum { KEY_CLIP = 0x100 };

static struct opts {
    cal_quant_cli q;
    q_cli cli;
} o;

static const struct argp_option options[] = {
    { "clip", KEY_CLIP, 0, 0, "Narrow the range of a group where that loses less of the output",
      1 },
    { 0 },
};

static const char doc[] =
    "Quantize a checkpoint to 4 or 8 bits with AWQ: channels with large inputs are scaled up "
    "before weights are rounded, and what feeds them down. Writes one archive that holds weights, "
    "configuration and tokenizer."
    "\v"
    "Examples:\n"
    "  qwen-awq -i Qwen-7B-Chat -o qwen-7b-awq.h5 --calib-data cnn.jsonl\n"
    "  qwen-awq -i M -o m.h5 --calib-data t.txt --clip --group-size 64\n"
    "  qwen-awq -i M -o m.h5 --calib-data t.txt --dry-run\n"
    "  qwen-run -m qwen-7b-awq.h5 --chat 'Hello'\n\n"
    "Asymmetric by default. The factors are folded into norms and neighbouring weights, so nothing "
    "is left to do at run time. Every layer sees what the float model gives it, and so do the "
    "ranges of an int8 cache. qwen-gptq usually loses less; qwen-gptq --pre-scale does both. A "
    "stopped run is continued by the same command.\n\n"
    "Exit codes: 0 done; 64 usage, or the output is the input; 65 bad data; 66 input missing; 69 "
    "no such device; 71 memory; 73 the output exists; 74 read or write failed; 75 stopped, can be "
    "continued; 77 permission; 78 not supported, or another job.";

static error_t parse(int key, char *arg, struct argp_state *state)
{
    (void)arg;
    switch (key) {
    case ARGP_KEY_INIT:
        cal_quant_cli_init(&o.q);
        o.q.quant.factors = 1;
        state->child_inputs[0] = &o.q;
        state->child_inputs[1] = &o.q.run;
        state->child_inputs[2] = &o.cli;
        return 0;
    case KEY_CLIP:
        o.q.quant.clip = 1;
        return 0;
    case ARGP_KEY_END:
        cal_quant_cli_check(&o.q, state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    .options = options, .parser = parse, .doc = doc, .children = cal_quant_children
};

int main(int argc, char **argv)
{
    return cal_quant_main(&o.q, &o.cli, &argp, argc, argv, cvt_archive_write);
}
