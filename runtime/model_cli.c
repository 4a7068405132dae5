/* Model and sampling options. */
#include "runtime/model_cli.h"

#include <math.h>
#include <string.h>

#include "runtime/kv.h"

enum {
    KEY_WEIGHT_ONLY = 0x500,
    KEY_HEAD,
    KEY_SMOOTH,
    KEY_PER_TOKEN,
    KEY_PER_CHANNEL,
    KEY_KV,
    KEY_DEVICE,
    KEY_CHAT,
    KEY_THINKING,
    KEY_NO_THINKING,
    KEY_GREEDY,
    KEY_TEMPERATURE,
    KEY_TOP_K,
    KEY_TOP_P,
    KEY_PENALTY
};

void rt_session_opts_init(rt_session_opts *o)
{
    memset(o, 0, sizeof *o);
    o->sampling = (rt_sampling_opts){ 0, NAN, NAN, NAN, -1 };
}

static const struct argp_option model_options[] = {
    { "model", 'm', "MODEL", 0,
      "Hugging Face directory, FT directory of qwen-convert, or archive (.h5)", 0 },
    { "weight-only", KEY_WEIGHT_ONLY, "TYPE", 0,
      "Round the linears to nearest while loading: int8 or int4, per output channel", 0 },
    { "head", KEY_HEAD, "TYPE", 0,
      "Round the output matrix as well: int8 or int4 (default: as stored)", 0 },
    { "use-smooth-quant", KEY_SMOOTH, 0, 0,
      "W8A8: the int8 weights of qwen-convert --smoothquant, and int8 activations", 0 },
    { "per-token", KEY_PER_TOKEN, 0, 0,
      "... activations by the maximum of each token (default: by the calibrated range)", 0 },
    { "per-channel", KEY_PER_CHANNEL, 0, 0,
      "... weights by a scale for each output channel (default: for each matrix); with both, a "
      "model that was not smoothed runs too",
      0 },
    { "kv-cache", KEY_KV, "TYPE", 0,
      "Element type of the KV cache: f32 (default on a CPU), f16 (on a GPU), or int8 after "
      "qwen-calibrate-kv",
      0 },
    { "device", KEY_DEVICE, "NAME", 0,
      "auto (default: a GPU that can be used, else the CPU; -v tells which and why), cpu, cuda, "
      "cuda:N",
      0 },
    { "chat-format", KEY_CHAT, "NAME", 0,
      TXT_CHAT_NAMES " (default: what the files of the model say)", 0 },
    { "enable-thinking", KEY_THINKING, 0, 0, "qwen3: think before answering (default)", 0 },
    { "no-thinking", KEY_NO_THINKING, 0, 0, "qwen3: answer at once", 0 },
    { 0 },
};

static error_t parse_model(int key, char *arg, struct argp_state *state)
{
    rt_session_opts *o = state->input;

    switch (key) {
    case 'm':
        o->path = arg;
        return 0;
    case KEY_WEIGHT_ONLY:
        if (strcmp(arg, "int8") != 0 && strcmp(arg, "int4") != 0)
            q_cli_bad(state, "--weight-only", arg, "int8 or int4");
        o->weight_only = arg;
        return 0;
    case KEY_SMOOTH:
        o->smooth_quant = 1;
        return 0;
    case KEY_PER_TOKEN:
        o->per_token = 1;
        return 0;
    case KEY_PER_CHANNEL:
        o->per_channel = 1;
        return 0;
    case KEY_HEAD:
        if (strcmp(arg, "int8") != 0 && strcmp(arg, "int4") != 0)
            q_cli_bad(state, "--head", arg, "int8 or int4");
        o->head = arg;
        return 0;
    case KEY_KV:
        if (!rt_kv_format_find(arg))
            q_cli_bad(state, "--kv-cache", arg, "f32, f16 or int8");
        o->kv_format = arg;
        return 0;
    case KEY_DEVICE:
        o->backend = arg;
        return 0;
    case KEY_CHAT:
        o->chat_format = arg;
        return 0;
    case KEY_THINKING:
        o->thinking = TXT_THINKING_ON;
        return 0;
    case KEY_NO_THINKING:
        o->thinking = TXT_THINKING_OFF;
        return 0;
    case ARGP_KEY_END:
        if (o->smooth_quant && o->weight_only)
            argp_error(state, "--use-smooth-quant and --weight-only exclude each other");
        if ((o->per_token || o->per_channel) && !o->smooth_quant)
            argp_error(state, "--per-token and --per-channel go with --use-smooth-quant");
        if (!o->path)
            argp_error(state, "no model given: use -m MODEL");
        o->device_unasked = !o->backend;
        if (!o->backend)
            o->backend = "auto";
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp rt_model_argp = { .options = model_options, .parser = parse_model };

static const struct argp_option sampling_options[] = {
    { "greedy", KEY_GREEDY, 0, 0, "Always the most likely token", 0 },
    { "temperature", KEY_TEMPERATURE, "T", 0, "Divide the logits by T; 0 is greedy", 0 },
    { "top-k", KEY_TOP_K, "K", 0, "Sample among the K most likely tokens; 0: all", 0 },
    { "top-p", KEY_TOP_P, "P", 0, "Sample among the likeliest tokens that make up P", 0 },
    { "repetition-penalty", KEY_PENALTY, "R", 0, "Weaken tokens that occurred; 1: off", 0 },
    { 0, 0, 0, 0, "Defaults come from generation_config.json of the model.", 0 },
    { 0 },
};

static error_t parse_sampling(int key, char *arg, struct argp_state *state)
{
    rt_sampling_opts *o = state->input;

    switch (key) {
    case KEY_GREEDY:
        o->greedy = 1;
        return 0;
    case KEY_TEMPERATURE:
        o->temperature = q_cli_real(state, "--temperature", arg, 0, 100);
        return 0;
    case KEY_TOP_K:
        o->top_k = q_cli_int(state, "--top-k", arg, 0, INT32_MAX);
        return 0;
    case KEY_TOP_P:
        o->top_p = q_cli_real(state, "--top-p", arg, 0, 1);
        return 0;
    case KEY_PENALTY:
        o->repetition_penalty = q_cli_real(state, "--repetition-penalty", arg, 0.01, 100);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp rt_sampling_argp = { .options = sampling_options, .parser = parse_sampling };
