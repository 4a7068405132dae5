/* Values of the restricted unpickler: the arrays they lie in, and how messages show them.
 *
 *   nodes   one for each value          cells   one for each place in a container
 *   stack   nodes by index              memo    nodes by index, 0: not set
 *
 * All four grow by doubling up to PK_MAX_OBJECTS, whatever a length in the pickle says: room is
 * made for values that are there.  Text of the pickle goes into messages only through pk_show,
 * which keeps control characters away from terminals and logs.  The opcode names are those of
 * Python, Lib/pickletools.py. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "formats/pickle_impl.h"

/* clang-format off */
static const char *const op_names[256] = {
    ['('] = "MARK", ['.'] = "STOP", ['0'] = "POP", ['1'] = "POP_MARK", ['2'] = "DUP",
    ['F'] = "FLOAT", ['I'] = "INT", ['J'] = "BININT", ['K'] = "BININT1", ['L'] = "LONG",
    ['M'] = "BININT2", ['N'] = "NONE", ['P'] = "PERSID", ['Q'] = "BINPERSID", ['R'] = "REDUCE",
    ['S'] = "STRING", ['T'] = "BINSTRING", ['U'] = "SHORT_BINSTRING", ['V'] = "UNICODE",
    ['X'] = "BINUNICODE", ['a'] = "APPEND", ['b'] = "BUILD", ['c'] = "GLOBAL", ['d'] = "DICT",
    ['}'] = "EMPTY_DICT", ['e'] = "APPENDS", ['g'] = "GET", ['h'] = "BINGET", ['i'] = "INST",
    ['j'] = "LONG_BINGET", ['l'] = "LIST", [']'] = "EMPTY_LIST", ['o'] = "OBJ", ['p'] = "PUT",
    ['q'] = "BINPUT", ['r'] = "LONG_BINPUT", ['s'] = "SETITEM", ['t'] = "TUPLE",
    [')'] = "EMPTY_TUPLE", ['u'] = "SETITEMS", ['G'] = "BINFLOAT", ['B'] = "BINBYTES",
    ['C'] = "SHORT_BINBYTES", [0x80] = "PROTO", [0x81] = "NEWOBJ", [0x82] = "EXT1",
    [0x83] = "EXT2", [0x84] = "EXT4", [0x85] = "TUPLE1", [0x86] = "TUPLE2", [0x87] = "TUPLE3",
    [0x88] = "NEWTRUE", [0x89] = "NEWFALSE", [0x8a] = "LONG1", [0x8b] = "LONG4",
    [0x8c] = "SHORT_BINUNICODE", [0x8d] = "BINUNICODE8", [0x8e] = "BINBYTES8",
    [0x8f] = "EMPTY_SET", [0x90] = "ADDITEMS", [0x91] = "FROZENSET", [0x92] = "NEWOBJ_EX",
    [0x93] = "STACK_GLOBAL", [0x94] = "MEMOIZE", [0x95] = "FRAME", [0x96] = "BYTEARRAY8",
    [0x97] = "NEXT_BUFFER", [0x98] = "READONLY_BUFFER",
};
/* clang-format on */

const char *pk_op_name(uint8_t op)
{
    return op_names[op];
}

const char *pk_kind_name(pk_kind kind)
{
    static const char *const names[] = { "None",           "a bool",  "an int",    "a float",
                                         "a str",          "a tuple", "a list",    "a dict",
                                         "an OrderedDict", "a name",  "a storage", "a tensor" };

    return names[kind];
}

q_status pk_refuse(const pk *m, q_err *err, const char *fmt, ...)
{
    const uint8_t op = m->op_at < m->n ? (uint8_t)m->text[m->op_at] : 0;
    const char *name = pk_op_name(op);
    char text[256], code[16];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    snprintf(code, sizeof code, "0x%02x", (unsigned)op);
    return q_fail(err, Q_EFORMAT,
                  "%s: data.pkl, %s at byte %zu: %s; use the safetensors files of this checkpoint, "
                  "or fetch it again from its source",
                  m->path, name ? name : code, m->op_at, text);
}

pk_shown pk_show(const char *p, size_t n)
{
    pk_shown r = { "" };

    for (size_t i = 0; i < n && i < sizeof r.s - 4; i++)
        r.s[i] = p[i] >= 0x20 && p[i] < 0x7f ? p[i] : '?';
    if (n > sizeof r.s - 4)
        memcpy(r.s + sizeof r.s - 4, "...", 4);
    return r;
}

/* ---- arrays --------------------------------------------------------------------------------- */

/* Room for n elements. */
q_status pk_reserve(const pk *m, pk_vec *a, uint32_t n, size_t size, q_err *err)
{
    const uint32_t cap = n < 256 ? 256 : n < PK_MAX_OBJECTS / 2 ? 2 * n : PK_MAX_OBJECTS;
    void *v;

    if (n <= a->cap)
        return Q_OK;
    if (n > PK_MAX_OBJECTS)
        return pk_refuse(m, err, "more than %u objects", PK_MAX_OBJECTS);
    if (!(v = q_calloc(cap, size)))
        return q_fail(err, Q_ENOMEM, "%s: no memory for %u values", m->path, cap);
    if (a->n)
        memcpy(v, a->v, a->n * size);
    q_free(a->v);
    a->v = v;
    a->cap = cap;
    return Q_OK;
}

q_status pk_new(pk *m, uint32_t *node, pk_kind kind, q_err *err)
{
    const q_status st = pk_reserve(m, &m->nodes, m->nodes.n + 1, sizeof(pk_node), err);

    if (st != Q_OK)
        return st;
    *node = m->nodes.n++;
    *pk_at(m, *node) = (pk_node){ .kind = (uint8_t)kind };
    return Q_OK;
}

q_status pk_append(pk *m, uint32_t node, uint32_t value, q_err *err)
{
    const q_status st = pk_reserve(m, &m->cells, m->cells.n + 1, sizeof(pk_cell), err);
    pk_seq *s = &pk_at(m, node)->u.seq;

    if (st != Q_OK)
        return st;
    *pk_cell_at(m, m->cells.n) = (pk_cell){ value, 0 };
    if (s->n)
        pk_cell_at(m, s->last)->next = m->cells.n;
    else
        s->first = m->cells.n;
    s->last = m->cells.n++;
    s->n++;
    return Q_OK;
}

int pk_is_str(const pk *m, uint32_t node, const char *text)
{
    const pk_node *v = pk_at(m, node);

    return v->kind == PK_STR && v->u.str.n == strlen(text) &&
           memcmp(m->text + v->u.str.at, text, v->u.str.n) == 0;
}
