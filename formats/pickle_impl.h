/* Inside of the unpickler, for formats/pickle*.c alone: values, and the machine that builds them.
 *
 * Values are nodes in one array; containers are chains of cells in another; both are named by
 * index, and index 0 is none.  Each opcode makes at most one node and a few cells, so the arrays
 * grow with the pickle and sharing (memo, then GET) costs one index. */
#ifndef FMT_PICKLE_IMPL_H
#define FMT_PICKLE_IMPL_H

#include "formats/base/q_mem.h"
#include "formats/pickle.h"

#define PK_MAX_OBJECTS ((uint32_t)4 << 20)  /* nodes, cells, stack: 200,000 tensors take as many */
#define PK_MAX_VALUES  ((uint32_t)16 << 20) /* with shared values written out */
#define PK_MAX_MARKS   100
#define PK_MAX_DEPTH   100

typedef enum pk_kind {
    PK_NONE,
    PK_BOOL,
    PK_INT,
    PK_REAL, /* its value is not kept: nothing asks for it */
    PK_STR,
    PK_TUPLE,
    PK_LIST,
    PK_DICT,
    PK_ODICT,
    PK_GLOBAL,
    PK_STORAGE, /* seq: of its persistent id */
    PK_TENSOR   /* seq: of the arguments it was rebuilt from */
} pk_kind;

typedef struct pk_seq {
    uint32_t first, last, n; /* cells; a dict has key, value, key, value, ... */
    uint32_t state;          /* PK_ODICT: the dict that BUILD gave it, or 0 */
} pk_seq;

typedef struct pk_node {
    uint8_t kind;
    uint8_t walk, holds, height; /* of the walk in pickle_tensors.c, with weight */
    uint32_t weight;
    union {
        int64_t i; /* PK_INT, PK_BOOL; PK_GLOBAL: row of the table in pickle_call.c */
        struct {
            uint32_t at, n; /* bytes of the pickle */
        } str;
        pk_seq seq;
    } u;
} pk_node;

typedef struct pk_cell {
    uint32_t node, next;
} pk_cell;

typedef struct pk_vec {
    void *v;
    uint32_t n, cap;
} pk_vec;

typedef struct pk {
    char *text;
    size_t n, at, op_at; /* op_at: of the running opcode, for messages */
    const char *path;
    pk_vec nodes, cells, stack, memo; /* stack and memo: uint32_t node */
    uint32_t mark[PK_MAX_MARKS];      /* height of the stack at each open mark */
    int n_mark;
} pk;

static inline pk_node *pk_at(const pk *m, uint32_t node)
{
    return (pk_node *)m->nodes.v + node;
}

static inline pk_cell *pk_cell_at(const pk *m, uint32_t cell)
{
    return (pk_cell *)m->cells.v + cell;
}

static inline pk_kind pk_kind_of(const pk *m, uint32_t node)
{
    return (pk_kind)pk_at(m, node)->kind;
}

/* pickle_value.c */
const char *pk_op_name(uint8_t op); /* NULL: no such opcode */
const char *pk_kind_name(pk_kind kind);
/* Q_EFORMAT: "<path>: data.pkl, <opcode> at byte <n>: <text>; <what to do>" */
q_status pk_refuse(const pk *m, q_err *err, const char *fmt, ...) Q_PRINTF(3, 4);
/* bytes of the pickle as printable text of at most 80 characters */
typedef struct pk_shown {
    char s[84];
} pk_shown;
pk_shown pk_show(const char *p, size_t n);
/* Room for n elements of this size.  Errors: Q_EFORMAT (more than PK_MAX_OBJECTS), Q_ENOMEM. */
q_status pk_reserve(const pk *m, pk_vec *a, uint32_t n, size_t size, q_err *err);
q_status pk_new(pk *m, uint32_t *node, pk_kind kind, q_err *err);
q_status pk_append(pk *m, uint32_t node, uint32_t value, q_err *err);
/* 1: node is this string */
int pk_is_str(const pk *m, uint32_t node, const char *text);

/* pickle_call.c: the only names there are, and what they do */
q_status pk_global(pk *m, uint32_t *out, const char *module, size_t n_module, const char *name,
                   size_t n_name, q_err *err);
q_status pk_reduce(pk *m, uint32_t *out, uint32_t callable, uint32_t args, q_err *err);
q_status pk_build(pk *m, uint32_t object, uint32_t state, q_err *err);
q_status pk_persid(pk *m, uint32_t *out, uint32_t id, q_err *err);
fmt_dtype pk_storage_dtype(const pk *m, uint32_t global);
/* the first `max` elements of a tuple, list, storage or tensor; returns how many there are */
uint32_t pk_items(const pk *m, uint32_t node, uint32_t *v, uint32_t max);

/* pickle_tensors.c: the result of a whole pickle */
q_status pk_collect(pk *m, uint32_t root, fmt_pickled **t, size_t *n, q_err *err);

#endif
