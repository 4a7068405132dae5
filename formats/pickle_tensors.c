/* What a finished pickle means: a dictionary of tensors by name.
 *
 * First each value that is not a tensor is walked, because it will be ignored: nothing with data
 * may be lost, and a value that would unfold without end (a list of ten lists of ten lists ..., or
 * a list that contains itself) shows what the file is for.  The walk remembers the result of each
 * node, so sharing costs nothing, and has a stack of fixed size, because depth is limited.
 *
 * Then each tensor is compared with its storage in whole numbers:
 *
 *   storage   0 ........ offset ........ offset + product of shape ........ numel
 *
 * Strides have to be those of rows without gaps; the stride of a dimension of one element, and all
 * strides of a tensor without elements, mean nothing and are not compared.  Last, names and keys
 * are terminated in place: the byte behind a string is an opcode that has done its work. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/pickle_impl.h"

/* ---- values that are ignored ---------------------------------------------------------------- */

enum { FRESH, OPEN, DONE }; /* pk_node.walk */

typedef struct level {
    uint32_t node, cell, state; /* what of node is still to be visited */
} level;

static int is_container(pk_kind kind)
{
    return kind == PK_TUPLE || kind == PK_LIST || kind == PK_DICT || kind == PK_ODICT;
}

/* key: the value's, 0 for the state of the OrderedDict */
static q_status fail_value(const pk *m, uint32_t key, const char *what, q_err *err)
{
    const pk_node *k = pk_at(m, key);

    return q_fail(err, Q_EFORMAT,
                  "%s: data.pkl: the value of '%s' %s; save the state_dict alone, or use the "
                  "safetensors files of this checkpoint",
                  m->path, key ? pk_show(m->text + k->u.str.at, k->u.str.n).s : "_metadata", what);
}

/* The finished child is part of its parent. */
static const char *absorb(pk_node *parent, const pk_node *child)
{
    parent->holds |= child->holds;
    if (child->height >= parent->height)
        parent->height = (uint8_t)(child->height + 1);
    parent->weight += child->weight; /* each at most 16 Mi: no overflow before the test */
    if (parent->weight > PK_MAX_VALUES)
        return "unfolds into more than 16777216 values";
    return parent->height > PK_MAX_DEPTH ? "is nested deeper than 100 levels" : NULL;
}

/* Visit child below v[*n - 1], or as the first.  NULL, or what is wrong. */
static const char *visit(pk *m, level *v, int *n, uint32_t child)
{
    pk_node *c = pk_at(m, child);

    if (c->walk == OPEN)
        return "contains itself";
    if (c->kind == PK_GLOBAL)
        return "is or has a bare class or function";
    if (c->walk == FRESH) {
        c->walk = DONE;
        c->weight = 1;
        c->height = is_container(pk_kind_of(m, child)) ? 1 : 0;
        c->holds = c->kind == PK_TENSOR || c->kind == PK_STORAGE;
        if (c->height) {
            if (*n == PK_MAX_DEPTH)
                return "is nested deeper than 100 levels";
            c->walk = OPEN;
            v[(*n)++] = (level){ child, c->u.seq.first, c->u.seq.state };
            return NULL;
        }
    }
    return *n ? absorb(pk_at(m, v[*n - 1].node), c) : NULL;
}

/* A whole value, which must hold no tensor. */
static q_status walk(pk *m, uint32_t key, uint32_t value, q_err *err)
{
    level v[PK_MAX_DEPTH];
    int n = 0;
    const char *bad = visit(m, v, &n, value);

    while (!bad && n > 0) {
        level *l = &v[n - 1];
        const uint32_t node = l->node, cell = l->cell, state = l->state;

        if (cell) {
            l->cell = pk_cell_at(m, cell)->next;
            bad = visit(m, v, &n, pk_cell_at(m, cell)->node);
        } else if (state) {
            l->state = 0;
            bad = visit(m, v, &n, state);
        } else {
            pk_at(m, node)->walk = DONE;
            n--;
            bad = n ? absorb(pk_at(m, v[n - 1].node), pk_at(m, node)) : NULL;
        }
    }
    if (!bad && pk_at(m, value)->holds)
        bad = "has tensors inside";
    return bad ? fail_value(m, key, bad, err) : Q_OK;
}

/* ---- tensors -------------------------------------------------------------------------------- */

/* Well-formed UTF-8 without NUL: no overlong forms, no surrogates, nothing above U+10FFFF. */
static int utf8_ok(const char *text, size_t n)
{
    const uint8_t *p = (const uint8_t *)text;

    for (size_t i = 0; i < n;) {
        const uint8_t c = p[i++];
        const size_t more = c < 0x80 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;

        if (c == 0 || (c >= 0x80 && c < 0xc2) || c > 0xf4 || more > n - i)
            return 0;
        if (more && ((c == 0xe0 && p[i] < 0xa0) || (c == 0xed && p[i] > 0x9f) ||
                     (c == 0xf0 && p[i] < 0x90) || (c == 0xf4 && p[i] > 0x8f)))
            return 0;
        for (const size_t end = i + more; i < end; i++)
            if ((p[i] & 0xc0) != 0x80)
                return 0;
    }
    return 1;
}

static q_status check_name(const pk *m, uint32_t key, q_err *err)
{
    const pk_node *k = pk_at(m, key);

    if (k->kind != PK_STR)
        return q_fail(err, Q_EFORMAT,
                      "%s: data.pkl: name %lld is not a str: save the state_dict alone", m->path,
                      (long long)k->u.i);
    if (k->u.str.n > FMT_ST_MAX_NAME)
        return q_fail(err, Q_EFORMAT,
                      "%s: data.pkl: a tensor name of %u bytes, at most %u are read", m->path,
                      k->u.str.n, FMT_ST_MAX_NAME);
    if (!utf8_ok(m->text + k->u.str.at, k->u.str.n))
        return q_fail(err, Q_EFORMAT, "%s: data.pkl: the name '%s' is not UTF-8: file is damaged",
                      m->path, pk_show(m->text + k->u.str.at, k->u.str.n).s);
    return Q_OK;
}

/* shape, bytes and strides */
static q_status read_shape(const pk *m, fmt_pickled *t, const char *where, uint32_t shape,
                           uint32_t strides, q_err *err)
{
    uint32_t dim[FMT_MAX_DIMS], stride[FMT_MAX_DIMS];
    size_t n = fmt_dtype_bytes(t->dtype);
    int64_t run = 1; /* elements from one index of the dimension to the next */

    t->ndim = (int)pk_items(m, shape, dim, FMT_MAX_DIMS);
    pk_items(m, strides, stride, FMT_MAX_DIMS);
    for (int i = 0; i < t->ndim; i++) {
        t->shape[i] = pk_at(m, dim[i])->u.i;
        if (t->shape[i] < 0)
            return q_fail(err, Q_EFORMAT, "%s: shape[%d] is %lld: file is damaged", where, i,
                          (long long)t->shape[i]);
        if (!q_mul_ok(n, (size_t)t->shape[i], &n))
            return q_fail(err, Q_EFORMAT,
                          "%s: the product of its shape exceeds 64 bits: file is damaged", where);
    }
    t->bytes = n;
    for (int i = t->ndim - 1; i >= 0 && n > 0; i--) { /* no zero among them: run stays below n */
        if (t->shape[i] != 1 && pk_at(m, stride[i])->u.i != run)
            return q_fail(err, Q_EFORMAT,
                          "%s: stride[%d] is %lld, only rows without gaps (%lld) are read: save it "
                          "after .contiguous()",
                          where, i, (long long)pk_at(m, stride[i])->u.i, (long long)run);
        run *= t->shape[i];
    }
    return Q_OK;
}

static q_status read_tensor(const pk *m, fmt_pickled *t, uint32_t name, uint32_t tensor, q_err *err)
{
    q_status st = Q_OK;
    uint32_t arg[4], id[5];
    char where[Q_ERR_MSG];
    int64_t offset, numel;
    size_t item, from, storage;

    t->name = name ? m->text + pk_at(m, name)->u.str.at : "";
    snprintf(where, sizeof where, "%s: '%.*s'", m->path,
             name ? (int)(pk_at(m, name)->u.str.n < 200 ? pk_at(m, name)->u.str.n : 200) : 0,
             t->name);
    pk_items(m, tensor, arg, 4);
    pk_items(m, arg[0], id, 5);
    t->key = m->text + pk_at(m, id[2])->u.str.at;
    t->dtype = pk_storage_dtype(m, id[1]);
    item = fmt_dtype_bytes(t->dtype);
    offset = pk_at(m, arg[1])->u.i;
    numel = pk_at(m, id[4])->u.i;
    Q_TRY(read_shape(m, t, where, arg[2], arg[3], err));
    if (offset < 0 || offset > numel || !q_mul_ok((size_t)numel, item, &storage) ||
        !q_mul_ok((size_t)offset, item, &from) || t->bytes > storage - from)
        Q_FAIL(err, Q_EFORMAT,
               "%s: %llu elements from element %lld leave its storage of %lld: file is damaged",
               where, (unsigned long long)(t->bytes / item), (long long)offset, (long long)numel);
    t->from = from;
    t->storage_bytes = storage;
out:
    return st;
}

/* ---- the dictionary ------------------------------------------------------------------------- */

static const char *end_str(const pk *m, uint32_t node)
{
    const pk_node *s = pk_at(m, node);

    m->text[s->u.str.at + s->u.str.n] = '\0'; /* STOP is behind every string */
    return m->text + s->u.str.at;
}

static void end_key(const pk *m, uint32_t tensor)
{
    uint32_t arg[1], id[3];

    pk_items(m, tensor, arg, 1);
    pk_items(m, arg[0], id, 3);
    end_str(m, id[2]);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Terminate all names and keys, and look for names that are there twice. */
static q_status end_names(const pk *m, const pk_seq *s, q_err *err)
{
    q_status st = Q_OK;
    const char **names = q_calloc(s->n / 2, sizeof *names);
    uint32_t cell = s->first;
    const size_t n = s->n / 2;

    if (!names)
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %zu names", m->path, n);
    for (size_t i = 0; i < n; i++) {
        const pk_cell *key = pk_cell_at(m, cell), *value = pk_cell_at(m, key->next);

        names[i] = end_str(m, key->node);
        if (pk_kind_of(m, value->node) == PK_TENSOR)
            end_key(m, value->node);
        cell = value->next;
    }
    qsort(names, n, sizeof *names, by_text);
    for (size_t i = 1; i < n; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            Q_FAIL(err, Q_EFORMAT, "%s: data.pkl: '%.200s' is there twice: file is damaged",
                   m->path, names[i]);
out:
    q_free(names);
    return st;
}

static q_status collect_dict(pk *m, uint32_t root, fmt_pickled *t, size_t *n, q_err *err)
{
    q_status st = Q_OK;
    const pk_seq s = pk_at(m, root)->u.seq;
    uint32_t cell = s.first;

    for (uint32_t i = 0; i < s.n; i += 2) {
        const pk_cell *key = pk_cell_at(m, cell), *value = pk_cell_at(m, key->next);

        Q_TRY(check_name(m, key->node, err));
        if (pk_kind_of(m, value->node) == PK_TENSOR)
            Q_TRY(read_tensor(m, &t[(*n)++], key->node, value->node, err));
        else
            Q_TRY(walk(m, key->node, value->node, err));
        cell = value->next;
    }
    if (s.state)
        Q_TRY(walk(m, 0, s.state, err));
    if (s.n) /* only now: no check needs the lengths any more */
        Q_TRY(end_names(m, &s, err));
out:
    return st;
}

q_status pk_collect(pk *m, uint32_t root, fmt_pickled **t, size_t *n, q_err *err)
{
    q_status st = Q_OK;
    const pk_kind kind = pk_kind_of(m, root);
    const size_t most = kind == PK_TENSOR ? 1 : pk_at(m, root)->u.seq.n / 2;
    fmt_pickled *v = NULL;
    size_t have = 0;

    if (kind != PK_TENSOR && kind != PK_DICT && kind != PK_ODICT)
        Q_TRY(pk_refuse(m, err, "the file is %s, wanted a dict from names to tensors",
                        pk_kind_name(kind)));
    if (most > FMT_ST_MAX_COUNT)
        Q_FAIL(err, Q_EFORMAT, "%s: data.pkl: %zu names, at most %u are read", m->path, most,
               FMT_ST_MAX_COUNT);
    if (most && !(v = q_calloc(most, sizeof *v)))
        Q_FAIL(err, Q_ENOMEM, "%s: no memory for %zu tensors", m->path, most);
    if (kind == PK_TENSOR) {
        Q_TRY(read_tensor(m, &v[have++], 0, root, err));
        end_key(m, root);
    } else {
        Q_TRY(collect_dict(m, root, v, &have, err));
    }
    *t = v;
    *n = have;
    v = NULL;
out:
    q_free(v);
    return st;
}
