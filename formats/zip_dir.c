/* Reader of zip directories.
 *
 *   local header 30 + name + extra | data | descriptor        for each entry
 *   ...
 *   directory: 46 + name + extra + comment for each entry
 *   zip64 end record 56, its locator 20                       in large archives; PyTorch: always
 *   end record 22                                             the last bytes of the file
 *
 * Everything is taken from the directory; the local header has to agree.  Where flag bit 3 says
 * that sizes follow the data, the local header may have zeros, and the descriptor is not looked at:
 * it could only repeat what the directory has said.  Number and size of the entries are checked
 * against the file before anything is allocated.
 *
 * The directory stays in memory because it holds the names; each is terminated in place once all
 * records are read.  Limits and source: zip_dir.h. */
#include "formats/zip_dir.h"

#include <stdlib.h>
#include <string.h>

#include "formats/base/q_mem.h"

#define END_SIG       0x06054b50u
#define END64_SIG     0x06064b50u
#define LOCATOR_SIG   0x07064b50u
#define RECORD_SIG    0x02014b50u
#define LOCAL_SIG     0x04034b50u
#define END_BYTES     22
#define END64_BYTES   56
#define LOCATOR_BYTES 20
#define RECORD_BYTES  46
#define LOCAL_BYTES   30
#define FULL16        0xffffu
#define FULL32        0xffffffffu /* the value is in the zip64 extra field */

#define FLAG_CRYPT   0x2041u /* bit 0, strong 6, masked headers 13 */
#define FLAG_PATCH   0x0020u
#define FLAG_TRAILER 0x0008u /* sizes and CRC follow the data */

struct fmt_zip {
    const q_file *f;
    char *dir; /* [dir_bytes + 1] */
    uint64_t dir_at, dir_bytes;
    fmt_zip_entry *e; /* [n] by name */
    size_t n;
};

static uint16_t le16(const void *p)
{
    const uint8_t *b = p;

    return (uint16_t)(b[0] | b[1] << 8);
}

static uint32_t le32(const void *p)
{
    const uint8_t *b = p;

    return (uint32_t)le16(b) | (uint32_t)le16(b + 2) << 16;
}

static uint64_t le64(const void *p)
{
    const uint8_t *b = p;

    return (uint64_t)le32(b) | (uint64_t)le32(b + 4) << 32;
}

/* ---- end records ---------------------------------------------------------------------------- */

typedef struct end_record {
    uint64_t disk, dir_disk, here, total, bytes, at;
} end_record;

/* The zip64 record in front of the end record, when its locator is there.  The two have to agree
 * wherever the smaller one is not full. */
static q_status read_end64(const fmt_zip *z, end_record *e, uint64_t *end_at, q_err *err)
{
    q_status st = Q_OK;
    const char *path = q_file_path(z->f);
    uint8_t loc[LOCATOR_BYTES], r[END64_BYTES];
    end_record big;

    if (*end_at < LOCATOR_BYTES + END64_BYTES)
        return Q_OK;
    Q_TRY(q_file_pread(z->f, loc, sizeof loc, *end_at - sizeof loc, err));
    if (le32(loc) != LOCATOR_SIG)
        return Q_OK;
    *end_at -= sizeof loc + sizeof r;
    Q_TRY(q_file_pread(z->f, r, sizeof r, *end_at, err));
    if (le32(loc + 4) != 0 || le32(loc + 16) != 1)
        Q_FAIL(err, Q_EFORMAT, "%s: one of several archive parts, only whole archives are read",
               path);
    if (le64(loc + 8) != *end_at || le32(r) != END64_SIG || le64(r + 4) != END64_BYTES - 12)
        Q_FAIL(err, Q_EFORMAT,
               "%s: zip64 end record is not at byte %llu, where it should be: file is damaged, "
               "fetch it again",
               path, (unsigned long long)*end_at);
    big = (end_record){ le32(r + 16), le32(r + 20), le64(r + 24),
                        le64(r + 32), le64(r + 40), le64(r + 48) };
    if ((e->disk != FULL16 && e->disk != big.disk) ||
        (e->dir_disk != FULL16 && e->dir_disk != big.dir_disk) ||
        (e->here != FULL16 && e->here != big.here) ||
        (e->total != FULL16 && e->total != big.total) ||
        (e->bytes != FULL32 && e->bytes != big.bytes) || (e->at != FULL32 && e->at != big.at))
        Q_FAIL(err, Q_EFORMAT,
               "%s: zip64 end record and end record disagree: file is damaged, fetch it again",
               path);
    *e = big;
out:
    return st;
}

static q_status read_end(fmt_zip *z, q_err *err)
{
    q_status st = Q_OK;
    const char *path = q_file_path(z->f);
    const uint64_t bytes = q_file_bytes(z->f);
    uint64_t end_at = bytes - END_BYTES;
    uint8_t r[END_BYTES];
    end_record e;

    if (bytes < END_BYTES)
        Q_FAIL(err, Q_EFORMAT,
               "%s: %llu bytes, a zip archive has at least 22: download is incomplete, fetch it "
               "again",
               path, (unsigned long long)bytes);
    Q_TRY(q_file_pread(z->f, r, sizeof r, end_at, err));
    if (le32(r) != END_SIG || le16(r + 20) != 0)
        Q_FAIL(err, Q_EFORMAT,
               "%s: does not end with the end record of a zip archive: download is incomplete, "
               "fetch it again",
               path);
    e = (end_record){ le16(r + 4),  le16(r + 6),  le16(r + 8),
                      le16(r + 10), le32(r + 12), le32(r + 16) };
    Q_TRY(read_end64(z, &e, &end_at, err));
    if (e.disk != 0 || e.dir_disk != 0 || e.here != e.total)
        Q_FAIL(err, Q_EFORMAT, "%s: one of several archive parts, only whole archives are read",
               path);
    if (e.total > FMT_ZIP_MAX_COUNT || e.bytes > FMT_ZIP_MAX_DIR)
        Q_FAIL(err, Q_EFORMAT,
               "%s: %llu entries in a directory of %llu bytes, at most %u in %u are read", path,
               (unsigned long long)e.total, (unsigned long long)e.bytes, FMT_ZIP_MAX_COUNT,
               FMT_ZIP_MAX_DIR);
    if (e.bytes > end_at || e.at != end_at - e.bytes)
        Q_FAIL(err, Q_EFORMAT,
               "%s: directory of %llu bytes at byte %llu does not end at byte %llu, where its end "
               "record is: file is damaged, fetch it again",
               path, (unsigned long long)e.bytes, (unsigned long long)e.at,
               (unsigned long long)end_at);
    if (e.total > e.bytes / RECORD_BYTES)
        Q_FAIL(err, Q_EFORMAT, "%s: %llu entries do not fit into a directory of %llu bytes", path,
               (unsigned long long)e.total, (unsigned long long)e.bytes);
    z->dir_at = e.at;
    z->dir_bytes = e.bytes;
    z->n = (size_t)e.total;
out:
    return st;
}

/* ---- one entry ------------------------------------------------------------------------------ */

/* Replace the full ones among size, packed size and offset by the values of the zip64 extra field,
 * which has them in this order.  at: NULL in a local header.  0: missing or malformed. */
static int zip64_values(const uint8_t *extra, size_t n, uint64_t *size, uint64_t *packed,
                        uint64_t *at)
{
    uint64_t *const v[] = { size, packed, at };
    const uint8_t *field = NULL;
    size_t have = 0;

    while (n > 0) {
        const size_t len = n < 4 ? n : le16(extra + 2);

        if (n < 4 || len > n - 4 || (le16(extra) == 1 && field))
            return 0;
        if (le16(extra) == 1) {
            field = extra + 4;
            have = len;
        }
        extra += 4 + len;
        n -= 4 + len;
    }
    for (size_t i = 0; i < 3; i++) {
        if (!v[i] || *v[i] != FULL32)
            continue;
        if (have < 8)
            return 0;
        *v[i] = le64(field);
        field += 8;
        have -= 8;
    }
    return 1;
}

/* A relative path that stays where it is put: no empty, "." or ".." part, nothing unprintable. */
static int name_ok(const char *s, size_t n)
{
    size_t from = 0;

    for (size_t i = 0; i <= n; i++) {
        if (i < n && ((unsigned char)s[i] < 0x20 || s[i] == 0x7f || s[i] == '\\' || s[i] == ':'))
            return 0;
        if (i < n && s[i] != '/')
            continue;
        if (i == from || (i - from == 1 && s[from] == '.') ||
            (i - from == 2 && s[from] == '.' && s[from + 1] == '.'))
            return 0;
        from = i + 1;
    }
    return 1;
}

/* The part of a record that the local header repeats. */
typedef struct both {
    uint16_t flags, method, name_bytes;
} both;

static both both_of(const char *record)
{
    return (both){ le16(record + 8), le16(record + 10), le16(record + 28) };
}

static q_status check_flags(const char *path, const fmt_zip_entry *e, const both *b, q_err *err)
{
    if (b->flags & FLAG_CRYPT)
        return q_fail(err, Q_EFORMAT, "%s: entry '%.*s' is encrypted: save it without", path,
                      (int)b->name_bytes, e->name);
    if (b->method != 0 || (b->flags & FLAG_PATCH))
        return q_fail(err, Q_EFORMAT,
                      "%s: entry '%.*s' is compressed (method %u), stored entries only are read: "
                      "unpack it and save it with PyTorch",
                      path, (int)b->name_bytes, e->name, (unsigned)b->method);
    return Q_OK;
}

/* The record at p of the directory; *used: its bytes. */
static q_status read_record(const fmt_zip *z, fmt_zip_entry *e, const char *p, size_t n,
                            size_t *used, q_err *err)
{
    q_status st = Q_OK;
    const char *path = q_file_path(z->f);
    uint64_t packed;
    both b;

    if (n < RECORD_BYTES || le32(p) != RECORD_SIG)
        Q_FAIL(err, Q_EFORMAT, "%s: no record at byte %llu of the directory: file is damaged", path,
               (unsigned long long)(p - z->dir));
    b = both_of(p);
    *used = (size_t)RECORD_BYTES + b.name_bytes + le16(p + 30) + le16(p + 32);
    if (*used > n)
        Q_FAIL(err, Q_EFORMAT, "%s: record at byte %llu leaves the directory: file is damaged",
               path, (unsigned long long)(p - z->dir));
    e->name = p + RECORD_BYTES;
    if (b.name_bytes > FMT_ZIP_MAX_NAME || !name_ok(e->name, b.name_bytes))
        Q_FAIL(err, Q_EFORMAT,
               "%s: the entry name at byte %llu of the directory leaves the archive or has "
               "unprintable characters: refused",
               path, (unsigned long long)(e->name - z->dir));
    Q_TRY(check_flags(path, e, &b, err));
    e->crc = le32(p + 16);
    packed = le32(p + 20);
    e->bytes = le32(p + 24);
    e->header = le32(p + 42);
    if (!zip64_values((const uint8_t *)e->name + b.name_bytes, le16(p + 30), &e->bytes, &packed,
                      &e->header))
        Q_FAIL(err, Q_EFORMAT, "%s: entry '%.*s' has a damaged extra field", path,
               (int)b.name_bytes, e->name);
    if (le16(p + 34) != 0)
        Q_FAIL(err, Q_EFORMAT, "%s: entry '%.*s' is in another archive part", path,
               (int)b.name_bytes, e->name);
    if (packed != e->bytes)
        Q_FAIL(err, Q_EFORMAT, "%s: entry '%.*s' has %llu bytes and %llu stored: refused", path,
               (int)b.name_bytes, e->name, (unsigned long long)e->bytes,
               (unsigned long long)packed);
out:
    return st;
}

/* Where the data begins, by the local header, which has to say what the directory said.  The entry
 * ends at `limit`: the next local header or, for the last one, the directory. */
static q_status read_local(const fmt_zip *z, fmt_zip_entry *e, uint64_t limit, uint8_t *scratch,
                           q_err *err)
{
    q_status st = Q_OK;
    const char *path = q_file_path(z->f);
    const both b = both_of(e->name - RECORD_BYTES);
    uint8_t h[LOCAL_BYTES];
    uint64_t size, packed, rest;
    size_t tail;

    if (e->header > limit || limit - e->header < LOCAL_BYTES)
        Q_FAIL(err, Q_EFORMAT,
               "%s: entry '%s' begins at byte %llu, what comes behind it at %llu: they overlap, "
               "refused",
               path, e->name, (unsigned long long)e->header, (unsigned long long)limit);
    rest = limit - e->header - LOCAL_BYTES;
    Q_TRY(q_file_pread(z->f, h, sizeof h, e->header, err));
    tail = (size_t)le16(h + 26) + le16(h + 28);
    if (le32(h) != LOCAL_SIG || le16(h + 6) != b.flags || le16(h + 8) != b.method ||
        le16(h + 26) != b.name_bytes || tail > rest)
        Q_FAIL(err, Q_EFORMAT,
               "%s: entry '%s': local header at byte %llu disagrees with the directory: refused",
               path, e->name, (unsigned long long)e->header);
    if (e->bytes > rest - tail)
        Q_FAIL(err, Q_EFORMAT,
               "%s: entry '%s' has %llu bytes, %llu are left to what comes behind it: they "
               "overlap, refused",
               path, e->name, (unsigned long long)e->bytes, (unsigned long long)(rest - tail));
    e->offset = e->header + LOCAL_BYTES + tail;
    Q_TRY(q_file_pread(z->f, scratch, tail, e->header + LOCAL_BYTES, err));
    packed = le32(h + 18);
    size = le32(h + 22);
    if ((b.flags & FLAG_TRAILER) && (size == 0 || size == FULL32) &&
        (packed == 0 || packed == FULL32))
        size = packed = e->bytes; /* not known when the header was written */
    if (memcmp(scratch, e->name, b.name_bytes) != 0 ||
        !zip64_values(scratch + b.name_bytes, le16(h + 28), &size, &packed, NULL) ||
        size != e->bytes || packed != e->bytes ||
        (!(b.flags & FLAG_TRAILER) && le32(h + 14) != e->crc))
        Q_FAIL(err, Q_EFORMAT,
               "%s: entry '%s': name or size in the local header at byte %llu disagrees with the "
               "directory: refused",
               path, e->name, (unsigned long long)e->header);
out:
    return st;
}

/* ---- the directory -------------------------------------------------------------------------- */

static q_status read_records(fmt_zip *z, q_err *err)
{
    q_status st = Q_OK;
    const char *path = q_file_path(z->f);
    size_t at = 0, used = 0;

    z->dir = q_malloc((size_t)z->dir_bytes + 1);
    z->e = z->n ? q_calloc(z->n, sizeof *z->e) : NULL;
    if (!z->dir || (z->n && !z->e))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %zu entries", path, z->n);
    Q_TRY(q_file_pread(z->f, z->dir, (size_t)z->dir_bytes, z->dir_at, err));
    for (size_t i = 0; i < z->n; i++, at += used)
        Q_TRY(read_record(z, &z->e[i], z->dir + at, (size_t)z->dir_bytes - at, &used, err));
    if (at != z->dir_bytes)
        Q_FAIL(err, Q_EFORMAT, "%s: %llu bytes of the directory belong to no entry: refused", path,
               (unsigned long long)(z->dir_bytes - at));
    for (size_t i = 0; i < z->n; i++) { /* only now: the byte behind a name is the next record's */
        char *name = z->dir + (z->e[i].name - z->dir);

        name[both_of(name - RECORD_BYTES).name_bytes] = '\0';
    }
out:
    return st;
}

static int by_header(const void *a, const void *b)
{
    const fmt_zip_entry *x = a, *y = b;

    return x->header < y->header ? -1 : x->header > y->header;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const fmt_zip_entry *)a)->name, ((const fmt_zip_entry *)b)->name);
}

/* In order of the file, each up to the next: so no byte is read twice, whatever the offsets are. */
static q_status read_locals(fmt_zip *z, q_err *err)
{
    q_status st = Q_OK;
    uint8_t *scratch = NULL; /* name and extra field of a local header */

    if (z->n == 0)
        return Q_OK;
    if (!(scratch = q_malloc(2 * FULL16)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", q_file_path(z->f));
    qsort(z->e, z->n, sizeof *z->e, by_header);
    for (size_t i = 0; i < z->n; i++)
        Q_TRY(read_local(z, &z->e[i], i + 1 < z->n ? z->e[i + 1].header : z->dir_at, scratch, err));
    qsort(z->e, z->n, sizeof *z->e, by_name);
    for (size_t i = 1; i < z->n; i++)
        if (strcmp(z->e[i - 1].name, z->e[i].name) == 0)
            Q_FAIL(err, Q_EFORMAT, "%s: entry '%s' is there twice: refused", q_file_path(z->f),
                   z->e[i].name);
out:
    q_free(scratch);
    return st;
}

q_status fmt_zip_open(fmt_zip **out, const q_file *f, q_err *err)
{
    q_status st = Q_OK;
    fmt_zip *z = q_calloc(1, sizeof *z);

    if (!z)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory", q_file_path(f));
    z->f = f;
    Q_TRY(read_end(z, err));
    Q_TRY(read_records(z, err));
    Q_TRY(read_locals(z, err));
    *out = z;
    z = NULL;
out:
    fmt_zip_close(z);
    return st;
}

void fmt_zip_close(fmt_zip *z)
{
    if (!z)
        return;
    q_free(z->dir);
    q_free(z->e);
    q_free(z);
}

size_t fmt_zip_count(const fmt_zip *z)
{
    return z->n;
}

const fmt_zip_entry *fmt_zip_at(const fmt_zip *z, size_t i)
{
    return i < z->n ? &z->e[i] : NULL;
}

const fmt_zip_entry *fmt_zip_find(const fmt_zip *z, const char *name)
{
    const fmt_zip_entry key = { .name = name };

    return z->n ? bsearch(&key, z->e, z->n, sizeof *z->e, by_name) : NULL;
}

/* CRC-32 of IEEE 802.3, four bits at a time: the pickle is the only thing it runs over. */
static uint32_t crc32_of(const uint8_t *p, size_t n)
{
    static const uint32_t row[16] = { 0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac,
                                      0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
                                      0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
                                      0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c };
    uint32_t c = FULL32;

    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        c = row[c & 15] ^ c >> 4;
        c = row[c & 15] ^ c >> 4;
    }
    return ~c;
}

q_status fmt_zip_read(const fmt_zip *z, const fmt_zip_entry *e, void *dst, q_err *err)
{
    q_status st = Q_OK;
    uint32_t crc;

    Q_TRY(q_file_pread(z->f, dst, (size_t)e->bytes, e->offset, err));
    crc = crc32_of(dst, (size_t)e->bytes);
    if (crc != e->crc)
        Q_FAIL(err, Q_EFORMAT,
               "%s: '%s' has CRC %08x, wanted %08x: file is damaged, fetch it again",
               q_file_path(z->f), e->name, crc, e->crc);
out:
    return st;
}
