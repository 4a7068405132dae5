/* Group weights as they stand in files: tensors that are missing, of another type or shape, or hold
 * what no writer leaves are refused by name; the names and sizes of the official int4 release, all
 * zeros, are read; and the words are those that the libraries of the formats pack. */
#include <string.h>

#include "formats/base/q_hash.h"
#include "formats/source.h"
#include "quant/repack.h"
#include "quant/rtn_group.h"
#include "tests/t_packed.h"

/* ---- broken tensors ---------------------------------------------------------------------------
 */

#define L0 "model.layers.0."

static void poke_g_idx(const char *name, void *data, size_t bytes)
{
    (void)bytes;
    if (strcmp(name, L0 "mlp.down_proj.g_idx") == 0)
        ((int32_t *)data)[5] = 3; /* three groups: 0 to 2 */
}
static void poke_k_idx(const char *name, void *data, size_t bytes)
{
    (void)bytes;
    if (strcmp(name, L0 "self_attn.k_proj.g_idx") == 0)
        ((int32_t *)data)[41] = 0; /* is in group 1 */
}
static void poke_scale(const char *name, void *data, size_t bytes)
{
    (void)bytes;
    if (strcmp(name, L0 "self_attn.o_proj.scales") == 0)
        ((uint16_t *)data)[64 + 2] = 0x7c00; /* group 1, output 2: infinity */
}
static void poke_zero(const char *name, void *data, size_t bytes)
{
    (void)bytes;
    if (strcmp(name, L0 "mlp.gate_proj.qzeros") == 0)
        ((uint32_t *)data)[1] |= 15u << 8; /* group 0, output 10 */
}
static void poke_shape(const char *name, void *data, size_t bytes)
{
    (void)bytes;
    if (strcmp(name, L0 "mlp.up_proj.weight_shape") == 0)
        ((int64_t *)data)[0]++;
}
static void poke_bias(const char *name, void *data, size_t bytes)
{
    (void)bytes;
    if (strcmp(name, L0 "mlp.up_proj.bias") == 0)
        ((uint16_t *)data)[7] = 0x3c00;
}

static void t_broken(void)
{
    static const struct {
        pk_opts o;
        q_status want;
        const char *part;
    } rows[] = {
        { { .drop = L0 "self_attn.k_proj.qzeros" }, Q_EFORMAT, "k_proj.qzeros' is missing" },
        { { .drop = L0 "self_attn.q_proj.scales" }, Q_EFORMAT, "q_proj.scales' is missing" },
        { { .drop = L0 "self_attn.v_proj.qweight" },
          Q_EUNSUPPORTED,
          "q_proj.qweight' is quantized and '" L0 "self_attn.v_proj.weight' is not" },
        { { .drop = L0 "self_attn.o_proj.g_idx" }, Q_OK, "" }, /* groups are in order anyway */
        { { .drop = L0 "self_attn.k_proj.g_idx" }, Q_EFORMAT, "k_proj.g_idx' is missing, its" },
        { { .drop = L0 "self_attn.o_proj.g_idx", .desc_act = 1 }, Q_EFORMAT, "desc_act needs it" },
        { { .drop = L0 "self_attn.q_proj.bias" }, Q_EFORMAT, "q_proj.bias' is missing" },
        { { .bend = L0 "mlp.up_proj.qweight" }, Q_ESHAPE, "up_proj.qweight' is [9, 96]" },
        { { .bend = L0 "mlp.up_proj.qzeros" }, Q_ESHAPE, "up_proj.qzeros' is [3, 12]" },
        { { .bend = L0 "mlp.up_proj.scales" }, Q_ESHAPE, "up_proj.scales' is [3, 96]" },
        { { .bend = L0 "mlp.up_proj.g_idx" }, Q_ESHAPE, "up_proj.g_idx' is [65]" },
        { { .retype = L0 "mlp.up_proj.qweight" },
          Q_EFORMAT,
          "up_proj.qweight' is F32, wanted I32" },
        { { .retype = L0 "mlp.up_proj.scales" }, Q_EFORMAT, "up_proj.scales' is I16, wanted F16" },
        { { .retype = L0 "mlp.up_proj.g_idx" }, Q_EFORMAT, "up_proj.g_idx' is F32, wanted I32" },
        { { .poke = poke_g_idx },
          Q_EFORMAT,
          "down_proj.g_idx: column 5 is in group 3, there are 3" },
        { { .poke = poke_k_idx, .desc_act = 1 },
          Q_EUNSUPPORTED,
          "self_attn.q_proj.g_idx and " L0 "self_attn.k_proj.g_idx put column 41" },
        { { .poke = poke_scale },
          Q_EFORMAT,
          "o_proj.scales: the scale of output 2, group 1 is inf" },
        { { .poke = poke_zero },
          Q_EFORMAT,
          "gate_proj.qzeros: the zero of output 10 is stored as 15" },
        { { .poke = poke_shape, .layout = PK_CT }, Q_ESHAPE, "weight_shape' says [97, 64]" },
        { { .poke = poke_bias, .foreign = 1 }, Q_EUNSUPPORTED, "up_proj.bias' is not zero" },
    };
    q_err err = { 0 };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        pk_opts o = rows[i].o;

        o.family = "qwen2";
        o.bits = 4;
        o.group = 32;
        o.sym = 1;
        pk_write(t_tmp("in"), &o);
        if (rows[i].want == Q_OK)
            T_OK(pk_load_all(t_tmp("in"), &err), err);
        else
            T_ERR(pk_load_all(t_tmp("in"), &err), err, rows[i].want, rows[i].part);
    }
}

/* ---- the official layout ----------------------------------------------------------------------
 */

/* Shape of a tensor of Qwen-7B-Chat-Int4 by its name; 0: it belongs to the vision tower. */
static int official_shape(const char *name, fmt_dtype *dtype, int64_t shape[2])
{
    static const struct {
        const char *module;
        int64_t N, K;
    } rows[] = { { "attn.c_attn.", 12288, 4096 },
                 { "attn.c_proj.", 4096, 4096 },
                 { "mlp.w1.", 11008, 4096 },
                 { "mlp.w2.", 11008, 4096 },
                 { "mlp.c_proj.", 4096, 11008 } };
    const char *leaf = strrchr(name, '.') + 1;
    int64_t N = 0, K = 0;

    if (strstr(name, "visual"))
        return 0;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (strstr(name, rows[i].module)) {
            N = rows[i].N;
            K = rows[i].K;
        }
    *dtype = strcmp(leaf, "scales") == 0 || strcmp(leaf, "bias") == 0 || strcmp(leaf, "weight") == 0
                 ? FMT_F16
                 : FMT_I32;
    if (N == 0) { /* embedding, head, norms */
        const int matrix = strstr(name, "wte") || strstr(name, "lm_head");

        shape[0] = matrix ? 151936 : 4096;
        shape[1] = matrix ? 4096 : 0;
    } else {
        shape[0] = strcmp(leaf, "qweight") == 0 ? K / 8
                   : strcmp(leaf, "bias") == 0  ? N
                   : strcmp(leaf, "g_idx") == 0 ? K
                                                : K / 128;
        shape[1] = strcmp(leaf, "bias") == 0 || strcmp(leaf, "g_idx") == 0 ? 0
                   : strcmp(leaf, "qzeros") == 0                           ? N / 8
                                                                           : N;
    }
    return 1;
}

/* All tensors of the index as holes, but for the groups of the columns.  extra: a tensor more. */
static int write_official(const char *dir, const fmt_json *index, const char *extra)
{
    q_err err = { 0 };
    const fmt_json *map = fmt_json_get(index, "weight_map");
    static int32_t g_idx[11008];
    fmt_hf_writer *w = NULL;
    fmt_dtype dtype;
    int64_t shape[2];
    int n = 0;

    for (int k = 0; k < 11008; k++)
        g_idx[k] = k / 128;
    T_OK(fmt_hf_create(&w, dir, 2000000000, 1, &err), err);
    for (int pass = 0; pass < 2; pass++)
        for (fmt_json_iter *it = fmt_json_first(map); it; it = fmt_json_next(map, it)) {
            const char *name = fmt_json_key(it);
            const int idx = strstr(name, ".g_idx") != NULL;

            if (!official_shape(name, &dtype, shape))
                continue;
            n += pass == 0;
            if (pass == 0)
                T_OK(fmt_hf_declare(w, name, dtype, shape[1] ? 2 : 1, shape, &err), err);
            else
                T_OK(fmt_hf_write(w, idx ? g_idx : NULL,
                                  (size_t)(shape[0] * (shape[1] ? shape[1] : 1)) *
                                      fmt_dtype_bytes(dtype),
                                  &err),
                     err);
            if (pass == 0 && extra && n == 1)
                T_OK(fmt_hf_declare(w, extra, FMT_F16, 1, (int64_t[]){ 4 }, &err), err);
            if (pass == 1 && extra) {
                T_OK(fmt_hf_write(w, NULL, 8, &err), err);
                extra = NULL;
            }
        }
    T_OK(fmt_hf_commit(w, &err), err);
    fmt_hf_writer_close(w);
    return n;
}

/* The official int4 release: its names, its configuration, its sizes. */
static void t_official(void)
{
    q_err err = { 0 };
    const char *from = T_SHARED("data/formats/qwen-vl-chat-int4");
    const char *dir = t_tmp("official");
    char *path = q_path_join(from, "model.safetensors.index.json");
    fmt_json *index = NULL;
    q_buf config = { 0 };
    fmt_src *s = NULL;
    qnt_tensor t = { 0 };

    T_OK(fmt_json_read(&index, path, 1 << 20, &err), err);
    q_free(path);
    path = q_path_join(from, "config.json");
    T_OK(q_file_slurp(&config, path, 1 << 20, &err), err);
    T_OK(q_dir_make(dir, &err), err);
    pk_put(dir, "config.json", config.data, config.size);
    T_INT(write_official(dir, index, NULL), 867);
    T_OK(fmt_src_open(&s, dir, &err), err);
    T_STR(fmt_src_packing(s)->layout->name, "gptq");
    T_INT(fmt_src_packing(s)->group, 128);
    T_OK(qnt_load(&t, s, FMT_FFN_DOWN, 31, &(qnt_load_opts){ 0 }, &err), err);
    T_INT(t.K, 11008);
    T_TRUE(t.g_idx == NULL); /* in order */
    T_INT(t.zero[0], 1);     /* stored as 0 */
    qnt_tensor_free(&t);
    T_OK(qnt_load(&t, s, FMT_ATTN_QKV, 0, &(qnt_load_opts){ 0 }, &err), err);
    T_TRUE(t.bias != NULL);
    qnt_tensor_free(&t);
    fmt_src_close(s);
    s = NULL;
    write_official(dir, index, "transformer.visual.proj");
    T_ERR(fmt_src_open(&s, dir, &err), err, Q_EUNSUPPORTED,
          "'transformer.visual.proj' is not part of family qwen");
    T_OK(q_dir_remove(dir, &err), err);
    fmt_json_free(index);
    q_buf_free(&config);
    q_free(path);
}

/* ---- what the libraries pack ------------------------------------------------------------------
 */

#define GOLD "model.layers.1.mlp.down_proj"

static void check_hash(const char *what, const void *p, size_t n, const char *want)
{
    q_sha256 h;
    uint8_t digest[32];
    char hex[65];

    q_sha256_init(&h);
    q_sha256_update(&h, p, n);
    q_sha256_final(&h, digest);
    q_hex(hex, digest, 32);
    hex[strlen(want)] = '\0';
    if (strcmp(hex, want) != 0)
        t_fail(__FILE__, __LINE__, "%s: %s, the library's is %s", what, hex, want);
}

/* Digits of SHA-256 of what GPTQModel 7.7 (pack_original, v2 to v1; pack of AwqGEMMLinear) and
 * compressed-tensors 0.20 (pack_to_int32) made of the codes, zeros and scales of t_packed.h, in the
 * order codes, zeros, scales, groups or shape. */
static void t_gold(void)
{
    static const struct {
        pk_opts o;
        const char *want[4];
    } rows[] = {
        { { .layout = PK_GPTQ, .bits = 4, .group = 32, .sym = 1 },
          { "adc5d4b9ad91de46", "6ad7679ec6e044b8", "5d7daa60568ae2f0", "b29175dc62082195" } },
        { { .layout = PK_GPTQ, .bits = 4, .group = 32, .zero_min = 1, .desc_act = 1 },
          { "adc5d4b9ad91de46", "b9fe6ecce3f88ecf", "5d7daa60568ae2f0", "23c158dc3b86fc14" } },
        { { .layout = PK_GPTQ_V2,
            .bits = 4,
            .group = 16,
            .config = "{\"method\": \"gptq\", \"quant_method\": \"gptq\", \"bits\": 4, "
                      "\"group_size\": 16, \"format\": \"gptq_v2\"}" },
          { "adc5d4b9ad91de46", "a98997d477445369", "eee03fabe6b546d1", "e2e4f0d5644ca3c6" } },
        { { .layout = PK_GPTQ, .bits = 8, .group = 32, .sym = 1 },
          { "b8787fe4e11060ca", "c24e73f000a4255a", "b431194a37f10de7", "b29175dc62082195" } },
        { { .layout = PK_AWQ, .bits = 4, .group = 32 },
          { "39e777dd3f138a1e", "8471384cb1a4fab0", "5d7daa60568ae2f0" } },
        { { .layout = PK_CT, .bits = 4, .group = 32 },
          { "076f7af39cd0fb2c", "67f6030b389f2d09", "cbc0bb1e65d51094", "48c00b4f596f11d6" } },
        { { .layout = PK_CT, .bits = 8, .group = -1, .sym = 1 },
          { "25536f08448883a3", "569fbbac12053ba3", "48c00b4f596f11d6" } },
    };
    q_err err = { 0 };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const pk_module m = { GOLD, PK_HID, PK_FFN, 0 };
        pk_opts o = rows[i].o;
        pk_array a[6];
        fmt_src *s = NULL;
        qnt_tensor t = { 0 };
        qnt_packed p = { 0 };
        int n, at = 0;

        o.family = "qwen2";
        n = pk_pack(a, &m, &o);
        for (int k = 0; k < n; k++) {
            check_hash(a[k].name, a[k].data, pk_bytes(&a[k]), rows[i].want[k]);
            q_free(a[k].data);
        }
        pk_write(t_tmp("in"), &o);
        T_OK(fmt_src_open(&s, t_tmp("in"), &err), err);
        T_OK(qnt_load_grouped(&t, s, FMT_FFN_DOWN, 1, &err), err);
        T_OK(qnt_pack(&p, &t, 0, t.N, fmt_src_packing(s), GOLD, &err), err);
        for (int k = 0; k < QNT_ARRAYS; k++)
            if (p.a[k].suffix)
                check_hash(p.a[k].suffix, p.a[k].data, qnt_array_bytes(&p.a[k]),
                           rows[i].want[at++]);
        T_INT(at, n);
        qnt_packed_free(&p);
        qnt_tensor_free(&t);
        fmt_src_close(s);
    }
}

/* ---- any shape --------------------------------------------------------------------------------
 */

static uint32_t draw(uint32_t n)
{
    static int at;

    return pk_hash("draw", at++, 6) % n;
}

/* The module as it stands in memory, by the formulas. */
static void make(qnt_tensor *t, const pk_module *m, const pk_opts *o)
{
    q_err err = { 0 };
    const int64_t G = pk_groups(m->K, o);

    T_OK(qnt_group_alloc(t, o->bits, m->N, m->K, o->group, &err), err);
    for (int64_t n = 0; n < m->N; n++) {
        uint8_t *row = (uint8_t *)t->codes + (size_t)n * qnt_row_bytes(t->scheme, m->K);

        for (int64_t k = 0; k < m->K; k++) {
            const int c = pk_code(m->name, n, k, o);

            row[o->bits == 8 ? k : k / 2] |= (uint8_t)(c << (o->bits == 4 && k % 2 ? 4 : 0));
        }
        for (int64_t g = 0; g < G; g++) {
            t->zero[n * G + g] = (uint8_t)pk_zero(m->name, n, g, o);
            t->scale[n * G + g] = q_f16_to_f32(pk_scale(m->name, n, g, o));
        }
    }
    if (!o->desc_act)
        return;
    t->g_idx = q_malloc((size_t)m->K * sizeof *t->g_idx);
    for (int64_t k = 0; k < m->K; k++)
        t->g_idx[k] = pk_group(k, m->K, o);
}

/* Why a layout cannot hold it; Q_OK: it can. */
static q_status held(const pk_module *m, const pk_opts *o)
{
    const int64_t pw = 32 / o->bits;
    const int awq = o->layout == PK_AWQ, ct = o->layout == PK_CT;

    if ((awq && o->bits == 8) || ((awq || ct) && o->desc_act))
        return Q_EUNSUPPORTED;
    if ((!awq && m->K % pw) || (!(ct && o->sym) && m->N % pw))
        return Q_ESHAPE;
    for (int64_t i = 0; o->layout == PK_GPTQ && i < m->N * pk_groups(m->K, o); i++)
        if (pk_zero(m->name, i % m->N, i / m->N, o) == 0)
            return Q_EUNSUPPORTED;
    return Q_OK;
}

/* Ten thousand shapes, one code at a time against whole words; columns that are no whole words or
 * groups among them.  What a layout cannot hold is refused, whatever else it is. */
static void t_shapes(void)
{
    static const int layouts[] = { PK_GPTQ, PK_GPTQ_V2, PK_AWQ, PK_CT };
    static const fmt_pack_kind kinds[] = { FMT_PACK_GPTQ, FMT_PACK_GPTQ_V2, FMT_PACK_AWQ,
                                           FMT_PACK_CT };
    int n_held = 0;

    for (int i = 0; i < 10000; i++) {
        const uint32_t kind = draw(4), odd = draw(4) == 0;
        const pk_opts o = { .layout = layouts[kind],
                            .bits = draw(3) ? 4 : 8,
                            .group = draw(5) ? (int64_t)draw(70) + 1 : -1,
                            .sym = (int)draw(2),
                            .zero_min = (int)draw(2),
                            .desc_act = draw(4) == 0 };
        const pk_module m = { "m", odd ? 1 + draw(40) : 8 * (1 + draw(5)),
                              odd ? 1 + draw(80) : 8 * (1 + draw(10)), 0 };
        const fmt_packing p = { .kind = kinds[kind],
                                .layout = fmt_pack_layout_get(kinds[kind]),
                                .bits = o.bits,
                                .group = o.group,
                                .sym = o.sym,
                                .desc_act = o.desc_act };
        const q_status want = held(&m, &o);
        q_err err = { 0 };
        qnt_tensor t = { 0 };
        qnt_packed got = { 0 };
        pk_array a[6];
        int n, at = 0;

        make(&t, &m, &o);
        T_INT(qnt_pack(&got, &t, 0, m.N, &p, "m", &err), want);
        qnt_tensor_free(&t);
        if (want != Q_OK)
            continue;
        n = pk_pack(a, &m, &o);
        for (int k = 0; k < QNT_ARRAYS; k++) {
            if (!got.a[k].suffix)
                continue;
            T_STR(got.a[k].suffix, a[at].name + 1);
            T_INT(qnt_array_bytes(&got.a[k]), pk_bytes(&a[at]));
            T_INT(memcmp(got.a[k].data, a[at].data, pk_bytes(&a[at])), 0);
            q_free(a[at++].data);
        }
        T_INT(at, n);
        n_held++;
        qnt_packed_free(&got);
    }
    printf("# %d shapes held, %d refused\n", n_held, 10000 - n_held);
    T_TRUE(n_held > 4000 && n_held < 9000);
}

static const t_case cases[] = { T(t_broken), T(t_official), T(t_gold), T(t_shapes), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
