/* Layouts of group weights, and what quantization_config says about them.
 *
 * A configuration that is not understood in full is refused: decoded in a wrong way the weights are
 * noise, and nothing later would notice.  Keys that only tell how the codes were found (damping,
 * true_sequential, ...) are not looked at.
 *
 * Adding a layout: a row here, a kind in packing.h, a case in parse_by_method and in
 * fmt_packing_json. */
#include "formats/packing.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define CONFIG_MAX ((size_t)1 << 20)
#define GROUP_MAX  ((int64_t)1 << 24)

#define IN_ORDER                                                                                   \
    {                                                                                              \
        0, 1, 2, 3, 4, 5, 6, 7                                                                     \
    }

static const fmt_pack_layout layouts[FMT_PACK_KINDS] = {
    [FMT_PACK_GPTQ] = { .name = "gptq",
                        .qweight = ".qweight",
                        .qzeros = ".qzeros",
                        .scales = ".scales",
                        .g_idx = ".g_idx",
                        .g_idx_out = 1,
                        .turned = 1,
                        .zero_offset = 1,
                        .sym_zeros = 1,
                        .order = IN_ORDER },
    [FMT_PACK_GPTQ_V2] = { .name = "gptq_v2",
                           .qweight = ".qweight",
                           .qzeros = ".qzeros",
                           .scales = ".scales",
                           .g_idx = ".g_idx",
                           .g_idx_out = 1,
                           .turned = 1,
                           .sym_zeros = 1,
                           .order = IN_ORDER },
    [FMT_PACK_AWQ] = { .name = "awq",
                       .qweight = ".qweight",
                       .qzeros = ".qzeros",
                       .scales = ".scales",
                       .turned = 1,
                       .along_n = 1,
                       .sym_zeros = 1,
                       .order = { 0, 2, 4, 6, 1, 3, 5, 7 } },
    [FMT_PACK_CT] = { .name = "compressed-tensors",
                      .qweight = ".weight_packed",
                      .qzeros = ".weight_zero_point",
                      .scales = ".weight_scale",
                      .g_idx = ".weight_g_idx",
                      .shape = ".weight_shape",
                      .order = IN_ORDER },
    [FMT_PACK_H5] = { .name = "h5",
                      .qweight = ".qweight",
                      .qzeros = ".qzeros",
                      .scales = ".scales",
                      .g_idx = ".g_idx",
                      .g_idx_out = 1,
                      .turned = 1,
                      .sym_zeros = 1,
                      .order = IN_ORDER },
};

const fmt_pack_layout *fmt_pack_layout_get(fmt_pack_kind kind)
{
    return &layouts[kind];
}

int fmt_packing_per_word(const fmt_packing *p)
{
    return 32 / p->bits;
}

int64_t fmt_packing_group(const fmt_packing *p, int64_t K)
{
    return p->group < 0 || p->group > K ? K : p->group;
}

int64_t fmt_packing_groups(const fmt_packing *p, int64_t K)
{
    const int64_t group = fmt_packing_group(p, K);

    return (K + group - 1) / group;
}

void fmt_packing_text(char *out, size_t cap, const fmt_packing *p)
{
    char groups[48];

    if (p->group < 0)
        snprintf(groups, sizeof groups, "one group a row");
    else
        snprintf(groups, sizeof groups, "groups of %lld", (long long)p->group);
    snprintf(out, cap, "int%d%s%s, %s, %s%s", p->bits, p->method[0] ? " " : "", p->method, groups,
             p->sym ? "symmetric" : "with zero points", p->desc_act ? ", act-order" : "");
}

/* ---- reading ----------------------------------------------------------------------------------
 */

static q_status parse_numbers(fmt_packing *p, const fmt_json *q, const char *bits,
                              const char *group, q_err *err)
{
    q_status st = Q_OK;
    int64_t n = 0;

    Q_TRY(fmt_json_int(q, bits, 1, 64, &n, err));
    if (n != 4 && n != 8)
        Q_FAIL(err, Q_EUNSUPPORTED, "'%s' is %lld, 4 and 8 are read", bits, (long long)n);
    p->bits = (int)n;
    Q_TRY(fmt_json_int(q, group, -1, GROUP_MAX, &p->group, err));
    if (p->group == 0)
        Q_FAIL(err, Q_ECONFIG, "'%s' is 0, wanted -1 or a number of columns", group);
out:
    return st;
}

static q_status parse_gptq(fmt_packing *p, const fmt_json *q, q_err *err)
{
    q_status st = Q_OK;
    const char *format = "gptq", *word = "int32";
    int marlin = 0, head = 0;

    strcpy(p->method, "gptq");
    Q_TRY(parse_numbers(p, q, "bits", "group_size", err));
    p->sym = 1; /* what AutoGPTQ takes for an absent key; zeros are read in any case */
    Q_TRY(fmt_json_bool_opt(q, "sym", &p->sym, err));
    Q_TRY(fmt_json_bool_opt(q, "desc_act", &p->desc_act, err));
    Q_TRY(fmt_json_bool_opt(q, "is_marlin_format", &marlin, err));
    Q_TRY(fmt_json_bool_opt(q, "lm_head", &head, err));
    Q_TRY(fmt_json_str_opt(q, "format", &format, err)); /* GPTQModel writes both names */
    Q_TRY(fmt_json_str_opt(q, "checkpoint_format", &format, err));
    Q_TRY(fmt_json_str_opt(q, "pack_dtype", &word, err));
    if (marlin || (strcmp(format, "gptq") != 0 && strcmp(format, "gptq_v2") != 0))
        Q_FAIL(err, Q_EUNSUPPORTED,
               "checkpoint_format '%s' is in the order of one kernel, gptq and gptq_v2 are read: "
               "fetch the checkpoint in one of those",
               marlin ? "marlin" : format);
    if (strcmp(word, "int32") != 0)
        Q_FAIL(err, Q_EUNSUPPORTED, "pack_dtype '%s' is not read, only int32", word);
    if (head)
        Q_FAIL(err, Q_EUNSUPPORTED, "a quantized lm_head is not read");
    p->kind = strcmp(format, "gptq") == 0 ? FMT_PACK_GPTQ : FMT_PACK_GPTQ_V2;
out:
    return st;
}

/* AutoAWQ wrote w_bit and q_group_size into quant_config.json, and bits and group_size into
 * config.json. */
static q_status parse_awq(fmt_packing *p, const fmt_json *q, q_err *err)
{
    q_status st = Q_OK;
    const int old = !fmt_json_get(q, "bits") && fmt_json_get(q, "w_bit");
    const char *version = "gemm";
    int zeros = 1;

    strcpy(p->method, "awq");
    p->kind = FMT_PACK_AWQ;
    Q_TRY(parse_numbers(p, q, old ? "w_bit" : "bits", old ? "q_group_size" : "group_size", err));
    Q_TRY(fmt_json_bool_opt(q, "zero_point", &zeros, err));
    Q_TRY(fmt_json_str_opt(q, "version", &version, err));
    p->sym = !zeros;
    if (p->bits != 4)
        Q_FAIL(err, Q_EUNSUPPORTED, "AWQ with %d bits is not read, only with 4", p->bits);
    if (strcasecmp(version, "gemm") != 0)
        Q_FAIL(err, Q_EUNSUPPORTED,
               "AWQ version '%s' is not read, only gemm: fetch the checkpoint in that one",
               version);
out:
    return st;
}

/* The one group of linears of compressed-tensors. */
static q_status find_ct_weights(const fmt_json **out, const fmt_json *q, q_err *err)
{
    const fmt_json *groups = fmt_json_get(q, "config_groups");
    fmt_json_iter *it = groups ? fmt_json_first(groups) : NULL;
    const fmt_json *group = it ? fmt_json_value(it) : NULL;
    const fmt_json *x = fmt_json_get(group, "input_activations");
    const char *format = fmt_json_text(fmt_json_get(q, "format"));

    if (!format || strcmp(format, "pack-quantized") != 0)
        return q_fail(err, Q_EUNSUPPORTED,
                      "compressed-tensors format '%s' is not read, only pack-quantized",
                      format ? format : "");
    if (fmt_json_size(groups) != 1 || !fmt_json_get(group, "weights"))
        return q_fail(err, Q_EUNSUPPORTED, "%zu config_groups, one with weights is read",
                      fmt_json_size(groups));
    if (fmt_json_kind(x) != FMT_JSON_NULL ||
        fmt_json_kind(fmt_json_get(q, "kv_cache_scheme")) != FMT_JSON_NULL)
        return q_fail(err, Q_EUNSUPPORTED, "quantized activations are not read, only weights");
    *out = fmt_json_get(group, "weights");
    return Q_OK;
}

static q_status parse_ct(fmt_packing *p, const fmt_json *q, q_err *err)
{
    q_status st = Q_OK;
    const fmt_json *w = NULL, *actorder;
    const char *strategy = "", *type = "int";
    int64_t bits = 0;

    p->kind = FMT_PACK_CT;
    Q_TRY(find_ct_weights(&w, q, err));
    Q_TRY(fmt_json_int(w, "num_bits", 1, 64, &bits, err));
    Q_TRY(fmt_json_str_opt(w, "strategy", &strategy, err));
    Q_TRY(fmt_json_str_opt(w, "type", &type, err));
    p->sym = 1;
    Q_TRY(fmt_json_bool_opt(w, "symmetric", &p->sym, err));
    if ((bits != 4 && bits != 8) || strcmp(type, "int") != 0)
        Q_FAIL(err, Q_EUNSUPPORTED, "weights of type %s with %lld bits, int with 4 or 8 is read",
               type, (long long)bits);
    p->bits = (int)bits;
    p->group = -1;
    if (strcmp(strategy, "group") == 0)
        Q_TRY(fmt_json_int(w, "group_size", 1, GROUP_MAX, &p->group, err));
    else if (strcmp(strategy, "channel") != 0)
        Q_FAIL(err, Q_EUNSUPPORTED, "strategy '%s' is not read, only group and channel", strategy);
    actorder = fmt_json_get(w, "actorder"); /* "static" and "weight" leave the groups in order */
    p->desc_act = fmt_json_text(actorder) && strcmp(fmt_json_text(actorder), "group") == 0;
out:
    return st;
}

static q_status parse_by_method(fmt_packing *p, const fmt_json *q, const char *method, q_err *err)
{
    if (strcmp(method, "gptq") == 0)
        return parse_gptq(p, q, err);
    if (strcmp(method, "awq") == 0)
        return parse_awq(p, q, err);
    if (strcmp(method, "compressed-tensors") == 0)
        return parse_ct(p, q, err);
    return q_fail(
        err, Q_EUNSUPPORTED,
        "quant_method '%s' is not read, only gptq, awq and compressed-tensors: start from "
        "the float checkpoint",
        method);
}

static q_status parse(fmt_packing *p, const fmt_json *q, const char *dflt, const char *where,
                      q_err *err)
{
    const char *method = fmt_json_text(fmt_json_get(q, "quant_method"));
    q_err why = { 0 };
    q_status st;

    if (fmt_json_kind(q) != FMT_JSON_OBJECT)
        return q_fail(err, Q_EFORMAT, "%s: quantization_config is not an object", where);
    if (!method)
        method = dflt ? dflt : "";
    st = parse_by_method(p, q, method, &why);
    p->layout = &layouts[p->kind];
    return st == Q_OK ? Q_OK : q_fail(err, st, "%s: quantization_config: %s", where, why.msg);
}

q_status fmt_packing_parse(fmt_packing *out, const fmt_json *config, const fmt_files *files,
                           q_err *err)
{
    /* files of older tools, that name no method */
    static const struct {
        const char *name, *method;
    } beside[] = { { "quantize_config.json", "gptq" }, { "quant_config.json", "awq" } };
    q_status st = Q_OK;
    const fmt_json *q = fmt_json_get(config, "quantization_config");
    fmt_json *doc = NULL;
    char *path = NULL;

    *out = (fmt_packing){ .layout = &layouts[0] };
    if (fmt_json_kind(q) != FMT_JSON_NULL) {
        if (!(path = fmt_files_path(files, "config.json")))
            Q_FAIL(err, Q_ENOMEM, "%s: no memory", files->dir);
        Q_TRY(parse(out, q, NULL, path, err));
        goto out;
    }
    for (size_t i = 0; i < sizeof beside / sizeof beside[0]; i++) {
        if (!fmt_files_has(files, beside[i].name))
            continue;
        if (!(path = fmt_files_path(files, beside[i].name)))
            Q_FAIL(err, Q_ENOMEM, "%s: no memory", files->dir);
        Q_TRY(fmt_files_json(&doc, files, beside[i].name, CONFIG_MAX, err));
        Q_TRY(parse(out, doc, beside[i].method, path, err));
        goto out;
    }
out:
    fmt_json_free(doc);
    q_free(path);
    return st;
}

/* ---- writing ----------------------------------------------------------------------------------
 */

static q_status put_meta(fmt_json *q, const char *tool, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *meta, *list;

    Q_TRY(fmt_json_put_obj(&meta, q, "meta", err));
    Q_TRY(fmt_json_put_arr(&list, meta, "quantizer", err));
    Q_TRY(fmt_json_put_str(list, NULL, tool, err));
out:
    return st;
}

static q_status put_gptq(fmt_json *q, const fmt_packing *p, const char *tool, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(fmt_json_put_str(q, "quant_method", "gptq", err));
    Q_TRY(fmt_json_put_int(q, "bits", p->bits, err));
    Q_TRY(fmt_json_put_int(q, "group_size", p->group, err));
    Q_TRY(fmt_json_put_bool(q, "desc_act", p->desc_act, err));
    Q_TRY(fmt_json_put_bool(q, "sym", p->sym, err));
    Q_TRY(fmt_json_put_bool(q, "lm_head", 0, err));
    Q_TRY(fmt_json_put_str(q, "checkpoint_format", p->kind == FMT_PACK_GPTQ ? "gptq" : "gptq_v2",
                           err));
    Q_TRY(fmt_json_put_str(q, "pack_dtype", "int32", err));
    Q_TRY(put_meta(q, tool, err));
out:
    return st;
}

static q_status put_names(fmt_json *list, char *const *names, size_t n, q_err *err)
{
    q_status st = Q_OK;

    for (size_t i = 0; i < n; i++)
        Q_TRY(fmt_json_put_str(list, NULL, names[i], err));
out:
    return st;
}

static q_status put_awq(fmt_json *q, const fmt_packing *p, char *const *floats, size_t n_floats,
                        q_err *err)
{
    static const char key[] = "modules_to_not_convert";
    q_status st = Q_OK;
    fmt_json *list;

    Q_TRY(fmt_json_put_str(q, "quant_method", "awq", err));
    Q_TRY(fmt_json_put_int(q, "bits", p->bits, err));
    Q_TRY(fmt_json_put_int(q, "group_size", p->group, err));
    Q_TRY(fmt_json_put_bool(q, "zero_point", 1, err)); /* qzeros are there in any case */
    Q_TRY(fmt_json_put_str(q, "version", "gemm", err));
    if (n_floats == 0) {
        Q_TRY(fmt_json_put_null(q, key, err));
        goto out;
    }
    Q_TRY(fmt_json_put_arr(&list, q, key, err));
    Q_TRY(put_names(list, floats, n_floats, err));
out:
    return st;
}

static q_status put_ct_weights(fmt_json *w, const fmt_packing *p, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(fmt_json_put_int(w, "num_bits", p->bits, err));
    Q_TRY(fmt_json_put_str(w, "type", "int", err));
    Q_TRY(fmt_json_put_bool(w, "symmetric", p->sym, err));
    Q_TRY(fmt_json_put_str(w, "strategy", p->group < 0 ? "channel" : "group", err));
    Q_TRY(p->group < 0 ? fmt_json_put_null(w, "group_size", err)
                       : fmt_json_put_int(w, "group_size", p->group, err));
    Q_TRY(fmt_json_put_null(w, "block_structure", err));
    Q_TRY(fmt_json_put_bool(w, "dynamic", 0, err));
    Q_TRY(fmt_json_put_null(w, "actorder", err));
    Q_TRY(fmt_json_put_str(w, "observer", "minmax", err));
out:
    return st;
}

static q_status put_ct(fmt_json *q, const fmt_packing *p, char *const *floats, size_t n_floats,
                       q_err *err)
{
    q_status st = Q_OK;
    fmt_json *groups, *group, *list;

    Q_TRY(fmt_json_put_str(q, "quant_method", "compressed-tensors", err));
    Q_TRY(fmt_json_put_str(q, "format", "pack-quantized", err));
    Q_TRY(fmt_json_put_str(q, "quantization_status", "compressed", err));
    Q_TRY(fmt_json_put_obj(&groups, q, "config_groups", err));
    Q_TRY(fmt_json_put_obj(&group, groups, "group_0", err));
    Q_TRY(fmt_json_put_arr(&list, group, "targets", err));
    Q_TRY(fmt_json_put_str(list, NULL, "Linear", err));
    Q_TRY(fmt_json_put_null(group, "input_activations", err));
    Q_TRY(fmt_json_put_null(group, "output_activations", err));
    Q_TRY(fmt_json_put_obj(&list, group, "weights", err));
    Q_TRY(put_ct_weights(list, p, err));
    Q_TRY(fmt_json_put_arr(&list, q, "ignore", err));
    Q_TRY(fmt_json_put_str(list, NULL, "lm_head", err));
    Q_TRY(put_names(list, floats, n_floats, err));
    Q_TRY(fmt_json_put_null(q, "kv_cache_scheme", err));
    Q_TRY(fmt_json_put_null(q, "global_compression_ratio", err));
out:
    return st;
}

q_status fmt_packing_json(fmt_json *q, const fmt_packing *p, char *const *floats, size_t n_floats,
                          const char *tool, q_err *err)
{
    switch (p->kind) {
    case FMT_PACK_AWQ:
        return put_awq(q, p, floats, n_floats, err);
    case FMT_PACK_CT:
        return put_ct(q, p, floats, n_floats, err);
    default:
        return put_gptq(q, p, tool, err);
    }
}
