/* SHA-256 of bytes that come in pieces.
 *
 *     q_sha256 h;
 *     uint8_t digest[32];
 *     char hex[65];
 *     q_sha256_init(&h);
 *     q_sha256_update(&h, p, n);
 *     q_sha256_final(&h, digest);
 *     q_hex(hex, digest, 32);
 *
 * Uses the SHA instructions of the processor when there are any; the result is the same.
 * Threads: a q_sha256 belongs to one thread.  Source: FIPS 180-4. */
#ifndef Q_HASH_H
#define Q_HASH_H

#include <stddef.h>
#include <stdint.h>

typedef struct q_sha256 {
    uint32_t s[8];
    uint64_t n; /* bytes so far */
    uint8_t block[64];
} q_sha256;

void q_sha256_init(q_sha256 *h);
void q_sha256_update(q_sha256 *h, const void *p, size_t n);
void q_sha256_final(q_sha256 *h, uint8_t digest[32]);
void q_hex(char *out, const uint8_t *p, size_t n); /* 2n digits and NUL */

#endif
