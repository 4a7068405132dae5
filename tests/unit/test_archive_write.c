/* Writing archives: what calibration gives is what is read, an archive that is rewritten keeps its
 * bytes, and what a writer leaves when it is stopped or the disk is full is nothing. */
#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "convert/archive.h"
#include "formats/apart.h"
#include "formats/arch.h"
#include "formats/base/q_file.h"
#include "formats/h5file.h"
#include "tests/t_packed.h"

/* ---- what is left -----------------------------------------------------------------------------
 */

static int entries(const char *dir, const char *part)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    int n = 0;

    while (d && (e = readdir(d)))
        n += strstr(e->d_name, part) != NULL;
    if (d)
        closedir(d);
    return n;
}

static q_status write_from(const char *in, const char *out, const volatile sig_atomic_t *stop,
                           q_err *err)
{
    q_status st = Q_OK;
    fmt_src *s = NULL;

    Q_TRY(fmt_src_open(&s, in, err));
    Q_TRY(cvt_archive_write(
        NULL, &(qnt_archive_opts){ .src = s, .path = out, .tool = "qwenkit test", .stop = stop },
        err));
out:
    fmt_src_close(s);
    return st;
}

/* In a process of its own: the HDF5 library keeps what it could not write. */
static q_status write_apart(void *self, q_buf *out, q_err *err)
{
    (void)out;
    return write_from(t_tmp("in"), self, NULL, err);
}

static void t_nothing_left(void)
{
    q_err err = { 0 };
    const volatile sig_atomic_t stop = 1;
    const pk_opts o = { .family = "qwen2", .layout = PK_AWQ, .bits = 4, .group = 32 };
    struct rlimit old, small;
    q_buf none = { 0 };
    char path[256];

    snprintf(path, sizeof path, "%s", t_tmp("out.h5"));
    pk_write(t_tmp("in"), &o);
    T_ERR(write_from(t_tmp("in"), t_tmp("out.h5"), &stop, &err), err, Q_ECANCEL, "nothing is left");
    T_INT(entries(t_tmpdir(), "out.h5"), 0);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    for (rlim_t size = 1000; size < 100000; size += 9001) { /* the disk is full after size bytes */
        small = old;
        small.rlim_cur = size;
        setrlimit(RLIMIT_FSIZE, &small);
        T_ERR(fmt_apart(&none, "out.h5", write_apart, path, &err), err, Q_EIO, "out.h5");
        setrlimit(RLIMIT_FSIZE, &old);
        T_INT(entries(t_tmpdir(), "out.h5"), 0);
    }
    T_OK(write_from(t_tmp("in"), t_tmp("out.h5"), NULL, &err), err);
    T_INT(entries(t_tmpdir(), "out.h5"), 1);
}

/* ---- what calibration gives -------------------------------------------------------------------
 */

typedef struct maker {
    const fmt_src *src;
    int asked[FMT_ROLES], bad;
} maker;

static q_status give_weight(void *self, fmt_role role, int64_t layer, qnt_tensor *out, q_err *err)
{
    maker *m = self;
    const fmt_box b = fmt_src_shape(m->src, (fmt_ref){ role, layer, FMT_WEIGHT });
    qnt_tensor t = { .scheme = qnt_scheme_find("w4g"), .N = b.n1, .K = b.k1, .group = 32 };
    const int64_t G = (t.K + 31) / 32;

    (void)err;
    m->asked[role]++;
    t.codes = q_calloc((size_t)t.N, qnt_row_bytes(t.scheme, t.K));
    t.scale = q_calloc((size_t)(t.N * G), sizeof *t.scale);
    t.zero = q_calloc((size_t)(t.N * G), 1);
    for (int64_t i = 0; i < t.N * t.K / 2; i++)
        ((uint8_t *)t.codes)[i] = (uint8_t)pk_hash("codes", i, (uint32_t)role);
    for (int64_t i = 0; i < t.N * G; i++) {
        t.scale[i] = m->bad ? 0.1f : 0.125f; /* 0.1 is no f16 value */
        t.zero[i] = (uint8_t)(i % 16);
    }
    *out = t;
    return Q_OK;
}

static q_status give_vector(void *self, fmt_ref ref, float **out, q_err *err)
{
    const maker *m = self;
    const int64_t n = fmt_src_shape(m->src, ref).n1;

    (void)err;
    if (ref.role != FMT_FFN_NORM && ref.part != FMT_BIAS)
        return Q_OK;
    *out = q_malloc((size_t)n * sizeof **out);
    for (int64_t i = 0; i < n; i++)
        (*out)[i] = (float)(i % 64) * 0.5f;
    return Q_OK;
}

/* Of some linears only, as searching may find none. */
static q_status give_factors(void *self, fmt_role role, int64_t layer, float **out, q_err *err)
{
    const maker *m = self;
    const int64_t K = fmt_src_shape(m->src, (fmt_ref){ role, layer, FMT_WEIGHT }).k1;

    (void)err;
    *out = role == FMT_FFN_DOWN ? NULL : q_malloc((size_t)K * sizeof **out);
    for (int64_t k = 0; *out && k < K; k++)
        (*out)[k] = 0.5f + (float)((k * 7 + layer + (int)role) % 23);
    return Q_OK;
}

static float seen(fmt_ref ref, int64_t k)
{
    return 0.25f + (float)((k * 5 + ref.layer * 3 + (int)ref.role * 11 + (int)ref.part) % 37);
}

/* Not all of them of every linear. */
static q_status give_stats(void *self, fmt_ref ref, float **out, q_err *err)
{
    const maker *m = self;
    const int64_t K = fmt_src_shape(m->src, (fmt_ref){ ref.role, ref.layer, FMT_WEIGHT }).k1;
    const int none = ref.role == FMT_FFN_DOWN && ref.layer == 0 && ref.part == FMT_STAT_LOSS;

    (void)err;
    *out = none ? NULL : q_malloc((size_t)K * sizeof **out);
    for (int64_t k = 0; *out && k < K; k++)
        (*out)[k] = seen(ref, k);
    return Q_OK;
}

static void check_stats(const fmt_src *s)
{
    static const fmt_part part[] = { FMT_STAT_ABSMAX, FMT_STAT_H_DIAG, FMT_STAT_LOSS };
    q_err err = { 0 };

    for (int p = 0; p < 3; p++) {
        const fmt_ref ref = { FMT_ATTN_QKV, 1, part[p] };
        const int64_t n = part[p] == FMT_STAT_LOSS ? 2 : PK_HID;
        float *v = NULL;

        T_INT(fmt_src_shape(s, ref).n1, 3);
        T_INT(fmt_src_shape(s, ref).k1, n);
        T_OK(qnt_load_f32(&v, s, ref, 3 * n, &err), err);
        for (int64_t i = 0; i < 3 * n; i++) /* q, k and v see the same */
            T_NEAR(v[i], seen(ref, i % n), 0);
        q_free(v);
    }
    T_STR(fmt_src_name(s, (fmt_ref){ FMT_FFN_GATE_UP, 0, FMT_STAT_LOSS }, 1),
          "/stats/model.layers.0.mlp.up_proj/loss");
    T_INT(fmt_src_has(s, (fmt_ref){ FMT_FFN_DOWN, 0, FMT_STAT_LOSS }), 0);
    T_INT(fmt_src_has(s, (fmt_ref){ FMT_FFN_DOWN, 0, FMT_STAT_ABSMAX }), 1);
}

static qnt_loss give_loss(void *self, fmt_role role, int64_t layer)
{
    (void)self;
    return (qnt_loss){ .error = 0.1 * (int)role + 1e-3 * (double)layer,
                       .damp = role == FMT_ATTN_OUT ? 0.01 : 0 };
}

static void check_given(const char *path)
{
    q_err err = { 0 };
    fmt_src *s = NULL;
    qnt_tensor t = { 0 };
    float *v = NULL, *k = NULL;
    fmt_lost lost;

    T_OK(fmt_src_open(&s, path, &err), err);
    T_INT(fmt_src_packing(s)->group, 32);
    T_STR(fmt_src_packing(s)->method, "awq");
    T_OK(qnt_load(&t, s, FMT_ATTN_QKV, 1, &(qnt_load_opts){ 0 }, &err), err);
    for (int64_t i = 0; i < t.N * t.K / 2; i++)
        T_INT(((uint8_t *)t.codes)[i], (uint8_t)pk_hash("codes", i, FMT_ATTN_QKV));
    T_INT(t.zero[17], 1);
    for (int64_t n = 0; n < t.N; n++)
        T_NEAR(t.bias[n], (double)(n % 64) * 0.5, 0);
    T_OK(qnt_load_f32(&v, s, (fmt_ref){ FMT_FFN_NORM, 0, FMT_WEIGHT }, PK_HID, &err), err);
    T_NEAR(v[3], 1.5, 0);
    q_free(v);
    v = NULL;
    T_OK(qnt_load_kv_scales(&k, &v, s, &err), err);
    T_NEAR(k[1], 0.25, 0);
    T_NEAR(v[PK_LAYERS * PK_KV - 1], 2, 0);
    q_free(k);
    q_free(v);
    v = NULL;
    T_OK(qnt_load_f32(&v, s, (fmt_ref){ FMT_ATTN_OUT, 1, FMT_FACTORS }, PK_HID, &err), err);
    T_NEAR(v[5], 0.5 + (35 + 1 + (int)FMT_ATTN_OUT) % 23, 0);
    q_free(v);
    T_INT(fmt_src_has(s, (fmt_ref){ FMT_FFN_DOWN, 1, FMT_FACTORS }), 0);
    check_stats(s);
    lost = fmt_arch_lost(fmt_src_files(s).arch, "model.layers.1.self_attn.o_proj");
    T_NEAR(lost.error_rel, 0.1 * (int)FMT_ATTN_OUT + 1e-3, 0);
    T_NEAR(lost.damp, 0.01, 0);
    lost = fmt_arch_lost(fmt_src_files(s).arch, "model.layers.0.self_attn.v_proj");
    T_NEAR(lost.error_rel, 0.1 * (int)FMT_ATTN_QKV, 0);
    T_TRUE(isnan(lost.damp));
    qnt_tensor_free(&t);
    fmt_src_close(s);
}

/* Attributes of the whole file. */
static void check_tool(const char *path)
{
    q_err err = { 0 };
    fmt_h5 *h = NULL;
    char text[64];

    T_OK(fmt_h5_open(&h, path, &err), err);
    T_OK(fmt_h5_get_str(h, "/", "tool", text, sizeof text, &err), err);
    T_STR(text, "qwenkit");
    T_OK(fmt_h5_get_str(h, "/", "tool_version", text, sizeof text, &err), err);
    T_STR(text, "test");
    fmt_h5_close(h);
}

static void t_made(void)
{
    q_err err = { 0 };
    const pk_opts o = { .family = "qwen2", .layout = PK_AWQ, .bits = 4, .group = 32 };
    const float k[PK_LAYERS * PK_KV] = { 0.5f, 0.25f, 1, 1 }, v[PK_LAYERS * PK_KV] = { 1, 1, 1, 2 };
    fmt_src *s = NULL;
    maker m = { 0 };
    fmt_json *doc = NULL;
    fmt_files files;
    q_buf one = { 0 }, two = { 0 };
    qnt_archive_result r;
    qnt_archive_opts w = { .path = t_tmp("made.h5"),
                           .tool = "qwenkit test",
                           .method = "awq",
                           .bits = 4,
                           .group = 32,
                           .weight = give_weight,
                           .vector = give_vector,
                           .factors = give_factors,
                           .stats = give_stats,
                           .loss = give_loss,
                           .self = &m,
                           .k_scale = k,
                           .v_scale = v };

    pk_write(t_tmp("in"), &o);
    T_OK(fmt_src_open(&s, t_tmp("in"), &err), err);
    m.src = w.src = s;
    T_OK(fmt_json_new(&doc, &err), err);
    T_OK(fmt_json_put_int(doc, "seed", 7, &err), err);
    w.provenance = doc;
    m.bad = 1;
    T_ERR(cvt_archive_write(&r, &w, &err), err, Q_EUNSUPPORTED, "is no float16 value");
    m = (maker){ .src = s };
    T_OK(cvt_archive_write(&r, &w, &err), err);
    T_INT(r.modules, 14);
    for (int i = 0; i < FMT_ROLES; i++)
        T_INT(m.asked[i], fmt_role_get((fmt_role)i)->quant ? PK_LAYERS : 0);
    fmt_json_free(doc);
    fmt_src_close(s);
    s = NULL;
    check_given(t_tmp("made.h5"));
    check_tool(t_tmp("made.h5"));
    T_OK(fmt_src_open(&s, t_tmp("made.h5"), &err), err);
    w = (qnt_archive_opts){ .src = s, .path = t_tmp("again.h5"), .tool = "qwenkit test" };
    T_OK(cvt_archive_write(&r, &w, &err), err);
    fmt_src_close(s);
    s = NULL;
    check_given(t_tmp("again.h5"));
    T_OK(q_file_slurp(&one, t_tmp("made.h5"), 1 << 28, &err), err);
    T_OK(q_file_slurp(&two, t_tmp("again.h5"), 1 << 28, &err), err);
    printf("# %zu and %zu bytes\n", one.size, two.size);
    T_INT(two.size, one.size);
    T_INT(memcmp(two.data, one.data, one.size), 0); /* rewritten as it is, origin included */
    q_buf_free(&one);
    q_buf_free(&two);
    T_OK(fmt_src_open(&s, t_tmp("again.h5"), &err), err);
    files = fmt_src_files(s);
    T_OK(fmt_files_json(&doc, &files, "manifest.json", 1 << 20, &err), err);
    T_INT(fmt_json_kind(fmt_json_get(fmt_json_get(doc, "quantization"), "seed")), FMT_JSON_INT);
    fmt_json_free(doc);
    fmt_src_close(s);
}

static const t_case cases[] = { T(t_nothing_left), T(t_made), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
