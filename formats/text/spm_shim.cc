/* libsentencepiece behind the C interface of spm.h: the only C++ of the toolkit.
 *
 * A processor is loaded from bytes and then only read.  The library reports bad models by status;
 * what it or the allocator throws is caught here, so nothing unwinds through C.  Ids are checked by
 * the caller (spm.h); the library's own check of an id would end the process. */
#include "formats/text/spm.h"

#include <new>
#include <sentencepiece_processor.h>
#include <string>
#include <vector>

struct txt_spm {
    sentencepiece::SentencePieceProcessor processor;
};

extern "C" q_status txt_spm_load(txt_spm **out, const char *bytes, size_t n, const char *name,
                                 q_err *err)
{
    txt_spm *s = nullptr;

    try {
        s = new txt_spm;
        const auto status = s->processor.LoadFromSerializedProto(absl::string_view(bytes, n));

        if (status.ok() && s->processor.GetPieceSize() > 0) {
            *out = s;
            return Q_OK;
        }
        delete s;
        return q_fail(err, Q_EFORMAT, "%s: not a sentencepiece model: %s", name,
                      status.ok() ? "it has no pieces" : status.ToString().c_str());
    } catch (const std::bad_alloc &) {
        delete s;
        return q_fail(err, Q_ENOMEM, "%s: no memory for a sentencepiece model", name);
    } catch (...) {
        delete s;
        return q_fail(err, Q_EFORMAT, "%s: not a sentencepiece model", name);
    }
}

extern "C" void txt_spm_free(txt_spm *s)
{
    delete s;
}

extern "C" int32_t txt_spm_size(const txt_spm *s)
{
    return s->processor.GetPieceSize();
}

extern "C" const char *txt_spm_piece(const txt_spm *s, int32_t id, size_t *n, txt_spm_kind *kind)
{
    const std::string &piece = s->processor.IdToPiece(id);

    *n = piece.size();
    *kind = s->processor.IsByte(id)      ? TXT_SPM_BYTE
            : s->processor.IsControl(id) ? TXT_SPM_CONTROL
            : s->processor.IsUnknown(id) ? TXT_SPM_UNKNOWN
                                         : TXT_SPM_TEXT;
    return piece.c_str();
}

extern "C" q_status txt_spm_encode(const txt_spm *s, const char *p, size_t n, q_ids *ids,
                                   q_err *err)
{
    try {
        std::vector<int> v;
        const auto status = s->processor.Encode(absl::string_view(p, n), &v);

        if (!status.ok())
            return q_fail(err, Q_EFORMAT, "sentencepiece: %s", status.ToString().c_str());
        return q_ids_append(ids, v.data(), v.size(), err);
    } catch (...) {
        return q_fail(err, Q_ENOMEM, "no memory to encode %zu bytes of text", n);
    }
}
