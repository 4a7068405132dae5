/* Factors of AWQ that come from another archive: what was folded is kept, read back, and folds into
 * the same norms; an archive of another model, without factors, or with a changed byte is refused.
 * The factors here are made up, so that the norms can be computed beside the program. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate/quant_job.h"
#include "convert/archive.h"
#include "formats/base/q_file.h"
#include "quant/load.h"
#include "tests/t.h"

#define MODEL "datasets/qwen-tiny"

static float made_up(int64_t layer, int role, int64_t k)
{
    return 0.5f + 0.0625f * (float)((k * 7 + layer * 5 + role) % 23);
}

static void make_factors(cal_factors *f, const fmt_model *m)
{
    *f = (cal_factors){ .layers = m->layers,
                        .v = q_calloc((size_t)m->layers * FMT_ROLES, sizeof *f->v) };
    for (int64_t i = 0; i < m->layers * FMT_ROLES; i++) {
        const fmt_role_row *row = fmt_role_get((fmt_role)(i % FMT_ROLES));
        const int64_t K = fmt_dim_size(row->cols, m);

        if (!row->quant)
            continue;
        f->v[i] = q_malloc((size_t)K * sizeof(float));
        for (int64_t k = 0; k < K; k++)
            f->v[i][k] = made_up(i / FMT_ROLES, (int)(i % FMT_ROLES), k);
    }
}

static cal_quant_cli options(const char *output)
{
    cal_quant_cli o;

    cal_quant_cli_init(&o);
    o.input = MODEL;
    o.output = output;
    o.run.device = "cpu";
    o.run.data.path = "datasets/samples.jsonl";
    o.run.data.samples = 2;
    o.run.data.seq_len = 100;
    o.no_report = 1;
    return o;
}

static void write_archive(cal_quant_job *j)
{
    q_err err = { 0 };
    fmt_json *how = NULL;

    T_OK(fmt_json_new(&how, &err), err);
    T_OK(cal_quant_job_json(how, j, &err), err);
    T_OK(cvt_archive_write(NULL,
                           &(qnt_archive_opts){ .src = j->src,
                                                .path = j->o->output,
                                                .tool = "test",
                                                .method = "awq",
                                                .bits = 4,
                                                .group = 128,
                                                .provenance = how,
                                                .weight = cal_quant_job_weight,
                                                .vector = cal_quant_job_vector,
                                                .factors = cal_quant_job_factors,
                                                .self = j },
                           &err),
         err);
    fmt_json_free(how);
}

/* An archive with the made-up factors, or with none. */
static void quantize(const char *path, int with_factors)
{
    q_err err = { 0 };
    cal_quant_cli o = options(path);
    const q_cli cli = { .threads = 2 };
    cal_quant_job j;
    cal_factors f = { 0 };
    fmt_src *src = NULL;

    T_OK(fmt_src_open(&src, MODEL, &err), err);
    make_factors(&f, fmt_src_model(src));
    o.quant.factors = with_factors;
    o.quant.given = with_factors ? &f : NULL;
    T_OK(cal_quant_job_open(&j, &o, &cli, NULL, &err), err);
    T_OK(cal_run_open(&j.run, j.src, &o.run, &err), err);
    T_OK(cal_quant_open(&j.quant, j.src, &o.quant, &err), err);
    T_OK(cal_run_loop(&j.run, &j.quant.client, &err), err);
    write_archive(&j);
    T_OK(cal_quant_job_finish(&j, &err), err);
    cal_quant_job_close(&j);
    cal_factors_close(&f);
    fmt_src_close(src);
}

/* norm / factor, in the type of the source: f16 */
static void check_norms(const char *path)
{
    q_err err = { 0 };
    fmt_src *was = NULL, *is = NULL;
    int64_t differ = 0, n = 0;

    T_OK(fmt_src_open(&was, MODEL, &err), err);
    T_OK(fmt_src_open(&is, path, &err), err);
    for (int64_t l = 0; l < fmt_src_model(was)->layers; l++)
        for (int which = 0; which < 2; which++) {
            const fmt_ref ref = { which ? FMT_FFN_NORM : FMT_ATTN_NORM, l, FMT_WEIGHT };
            const int role = which ? FMT_FFN_GATE_UP : FMT_ATTN_QKV;
            const int64_t hid = fmt_src_model(was)->hid;
            float *a = NULL, *b = NULL;

            T_OK(qnt_load_f32(&a, was, ref, hid, &err), err);
            T_OK(qnt_load_f32(&b, is, ref, hid, &err), err);
            for (int64_t k = 0; k < hid; k++, n++) {
                const float want = a[k] / made_up(l, role, k), off = b[k] - want;

                /* half a step of f16 */
                differ += (off < 0 ? -off : off) > 4.9e-4f * (want < 0 ? -want : want) + 6e-8f;
            }
            q_free(a);
            q_free(b);
        }
    printf("# %s: %lld of %lld values of norms differ\n", path, (long long)differ, (long long)n);
    T_INT(differ, 0);
    fmt_src_close(was);
    fmt_src_close(is);
}

static void t_round_trip(void)
{
    q_err err = { 0 };
    char *first = q_path_join(t_tmpdir(), "first.h5"), *again = q_path_join(t_tmpdir(), "again.h5");
    const q_cli cli = { .threads = 2 };
    cal_quant_cli o = options(again);
    cal_quant_job j;
    cal_factors f;
    fmt_src *src = NULL;

    quantize(first, 1);
    check_norms(first);
    T_OK(fmt_src_open(&src, MODEL, &err), err);
    T_OK(cal_factors_open(&f, first, fmt_src_model(src), &err), err);
    for (int64_t i = 0; i < f.layers * FMT_ROLES; i++)
        for (int64_t k = 0;
             f.v[i] &&
             k < fmt_dim_size(fmt_role_get((fmt_role)(i % FMT_ROLES))->cols, fmt_src_model(src));
             k++)
            T_TRUE(f.v[i][k] == made_up(i / FMT_ROLES, (int)(i % FMT_ROLES), k));
    cal_factors_close(&f);
    o.quant.factors = o.quant.gptq = 1; /* qwen-gptq --pre-scale=first.h5 */
    o.factors_of = first;
    T_OK(cal_quant_job_run(&j, &o, &cli, NULL, &err), err);
    T_TRUE(strstr(j.recipe, "awq factors of ") == j.recipe);
    T_TRUE(j.error < 0.6 * j.nearest); /* GPTQ it is */
    write_archive(&j);
    T_OK(cal_quant_job_finish(&j, &err), err);
    cal_quant_job_close(&j);
    check_norms(again);
    fmt_src_close(src);
    q_free(first);
    q_free(again);
}

static void flip_byte(const char *path, long from_end)
{
    FILE *f = fopen(path, "r+b");
    int c;

    T_TRUE(f && fseek(f, -from_end, SEEK_END) == 0);
    c = fgetc(f);
    T_TRUE(fseek(f, -from_end, SEEK_END) == 0 && fputc(c ^ 1, f) != EOF && fclose(f) == 0);
}

static void t_refused(void)
{
    q_err err = { 0 };
    char *with = q_path_join(t_tmpdir(), "with.h5"), *plain = q_path_join(t_tmpdir(), "plain.h5");
    fmt_src *src = NULL;
    fmt_model m;
    cal_factors f;
    char hash[65];

    quantize(with, 1);
    quantize(plain, 0);
    T_OK(fmt_src_open(&src, MODEL, &err), err);
    m = *fmt_src_model(src);
    T_ERR(cal_factors_open(&f, plain, &m, &err), err, Q_EFORMAT, "plain.h5: holds no factors");
    T_ERR(cal_factors_open(&f, MODEL, &m, &err), err, Q_EFORMAT, "wanted an archive of qwen-awq");
    T_ERR(cal_factors_open(&f, "none.h5", &m, &err), err, Q_ENOINPUT, "none.h5");
    m.layers = 7;
    T_ERR(cal_factors_open(&f, with, &m, &err), err, Q_ECONFIG,
          "holds a qwen of 8 layers and width 256, the model is a qwen of 7 and 256");
    m.layers = 8;
    T_OK(cal_factors_open(&f, with, &m, &err), err);
    memcpy(hash, f.model_sha256, sizeof hash);
    T_OK(cal_factors_check(&f, hash, &err), err);
    hash[0] = hash[0] == '0' ? '1' : '0';
    T_ERR(cal_factors_check(&f, hash, &err), err, Q_ECONFIG,
          "with.h5: was made from another model");
    cal_factors_close(&f);
    flip_byte(with, 5000);
    T_ERR(cal_factors_open(&f, with, &m, &err), err, Q_EFORMAT, "with.h5");
    fmt_src_close(src);
    q_free(with);
    q_free(plain);
}

static const t_case cases[] = { T(t_round_trip), T(t_refused), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
