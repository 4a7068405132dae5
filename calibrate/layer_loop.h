/* The calibration loop: samples through the model one decoder layer at a time.
 *
 *     cal_client c = { .points = CAL_BIT(CAL_ATTN_IN), .self = &s, .observe = see, .done = keep };
 *     cal_loop_opts o = { .src = src, .be = be, .data = &data, .client = &c };
 *     Q_TRY(cal_loop_run(&o, err));
 *
 * The weights of one layer are resident, while the next is read (reader.h) and the one before is
 * written (writer.h); and the hidden states of all samples between two layers: on the device, in
 * memory, or in a file of the job directory, as the budgets say (loop_plan.h).  Layer 0 sees the
 * rows of the embedding, read from the source.  Every layer is a few passes over the samples:
 *
 *     early passes   as many as the client asks for: a forward whose result is thrown away; at its
 *                    end the client may replace weights of the layer (GPTQ in sequence)
 *     the last pass  a forward through the layer as it now is; its result is what the next layer
 *                    sees.  A client without early passes looks at the float model here, and makes
 *                    of the layer what it wants behind it
 *
 * With a job (job.h) the loop continues behind the last layer that the client stored, from hidden
 * states stored verbatim: the bits are those of a run that was never stopped.
 * Results do not depend on the number of threads, nor on where hidden states live.  Threads: one
 * loop at a time per backend. */
#ifndef CAL_LAYER_LOOP_H
#define CAL_LAYER_LOOP_H

#include <signal.h>

#include "calibrate/calib_data.h"
#include "calibrate/job.h"
#include "calibrate/loop_plan.h"
#include "calibrate/stages.h"
#include "formats/base/q_log.h"
#include "runtime/comm.h"
#include "runtime/decoder.h"

/* What a client can look at.  Inputs of linears, their outputs, and K as it is cached. */
typedef enum cal_point {
    CAL_ATTN_IN,     /* [n, hid] input of q, k and v */
    CAL_QKV,         /* [n, (n_head + 2 n_kv) hd] their output */
    CAL_K,           /* [n, n_kv * hd] keys after norm and RoPE */
    CAL_ATTN_OUT,    /* [n, n_head * hd] input of the output projection */
    CAL_ATTN_RESULT, /* [n, hid] its output */
    CAL_FFN_IN,      /* [n, hid] input of gate and up */
    CAL_GATE_UP,     /* [n, 2 ffn] their output, before silu */
    CAL_FFN_MID,     /* [n, ffn] input of the down projection */
    CAL_DOWN,        /* [n, hid] its output */
    CAL_POINTS
} cal_point;

#define CAL_BIT(p) (1u << (p))

typedef struct cal_view {
    cal_point point;
    int64_t layer;
    const void *x;  /* [n, dim] memory of the backend, this call only */
    fmt_dtype type; /* FMT_F32, or what activations of the backend are */
    int64_t row;    /* of the first, among those of all samples */
    int64_t n, dim;
} cal_view;

#define CAL_EARLY_PASSES 4

typedef struct cal_client {
    uint32_t points;                  /* seen in the last pass */
    uint32_t early[CAL_EARLY_PASSES]; /* seen in each early pass; 0: there are no more */
    uint64_t bytes;                   /* of memory that the client needs beside the loop */
    uint64_t device_bytes;            /* the part of them that lies where the backend computes */
    void *self;
    /* Before the first layer that is computed, and after the last: memory of the backend is taken
     * and given back.  end is called once, if begin was, whether it succeeded or not.  NULL:
     * nothing. */
    q_status (*begin)(void *self, rt_backend *be, rt_comm *comm, q_err *err);
    void (*end)(void *self);
    q_status (*observe)(void *self, const cal_view *v, q_err *err);
    /* Behind the last step of the `done`-th of this rank's shares, in a pass that sees `points`:
     * what is a sum over samples goes by them (obs_gram.h).  NULL: nothing is. */
    q_status (*share)(void *self, uint32_t points, int done, int shares, q_err *err);
    /* After early pass `pass`; may replace weights through cal_replace and cal_set_norm.  NULL
     * without early passes. */
    q_status (*change)(void *self, rt_model *one_layer, int64_t layer, int pass, q_err *err);
    /* After the last pass: *result is what there is to store of the layer.  The resident one may
     * be read; nothing runs through it any more. */
    q_status (*done)(void *self, rt_model *one_layer, int64_t layer, void **result, q_err *err);
    /* Writes it to path, a file of the job, in a thread of the loop, while the next layers are
     * computed: what it reads, later calls must not change. */
    q_status (*store)(void *self, int64_t layer, const void *result, const char *path, q_err *err);
    /* Frees a result, stored or not, in the same thread; NULL: it belongs to the client. */
    void (*drop)(void *result);
    /* Takes a stored result back, when the loop continues a job. */
    q_status (*load)(void *self, int64_t layer, const char *path, q_err *err);
} cal_client;

typedef struct cal_loop_opts {
    const fmt_src *src;
    rt_backend *be;
    const cal_data *data;
    const cal_client *client;
    rt_comm *comm;     /* the ranks that share the samples out; NULL: this process has all */
    cal_job *job;      /* NULL: not resumable, hidden states never in files */
    int64_t max_tok;   /* tokens of one step; 0: 2048.  A longer sample is one step */
    uint64_t max_ram;  /* bytes in all; hidden states that do not fit go to files of the job; 0: no
                        * limit */
    uint64_t max_vram; /* bytes of a device with memory of its own; 0: what is free there */
    const cal_plan *plan;              /* of these options; NULL: made by the loop */
    cal_stages *stages;                /* gets the time of the loop; may be NULL */
    const volatile sig_atomic_t *stop; /* not 0: end with Q_ECANCEL after this step; may be NULL */
    const q_log *log;
} cal_loop_opts;

/* Errors: those of the source, the backend and the client; Q_ECONFIG (a budget cannot hold one
 * layer and its buffers); Q_ECANCEL; Q_ENOMEM. */
q_status cal_loop_run(const cal_loop_opts *o, q_err *err);

/* For `change`: the weight of a role in the resident layer becomes *t, which is left empty. */
q_status cal_replace(rt_model *one_layer, fmt_role role, qnt_tensor *t, q_err *err);
/* And the norm before a linear: v [hid]. */
q_status cal_set_norm(rt_model *one_layer, fmt_role norm, const float *v, q_err *err);

#endif
