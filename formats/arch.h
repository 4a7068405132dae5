/* Model archives: one HDF5 file that holds a model with int4 or int8 group weights.
 *
 *     fmt_arch *a = NULL;
 *     Q_TRY(fmt_arch_open(&a, "model.h5", err));
 *     size_t i = fmt_arch_find(a, "model.layers.0.mlp.down_proj.qweight");
 *     Q_TRY(fmt_arch_read(a, i, 0, n, buf, err));
 *     Q_TRY(fmt_arch_file_read(a, "tokenizer.json", max, &text, err));
 *
 *   /                       format="qwen-quant-hdf5" format_version=1 tool tool_version
 *                           content_root_sha256
 *   /meta/                  config.json generation_config.json quantization_config.json
 *                           manifest.json, exact bytes; tokenizer/ every other small file
 *   /tensors/<module>/      qweight i32 [K/8, N]  qzeros i32 [G, N/8]  scales f16 [G, N]
 *                           g_idx i32 [K]  bias, when there is one; attributes say how to read
 *                           them, and may tell what they lost: error_rel, damp
 *   /tensors/<name>         tensors that are not quantized: f16, f32, u16 with dtype="bfloat16"
 *   /kv/layers.<i>/         k_scale v_scale f32 [n_kv], optional
 *   /factors/layers.<i>/    attn_qkv attn_out ffn_gate_up ffn_down f32 [K], optional: what AWQ
 *                           divided the inputs by, folded in already; not needed to run
 *   /stats/<module>/        absmax h_diag f32 [K]  loss f32 [2], optional: what calibration saw;
 *                           modules that share an input have the same; not needed to run
 *
 * Opening reads names, types, shapes and places through the HDF5 library, in a process of its own,
 * and checks each against the size of the file.  Data are contiguous and are then read like
 * any other file, at the speed of the disk; or in compressed chunks, unpacked as they are read, a
 * few at a time.  Tensor names are those of the checkpoint, the leaf of a module joined with a dot.
 * Threads: fmt_arch_read and fmt_arch_file_read may be called from several threads; opening one at
 * a time. */
#ifndef FMT_ARCH_H
#define FMT_ARCH_H

#include "formats/base/q_mem.h"
#include "formats/hf_dir.h"
#include "formats/packing.h"

#define FMT_ARCH_FORMAT  "qwen-quant-hdf5"
#define FMT_ARCH_VERSION 1

typedef struct fmt_arch fmt_arch;

/* Errors: Q_ENOINPUT, Q_EFORMAT (no archive, cut short, an attribute or member that is missing or
 * does not fit, named), Q_ESHAPE, Q_EUNSUPPORTED (a later version), Q_ENOMEM. */
q_status fmt_arch_open(fmt_arch **out, const char *path, q_err *err);
void fmt_arch_close(fmt_arch *a);
const char *fmt_arch_path(const fmt_arch *a);
const fmt_packing *fmt_arch_packing(const fmt_arch *a); /* bits 0: nothing is quantized */
size_t fmt_arch_count(const fmt_arch *a);
const fmt_tensor *fmt_arch_tensor(const fmt_arch *a, size_t i); /* sorted by name */
size_t fmt_arch_find(const fmt_arch *a, const char *name);      /* FMT_NONE: absent */
q_status fmt_arch_read(const fmt_arch *a, size_t i, uint64_t from, size_t n, void *dst, q_err *err);
/* What the attributes of a quantized module tell; NaN: they do not. */
typedef struct fmt_lost {
    double error_rel, damp;
} fmt_lost;
fmt_lost fmt_arch_lost(const fmt_arch *a, const char *module);

/* The files under /meta and /meta/tokenizer, in the order in which they were put in. */
size_t fmt_arch_files(const fmt_arch *a);
const char *fmt_arch_file_name(const fmt_arch *a, size_t i, uint64_t *bytes); /* plain name */
size_t fmt_arch_file_find(const fmt_arch *a, const char *name);               /* FMT_NONE: absent */
/* *out is replaced.  Errors: Q_ENOINPUT (absent), Q_EFORMAT (more than max bytes), Q_EIO. */
q_status fmt_arch_file_read(const fmt_arch *a, const char *name, size_t max, q_buf *out,
                            q_err *err);

/* The dataset's place of a tensor name: "/tensors/<module>/<leaf>" for the parts of a quantized
 * module.  0 when it does not fit. */
int fmt_arch_place(char *out, size_t cap, const char *module, const char *leaf);

#endif
