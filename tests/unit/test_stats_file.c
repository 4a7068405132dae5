/* stats_file and job: statistics come back, equal values give equal bytes, files for another model
 * or with impossible values are refused; a job refuses other inputs and a second run. */
#include <string.h>

#include "calibrate/job.h"
#include "calibrate/stats_file.h"
#include "formats/base/q_file.h"
#include "tests/t.h"

static fmt_model model(void)
{
    return (fmt_model){ .family = &fmt_families[1],
                        .hid = 8,
                        .layers = 2,
                        .n_head = 4,
                        .n_kv = 2,
                        .hd = 2,
                        .ffn = 12,
                        .vocab = 10 };
}

static void fill(qnt_ranges *r, const fmt_model *m, float from)
{
    for (int i = 0; i < FMT_ROLES; i++) {
        const fmt_role_row *role = fmt_role_get((fmt_role)i);

        if (!role->quant)
            continue;
        for (int64_t k = 0; k < fmt_dim_size(role->cols, m); k++)
            r->in[i][k] = from + (float)k;
        for (int64_t k = 0; k < fmt_role_rows(role, m); k++)
            r->out[i][k] = from + 100 + (float)k;
    }
    for (int64_t k = 0; k < m->n_kv * m->hd; k++)
        r->k[k] = from / 2 + (float)k;
}

static void make(qnt_ranges r[2], const fmt_model *m)
{
    q_err err = { 0 };

    for (int i = 0; i < 2; i++) {
        T_OK(qnt_ranges_alloc(&r[i], m, &err), err);
        fill(&r[i], m, (float)(i + 1));
    }
}

static const char *write_stats(const char *name, const fmt_model *m, const qnt_ranges *r)
{
    static char path[256];
    q_err err = { 0 };
    cal_stats_info info = { .m = m, .tool = "test 1", .prompt = "raw", .samples = 3, .tokens = 7 };

    strcpy(info.data_sha256, "0123");
    strcpy(info.model_sha256, "abcd");
    snprintf(path, sizeof path, "%s/%s", t_tmpdir(), name);
    T_OK(cal_stats_write(path, 1, &info, r, &err), err);
    return path;
}

static void t_round_trip(void)
{
    q_err err = { 0 };
    const fmt_model m = model();
    qnt_ranges r[2], *back = NULL;
    q_buf a = { 0 }, b = { 0 };

    make(r, &m);
    T_OK(cal_stats_read(write_stats("s.h5", &m, r), &m, "abcd", &back, &err), err);
    for (int i = 0; i < 2; i++) {
        T_NEAR(back[i].in[FMT_FFN_DOWN][11], i + 1 + 11, 0);
        T_NEAR(back[i].out[FMT_ATTN_QKV][15], i + 101 + 15, 0);
        T_NEAR(back[i].out[FMT_FFN_GATE_UP][23], i + 101 + 23, 0);
        T_NEAR(back[i].k[3], (i + 1) / 2.0 + 3, 0);
    }
    T_OK(q_file_slurp(&a, write_stats("s.h5", &m, r), 1 << 20, &err), err);
    T_OK(q_file_slurp(&b, write_stats("again.h5", &m, back), 1 << 20, &err), err);
    T_INT(a.size, b.size);
    T_INT(memcmp(a.data, b.data, a.size), 0);
    qnt_ranges_join(&r[0], &r[1], &m);
    T_NEAR(r[0].in[FMT_FFN_DOWN][11], 13, 0);
    T_NEAR(r[0].k[3], 4, 0);
    cal_stats_free(back, &m);
    for (int i = 0; i < 2; i++)
        qnt_ranges_free(&r[i]);
    q_buf_free(&a);
    q_buf_free(&b);
}

static void t_refused(void)
{
    q_err err = { 0 };
    fmt_model m = model(), other = model();
    qnt_ranges r[2], *back = NULL;
    const char *path;
    q_buf b = { 0 };

    make(r, &m);
    path = write_stats("s.h5", &m, r);
    other.layers = 3;
    T_ERR(cal_stats_read(path, &other, "abcd", &back, &err), err, Q_ECONFIG,
          "made for a qwen2 of 2 layers and width 8, the model is a qwen2 of 3 and 8");
    other = model();
    other.ffn = 13;
    T_ERR(cal_stats_read(path, &other, "abcd", &back, &err), err, Q_ESHAPE, "ffn_gate_up/out");
    T_ERR(cal_stats_read(path, &m, "abce", &back, &err), err, Q_ECONFIG,
          "made on another model, or on one stored in another type (hash abcd, this one has abce)");
    T_OK(q_file_slurp(&b, path, 1 << 20, &err), err);
    b.data[b.size / 2] ^= 4;
    T_OK(q_out_whole(path, 1, b.data, b.size, &err), err);
    T_ERR(cal_stats_read(path, &m, "abcd", &back, &err), err, Q_EFORMAT, "was changed");
    r[1].in[FMT_ATTN_QKV][3] = -1;
    T_ERR(cal_stats_read(write_stats("s.h5", &m, r), &m, "abcd", &back, &err), err, Q_EFORMAT,
          "'/stats/layers.0001/attn_qkv/in': value 3 is -1, wanted a magnitude");
    r[1].in[FMT_ATTN_QKV][3] = __builtin_inff();
    T_ERR(cal_stats_read(write_stats("s.h5", &m, r), &m, "abcd", &back, &err), err, Q_EFORMAT,
          "value 3 is inf");
    T_ERR(cal_stats_read("/nonexistent/s.h5", &m, "abcd", &back, &err), err, Q_ENOINPUT, "s.h5");
    for (int i = 0; i < 2; i++)
        qnt_ranges_free(&r[i]);
    q_buf_free(&b);
}

static fmt_json *fingerprint(const char *model_hash, int64_t n)
{
    q_err err = { 0 };
    fmt_json *f = NULL;

    T_OK(fmt_json_new(&f, &err), err);
    T_OK(fmt_json_put_str(f, "model", model_hash, &err), err);
    if (n)
        T_OK(fmt_json_put_int(f, "samples", n, &err), err);
    return f;
}

static void t_job(void)
{
    q_err err = { 0 };
    char *dir = q_path_join(t_tmpdir(), "a.job"), *path;
    fmt_json *f = fingerprint("x", 3), *g = fingerprint("y", 3), *h = fingerprint("x", 0);
    cal_job *job = NULL, *two = NULL;

    T_OK(cal_job_open(&job, dir, f, 1, &err), err);
    T_ERR(cal_job_open(&two, dir, f, 1, &err), err, Q_ECREATE, "another run works on this job");
    T_INT(cal_job_has_layer(job, 0), 0);
    T_INT(cal_job_last_hidden(job, 9), -1);
    path = cal_job_layer_path(job, 0);
    T_OK(q_out_whole(path, 0, "x", 1, &err), err);
    q_free(path);
    path = cal_job_hidden_path(job, 4);
    T_OK(q_out_whole(path, 0, "x", 1, &err), err);
    q_free(path);
    cal_job_close(job);
    T_OK(cal_job_open(&job, dir, f, 1, &err), err); /* continued */
    T_INT(cal_job_has_layer(job, 0), 1);
    T_INT(cal_job_has_layer(job, 1), 0);
    T_INT(cal_job_last_hidden(job, 9), 4);
    T_INT(cal_job_last_hidden(job, 3), -1);
    cal_job_close(job);
    T_ERR(cal_job_open(&job, dir, g, 1, &err), err, Q_ECONFIG,
          "was begun with another model (\"x\", now \"y\")");
    T_ERR(cal_job_open(&job, dir, h, 1, &err), err, Q_ECONFIG, "--no-resume starts anew");
    T_OK(cal_job_open(&job, dir, g, 0, &err), err); /* anew */
    T_INT(cal_job_has_layer(job, 0), 0);
    T_OK(cal_job_remove(dir, &err), err);
    cal_job_close(job);
    T_INT(q_path_exists(dir), 0);
    fmt_json_free(f);
    fmt_json_free(g);
    fmt_json_free(h);
    q_free(dir);
}

static const t_case cases[] = { T(t_round_trip), T(t_refused), T(t_job), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
