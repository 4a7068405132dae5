/* Messages and progress for people, handed down from a program.
 *
 *     q_log_warn(log, "%s: %lld values outside the f16 range", name, n);
 *
 *     q_progress *p = q_progress_open(log, "converting", total_bytes, "B");
 *     q_progress_add(p, n);             (any thread)
 *     q_progress_close(p);
 *
 * A NULL q_log is silent, so libraries pass on what they were given.  A program makes one with
 * q_cli; everything goes to stderr.  On a terminal progress is one line redrawn at most ten times a
 * second with rate and time left; elsewhere nothing is drawn unless it was asked for, then one
 * plain line every ten seconds.  Threads: q_progress_add and the message functions are thread-safe.
 */
#ifndef Q_LOG_H
#define Q_LOG_H

#include <stdint.h>

#include "formats/base/q_err.h"

typedef enum q_log_level { Q_LOG_ERROR, Q_LOG_WARN, Q_LOG_INFO, Q_LOG_DEBUG } q_log_level;

typedef struct q_log {
    q_log_level level; /* messages above it are dropped */
    int progress;      /* 0 none, 1 plain lines, 2 redrawn line */
    const char *name;  /* program name in front of each message */
} q_log;

typedef struct q_progress q_progress;

void q_log_put(const q_log *log, q_log_level level, const char *fmt, ...) Q_PRINTF(3, 4);
#define q_log_warn(log, ...)  q_log_put((log), Q_LOG_WARN, __VA_ARGS__)
#define q_log_info(log, ...)  q_log_put((log), Q_LOG_INFO, __VA_ARGS__)
#define q_log_debug(log, ...) q_log_put((log), Q_LOG_DEBUG, __VA_ARGS__)

/* NULL when nothing is to be drawn (or no memory): all functions accept it.  unit "B" prints
 * sizes in KB, MB, GB; anything else is printed as given ("tokens"). */
q_progress *q_progress_open(const q_log *log, const char *what, uint64_t total, const char *unit);
void q_progress_add(q_progress *p, uint64_t n);
/* Work that goes in rounds, some of which nothing can be added for (layers: passes, then a solver):
 * what is shown from now on, and the rate is taken over the last ten rounds. */
void q_progress_round(q_progress *p, const char *what);
void q_progress_close(q_progress *p);

double q_now(void); /* seconds of a monotonic clock */

#endif
