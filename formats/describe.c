/* What the headers of a model say.  One walk over all parts of all roles serves the sums and the
 * lists. */
#include "formats/describe.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "formats/ft_names.h"

/* Calls fn for every part of every role that the model has. */
static q_status each(const fmt_src *s,
                     q_status (*fn)(void *self, const fmt_src *s, fmt_ref ref, q_err *err),
                     void *self, q_err *err)
{
    q_status st = Q_OK;

    for (int64_t layer = -1; layer < fmt_src_model(s)->layers; layer++)
        for (int r = 0; r < FMT_ROLES; r++)
            for (int p = 0; p < FMT_PARTS; p++) {
                const fmt_ref ref = { (fmt_role)r, layer < 0 ? 0 : layer, (fmt_part)p };

                if (fmt_role_get(ref.role)->per_layer == (layer >= 0) && fmt_src_has(s, ref))
                    Q_TRY(fn(self, s, ref, err));
            }
out:
    return st;
}

static q_status count(void *self, const fmt_src *s, fmt_ref ref, q_err *err)
{
    const fmt_box b = fmt_src_shape(s, ref);
    uint64_t *bytes = self;

    (void)err;
    if (ref.role != FMT_TOK_EMBD && (ref.part <= FMT_BIAS || ref.part >= FMT_QWEIGHT))
        *bytes += (uint64_t)(b.n1 * b.k1) * fmt_dtype_bytes(fmt_src_dtype(s, ref));
    return Q_OK;
}

/* Bytes of weights that a decode step reads, all but the embedding, as stored. */
static uint64_t decode_bytes(const fmt_src *s)
{
    uint64_t bytes = 0;

    (void)each(s, count, &bytes, NULL);
    return bytes;
}

/* Bytes of one token in a KV cache of 16-bit elements. */
static uint64_t kv_bytes(const fmt_model *m)
{
    return (uint64_t)(2 * m->layers * m->n_kv * m->hd * 2);
}

/* Modules of an archive that say what calibration saw. */
static int64_t seen_modules(const fmt_src *s)
{
    int64_t n = 0;

    for (int64_t i = 0; i < fmt_src_model(s)->layers * FMT_ROLES; i++) {
        const fmt_ref ref = { (fmt_role)(i % FMT_ROLES), i / FMT_ROLES, FMT_STAT_LOSS };

        if (fmt_role_get(ref.role)->quant && fmt_src_has(s, ref))
            n += fmt_src_shape(s, ref).n1;
    }
    return n;
}

/* of the linears */
static const char *dtype_of(const fmt_src *s)
{
    return fmt_dtype_name(fmt_src_dtype(s, (fmt_ref){ FMT_ATTN_QKV, 0, FMT_WEIGHT }));
}

/* The number formats of the linears as the runtime calls them: "f16", "f16 w8a8 kv8", "w4g" */
static void scheme_of(char out[32], const fmt_src *s)
{
    const fmt_packing *p = fmt_src_packing(s);
    const char *name =
        fmt_dtype_st_name(fmt_src_dtype(s, (fmt_ref){ FMT_ATTN_QKV, 0, FMT_WEIGHT }));
    const unsigned sets = fmt_src_layout(s)->sets;
    size_t n = 0;

    for (; name[n] && n < 8; n++)
        out[n] = (char)tolower((unsigned char)name[n]);
    if (p)
        n = (size_t)snprintf(out, 32, "w%dg", p->bits);
    snprintf(out + n, 32 - n, "%s%s", sets & FMT_FT_W8A8 ? " w8a8" : "",
             sets & FMT_FT_KV8 ? " kv8" : "");
}

/* ---- for programs --------------------------------------------------------------------------- */

static q_status put_tensor(void *self, const fmt_src *s, fmt_ref ref, q_err *err)
{
    q_status st = Q_OK;
    const fmt_box b = fmt_src_shape(s, ref);
    fmt_json *t, *shape;

    Q_TRY(fmt_json_put_obj(&t, self, NULL, err));
    Q_TRY(fmt_json_put_str(t, "role", fmt_role_get(ref.role)->name, err));
    Q_TRY(fmt_json_put_str(t, "part", fmt_part_name(ref.part), err));
    if (fmt_role_get(ref.role)->per_layer)
        Q_TRY(fmt_json_put_int(t, "layer", ref.layer, err));
    Q_TRY(fmt_json_put_str(t, "dtype", fmt_dtype_name(fmt_src_dtype(s, ref)), err));
    Q_TRY(fmt_json_put_arr(&shape, t, "shape", err));
    Q_TRY(fmt_json_put_int(shape, NULL, b.n1, err));
    if (b.k1 > 1)
        Q_TRY(fmt_json_put_int(shape, NULL, b.k1, err));
    Q_TRY(fmt_json_put_str(t, "name", fmt_src_name(s, ref, 0), err));
out:
    return st;
}

q_status fmt_tensors_json(fmt_json *list, const fmt_src *s, q_err *err)
{
    return each(s, put_tensor, list, err);
}

static q_status put_packing(fmt_json *doc, const fmt_packing *p, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *v;

    if (!p)
        return fmt_json_put_null(doc, "quantization", err);
    Q_TRY(fmt_json_put_obj(&v, doc, "quantization", err));
    Q_TRY(fmt_json_put_str(v, "layout", p->layout->name, err));
    Q_TRY(fmt_json_put_str(v, "method", p->method, err));
    Q_TRY(fmt_json_put_int(v, "bits", p->bits, err));
    Q_TRY(fmt_json_put_int(v, "group_size", p->group, err));
    Q_TRY(fmt_json_put_bool(v, "sym", p->sym, err));
    Q_TRY(fmt_json_put_bool(v, "desc_act", p->desc_act, err));
out:
    return st;
}

q_status fmt_describe_json(fmt_json *doc, const fmt_src *s, q_err *err)
{
    const fmt_model *m = fmt_src_model(s);
    const struct {
        const char *key;
        int64_t value;
    } sizes[] = { { "tensor_parallelism", fmt_src_ranks(s) },
                  { "parameters", fmt_model_params(m) },
                  { "bytes", (int64_t)fmt_src_bytes(s) },
                  { "hidden", m->hid },
                  { "layers", m->layers },
                  { "heads", m->n_head },
                  { "kv_heads", m->n_kv },
                  { "head_dim", m->hd },
                  { "ffn", m->ffn },
                  { "vocab", m->vocab },
                  { "max_positions", m->max_ctx },
                  { "kv_bytes_per_token", (int64_t)kv_bytes(m) },
                  { "decode_bytes", (int64_t)decode_bytes(s) },
                  { "stats_modules", seen_modules(s) } };
    q_status st = Q_OK;
    char scheme[32];

    Q_TRY(fmt_json_put_str(doc, "model", fmt_src_dir(s), err));
    Q_TRY(fmt_json_put_str(doc, "container", fmt_src_kind(s), err));
    Q_TRY(fmt_json_put_str(doc, "family", m->family->model_type, err));
    Q_TRY(fmt_json_put_str(doc, "dtype", dtype_of(s), err));
    scheme_of(scheme, s);
    Q_TRY(fmt_json_put_str(doc, "scheme", scheme, err));
    Q_TRY(fmt_json_put_bool(doc, "tied_head", m->tied, err));
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        Q_TRY(fmt_json_put_int(doc, sizes[i].key, sizes[i].value, err));
    Q_TRY(put_packing(doc, fmt_src_packing(s), err));
out:
    return st;
}

/* ---- for people ----------------------------------------------------------------------------- */

static q_status tensor_line(void *self, const fmt_src *s, fmt_ref ref, q_err *err)
{
    const fmt_box b = fmt_src_shape(s, ref);
    char layer[24] = "", shape[48];

    if (fmt_role_get(ref.role)->per_layer)
        snprintf(layer, sizeof layer, "%lld", (long long)ref.layer);
    if (b.k1 > 1)
        snprintf(shape, sizeof shape, "[%lld, %lld]", (long long)b.n1, (long long)b.k1);
    else
        snprintf(shape, sizeof shape, "[%lld]", (long long)b.n1);
    return q_buf_printf(self, err, "%-12s %-13s %5s  %-8s %-18s %s\n", fmt_role_get(ref.role)->name,
                        fmt_part_name(ref.part), layer, fmt_dtype_name(fmt_src_dtype(s, ref)),
                        shape, fmt_src_name(s, ref, 0));
}

q_status fmt_tensors_text(q_buf *out, const fmt_src *s, q_err *err)
{
    return each(s, tensor_line, out, err);
}

q_status fmt_describe_text(q_buf *out, const fmt_src *s, q_err *err)
{
    q_status st = Q_OK;
    const fmt_model *m = fmt_src_model(s);
    const fmt_packing *p = fmt_src_packing(s);
    const double n = (double)fmt_model_params(m);
    char scheme[32], groups[96];

    scheme_of(scheme, s);

    Q_TRY(q_buf_printf(out, err, "%s\n  container   %s", fmt_src_dir(s),
                       strcmp(fmt_src_kind(s), "ft") == 0   ? "FT directory"
                       : strcmp(fmt_src_kind(s), "h5") == 0 ? "archive"
                                                            : "Hugging Face"));
    if (p) {
        fmt_packing_text(groups, sizeof groups, p);
        Q_TRY(q_buf_printf(out, err, ", %s: %s", p->layout->name, groups));
    }
    if (fmt_src_ranks(s) > 1)
        Q_TRY(q_buf_printf(out, err, ", cut for %d ranks", fmt_src_ranks(s)));
    Q_TRY(q_buf_printf(out, err,
                       "\n  family      %s\n"
                       "  parameters  %.3f %s, %s, scheme %s, %.2f GB on disk\n"
                       "  sizes       hidden %lld, %lld layers, %lld heads of %lld, %lld key/value "
                       "heads, MLP %lld, vocabulary %lld%s\n",
                       m->family->model_type, n < 1e9 ? n * 1e-6 : n * 1e-9, n < 1e9 ? "M" : "G",
                       dtype_of(s), scheme, (double)fmt_src_bytes(s) * 1e-9, (long long)m->hid,
                       (long long)m->layers, (long long)m->n_head, (long long)m->hd,
                       (long long)m->n_kv, (long long)m->ffn, (long long)m->vocab,
                       m->tied ? ", head tied to the embedding" : ""));
    Q_TRY(q_buf_printf(out, err,
                       "  positions   %lld%s%s\n"
                       "  decode      reads %.3f GB of weights a step\n"
                       "  KV cache    %llu bytes a token in 16 bits\n",
                       (long long)m->max_ctx, m->dyn_ntk ? ", dynamic NTK" : "",
                       m->yarn.factor != 0 ? ", YaRN" : "", (double)decode_bytes(s) * 1e-9,
                       (unsigned long long)kv_bytes(m)));
    if (seen_modules(s) > 0)
        Q_TRY(q_buf_printf(
            out, err, "  statistics  absmax, h_diag and loss of %lld modules, from calibration\n",
            (long long)seen_modules(s)));
out:
    return st;
}
