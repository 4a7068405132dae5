/* From config.json to a fmt_model: the row of the family says which key holds which size.  Sizes
 * are bounded here, once, so that products of two of them fit into int64_t everywhere else. */
#include "formats/family.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/rope_scaling.h"

/* Largest sizes accepted: far above every published model, small enough for exact arithmetic. */
#define MAX_WIDTH  (1 << 20)
#define MAX_LAYERS 1024
#define MAX_VOCAB  (1 << 24)
#define MAX_CTX    (1 << 26)

enum kind { INT, REAL, FLAG };

static const struct {
    enum kind kind;
    double min, max;
} field_rows[FMT_FIELDS] = {
    [FMT_HID] = { INT, 1, MAX_WIDTH },   [FMT_LAYERS] = { INT, 1, MAX_LAYERS },
    [FMT_HEADS] = { INT, 1, 4096 },      [FMT_KV_HEADS] = { INT, 1, 4096 },
    [FMT_HEAD_DIM] = { INT, 2, 4096 },   [FMT_FFN] = { INT, 1, MAX_WIDTH },
    [FMT_VOCAB] = { INT, 1, MAX_VOCAB }, [FMT_TRAIN_CTX] = { INT, 1, MAX_CTX },
    [FMT_MAX_CTX] = { INT, 1, MAX_CTX }, [FMT_EPS] = { REAL, 0, 1 },
    [FMT_ROPE_BASE] = { REAL, 1, 1e12 }, [FMT_ROPE_RATIO] = { REAL, 1e-3, 1e6 },
    [FMT_DYN_NTK] = { FLAG, 0, 1 },      [FMT_LOGN] = { FLAG, 0, 1 },
    [FMT_TIED] = { FLAG, 0, 1 },
};

static const fmt_family *find_family(const char *model_type)
{
    for (const fmt_family *f = fmt_families; f->model_type; f++)
        if (strcmp(f->model_type, model_type) == 0)
            return f;
    return NULL;
}

/* A text member; its errors name the file too. */
static q_status read_text(const char **out, const fmt_json *config, const char *key,
                          const char *file, q_err *err)
{
    q_err inner = { 0 };
    const q_status st = fmt_json_str_opt(config, key, out, &inner);

    return st == Q_OK ? Q_OK : q_fail(err, st, "%s: %s", file, inner.msg);
}

static q_status pick_family(const fmt_family **out, const fmt_json *config, const char *file,
                            q_err *err)
{
    q_status st = Q_OK;
    const char *type = NULL;
    char known[256] = "";

    Q_TRY(read_text(&type, config, "model_type", file, err));
    if (!type)
        Q_FAIL(err, Q_ECONFIG, "%s: 'model_type' is missing", file);
    *out = find_family(type);
    if (*out)
        return Q_OK;
    for (const fmt_family *f = fmt_families; f->model_type; f++)
        snprintf(known + strlen(known), sizeof known - strlen(known), " %s", f->model_type);
    Q_FAIL(err, Q_EUNSUPPORTED, "%s: model_type '%s' is not supported; known:%s", file, type,
           known);
out:
    return st;
}

/* The object that holds the key, and the key in it: "a.b" is b of a. */
static const fmt_json *holder(const fmt_json *config, const char **key)
{
    const char *dot = strchr(*key, '.');
    char outer[64];

    if (!dot)
        return config;
    snprintf(outer, sizeof outer, "%.*s", (int)(dot - *key), *key);
    *key = dot + 1;
    return fmt_json_get(config, outer);
}

/* *value keeps NaN-free doubles: every field fits exactly.  *found: the key was there. */
static q_status read_key(const fmt_key *k, const fmt_json *config, double *value, int *found,
                         q_err *err)
{
    q_status st = Q_OK;
    int64_t i = 0;
    int flag = 0;
    const double min = field_rows[k->field].min, max = field_rows[k->field].max;
    const int div = k->div ? k->div : 1;
    const char *key = k->key;
    const fmt_json *o = holder(config, &key), *v = fmt_json_get(o, key);

    *found = v && fmt_json_kind(v) != FMT_JSON_NULL;
    if (!*found)
        return Q_OK;
    switch (field_rows[k->field].kind) {
    case INT:
        Q_TRY(fmt_json_int(o, key, (int64_t)min * div, (int64_t)max * div, &i, err));
        if (i % div != 0)
            Q_FAIL(err, Q_ECONFIG, "'%s' is %lld, wanted a multiple of %d", k->key, (long long)i,
                   div);
        *value = (double)(i / div);
        break;
    case REAL:
        Q_TRY(fmt_json_real_opt(o, key, min, max, value, err));
        break;
    case FLAG:
        Q_TRY(fmt_json_bool_opt(o, key, &flag, err));
        *value = flag;
        break;
    }
out:
    return st;
}

/* The first key present wins; else the default of the last optional one. */
static q_status read_fields(const fmt_family *f, const fmt_json *config, double value[FMT_FIELDS],
                            int found[FMT_FIELDS], q_err *err)
{
    q_status st = Q_OK;
    const char *missing[FMT_FIELDS] = { NULL };
    int optional[FMT_FIELDS] = { 0 };

    memset(found, 0, sizeof *found * FMT_FIELDS);
    for (int i = 0; i < FMT_MAX_KEYS && f->keys[i].key; i++) {
        const fmt_key *k = &f->keys[i];

        if (found[k->field])
            continue;
        Q_TRY(read_key(k, config, &value[k->field], &found[k->field], err));
        if (found[k->field])
            continue;
        if (k->optional) {
            value[k->field] = k->dflt;
            optional[k->field] = 1;
        }
        if (!missing[k->field])
            missing[k->field] = k->key;
    }
    for (int i = 0; i < FMT_FIELDS; i++)
        if (missing[i] && !found[i] && !optional[i])
            Q_FAIL(err, Q_ECONFIG, "'%s' is missing", missing[i]);
out:
    return st;
}

/* JSON text of a value against the one accepted spelling, numbers by value. */
static q_status is_accepted(int *yes, const fmt_json *v, const char *only, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *want = NULL;
    q_buf a = { 0 }, b = { 0 };

    *yes = 1;
    if (fmt_json_kind(v) == FMT_JSON_NULL)
        return Q_OK;
    Q_TRY(fmt_json_parse(&want, only, strlen(only), "accepted value", err));
    Q_TRY(fmt_json_print(&a, v, 0, err));
    Q_TRY(fmt_json_print(&b, want, 0, err));
    *yes = strcmp(a.data, b.data) == 0 ||
           ((fmt_json_kind(v) == FMT_JSON_INT || fmt_json_kind(v) == FMT_JSON_REAL) &&
            strtod(a.data, NULL) == strtod(b.data, NULL));
out:
    q_buf_free(&a);
    q_buf_free(&b);
    fmt_json_free(want);
    return st;
}

static q_status check_refusals(const fmt_family *f, const fmt_json *config, const char *file,
                               q_err *err)
{
    q_status st = Q_OK;
    int yes = 1;

    for (const fmt_refusal *r = f->refuse; r->key; r++) {
        const fmt_json *v = fmt_json_get(config, r->key);

        if (v)
            Q_TRY(is_accepted(&yes, v, r->only, err));
        if (v && !yes)
            Q_FAIL(err, Q_EUNSUPPORTED, "%s: '%s': %s are not supported by family %s", file, r->key,
                   r->why, f->model_type);
    }
out:
    return st;
}

static void set_rope(fmt_model *m)
{
    switch (m->family->rope) {
    case FMT_ROPE_HALVES:
        m->rot = m->hd;
        m->rope_step = 1;
        m->rope_gap = m->hd / 2;
        break;
    case FMT_ROPE_HALF_PAIRS:
        m->rot = m->hd / 2;
        m->rope_step = 2;
        m->rope_gap = 1;
        break;
    }
}

/* Sizes that follow from others, and what must hold between them. */
static q_status derive(fmt_model *m, const char *file, q_err *err)
{
    q_status st = Q_OK;

    if (m->n_kv == 0)
        m->n_kv = m->n_head;
    if (m->hd == 0 && m->hid % m->n_head != 0)
        Q_FAIL(err, Q_ECONFIG, "%s: %lld heads do not divide the hidden size %lld", file,
               (long long)m->n_head, (long long)m->hid);
    if (m->hd == 0)
        m->hd = m->hid / m->n_head;
    if (m->n_head % m->n_kv != 0)
        Q_FAIL(err, Q_ECONFIG, "%s: %lld heads are no multiple of %lld key/value heads", file,
               (long long)m->n_head, (long long)m->n_kv);
    set_rope(m);
    if (m->hd % 2 != 0 || m->rot % 2 != 0)
        Q_FAIL(err, Q_ECONFIG, "%s: head size %lld does not make whole rotary pairs", file,
               (long long)m->hd);
out:
    return st;
}

q_status fmt_model_parse(fmt_model *m, const fmt_json *config, const char *file, q_err *err)
{
    q_status st = Q_OK;
    q_err inner = { 0 };
    const fmt_family *f = NULL;
    const char *dtype = NULL;
    double v[FMT_FIELDS] = { 0 };
    int found[FMT_FIELDS];

    memset(m, 0, sizeof *m);
    if (fmt_json_kind(config) != FMT_JSON_OBJECT)
        Q_FAIL(err, Q_EFORMAT, "%s: not a JSON object", file);
    Q_TRY(pick_family(&f, config, file, err));
    Q_TRY(check_refusals(f, config, file, err));
    st = read_fields(f, config, v, found, &inner);
    if (st != Q_OK)
        Q_FAIL(err, st, "%s: %s", file, inner.msg);
    *m = (fmt_model){ .family = f,
                      .hid = (int64_t)v[FMT_HID],
                      .layers = (int64_t)v[FMT_LAYERS],
                      .n_head = (int64_t)v[FMT_HEADS],
                      .n_kv = (int64_t)v[FMT_KV_HEADS],
                      .hd = (int64_t)v[FMT_HEAD_DIM],
                      .ffn = (int64_t)v[FMT_FFN],
                      .vocab = (int64_t)v[FMT_VOCAB],
                      .train_ctx = (int64_t)v[FMT_TRAIN_CTX],
                      .max_ctx = (int64_t)v[FMT_MAX_CTX],
                      .eps = v[FMT_EPS],
                      .rope_base = v[FMT_ROPE_BASE],
                      .dyn_ntk = v[FMT_DYN_NTK] != 0,
                      .logn = v[FMT_LOGN] != 0,
                      .tied = v[FMT_TIED] != 0,
                      .dtype = FMT_F16 };
    if (found[FMT_ROPE_RATIO])
        m->rope_base *= v[FMT_ROPE_RATIO];
    Q_TRY(derive(m, file, err));
    st = fmt_rope_scaling_parse(m, config, &inner);
    if (st != Q_OK)
        Q_FAIL(err, st, "%s: %s", file, inner.msg);
    Q_TRY(read_text(&dtype, config, "dtype", file, err));
    Q_TRY(read_text(&dtype, config, "torch_dtype", file, err));
    if (dtype && !fmt_dtype_from_name(dtype, &m->dtype))
        Q_FAIL(err, Q_EUNSUPPORTED, "%s: torch_dtype '%s' is not known", file, dtype);
out:
    return st;
}

const fmt_name_row *fmt_family_names(const fmt_family *f, fmt_role role)
{
    for (int i = 0; i < FMT_MAX_NAMES && f->names[i].tensor[0]; i++)
        if (f->names[i].role == role)
            return &f->names[i];
    return NULL;
}

int fmt_name_match(const char *pattern, const char *name, int64_t *layer)
{
    const char *hash = strchr(pattern, '#');
    const size_t head = hash ? (size_t)(hash - pattern) : 0;
    const char *p = name + head;
    int64_t n = 0;
    int digits = 0;

    if (!hash)
        return strcmp(pattern, name) == 0;
    if (strncmp(pattern, name, head) != 0)
        return 0;
    for (; *p >= '0' && *p <= '9' && digits < 9; p++, digits++)
        n = n * 10 + (*p - '0');
    if (digits == 0 || (digits > 1 && name[head] == '0') || strcmp(hash + 1, p) != 0)
        return 0;
    *layer = n;
    return 1;
}

int fmt_name_make(char *out, size_t cap, const char *pattern, int64_t layer, const char *suffix)
{
    const char *hash = strchr(pattern, '#');
    int n;

    if (hash)
        n = snprintf(out, cap, "%.*s%lld%s%s", (int)(hash - pattern), pattern, (long long)layer,
                     hash + 1, suffix);
    else
        n = snprintf(out, cap, "%s%s", pattern, suffix);
    return n > 0 && (size_t)n < cap;
}

int64_t fmt_model_params(const fmt_model *m)
{
    int64_t total = 0;

    for (int r = 0; r < FMT_ROLES; r++) {
        const fmt_role_row *row = fmt_role_get((fmt_role)r);
        const fmt_name_row *names = fmt_family_names(m->family, (fmt_role)r);
        const int64_t rows = fmt_role_rows(row, m), copies = row->per_layer ? m->layers : 1;

        if (!names || (r == FMT_LM_HEAD && m->tied))
            continue;
        total += copies * rows * (fmt_dim_size(row->cols, m) + (names->bias ? 1 : 0));
    }
    return total;
}
