/* config.ini of FT directories. */
#include "formats/ft_dir.h"

#include <stdio.h>
#include <string.h>

#include "formats/base/q_file.h"
#include "formats/family.h"
#include "formats/ini.h"

#define INI_MAX ((size_t)4 << 20)
#define KEY_MAX 120 /* bytes; ini.c takes any length, people do not */

/* The section of a family we know.  The reference writes no model_type, which the keys of a
 * config.json have: it is added. */
static q_status family_section(const fmt_json **out, const fmt_json *doc, q_err *err)
{
    for (const fmt_family *f = fmt_families; f->model_type; f++) {
        *out = fmt_json_get(doc, f->model_type);
        if (!*out)
            continue;
        if (fmt_json_get(*out, "model_type"))
            return Q_OK;
        return fmt_json_put_str((fmt_json *)(uintptr_t)*out, "model_type", f->model_type, err);
    }
    return Q_OK;
}

/* Names of what is in the directory beside the float weights, in [qwenkit]. */
static const struct {
    const char *name;
    unsigned set;
} schemes[] = { { "w8a8", FMT_FT_W8A8 }, { "kv8", FMT_FT_KV8 } };

#define N_SCHEMES (sizeof schemes / sizeof schemes[0])

static q_status parse_schemes(unsigned *sets, const char *text, const char *path, q_err *err)
{
    while (*text) {
        const size_t n = strcspn(text, " ");
        size_t i = 0;

        while (i < N_SCHEMES &&
               !(strlen(schemes[i].name) == n && !strncmp(text, schemes[i].name, n)))
            i++;
        if (i == N_SCHEMES)
            return q_fail(err, Q_EUNSUPPORTED,
                          "%s: scheme '%.*s' is not known: use a newer program", path,
                          n < 40 ? (int)n : 40, text);
        *sets |= schemes[i].set;
        text += n;
        text += strspn(text, " ");
    }
    return Q_OK;
}

/* The sets of files: named by [qwenkit], else told by the option of the reference. */
static q_status parse_sets(fmt_ft_layout *l, const fmt_json *config, const fmt_json *ours,
                           const char *path, q_err *err)
{
    q_status st = Q_OK;
    const char *text = "";

    l->alpha = -1;
    Q_TRY(fmt_json_real_opt(config, "smoothquant", 0, 1, &l->alpha, err));
    if (ours) {
        Q_TRY(fmt_json_str_opt(ours, "schemes", &text, err));
        Q_TRY(parse_schemes(&l->sets, text, path, err));
    } else if (l->alpha >= 0) {
        l->sets = FMT_FT_W8A8;
    }
    if ((l->sets & FMT_FT_W8A8) && l->alpha < 0)
        Q_FAIL(err, Q_ECONFIG, "%s: 'schemes' has w8a8, but 'smoothquant' is not set", path);
    if (!(l->sets & FMT_FT_W8A8))
        l->alpha = 0;
out:
    return st;
}

static q_status parse(fmt_ft_config *c, const char *path, q_err *err)
{
    q_status st = Q_OK;
    const fmt_json *ours = fmt_json_get(c->doc, "qwenkit");
    const char *store = "float16";
    int64_t ranks = 0, version = FMT_FT_VERSION;

    Q_TRY(family_section(&c->config, c->doc, err));
    if (!c->config)
        Q_FAIL(err, Q_EUNSUPPORTED, "%s: no section of a known family, such as [qwen]", path);
    if (ours) {
        Q_TRY(fmt_json_int(ours, "format_version", 1, INT32_MAX, &version, err));
        if (version > FMT_FT_VERSION)
            Q_FAIL(err, Q_EUNSUPPORTED,
                   "%s: format version %lld, this program reads up to %d: use a "
                   "newer one",
                   path, (long long)version, FMT_FT_VERSION);
    }
    Q_TRY(fmt_json_int(c->config, "tensor_parallelism", 1, 64, &ranks, err));
    Q_TRY(fmt_json_str_opt(c->config, "storage_dtype", &store, err));
    if (!fmt_dtype_from_name(store, &c->layout.store) || !fmt_dtype_is_float(c->layout.store))
        Q_FAIL(err, Q_EUNSUPPORTED, "%s: storage_dtype '%s', wanted float16, bfloat16 or float32",
               path, store);
    c->layout.ranks = (int)ranks;
    Q_TRY(parse_sets(&c->layout, c->config, ours, path, err));
out:
    return st;
}

q_status fmt_ft_config_read(fmt_ft_config *c, const char *dir, q_err *err)
{
    q_status st = Q_OK;
    q_err inner = { 0 };
    q_buf text = { 0 };
    char *path = q_path_join(dir, "config.ini");

    memset(c, 0, sizeof *c);
    if (!path)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", dir);
    Q_TRY(q_file_slurp(&text, path, INI_MAX, err));
    Q_TRY(fmt_ini_parse(&c->doc, text.data, text.size, path, err));
    st = parse(c, path, &inner);
    if (st != Q_OK) /* messages of key readers lack the file */
        Q_FAIL(err, st, "%s%s%s", strstr(inner.msg, path) ? "" : path,
               strstr(inner.msg, path) ? "" : ": ", inner.msg);
out:
    q_buf_free(&text);
    q_free(path);
    if (st != Q_OK)
        fmt_ft_config_free(c);
    return st;
}

void fmt_ft_config_free(fmt_ft_config *c)
{
    fmt_json_free(c->doc);
    memset(c, 0, sizeof *c);
}

/* key = alpha as Python prints a real, or None */
static q_status put_alpha(q_buf *out, const fmt_ft_layout *l, q_err *err)
{
    static const char key[] = "smoothquant";
    q_status st = Q_OK;
    fmt_json *doc = NULL;

    if (!(l->sets & FMT_FT_W8A8))
        return fmt_ini_put_str(out, key, "None", err);
    Q_TRY(fmt_json_new(&doc, err));
    Q_TRY(fmt_json_put_real(doc, key, l->alpha, err));
    Q_TRY(fmt_ini_put(out, key, fmt_json_get(doc, key), err));
out:
    fmt_json_free(doc);
    return st;
}

/* Options of the reference's converter, in its order; absent ones as it would print them. */
static q_status put_options(q_buf *out, const fmt_ft_layout *l, q_err *err)
{
    q_status st = Q_OK;
    const char *const type = fmt_dtype_name(l->store);

    Q_TRY(fmt_ini_put_str(out, "out_dir", ".", err));
    Q_TRY(fmt_ini_put_str(out, "in_file", ".", err));
    Q_TRY(fmt_ini_put_int(out, "tensor_parallelism", l->ranks, err));
    Q_TRY(fmt_ini_put_int(out, "processes", 1, err));
    Q_TRY(fmt_ini_put_str(out, "calibrate_kv_cache", l->sets & FMT_FT_KV8 ? "True" : "False", err));
    Q_TRY(put_alpha(out, l, err));
    Q_TRY(fmt_ini_put_str(out, "model", "qwen", err));
    Q_TRY(fmt_ini_put_str(out, "storage_type", type, err));
    Q_TRY(fmt_ini_put_str(out, "dataset_cache_dir", "None", err));
out:
    return st;
}

/* Directories of weights alone have no such key: they are older than it. */
static q_status put_schemes(q_buf *out, unsigned sets, q_err *err)
{
    q_status st = Q_OK;
    const char *before = "schemes = ";

    for (size_t i = 0; i < N_SCHEMES; i++)
        if (sets & schemes[i].set) {
            Q_TRY(q_buf_printf(out, err, "%s%s", before, schemes[i].name));
            before = " ";
        }
    if (sets)
        Q_TRY(q_buf_puts(out, "\n", err));
out:
    return st;
}

/* keys that put_options and the end of the section write themselves */
static int is_reserved(const char *key)
{
    static const char *const reserved[] = { "out_dir",
                                            "in_file",
                                            "tensor_parallelism",
                                            "processes",
                                            "calibrate_kv_cache",
                                            "smoothquant",
                                            "model",
                                            "storage_type",
                                            "dataset_cache_dir",
                                            "storage_dtype",
                                            "multi_query_mode" };

    for (size_t i = 0; i < sizeof reserved / sizeof reserved[0]; i++)
        if (strcmp(key, reserved[i]) == 0)
            return 1;
    return 0;
}

/* *skip: the key is not written.  The format has lower-case keys only: a key
 * with capitals would come back as another one, and no family has such keys. */
static q_status check_key(int *skip, const char *key, q_err *err)
{
    const size_t n = strlen(key);

    *skip = 0;
    if (n == 0 || n > KEY_MAX || key[0] == ' ' || key[n - 1] == ' ' || strpbrk(key, "=:[]#;"))
        return q_fail(err, Q_EFORMAT, "config.json: key '%.40s' cannot stand in config.ini", key);
    for (size_t i = 0; i < n; i++) {
        if (key[i] < 0x20 || key[i] > 0x7e)
            return q_fail(err, Q_EFORMAT, "config.json: key '%.40s' is not printable ASCII", key);
        *skip |= key[i] >= 'A' && key[i] <= 'Z';
    }
    *skip |= is_reserved(key);
    return Q_OK;
}

q_status fmt_ft_config_text(q_buf *out, const fmt_json *config, const char *section,
                            const fmt_ft_layout *l, q_err *err)
{
    q_status st = Q_OK;
    int skip = 0;

    q_buf_clear(out);
    Q_TRY(fmt_ini_section(out, section, err));
    Q_TRY(put_options(out, l, err));
    for (fmt_json_iter *it = fmt_json_first(config); it; it = fmt_json_next(config, it)) {
        Q_TRY(check_key(&skip, fmt_json_key(it), err));
        if (!skip)
            Q_TRY(fmt_ini_put(out, fmt_json_key(it), fmt_json_value(it), err));
    }
    Q_TRY(fmt_ini_put_str(out, "storage_dtype", fmt_dtype_name(l->store), err));
    Q_TRY(fmt_ini_put_str(out, "multi_query_mode", "False", err));
    Q_TRY(fmt_ini_section(out, "qwenkit", err));
    Q_TRY(fmt_ini_put_int(out, "format_version", FMT_FT_VERSION, err));
    Q_TRY(fmt_ini_put_int(out, "tensor_parallelism", l->ranks, err));
    Q_TRY(fmt_ini_put_str(out, "store", fmt_dtype_name(l->store), err));
    Q_TRY(put_schemes(out, l->sets, err));
out:
    return st;
}
