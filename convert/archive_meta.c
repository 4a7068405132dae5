/* What an archive says of its model: attributes of the file, and the small files under /meta, which
 * are those of the source byte by byte, but for the two that tell how the codes came about. */
#include <stdio.h>
#include <string.h>

#include "convert/archive_impl.h"
#include "convert/copies.h"

#define META_MAX ((size_t)4 << 20)

static q_status put_json(cvt_archive *j, const char *place, const fmt_json *doc, q_err *err)
{
    q_status st = Q_OK;
    q_buf text = { 0 };

    Q_TRY(fmt_json_print(&text, doc, 2, err));
    Q_TRY(q_buf_puts(&text, "\n", err));
    Q_TRY(fmt_h5_put_bytes(j->w, place, text.data, text.size, err));
out:
    q_buf_free(&text);
    return st;
}

static q_status put_config(cvt_archive *j, q_err *err)
{
    q_status st = Q_OK;
    const fmt_files files = fmt_src_files(j->o->src);
    q_buf text = { 0 };

    if (!fmt_files_has(&files, "config.json")) { /* an FT directory of the reference */
        Q_TRY(put_json(j, "/meta/config.json", fmt_src_config(j->o->src), err));
        goto out;
    }
    Q_TRY(fmt_files_slurp(&text, &files, "config.json", META_MAX, err));
    Q_TRY(fmt_h5_put_bytes(j->w, "/meta/config.json", text.data, text.size, err));
out:
    q_buf_free(&text);
    return st;
}

static q_status put_quantization(cvt_archive *j, q_err *err)
{
    q_status st = Q_OK;
    const fmt_packing *have = j->o->weight ? NULL : fmt_src_packing(j->o->src);
    fmt_json *doc = NULL;

    Q_TRY(fmt_json_new(&doc, err));
    Q_TRY(fmt_json_put_str(doc, "quant_method", j->p.method, err));
    Q_TRY(fmt_json_put_int(doc, "bits", j->p.bits, err));
    Q_TRY(fmt_json_put_int(doc, "group_size", j->p.group, err));
    Q_TRY(fmt_json_put_bool(doc, "sym", j->p.sym, err));
    Q_TRY(fmt_json_put_bool(doc, "desc_act", have && have->desc_act, err));
    Q_TRY(fmt_json_put_int(doc, "zero_offset", 0, err));
    Q_TRY(put_json(j, "/meta/quantization_config.json", doc, err));
out:
    fmt_json_free(doc);
    return st;
}

static q_status put_source(fmt_json *doc, const fmt_src *src, q_err *err)
{
    q_status st = Q_OK;
    fmt_json *from;

    Q_TRY(fmt_json_put_obj(&from, doc, "source", err));
    Q_TRY(fmt_json_put_str(from, "container", fmt_src_kind(src), err));
    Q_TRY(fmt_json_put_str(from, "family", fmt_src_model(src)->family->model_type, err));
    Q_TRY(fmt_json_put_int(from, "tensor_bytes", (int64_t)fmt_src_bytes(src), err));
out:
    return st;
}

/* Where the model came from, and how its codes came about: what the caller says, or what the
 * archive said that is rewritten. */
static q_status put_manifest(cvt_archive *j, q_err *err)
{
    q_status st = Q_OK;
    const fmt_src *src = j->o->src;
    const fmt_files files = fmt_src_files(src);
    const fmt_json *source, *how;
    fmt_json *doc = NULL, *old = NULL;

    if (files.arch && fmt_files_has(&files, "manifest.json"))
        Q_TRY(fmt_files_json(&old, &files, "manifest.json", META_MAX, err));
    source = fmt_json_get(old, "source");
    how = j->o->provenance ? j->o->provenance : fmt_json_get(old, "quantization");
    Q_TRY(fmt_json_new(&doc, err));
    Q_TRY(fmt_json_put_str(doc, "format", FMT_ARCH_FORMAT, err));
    Q_TRY(fmt_json_put_int(doc, "format_version", FMT_ARCH_VERSION, err));
    Q_TRY(fmt_json_put_str(doc, "tool", j->o->tool, err));
    Q_TRY(source ? fmt_json_put_copy(doc, "source", source, err) : put_source(doc, src, err));
    Q_TRY(how ? fmt_json_put_copy(doc, "quantization", how, err)
              : fmt_json_put_null(doc, "quantization", err));
    Q_TRY(put_json(j, "/meta/manifest.json", doc, err));
out:
    fmt_json_free(old);
    fmt_json_free(doc);
    return st;
}

static q_status put_copies(cvt_archive *j, int generation, q_err *err)
{
    q_status st = Q_OK;
    cvt_copy *v = NULL;
    size_t n = 0;
    q_buf bytes = { 0 };
    char place[FMT_H5_NAME];

    Q_TRY(cvt_copies_list(&v, &n, j->o->src, err));
    for (size_t i = 0; i < n; i++) {
        const int is_gen = strcmp(v[i].name, "generation_config.json") == 0;

        if (cvt_copy_is_config(v[i].name) || is_gen != generation)
            continue;
        snprintf(place, sizeof place, "/meta/%s%s", is_gen ? "" : "tokenizer/", v[i].name);
        Q_TRY(cvt_copy_read(&bytes, j->o->src, &v[i], err));
        Q_TRY(fmt_h5_put_bytes(j->w, place, bytes.data, bytes.size, err));
    }
out:
    q_buf_free(&bytes);
    cvt_copies_free(v, n);
    return st;
}

/* "qwenkit 0.1.0": the name of the tool and its version. */
static q_status put_tool(cvt_archive *j, q_err *err)
{
    q_status st = Q_OK;
    const size_t n = strcspn(j->o->tool, " ");
    char name[64];

    snprintf(name, sizeof name, "%.*s", (int)n, j->o->tool);
    Q_TRY(fmt_h5_attr_str(j->w, "/", "tool", name, err));
    if (j->o->tool[n])
        Q_TRY(fmt_h5_attr_str(j->w, "/", "tool_version", j->o->tool + n + 1, err));
out:
    return st;
}

q_status cvt_archive_put_meta(cvt_archive *j, q_err *err)
{
    q_status st = Q_OK;

    Q_TRY(fmt_h5_attr_str(j->w, "/", "format", FMT_ARCH_FORMAT, err));
    Q_TRY(fmt_h5_attr_int(j->w, "/", "format_version", FMT_ARCH_VERSION, err));
    Q_TRY(put_tool(j, err));
    Q_TRY(put_config(j, err));
    Q_TRY(put_copies(j, 1, err));
    Q_TRY(put_quantization(j, err));
    Q_TRY(put_manifest(j, err));
    Q_TRY(put_copies(j, 0, err));
out:
    return st;
}
