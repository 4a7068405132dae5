/* Rows of the embedding table, widened to f32.  The table may have any scheme and any layout: a
 * tied head that was quantized serves both. */
#include "runtime/cpu/cpu.h"

q_status cpu_embed(rt_backend *be, const rt_embed_args *a, q_err *err)
{
    const rt_weight *w = a->w;
    const int panels = cpu_in_panels(cpu_of(be)->isa, w->scheme);

    for (int t = 0; t < a->b->n_tok; t++)
        if (a->b->tok[t] < 0 || a->b->tok[t] >= w->N)
            return q_fail(err, Q_EARG, "embed: token id %d, the table has %lld rows", a->b->tok[t],
                          (long long)w->N);
#pragma omp parallel for num_threads(cpu_of(be)->threads) schedule(static) if (a->b->n_tok > 8)
    for (int t = 0; t < a->b->n_tok; t++) {
        const int64_t id = a->b->tok[t];
        float *y = (float *)a->y + t * w->K;

        if (panels) {
            cpu_panel_row(y, w, id);
        } else {
            const qnt_row row = cpu_row(w, id);

            w->scheme->dequantize(y, &row, 0, w->K);
        }
    }
    return Q_OK;
}
