/* The device of quantization on a GPU: memory, host vectors on their way, the table
 * (quant/device.h). The arithmetic is in quant_gram.cu, quant_gemm.cu, quant_moments.cu,
 * quant_groups.cu and quant_columns.cu. */
#include <string.h>

#include "formats/base/q_mem.h"
#include "runtime/cuda/cu_quant.h"

static rt_backend *be_of(const qnt_dev *d)
{
    return ((const cu_math *)d->self)->be;
}

static q_status alloc_gpu(const qnt_dev *d, size_t bytes, void **out, q_err *err)
{
    return cu_alloc(be_of(d), bytes, out, err);
}

static void free_gpu(const qnt_dev *d, void *p)
{
    cu_free(be_of(d), p);
}

static q_status copy_bytes(const qnt_dev *d, void *dst, const void *src, size_t bytes,
                           enum cudaMemcpyKind kind, q_err *err)
{
    q_status st = Q_OK;

    CU_TRY(cudaMemcpyAsync(dst, src, bytes, kind, cu_stream_of(d)));
    if (kind != cudaMemcpyDeviceToDevice) /* host memory may be pinned: then a copy goes on */
        CU_TRY(cudaStreamSynchronize(cu_stream_of(d)));
out:
    return st;
}

static q_status put_gpu(const qnt_dev *d, void *dst, const void *host, size_t bytes, q_err *err)
{
    return copy_bytes(d, dst, host, bytes, cudaMemcpyHostToDevice, err);
}

static q_status get_gpu(const qnt_dev *d, void *host, const void *src, size_t bytes, q_err *err)
{
    return copy_bytes(d, host, src, bytes, cudaMemcpyDeviceToHost, err);
}

static q_status copy_gpu(const qnt_dev *d, void *dst, const void *src, size_t bytes, q_err *err)
{
    return copy_bytes(d, dst, src, bytes, cudaMemcpyDeviceToDevice, err);
}

static q_status clear_gpu(const qnt_dev *d, void *p, size_t bytes, q_err *err)
{
    q_status st = Q_OK;

    CU_TRY(cudaMemsetAsync(p, 0, bytes, cu_stream_of(d)));
out:
    return st;
}

q_status cu_math_vec(const qnt_dev *d, int slot, const void *host, size_t bytes, void **out,
                     q_err *err)
{
    q_status st = Q_OK;
    cu_math *m = d->self;

    if (bytes > m->vec_bytes[slot]) {
        cu_free(m->be, m->vec[slot]);
        m->vec[slot] = NULL;
        m->vec_bytes[slot] = 0;
        Q_TRY(cu_alloc(m->be, bytes, &m->vec[slot], err));
        m->vec_bytes[slot] = bytes;
    }
    if (host)
        Q_TRY(put_gpu(d, m->vec[slot], host, bytes, err));
    *out = m->vec[slot];
out:
    return st;
}

static void close_gpu(qnt_dev *d)
{
    cu_math *m = d->self;

    for (int i = 0; i < 2; i++)
        cu_free(m->be, m->vec[i]);
    q_free(m);
    *d = (qnt_dev){ 0 };
}

q_status cu_math_open(rt_backend *be, qnt_dev *out, q_err *err)
{
    static const qnt_dev_ops ops = {
        .name = "cuda",
        .close = close_gpu,
        .alloc = alloc_gpu,
        .free = free_gpu,
        .put = put_gpu,
        .get = get_gpu,
        .copy = copy_gpu,
        .clear = clear_gpu,
        .gram = cu_q_gram,
        .columns = cu_q_columns,
        .triangle = cu_q_triangle,
        .add_triangle = cu_q_add_triangle,
        .mirror = cu_q_mirror,
        .divide = cu_q_divide,
        .diagonal = cu_q_diagonal,
        .arrange = cu_q_arrange,
        .factor = cu_q_factor,
        .quadratic = cu_q_quadratic,
        .scale_columns = cu_q_scale_columns,
        .divide_rows = cu_q_divide_rows,
        .subtract = cu_q_subtract,
        .mean = cu_q_mean,
        .fit = cu_q_fit,
        .clip = cu_q_clip,
        .round = cu_q_round,
        .means = cu_q_means,
        .scaled_error = cu_q_scaled_error,
        .solve = cu_q_solve,
    };
    cu_math *m = q_calloc(1, sizeof *m);

    if (!m)
        return q_fail(err, Q_ENOMEM, "cuda: no memory");
    m->be = be;
    *out = (qnt_dev){ .ops = &ops, .self = m };
    return Q_OK;
}
