/* Weights on their way to the device: layout in cu.h.
 *
 * Rows are brought into shape in host memory, a strip at a time, and copied.  A weight outside the
 * range of f16 is refused by row: as an infinity it would spoil every token. */
#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_mem.h"
#include "runtime/cuda/cu_w8a8.h"

#define STRIP ((size_t)32 << 20) /* bytes brought into shape at a time */

cu_scheme cu_scheme_of(const rt_weight *w)
{
    if (w->scheme->bits == 4)
        return CU_W4;
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

        memset(unit, bits == 4 ? 0x88 : 0, sizeof unit); /* codes of zero */
        if (left > 0)
            memcpy(unit, src + o * bits, (size_t)(left < bits ? left : bits));
        if (bits == 8) {
            for (int e = 0; e < 8; e++)
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

/* All rows, strip by strip. */
static q_status upload_codes(rt_backend *be, rt_weight *w, const qnt_tensor *t, q_err *err)
{
    q_status st = Q_OK;
    cu_be *c = cu_of(be);
    const int64_t fit = (int64_t)(STRIP / (size_t)w->row_bytes);
    const int64_t strip = fit < 1 ? 1 : fit < t->N ? fit : t->N;
    const size_t in = qnt_row_bytes(t->scheme, t->K);
    uint8_t *host = q_malloc((size_t)strip * (size_t)w->row_bytes);

    if (!host)
        Q_FAIL(err, Q_ENOMEM, "cuda: no memory to bring weights into shape");
    for (int64_t n0 = 0; n0 < t->N; n0 += strip) {
        const int64_t n = t->N - n0 < strip ? t->N - n0 : strip;
        uint64_t clipped = 0;

#pragma omp parallel for schedule(static) reduction(+ : clipped)
        for (int64_t i = 0; i < n; i++) {
            uint64_t one = 0;

            shape_row(host + i * w->row_bytes, w->row_bytes,
                      (const uint8_t *)t->codes + (size_t)(n0 + i) * in, t,
                      cu_scheme_of(w) == CU_W8A8, &one);
            clipped += one;
        }
        if (clipped > 0)
            Q_FAIL(err, Q_EUNSUPPORTED,
                   "cuda: %llu weights of rows %lld .. %lld are outside the f16 range: use "
                   "--device cpu",
                   (unsigned long long)clipped, (long long)n0, (long long)(n0 + n - 1));
        CU_TRY(cudaMemcpyAsync((char *)w->data + n0 * w->row_bytes, host,
                               (size_t)(n * w->row_bytes), cudaMemcpyHostToDevice, c->stream));
        CU_TRY(cudaStreamSynchronize(c->stream)); /* host is filled again */
    }
out:
    q_free(host);
    return st;
}

static q_status upload(rt_backend *be, void *dst, const void *src, size_t bytes, q_err *err)
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
    Q_TRY(upload(be, p, host, wide + 2 * n, err));
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
    void *p = NULL;

    if (src->scheme->grouped)
        Q_FAIL(err, Q_EUNSUPPORTED, "%s does not run on this device yet: use --device cpu",
               src->scheme->name);
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
    Q_TRY(upload_codes(be, &w, src, err));
    if (src->scale) {
        Q_TRY(cu_alloc(be, (size_t)w.N * sizeof(float), &p, err));
        w.scale = p;
        Q_TRY(upload(be, p, src->scale, (size_t)w.N * sizeof(float), err));
    }
    if (src->bias)
        Q_TRY(upload_bias(be, &w, src->bias, err));
    qnt_tensor_free(src);
    *dst = w;
    w = (rt_weight){ 0 };
out:
    cu_unprep(be, &w);
    return st;
}

void cu_unprep(rt_backend *be, rt_weight *w)
{
    cu_free(be, w->data);
    cu_free(be, w->scale);
    cu_free(be, w->bias);
    *w = (rt_weight){ 0 };
}
