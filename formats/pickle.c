/* The machine of the restricted unpickler: a stack, marks, a memo, one switch.
 *
 *   byte 0    PROTO 2..5
 *   ...       opcode, argument, opcode, argument, ...
 *   last      STOP, with one value on the stack, no open mark and no byte behind it
 *
 * An opcode is read here, checked against the bytes that are left, and turned into nodes (see
 * pickle_impl.h).  Which names exist and what calls do is in pickle_call.c; what the finished value
 * means is in pickle_tensors.c.  Nothing looks below the top mark, so a hostile pickle cannot take
 * values that a container above it still owns.
 *
 * Opcodes that are refused: the textual ones of protocol 0, which no checkpoint has, INST, OBJ,
 * NEWOBJ, NEWOBJ_EX and EXT1..4 (they make or import objects), POP, POP_MARK and DUP, bytes, sets
 * and buffers.  Source: Python, Lib/pickletools.py. */
#include "formats/pickle.h"

#include <string.h>

#include "formats/pickle_impl.h"

static q_status push(pk *m, uint32_t node, q_err *err)
{
    const q_status st = pk_reserve(m, &m->stack, m->stack.n + 1, sizeof node, err);

    if (st == Q_OK)
        ((uint32_t *)m->stack.v)[m->stack.n++] = node;
    return st;
}

static q_status push_new(pk *m, pk_kind kind, int64_t i, q_err *err)
{
    q_status st = Q_OK;
    uint32_t node = 0;

    Q_TRY(pk_new(m, &node, kind, err));
    if (kind == PK_INT || kind == PK_BOOL)
        pk_at(m, node)->u.i = i;
    Q_TRY(push(m, node, err));
out:
    return st;
}

/* values above the top mark */
static uint32_t loose(const pk *m)
{
    return m->stack.n - (m->n_mark ? m->mark[m->n_mark - 1] : 0);
}

static q_status top(const pk *m, uint32_t *node, q_err *err)
{
    if (loose(m) == 0)
        return pk_refuse(m, err, "takes a value and the stack has none above the mark");
    *node = ((uint32_t *)m->stack.v)[m->stack.n - 1];
    return Q_OK;
}

static q_status pop(pk *m, uint32_t *node, q_err *err)
{
    const q_status st = top(m, node, err);

    m->stack.n -= st == Q_OK;
    return st;
}

/* Forget the top mark; its values are v[0..n) until the next push. */
static q_status pop_mark(pk *m, const uint32_t **v, uint32_t *n, q_err *err)
{
    if (m->n_mark == 0)
        return pk_refuse(m, err, "wants a mark and there is none");
    *n = loose(m);
    m->stack.n = m->mark[--m->n_mark];
    *v = (const uint32_t *)m->stack.v + m->stack.n;
    return Q_OK;
}

/* ---- arguments ------------------------------------------------------------------------------ */

static q_status take(pk *m, size_t n, const uint8_t **p, q_err *err)
{
    if (n > m->n - m->at)
        return pk_refuse(m, err, "wants %zu bytes, %zu are left", n, m->n - m->at);
    *p = (const uint8_t *)m->text + m->at;
    m->at += n;
    return Q_OK;
}

/* unsigned, little-endian, n <= 8 bytes */
static q_status take_uint(pk *m, size_t n, uint64_t *v, q_err *err)
{
    const uint8_t *p = NULL;
    const q_status st = take(m, n, &p, err);

    *v = 0;
    for (size_t i = n; st == Q_OK && i > 0; i--)
        *v = *v << 8 | p[i - 1];
    return st;
}

/* a line without its end */
static q_status take_line(pk *m, const char **p, size_t *n, q_err *err)
{
    const char *end = memchr(m->text + m->at, '\n', m->n - m->at);

    if (!end)
        return pk_refuse(m, err, "a name has no end");
    *p = m->text + m->at;
    *n = (size_t)(end - *p);
    m->at += *n + 1;
    return Q_OK;
}

/* An int of n bytes, two's complement. */
static q_status push_int(pk *m, uint64_t n, int is_signed, q_err *err)
{
    q_status st = Q_OK;
    uint64_t v = 0;

    if (n > 8)
        Q_TRY(pk_refuse(m, err, "an int of %llu bytes, at most 8 are read", (unsigned long long)n));
    Q_TRY(take_uint(m, (size_t)n, &v, err));
    if (is_signed && n > 0 && n < 8 && v >> (8 * n - 1))
        v |= UINT64_MAX << 8 * n;
    Q_TRY(push_new(m, PK_INT, (int64_t)v, err));
out:
    return st;
}

static q_status push_long(pk *m, size_t length_bytes, q_err *err)
{
    q_status st = Q_OK;
    uint64_t n = 0;

    Q_TRY(take_uint(m, length_bytes, &n, err));
    if (length_bytes == 4 && n > INT32_MAX)
        Q_TRY(pk_refuse(m, err, "an int of a negative number of bytes"));
    Q_TRY(push_int(m, n, 1, err));
out:
    return st;
}

static q_status push_str(pk *m, size_t length_bytes, q_err *err)
{
    q_status st = Q_OK;
    const uint8_t *p = NULL;
    uint32_t node = 0;
    uint64_t n = 0;

    Q_TRY(take_uint(m, length_bytes, &n, err));
    if (n > m->n - m->at)
        Q_TRY(pk_refuse(m, err, "a str of %llu bytes, %zu are left", (unsigned long long)n,
                        m->n - m->at));
    Q_TRY(take(m, (size_t)n, &p, err));
    Q_TRY(pk_new(m, &node, PK_STR, err));
    pk_at(m, node)->u.str.at = (uint32_t)(m->at - n); /* below FMT_PICKLE_MAX */
    pk_at(m, node)->u.str.n = (uint32_t)n;
    Q_TRY(push(m, node, err));
out:
    return st;
}

/* ---- containers ----------------------------------------------------------------------------- */

/* The values v[0..n) of the stack, which stay valid until push. */
static q_status push_tuple(pk *m, const uint32_t *v, uint32_t n, q_err *err)
{
    q_status st = Q_OK;
    uint32_t node = 0;

    Q_TRY(pk_new(m, &node, PK_TUPLE, err));
    for (uint32_t i = 0; i < n; i++)
        Q_TRY(pk_append(m, node, v[i], err));
    Q_TRY(push(m, node, err));
out:
    return st;
}

static q_status short_tuple(pk *m, uint32_t n, q_err *err)
{
    if (loose(m) < n)
        return pk_refuse(m, err, "takes %u values and the stack has %u above the mark", n,
                         loose(m));
    m->stack.n -= n;
    return push_tuple(m, (const uint32_t *)m->stack.v + m->stack.n, n, err);
}

/* v[0..n) into the list or dict on top of the stack */
static q_status extend(pk *m, int dict, const uint32_t *v, uint32_t n, q_err *err)
{
    q_status st = Q_OK;
    uint32_t to = 0;
    pk_kind kind;

    Q_TRY(top(m, &to, err));
    kind = pk_kind_of(m, to);
    if (dict ? kind != PK_DICT && kind != PK_ODICT : kind != PK_LIST)
        Q_TRY(pk_refuse(m, err, "adds to %s, wanted a %s", pk_kind_name(kind),
                        dict ? "dict" : "list"));
    if (dict && n % 2)
        Q_TRY(pk_refuse(m, err, "%u values, wanted pairs of key and value", n));
    for (uint32_t i = 0; i < n; i++) {
        if (dict && i % 2 == 0 && pk_kind_of(m, v[i]) != PK_STR && pk_kind_of(m, v[i]) != PK_INT)
            Q_TRY(pk_refuse(m, err, "a key is %s, wanted a str or an int",
                            pk_kind_name(pk_kind_of(m, v[i]))));
        Q_TRY(pk_append(m, to, v[i], err));
    }
out:
    return st;
}

static q_status extend_by(pk *m, int dict, uint32_t n, q_err *err)
{
    if (loose(m) < n + 1)
        return pk_refuse(m, err, "takes %u values and the stack has %u above the mark", n + 1,
                         loose(m));
    m->stack.n -= n;
    return extend(m, dict, (const uint32_t *)m->stack.v + m->stack.n, n, err);
}

static q_status from_mark(pk *m, q_status (*use)(pk *, int, const uint32_t *, uint32_t, q_err *),
                          int dict, q_err *err)
{
    const uint32_t *v = NULL;
    uint32_t n = 0;
    const q_status st = pop_mark(m, &v, &n, err);

    return st == Q_OK ? use(m, dict, v, n, err) : st;
}

static q_status tuple_of(pk *m, int dict, const uint32_t *v, uint32_t n, q_err *err)
{
    (void)dict;
    return push_tuple(m, v, n, err);
}

static q_status mark(pk *m, q_err *err)
{
    if (m->n_mark == PK_MAX_MARKS)
        return pk_refuse(m, err, "nested deeper than %d marks", PK_MAX_MARKS);
    m->mark[m->n_mark++] = m->stack.n;
    return Q_OK;
}

/* ---- memo, names, calls --------------------------------------------------------------------- */

/* An index beyond the size of the pickle can only be there to make the memo large. */
static q_status put(pk *m, uint64_t index, q_err *err)
{
    q_status st = Q_OK;
    uint32_t node = 0;

    Q_TRY(top(m, &node, err));
    if (index >= m->n)
        Q_TRY(pk_refuse(m, err, "memo index %llu in a pickle of %zu bytes",
                        (unsigned long long)index, m->n));
    Q_TRY(pk_reserve(m, &m->memo, (uint32_t)index + 1, sizeof node, err));
    ((uint32_t *)m->memo.v)[index] = node;
    if (m->memo.n <= index)
        m->memo.n = (uint32_t)index + 1;
out:
    return st;
}

static q_status get(pk *m, uint64_t index, q_err *err)
{
    if (index >= m->memo.n || ((uint32_t *)m->memo.v)[index] == 0)
        return pk_refuse(m, err, "memo index %llu was never set", (unsigned long long)index);
    return push(m, ((uint32_t *)m->memo.v)[index], err);
}

static q_status memo_by(pk *m, size_t index_bytes, q_status (*use)(pk *, uint64_t, q_err *),
                        q_err *err)
{
    uint64_t index = 0;
    const q_status st = take_uint(m, index_bytes, &index, err);

    return st == Q_OK ? use(m, index, err) : st;
}

static q_status global_by_lines(pk *m, q_err *err)
{
    q_status st = Q_OK;
    const char *module = NULL, *name = NULL;
    size_t n_module = 0, n_name = 0;
    uint32_t node = 0;

    Q_TRY(take_line(m, &module, &n_module, err));
    Q_TRY(take_line(m, &name, &n_name, err));
    Q_TRY(pk_global(m, &node, module, n_module, name, n_name, err));
    Q_TRY(push(m, node, err));
out:
    return st;
}

static q_status global_by_stack(pk *m, q_err *err)
{
    q_status st = Q_OK;
    uint32_t module = 0, name = 0, node = 0;

    Q_TRY(pop(m, &name, err));
    Q_TRY(pop(m, &module, err));
    if (pk_kind_of(m, module) != PK_STR || pk_kind_of(m, name) != PK_STR)
        Q_TRY(pk_refuse(m, err, "takes %s and %s, wanted two strs",
                        pk_kind_name(pk_kind_of(m, module)), pk_kind_name(pk_kind_of(m, name))));
    Q_TRY(pk_global(m, &node, m->text + pk_at(m, module)->u.str.at, pk_at(m, module)->u.str.n,
                    m->text + pk_at(m, name)->u.str.at, pk_at(m, name)->u.str.n, err));
    Q_TRY(push(m, node, err));
out:
    return st;
}

/* REDUCE, BINPERSID and BUILD; BUILD leaves its object where it is */
static q_status call(pk *m, char op, q_err *err)
{
    q_status st = Q_OK;
    uint32_t arg = 0, callable = 0, node = 0;

    Q_TRY(pop(m, &arg, err));
    if (op == 'Q') {
        Q_TRY(pk_persid(m, &node, arg, err));
        return push(m, node, err);
    }
    if (op == 'b') {
        Q_TRY(top(m, &node, err));
        return pk_build(m, node, arg, err);
    }
    Q_TRY(pop(m, &callable, err));
    Q_TRY(pk_reduce(m, &node, callable, arg, err));
    Q_TRY(push(m, node, err));
out:
    return st;
}

/* ---- the loop ------------------------------------------------------------------------------- */

static q_status skip(pk *m, size_t n, q_err *err)
{
    const uint8_t *p = NULL;

    return take(m, n, &p, err);
}

/* FRAME says how many bytes belong together; nothing is read ahead here, so only the bound counts
 */
static q_status frame(pk *m, q_err *err)
{
    uint64_t n = 0;
    const q_status st = take_uint(m, 8, &n, err);

    if (st == Q_OK && n > m->n - m->at)
        return pk_refuse(m, err, "a frame of %llu bytes, %zu are left", (unsigned long long)n,
                         m->n - m->at);
    return st;
}

static q_status step(pk *m, uint8_t op, q_err *err)
{
    switch (op) {
    case '(':
        return mark(m, err);
    case 'N':
        return push_new(m, PK_NONE, 0, err);
    case 0x88:
    case 0x89:
        return push_new(m, PK_BOOL, op == 0x88, err);
    case 'J':
        return push_int(m, 4, 1, err);
    case 'K':
        return push_int(m, 1, 0, err);
    case 'M':
        return push_int(m, 2, 0, err);
    case 0x8a:
    case 0x8b:
        return push_long(m, op == 0x8a ? 1 : 4, err);
    case 'G': {
        const q_status st = skip(m, 8, err);

        return st == Q_OK ? push_new(m, PK_REAL, 0, err) : st;
    }
    case 0x8c:
        return push_str(m, 1, err);
    case 'X':
        return push_str(m, 4, err);
    case 0x8d:
        return push_str(m, 8, err);
    case ')':
        return short_tuple(m, 0, err);
    case 0x85:
    case 0x86:
    case 0x87:
        return short_tuple(m, (uint32_t)op - 0x84, err);
    case 't':
        return from_mark(m, tuple_of, 0, err);
    case ']':
        return push_new(m, PK_LIST, 0, err);
    case 'a':
        return extend_by(m, 0, 1, err);
    case 'e':
        return from_mark(m, extend, 0, err);
    case '}':
        return push_new(m, PK_DICT, 0, err);
    case 's':
        return extend_by(m, 1, 2, err);
    case 'u':
        return from_mark(m, extend, 1, err);
    case 'q':
        return memo_by(m, 1, put, err);
    case 'r':
        return memo_by(m, 4, put, err);
    case 0x94:
        return put(m, m->memo.n, err);
    case 'h':
        return memo_by(m, 1, get, err);
    case 'j':
        return memo_by(m, 4, get, err);
    case 'c':
        return global_by_lines(m, err);
    case 0x93:
        return global_by_stack(m, err);
    case 'R':
    case 'b':
    case 'Q':
        return call(m, (char)op, err);
    case 0x95:
        return frame(m, err);
    default:
        return pk_refuse(
            m, err, pk_op_name(op) ? "opcode is not allowed in a checkpoint" : "no such opcode");
    }
}

static q_status run(pk *m, uint32_t *root, q_err *err)
{
    q_status st = Q_OK;
    uint8_t op;

    if (m->n < 2 || (uint8_t)m->text[0] != 0x80 || m->text[1] < 2 || m->text[1] > 5)
        Q_TRY(pk_refuse(m, err, "not a pickle of protocol 2 to 5"));
    m->at = 2;
    for (;;) {
        if (m->at == m->n)
            Q_TRY(pk_refuse(m, err, "the pickle ends without STOP"));
        m->op_at = m->at;
        op = (uint8_t)m->text[m->at++];
        if (op == '.')
            break;
        Q_TRY(step(m, op, err));
    }
    if (m->n_mark || m->stack.n != 1)
        Q_TRY(pk_refuse(m, err, "%u values and %d marks are left, wanted one value", m->stack.n,
                        m->n_mark));
    if (m->at != m->n)
        Q_TRY(pk_refuse(m, err, "%zu bytes behind it belong to nothing", m->n - m->at));
    *root = ((uint32_t *)m->stack.v)[0];
out:
    return st;
}

q_status fmt_unpickle(fmt_pickled **t, size_t *n, char *text, size_t bytes, const char *path,
                      q_err *err)
{
    q_status st = Q_OK;
    pk m = { .text = text, .n = bytes, .path = path };
    uint32_t root = 0;

    if (bytes > FMT_PICKLE_MAX)
        Q_FAIL(err, Q_EFORMAT, "%s: data.pkl has %zu bytes, at most %zu are read", path, bytes,
               FMT_PICKLE_MAX);
    Q_TRY(pk_reserve(&m, &m.nodes, 1, sizeof(pk_node), err));
    Q_TRY(pk_reserve(&m, &m.cells, 1, sizeof(pk_cell), err));
    Q_TRY(pk_reserve(&m, &m.stack, 1, sizeof(uint32_t), err)); /* never NULL: marks point into it */
    m.nodes.n = m.cells.n = 1;                                 /* 0 is none */
    Q_TRY(run(&m, &root, err));
    Q_TRY(pk_collect(&m, root, t, n, err));
out:
    q_free(m.nodes.v);
    q_free(m.cells.v);
    q_free(m.stack.v);
    q_free(m.memo.v);
    return st;
}
