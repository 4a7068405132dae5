/* One file of a checkpoint, whatever its container, for hf_dir.c alone.
 *
 *     fmt_shard s = { 0 };
 *     Q_TRY(fmt_shard_open(&s, FMT_SHARD_TORCH, dir, "pytorch_model.bin", err));
 *     const fmt_tensor *t = fmt_shard_find(&s, "lm_head.weight");
 *
 * Each function is the one of the same name in safetensors.h or torch_zip.h.
 * Threads: fmt_shard_read may be called from several threads. */
#ifndef FMT_SHARD_H
#define FMT_SHARD_H

#include "formats/safetensors.h"
#include "formats/torch_zip.h"

typedef enum fmt_shard_kind { FMT_SHARD_SAFETENSORS, FMT_SHARD_TORCH } fmt_shard_kind;

typedef struct fmt_shard { /* one of them is set; none: closed */
    fmt_st *st;
    fmt_tz *tz;
} fmt_shard;

q_status fmt_shard_open(fmt_shard *s, fmt_shard_kind kind, const char *dir, const char *name,
                        q_err *err);
void fmt_shard_close(fmt_shard *s);
const char *fmt_shard_path(const fmt_shard *s);
size_t fmt_shard_count(const fmt_shard *s);
const fmt_tensor *fmt_shard_at(const fmt_shard *s, size_t i);
const fmt_tensor *fmt_shard_find(const fmt_shard *s, const char *name);
q_status fmt_shard_read(const fmt_shard *s, const fmt_tensor *t, uint64_t from, size_t n, void *dst,
                        q_err *err);

#endif
