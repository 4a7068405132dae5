/* The directory of a zip archive with stored entries: where each file's bytes lie.
 *
 *     fmt_zip *z = NULL;
 *     Q_TRY(fmt_zip_open(&z, f, err));
 *     const fmt_zip_entry *e = fmt_zip_find(z, "archive/version");
 *     Q_TRY(fmt_zip_read(z, e, buf, err));
 *
 * Stricter than zip tools, because two readers must never see different files in one archive: the
 * end record is the last thing in the file and the directory lies right before it; entries are
 * stored, neither compressed nor encrypted; sizes, flags and names agree with the local headers;
 * entries do not overlap; names are unique relative paths.  Zip64 is read.  At most 1,000,000
 * entries and 100 MB of directory.  The q_file is borrowed and stays open as long as the fmt_zip.
 * Threads: all functions but open and close may be called from several threads.
 * Source: PKWARE APPNOTE 6.3.10, sections 4.3 to 4.5. */
#ifndef FMT_ZIP_DIR_H
#define FMT_ZIP_DIR_H

#include <stddef.h>
#include <stdint.h>

#include "formats/base/q_err.h"
#include "formats/base/q_file.h"

#define FMT_ZIP_MAX_COUNT 1000000u
#define FMT_ZIP_MAX_DIR   100000000u /* bytes */
#define FMT_ZIP_MAX_NAME  512u       /* bytes */

typedef struct fmt_zip_entry {
    const char *name;       /* borrowed from the fmt_zip */
    uint64_t offset, bytes; /* of the data, from the start of the file */
    uint64_t header;        /* offset of the local header */
    uint32_t crc;           /* CRC-32 of the data, as the directory has it */
} fmt_zip_entry;

typedef struct fmt_zip fmt_zip;

/* Errors: Q_EFORMAT with path and entry, Q_EIO, Q_ENOMEM. */
q_status fmt_zip_open(fmt_zip **out, const q_file *f, q_err *err);
void fmt_zip_close(fmt_zip *z);
size_t fmt_zip_count(const fmt_zip *z);
const fmt_zip_entry *fmt_zip_at(const fmt_zip *z, size_t i); /* sorted by name; NULL outside */
const fmt_zip_entry *fmt_zip_find(const fmt_zip *z, const char *name); /* NULL: absent */
/* All e->bytes into dst, with the CRC checked (Q_EFORMAT).  The caller has looked at e->bytes. */
q_status fmt_zip_read(const fmt_zip *z, const fmt_zip_entry *e, void *dst, q_err *err);

#endif
