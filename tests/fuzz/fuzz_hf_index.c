/* Index of a checkpoint directory.  The input is model.safetensors.index.json beside two good
 * shards (s1: a b, s2: c d), a link out of the directory, a FIFO and a folder. */
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/q_file.h"
#include "formats/hf_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[64];

static void remove_dir(void)
{
    q_dir_remove(dir, NULL);
}

static const char *in_dir(const char *name)
{
    static char path[128];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void put_shard(const char *name, const char *const *names)
{
    fmt_st_writer *w = NULL;

    if (fmt_st_create(&w, in_dir(name), 1, NULL) != Q_OK)
        abort();
    for (int i = 0; i < 2; i++)
        if (fmt_st_declare(w, names[i], FMT_U8, 0, NULL, NULL) != Q_OK)
            abort();
    if (fmt_st_write(w, "xy", 2, NULL) != Q_OK || fmt_st_commit(w, NULL) != Q_OK)
        abort();
    fmt_st_writer_close(w);
}

/* in memory where there is such a place: ten times as many runs */
static void make_dir(void)
{
    snprintf(dir, sizeof dir, "/dev/shm/fuzz-hf-XXXXXX");
    if (mkdtemp(dir))
        return;
    snprintf(dir, sizeof dir, "/tmp/fuzz-hf-XXXXXX");
    if (!mkdtemp(dir))
        abort();
}

static int open_index(void)
{
    static int fd = -1;

    if (fd >= 0)
        return fd;
    make_dir();
    if (atexit(remove_dir) != 0)
        abort();
    put_shard("s1", (const char *[]){ "a", "b" });
    put_shard("s2", (const char *[]){ "c", "d" });
    if (symlink("/etc/passwd", in_dir("out")) != 0 || mkfifo(in_dir("fifo"), 0600) != 0 ||
        mkdir(in_dir("sub"), 0700) != 0)
        abort();
    fd = open(in_dir(FMT_HF_INDEX), O_RDWR | O_CREAT, 0600);
    if (fd < 0)
        abort();
    return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const int fd = open_index();
    q_err err = { 0 };
    fmt_hf *hf = NULL;
    q_status st;
    char v;

    if (ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size)
        abort();
    st = fmt_hf_open(&hf, dir, &err);
    if (st == Q_OK) { /* only the two shards can be what it named, each whole */
        assert(fmt_hf_count(hf) == 0 || fmt_hf_count(hf) == 2 || fmt_hf_count(hf) == 4);
        for (size_t i = 0; i < fmt_hf_count(hf); i++) {
            const fmt_tensor *t = fmt_hf_tensor(hf, i);

            assert(fmt_hf_find(hf, t->name) == i && strlen(t->name) == 1);
            assert(strcmp(fmt_hf_shard_path(hf, i), in_dir(t->name[0] < 'c' ? "s1" : "s2")) == 0);
            assert(fmt_hf_read(hf, i, 0, 1, &v, &err) == Q_OK);
            assert(v == (t->name[0] == 'a' || t->name[0] == 'c' ? 'x' : 'y'));
        }
    } else {
        assert(!hf && err.code == st && err.msg[0]);
        /* a name may be longer than the file system takes: an error of the system, not of format */
        assert(st == Q_EFORMAT || st == Q_ENOINPUT || st == Q_EIO);
    }
    fmt_hf_close(hf);
    return 0;
}
