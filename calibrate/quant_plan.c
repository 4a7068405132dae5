/* What a quantization would need: --dry-run of qwen-gptq and qwen-awq.  Bytes are counted; the time
 * is the number of multiplications over the speed of a small gram matrix on this machine, which is
 * what most of a run consists of. */
#include "calibrate/quant_cli.h"
#include "quant/linalg.h"

/* Multiplications and additions a second, in gram matrices. */
static double measure_speed(void)
{
    enum { K = 1024, ROWS = 1024, TIMES = 3 };
    float *H = q_calloc((size_t)K * K, sizeof *H), *X = q_calloc((size_t)K * ROWS, sizeof *X);
    double best = 1e9;

    for (int i = 0; H && X && i < TIMES; i++) {
        const double start = q_now();

        qnt_gram(H, K, X, ROWS);
        best = q_now() - start < best ? q_now() - start : best;
    }
    q_free(H);
    q_free(X);
    return 1.2 * K * K * ROWS / best; /* tiles of the upper triangle */
}

/* Operations of a whole run, and bytes of codes and scales of all linears. */
static double work_of(const cal_quant_cli *o, const fmt_model *m, double tokens, double *bytes)
{
    const double passes = o->quant.sequential ? 5 : 2, factors = o->quant.factors ? 40 : 0;
    double ops = 0;

    *bytes = 0;
    for (int r = 0; r < FMT_ROLES; r++) {
        const fmt_role_row *row = fmt_role_get((fmt_role)r);
        const double N = (double)fmt_role_rows(row, m), K = (double)fmt_dim_size(row->cols, m);
        const double group = o->quant.group < 0 ? K : (double)o->quant.group;
        const double scored = N < 256 ? N : 256;

        if (!row->quant)
            continue;
        ops += 2 * passes * N * K * tokens + K * K * tokens + K * K * K + N * K * K +
               2 * (factors + 3) * scored * K * K;
        *bytes += N * K * o->quant.bits / 8 + N * (K / group) * (2 + o->quant.bits / 8.0);
    }
    *bytes *= (double)m->layers;
    return ops * (double)m->layers;
}

static uint64_t float_bytes(const fmt_src *src)
{
    const fmt_model *m = fmt_src_model(src);
    uint64_t linears = 0;

    for (int r = 0; r < FMT_ROLES; r++) {
        const fmt_role_row *row = fmt_role_get((fmt_role)r);

        if (row->quant)
            linears += (uint64_t)(m->layers * fmt_role_rows(row, m) * fmt_dim_size(row->cols, m)) *
                       fmt_dtype_bytes(fmt_src_dtype(src, (fmt_ref){ (fmt_role)r, 0, FMT_WEIGHT }));
    }
    return fmt_src_bytes(src) - linears;
}

q_status cal_quant_job_plan(q_buf *out, cal_quant_cli *o, const q_cli *cli, q_err *err)
{
    q_status st = Q_OK;
    cal_quant_job j;
    cal_cost c = { 0 };
    double codes, ops, ram;

    Q_TRY(cal_quant_job_open(&j, o, cli, NULL, err));
    if (!o->rtn) {
        Q_TRY(cal_run_open(&j.run, j.src, &o->run, err));
        cal_run_cost(&c, &j.run);
    }
    ops = work_of(o, fmt_src_model(j.src), (double)c.tokens, &codes);
    ram = (double)(c.ram + (o->rtn ? 0 : cal_quant_bytes(fmt_src_model(j.src))));
    Q_TRY(q_buf_printf(out, err,
                       "%s -> %s: %s\noutput: %.3f GB, of it %.3f GB for %lld layers of linears\n",
                       o->input, o->output, j.recipe, ((double)float_bytes(j.src) + codes) * 1e-9,
                       codes * 1e-9, (long long)fmt_src_model(j.src)->layers));
    if (o->rtn)
        Q_TRY(q_buf_puts(out, "no calibration: weights are rounded as they are written\n", err));
    else
        Q_TRY(q_buf_printf(out, err,
                           "calibration: %zu samples, %lld tokens, %.2f GB of memory, %.2f GB of "
                           "job directory, about %.1f minutes on this machine\n",
                           j.run.data.n, (long long)c.tokens, ram * 1e-9,
                           ((double)c.disk + codes) * 1e-9, ops / measure_speed() / 60));
out:
    cal_quant_job_close(&j);
    return st;
}
