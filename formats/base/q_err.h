/* Status codes and error messages, one for all folders.
 *
 *     q_status thing_open(thing **out, const char *path, q_err *err)
 *     {
 *         q_status st = Q_OK;
 *         thing *t = q_calloc(1, sizeof *t);
 *
 *         if (!t)
 *             Q_FAIL(err, Q_ENOMEM, "%s: no memory", path);
 *         Q_TRY(thing_read(t, path, err));
 *         *out = t;
 *         t = NULL;
 *     out:
 *         thing_close(t);
 *         return st;
 *     }
 *
 * A q_err belongs to the caller, may be NULL, and keeps the first message written to it.  The
 * message names what failed, where, the value found, the value wanted and the next step.
 * Threads: a q_err is used by one thread at a time. */
#ifndef Q_ERR_H
#define Q_ERR_H

#ifdef __cplusplus
extern "C" {
#endif

/* name, exit code of a program that ends with it, short text */
#define Q_STATUS_MAP(X)                                                                            \
    X(Q_OK, 0, "ok")                                                                               \
    X(Q_EFAIL, 1, "run failed")                                                                    \
    X(Q_EGATE, 2, "quality gate failed")                                                           \
    X(Q_EARG, 64, "usage")                                                                         \
    X(Q_EFORMAT, 65, "bad data")                                                                   \
    X(Q_ESHAPE, 65, "wrong size")                                                                  \
    X(Q_ENOINPUT, 66, "input missing")                                                             \
    X(Q_EBACKEND, 69, "device not available")                                                      \
    X(Q_EBUG, 70, "internal error")                                                                \
    X(Q_ENOMEM, 71, "out of memory")                                                               \
    X(Q_EOS, 71, "operating system error")                                                         \
    X(Q_ECREATE, 73, "cannot create output")                                                       \
    X(Q_EIO, 74, "read or write failed")                                                           \
    X(Q_ECANCEL, 75, "stopped")                                                                    \
    X(Q_EPERM, 77, "permission denied")                                                            \
    X(Q_EUNSUPPORTED, 78, "not supported")                                                         \
    X(Q_ECONFIG, 78, "bad configuration")

typedef enum q_status {
#define X(name, exit_code, text) name,
    Q_STATUS_MAP(X)
#undef X
} q_status;

#define Q_ERR_MSG 512

typedef struct q_err {
    q_status code;
    char msg[Q_ERR_MSG];
} q_err;

#if defined(__GNUC__)
#define Q_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define Q_PRINTF(f, a)
#endif

/* Write code and message into err unless it already holds an error; returns code. */
q_status q_fail(q_err *err, q_status code, const char *fmt, ...) Q_PRINTF(3, 4);

/* The same for a failed system call: the code follows from errno (ENOENT -> Q_ENOINPUT, EACCES ->
 * Q_EPERM, ENOMEM -> Q_ENOMEM, others -> dflt) and strerror is appended. */
q_status q_fail_errno(q_err *err, q_status dflt, int errnum, const char *fmt, ...) Q_PRINTF(4, 5);

int q_exit_code(q_status st);           /* sysexits value of a status */
const char *q_status_name(q_status st); /* "Q_EFORMAT" */
const char *q_status_text(q_status st); /* "bad data" */

/* Both need a local `q_status st` and a label `out:`. */
#define Q_TRY(call)                                                                                \
    do {                                                                                           \
        if ((st = (call)) != Q_OK)                                                                 \
            goto out;                                                                              \
    } while (0)

#define Q_FAIL(err, code, ...)                                                                     \
    do {                                                                                           \
        st = q_fail((err), (code), __VA_ARGS__);                                                   \
        goto out;                                                                                  \
    } while (0)

#define Q_FAIL_ERRNO(err, dflt, ...)                                                               \
    do {                                                                                           \
        st = q_fail_errno((err), (dflt), errno, __VA_ARGS__);                                      \
        goto out;                                                                                  \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
