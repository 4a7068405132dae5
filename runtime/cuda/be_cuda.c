/* The CUDA backend: opening, memory, copies, graphs.
 *
 * Everything runs on one stream.  copy to the device returns when the host array may be reused,
 * which for pageable memory is what cudaMemcpyAsync does; copy to the host, and any copy of memory
 * of host_alloc, needs a sync before the array is used.  All scratch is made when the backend
 * opens: about 200 MiB.
 *
 * A graph is what a step enqueued, captured once and replayed as one launch.  The first call of a
 * step runs plainly, because the first launch of a kernel loads its code, which must not happen
 * inside a capture; the second is captured. */
#include "runtime/cuda/be_cuda.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/q_mem.h"
#include "runtime/cuda/cu.h"
#include "runtime/cuda/cu_comm.h"

#define COPY_BYTES  ((size_t)1 << 30) /* a copy of several times the L2 */
#define COPY_PASSES 8

q_status cu_fail(q_err *err, cudaError_t e, const char *what)
{
    const int memory = e == cudaErrorMemoryAllocation;
    const char *paren = strchr(what, '(');

    return q_fail(err, memory ? Q_ENOMEM : Q_EFAIL, "cuda: %.*s: %s",
                  paren ? (int)(paren - what) : 80, what, cudaGetErrorString(e));
}

/* ---- memory --------------------------------------------------------------------------------- */

/* Room for one more entry of the table of blocks. */
static q_status reserve_block(cu_be *c, q_err *err)
{
    const size_t cap = c->cap ? 2 * c->cap : 64;
    cu_block *v = NULL;

    if (c->live < c->cap)
        return Q_OK;
    if (!(v = q_calloc(cap, sizeof *v)))
        return q_fail(err, Q_ENOMEM, "cuda: no memory to count blocks");
    if (c->live)
        memcpy(v, c->block, c->live * sizeof *v);
    q_free(c->block);
    c->block = v;
    c->cap = cap;
    return Q_OK;
}

q_status cu_alloc(rt_backend *be, size_t bytes, void **out, q_err *err)
{
    q_status st = Q_OK;
    cu_be *c = cu_of(be);
    size_t idle = 0, all = 0;
    void *p = NULL;
    cudaError_t e = cudaErrorMemoryAllocation;

    if (be->max_bytes && be->used + bytes > be->max_bytes)
        Q_FAIL(err, Q_ENOMEM,
               "cuda: %zu bytes more than the %llu in use pass the budget of %llu: allow more with "
               "--max-vram",
               bytes, (unsigned long long)be->used, (unsigned long long)be->max_bytes);
    Q_TRY(reserve_block(c, err));
    if (be->n_alloc != 1)
        e = cudaMalloc(&p, bytes ? bytes : 1);
    if (e == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError(); /* not sticky: the next call must not see it */
        (void)cudaMemGetInfo(&idle, &all);
        Q_FAIL(err, Q_ENOMEM, "%s: no device memory for %zu bytes, %zu of %zu are free",
               be->ops ? be->ops->name : "cuda", bytes, idle, all);
    }
    CU_TRY(e);
    if (be->n_alloc > 1)
        be->n_alloc--;
    c->block[c->live++] = (cu_block){ p, bytes };
    be->used += bytes;
    be->peak = be->used > be->peak ? be->used : be->peak;
    *out = p;
out:
    return st;
}

void cu_free(rt_backend *be, void *p)
{
    cu_be *c = cu_of(be);
    size_t i;

    if (!p)
        return;
    i = c->live;
    (void)cudaFree(p);           /* waits for the kernels that use it */
    while (c->block[--i].p != p) /* what is freed is mostly what came last */
        assert(i > 0);
    be->used -= c->block[i].bytes;
    c->block[i] = c->block[--c->live];
}

static q_status host_alloc_cuda(rt_backend *be, size_t bytes, void **out, q_err *err)
{
    (void)be;
    if (cudaMallocHost(out, bytes ? bytes : 1) == cudaSuccess)
        return Q_OK;
    (void)cudaGetLastError();
    return q_fail(err, Q_ENOMEM, "cuda: no memory for %zu bytes that the device reads by itself",
                  bytes);
}

static void host_free_cuda(rt_backend *be, void *p)
{
    (void)be;
    if (p)
        (void)cudaFreeHost(p);
}

static q_status copy_cuda(rt_backend *be, void *dst, const void *src, size_t bytes, rt_dir dir,
                          q_err *err)
{
    q_status st = Q_OK;
    static const enum cudaMemcpyKind kinds[] = { [RT_TO_DEVICE] = cudaMemcpyHostToDevice,
                                                 [RT_TO_HOST] = cudaMemcpyDeviceToHost,
                                                 [RT_ON_DEVICE] = cudaMemcpyDeviceToDevice };

    if (bytes > 0)
        CU_TRY(cudaMemcpyAsync(dst, src, bytes, kinds[dir], cu_of(be)->stream));
out:
    return st;
}

static q_status sync_cuda(rt_backend *be, q_err *err)
{
    q_status st = Q_OK;

    CU_TRY(cudaStreamSynchronize(cu_of(be)->stream));
out:
    return st;
}

static q_status mark_cuda(rt_backend *be, int slot, q_err *err)
{
    q_status st = Q_OK;
    cu_be *c = cu_of(be);

    CU_TRY(cudaEventRecord(c->mark[slot], c->stream));
out:
    return st;
}

static q_status wait_cuda(rt_backend *be, int slot, q_err *err)
{
    q_status st = Q_OK;

    CU_TRY(cudaEventSynchronize(cu_of(be)->mark[slot]));
out:
    return st;
}

static uint64_t free_bytes_cuda(rt_backend *be, uint64_t *all)
{
    size_t idle = 0, total = 0;

    (void)be;
    if (cudaMemGetInfo(&idle, &total) != cudaSuccess)
        idle = total = 0;
    *all = total;
    return idle;
}

/* Of one multiprocessor, dense f16 with f32 sums: A100 312 TF / 108, A10 125 / 72, L40S 362 / 142,
 * H100 and H200 989.4 / 132, from NVIDIA's data sheets.  int8 has twice as many. */
static double peak_cuda(rt_backend *be, int bits)
{
    static const struct {
        int cc;
        double tera;
    } rows[] = {
        { 80, 312.0 / 108 }, { 86, 125.0 / 72 }, { 89, 362.0 / 142 }, { 90, 989.4 / 132 }
    };
    const cu_be *c = cu_of(be);

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].cc == c->cc)
            return rows[i].tera * 1e12 * c->sms * (bits == 8 ? 2 : 1);
    return 0;
}

static q_status bandwidth_cuda(rt_backend *be, double *bytes_s, q_err *err)
{
    q_status st = Q_OK;
    cu_be *c = cu_of(be);
    cudaEvent_t from = NULL, to = NULL;
    char *p = NULL;
    void *block = NULL;
    float ms = 0, best = 0;

    Q_TRY(cu_alloc(be, 2 * COPY_BYTES, &block, err));
    p = block;
    CU_TRY(cudaEventCreate(&from));
    CU_TRY(cudaEventCreate(&to));
    CU_TRY(cudaMemsetAsync(p, 0x5a, 2 * COPY_BYTES, c->stream));
    for (int i = 0; i < COPY_PASSES; i++) {
        CU_TRY(cudaEventRecord(from, c->stream));
        CU_TRY(cudaMemcpyAsync(p, p + COPY_BYTES, COPY_BYTES, cudaMemcpyDeviceToDevice, c->stream));
        CU_TRY(cudaEventRecord(to, c->stream));
        CU_TRY(cudaEventSynchronize(to));
        CU_TRY(cudaEventElapsedTime(&ms, from, to));
        if (i > 0 && (best == 0 || ms < best)) /* the first one warms up */
            best = ms;
    }
    *bytes_s = 2e3 * (double)COPY_BYTES / (double)best;
out:
    if (from)
        (void)cudaEventDestroy(from);
    if (to)
        (void)cudaEventDestroy(to);
    cu_free(be, block);
    return st;
}

/* ---- opening -------------------------------------------------------------------------------- */

static q_status choose_device(rt_backend *be, cu_be *c, struct cudaDeviceProp *p, q_err *err)
{
    q_status st = Q_OK;
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);

    if (e != cudaSuccess || n == 0) {
        (void)cudaGetLastError();
        Q_FAIL(err, Q_EBACKEND, "cuda: no usable GPU (%s): check nvidia-smi, or use --device cpu",
               e != cudaSuccess ? cudaGetErrorString(e) : "none found");
    }
    if (be->device < 0 || be->device >= n)
        Q_FAIL(err, Q_EBACKEND, "cuda:%d: this machine has %d GPU%s, numbered from 0", be->device,
               n, n == 1 ? "" : "s");
    c->device = be->device;
    if ((e = cudaSetDevice(c->device)) != cudaSuccess ||
        (e = cudaGetDeviceProperties(p, c->device)) != cudaSuccess)
        Q_FAIL(err, Q_EBACKEND, "cuda:%d: %s: use another device, or --device cpu", c->device,
               cudaGetErrorString(e));
    c->cc = 10 * p->major + p->minor;
    c->sms = p->multiProcessorCount;
    if (c->cc < 80)
        Q_FAIL(err, Q_EBACKEND,
               "cuda:%d: %s has compute capability %d.%d, wanted 8.0 or higher: use --device cpu",
               c->device, p->name, p->major, p->minor);
out:
    return st;
}

static q_status make_scratch(rt_backend *be, q_err *err)
{
    q_status st = Q_OK;
    cu_be *c = cu_of(be);
    void *p = NULL;
    const size_t n_pick = CU_PICK_ROWS;
    const size_t seen = n_pick * (size_t)(CU_MAX_VOCAB / 8);

#define MAKE(field, bytes)                                                                         \
    Q_TRY(cu_alloc(be, (bytes), &p, err));                                                         \
    c->field = p;
    MAKE(tile, CU_TILE)
    MAKE(workspace, CU_WORKSPACE)
    MAKE(part, sizeof(float) * CU_UNITS * CU_UNIT_ROWS * (CU_MAX_HD + 4))
    MAKE(arrived, sizeof(int32_t) * CU_UNITS)
    MAKE(barrier, 2 * sizeof(uint32_t))
    MAKE(seen, seen)
    MAKE(hist, sizeof(int32_t) * (size_t)CU_HIST)
    MAKE(pick_row, n_pick * cu_pick_row_bytes())
    MAKE(pick_max, sizeof(float) * n_pick * CU_PICK_PARTS)
    MAKE(pick_at, sizeof(int32_t) * n_pick * CU_PICK_PARTS)
#undef MAKE
    c->hist_host = q_malloc(sizeof(int32_t) * (size_t)CU_HIST);
    c->pick_host = q_calloc(n_pick, cu_pick_row_bytes());
    if (!c->hist_host || !c->pick_host)
        Q_FAIL(err, Q_ENOMEM, "cuda: no memory for histories");
    CU_TRY(cudaMemsetAsync(c->arrived, 0, sizeof(int32_t) * CU_UNITS, c->stream));
    CU_TRY(cudaMemsetAsync(c->barrier, 0, 2 * sizeof(uint32_t), c->stream));
    CU_TRY(cudaMemsetAsync(c->seen, 0, seen, c->stream));
out:
    return st;
}

static void close_cuda(rt_backend *be)
{
    cu_be *c = cu_of(be);
    void *all[10];

    if (!c)
        return;
    memcpy(all,
           ((void *[]){ c->tile, c->workspace, c->part, c->arrived, c->seen, c->hist, c->pick_row,
                        c->pick_max, c->pick_at, c->barrier }),
           sizeof all);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        cu_free(be, all[i]);
    q_free(c->hist_host);
    q_free(c->pick_host);
    cu_strips_free(be);
    assert(c->live == 0); /* everything else was given back before */
    q_free(c->block);
    cu_lt_close(c->lt);
    for (int i = 0; i < 2; i++)
        if (c->mark[i])
            (void)cudaEventDestroy(c->mark[i]);
    if (c->stream)
        (void)cudaStreamDestroy(c->stream);
    q_free(c);
    be->impl = NULL;
}

static q_status open_cuda(rt_backend *be, q_err *err)
{
    q_status st = Q_OK;
    struct cudaDeviceProp p;
    char version[32] = "no cuBLASLt";
    cu_be *c = q_calloc(1, sizeof *c);

    if (!c)
        Q_FAIL(err, Q_ENOMEM, "cuda: no memory");
    be->impl = c;
    Q_TRY(choose_device(be, c, &p, err));
    /* a step ends with a wait of microseconds: spinning wakes up at once */
    (void)cudaSetDeviceFlags(cudaDeviceScheduleSpin);
    CU_TRY(cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking));
    for (int i = 0; i < 2; i++)
        CU_TRY(cudaEventCreateWithFlags(&c->mark[i], cudaEventDisableTiming));
    Q_TRY(cu_lt_open(&c->lt, version, sizeof version, err));
    Q_TRY(make_scratch(be, err));
    CU_TRY(cudaStreamSynchronize(c->stream));
    snprintf(be->title, sizeof be->title, "cuda:%d %.60s, %d SMs, %.0f GB, %s", c->device, p.name,
             c->sms, (double)p.totalGlobalMem / 1e9, version);
out:
    if (st != Q_OK)
        close_cuda(be);
    return st;
}

/* ---- graphs --------------------------------------------------------------------------------- */

typedef struct graph {
    cudaGraphExec_t exec; /* NULL: ran once, plainly */
} graph;

static q_status capture(cu_be *c, graph *g, rt_step_fn step, void *user, q_err *err)
{
    q_status st = Q_OK;
    cudaGraph_t made = NULL;
    cudaError_t e;

    CU_TRY(cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal));
    st = step(user, err);
    e = cudaStreamEndCapture(c->stream, &made); /* also after an error: it ends the capture */
    if (st != Q_OK)
        goto out;
    CU_TRY(e);
    CU_TRY(cudaGraphInstantiate(&g->exec, made, 0));
out:
    if (made)
        (void)cudaGraphDestroy(made);
    return st;
}

static q_status graph_cuda(rt_backend *be, void **at, rt_step_fn step, void *user, q_err *err)
{
    q_status st = Q_OK;
    cu_be *c = cu_of(be);
    graph *g = *at;

    if (!g) {
        if (!(*at = q_calloc(1, sizeof *g)))
            Q_FAIL(err, Q_ENOMEM, "cuda: no memory for a graph");
        return step(user, err);
    }
    if (!g->exec)
        Q_TRY(capture(c, g, step, user, err));
    CU_TRY(cudaGraphLaunch(g->exec, c->stream));
out:
    return st;
}

static void ungraph_cuda(rt_backend *be, void *at)
{
    graph *g = at;

    (void)be;
    if (g && g->exec)
        (void)cudaGraphExecDestroy(g->exec);
    q_free(g);
}

void cu_launch_set(cu_launch *l, const cu_be *c, dim3 grid, dim3 block, size_t shared)
{
    memset(l, 0, sizeof *l);
    l->attr.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    l->attr.val.programmaticStreamSerializationAllowed = 1;
    l->config.gridDim = grid;
    l->config.blockDim = block;
    l->config.dynamicSmemBytes = shared;
    l->config.stream = c->stream;
    l->config.attrs = &l->attr;
    l->config.numAttrs = c->cc >= 90;
}

/* Weights that become f16 in every step want many tokens for that; with others activations should
 * stay in L2, which costs less power than memory, and power is the limit.  Qwen-7B, 8 x 2048 tokens
 * on an H200, tokens/s with 2048, 4096 and 8192 a step: f16 44,640, 43,940, 43,760; int8 39,920,
 * 41,430, 42,130; int4 41,440, 42,420, 43,740. */
static int step_tokens_cuda(const rt_weight *w)
{
    const cu_scheme s = cu_scheme_of(w);

    return s == CU_F16 || s == CU_W8A8 ? 2048 : 8192;
}

const rt_backend_ops cuda_backend = {
    .name = "cuda",
    .act = FMT_F16,
    .step_tokens = step_tokens_cuda,
    .open = open_cuda,
    .close = close_cuda,
    .alloc = cu_alloc,
    .free = cu_free,
    .copy = copy_cuda,
    .copy_pieces = cu_copy_pieces,
    .sync = sync_cuda,
    .host_alloc = host_alloc_cuda,
    .host_free = host_free_cuda,
    .prep = cu_prep,
    .unprep = cu_unprep,
    .embed = cu_embed,
    .rmsnorm = cu_rmsnorm,
    .linear = cu_linear,
    .qkv_rope_store = cu_qkv_rope_store,
    .attention = cu_attention,
    .pick = cu_pick,
    .keys = cu_keys,
    .math = cu_math_open,
    .join = cu_join,
    .weight_get = cu_weight_get,
    .weight_set = cu_weight_set,
    .layers = cu_layers,
    .graph = graph_cuda,
    .ungraph = ungraph_cuda,
    .mark = mark_cuda,
    .wait = wait_cuda,
    .bandwidth = bandwidth_cuda,
    .free_bytes = free_bytes_cuda,
    .peak = peak_cuda,
};
