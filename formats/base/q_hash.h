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

#include <pthread.h>
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
/* An update in a thread of its own, while the caller does something else with the bytes:
 *
 *     q_sha256_task t = { 0 };
 *     q_sha256_begin(&t, &h, p, n);
 *     ... write(fd, p, n) ...
 *     q_sha256_end(&t);                 and until then h and p are left alone
 *
 * Few bytes are not worth it and hashed at once.  end may come twice, and without a begin. */
typedef struct q_sha256_task {
    q_sha256 *h;
    const void *p;
    size_t n;
    pthread_t id;
    int running;
} q_sha256_task;

void q_sha256_begin(q_sha256_task *t, q_sha256 *h, const void *p, size_t n);
void q_sha256_end(q_sha256_task *t);
void q_hex(char *out, const uint8_t *p, size_t n); /* 2n digits and NUL */

#endif
