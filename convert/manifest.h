/* manifest.json of an FT directory: every other file with its size and SHA-256.
 *
 *     cvt_manifest m = { .tool = "qwenkit 0.1.0", .ranks = 1, .store = FMT_F16 };
 *     Q_TRY(cvt_manifest_add(&m, "ln_f.weight.bin", &entry, err)); ...
 *     Q_TRY(cvt_manifest_text(&text, &m, err));
 *     ... out: cvt_manifest_free(&m);
 *
 * The text is a function of these values alone: no times, no paths, files in byte order of their
 * names, so equal models have equal manifests.  root_sha256 is the SHA-256 of the lines
 *
 *     qwenkit-ft <version>, tool <tool>, tensor_parallelism <T>, store <type>    (one line each)
 *     kv_copies <n>                                                              (if above 1)
 *     <sha256 in hex>  <size>  <name>                                            (one per file)
 *
 * and stands for the whole directory.  Threads: a manifest belongs to one thread. */
#ifndef CVT_MANIFEST_H
#define CVT_MANIFEST_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"
#include "formats/base/q_mem.h"
#include "formats/dtype.h"

#define CVT_MANIFEST         "manifest.json"
#define CVT_MANIFEST_VERSION 1
#define CVT_TOOL_MAX         64 /* bytes of the tool's name, NUL included */
#define CVT_HEX              65 /* bytes of a SHA-256 in hex, NUL included */

typedef struct cvt_entry {
    char *name; /* owned by the manifest */
    uint64_t size;
    char sha256[CVT_HEX];
} cvt_entry;

typedef struct cvt_manifest {
    char tool[CVT_TOOL_MAX]; /* printable ASCII */
    int ranks;
    int kv_copies; /* ranks that hold the same key/value head, see fmt_ft_kv_copies; 0 is 1 */
    fmt_dtype store;
    cvt_entry *entry; /* [n], by name once sorted */
    size_t n, cap;
} cvt_manifest;

/* name is copied.  Errors: Q_ENOMEM. */
q_status cvt_manifest_add(cvt_manifest *m, const char *name, uint64_t size, const char *sha256,
                          q_err *err);
void cvt_manifest_sort(cvt_manifest *m);
/* Of a sorted manifest. */
q_status cvt_manifest_root(char root[CVT_HEX], const cvt_manifest *m, q_err *err);
q_status cvt_manifest_text(q_buf *out, const cvt_manifest *m, q_err *err); /* *out is replaced */
/* Reads exactly what cvt_manifest_text writes: any other text, down to a blank, is refused, and so
 * is a root_sha256 that does not fit.  On failure *m is empty.  Errors: Q_EFORMAT,
 * Q_EUNSUPPORTED (a later version), Q_ENOMEM. */
q_status cvt_manifest_parse(cvt_manifest *m, const char *text, size_t n, const char *path,
                            q_err *err);
void cvt_manifest_free(cvt_manifest *m);
/* 1: the name can stand in a manifest: a plain name of printable ASCII, at most 255 bytes */
int cvt_manifest_name_ok(const char *name);

#endif
