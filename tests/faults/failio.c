/* Preloaded into a program: makes the n-th call of a kind fail.
 *
 *     FAIL_CALL=write FAIL_AT=7 FAIL_ERRNO=5 FAIL_MARK=/tmp/mark LD_PRELOAD=failio.so program ...
 *
 *   FAIL_CALL   write (and pwrite), read (pread), open (openat), fsync, close, rename, malloc;
 *               short: writes take 1 to 7 bytes, every third one is interrupted (EINTR);
 *               storm: a timer signal every millisecond interrupts whatever can be;
 *               slow: every write waits FAIL_AT milliseconds, so that a signal finds it at work
 *   FAIL_AT     1: the first call, counted over all threads
 *   FAIL_ERRNO  5 (EIO) unless given
 *   FAIL_STICKY 1: all calls from the n-th on fail
 *   FAIL_PATH   only files whose path contains this text (open and rename alone; others go by the
 *               descriptor and skip 0, 1 and 2)
 *   FAIL_MARK   this file is made when a call was failed, so that a test knows where to stop
 *
 * Calls made inside libc (stdio, opendir, the loader) are not seen.  A failed close closes. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void *__libc_memalign(size_t align, size_t n);

static char kind[16], mark[256], only[256];
static long fail_at;
static int fail_errno = EIO, sticky;
static atomic_long seen;

static void on_alarm(int sig)
{
    (void)sig;
}

static void start_storm(void)
{
    const struct itimerval every = { { 0, 1000 }, { 0, 1000 } };
    struct sigaction sa = { .sa_handler = on_alarm }; /* no SA_RESTART */

    sigaction(SIGALRM, &sa, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
}

static void copy(char *to, size_t cap, const char *name)
{
    const char *v = getenv(name);

    if (v && strlen(v) < cap)
        strcpy(to, v);
}

__attribute__((constructor)) static void setup(void)
{
    const char *v;

    copy(mark, sizeof mark, "FAIL_MARK");
    copy(only, sizeof only, "FAIL_PATH");
    if ((v = getenv("FAIL_AT")))
        fail_at = atol(v);
    if ((v = getenv("FAIL_ERRNO")))
        fail_errno = atoi(v);
    sticky = getenv("FAIL_STICKY") != NULL;
}

typedef int main_fn(int argc, char **argv, char **env);
typedef int start_fn(main_fn *main, int argc, char **argv, void (*init)(void), void (*fini)(void),
                     void (*rtld_fini)(void), void *stack);

start_fn __libc_start_main;
static main_fn *program;

/* Counting begins with the program: initializers of libraries are not ours, and some do not look at
 * what malloc gives them. */
static int counted_main(int argc, char **argv, char **env)
{
    copy(kind, sizeof kind, "FAIL_CALL");
    if (strcmp(kind, "storm") == 0)
        start_storm();
    return program(argc, argv, env);
}

int __libc_start_main(main_fn *main, int argc, char **argv, void (*init)(void), void (*fini)(void),
                      void (*rtld_fini)(void), void *stack)
{
    start_fn *real = (start_fn *)(uintptr_t)dlsym(RTLD_NEXT, "__libc_start_main");

    program = main;
    return real(counted_main, argc, argv, init, fini, rtld_fini, stack);
}

/* 1 and errno when this call of `what` is to fail */
static int fails(const char *what)
{
    long n;
    int fd;

    if (strcmp(kind, what) != 0)
        return 0;
    n = atomic_fetch_add(&seen, 1) + 1;
    if (n != fail_at && !(sticky && n > fail_at))
        return 0;
    if (mark[0] && n == fail_at) { /* by system call: no counted function, no malloc */
        fd = (int)syscall(SYS_openat, AT_FDCWD, mark, O_WRONLY | O_CREAT, 0600);
        if (fd >= 0)
            syscall(SYS_close, fd);
    }
    errno = fail_errno;
    return 1;
}

static int fails_on(const char *what, const char *path)
{
    return (!only[0] || strstr(path, only)) && fails(what);
}

/* Bytes that this write takes; 0: interrupted.  All of them but with FAIL_CALL=short. */
static size_t taken(size_t n)
{
    static atomic_ulong turn;
    unsigned long t;

    if (strcmp(kind, "slow") == 0)
        usleep((useconds_t)fail_at * 1000);
    if (strcmp(kind, "short") != 0)
        return n;
    t = atomic_fetch_add(&turn, 1);
    if (t % 3 == 2)
        return 0;
    return n < 1 + t % 7 ? n : 1 + t % 7;
}

ssize_t write(int fd, const void *p, size_t n)
{
    size_t k = n;

    if (fd > 2) {
        if (fails("write"))
            return -1;
        k = taken(n);
        if (k == 0 && n > 0) {
            errno = EINTR;
            return -1;
        }
    }
    return syscall(SYS_write, fd, p, k);
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
    size_t k;

    if (fails("write"))
        return -1;
    k = taken(n);
    if (k == 0 && n > 0) {
        errno = EINTR;
        return -1;
    }
    return syscall(SYS_pwrite64, fd, p, k, at);
}

ssize_t pread(int fd, void *p, size_t n, off_t at)
{
    return fails("read") ? -1 : syscall(SYS_pread64, fd, p, n, at);
}

static int open_with(int dirfd, const char *path, int flags, va_list ap)
{
    const int mode = flags & O_CREAT ? va_arg(ap, int) : 0;

    return fails_on("open", path) ? -1 : (int)syscall(SYS_openat, dirfd, path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    va_list ap;
    int fd;

    va_start(ap, flags);
    fd = open_with(AT_FDCWD, path, flags, ap);
    va_end(ap);
    return fd;
}

int openat(int dirfd, const char *path, int flags, ...)
{
    va_list ap;
    int fd;

    va_start(ap, flags);
    fd = open_with(dirfd, path, flags, ap);
    va_end(ap);
    return fd;
}

int fsync(int fd)
{
    return fails("fsync") ? -1 : (int)syscall(SYS_fsync, fd);
}

int close(int fd)
{
    const int bad = fd > 2 && fails("close");
    const int why = errno, rc = (int)syscall(SYS_close, fd);

    if (bad)
        errno = why;
    return bad ? -1 : rc;
}

int rename(const char *from, const char *to)
{
    return fails_on("rename", to) ? -1 : (int)syscall(SYS_rename, from, to);
}

int renameat2(int fromfd, const char *from, int tofd, const char *to, unsigned flags)
{
    return fails_on("rename", to) ? -1 : (int)syscall(SYS_renameat2, fromfd, from, tofd, to, flags);
}

void *malloc(size_t n)
{
    return fails("malloc") ? NULL : __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    return fails("malloc") ? NULL : __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    return fails("malloc") ? NULL : __libc_realloc(p, n);
}

void *aligned_alloc(size_t align, size_t n)
{
    return fails("malloc") ? NULL : __libc_memalign(align, n);
}

int posix_memalign(void **out, size_t align, size_t n)
{
    void *p = fails("malloc") ? NULL : __libc_memalign(align, n);

    if (!p)
        return ENOMEM;
    *out = p;
    return 0;
}
