/* Weights on their way to the device: layout in cu.h.
 *
 * Rows are brought into shape in host memory, a strip at a time, and copied while the next strip is
 * filled.  A weight outside the range of f16 is refused by row: as an infinity it would spoil every
 * token.  Scales, zeros and the order of columns of grouped schemes: prep_groups.c. */
#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_mem.h"
#include "runtime/cuda/cu_w8a8.h"

cu_scheme cu_scheme_of(const rt_weight *w)
{
    if (w->scheme->bits == 4)
        return w->scheme->grouped ? CU_W4G : CU_W4;
    if (w->scheme->grouped)
        return CU_W8G;
    if (w->scheme->bits == 8)
        return strcmp(w->scheme->name, "w8a8") == 0 ? CU_W8A8 : CU_W8;
    return CU_F16;
}

/* 8 codes, the first in the low nibble, into the order of cu.h */
static uint32_t interleave(uint32_t v)
{
    uint32_t out = 0;

    for (int e = 0; e < 8; e++)
        out |= (v >> (4 * e) & 15) << (4 * (e / 2) + 16 * (e % 2));
    return out;
}

/* place of unit o of a row whose chunks have n units; the twin of cu_unit */
static int64_t place(int64_t o, int n)
{
    return o / n * n + o % 4 * (n / 4) + o % n / 4;
}

static void shape_row(uint8_t *dst, int64_t dst_bytes, const uint8_t *src, const qnt_tensor *t,
                      int plain, uint64_t *n_clipped)
{
    const int bits = qnt_scheme_is_float(t->scheme) ? 16 : t->scheme->bits;
    const int64_t bytes = (int64_t)qnt_row_bytes(t->scheme, t->K), units = dst_bytes / bits;

    if (plain) {
        memcpy(dst, src, (size_t)bytes);
        memset(dst + bytes, 0, (size_t)(dst_bytes - bytes));
        return;
    }
    if (bits == 16) {
        memset(dst, 0, (size_t)dst_bytes);
        fmt_convert(dst, FMT_F16, src, t->scheme->dtype, (size_t)t->K, n_clipped);
    }
    for (int64_t o = 0; bits < 16 && o < units; o++) {
        const int64_t left = bytes - o * bits;
        uint8_t unit[8] = { 0 };

        memset(unit, bits == 4 ? 0x88 : 0, sizeof unit); /* zeros, or any number of groups */
        if (left > 0)
            memcpy(unit, src + o * bits, (size_t)(left < bits ? left : bits));
        if (bits == 8) {
            for (int e = 0; e < 8 && !t->scheme->grouped; e++)
                unit[e] ^= 128;
            memcpy(dst + 8 * place(o, 8), unit, 8);
        } else {
            uint32_t v;

            memcpy(&v, unit, sizeof v);
            v = interleave(v);
            memcpy(dst + 4 * place(o, 16), &v, sizeof v);
        }
    }
}

static q_status make_strips(rt_backend *be, q_err *err)
{
    q_status st = Q_OK;
    cu_be *c = cu_of(be);

    for (int i = 0; i < 2; i++) {
        if (c->copied[i])
            continue;
        if (!c->strip[i])
            Q_TRY(be->ops->host_alloc(be, CU_STRIP, &c->strip[i], err));
        CU_TRY(cudaEventCreateWithFlags(&c->copied[i], cudaEventDisableTiming));
    }
out:
    return st;
}

void cu_strips_free(rt_backend *be)
{
    cu_be *c = cu_of(be);

    for (int i = 0; i < 2; i++) {
        if (c->copied[i])
            (void)cudaEventDestroy(c->copied[i]);
        if (c->strip[i])
            be->ops->host_free(be, c->strip[i]);
    }
}

/* dst = src with column k at place[k]; codes of 4 or 8 bits */
static void move_columns(uint8_t *dst, const uint8_t *src, const int32_t *place,
                         const qnt_tensor *t)
{
    if (t->scheme->bits == 8) {
        for (int64_t k = 0; k < t->K; k++)
            dst[place[k]] = src[k];
        return;
    }
    memset(dst, 0, qnt_row_bytes(t->scheme, t->K));
    for (int64_t k = 0; k < t->K; k++)
        dst[place[k] / 2] |= (uint8_t)((src[k / 2] >> 4 * (k % 2) & 15) << 4 * (place[k] % 2));
}

/* All rows, strip by strip, with column k at place[k] unless place is NULL. */
static q_status upload_codes(rt_backend *be, rt_weight *w, const qnt_tensor *t,
                             const int32_t *place, q_err *err)
{
    q_status st = Q_OK;
    cu_be *c = cu_of(be);
    const int64_t strip = (int64_t)(CU_STRIP / (size_t)w->row_bytes);
    const int plain = cu_scheme_of(w) == CU_W8A8 || t->scheme->dtype == FMT_F16;
    const size_t in = qnt_row_bytes(t->scheme, t->K);
    uint8_t *moved = place ? q_malloc((size_t)strip * in) : NULL;
    int turn = 0;

    if (strip < 1)
        Q_FAIL(err, Q_EUNSUPPORTED, "cuda: rows of %lld bytes, at most %zu: use --device cpu",
               (long long)w->row_bytes, CU_STRIP);
    if (place && !moved)
        Q_FAIL(err, Q_ENOMEM, "cuda: no memory to bring weights into shape");
    Q_TRY(make_strips(be, err));
    for (int64_t n0 = 0; n0 < t->N; n0 += strip, turn ^= 1) {
        uint8_t *host = c->strip[turn];
        const int64_t n = t->N - n0 < strip ? t->N - n0 : strip;
        uint64_t clipped = 0;

        CU_TRY(cudaEventSynchronize(c->copied[turn]));
#pragma omp parallel for schedule(static) reduction(+ : clipped)
        for (int64_t i = 0; i < n; i++) {
            const uint8_t *row = (const uint8_t *)t->codes + (size_t)(n0 + i) * in;
            uint64_t one = 0;

            if (place) {
                move_columns(moved + (size_t)i * in, row, place, t);
                row = moved + (size_t)i * in;
            }
            shape_row(host + i * w->row_bytes, w->row_bytes, row, t, plain, &one);
            clipped += one;
        }
        if (clipped > 0)
            Q_FAIL(err, Q_EUNSUPPORTED,
                   "cuda: %llu weights of rows %lld .. %lld are outside the f16 range: use "
                   "--device cpu",
                   (unsigned long long)clipped, (long long)n0, (long long)(n0 + n - 1));
        CU_TRY(cudaMemcpyAsync((char *)w->data + n0 * w->row_bytes, host,
                               (size_t)(n * w->row_bytes), cudaMemcpyHostToDevice, c->stream));
        CU_TRY(cudaEventRecord(c->copied[turn], c->stream));
    }
out:
    q_free(moved);
    return st;
}

q_status cu_upload(rt_backend *be, void *dst, const void *src, size_t bytes, q_err *err)
{
    q_status st = Q_OK;

    CU_TRY(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, cu_of(be)->stream));
    CU_TRY(cudaStreamSynchronize(cu_of(be)->stream));
out:
    return st;
}

/* f32, then the same as f16, with a gap that keeps the halves on 16 bytes */
static q_status upload_bias(rt_backend *be, rt_weight *w, const float *bias, q_err *err)
{
    q_status st = Q_OK;
    const size_t n = (size_t)w->N, wide = (n * sizeof(float) + 15) / 16 * 16;
    char *host = q_calloc(1, wide + 2 * n);
    void *p = NULL;

    if (!host)
        Q_FAIL(err, Q_ENOMEM, "cuda: no memory for a bias");
    memcpy(host, bias, n * sizeof *bias);
    fmt_convert(host + wide, FMT_F16, bias, FMT_F32, n, NULL);
    Q_TRY(cu_alloc(be, wide + 2 * n, &p, err));
    w->bias = p;
    Q_TRY(cu_upload(be, p, host, wide + 2 * n, err));
out:
    q_free(host);
    return st;
}

static q_status check_w8a8(const qnt_tensor *t, q_err *err)
{
    if (!(t->x_scale >= 0) || t->x_scale > FLT_MAX)
        return q_fail(err, Q_EARG, "weight [%lld, %lld]: activation scale %g; wanted 0 or more",
                      (long long)t->N, (long long)t->K, (double)t->x_scale);
    if (t->K > CU_W8A8_MAX_K)
        return q_fail(err, Q_EUNSUPPORTED,
                      "cuda: w8a8 of %lld columns, at most %d: use --device cpu", (long long)t->K,
                      CU_W8A8_MAX_K);
    return Q_OK;
}

q_status cu_prep(rt_backend *be, qnt_tensor *src, rt_weight *dst, q_err *err)
{
    q_status st = Q_OK;
    const int quantized = !qnt_scheme_is_float(src->scheme);
    rt_weight w = { .N = src->N, .K = src->K, .x_scale = src->x_scale };
    size_t bytes = 0, pad;
    int32_t *place = NULL;
    void *p = NULL;

    w.scheme = quantized ? src->scheme : qnt_scheme_float(FMT_F16);
    if (src->N < 1 || src->K < 1 || src->N > INT32_MAX || src->K > INT32_MAX)
        Q_FAIL(err, Q_ESHAPE, "weight [%lld, %lld]: each side must be 1 .. 2^31 - 1",
               (long long)src->N, (long long)src->K);
    pad = 128;
    if (cu_scheme_of(&w) == CU_W8A8)
        Q_TRY(check_w8a8(src, err));
    w.row_bytes = (int64_t)((qnt_row_bytes(w.scheme, w.K) + pad - 1) / pad * pad);
    if (!q_mul_ok((size_t)w.N, (size_t)w.row_bytes, &bytes))
        Q_FAIL(err, Q_ENOMEM, "weight [%lld, %lld] is too large", (long long)w.N, (long long)w.K);
    Q_TRY(cu_alloc(be, bytes, &w.data, err));
    if (src->scheme->grouped)
        Q_TRY(cu_prep_groups(be, src, &w, &place, err));
    Q_TRY(upload_codes(be, &w, src, place, err));
    if (src->scale && !src->scheme->grouped) {
        Q_TRY(cu_alloc(be, (size_t)w.N * sizeof(float), &p, err));
        w.scale = p;
        Q_TRY(cu_upload(be, p, src->scale, (size_t)w.N * sizeof(float), err));
    }
    if (src->bias)
        Q_TRY(upload_bias(be, &w, src->bias, err));
    qnt_tensor_free(src);
    *dst = w;
    w = (rt_weight){ 0 };
out:
    q_free(place);
    cu_unprep(be, &w);
    return st;
}

void cu_unprep(rt_backend *be, rt_weight *w)
{
    cu_free(be, w->data);
    cu_free(be, w->scale);
    cu_free(be, w->bias);
    cu_free(be, w->zero);
    cu_free(be, w->g_idx);
    *w = (rt_weight){ 0 };
}
