/* Any bytes as a packed chunk: the first five are its form.  What unpacks is packed and unpacked
 * again, to the same. */
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_mem.h"
#include "formats/chunk.h"

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x))                                                                                  \
            abort();                                                                               \
    } while (0)

static void check_again(const fmt_chunk_form *f, const uint8_t *v)
{
    uint8_t *p = q_malloc(fmt_chunk_bound(f)), *back = q_malloc((size_t)f->bytes);
    size_t n = 0;

    CHECK(p && back);
    CHECK(fmt_chunk_pack(p, &n, f, v, NULL) == Q_OK);
    CHECK(n <= fmt_chunk_bound(f));
    CHECK(fmt_chunk_unpack(back, f, p, n, NULL) == Q_OK);
    CHECK(memcmp(back, v, (size_t)f->bytes) == 0);
    q_free(p);
    q_free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fmt_chunk_form f;
    uint8_t *v;

    if (size < 5)
        return 0;
    f = (fmt_chunk_form){ .bytes =
                              (uint64_t)data[0] | (uint64_t)data[1] << 8 | (uint64_t)data[2] << 16,
                          .element = data[3],
                          .shuffle = data[4] & 1,
                          .deflate = data[4] >> 1 & 1,
                          .sum = data[4] >> 2 & 1 };
    if (!fmt_chunk_form_ok(&f) || f.bytes > 1 << 18) /* the rest is the same, and slow */
        return 0;
    if (!(v = q_malloc((size_t)f.bytes)))
        return 0;
    if (fmt_chunk_unpack(v, &f, data + 5, size - 5, NULL) == Q_OK)
        check_again(&f, v);
    q_free(v);
    return 0;
}
