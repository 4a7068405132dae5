/* One step of the calibration loop: a few whole samples through one layer, and a client that looks.
 *
 *     cal_step s;
 *     Q_TRY(cal_step_open(&s, be, model, data, max_tok, err));
 *     Q_TRY(cal_step_fill(&s, first, err));         samples first .. s.last - 1
 *     Q_TRY(cal_step_embed(&s, src, err));          or what the layer before gave: s.work.x
 *     Q_TRY(cal_step_run(&s, one_layer, layer, points, client, err));
 *     ... s.work.x [s.n_tok, hid], backend memory: the residual stream behind the layer ...
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
struct cal_stages;

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
    float *rows;   /* [max_tok, hid] host: of the embedding; NULL when memory is host memory */
    void *scratch; /* [max_tok, widest output] backend memory */
    struct cal_stages *stages; /* gets the time of what the client looks at; NULL at first */
    const struct cal_client *client;
    rt_model *one;
    int64_t layer;
    uint32_t points;
    int whole; /* 1: work.x is wanted; 0: nothing behind the last point that is seen */
} cal_step;

/* max_tok 0: 2048; at least the longest sample.  Errors: Q_ENOMEM. */
q_status cal_step_open(cal_step *s, rt_backend *be, const fmt_model *m, const cal_data *data,
                       int64_t max_tok, q_err *err);
void cal_step_close(cal_step *s);
/* Tokens of a step when max_tok are asked for. */
int64_t cal_step_tokens(const cal_data *data, int64_t max_tok);
/* Bytes of host memory, and in *device those of the backend. */
uint64_t cal_step_bytes(rt_backend *be, const fmt_model *m, const cal_data *data, int64_t max_tok,
                        uint64_t *device);
/* Samples from `first` on, as many as fit, of its share (calib_data.h). */
q_status cal_step_fill(cal_step *s, size_t first, q_err *err);
/* Rows of the embedding for the samples of this step, straight from the source, to s->work.x. */
q_status cal_step_embed(cal_step *s, const fmt_src *src, q_err *err);
/* One layer on s->work.x. */
q_status cal_step_run(cal_step *s, rt_model *one, int64_t layer, uint32_t points,
                      const struct cal_client *client, q_err *err);

#endif
