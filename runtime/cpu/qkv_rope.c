/* From the fused projection to attention's inputs.  For every token, each head of q and k in turn:
 *
 *   q_norm / k_norm   RMSNorm over the head, where the model has them (Qwen3)
 *   rotation          (a, b) -> (a c - b s, b c + a s) for pair i = elements (i step, i step +
 * gap); c and s carry rope_mscale q_scale           logn factor of the token, q only
 *
 * then k and v go to their page slots in the KV format (int8: divided by the scale of the head,
 * rounded to even, saturated).  angle = (float)pos * inv_freq[i] in f32,
 * as Hugging Face computes it: with long contexts an angle in double would be another model. Cosine
 * and sine are computed once per token and shared by its heads. */
#include "runtime/cpu/cpu.h"

#include <math.h>
#include <string.h>

#include "runtime/cpu/cpu_math.h"

typedef struct turn {
    float cos[CPU_MAX_HD / 2], sin[CPU_MAX_HD / 2];
} turn;

static void turn_make(turn *t, const float *inv_freq, const fmt_model *m, int32_t pos)
{
    const float scale = (float)m->rope_mscale;

    for (int64_t i = 0; i < m->rot / 2; i++) {
        const float angle = (float)pos * inv_freq[i];

        t->cos[i] = cosf(angle) * scale;
        t->sin[i] = sinf(angle) * scale;
    }
}

/* in place; the elements from m->rot on stay as they are */
static void rotate(float *head, const turn *t, const fmt_model *m)
{
    for (int64_t i = 0; i < m->rot / 2; i++) {
        float *a = head + i * m->rope_step, *b = a + m->rope_gap;
        const float a0 = *a, b0 = *b;

        *a = a0 * t->cos[i] - b0 * t->sin[i];
        *b = b0 * t->cos[i] + a0 * t->sin[i];
    }
}

static void load_head(float *dst, const float *src, const float *norm, const fmt_model *m)
{
    if (norm)
        cpu_rmsnorm_row(dst, src, norm, m->hd, m->eps);
    else
        memcpy(dst, src, (size_t)m->hd * sizeof *dst);
}

/* k (which 0) or v (1) of kv head h of token t into its slot */
static void store_head(const rt_qkv_args *a, int t, int which, int64_t h, const float *v)
{
    const rt_kv *kv = a->kv;
    const int64_t hd = a->m->hd;
    char *to = cpu_kv_at(kv, a->b, a->layer, which, a->b->seq[t], h, a->b->pos[t]);
    const float *scale = which == 0 ? kv->k_scale : kv->v_scale;

    if (kv->format->dtype != FMT_I8) {
        fmt_convert(to, kv->format->dtype, v, FMT_F32, (size_t)hd, NULL);
        return;
    }
    for (int64_t i = 0; i < hd; i++)
        ((int8_t *)to)[i] = cpu_round_i8(v[i] / scale[a->layer * kv->n_kv + h]);
}

static void one_token(const rt_qkv_args *a, int t)
{
    const fmt_model *m = a->m;
    const rt_batch *b = a->b;
    const int64_t hd = m->hd;
    const int seq = b->seq[t];
    const float *row = (const float *)a->qkv + t * (m->n_head + 2 * m->n_kv) * hd;
    float *q = (float *)a->q + t * m->n_head * hd;
    float head[CPU_MAX_HD];
    turn tr;

    turn_make(&tr, b->inv_freq + seq * (m->rot / 2), m, b->pos[t]);
    for (int64_t h = 0; h < m->n_head; h++, row += hd, q += hd) {
        load_head(q, row, a->q_norm, m);
        rotate(q, &tr, m);
        for (int64_t i = 0; i < hd; i++)
            q[i] *= b->q_scale[t];
    }
    for (int64_t h = 0; h < m->n_kv; h++, row += hd) {
        load_head(head, row, a->k_norm, m);
        rotate(head, &tr, m);
        store_head(a, t, 0, h, head);
    }
    for (int64_t h = 0; h < m->n_kv; h++, row += hd)
        store_head(a, t, 1, h, row);
}

q_status cpu_qkv_rope_store(rt_backend *be, const rt_qkv_args *a, q_err *err)
{
    const fmt_model *m = a->m;

    if (m->hd < 1 || m->hd > CPU_MAX_HD || m->rot < 0 || m->rot > m->hd || m->rot % 2 != 0)
        return q_fail(err, Q_EUNSUPPORTED,
                      "rope: head width %lld with %lld rotated; at most %d, and an even number",
                      (long long)m->hd, (long long)m->rot, CPU_MAX_HD);
#pragma omp parallel for num_threads(cpu_of(be)->threads) schedule(static) if (a->b->n_tok > 4)
    for (int t = 0; t < a->b->n_tok; t++)
        one_token(a, t);
    return Q_OK;
}

q_status cpu_keys(rt_backend *be, const rt_keys_args *a, q_err *err)
{
    const rt_batch *b = a->b;
    const size_t head = (size_t)a->hd * sizeof *a->y;

    if (a->kv->format->dtype != FMT_F32)
        return q_fail(err, Q_EUNSUPPORTED, "keys of a cache of type %s: wanted f32",
                      a->kv->format->name);
#pragma omp parallel for num_threads(cpu_of(be)->threads) schedule(static) if (b->n_tok > 4)
    for (int t = 0; t < b->n_tok; t++)
        for (int64_t h = 0; h < a->n_kv; h++)
            memcpy(a->y + (t * a->n_kv + h) * a->hd,
                   cpu_kv_at(a->kv, b, a->layer, 0, b->seq[t], h, b->pos[t]), head);
    return Q_OK;
}
