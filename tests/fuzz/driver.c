/* Turns a fuzz target into a test for any compiler: replays tests/fuzz/corpus/NAME (or the files
 * and directories given), then a fixed number of seeded mutations of each.  Prints TAP.  A crash or
 * a sanitizer report ends the process, which the runner counts as a failure. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_file.h"
#include "formats/base/q_mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUTATIONS 1500 /* per seed; keeps a target below a second */
#define SEED_MAX  ((size_t)1 << 20)

static uint64_t state = 0x9e3779b97f4a7c15u;

static size_t below(size_t n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (size_t)(state % n);
}

/* One to eight random edits: flip, set, insert, delete, repeat. */
static void mutate(q_buf *b)
{
    static const char interesting[] = "\0\xff\x80\x7f{}[]\",:\\019-\n ";

    for (size_t edits = 1 + below(8); edits > 0 && b->size > 0; edits--) {
        const size_t at = below(b->size), rest = b->size - at;
        const size_t n = 1 + below(rest < 16 ? rest : 16);

        switch (below(5)) {
        case 0:
            b->data[at] = (char)(b->data[at] ^ (1 << below(8)));
            break;
        case 1:
            b->data[at] = interesting[below(sizeof interesting - 1)];
            break;
        case 2:
            memmove(b->data + at, b->data + at + n, rest - n);
            b->size -= n;
            break;
        case 3:
            if (q_buf_put(b, "................", n, NULL) == Q_OK)
                memmove(b->data + at + n, b->data + at, rest);
            break;
        default:
            b->size = at + 1;
            break;
        }
    }
}

static size_t run_seed(const char *path)
{
    q_buf seed = { 0 }, b = { 0 };
    size_t n = 0;

    if (q_file_slurp(&seed, path, SEED_MAX, NULL) != Q_OK)
        return 0;
    LLVMFuzzerTestOneInput((const uint8_t *)seed.data, seed.size);
    for (; n < MUTATIONS; n++) {
        uint8_t *exact;

        q_buf_clear(&b);
        if (q_buf_put(&b, seed.data, seed.size, NULL) != Q_OK)
            break;
        mutate(&b);
        if (!(exact = malloc(b.size + 1))) /* a block of its own, so that an overrun is seen */
            break;
        memcpy(exact, b.data, b.size);
        LLVMFuzzerTestOneInput(exact, b.size);
        free(exact);
    }
    q_buf_free(&seed);
    q_buf_free(&b);
    return n + 1;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* a file, or every file of a directory in order of name */
static size_t run_path(const char *path)
{
    char *names[1024];
    size_t n = 0, runs = 0;
    struct dirent *e;
    DIR *d = opendir(path);

    if (!d)
        return run_seed(path);
    while ((e = readdir(d)) && n < 1024)
        if (e->d_name[0] != '.' && (names[n] = q_path_join(path, e->d_name)))
            n++;
    closedir(d);
    qsort(names, n, sizeof *names, by_text);
    for (size_t i = 0; i < n; i++) {
        runs += run_seed(names[i]);
        q_free(names[i]);
    }
    return runs;
}

int main(int argc, char **argv)
{
    const char *slash = strrchr(argv[0], '/'), *name = slash ? slash + 1 : argv[0];
    char corpus[256];
    size_t runs = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
    snprintf(corpus, sizeof corpus, "tests/fuzz/corpus/%s",
             strncmp(name, "fuzz_", 5) ? name : name + 5);
    for (int i = 1; i < argc; i++)
        runs += run_path(argv[i]);
    if (argc == 1)
        runs = run_path(corpus);
    printf("%s 1 - %s: %zu inputs\n1..1\n", runs ? "ok" : "not ok", name, runs);
    if (!runs)
        printf("# no seeds in %s\n", corpus);
    return runs == 0;
}
