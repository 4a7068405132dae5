/* Random numbers without state: Philox 4x32 with 10 rounds.
 *
 *     double u = rt_philox_unit(seed, stream, pos);      in [0, 1), 53 bits
 *
 * A draw is a function of (seed, stream, position), so a sequence gets the same numbers whatever
 * shares its batch and on every backend.  Read by C and by device code.
 * Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011. */
#ifndef RT_PHILOX_H
#define RT_PHILOX_H

#include <stdint.h>

#if defined(__CUDACC__)
#define RT_HD __host__ __device__
#else
#define RT_HD
#endif

static inline RT_HD void rt_philox(uint32_t ctr[4], uint32_t key0, uint32_t key1)
{
    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)0xd2511f53u * ctr[0], b = (uint64_t)0xcd9e8d57u * ctr[2];

        ctr[0] = (uint32_t)(b >> 32) ^ ctr[1] ^ key0;
        ctr[1] = (uint32_t)b;
        ctr[2] = (uint32_t)(a >> 32) ^ ctr[3] ^ key1;
        ctr[3] = (uint32_t)a;
        key0 += 0x9e3779b9u;
        key1 += 0xbb67ae85u;
    }
}

/* key: seed; counter: pos in words 0 and 1, stream in words 2 and 3 */
static inline RT_HD double rt_philox_unit(uint64_t seed, uint64_t stream, uint64_t pos)
{
    uint32_t c[4] = { (uint32_t)pos, (uint32_t)(pos >> 32), (uint32_t)stream,
                      (uint32_t)(stream >> 32) };

    rt_philox(c, (uint32_t)seed, (uint32_t)(seed >> 32));
    return ((double)(c[0] >> 5) * 67108864.0 + (double)(c[1] >> 6)) * 0x1p-53;
}

#endif
