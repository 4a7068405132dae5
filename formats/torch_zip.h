/* PyTorch checkpoints (pytorch_model.bin, .pt, .pth): a strict reader of the zip format that
 * torch.save writes since PyTorch 1.6.
 *
 *     fmt_tz *z = NULL;
 *     Q_TRY(fmt_tz_open(&z, dir, "pytorch_model.bin", err));
 *     const fmt_tensor *t = fmt_tz_find(z, "lm_head.weight");
 *     Q_TRY(fmt_tz_read(z, t, 0, t->bytes, buf, err));
 *
 * The same view as fmt_st: tensors with their place in the file, read by pread.  Nothing of the
 * file is executed: see pickle.h for what its pickle may say, zip_dir.h for the archive.  Two
 * tensors may share a storage or parts of it.  Files of the format before 1.6, git-lfs pointers,
 * big-endian files and archives with compressed entries are refused by what they are.
 * Threads: fmt_tz_read may be called from several threads.
 * Source: PyTorch, torch/serialization.py and caffe2/serialize/inline_container.cc. */
#ifndef FMT_TORCH_ZIP_H
#define FMT_TORCH_ZIP_H

#include "formats/safetensors.h"

typedef struct fmt_tz fmt_tz;

/* name: a plain file name inside dir (see q_file_open_in).  A file that is a single tensor gives it
 * the name "".  Errors: Q_ENOINPUT, Q_EFORMAT, Q_ENOMEM; messages carry file and entry or tensor.
 */
q_status fmt_tz_open(fmt_tz **out, const char *dir, const char *name, q_err *err);
void fmt_tz_close(fmt_tz *z);
const char *fmt_tz_path(const fmt_tz *z);
size_t fmt_tz_count(const fmt_tz *z);
const fmt_tensor *fmt_tz_at(const fmt_tz *z, size_t i);           /* sorted by name */
const fmt_tensor *fmt_tz_find(const fmt_tz *z, const char *name); /* NULL: absent */
/* n bytes of t from byte `from` of the tensor.  Range checked: Q_ESHAPE. */
q_status fmt_tz_read(const fmt_tz *z, const fmt_tensor *t, uint64_t from, size_t n, void *dst,
                     q_err *err);

#endif
