/* SHA-256, FIPS 180-4.  Two compression functions: plain C, and one over the x86 SHA extensions
 * (about five times faster, so that hashing keeps up with a disk).  Which one runs is decided per
 * call from cpuid; both are tested against the vectors of the standard and against each other. */
#include "formats/base/q_hash.h"

#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define HAVE_SHA_NI 1
#endif

static const uint32_t k256[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotr(uint32_t x, int n)
{
    return (x >> n) | (x << (32 - n));
}

static void compress_c(uint32_t s[8], const uint8_t *p, size_t blocks)
{
    uint32_t w[64], v[8];

    for (; blocks > 0; blocks--, p += 64) {
        for (int i = 0; i < 16; i++)
            w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 |
                   (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
        for (int i = 16; i < 64; i++) {
            const uint32_t a = w[i - 15], b = w[i - 2];

            w[i] = w[i - 16] + (rotr(a, 7) ^ rotr(a, 18) ^ (a >> 3)) + w[i - 7] +
                   (rotr(b, 17) ^ rotr(b, 19) ^ (b >> 10));
        }
        memcpy(v, s, sizeof v);
        for (int i = 0; i < 64; i++) {
            const uint32_t e = v[4], a = v[0];
            const uint32_t t1 = v[7] + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) +
                                ((e & v[5]) ^ (~e & v[6])) + k256[i] + w[i];
            const uint32_t t2 = (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) +
                                ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));

            memmove(v + 1, v, 7 * sizeof *v);
            v[4] += t1;
            v[0] = t1 + t2;
        }
        for (int i = 0; i < 8; i++)
            s[i] += v[i];
    }
}

#ifdef HAVE_SHA_NI
/* The instruction keeps the state as ABEF and CDGH; four rounds per 128-bit group of w + k. */
__attribute__((target("sha,sse4.1,ssse3"))) static void compress_ni(uint32_t s[8], const uint8_t *p,
                                                                    size_t blocks)
{
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i dcba = _mm_loadu_si128((const __m128i *)(const void *)s);
    __m128i hgfe = _mm_loadu_si128((const __m128i *)(const void *)(s + 4));
    __m128i cdab = _mm_shuffle_epi32(dcba, 0xb1), efgh = _mm_shuffle_epi32(hgfe, 0x1b);
    __m128i abef = _mm_alignr_epi8(cdab, efgh, 8), cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);

    for (; blocks > 0; blocks--, p += 64) {
        const __m128i abef0 = abef, cdgh0 = cdgh;
        __m128i w[4];

        for (int i = 0; i < 4; i++)
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)(p + 16 * i)),
                                    swap);
#pragma GCC unroll 16                  /* w stays in registers: half as fast again */
        for (int g = 0; g < 16; g++) { /* w[g % 4] holds words 4g .. 4g + 3 */
            const __m128i k = _mm_loadu_si128((const __m128i *)(const void *)(k256 + 4 * g));
            const __m128i wk = _mm_add_epi32(w[g & 3], k);

            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0e));
            if (g < 12) {
                const __m128i w3 = w[(g + 3) & 3], w2 = w[(g + 2) & 3];
                __m128i t = _mm_sha256msg1_epu32(w[g & 3], w[(g + 1) & 3]);

                t = _mm_add_epi32(t, _mm_alignr_epi8(w3, w2, 4));
                w[g & 3] = _mm_sha256msg2_epu32(t, w3);
            }
        }
        abef = _mm_add_epi32(abef, abef0);
        cdgh = _mm_add_epi32(cdgh, cdgh0);
    }
    cdab = _mm_shuffle_epi32(abef, 0x1b);
    efgh = _mm_shuffle_epi32(cdgh, 0xb1);
    dcba = _mm_blend_epi16(cdab, efgh, 0xf0);
    hgfe = _mm_alignr_epi8(efgh, cdab, 8);
    _mm_storeu_si128((__m128i *)(void *)s, dcba);
    _mm_storeu_si128((__m128i *)(void *)(s + 4), hgfe);
}
#endif

static void compress(uint32_t s[8], const uint8_t *p, size_t blocks)
{
#ifdef HAVE_SHA_NI
    unsigned a = 7, b = 0, c = 0, d = 0;

    /* leaf 7, EBX bit 29; the builtin name "sha" is missing in GCC 12 */
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    if ((b >> 29 & 1) && __builtin_cpu_supports("sse4.1")) {
        compress_ni(s, p, blocks);
        return;
    }
#endif
    compress_c(s, p, blocks);
}

void q_sha256_init(q_sha256 *h)
{
    static const uint32_t init[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };

    memcpy(h->s, init, sizeof init);
    h->n = 0;
}

void q_sha256_update(q_sha256 *h, const void *p, size_t n)
{
    const uint8_t *s = p;
    const size_t have = (size_t)(h->n % 64);

    h->n += n;
    if (have) {
        const size_t take = n < 64 - have ? n : 64 - have;

        memcpy(h->block + have, s, take);
        s += take;
        n -= take;
        if (have + take < 64)
            return;
        compress(h->s, h->block, 1);
    }
    if (n >= 64)
        compress(h->s, s, n / 64);
    if (n % 64)
        memcpy(h->block, s + n / 64 * 64, n % 64);
}

void q_sha256_final(q_sha256 *h, uint8_t digest[32])
{
    const uint64_t bits = h->n * 8;
    uint8_t tail[72] = { 0x80 };
    const size_t pad = (h->n % 64 < 56 ? 56 : 120) - (size_t)(h->n % 64);

    for (int i = 0; i < 8; i++)
        tail[pad + (size_t)i] = (uint8_t)(bits >> (56 - 8 * i));
    q_sha256_update(h, tail, pad + 8);
    for (int i = 0; i < 32; i++)
        digest[i] = (uint8_t)(h->s[i / 4] >> (24 - 8 * (i % 4)));
}

#define APART ((size_t)1 << 18) /* bytes that take longer than to start a thread */

static void *work(void *arg)
{
    const q_sha256_task *t = arg;

    q_sha256_update(t->h, t->p, t->n);
    return NULL;
}

void q_sha256_begin(q_sha256_task *t, q_sha256 *h, const void *p, size_t n)
{
    *t = (q_sha256_task){ .h = h, .p = p, .n = n };
    t->running = n >= APART && pthread_create(&t->id, NULL, work, t) == 0;
    if (!t->running)
        work(t);
}

void q_sha256_end(q_sha256_task *t)
{
    if (t->running)
        pthread_join(t->id, NULL);
    t->running = 0;
}

void q_hex(char *out, const uint8_t *p, size_t n)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[p[i] >> 4];
        out[2 * i + 1] = digits[p[i] & 15];
    }
    out[2 * n] = '\0';
}
