/* What a calibration needs, before it begins: memory of host and device, disk, and the size of a
 * step that keeps it inside the budgets.
 *
 *     cal_plan p;
 *     Q_TRY(cal_plan_make(&p, &loop_opts, can_spill, err));
 *     ... p.step_tok, p.place ...
 *
 * On a device with memory of its own a step is halved until it fits, and hidden states live there
 * when the rest of the budget holds them, else in host memory, else in files.  Counted is
 * what is allocated; a driver's own context comes on top.  Threads: plain values. */
#ifndef CAL_LOOP_PLAN_H
#define CAL_LOOP_PLAN_H

#include "calibrate/hidden.h"
#include "formats/json.h"

struct cal_loop_opts;

/* Bytes of one kind of memory. */
typedef struct cal_memory {
    uint64_t layer;  /* the resident layer; of the host also the one that is read or packed */
    uint64_t client; /* statistics and what is computed on them */
    uint64_t step;   /* buffers of a step, and of the backend */
    uint64_t hidden; /* hidden states, where they live */
    uint64_t budget; /* 0: none */
} cal_memory;

typedef struct cal_plan {
    int64_t samples, tokens;
    int64_t row0, rows; /* tokens before those of this rank, and its own */
    int64_t step_tok;   /* tokens of a step at most */
    cal_place place;
    int64_t device_rows;   /* of hidden states in memory: the first, which lie on the device */
    uint64_t hidden_bytes; /* of this rank, wherever they live */
    uint64_t disk;         /* of the job directory at its largest, without the client's results */
    int has_device;        /* 0: the device is the host, and `device` is empty */
    cal_memory host, device;
} cal_plan;

uint64_t cal_memory_sum(const cal_memory *m);

/* can_spill: there is a directory for files.  Errors: Q_ECONFIG (a budget cannot hold one layer and
 * the longest sample: with the numbers). */
q_status cal_plan_make(cal_plan *p, const struct cal_loop_opts *o, int can_spill, q_err *err);
/* Lines: samples, disk and time; each kind of memory; steps. */
q_status cal_plan_text(q_buf *out, const cal_plan *p, double seconds, q_err *err);
/* Members of v: samples, tokens, seconds, hidden_in, step_tokens, host_bytes, device_bytes,
 * disk_bytes, memory. */
q_status cal_plan_json(fmt_json *v, const cal_plan *p, double seconds, q_err *err);

#endif
