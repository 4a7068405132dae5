/* Options of programs that calibrate. */
#include "calibrate/cal_cli.h"

#include <string.h>

enum {
    KEY_DATA = 0x700,
    KEY_PROMPT,
    KEY_SAMPLES,
    KEY_SEQ_LEN,
    KEY_SHUFFLE,
    KEY_CHAT,
    KEY_DEVICE,
    KEY_MAX_RAM,
    KEY_RESUME,
    KEY_NO_RESUME
};

static const struct argp_option options[] = {
    { "calib-data", KEY_DATA, "FILE", 0,
      "Texts to calibrate on: JSON Lines with \"article\", or plain text", 0 },
    { "calib-prompt", KEY_PROMPT, "NAME", 0,
      "summarize (default: the reference's summary prompt), chat, or raw text", 0 },
    { "calib-samples", KEY_SAMPLES, "N", 0, "Samples (default 512)", 0 },
    { "calib-seq-len", KEY_SEQ_LEN, "N", 0, "Tokens of a sample at most (default 2048)", 0 },
    { "calib-shuffle", KEY_SHUFFLE, 0, 0, "Draw the samples with --seed (default: the first ones)",
      0 },
    { "chat-format", KEY_CHAT, "NAME", 0, TXT_CHAT_NAMES " (default: what the files say)", 0 },
    { "device", KEY_DEVICE, "NAME", 0, "auto (default), cpu, cuda, cuda:N", 0 },
    { "max-ram", KEY_MAX_RAM, "SIZE", 0,
      "Hidden states above SIZE (4GiB, say) go to files in the job directory", 0 },
    { "resume", KEY_RESUME, 0, 0, "Continue a stopped run (default)", 0 },
    { "no-resume", KEY_NO_RESUME, 0, 0, "Start anew", 0 },
    { 0 },
};

void cal_cli_init(cal_cli_opts *o)
{
    memset(o, 0, sizeof *o);
    o->run.device = "auto";
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    cal_run_opts *o = &((cal_cli_opts *)state->input)->run;

    switch (key) {
    case KEY_DATA:
        o->data.path = arg;
        return 0;
    case KEY_PROMPT:
        if (!cal_prompt_from_name(arg, &o->data.prompt))
            q_cli_bad(state, "--calib-prompt", arg, "summarize, chat or raw");
        return 0;
    case KEY_SAMPLES:
        o->data.samples = (size_t)q_cli_int(state, "--calib-samples", arg, 1, 1 << 24);
        return 0;
    case KEY_SEQ_LEN:
        o->data.seq_len = q_cli_int(state, "--calib-seq-len", arg, 1, 1 << 20);
        return 0;
    case KEY_SHUFFLE:
        o->data.shuffle = 1;
        return 0;
    case KEY_CHAT:
        o->chat_format = arg;
        return 0;
    case KEY_DEVICE:
        o->device = arg;
        return 0;
    case KEY_MAX_RAM:
        o->max_ram = q_cli_size(state, "--max-ram", arg);
        return 0;
    case KEY_RESUME:
        o->no_resume = 0;
        return 0;
    case KEY_NO_RESUME:
        o->no_resume = 1;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp cal_argp = { .options = options, .parser = parse };
