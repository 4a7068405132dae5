/* A function in a child process.
 *
 * The child writes { status, bytes of the message, bytes of the result } and both texts into a pipe
 * and ends without any clean-up of its own.  The parent reads to the end; only a complete answer of
 * a child that ended by itself counts. */
#include "formats/apart.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* A minute, and more for large files: each byte may be hashed, or unpacked. */
#define CPU_SECONDS 60
#define CPU_BYTES   ((uint64_t)16 << 20) /* of a second more */

typedef struct answer {
    q_status status;
    q_err err;
    size_t bytes; /* of the result, which follows */
} answer;

static int write_all(int fd, const void *p, size_t n)
{
    const char *at = p;

    while (n > 0) {
        const ssize_t r = write(fd, at, n);

        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            return 0;
        at += r;
        n -= (size_t)r;
    }
    return 1;
}

/* The child: signals as the system has them, no core file, no endless loop. */
static void run(int fd, rlim_t seconds, fmt_apart_fn fn, void *self)
{
    static const int fatal[] = {
        SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGINT, SIGTERM, SIGHUP
    };
    const struct rlimit none = { 0, 0 }, cpu = { seconds, seconds };
    answer a = { 0 };
    q_buf out = { 0 };

    for (size_t i = 0; i < sizeof fatal / sizeof fatal[0]; i++)
        signal(fatal[i], SIG_DFL);
    setrlimit(RLIMIT_CORE, &none);
    setrlimit(RLIMIT_CPU, &cpu);
    a.status = fn(self, &out, &a.err);
    a.bytes = out.size;
    _exit(write_all(fd, &a, sizeof a) && write_all(fd, out.data, out.size) ? 0 : 1);
}

static q_status read_all(q_buf *out, int fd, q_err *err)
{
    q_status st = Q_OK;
    char buf[65536];
    ssize_t n;

    while ((n = read(fd, buf, sizeof buf)) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            Q_FAIL_ERRNO(err, Q_EOS, "cannot read from the child process");
        Q_TRY(q_buf_put(out, buf, (size_t)n, err));
    }
out:
    return st;
}

static q_status take(q_buf *result, const q_buf *got, int wait_status, const char *path, q_err *err)
{
    answer a;

    if (!WIFEXITED(wait_status) || WEXITSTATUS(wait_status) != 0 || got->size < sizeof a)
        return q_fail(
            err, Q_EFORMAT,
            "%s: damaged: the library that reads it crashed on it (%s %d): fetch it again", path,
            WIFSIGNALED(wait_status) ? "signal" : "status",
            WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : WEXITSTATUS(wait_status));
    memcpy(&a, got->data, sizeof a);
    if (a.bytes != got->size - sizeof a)
        return q_fail(err, Q_EFORMAT, "%s: damaged: half an answer from the child process", path);
    a.err.msg[sizeof a.err.msg - 1] = '\0';
    if (a.status != Q_OK)
        return q_fail(err, a.status, "%s", a.err.msg);
    return q_buf_put(result, got->data + sizeof a, a.bytes, err);
}

q_status fmt_apart(q_buf *result, const char *path, fmt_apart_fn fn, void *self, q_err *err)
{
    q_status st = Q_OK;
    q_buf got = { 0 };
    int fd[2] = { -1, -1 }, wait_status = 0;
    struct stat sb;
    rlim_t seconds = CPU_SECONDS;
    pid_t pid;

    q_buf_clear(result);
    if (stat(path, &sb) == 0 && sb.st_size > 0)
        seconds += (rlim_t)((uint64_t)sb.st_size / CPU_BYTES);
    if (pipe(fd) != 0)
        Q_FAIL_ERRNO(err, Q_EOS, "%s: no pipe", path);
    if ((pid = fork()) < 0)
        Q_FAIL_ERRNO(err, Q_EOS, "%s: cannot start a process to look at it", path);
    if (pid == 0)
        run(fd[1], seconds, fn, self);
    close(fd[1]);
    fd[1] = -1;
    st = read_all(&got, fd[0], err);
    while (waitpid(pid, &wait_status, 0) < 0 && errno == EINTR)
        ;
    if (st == Q_OK)
        Q_TRY(take(result, &got, wait_status, path, err));
out:
    q_buf_free(&got);
    for (int i = 0; i < 2; i++)
        if (fd[i] >= 0)
            close(fd[i]);
    return st;
}
