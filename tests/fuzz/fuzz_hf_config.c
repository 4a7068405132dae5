/* config.json, read as a model and as a generation config.  A model that is accepted has sizes
 * whose products fit, files that stay inside their roles for any number of ranks that is allowed,
 * and the same sizes after config.ini. */
#include <assert.h>
#include <string.h>

#include "formats/ft_dir.h"
#include "formats/ft_names.h"
#include "formats/gen_config.h"
#include "formats/ini.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_files(const fmt_model *m, int T)
{
    static const size_t some[] = { 0, 1, 2, 3, 4, 5, 9, 17, 100, 5000 };
    const fmt_ft_layout l = { .ranks = T,
                              .store = FMT_F16,
                              .sets = T % 3 == 1 ? FMT_FT_W8A8 | FMT_FT_KV8 : 0 };
    fmt_ft_file f;

    for (size_t i = 0; i < sizeof some / sizeof some[0]; i++) {
        if (!fmt_ft_file_at(&f, m, &l, some[i]))
            continue;
        assert(f.rows > 0 && f.cols > 0 && f.rows <= INT64_MAX / 8 / f.cols && f.rank < T);
        for (int k = 0; k < f.n_seg; k++) {
            const fmt_box b = f.seg[k].box;

            assert(b.n0 >= 0 && b.n0 < b.n1 && b.k0 >= 0 && b.k0 < b.k1);
            assert(b.n1 <= f.N && b.k1 <= f.K);
            assert(f.seg[k].at + b.n1 - b.n0 <= (f.transposed ? f.cols : f.rows));
        }
    }
}

static int same(double a, double b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

static void check_ini(const fmt_model *m, const fmt_json *config)
{
    q_buf text = { 0 };
    fmt_json *doc = NULL;
    q_err err = { 0 };
    fmt_model b;
    const fmt_ft_layout l = { .ranks = 1, .store = FMT_F16 };

    if (fmt_ft_config_text(&text, config, m->family->model_type, &l, &err) == Q_OK) {
        assert(fmt_ini_parse(&doc, text.data, text.size, "config.ini", &err) == Q_OK);
        assert(fmt_model_parse(&b, fmt_json_get(doc, m->family->model_type), "i", &err) == Q_OK);
        assert(m->hid == b.hid && m->layers == b.layers && m->n_head == b.n_head &&
               m->n_kv == b.n_kv && m->hd == b.hd && m->ffn == b.ffn && m->vocab == b.vocab &&
               m->train_ctx == b.train_ctx && m->max_ctx == b.max_ctx && same(m->eps, b.eps) &&
               same(m->rope_base, b.rope_base) && m->dyn_ntk == b.dyn_ntk && m->logn == b.logn &&
               m->tied == b.tied && m->dtype == b.dtype);
    }
    fmt_json_free(doc);
    q_buf_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    q_err err = { 0 };
    fmt_json *doc = NULL;
    fmt_gen_config g;
    fmt_model m;

    if (fmt_json_parse(&doc, (const char *)data, size, "config.json", &err) != Q_OK)
        return 0;
    if (fmt_model_parse(&m, doc, "config.json", &err) == Q_OK) {
        assert(m.hid > 0 && m.hd > 1 && m.n_head % m.n_kv == 0 && fmt_model_params(&m) > 0);
        for (int T = 1; T <= 64; T *= 2)
            if (fmt_ft_check_ranks(&m, T, NULL) == Q_OK)
                check_files(&m, T);
        check_ini(&m, doc);
    } else {
        assert(err.code != Q_OK && strncmp(err.msg, "config.json: ", 13) == 0);
        memset(&err, 0, sizeof err);
    }
    if (fmt_gen_config_parse(&g, doc, "g.json", &err) == Q_OK)
        assert(g.n_eos >= 0 && g.n_eos <= FMT_MAX_EOS && g.top_p >= 0 && g.top_p <= 1);
    else
        assert(err.code != Q_OK && strncmp(err.msg, "g.json: ", 8) == 0);
    fmt_json_free(doc);
    return 0;
}
