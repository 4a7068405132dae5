/* safetensors reader.  Two shapes of input, by the first bit: the file as it is, or (so that the
 * length word and the data do not have to be guessed) a header text with a data size of 16 bits.
 * What opens must hold the promises of safetensors.h. */
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[64], path[96];

static void remove_dir(void)
{
    unlink(path);
    rmdir(dir);
}

/* in memory where there is such a place: ten times as many runs */
static void make_dir(void)
{
    snprintf(dir, sizeof dir, "/dev/shm/fuzz-st-XXXXXX");
    if (mkdtemp(dir))
        return;
    snprintf(dir, sizeof dir, "/tmp/fuzz-st-XXXXXX");
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
        if (fd < 0 || atexit(remove_dir) != 0)
            abort();
    }
    return fd;
}

static void put_file(const uint8_t *data, size_t size)
{
    const int fd = open_file();
    uint8_t head[8] = { 0 };
    off_t tail = 0;
    ssize_t n = 0;

    if (ftruncate(fd, 0) != 0)
        abort();
    if (size >= 3 && (data[0] & 1)) {
        tail = data[1] | data[2] << 8;
        data += 3;
        size -= 3;
        for (size_t i = 0; i < 4; i++)
            head[i] = (uint8_t)(size >> 8 * i);
        n = pwrite(fd, head, 8, 0);
    } else if (size > 0) {
        data++;
        size--;
    }
    if (pwrite(fd, data, size, n) != (ssize_t)size || ftruncate(fd, n + (off_t)size + tail) != 0)
        abort();
}

static void check(const fmt_st *s, uint64_t file_bytes)
{
    q_err err = { 0 };
    uint64_t pos = 0;
    char byte;

    for (size_t i = 0; i < fmt_st_count(s); i++) {
        const fmt_tensor *t = fmt_st_at(s, i);
        uint64_t n = fmt_dtype_bytes(t->dtype);

        assert(fmt_st_find(s, t->name) == t && strlen(t->name) <= FMT_ST_MAX_NAME);
        assert(i == 0 || t->offset == pos);
        assert(t->ndim >= 0 && t->ndim <= FMT_MAX_DIMS);
        for (int d = 0; d < t->ndim; d++)
            n *= (uint64_t)t->shape[d];
        assert(n == t->bytes);
        pos = t->offset + t->bytes;
        if (n > 0) {
            assert(fmt_st_read(s, t, 0, 1, &byte, &err) == Q_OK);
            assert(fmt_st_read(s, t, n - 1, 1, &byte, &err) == Q_OK);
        }
        assert(fmt_st_read(s, t, n, 1, &byte, NULL) == Q_ESHAPE);
    }
    assert(fmt_st_count(s) == 0 || pos == file_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    q_err err = { 0 };
    fmt_st *s = NULL;
    q_status st;

    put_file(data, size);
    st = fmt_st_open(&s, dir, "x", &err);
    if (st == Q_OK)
        check(s, (uint64_t)lseek(open_file(), 0, SEEK_END));
    else
        assert(!s && err.code == st && err.msg[0] && (st == Q_EFORMAT || st == Q_ESHAPE));
    fmt_st_close(s);
    return 0;
}
