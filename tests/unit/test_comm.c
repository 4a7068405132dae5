/* Sums over ranks: the bits of a binary tree over them, in every rank; largest, smallest, and what
 * one rank tells the others.  Alone nothing happens; tests/cli/ranks.sh starts this program again
 * under mpirun. */
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_mem.h"
#include "runtime/backend.h"
#include "runtime/comm.h"
#include "tests/t.h"

static rt_comm *comm;

/* What a rank brings: of every size, so that another order of a sum has other bits. */
static float of_rank(int rank, int64_t i)
{
    const uint32_t h = (uint32_t)(i * 2654435761u) ^ (uint32_t)(rank * 40503 + 977);
    const float v = (float)(h % 20011) - 10005;

    return (h >> 16) % 3 == 0 ? v * 4096 : v / 3;
}

/* The sum over ranks first .. first + n - 1, as a tree. */
static double tree(int first, int n, int64_t i, int wide)
{
    double a, b;

    if (n == 1)
        return wide ? (double)of_rank(first, i) / 7 : (double)of_rank(first, i);
    a = tree(first, n / 2, i, wide);
    b = tree(first + n / 2, n / 2, i, wide);
    return wide ? a + b : (double)((float)a + (float)b);
}

static void t_sums_are_a_tree(void)
{
    enum { N = 700001 }; /* more than one piece, and a part of one */
    const int rank = rt_comm_rank(comm), ranks = rt_comm_ranks(comm);
    float *v = q_calloc(N, sizeof *v);
    double *w = q_calloc(N, sizeof *w);
    int64_t other = 0;
    q_err err = { 0 };

    T_TRUE(v && w);
    for (int64_t i = 0; i < N; i++) {
        v[i] = of_rank(rank, i);
        w[i] = (double)v[i] / 7;
    }
    T_OK(rt_comm_reduce(comm, v, N, RT_SUM_F32, &err), err);
    T_OK(rt_comm_reduce(comm, w, N, RT_SUM_F64, &err), err);
    for (int64_t i = 0; i < N; i++) {
        float one_by_one = 0;

        T_TRUE((double)v[i] == tree(0, ranks, i, 0));
        T_TRUE(w[i] == tree(0, ranks, i, 1));
        for (int r = 0; r < ranks; r++)
            one_by_one += of_rank(r, i);
        other += one_by_one != v[i];
    }
    printf("# %d ranks: %lld of %d sums have other bits when added one by one\n", ranks,
           (long long)other, N);
    T_TRUE(ranks < 4 || other > 1000); /* the order is seen */
    q_free(v);
    q_free(w);
}

static void t_largest_smallest_told(void)
{
    const int rank = rt_comm_rank(comm), ranks = rt_comm_ranks(comm);
    uint32_t most[3] = { (uint32_t)rank, 0xffffff00u + (uint32_t)rank, 7 };
    int64_t least[2] = { -5 * (int64_t)rank, ((int64_t)1 << 40) - rank };
    char text[16] = "";
    q_err err = { 0 };

    T_OK(rt_comm_reduce(comm, most, 3, RT_MAX_U32, &err), err);
    T_INT(most[0], ranks - 1);
    T_INT(most[1], 0xffffff00u + (uint32_t)(ranks - 1));
    T_INT(most[2], 7);
    T_OK(rt_comm_reduce(comm, least, 2, RT_MIN_I64, &err), err);
    T_INT(least[0], -5 * (int64_t)(ranks - 1));
    T_INT(least[1], ((int64_t)1 << 40) - (ranks - 1));
    for (int from = 0; from < ranks; from++) {
        snprintf(text, sizeof text, "of %d", rank);
        T_OK(rt_comm_bcast(comm, text, sizeof text, from, &err), err);
        T_INT(atoi(text + 3), from);
    }
    T_OK(rt_comm_wait(comm, &err), err);
    T_OK(rt_comm_reduce(comm, NULL, 0, RT_SUM_F32, &err), err); /* nothing */
}

/* The same tree through the memory of GPUs, one for each rank. */
static void t_memory_of_gpus(void)
{
    enum { N = 9000017 }; /* more than one piece of those, and a part of one */
    const int rank = rt_comm_rank(comm), ranks = rt_comm_ranks(comm);
    char name[16];
    rt_backend *be = NULL;
    q_err err = { 0 };
    int64_t there;
    float *v;
    void *dev = NULL;

    if (ranks < 2)
        T_SKIP("one rank: see tests/cli/ranks.sh");
    snprintf(name, sizeof name, "cuda:%d", rank);
    there = rt_backend_open(&be, name, 1, &err) == Q_OK;
    err = (q_err){ 0 };
    T_OK(rt_comm_reduce(comm, &there, 1, RT_MIN_I64, &err), err);
    if (!there) {
        rt_backend_close(be);
        T_SKIP("not a GPU for each of %d ranks", ranks);
    }
    T_OK(rt_comm_join(comm, be, &err), err);
    T_TRUE((v = q_calloc(N, sizeof *v)) != NULL);
    for (int64_t i = 0; i < N; i++)
        v[i] = of_rank(rank, i);
    T_OK(be->ops->alloc(be, N * sizeof *v, &dev, &err), err);
    T_OK(be->ops->copy(be, dev, v, N * sizeof *v, RT_TO_DEVICE, &err), err);
    T_OK(rt_comm_sum(comm, dev, N, &err), err);
    T_OK(be->ops->copy(be, v, dev, N * sizeof *v, RT_TO_HOST, &err), err);
    T_OK(be->ops->sync(be, &err), err);
    for (int64_t i = 0; i < N; i++)
        T_TRUE((double)v[i] == tree(0, ranks, i, 0));
    printf("# %d GPUs: %d sums have the bits of the tree\n", ranks, N);
    be->ops->free(be, dev);
    rt_comm_leave(comm);
    rt_backend_close(be);
    q_free(v);
}

static void t_alone(void)
{
    float v = 3;
    q_err err = { 0 };

    T_INT(rt_comm_rank(NULL), 0);
    T_INT(rt_comm_ranks(NULL), 1);
    T_OK(rt_comm_reduce(NULL, &v, 1, RT_SUM_F32, &err), err);
    T_OK(rt_comm_sum(NULL, &v, 1, &err), err);
    T_OK(rt_comm_join(NULL, NULL, &err), err);
    T_TRUE(v == 3.0f);
    rt_comm_leave(NULL);
    rt_comm_close(NULL);
}

static const t_case cases[] = {
    T(t_alone), T(t_sums_are_a_tree), T(t_largest_smallest_told), T(t_memory_of_gpus), { 0 }
};

int main(int argc, char **argv)
{
    q_err err = { 0 };
    int rc;

    if (getenv("OMPI_COMM_WORLD_SIZE") && rt_comm_open(&comm, &err) != Q_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return q_exit_code(err.code);
    }
    rc = t_main(argc, argv, cases);
    if (rc != 0)
        rt_comm_abort(comm, rc);
    rt_comm_close(comm);
    return rc;
}
