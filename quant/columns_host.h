/* All columns of GPTQ on the host: the `solve` of quant/device.h.
 *
 *     if (!qnt_columns_host(&columns)) ...      no memory
 *
 * By OpenMP's threads; the result is the same for any number of them. */
#ifndef QNT_COLUMNS_HOST_H
#define QNT_COLUMNS_HOST_H

#include "quant/device.h"

int qnt_columns_host(const qnt_columns *c);

#endif
