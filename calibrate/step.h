/* One step of the calibration loop: a few whole samples through one layer, and a client that looks.
 *
 *     cal_step s;
 *     Q_TRY(cal_step_open(&s, be, model, data, max_tok, err));
 *     Q_TRY(cal_step_fill(&s, first, err));         samples first .. s.last - 1
 *     ... s.rows [s.n_tok, hid] is filled by the caller
 *     Q_TRY(cal_step_run(&s, one_layer, layer, points, client, err));
 *     Q_TRY(cal_step_result(&s, s.rows, err));
 *     ... out: cal_step_close(&s);
 *
 * Threads: one. */
#ifndef CAL_STEP_H
#define CAL_STEP_H

#include "calibrate/calib_data.h"
#include "formats/source.h"
#include "runtime/decoder.h"
#include "runtime/kv.h"

struct cal_client;

typedef struct cal_step {
    rt_backend *be;
    fmt_model m; /* of one layer */
    const cal_data *data;
    int64_t max_tok;
    int max_seqs, max_blocks;
    rt_batch host, dev;
    rt_kv_pool pool;
    rt_work work;
    int work_open;
    int64_t n_tok, row0; /* of this step; row0: its first row among all samples */
    size_t first, last;  /* samples */
    float *rows;         /* [max_tok, hid] host */
    void *scratch;       /* [max_tok, widest output] backend memory */
    void *raw;   /* the same in the type of activations, host; NULL when memory is host memory */
    float *seen; /* the same as f32, host */
    float *page; /* [n_kv, RT_PAGE, hd] host */
    const struct cal_client *client;
    rt_model *one;
    int64_t layer;
    uint32_t points;
} cal_step;

/* max_tok 0: 2048; at least the longest sample.  Errors: Q_ENOMEM. */
q_status cal_step_open(cal_step *s, rt_backend *be, const fmt_model *m, const cal_data *data,
                       int64_t max_tok, q_err *err);
void cal_step_close(cal_step *s);
uint64_t cal_step_bytes(const fmt_model *m, const cal_data *data, int64_t max_tok);
q_status cal_step_fill(cal_step *s, size_t first, q_err *err);
/* Rows of the embedding for the samples of this step, straight from the source. */
q_status cal_step_embed(const cal_step *s, const fmt_src *src, float *rows, q_err *err);
q_status cal_step_run(cal_step *s, rt_model *one, int64_t layer, uint32_t points,
                      const struct cal_client *client, q_err *err);
/* The residual stream behind the layer.  rows [n_tok, hid] host. */
q_status cal_step_result(cal_step *s, float *rows, q_err *err);

#endif
