/* Restricted unpickler.  The input is the pickle.  What loads must hold the promises of pickle.h:
 * names unique, keys of digits, every tensor inside its storage. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_mem.h"
#include "formats/pickle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const fmt_pickled *t, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t bytes = fmt_dtype_bytes(t[i].dtype);

        assert(strlen(t[i].name) <= FMT_ST_MAX_NAME);
        assert(strlen(t[i].key) >= 1 && strspn(t[i].key, "0123456789") == strlen(t[i].key));
        assert(t[i].ndim >= 0 && t[i].ndim <= FMT_MAX_DIMS);
        for (int d = 0; d < t[i].ndim; d++) {
            assert(t[i].shape[d] >= 0);
            bytes *= (uint64_t)t[i].shape[d];
        }
        assert(bytes == t[i].bytes);
        assert(t[i].from <= t[i].storage_bytes && bytes <= t[i].storage_bytes - t[i].from);
        for (size_t k = 0; k < i && i < 64; k++)
            assert(strcmp(t[i].name, t[k].name) != 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    q_err err = { 0 };
    fmt_pickled *t = NULL;
    size_t n = 0;
    char *text = malloc(size ? size : 1); /* changed by the reader; exact, so that overruns show */
    q_status st;

    assert(text);
    memcpy(text, data, size);
    st = fmt_unpickle(&t, &n, text, size, "x", &err);
    if (st == Q_OK)
        check(t, n);
    else
        assert(st == Q_EFORMAT && !t && err.code == st && strncmp(err.msg, "x: ", 3) == 0);
    q_free(t);
    free(text);
    return 0;
}
