/* Stored words to canonical codes and back.
 *
 * Where words run along K, a row of words of the slot [N, K/pw] is, on a little-endian machine, the
 * row of codes itself: eight nibbles or four bytes, lowest column first.  So GPTQ,
 * compressed-tensors and our archives need a transposition at most, and that happens while reading.
 * AWQ packs eight neighbouring rows of one column into a word, in an order of its own: its words
 * are read in strips of columns and taken apart.
 *
 * Zeros of all layouts are packed along N; GPTQ v1 stores zero - 1.  A stored 15 there would mean
 * 16, which no quantizer makes, or a zero of 0 that did not fit, and its readers disagree: refused.
 */
#include "quant/repack.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/q_half.h"
#include "formats/base/q_hash.h"
#include "formats/turn.h"
#include "quant/load.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are read as bytes");

#define THREAD_WORDS (1 << 17) /* fewer are done before a second thread is awake */
#define STRIP_COLS   496 /* even; no power of two, whose rows would share the lines of a cache */

/* n elements of a bytes each, or an error that names what they are for */
static q_status alloc(void **out, int64_t n, size_t size, const char *name, q_err *err)
{
    size_t bytes;

    if (!q_mul_ok((size_t)n, size, &bytes) || !(*out = q_malloc(bytes)))
        return q_fail(err, Q_ENOMEM, "%s: no memory for %lld values", name, (long long)n);
    return Q_OK;
}

/* ---- reading ----------------------------------------------------------------------------------
 */

/* words [N/8, cols] of columns k0.. (k0 even) into codes of rows of row_bytes.  Two words, of an
 * even and the next column, hold one byte for each of eight rows: nibble j of both. */
static void unpack_along_n(uint8_t *codes, size_t row_bytes, const uint32_t *words, int64_t n_words,
                           int64_t k0, int64_t cols, const uint8_t order[8])
{
#pragma omp parallel for schedule(static) if (n_words * cols > THREAD_WORDS)
    for (int64_t c = 0; c < n_words; c++) {
        const uint32_t *w = words + c * cols, low = 0x0f0f0f0f;
        uint8_t *row[8];

        for (int j = 0; j < 8; j++)
            row[j] = codes + (size_t)(8 * c + order[j]) * row_bytes + k0 / 2;
        for (int64_t k = 0; k < cols; k += 2) {
            const uint32_t a = w[k], b = k + 1 < cols ? w[k + 1] : 0;
            const uint32_t even = (a & low) | (b & low) << 4, odd = (a >> 4 & low) | (b & ~low);

            for (int j = 0; j < 4; j++) {
                row[2 * j][k / 2] = (uint8_t)(even >> 8 * j);
                row[2 * j + 1][k / 2] = (uint8_t)(odd >> 8 * j);
            }
        }
    }
}

static q_status load_codes(qnt_tensor *t, const fmt_src *src, fmt_ref ref, q_err *err)
{
    q_status st = Q_OK;
    const fmt_pack_layout *l = fmt_src_packing(src)->layout;
    const fmt_box box = fmt_src_shape(src, ref);
    const char *name = fmt_src_name(src, ref, 0);
    const int64_t strip = STRIP_COLS < box.k1 ? STRIP_COLS : box.k1;
    void *words = NULL;

    Q_TRY(alloc(&t->codes, t->N, qnt_row_bytes(t->scheme, t->K), name, err));
    if (!l->along_n) {
        Q_TRY(qnt_read(t->codes, src, ref, err));
        goto out;
    }
    Q_TRY(alloc(&words, box.n1 * strip, 4, name, err));
    for (int64_t k = 0; k < box.k1; k += strip) {
        const int64_t cols = k + strip < box.k1 ? strip : box.k1 - k;

        Q_TRY(fmt_src_read(src, ref, (fmt_box){ 0, box.n1, k, k + cols }, words, err));
        unpack_along_n(t->codes, qnt_row_bytes(t->scheme, t->K), words, box.n1, k, cols, l->order);
    }
out:
    q_free(words);
    return st;
}

static q_status load_zeros(uint8_t **out, const fmt_src *src, fmt_role role, int64_t layer,
                           q_err *err)
{
    q_status st = Q_OK;
    const fmt_ref ref = { role, layer, FMT_QZEROS }, scales = { role, layer, FMT_QSCALES };
    const fmt_packing *p = fmt_src_packing(src);
    const int pw = fmt_packing_per_word(p);
    const uint32_t mask = (1u << p->bits) - 1;
    const int64_t N = fmt_src_shape(src, scales).n1, G = fmt_src_shape(src, scales).k1;
    void *zero = NULL, *words = NULL;

    Q_TRY(alloc(&zero, N * G, 1, fmt_src_name(src, scales, 0), err));
    if (!fmt_src_has(src, ref)) { /* symmetric, not stored */
        memset(zero, 1 << (p->bits - 1), (size_t)(N * G));
    } else {
        Q_TRY(alloc(&words, N / pw * G, 4, fmt_src_name(src, ref, 0), err));
        Q_TRY(fmt_src_read(src, ref, fmt_src_shape(src, ref), words, err));
        for (int64_t i = 0; i < N / pw * G; i++)
            for (int j = 0; j < pw; j++) {
                const uint32_t v = (((uint32_t *)words)[i] >> p->bits * j) & mask;
                const int64_t n = i / G * pw + p->layout->order[j];

                if (v + (uint32_t)p->layout->zero_offset > mask)
                    Q_FAIL(err, Q_EFORMAT,
                           "%s: the zero of output %lld is stored as %u, which checkpoint_format "
                           "gptq cannot mean (it stores zero - 1): quantize again as gptq_v2 or "
                           "symmetric",
                           fmt_src_name(src, ref, i / G), (long long)n, v);
                ((uint8_t *)zero)[n * G + i % G] = (uint8_t)(v + (uint32_t)p->layout->zero_offset);
            }
    }
    *out = zero;
    zero = NULL;
out:
    q_free(zero);
    q_free(words);
    return st;
}

static q_status load_scales(qnt_tensor *t, const fmt_src *src, fmt_ref ref, q_err *err)
{
    q_status st = Q_OK;
    const fmt_box box = fmt_src_shape(src, ref);
    const fmt_dtype dtype = fmt_src_dtype(src, ref);
    const int64_t n = box.n1 * box.k1;
    void *raw = NULL, *v = NULL;

    Q_TRY(alloc(&raw, n, fmt_dtype_bytes(dtype), fmt_src_name(src, ref, 0), err));
    Q_TRY(alloc(&v, n, sizeof *t->scale, fmt_src_name(src, ref, 0), err));
    t->scale = v;
    Q_TRY(fmt_src_read(src, ref, box, raw, err));
    fmt_convert(t->scale, FMT_F32, raw, dtype, (size_t)n, NULL);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(t->scale[i]))
            Q_FAIL(err, Q_EFORMAT, "%s: the scale of output %lld, group %lld is %g",
                   fmt_src_name(src, ref, i / box.k1), (long long)(i / box.k1),
                   (long long)(i % box.k1), (double)t->scale[i]);
out:
    q_free(raw);
    return st;
}

/* Groups of the columns; kept only where they are not in order. */
static q_status load_g_idx(qnt_tensor *t, const fmt_src *src, fmt_ref ref, q_err *err)
{
    q_status st = Q_OK;
    const int64_t G = qnt_n_groups(t->scheme, t->K, t->group);
    int64_t pieces, sorted = 0;
    void *all = NULL;
    int32_t *v;

    if (!fmt_src_has(src, ref))
        return Q_OK;
    pieces = fmt_src_shape(src, ref).n1;
    Q_TRY(alloc(&all, pieces * t->K, sizeof *v, fmt_src_name(src, ref, 0), err));
    v = all;
    Q_TRY(fmt_src_read(src, ref, fmt_src_shape(src, ref), all, err));
    for (int64_t i = 0; i < pieces * t->K; i++) {
        const int64_t p = i / t->K, k = i % t->K;

        if (v[i] < 0 || v[i] >= G)
            Q_FAIL(err, Q_EFORMAT, "%s: column %lld is in group %d, there are %lld",
                   fmt_src_name(src, ref, p), (long long)k, v[i], (long long)G);
        if (v[i] != v[k])
            Q_FAIL(err, Q_EUNSUPPORTED,
                   "%s and %s put column %lld into groups %d and %d: they read one input and must "
                   "group it alike; quantize without desc_act",
                   fmt_src_name(src, ref, 0), fmt_src_name(src, ref, p), (long long)k, v[k], v[i]);
        sorted += p == 0 && v[k] == k / t->group;
    }
    if (sorted < t->K) {
        t->g_idx = all;
        all = NULL;
    }
out:
    q_free(all);
    return st;
}

q_status qnt_load_grouped(qnt_tensor *out, const fmt_src *src, fmt_role role, int64_t layer,
                          q_err *err)
{
    q_status st = Q_OK;
    const fmt_packing *p = fmt_src_packing(src);
    const fmt_box box = fmt_src_shape(src, (fmt_ref){ role, layer, FMT_WEIGHT });
    qnt_tensor t = { .scheme = qnt_scheme_grouped(p->bits),
                     .N = box.n1,
                     .K = box.k1,
                     .group = fmt_packing_group(p, box.k1) };

    Q_TRY(load_scales(&t, src, (fmt_ref){ role, layer, FMT_QSCALES }, err));
    Q_TRY(load_g_idx(&t, src, (fmt_ref){ role, layer, FMT_G_IDX }, err));
    Q_TRY(load_zeros(&t.zero, src, role, layer, err));
    Q_TRY(load_codes(&t, src, (fmt_ref){ role, layer, FMT_QWEIGHT }, err));
    *out = t;
    t = (qnt_tensor){ 0 };
out:
    qnt_tensor_free(&t);
    return st;
}

q_status qnt_group_facts_read(qnt_group_facts *out, const fmt_src *src, fmt_role role,
                              int64_t layer, q_err *err)
{
    q_status st = Q_OK;
    const fmt_packing *p = fmt_src_packing(src);
    const fmt_box box = fmt_src_shape(src, (fmt_ref){ role, layer, FMT_WEIGHT });
    const int middle = 1 << (p->bits - 1);
    qnt_tensor t = { .scheme = qnt_scheme_grouped(p->bits),
                     .N = box.n1,
                     .K = box.k1,
                     .group = fmt_packing_group(p, box.k1) };

    *out = (qnt_group_facts){ .zero_min = 255, .sym = 1 };
    Q_TRY(load_g_idx(&t, src, (fmt_ref){ role, layer, FMT_G_IDX }, err));
    Q_TRY(load_zeros(&t.zero, src, role, layer, err));
    for (int64_t i = 0; i < t.N * qnt_n_groups(t.scheme, t.K, t.group); i++) {
        out->zero_min = t.zero[i] < out->zero_min ? t.zero[i] : out->zero_min;
        out->sym &= t.zero[i] == middle;
    }
    out->act_order = t.g_idx != NULL;
out:
    qnt_tensor_free(&t);
    return st;
}

/* ---- writing ----------------------------------------------------------------------------------
 */

static void set(qnt_array *a, const char *suffix, const char *dims, fmt_dtype dtype, int64_t rows,
                int64_t cols)
{
    *a = (qnt_array){ .suffix = suffix,
                      .dims = dims,
                      .dtype = dtype,
                      .ndim = cols ? 2 : 1,
                      .shape = { rows, cols } };
}

q_status qnt_packed_shapes(qnt_packed *out, const fmt_packing *p, int64_t N, int64_t K,
                           const char *module, q_err *err)
{
    const fmt_pack_layout *l = p->layout;
    const int pw = fmt_packing_per_word(p), zeros = l->sym_zeros || !p->sym;
    const int64_t G = fmt_packing_groups(p, K);
    const char *words = p->bits == 4 ? "K/8,N" : "K/4,N";

    memset(out, 0, sizeof *out);
    if ((l->along_n && p->bits != 4) || (p->desc_act && !l->g_idx_out))
        return q_fail(err, Q_EUNSUPPORTED, "%s: %s cannot hold %s: choose hf-gptq or h5", module,
                      l->name,
                      p->desc_act && !l->g_idx_out ? "groups out of order (desc_act)" : "8 bits");
    if ((!l->along_n && K % pw != 0) || ((l->along_n || zeros) && N % pw != 0))
        return q_fail(err, Q_ESHAPE, "%s: [%lld, %lld] is no multiple of %d codes, a word of %s",
                      module, (long long)N, (long long)K, pw, l->name);
    if (l->along_n)
        set(&out->a[QNT_QWEIGHT], l->qweight, "K,N/8", FMT_I32, K, N / pw);
    else if (l->turned)
        set(&out->a[QNT_QWEIGHT], l->qweight, words, FMT_I32, K / pw, N);
    else
        set(&out->a[QNT_QWEIGHT], l->qweight, "N,K/8", FMT_I32, N, K / pw);
    if (zeros)
        set(&out->a[QNT_QZEROS], l->qzeros, p->bits == 4 ? "G,N/8" : "G,N/4", FMT_I32,
            l->turned ? G : N / pw, l->turned ? N / pw : G);
    set(&out->a[QNT_SCALES], l->scales, "G,N", FMT_F16, l->turned ? G : N, l->turned ? N : G);
    if (l->g_idx_out)
        set(&out->a[QNT_G_IDX], l->g_idx, "K", FMT_I32, K, 0);
    if (l->shape)
        set(&out->a[QNT_SHAPE], l->shape, "2", FMT_I64, 2, 0);
    return Q_OK;
}

size_t qnt_array_bytes(const qnt_array *a)
{
    const int64_t n = a->shape[0] * (a->ndim == 2 ? a->shape[1] : 1);

    return a->suffix ? (size_t)n * fmt_dtype_bytes(a->dtype) : 0;
}

/* [rows, cols] words of 2 or 4 bytes as they are, or turned to [cols, rows] */
static void lay(void *dst, const void *src, int64_t rows, int64_t cols, size_t size, int turned)
{
    if (turned)
        fmt_turn(dst, rows, src, cols, rows, cols, size);
    else
        memcpy(dst, src, (size_t)(rows * cols) * size);
}

#define TILE_C 16 /* words: a cache line of the result */
#define TILE_K 64 /* columns: half a cache line of the codes of a row */

/* One word: column k of the eight rows from `codes` on. */
static inline uint32_t gather_word(const uint8_t *codes, size_t row_bytes, int64_t k,
                                   const uint8_t order[8])
{
    uint32_t w = 0;

    for (int j = 0; j < 8; j++) {
        const uint8_t b = codes[(size_t)order[j] * row_bytes + (size_t)(k / 2)];

        w |= (uint32_t)(k % 2 ? b >> 4 : b & 15) << 4 * j;
    }
    return w;
}

/* words [K, N/8] from rows of nibbles, tile by tile */
static void pack_along_n(uint32_t *words, const uint8_t *codes, size_t row_bytes, int64_t N,
                         int64_t K, const uint8_t order[8])
{
    const int64_t n_words = N / 8;

#pragma omp parallel for schedule(static) if (n_words * K > THREAD_WORDS)
    for (int64_t c0 = 0; c0 < n_words; c0 += TILE_C) {
        const int64_t c1 = c0 + TILE_C < n_words ? c0 + TILE_C : n_words;

        for (int64_t k0 = 0; k0 < K; k0 += TILE_K)
            for (int64_t c = c0; c < c1; c++)
                for (int64_t k = k0; k < k0 + TILE_K && k < K; k++)
                    words[k * n_words + c] =
                        gather_word(codes + (size_t)(8 * c) * row_bytes, row_bytes, k, order);
    }
}

/* natural: words [N/pw, G] */
static q_status pack_zeros(uint32_t *natural, const uint8_t *zero, int64_t N, int64_t G,
                           const fmt_packing *p, const char *module, q_err *err)
{
    const int pw = fmt_packing_per_word(p);

    memset(natural, 0, (size_t)(N / pw * G) * sizeof *natural);
    for (int64_t c = 0; c < N / pw; c++)
        for (int j = 0; j < pw; j++)
            for (int64_t g = 0; g < G; g++) {
                const int z = zero[(c * pw + p->layout->order[j]) * G + g];

                if (z < p->layout->zero_offset)
                    return q_fail(err, Q_EUNSUPPORTED,
                                  "%s: a zero is %d, %s stores zero - 1: needs gptq_v2", module, z,
                                  p->layout->name);
                natural[c * G + g] |= (uint32_t)(z - p->layout->zero_offset) << p->bits * j;
            }
    return Q_OK;
}

/* The scales came from 16 bits; a file with others (bfloat16) would lose by it. */
static q_status pack_scales(uint16_t *half, const float *scale, int64_t n, const char *module,
                            q_err *err)
{
    for (int64_t i = 0; i < n; i++) {
        half[i] = q_f32_to_f16(scale[i]);
        if (q_f16_to_f32(half[i]) != scale[i])
            return q_fail(err, Q_EUNSUPPORTED,
                          "%s: the scale %.9g is no float16 value: it cannot be stored exactly",
                          module, (double)scale[i]);
    }
    return Q_OK;
}

static q_status fill(qnt_packed *out, const qnt_tensor *t, int64_t n0, int64_t N,
                     const fmt_packing *p, const char *module, q_err *err)
{
    q_status st = Q_OK;
    const size_t row_bytes = qnt_row_bytes(t->scheme, t->K);
    const uint8_t *codes = (const uint8_t *)t->codes + (size_t)n0 * row_bytes;
    const int64_t G = fmt_packing_groups(p, t->K);
    const int pw = fmt_packing_per_word(p), turned = p->layout->turned;
    qnt_array *a = out->a;
    void *scratch = NULL;

    if (p->layout->along_n)
        pack_along_n(a[QNT_QWEIGHT].data, codes, row_bytes, N, t->K, p->layout->order);
    else
        lay(a[QNT_QWEIGHT].data, codes, N, t->K / pw, 4, turned);
    Q_TRY(alloc(&scratch, N * G, 4, module, err));
    if (a[QNT_QZEROS].suffix) {
        Q_TRY(pack_zeros(scratch, t->zero + n0 * G, N, G, p, module, err));
        lay(a[QNT_QZEROS].data, scratch, N / pw, G, 4, turned);
    }
    Q_TRY(pack_scales(scratch, t->scale + n0 * G, N * G, module, err));
    lay(a[QNT_SCALES].data, scratch, N, G, 2, turned);
    for (int64_t k = 0; a[QNT_G_IDX].suffix && k < t->K; k++)
        ((int32_t *)a[QNT_G_IDX].data)[k] = t->g_idx ? t->g_idx[k] : (int32_t)(k / t->group);
    if (a[QNT_SHAPE].suffix)
        memcpy(a[QNT_SHAPE].data, (int64_t[]){ N, t->K }, 2 * sizeof(int64_t));
out:
    q_free(scratch);
    return st;
}

q_status qnt_pack(qnt_packed *out, const qnt_tensor *t, int64_t n0, int64_t n1,
                  const fmt_packing *p, const char *module, q_err *err)
{
    q_status st = Q_OK;

    memset(out, 0, sizeof *out);
    if (!t->scheme->grouped || t->scheme->bits != p->bits || t->group != fmt_packing_group(p, t->K))
        Q_FAIL(err, Q_EBUG, "%s: %s in groups of %lld, wanted %d bits in groups of %lld", module,
               t->scheme->name, (long long)t->group, p->bits, (long long)p->group);
    if (t->g_idx && !p->desc_act)
        Q_FAIL(err, Q_EBUG, "%s: groups out of order without desc_act", module);
    for (int64_t i = 0; p->sym && !p->layout->sym_zeros && i < t->N * fmt_packing_groups(p, t->K);
         i++)
        if (t->zero[i] != 1 << (p->bits - 1))
            Q_FAIL(err, Q_EFORMAT, "%s: a zero is %d in a symmetric checkpoint, wanted %d", module,
                   t->zero[i], 1 << (p->bits - 1));
    Q_TRY(qnt_packed_shapes(out, p, n1 - n0, t->K, module, err));
    for (int i = 0; i < QNT_ARRAYS; i++) {
        qnt_array *a = &out->a[i];

        if (a->suffix)
            Q_TRY(alloc(&a->data, (int64_t)qnt_array_bytes(a), 1, module, err));
    }
    Q_TRY(fill(out, t, n0, n1 - n0, p, module, err));
out:
    if (st != Q_OK)
        qnt_packed_free(out);
    return st;
}

void qnt_packed_free(qnt_packed *p)
{
    for (int i = 0; i < QNT_ARRAYS; i++)
        q_free(p->a[i].data);
    memset(p, 0, sizeof *p);
}

#define HASH_PARTS 16 /* of the rows, hashed side by side */

void qnt_tensor_hash(uint8_t digest[32], const qnt_tensor *t)
{
    const int64_t cells = t->N * qnt_n_groups(t->scheme, t->K, t->group);
    const size_t row = qnt_row_bytes(t->scheme, t->K);
    uint8_t part[HASH_PARTS][32];
    q_sha256 h;

#pragma omp parallel for schedule(static)
    for (int i = 0; i < HASH_PARTS; i++) {
        const int64_t n0 = t->N * i / HASH_PARTS, n1 = t->N * (i + 1) / HASH_PARTS;
        q_sha256 rows;

        q_sha256_init(&rows);
        q_sha256_update(&rows, (const uint8_t *)t->codes + (size_t)n0 * row,
                        (size_t)(n1 - n0) * row);
        q_sha256_final(&rows, part[i]);
    }
    q_sha256_init(&h);
    q_sha256_update(&h, part, sizeof part);
    q_sha256_update(&h, t->zero, (size_t)cells);
    q_sha256_update(&h, t->scale, (size_t)cells * sizeof *t->scale);
    for (int64_t k = 0; k < t->K; k++) {
        const int32_t g = t->g_idx ? t->g_idx[k] : (int32_t)(k / t->group);

        q_sha256_update(&h, &g, sizeof g);
    }
    q_sha256_final(&h, digest);
}
