/* Porter stemmer, the variant that ROUGE scores use.
 *
 *     n = ds_porter_stem(word, n);        "running" -> "run"
 *
 * Porter's algorithm of 1980 with the changes of Martin Porter and of NLTK (its default mode,
 * "NLTK_EXTENSIONS"): a list of irregular words, "ies" and "ied" of four-letter words, y -> i only
 * behind a consonant, "alli" repeated, "fulli", "logi".  Other stemmers (Snowball's "porter" and
 * "english") give other stems and therefore other scores.  Threads: pure.
 * Source: M. F. Porter, An algorithm for suffix stripping, Program 14 (3), 1980; the documentation
 * of nltk.stem.porter. */
#ifndef DS_PORTER_H
#define DS_PORTER_H

#include <stddef.h>

/* Stems word[0..n) in place and returns the new length, at most n.  The word is lower-case ASCII
 * letters and digits (a digit counts as a consonant); NUL is neither needed nor written.  Words of
 * one or two letters stay.  Linear in n. */
size_t ds_porter_stem(char *word, size_t n);

#endif
