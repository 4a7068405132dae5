/* ShareGPT files.  The first byte is a read size; it must not change what comes out, down to the
 * error message. */
#include "datasets/sharegpt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "formats/base/q_mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* everything the reader says about the file */
static void transcript(q_buf *out, const char *path, size_t read_bytes)
{
    const ds_share_opts o = { .read_bytes = read_bytes };
    ds_share *s = NULL;
    const ds_turns *t = NULL;
    q_err err = { 0 };

    if (ds_share_open(&s, path, &o, &err) != Q_OK)
        abort();
    while (ds_share_next(s, &t, &err) == Q_OK && t)
        q_buf_printf(out, NULL, "%llu %s %s %s\n", (unsigned long long)t->number, t->id, t->prompt,
                     t->answer);
    q_buf_printf(out, NULL, "%d %s %llu %llu", (int)err.code, err.msg,
                 (unsigned long long)ds_share_seen(s), (unsigned long long)ds_share_skipped(s));
    ds_share_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    q_buf a = { 0 }, b = { 0 };
    char path[64];
    int fd;

    if (size < 1)
        return 0;
    if ((fd = memfd_create("fuzz", 0)) < 0 || write(fd, data + 1, size - 1) != (ssize_t)size - 1)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    transcript(&a, path, 0);
    transcript(&b, path, (size_t)data[0] + 1);
    if (a.size != b.size || memcmp(a.data, b.data, a.size) != 0)
        abort();
    q_buf_free(&a);
    q_buf_free(&b);
    close(fd);
    return 0;
}
