/* Statistics files: what calibration found, in HDF5.
 *
 *     Q_TRY(cal_stats_write("stats.h5", force, &info, ranges, err));
 *     qnt_ranges *r = NULL;
 *     Q_TRY(cal_stats_read("stats.h5", model, sha256, &r, err));   ... cal_stats_free(r, model);
 *
 * Layout, all f32, one group per layer i (layers.0000 and so on):
 *
 *     /stats/layers.i/attn_qkv/in   [hid]    abs-max of each input channel
 *     /stats/layers.i/attn_qkv/out  [N]      abs-max of each output, bias included
 *     the same for attn_out, ffn_gate_up, ffn_down
 *     /stats/layers.i/k             [n_kv, hd]   abs-max of keys after norm and RoPE
 *     /stats/layers.i/alpha         [4]      exponents chosen by --smoothquant auto, for attn_out,
 *                                   ffn_down, attn_qkv, ffn_gate_up; absent when none were
 *
 * Attributes of "/": format, format_version, tool, family, layers, hidden, samples, tokens, prompt,
 * data_sha256, model_sha256.  Made on the model as it is: any smoothing can be computed from them.
 * The bytes depend on the values alone.  Threads: one. */
#ifndef CAL_STATS_FILE_H
#define CAL_STATS_FILE_H

#include "calibrate/cost.h"
#include "formats/h5file.h"
#include "quant/smooth.h"

typedef struct cal_stats_info {
    const fmt_model *m;
    const char *tool;   /* "qwenkit 0.1.0" */
    const char *prompt; /* cal_prompt_name */
    int64_t samples, tokens;
    char data_sha256[65];  /* of the token ids */
    char model_sha256[65]; /* cal_model_sha256 */
} cal_stats_info;

q_status cal_stats_write(const char *path, int force, const cal_stats_info *info,
                         const qnt_ranges *layer, q_err *err);
/* *out [m->layers], freed with cal_stats_free; model_sha256: of the model that m is of.  Errors:
 * Q_ENOINPUT, Q_EFORMAT, Q_ESHAPE, Q_ECONFIG (made for another model). */
q_status cal_stats_read(const char *path, const fmt_model *m, const char *model_sha256,
                        qnt_ranges **out, q_err *err);
void cal_stats_free(qnt_ranges *layer, const fmt_model *m);

/* One layer, as a file of a job: the same datasets without /stats/layers.i, and what it cost. */
q_status cal_stats_write_layer(const char *path, const fmt_model *m, const qnt_ranges *r,
                               const cal_cost *cost, q_err *err);
q_status cal_stats_read_layer(const char *path, const fmt_model *m, qnt_ranges *r, cal_cost *cost,
                              q_err *err);

#endif
