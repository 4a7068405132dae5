/* The test harness of t.h: on cmocka where there is one (it also catches signals), else on itself.
 */
#include "tests/t.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef HAVE_CMOCKA
#include <cmocka.h>
#endif

#include "formats/base/q_file.h"
#include "formats/base/q_mem.h"

static jmp_buf back;
static char reason[1024], tmpdir[64];

/* Leaves the running test: 1 failed, 2 skipped. */
_Noreturn static void jump(int how)
{
    longjmp(back, how);
}

void t_fail(const char *file, int line, const char *fmt, ...)
{
    va_list ap;
    int n = snprintf(reason, sizeof reason, "%s:%d: ", file, line);

    va_start(ap, fmt);
    vsnprintf(reason + n, sizeof reason - (size_t)n, fmt, ap);
    va_end(ap);
    jump(1);
}

void t_skip(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(reason, sizeof reason, fmt, ap);
    va_end(ap);
    jump(2);
}

void t_str(const char *file, int line, const char *expr, const char *a, const char *b)
{
    if (!a || !b || strcmp(a, b) != 0)
        t_fail(file, line, "%s = \"%s\", wanted \"%s\"", expr, a ? a : "(null)", b ? b : "(null)");
}

void t_err(const char *file, int line, const char *expr, q_status got, q_err *err, q_status want,
           const char *part)
{
    if (got != want)
        t_fail(file, line, "%s: %s (%s), wanted %s", expr, q_status_name(got), err->msg,
               q_status_name(want));
    if (!strstr(err->msg, part))
        t_fail(file, line, "%s: message \"%s\" lacks \"%s\"", expr, err->msg, part);
    memset(err, 0, sizeof *err);
}

const char *t_shared(const char *path)
{
    static char buf[4][512];
    static int turn;
    const char *root = getenv("QWENKIT_SHARED");
    char *p = buf[turn++ & 3];

    snprintf(p, sizeof buf[0], "%s/%s", root ? root : "../shared", path);
    if (!q_path_exists(p))
        t_skip("%s is not there", p);
    return p;
}

int t_long(void)
{
    const char *on = getenv("QWENKIT_LONG");

    return on && *on;
}

const char *t_tmpdir(void)
{
    if (!tmpdir[0]) {
        snprintf(tmpdir, sizeof tmpdir, "/tmp/qwenkit-test-XXXXXX");
        if (!mkdtemp(tmpdir))
            t_fail(__FILE__, __LINE__, "cannot make a directory in /tmp");
    }
    return tmpdir;
}

const char *t_tmp(const char *name)
{
    static char buf[64][256];
    static int turn;
    char *p = buf[turn++ & 63];

    snprintf(p, sizeof buf[0], "%s/%s", t_tmpdir(), name);
    return p;
}

double t_max_abs_diff(const float *a, const float *b, size_t n)
{
    double max = 0;

    for (size_t i = 0; i < n; i++) {
        const double d = fabs((double)a[i] - (double)b[i]);

        if (!(d <= max)) /* a NaN is kept */
            max = d;
    }
    return max;
}

float *t_npy_f32(const char *path, int64_t *shape, int ndim)
{
    q_buf b = { 0 };
    q_err err = { 0 };
    size_t header, n = 1;
    const char *p;
    float *v;

    T_OK(q_file_slurp(&b, path, (size_t)1 << 30, &err), err);
    if (b.size < 10 || memcmp(b.data, "\x93NUMPY\x01", 7) != 0)
        t_fail(path, 0, "not a version 1 .npy file");
    header = 10 + (size_t)(uint8_t)b.data[8] + ((size_t)(uint8_t)b.data[9] << 8);
    if (header > b.size || !strstr(b.data + 10, "'<f4'") || !strstr(b.data + 10, "False") ||
        !(p = strchr(b.data + 10, '(')))
        t_fail(path, 0, "not a float32 array in C order");
    for (int i = 0; i < ndim; i++) {
        char *end;

        shape[i] = strtoll(p + 1, &end, 10);
        p = end;
        n *= (size_t)shape[i];
    }
    if (b.size - header != n * sizeof *v)
        t_fail(path, 0, "%zu bytes of data, wanted %zu", b.size - header, n * sizeof *v);
    if (!(v = q_malloc(n * sizeof *v)))
        t_fail(path, 0, "no memory");
    memcpy(v, b.data + header, n * sizeof *v);
    q_buf_free(&b);
    return v;
}

/* 0 passed, 1 failed, 2 skipped: what t_fail and t_skip jump back with */
static int run_one(void (*fn)(void))
{
    const int how = setjmp(back);

    if (how == 0)
        fn();
    return how;
}

#ifdef HAVE_CMOCKA
/* The test runs inside cmocka, so that a crash is reported as a failure of this test and the ones
 * behind it still run. */
static int outcome;

static void in_cmocka(void **fn)
{
    void (*test)(void);

    memcpy(&test, fn, sizeof test);
    outcome = run_one(test);
    if (outcome == 1)
        _fail(__FILE__, __LINE__);
}

static int run_guarded(const t_case *c)
{
    void *fn;
    struct CMUnitTest test = { .name = c->name, .test_func = in_cmocka };

    memcpy(&fn, &c->fn, sizeof fn);
    test.initial_state = fn;
    outcome = 1;
    snprintf(reason, sizeof reason, "crashed");
    _cmocka_run_group_tests(c->name, &test, 1, NULL, NULL);
    return outcome;
}
#else
static int run_guarded(const t_case *c)
{
    return run_one(c->fn);
}
#endif

int t_main(int argc, char **argv, const t_case *cases)
{
    int n = 0, failed = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
#ifdef HAVE_CMOCKA
    cmocka_set_message_output(CM_OUTPUT_STDOUT); /* the TAP lines are ours */
#endif
    for (const t_case *c = cases; c->name; c++) {
        int how;

        if (argc > 1 && strcmp(argv[1], c->name) != 0)
            continue;
        n++;
        how = run_guarded(c);
        if (how == 0)
            printf("ok %d - %s\n", n, c->name);
        else if (how == 2)
            printf("ok %d - %s # SKIP %s\n", n, c->name, reason);
        else
            printf("not ok %d - %s\n# %s\n", n, c->name, reason);
        failed += how == 1;
    }
    printf("1..%d\n", n);
    if (tmpdir[0])
        q_dir_remove(tmpdir, NULL);
    return failed != 0 || n == 0;
}
