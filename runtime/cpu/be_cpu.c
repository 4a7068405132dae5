/* The CPU backend: opening, memory and the preparation of weights.
 *
 * Memory is host memory, so copy is memcpy, and every operation has finished when it returns, so
 * sync has nothing to do.  All scratch is made when the backend opens: one slice per thread, as
 * large as the hungriest operation needs, whatever the shapes (the kernels work on pieces of fixed
 * size).  Steps never allocate.
 *
 * prep of "cpu-ref" takes the arrays as they are.  With SIMD kernels the codes move into one block
 * that starts on a huge page, with rows on cache-line boundaries, and w4 is reordered (cpu.h). */
#include "runtime/cpu/be_cpu.h"

#include <float.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "formats/base/q_mem.h"
#include "quant/linalg.h"
#include "runtime/cpu/group.h"

#define HUGE ((size_t)2 << 20)
/* Blocks of this size and more ask for huge pages: a decode step walks through all weights, and
 * with 4 KiB pages every one of them costs a page walk. */
#define HUGE_FROM ((size_t)4 << 20)

/* Freed with free(), and so is what q_malloc gives. */
void *cpu_block_alloc(size_t bytes)
{
    void *p;

    if (bytes < HUGE_FROM)
        return q_malloc(bytes ? bytes : 1);
    if (posix_memalign(&p, HUGE, bytes) != 0)
        return NULL;
    (void)madvise(p, bytes, MADV_HUGEPAGE); /* advice: refused where it is switched off */
    return p;
}

static int core_count(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

static cpu_isa best_isa(void)
{
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return __builtin_cpu_supports("avx512vnni") ? CPU_VNNI : CPU_AVX512;
    /* every processor with AVX2 and FMA has F16C */
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return CPU_AVX2;
    return CPU_REF;
}

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

static q_status open_isa(rt_backend *be, cpu_isa isa, q_err *err)
{
    q_status st = Q_OK;
    cpu_be *c = NULL;

    if (isa > best_isa())
        Q_FAIL(err, Q_EBACKEND, "this processor has no AVX2: use backend cpu");
    if (be->threads == 0)
        be->threads = core_count();
    if (be->threads > CPU_MAX_THREADS)
        be->threads = CPU_MAX_THREADS;
    if (!(c = q_calloc(1, sizeof *c)))
        Q_FAIL(err, Q_ENOMEM, "cpu: no memory");
    c->isa = isa;
    c->threads = be->threads;
    c->scratch_bytes =
        max_size(max_size(cpu_linear_scratch(), cpu_attn_scratch()), cpu_pick_scratch());
    c->scratch_bytes = (c->scratch_bytes + CPU_ALIGN - 1) / CPU_ALIGN * CPU_ALIGN;
    if (!(c->scratch = cpu_block_alloc(c->scratch_bytes * (size_t)c->threads)))
        Q_FAIL(err, Q_ENOMEM, "cpu: no memory for the scratch of %d threads", c->threads);
    qnt_linalg_init();
    be->impl = c;
    c = NULL;
out:
    q_free(c);
    return st;
}

static q_status open_ref(rt_backend *be, q_err *err)
{
    return open_isa(be, CPU_REF, err);
}

static q_status open_avx2(rt_backend *be, q_err *err)
{
    return open_isa(be, CPU_AVX2, err);
}

static q_status open_best(rt_backend *be, q_err *err)
{
    return open_isa(be, best_isa(), err);
}

static void close_cpu(rt_backend *be)
{
    cpu_be *c = cpu_of(be);

    cpu_codes_free(c->codes);
    free(c->scratch);
    q_free(c);
}

static q_status alloc_cpu(rt_backend *be, size_t bytes, void **out, q_err *err)
{
    void *p = cpu_block_alloc(bytes);

    (void)be;
    if (!p)
        return q_fail(err, Q_ENOMEM, "cpu: no memory for %zu bytes", bytes);
    *out = p;
    return Q_OK;
}

static void free_cpu(rt_backend *be, void *p)
{
    (void)be;
    free(p);
}

static q_status copy_cpu(rt_backend *be, void *dst, const void *src, size_t bytes, rt_dir dir,
                         q_err *err)
{
    (void)be, (void)dir, (void)err;
    if (bytes > 0)
        memcpy(dst, src, bytes);
    return Q_OK;
}

static q_status sync_cpu(rt_backend *be, q_err *err)
{
    (void)be, (void)err;
    return Q_OK;
}

/* Scales, zeros and order of columns go into the panels. */
static q_status prep_groups(cpu_be *c, qnt_tensor *src, rt_weight *w, q_err *err)
{
    q_status st = Q_OK;
    rt_weight made = *w;

    Q_TRY(cpu_group_pack(&made, src, c->threads, err));
    Q_TRY(cpu_codes_reserve(&c->codes, cpu_group_code_bytes(&made), err));
    q_free(src->codes);
    q_free(src->scale);
    q_free(src->zero);
    q_free(src->g_idx);
    src->scale = NULL;
    made.group_bytes = sizeof(uint32_t); /* cpu_group_head */
    *w = made;
    made = (rt_weight){ 0 };
out:
    free(made.data);
    q_free(made.g_idx);
    return st;
}

static q_status prep_cpu(rt_backend *be, qnt_tensor *src, rt_weight *dst, q_err *err)
{
    q_status st = Q_OK;
    cpu_be *c = cpu_of(be);
    rt_weight w = { .scheme = src->scheme, .N = src->N, .K = src->K, .x_scale = src->x_scale };

    if (src->N < 1 || src->K < 1 || src->N > INT32_MAX || src->K > INT32_MAX)
        Q_FAIL(err, Q_ESHAPE, "weight [%lld, %lld]: each side must be 1 .. 2^31 - 1",
               (long long)src->N, (long long)src->K);
    if (cpu_in_codes(src->scheme)) {
        if (!(src->x_scale >= 0) || src->x_scale > FLT_MAX)
            Q_FAIL(err, Q_EARG, "weight [%lld, %lld]: activation scale %g; wanted 0 or more",
                   (long long)src->N, (long long)src->K, (double)src->x_scale);
        Q_TRY(cpu_codes_reserve(&c->codes, src->K, err));
    }
    if (src->scheme->grouped) {
        Q_TRY(prep_groups(c, src, &w, err));
    } else if (cpu_in_panels(c->isa, src->scheme)) {
        Q_TRY(cpu_panel_pack(&w, src, c->threads, err));
        q_free(src->codes);
    } else {
        w.row_bytes = (int64_t)qnt_row_bytes(src->scheme, src->K);
        w.data = src->codes;
    }
    w.scale = src->scale;
    w.bias = src->bias;
    *src = (qnt_tensor){ 0 };
    *dst = w;
out:
    return st;
}

static void unprep_cpu(rt_backend *be, rt_weight *w)
{
    (void)be;
    free(w->data);
    q_free(w->scale);
    q_free(w->bias);
    q_free(w->zero);
    q_free(w->g_idx);
    *w = (rt_weight){ 0 };
}

static int step_tokens_cpu(const rt_weight *w)
{
    (void)w;
    return 2048;
}

#define CPU_OPS(title, opener)                                                                     \
    {                                                                                              \
        .name = title, .step_tokens = step_tokens_cpu, .open = opener, .close = close_cpu,         \
        .alloc = alloc_cpu, .free = free_cpu, .copy = copy_cpu, .sync = sync_cpu,                  \
        .prep = prep_cpu, .unprep = unprep_cpu, .embed = cpu_embed, .rmsnorm = cpu_rmsnorm,        \
        .linear = cpu_linear, .qkv_rope_store = cpu_qkv_rope_store, .attention = cpu_attention,    \
        .pick = cpu_pick, .keys = cpu_keys,                                                        \
    }

const rt_backend_ops cpu_ref_backend = CPU_OPS("cpu-ref", open_ref);
const rt_backend_ops cpu_avx2_backend = CPU_OPS("cpu-avx2", open_avx2);
const rt_backend_ops cpu_backend = CPU_OPS("cpu", open_best);
