/* The small arrays of a step, in one kernel: tokens, positions and page tables to the device,
 * picked tokens to the host.  The GPU reads and writes host memory that it was given by host_alloc.
 *
 * Copies of the copy engine are another queue, and each change of queue makes the GPU idle for some
 * microseconds, three times a decode step. */
#include "runtime/cuda/cu_device.cuh"

#define PIECE_BLOCKS  8 /* of a piece: reads over the bus are long, many are on their way */
#define PIECE_THREADS 128

typedef struct pieces {
    uint32_t *dst[RT_PIECES];
    const uint32_t *src[RT_PIECES];
    size_t words[RT_PIECES];
} pieces;

static __global__ void copy_words(const pieces p)
{
    const uint32_t *src = p.src[blockIdx.y];
    uint32_t *dst = p.dst[blockIdx.y];
    const size_t n = p.words[blockIdx.y];

    cu_wait();
    for (size_t i = blockIdx.x * PIECE_THREADS + threadIdx.x; i < n;
         i += PIECE_BLOCKS * PIECE_THREADS)
        dst[i] = src[i];
}

extern "C" q_status cu_copy_pieces(rt_backend *be, const rt_piece *p, int n, q_err *err)
{
    q_status st = Q_OK;
    pieces to = {};

    if (n > RT_PIECES)
        Q_FAIL(err, Q_EBUG, "copy: %d pieces, at most %d", n, RT_PIECES);
    for (int i = 0; i < n; i++) {
        to.dst[i] = (uint32_t *)p[i].dst;
        to.src[i] = (const uint32_t *)p[i].src;
        to.words[i] = p[i].bytes / 4;
    }
    CU_LAUNCH(cu_of(be), copy_words, dim3(PIECE_BLOCKS, (unsigned)n), dim3(PIECE_THREADS), 0, to);
out:
    return st;
}
