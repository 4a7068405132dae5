/* manifest.json.  What is accepted is, to the byte, what would be written for it. */
#include <assert.h>
#include <string.h>

#include "convert/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    q_err err = { 0 };
    cvt_manifest m;
    q_buf text = { 0 };

    if (cvt_manifest_parse(&m, (const char *)data, size, "manifest.json", &err) != Q_OK) {
        assert(m.n == 0 && !m.entry && strncmp(err.msg, "manifest.json: ", 15) == 0);
        return 0;
    }
    assert(cvt_manifest_text(&text, &m, &err) == Q_OK);
    assert(text.size == size && memcmp(text.data, data, size) == 0);
    for (size_t i = 0; i < m.n; i++)
        assert(cvt_manifest_name_ok(m.entry[i].name) &&
               (i == 0 || strcmp(m.entry[i - 1].name, m.entry[i].name) < 0));
    cvt_manifest_free(&m);
    q_buf_free(&text);
    return 0;
}
