/* Sample files.  The first byte picks the options, the rest is the file.  Whatever loads must hold
 * its promises: as many samples as asked for at most, the same set in file order and drawn, and a
 * join that is as long as its parts. */
#include "datasets/dset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t text_bytes(const ds_set *set)
{
    size_t n = 0;

    for (size_t i = 0; i < ds_count(set); i++)
        n += strlen(ds_at(set, i)->article) + strlen(ds_at(set, i)->id);
    return n;
}

static void check(const ds_set *set, const ds_opts *o, q_status st)
{
    q_buf out = { 0 };
    size_t n = 0;

    if (st != Q_OK)
        return;
    if (ds_count(set) == 0 || (o->max_samples && ds_count(set) > o->max_samples))
        abort();
    for (size_t i = 0; i < ds_count(set); i++)
        n += strlen(ds_at(set, i)->article) + (i > 0);
    if (ds_join(set, NULL, "|", &out, NULL) != Q_OK || out.size != n)
        abort();
    q_buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ds_set *a = NULL, *b = NULL;
    ds_opts o = { 0 };
    char path[64];
    q_status sa, sb;
    int fd;

    if (size < 1)
        return 0;
    o.rows = data[0] & 1;
    o.field_text = data[0] & 2 ? "text" : NULL;
    o.max_samples = data[0] >> 4;
    if ((fd = memfd_create("fuzz", 0)) < 0 || write(fd, data + 1, size - 1) != (ssize_t)size - 1)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    sa = ds_open(&a, path, &o, NULL);
    check(a, &o, sa);
    o.shuffle = 1;
    o.shuffle_seed = data[0];
    sb = ds_open(&b, path, &o, NULL);
    check(b, &o, sb);
    /* with all samples taken, both see every line */
    if (o.max_samples == 0 && (sa != sb || (a && text_bytes(a) != text_bytes(b))))
        abort();
    ds_close(a);
    ds_close(b);
    close(fd);
    return 0;
}
