/* Ranks for programs. */
#include "calibrate/ranks_cli.h"

#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

/* What fails in all ranks alike is said by rank 0, which ends the others meanwhile; and so is what
 * failed in another: mpirun sends SIGTERM, and SIGKILL a second later. */
#define FIRST_WORD 2 /* seconds */

/* Threads of a rank: its part of the cores, unless mpirun has bound it to some. */
static void share_cores(const rt_comm *c, q_cli *cli)
{
    const long all = sysconf(_SC_NPROCESSORS_ONLN);
    const int part = (int)(all / c->ranks);
    cpu_set_t set;

    if (cli->threads > 0 || getenv("OMP_NUM_THREADS") ||
        sched_getaffinity(0, sizeof set, &set) != 0)
        return;
    if (CPU_COUNT(&set) >= all)
        cli->threads = part > 0 ? part : 1;
    else if (CPU_COUNT(&set) < part && c->rank == 0)
        q_log_warn(&cli->log, "a rank may use %d of its %d cores: mpirun --bind-to none gives all",
                   CPU_COUNT(&set), part);
}

q_status cal_ranks_open(rt_comm **out, q_cli *cli, q_err *err)
{
    q_status st = Q_OK;
    rt_comm *c = NULL;

    if (cli->ranks < 2)
        return Q_OK;
    Q_TRY(rt_comm_open(&c, err));
    if (c->ranks != cli->ranks)
        Q_FAIL(err, Q_EUNSUPPORTED,
               "mpirun started %d ranks, MPI knows of %d: mpirun is not of the MPI that this build "
               "uses",
               cli->ranks, c->ranks);
    share_cores(c, cli);
    if (c->rank > 0) {
        cli->log.level = Q_LOG_ERROR;
        cli->log.progress = 0;
    }
    *out = c;
    c = NULL;
out:
    rt_comm_close(c);
    return st;
}

int cal_ranks_work(const rt_comm *c, int calibrates)
{
    return calibrates || rt_comm_rank(c) == 0;
}

int cal_ranks_exit(rt_comm *c, const q_cli *cli, q_status st, const q_err *err)
{
    int code = q_exit_code(st);

    /* the signal of an mpirun that ends all interrupts the sleep */
    if (st == Q_OK || rt_comm_rank(c) == 0 || sleep(FIRST_WORD) == 0)
        code = q_cli_exit(cli, st, err);
    if (code != 0)
        rt_comm_abort(c, code);
    rt_comm_close(c);
    return code;
}
