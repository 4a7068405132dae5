/* Status codes and error messages.  The map in q_err.h is the only list of codes. */
#include "formats/base/q_err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name, *text;
    int exit_code;
} status_rows[] = {
#define X(name, exit_code, text) { #name, text, exit_code },
    Q_STATUS_MAP(X)
#undef X
};

static int in_map(q_status st)
{
    return (unsigned)st < sizeof status_rows / sizeof status_rows[0];
}

int q_exit_code(q_status st)
{
    return in_map(st) ? status_rows[st].exit_code : 70;
}

const char *q_status_name(q_status st)
{
    return in_map(st) ? status_rows[st].name : "?";
}

const char *q_status_text(q_status st)
{
    return in_map(st) ? status_rows[st].text : "?";
}

/* Messages carry names found in files: control bytes must not reach a terminal. */
static void clean(char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            *s = '?';
}

q_status q_fail(q_err *err, q_status code, const char *fmt, ...)
{
    va_list ap;

    if (!err || err->code != Q_OK)
        return code;
    err->code = code;
    va_start(ap, fmt);
    vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    clean(err->msg);
    return code;
}

static q_status status_of_errno(int errnum, q_status dflt)
{
    switch (errnum) {
    case ENOENT:
    case ENOTDIR:
        return dflt == Q_ECREATE ? Q_ECREATE : Q_ENOINPUT;
    case EACCES:
    case EPERM:
    case EROFS:
        return Q_EPERM;
    case ENOMEM:
        return Q_ENOMEM;
    case ENOSPC:
    case EDQUOT:
    case EIO:
        return Q_EIO;
    default:
        return dflt;
    }
}

q_status q_fail_errno(q_err *err, q_status dflt, int errnum, const char *fmt, ...)
{
    q_status code = status_of_errno(errnum, dflt);
    size_t n;
    va_list ap;

    if (!err || err->code != Q_OK)
        return code;
    err->code = code;
    va_start(ap, fmt);
    vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    n = strlen(err->msg);
    snprintf(err->msg + n, sizeof err->msg - n, ": %s", strerror(errnum));
    clean(err->msg);
    return code;
}
