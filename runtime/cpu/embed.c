/* Rows of the embedding table, widened to f32.  The table may have any scheme: a tied head that was
 * quantized serves both. */
#include "runtime/cpu/cpu.h"

q_status cpu_embed(rt_backend *be, const rt_embed_args *a, q_err *err)
{
    const rt_weight *w = a->w;
    cpu_deq_fn *deq = cpu_deq_of(cpu_of(be)->isa, w);
    float *y = a->y;

    for (int t = 0; t < a->b->n_tok; t++)
        if (a->b->tok[t] < 0 || a->b->tok[t] >= w->N)
            return q_fail(err, Q_EARG, "embed: token id %d, the table has %lld rows", a->b->tok[t],
                          (long long)w->N);
#pragma omp parallel for num_threads(cpu_of(be)->threads) schedule(static) if (a->b->n_tok > 8)
    for (int t = 0; t < a->b->n_tok; t++)
        deq(y + (int64_t)t * w->K, w, a->b->tok[t], 0, w->K);
    return Q_OK;
}
