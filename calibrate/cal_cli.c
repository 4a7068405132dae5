/* Options of programs that calibrate. */
#include "calibrate/cal_cli.h"

#include <stdio.h>
#include <string.h>

#include "calibrate/loop_time.h"
#include "formats/base/q_file.h"

enum {
    KEY_DATA = 0x700,
    KEY_PROMPT,
    KEY_SAMPLES,
    KEY_SEQ_LEN,
    KEY_SHUFFLE,
    KEY_CHAT,
    KEY_DEVICE,
    KEY_MAX_RAM,
    KEY_MAX_VRAM,
    KEY_RESUME,
    KEY_NO_RESUME,
    KEY_STATS,
    KEY_SAVE,
    KEY_NO_REPORT
};

static const struct argp_option run_options[] = {
    { "calib-data", KEY_DATA, "FILE", 0,
      "Texts to calibrate on: JSON Lines with \"article\", or plain text", 0 },
    { "calib-prompt", KEY_PROMPT, "NAME", 0,
      "summarize (the reference's summary prompt), chat, raw text, or windows of joined texts "
      "(default: windows for qwen-gptq and qwen-awq, else summarize)",
      0 },
    { "calib-samples", KEY_SAMPLES, "N", 0, "Samples (default 512, windows: 128)", 0 },
    { "samples", 0, 0, OPTION_ALIAS, 0, 0 },
    { "calib-seq-len", KEY_SEQ_LEN, "N", 0, "Tokens of a sample at most (default 2048)", 0 },
    { "seq-len", 0, 0, OPTION_ALIAS, 0, 0 },
    { "calib-shuffle", KEY_SHUFFLE, 0, 0, "Draw the samples with --seed (default: the first ones)",
      0 },
    { "chat-format", KEY_CHAT, "NAME", 0, TXT_CHAT_NAMES " (default: as the files say)", 0 },
    { "device", KEY_DEVICE, "NAME", 0,
      "auto (default: a GPU that can be used, else the CPU; -v tells which and why), cpu, cuda, "
      "cuda:N; with mpirun the first rank has this GPU, the next ones those behind it",
      0 },
    { "max-ram", KEY_MAX_RAM, "SIZE", 0,
      "Memory of each rank in all, 4GiB say: hidden states that do not fit go to files in the job "
      "directory",
      0 },
    { "max-vram", KEY_MAX_VRAM, "SIZE", 0,
      "Memory of a GPU: steps get smaller and hidden states move to the host until it is kept", 0 },
    { "resume", KEY_RESUME, 0, 0, "Continue a stopped run (default)", 0 },
    { "no-resume", KEY_NO_RESUME, 0, 0, "Start anew", 0 },
    { 0 },
};

static const struct argp_option options[] = {
    { "stats", KEY_STATS, "FILE", 0, "Statistics of FILE, instead of calibrating", 0 },
    { "save-stats", KEY_SAVE, "FILE", 0, "Keep the statistics for other commands", 0 },
    { "no-report", KEY_NO_REPORT, 0, 0, "No report.html and .json beside the directory", 0 },
    { 0 },
};

void cal_cli_init(cal_cli_opts *o)
{
    memset(o, 0, sizeof *o);
    o->run.device = "auto";
}

static error_t parse_run(int key, char *arg, struct argp_state *state)
{
    cal_run_opts *o = state->input;

    if (key >= KEY_DATA && key <= KEY_NO_RESUME)
        o->given |= key == KEY_DEVICE ? CAL_GIVEN_DEVICE : CAL_GIVEN_OTHER;
    switch (key) {
    case KEY_DATA:
        o->data.path = arg;
        return 0;
    case KEY_PROMPT:
        if (!cal_prompt_from_name(arg, &o->data.prompt))
            q_cli_bad(state, "--calib-prompt", arg, "summarize, chat, raw or windows");
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
    case KEY_MAX_VRAM:
        o->max_vram = q_cli_size(state, "--max-vram", arg);
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

const struct argp cal_run_argp = { .options = run_options, .parser = parse_run };

static error_t parse(int key, char *arg, struct argp_state *state)
{
    cal_cli_opts *c = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &c->run;
        return 0;
    case KEY_STATS:
        c->stats = arg;
        return 0;
    case KEY_SAVE:
        c->save = arg;
        return 0;
    case KEY_NO_REPORT:
        c->no_report = 1;
        return 0;
    case ARGP_KEY_END:
        if (c->stats && c->run.data.path)
            argp_error(state, "give one of --calib-data and --stats");
        if (c->stats && c->run.given & CAL_GIVEN_OTHER)
            argp_error(state, "--stats takes what was found before: --calib-..., --chat-format, "
                              "--max-..., --resume and --no-resume go with --calib-data");
        if (c->stats && c->save)
            argp_error(state, "--save-stats keeps what --calib-data gives: it does not go with "
                              "--stats");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = { { &cal_run_argp, 0, NULL, 0 }, { 0 } };

const struct argp cal_argp = { .options = options, .parser = parse, .children = children };

static q_status read_stats(qnt_ranges **out, const char *path, const fmt_src *src, q_err *err)
{
    q_status st = Q_OK;
    char hash[65];

    Q_TRY(cal_model_sha256(hash, src, err));
    Q_TRY(cal_stats_read(path, fmt_src_model(src), hash, out, err));
out:
    return st;
}

q_status cal_cli_ranges(qnt_ranges **out, cal_cli_opts *o, const q_cli *cli, const fmt_src *src,
                        const char *output, const volatile sig_atomic_t *stop, int force,
                        q_err *err)
{
    q_status st = Q_OK;
    cal_run r = { 0 };
    cal_ranges ranges = { 0 };
    q_buf times = { 0 };
    char *job = NULL;

    if (o->stats)
        return read_stats(out, o->stats, src, err);
    if (o->save) {
        Q_TRY(q_out_check(o->save, force, err));
        Q_TRY(q_out_apart(o->save, o->run.data.path, err));
        Q_TRY(q_out_apart(o->save, fmt_src_dir(src), err));
    }
    if (!(job = q_format("%s.job", output)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", output);
    o->run.threads = cli->threads;
    o->run.data.seed = cli->seed;
    o->run.job_dir = job;
    o->run.tool = "qwenkit " Q_VERSION;
    o->run.stop = stop;
    o->run.log = &cli->log;
    o->run.stages = &o->stages;
    Q_TRY(cal_run_open(&r, src, &o->run, err));
    Q_TRY(cal_run_ranges(&r, &ranges, err));
    Q_TRY(cal_stages_text(&times, &o->stages, err));
    q_log_info(&cli->log, "calibration, %s", times.data);
    if (o->save && rt_comm_rank(o->run.comm) == 0)
        Q_TRY(cal_stats_write(o->save, force, &r.info, ranges.layer, err));
    *out = ranges.layer;
    o->cost = ranges.cost;
    ranges.layer = NULL;
    ranges.cost = NULL;
out:
    cal_ranges_close(&ranges);
    cal_run_close(&r);
    q_buf_free(&times);
    q_free(job);
    o->run.stages = NULL;
    o->run.job_dir = NULL;
    return st;
}

q_status cal_cli_done(const char *output, q_err *err)
{
    q_status st = Q_OK;
    char *job = q_format("%s.job", output);

    if (!job)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", output);
    Q_TRY(cal_job_remove(job, err));
out:
    q_free(job);
    return st;
}

/* Every output is seen once, three of them by a product of its own; a search has the second moments
 * of all inputs, and tries its exponents on a part of the rows. */
static cal_work work_of(const fmt_model *m, double tokens, int search)
{
    enum { EXPONENTS = 21, ROWS = 256 };
    cal_work w = { 0 };

    for (int r = 0; r < FMT_ROLES; r++) {
        const fmt_role_row *row = fmt_role_get((fmt_role)r);
        const double N = (double)fmt_role_rows(row, m), K = (double)fmt_dim_size(row->cols, m);

        if (!row->quant)
            continue;
        w.forward += (r == FMT_ATTN_QKV ? 2 : 4) * N * K * tokens;
        if (search)
            w.client += K * K * tokens + EXPONENTS * 2 * N * K * ROWS;
    }
    w.forward *= (double)m->layers;
    w.client *= (double)m->layers;
    return w;
}

q_status cal_cli_dry_run(fmt_json **out, cal_cli_opts *o, const q_cli *cli, const fmt_src *src,
                         const char *output, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = fmt_src_model(src);
    cal_client client = { 0 };
    char *job = NULL;
    cal_run r = { 0 };
    q_buf text = { 0 };
    cal_plan p;
    cal_work w;

    if (o->stats || !o->run.data.path)
        return Q_OK;
    if (!(job = q_format("%s.job", output ? output : "")))
        Q_FAIL(err, Q_ENOMEM, "no memory");
    o->run.threads = cli->threads;
    o->run.data.seed = cli->seed;
    o->run.job_dir = job;
    Q_TRY(cal_run_open(&r, src, &o->run, err));
    client.bytes = cal_ranges_bytes(m, o->run.search != 0, &client.device_bytes);
    Q_TRY(cal_run_plan(&p, &r, &client, err));
    w = work_of(m, (double)p.tokens, o->run.search);
    if (cli->json) {
        Q_TRY(fmt_json_new(out, err));
        Q_TRY(cal_plan_json(*out, &p, cal_work_seconds(&w, r.be), err));
    } else {
        Q_TRY(cal_plan_text(&text, &p, cal_work_seconds(&w, r.be), err));
        fputs(text.data, stdout);
    }
out:
    q_buf_free(&text);
    cal_run_close(&r);
    q_free(job);
    o->run.job_dir = NULL;
    return st;
}
