/* Packed chunks: bytes worked out by hand, every combination of filters there and back at odd
 * sizes, and every flipped bit of a packed chunk. */
#include <string.h>

#include "formats/base/q_mem.h"
#include "formats/chunk.h"
#include "tests/t.h"

/* Without deflate the bytes can be written down. */
static void t_by_hand(void)
{
    static const uint8_t data[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9 };
    static const struct {
        fmt_chunk_form f;
        uint8_t want[16];
        size_t n;
    } rows[] = {
        { { 9, 4, 0, 0, 0 }, { 1, 2, 3, 4, 5, 6, 7, 8, 9 }, 9 },
        { { 9, 4, 1, 0, 0 }, { 1, 5, 2, 6, 3, 7, 4, 8, 9 }, 9 },
        /* words 0102 0304 0506 0708 0900: 0102 0406 090c 1014 1914 */
        { { 9, 1, 0, 0, 1 }, { 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x14, 0x19, 0x3c, 0x37 }, 13 },
    };
    q_err err = { 0 };
    uint8_t got[64], back[9];
    size_t n = 0;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        T_OK(fmt_chunk_pack(got, &n, &rows[i].f, data, &err), err);
        T_INT(n, rows[i].n);
        for (size_t k = 0; k < n; k++)
            T_INT(got[k], rows[i].want[k]);
        T_OK(fmt_chunk_unpack(back, &rows[i].f, got, n, &err), err);
        T_INT(memcmp(back, data, sizeof back), 0);
    }
}

enum { MOST = 200001 };

static uint8_t value(size_t i)
{
    const uint32_t h = (uint32_t)i * 2654435761u;

    return i % 5 ? (uint8_t)(h >> 29) : (uint8_t)(h >> 24);
}

static void t_there_and_back(void)
{
    static const uint64_t bytes[] = { 1, 2, 3, 7, 4096, 65535, 65536, 65537, MOST };
    static const uint32_t element[] = { 1, 2, 4, 8, 16 };
    q_err err = { 0 };
    uint8_t *data = q_malloc(MOST), *back = q_malloc(MOST), *p = q_malloc(2 * MOST);
    size_t n = 0;

    T_TRUE(data && back && p);
    for (size_t i = 0; data && i < MOST; i++)
        data[i] = value(i);
    for (size_t i = 0; i < sizeof bytes / sizeof bytes[0]; i++)
        for (unsigned k = 0; k < 8 * sizeof element / sizeof element[0]; k++) {
            const fmt_chunk_form f = { bytes[i], element[k / 8], k & 1, k >> 1 & 1, k >> 2 & 1 };

            T_OK(fmt_chunk_pack(p, &n, &f, data, &err), err);
            T_TRUE(n <= fmt_chunk_bound(&f) && fmt_chunk_packed_ok(&f, n));
            memset(back, 0xee, MOST);
            T_OK(fmt_chunk_unpack(back, &f, p, n, &err), err);
            T_INT(memcmp(back, data, bytes[i]), 0);
            if (f.deflate && bytes[i] == MOST)
                T_TRUE(n < MOST * 3 / 4);
        }
    q_free(data);
    q_free(back);
    q_free(p);
}

static void t_damaged(void)
{
    const fmt_chunk_form f = { 3000, 4, 1, 1, 1 };
    q_err err = { 0 };
    uint8_t data[3000], back[3000], p[4096];
    size_t n = 0;

    for (size_t i = 0; i < sizeof data; i++)
        data[i] = value(i);
    T_OK(fmt_chunk_pack(p, &n, &f, data, &err), err);
    for (size_t bit = 0; bit < 8 * n; bit++) {
        p[bit / 8] ^= (uint8_t)(1 << bit % 8);
        T_ERR(fmt_chunk_unpack(back, &f, p, n, &err), err, Q_EFORMAT, "its checksum is");
        p[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t cut = 0; cut < n; cut++) {
        T_TRUE(fmt_chunk_unpack(back, &f, p, cut, &err) == Q_EFORMAT);
        err = (q_err){ 0 };
    }
}

/* Numbers that no chunk can have: refused before anything is allocated. */
static void t_refused(void)
{
    static const struct {
        fmt_chunk_form f;
        size_t n;
    } rows[] = {
        { { 0, 4, 1, 1, 1 }, 100 },
        { { FMT_CHUNK_MAX + 1, 4, 1, 1, 1 }, 1 << 20 },
        { { UINT64_MAX, 4, 1, 1, 1 }, 1 << 20 },
        { { 4096, 0, 1, 1, 1 }, 100 },
        { { 4096, 17, 1, 1, 1 }, 100 },
        { { 4096, 4, 1, 1, 1 }, 4 },      /* nothing but a sum */
        { { 4096, 4, 1, 1, 1 }, 5000 },   /* more than it can grow to */
        { { 1 << 20, 4, 1, 1, 1 }, 500 }, /* less than it can shrink to */
        { { 4096, 4, 1, 0, 1 }, 4096 },   /* no room for the sum */
        { { 4096, 4, 1, 0, 0 }, 4095 },
    };
    static uint8_t p[1 << 20];
    q_err err = { 0 };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        T_ERR(fmt_chunk_unpack(p, &rows[i].f, p, rows[i].n, &err), err, Q_EFORMAT,
              "cannot be a chunk of");
}

static const t_case cases[] = {
    T(t_by_hand), T(t_there_and_back), T(t_damaged), T(t_refused), { 0 }
};

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
