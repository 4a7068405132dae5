/* A Hugging Face checkpoint directory: its tensors, wherever the shards keep them.
 *
 *     fmt_hf *hf = NULL;
 *     Q_TRY(fmt_hf_open(&hf, dir, err));
 *     size_t i = fmt_hf_find(hf, "transformer.wte.weight");
 *     Q_TRY(fmt_hf_read(hf, i, from, n, buf, err));
 *
 * Takes model.safetensors, or model.safetensors.index.json with its shards, or, when there is
 * neither, pytorch_model.bin or pytorch_model.bin.index.json with its shards.  Checked at open:
 * each shard name is a plain file name, every tensor of the index is in the shard it names, no
 * tensor is in two shards, no shard is missing or cut short.  Nothing of the tensor data is read.
 * Threads: fmt_hf_read may be called from several threads. */
#ifndef FMT_HF_DIR_H
#define FMT_HF_DIR_H

#include "formats/safetensors.h"

typedef struct fmt_hf fmt_hf;

#define FMT_NONE         ((size_t)-1)
#define FMT_HF_SINGLE    "model.safetensors"
#define FMT_HF_INDEX     "model.safetensors.index.json"
#define FMT_HF_BIN       "pytorch_model.bin"
#define FMT_HF_BIN_INDEX "pytorch_model.bin.index.json"

/* Errors: Q_ENOINPUT (no directory, no checkpoint in it, a shard is missing), Q_EFORMAT, Q_ESHAPE,
 * Q_ENOMEM.  Both a single file and an index that does not name it: Q_EFORMAT. */
q_status fmt_hf_open(fmt_hf **out, const char *dir, q_err *err);
void fmt_hf_close(fmt_hf *hf);
size_t fmt_hf_count(const fmt_hf *hf);
const fmt_tensor *fmt_hf_tensor(const fmt_hf *hf, size_t i); /* sorted by name */
const char *fmt_hf_shard_path(const fmt_hf *hf, size_t i);   /* file that holds tensor i */
size_t fmt_hf_find(const fmt_hf *hf, const char *name);      /* FMT_NONE: absent */
q_status fmt_hf_read(const fmt_hf *hf, size_t i, uint64_t from, size_t n, void *dst, q_err *err);

/* Sharded writer: model-0000i-of-0000N.safetensors and the index, or one model.safetensors when
 * everything fits into max_shard bytes of tensors (0: no limit).  A larger tensor gets a shard of
 * its own.  Declare all, then write all in the same order, then commit: until then the directory
 * keeps what it had, and a crash in commit leaves no index.  With force the files of an older
 * checkpoint go away.  All shard files are open at once.  After an error only close is allowed.
 * Errors: as fmt_st_declare and fmt_st_write; Q_ECREATE when the directory has a checkpoint and
 * force is 0.  Threads: a writer belongs to one. */
typedef struct fmt_hf_writer fmt_hf_writer;

q_status fmt_hf_create(fmt_hf_writer **out, const char *dir, uint64_t max_shard, int force,
                       q_err *err);
q_status fmt_hf_declare(fmt_hf_writer *w, const char *name, fmt_dtype dtype, int ndim,
                        const int64_t *shape, q_err *err);
q_status fmt_hf_write(fmt_hf_writer *w, const void *p, size_t n,
                      q_err *err); /* p NULL: a hole of zeros */
q_status fmt_hf_commit(fmt_hf_writer *w, q_err *err);
void fmt_hf_writer_close(fmt_hf_writer *w);

#endif
