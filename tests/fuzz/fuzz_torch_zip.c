/* PyTorch archives.  Three shapes of input, by the first byte, so that CRC and offsets do not have
 * to be guessed: the file as it is; the pickle of an archive that is otherwise good; changes
 * (offset of 16 bits, value of 8) to a good archive, with zip64 fields or without.  What opens must
 * hold the promises of torch_zip.h. */
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/torch_zip.h"
#include "tests/t_pickle.h"

#define PICKLE                                                                                     \
    PK_DICT(PK_ITEM("w", PK_F32("0", "K\6", "K\0", PK_T2("K\2", "K\3"), PK_T2("K\3", "K\1")))      \
                PK_ITEM("v", PK_F32("0", "K\6", "K\4", PK_T1("K\2"), PK_T1("K\1"))))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[64], path[96];
static t_zip zip; /* its buffer is used again */

static void clean(void)
{
    q_buf_free(&zip.b);
    unlink(path);
    rmdir(dir);
}

/* in memory where there is such a place: ten times as many runs */
static void make_dir(void)
{
    snprintf(dir, sizeof dir, "/dev/shm/fuzz-tz-XXXXXX");
    if (mkdtemp(dir))
        return;
    snprintf(dir, sizeof dir, "/tmp/fuzz-tz-XXXXXX");
    if (!mkdtemp(dir))
        abort();
}

static int open_file(void)
{
    static int fd = -1;

    if (fd < 0) {
        make_dir();
        snprintf(path, sizeof path, "%s/x", dir);
        fd = open(path, O_RDWR | O_CREAT, 0600);
        if (fd < 0 || atexit(clean) != 0)
            abort();
    }
    return fd;
}

static void put_file(const void *p, size_t n)
{
    const int fd = open_file();

    if (ftruncate(fd, 0) != 0 || pwrite(fd, p, n, 0) != (ssize_t)n)
        abort();
}

static void put_archive(const void *pickle, size_t n, int big)
{
    const t_entry e[] = { { "a/data.pkl", pickle, n },
                          { "a/byteorder", "little", 6 },
                          { "a/data/0", "0123456789abcdef01234567", 24 },
                          { "a/data/1", "012345", 6 } };

    t_zip_build(&zip, e, sizeof e / sizeof e[0], big);
}

static void check(const fmt_tz *z, uint64_t file_bytes)
{
    q_err err = { 0 };
    char byte;

    for (size_t i = 0; i < fmt_tz_count(z); i++) {
        const fmt_tensor *t = fmt_tz_at(z, i);
        uint64_t n = fmt_dtype_bytes(t->dtype);

        assert(fmt_tz_find(z, t->name) == t && strlen(t->name) <= FMT_ST_MAX_NAME);
        assert(t->ndim >= 0 && t->ndim <= FMT_MAX_DIMS);
        for (int d = 0; d < t->ndim; d++)
            n *= (uint64_t)t->shape[d];
        assert(n == t->bytes && t->offset <= file_bytes && n <= file_bytes - t->offset);
        if (n > 0) {
            assert(fmt_tz_read(z, t, 0, 1, &byte, &err) == Q_OK);
            assert(fmt_tz_read(z, t, n - 1, 1, &byte, &err) == Q_OK);
        }
        assert(fmt_tz_read(z, t, n, 1, &byte, NULL) == Q_ESHAPE);
    }
}

static void put_input(const uint8_t *data, size_t size)
{
    const int shape = size ? data[0] % 4 : 0;

    if (size) {
        data++;
        size--;
    }
    if (shape == 0) {
        put_file(data, size);
        return;
    }
    if (shape == 1)
        put_archive(data, size, 0);
    else
        put_archive(PICKLE, sizeof PICKLE - 1, shape == 2 ? 0 : 2);
    for (; shape > 1 && size >= 3; data += 3, size -= 3)
        zip.b.data[(size_t)(data[0] | data[1] << 8) % zip.b.size] = (char)data[2];
    put_file(zip.b.data, zip.b.size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    q_err err = { 0 };
    fmt_tz *z = NULL;
    q_status st;

    put_input(data, size);
    st = fmt_tz_open(&z, dir, "x", &err);
    if (st == Q_OK)
        check(z, (uint64_t)lseek(open_file(), 0, SEEK_END));
    else
        assert(!z && err.code == st && err.msg[0] && st == Q_EFORMAT);
    fmt_tz_close(z);
    return 0;
}
