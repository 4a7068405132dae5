/* Transposing a block of elements.
 *
 *     fmt_turn(dst, ldd, src, lds, rows, cols, sizeof(uint16_t));      dst[c][r] = src[r][c]
 *
 * Checkpoints store [out, in], FT files [in, out]: both the reader and the converter turn whole
 * models, two or four bytes at a time.  Threads: pure. */
#ifndef FMT_TURN_H
#define FMT_TURN_H

#include <stddef.h>
#include <stdint.h>

/*   dst   [cols, rows], rows ldd elements apart, must not alias src
 *   src   [rows, cols], rows lds elements apart
 *   es    bytes of an element: 1, 2, 4 or 8; both blocks are aligned to it
 * Nothing outside the block is touched. */
void fmt_turn(void *dst, int64_t ldd, const void *src, int64_t lds, int64_t rows, int64_t cols,
              size_t es);

#endif
