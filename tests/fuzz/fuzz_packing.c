/* Any config.json: quantization_config is refused or gives a packing whose numbers are in range,
 * and what is written for that packing is read as the same. */
#include <stdlib.h>

#include "formats/packing.h"

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x))                                                                                  \
            abort();                                                                               \
    } while (0)

static void check_again(const fmt_packing *p)
{
    const fmt_files files = { .dir = "/nowhere" };
    fmt_json *doc = NULL, *q;
    fmt_packing again;

    CHECK(fmt_json_new(&doc, NULL) == Q_OK);
    CHECK(fmt_json_put_obj(&q, doc, "quantization_config", NULL) == Q_OK);
    CHECK(fmt_packing_json(q, p, NULL, 0, "fuzz:1", NULL) == Q_OK);
    CHECK(fmt_packing_parse(&again, doc, &files, NULL) == Q_OK);
    CHECK(again.kind == p->kind && again.bits == p->bits && again.group == p->group);
    fmt_json_free(doc);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const fmt_files files = { .dir = "/nowhere" };
    fmt_json *doc = NULL;
    fmt_packing p;
    char text[96];

    if (fmt_json_parse(&doc, (const char *)data, size, "fuzz", NULL) != Q_OK)
        return 0;
    if (fmt_packing_parse(&p, doc, &files, NULL) == Q_OK && p.bits) {
        CHECK((p.bits == 4 || p.bits == 8) && (p.group == -1 || p.group > 0));
        CHECK(fmt_packing_groups(&p, 4096) >= 1 && fmt_packing_groups(&p, 4096) <= 4096);
        fmt_packing_text(text, sizeof text, &p);
        check_again(&p);
    }
    fmt_json_free(doc);
    return 0;
}
