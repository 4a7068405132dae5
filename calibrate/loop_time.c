/* Estimates of time. */
#include "calibrate/loop_time.h"

#include "formats/base/q_mem.h"
#include "formats/base/q_log.h"
#include "quant/linalg.h"

/* Of the stated peak of f16: products with norms and attention between them; and of what is made of
 * the inputs, of which factorization and columns are f32 (0.12 on an H200). */
#define FORWARD_SHARE 0.4
#define CLIENT_SHARE  0.12

/* Operations a second of gram matrices on the host. */
static double host_speed(void)
{
    enum { K = 1024, ROWS = 1024, TIMES = 3 };
    float *H = q_calloc((size_t)K * K, sizeof *H), *X = q_calloc((size_t)K * ROWS, sizeof *X);
    double best = 1e9;

    for (int i = 0; H && X && i < TIMES; i++) {
        const double start = q_now();

        qnt_gram(H, K, X, ROWS);
        best = q_now() - start < best ? q_now() - start : best;
    }
    q_free(H);
    q_free(X);
    return 1.2 * K * K * ROWS / best; /* tiles of the upper triangle */
}

double cal_work_seconds(const cal_work *w, rt_backend *be)
{
    const double peak = be->ops->peak ? be->ops->peak(be, 16) : 0;
    const int all = peak > 0 && be->ops->math; /* nothing is left to the host */
    const double host = all ? 1 : host_speed();

    return w->forward / (peak > 0 ? FORWARD_SHARE * peak : host) +
           w->client / (all ? CLIENT_SHARE * peak : host);
}
