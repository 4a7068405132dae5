/* The parts of qwen-convert that do not make an FT directory: moving a quantized model from one
 * container into another, and checking what was written.  Both print their result.
 *
 * Only programs include this file. */
#ifndef CVT_REWRITE_CLI_H
#define CVT_REWRITE_CLI_H

#include <signal.h>

#include "convert/convert_cli.h"

q_status cvt_rewrite_cli(const cvt_cli_opts *o, const q_cli *cli, const volatile sig_atomic_t *stop,
                         q_err *err);
q_status cvt_verify_cli(const char *path, const q_cli *cli, const volatile sig_atomic_t *stop,
                        q_err *err);

#endif
