/* rope_scaling of config.json: nothing, or YaRN.
 *
 *     "rope_scaling": { "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768 }
 *
 * Newer files write the same under "rope_parameters", where "default" means nothing.  Both spell
 * the kind "type" or "rope_type".  Other kinds, and the fields of DeepSeek's variant (mscale), are
 * refused: ignoring them would give another model.  Source: reference-behaviour, conventions (HF);
 * the attention factor 0.1 ln(factor) + 1 is equation 22 of Peng et al. 2023. */
#include "formats/rope_scaling.h"

#include <math.h>
#include <string.h>

#define MAX_FACTOR 1024
#define MAX_CTX    (1 << 26)

/* The object that holds the parameters, NULL when neither key has one. */
static q_status find(const fmt_json **out, const char **key, const fmt_json *config, q_err *err)
{
    static const char *const keys[] = { "rope_scaling", "rope_parameters" };

    *out = NULL;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0] && !*out; i++) {
        const fmt_json *v = fmt_json_get(config, keys[i]);

        if (fmt_json_kind(v) == FMT_JSON_NULL)
            continue;
        if (fmt_json_kind(v) != FMT_JSON_OBJECT)
            return q_fail(err, Q_ECONFIG, "'%s' is not an object", keys[i]);
        *out = v;
        *key = keys[i];
    }
    return Q_OK;
}

static q_status kind(const char **out, const fmt_json *o, q_err *err)
{
    q_status st = Q_OK;

    *out = "default";
    Q_TRY(fmt_json_str_opt(o, "type", out, err));
    Q_TRY(fmt_json_str_opt(o, "rope_type", out, err));
out:
    return st;
}

static q_status yarn(fmt_model *m, const fmt_json *o, q_err *err)
{
    q_status st = Q_OK;
    static const char *const other[] = { "mscale", "mscale_all_dim" };
    fmt_yarn y = { .ctx = (double)m->train_ctx, .beta_fast = 32, .beta_slow = 1, .whole = 1 };
    double attention = 0;

    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++)
        if (fmt_json_kind(fmt_json_get(o, other[i])) != FMT_JSON_NULL)
            Q_FAIL(err, Q_EUNSUPPORTED, "'%s' of rope scaling is not supported", other[i]);
    Q_TRY(fmt_json_real_opt(o, "factor", 1, MAX_FACTOR, &y.factor, err));
    if (y.factor == 0)
        Q_FAIL(err, Q_ECONFIG, "'factor' is missing in the rope scaling");
    Q_TRY(fmt_json_real_opt(o, "original_max_position_embeddings", 1, MAX_CTX, &y.ctx, err));
    Q_TRY(fmt_json_real_opt(o, "beta_fast", 1e-3, 1e6, &y.beta_fast, err));
    Q_TRY(fmt_json_real_opt(o, "beta_slow", 1e-3, 1e6, &y.beta_slow, err));
    Q_TRY(fmt_json_bool_opt(o, "truncate", &y.whole, err));
    if (y.beta_slow > y.beta_fast)
        Q_FAIL(err, Q_ECONFIG, "'beta_slow' is %g, above 'beta_fast' %g", y.beta_slow, y.beta_fast);
    Q_TRY(fmt_json_real_opt(o, "attention_factor", 1e-3, 1e3, &attention, err));
    m->rope_mscale = attention != 0 ? attention : 0.1 * log(y.factor) + 1;
    m->yarn = y;
    /* the published files keep the trained length there and mean the extended one */
    if (y.factor * y.ctx > (double)m->max_ctx)
        m->max_ctx = (int64_t)(y.factor * y.ctx);
    if (m->max_ctx > MAX_CTX)
        Q_FAIL(err, Q_ECONFIG, "rope scaling to %lld positions, the limit is %d",
               (long long)m->max_ctx, MAX_CTX);
out:
    return st;
}

q_status fmt_rope_scaling_parse(fmt_model *m, const fmt_json *config, q_err *err)
{
    q_status st = Q_OK;
    const fmt_json *o = NULL;
    const char *key = NULL, *type = NULL;

    m->rope_mscale = 1;
    Q_TRY(find(&o, &key, config, err));
    if (!o)
        return Q_OK;
    Q_TRY(kind(&type, o, err));
    if (strcmp(type, "yarn") == 0)
        Q_TRY(yarn(m, o, err));
    else if (strcmp(type, "default") != 0)
        Q_FAIL(err, Q_EUNSUPPORTED, "'%s' of type '%s' is not supported; known: yarn", key, type);
out:
    return st;
}
