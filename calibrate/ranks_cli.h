/* Several ranks of one program under mpirun.
 *
 *     static struct opts { ...; q_cli cli; } o = { .cli.several = 1 };
 *     st = q_cli_parse(&o.cli, ...);
 *     if (st == Q_OK)
 *         st = cal_ranks_open(&o.run.comm, &o.cli, &err);     NULL without mpirun
 *     if (st == Q_OK && cal_ranks_work(o.run.comm, calibrates))
 *         st = run(...);                                      ranks but the first: the loop alone
 *     return cal_ranks_exit(o.run.comm, &o.cli, st, &err);    of main
 *
 * Rank 0 prints, logs and writes; the others compute.  One that fails ends all, with its exit code.
 * Only programs and *_cli files include this file. */
#ifndef CAL_RANKS_CLI_H
#define CAL_RANKS_CLI_H

#include "formats/base/q_cli.h"
#include "runtime/comm.h"

/* Silences the ranks but the first, and gives each its part of the cores.  Errors: those of
 * rt_comm_open; Q_EUNSUPPORTED (mpirun is of another MPI). */
q_status cal_ranks_open(rt_comm **out, q_cli *cli, q_err *err);
/* Whether this rank has anything to do: rank 0 always, the others where samples are shared out. */
int cal_ranks_work(const rt_comm *c, int calibrates);
/* Like q_cli_exit; ends the ranks. */
int cal_ranks_exit(rt_comm *c, const q_cli *cli, q_status st, const q_err *err);

#endif
