/* ROUGE of two byte strings, split at a place the input chooses.  Scores lie in [0, 1]; swapping
 * the sides swaps precision and recall (except for Lsum, which is not symmetric); a text with words
 * scores 1 against itself. */
#include "datasets/rouge.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static ds_rouge score(const char *t, size_t nt, const char *p, size_t np, unsigned flags)
{
    ds_rouge s;

    if (ds_rouge_score(&s, t, nt, p, np, flags, NULL) != Q_OK)
        abort();
    for (int i = 0; i < DS_ROUGE_TYPES; i++)
        for (int k = 0; k < DS_ROUGE_PARTS; k++)
            if (!(s.v[i][k] >= 0 && s.v[i][k] <= 1))
                abort();
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const unsigned flags = size ? data[0] & (DS_ROUGE_STEM | DS_ROUGE_CJK) : 0;
    size_t nt;
    const char *t, *p;
    ds_rouge a, b;

    if (size < 3)
        return 0;
    t = (const char *)data + 2;
    nt = (size - 2) * data[1] / 255;
    p = t + nt;
    a = score(t, nt, p, size - 2 - nt, flags);
    b = score(p, size - 2 - nt, t, nt, flags);
    for (int i = 0; i <= DS_ROUGE_L; i++)
        if (a.v[i][DS_P] != b.v[i][DS_R] || a.v[i][DS_R] != b.v[i][DS_P])
            abort();
    if (a.v[DS_ROUGE_LSUM][DS_P] > a.v[DS_ROUGE_1][DS_P]) /* its hits are shared tokens */
        abort();
    a = score(t, nt, t, nt, flags);
    for (int i = 0; i < DS_ROUGE_TYPES; i++) /* 1, or 0 without a word (or a pair of words) */
        if (a.v[i][DS_P] != 1 && a.v[i][DS_P] != 0)
            abort();
    return 0;
}
