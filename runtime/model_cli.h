/* Options that every program with a model shares, as argp children.
 *
 *     static const struct argp_child children[] = { { &rt_model_argp, 0, "Model:", 1 },
 *                                                   { &rt_sampling_argp, 0, "Sampling:", 2 },
 *                                                   { &q_cli_argp, 0, "Common options:", 90 },
 *                                                   { 0 } };
 *     ... on ARGP_KEY_INIT: rt_session_opts_init(&o->session);
 *                           state->child_inputs[0] = &o->session;     (rt_session_opts)
 *                           state->child_inputs[1] = &o->session.sampling;
 *                           state->child_inputs[2] = &o->cli;
 *
 * Only programs include this file. */
#ifndef RT_MODEL_CLI_H
#define RT_MODEL_CLI_H

#include "formats/base/q_cli.h"
#include "runtime/session.h"

extern const struct argp rt_model_argp;    /* -m --weight-only --kv-cache --chat-format ... */
extern const struct argp rt_sampling_argp; /* --greedy --temperature --top-k --top-p ... */

void rt_session_opts_init(rt_session_opts *o);

#endif
