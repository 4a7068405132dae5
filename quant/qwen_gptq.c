/* qwen-gptq: a float checkpoint to an archive of int4 or int8 codes, by GPTQ.
 *
 * Quantizing is long and goes layer by layer into OUT.job; writing the archive is short.  A signal
 * ends either, and the same command goes on. */
#include <string.h>

#include "calibrate/quant_cli.h"
#include "convert/archive.h"

enum { KEY_ACT = 0x100, KEY_DAMP, KEY_SEQ, KEY_RTN, KEY_PRE };

static struct opts {
    cal_quant_cli q;
    q_cli cli;
} o;

static const struct argp_option options[] = {
    { "act-order", KEY_ACT, 0, 0,
      "Columns with large inputs first; groups stay as they are, so nothing is slower at run time",
      1 },
    { "damp", KEY_DAMP, "X", 0,
      "Added to the diagonal, in parts of its mean (default 0.01; raised when it must be)", 1 },
    { "true-sequential", KEY_SEQ, 0, 0,
      "Each linear sees everything before it quantized, by default the float model: 5 passes over "
      "the text, not 1",
      1 },
    { "pre-scale", KEY_PRE, "AWQ.h5", OPTION_ARG_OPTIONAL,
      "Fold factors of AWQ into the layer first: those of an archive of qwen-awq, or searched for",
      1 },
    { "rtn", KEY_RTN, 0, 0, "Round to nearest instead, without any text: the baseline", 1 },
    { 0 },
};

static const char doc[] =
    "Quantize a checkpoint to 4 or 8 bits with GPTQ, and write one archive that holds weights, "
    "configuration and tokenizer."
    "\v"
    "Examples:\n"
    "  qwen-gptq -i Qwen-7B-Chat -o qwen-7b-int4.h5 --calib-data cnn.jsonl\n"
    "  qwen-gptq -i M -o m.h5 --calib-data t.txt --asym --group-size 64\n"
    "  qwen-gptq -i M -o m.h5 --calib-data t.txt --dry-run\n"
    "  qwen-gptq -i M -o m.h5 --calib-data t.txt --pre-scale=awq.h5\n"
    "  mpirun -n 2 --bind-to none qwen-gptq ...  two GPUs share the samples\n"
    "  qwen-gptq -i M -o m.h5 --rtn             no text, no calibration\n"
    "  qwen-run -m qwen-7b-int4.h5 --chat 'Hello'\n\n"
    "Symmetric by default, which every runtime reads; --asym loses a little less. Use texts like "
    "those the model will see: 128 windows of 2048 tokens are usual, 32 of 512 are enough for a "
    "trial. A stopped run is continued by the same command.\n\n"
    "Exit codes: 0 done; 64 usage, or the output is the input; 65 bad data; 66 input missing; 69 "
    "no such device; 71 memory; 73 the output exists; 74 read or write failed; 75 stopped, can be "
    "continued; 77 permission; 78 not supported, or another job.";

static error_t parse(int key, char *arg, struct argp_state *state)
{
    switch (key) {
    case ARGP_KEY_INIT:
        cal_quant_cli_init(&o.q);
        o.q.quant.sym = o.q.quant.gptq = 1;
        state->child_inputs[0] = &o.q;
        state->child_inputs[1] = &o.q.run;
        state->child_inputs[2] = &o.cli;
        return 0;
    case KEY_ACT:
        o.q.quant.act_order = 1;
        return 0;
    case KEY_DAMP:
        o.q.quant.damp = q_cli_real(state, "--damp", arg, 1e-6, 10);
        return 0;
    case KEY_SEQ:
        o.q.quant.sequential = 1;
        return 0;
    case KEY_PRE:
        o.q.quant.factors = 1;
        o.q.factors_of = arg;
        return 0;
    case ARGP_KEY_ARG: /* --pre-scale AWQ.h5: an optional argument behind a blank */
        if (!o.q.quant.factors || o.q.factors_of)
            return ARGP_ERR_UNKNOWN;
        o.q.factors_of = arg;
        return 0;
    case KEY_RTN:
        o.q.rtn = 1;
        o.q.quant.gptq = 0;
        return 0;
    case ARGP_KEY_END:
        if (o.q.rtn && (o.q.quant.act_order || o.q.quant.damp > 0 || o.q.quant.sequential ||
                        o.q.quant.factors || o.q.run.given))
            argp_error(state, "--rtn looks at no text: it goes with --bits, --group-size, --sym "
                              "and --asym, not with options of calibration");
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
