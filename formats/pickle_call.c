/* The names a checkpoint may use, and what calling them makes.
 *
 *   collections.OrderedDict()                                 an empty OrderedDict
 *   torch._utils._rebuild_tensor_v2(storage, offset, size,
 *       stride, requires_grad, backward_hooks[, metadata])    a tensor
 *   torch._utils._rebuild_parameter(tensor, requires_grad,
 *       backward_hooks)                                       the same tensor
 *   persistent id ('storage', torch.<T>Storage, key, location, numel)    a storage
 *
 * Here kinds and numbers of arguments are checked, with the byte of the call in the message.
 * Whether shape, strides and offset fit the storage is checked in pickle_tensors.c, where the name
 * of the tensor is known.  Source: PyTorch, torch/_utils.py, and persistent_id in
 * torch/serialization.py. */
#include <string.h>

#include "formats/pickle_impl.h"

typedef enum action { MAKE_ODICT, MAKE_TENSOR, MAKE_PARAMETER, STORAGE_CLASS } action;

static const struct {
    const char *module, *name;
    action what;
    fmt_dtype dtype;
} globals[] = {
    { "collections", "OrderedDict", MAKE_ODICT, FMT_DTYPES },
    { "torch._utils", "_rebuild_tensor_v2", MAKE_TENSOR, FMT_DTYPES },
    { "torch._utils", "_rebuild_parameter", MAKE_PARAMETER, FMT_DTYPES },
    { "torch", "FloatStorage", STORAGE_CLASS, FMT_F32 },
    { "torch", "HalfStorage", STORAGE_CLASS, FMT_F16 },
    { "torch", "BFloat16Storage", STORAGE_CLASS, FMT_BF16 },
    { "torch", "DoubleStorage", STORAGE_CLASS, FMT_F64 },
    { "torch", "LongStorage", STORAGE_CLASS, FMT_I64 },
    { "torch", "IntStorage", STORAGE_CLASS, FMT_I32 },
    { "torch", "ShortStorage", STORAGE_CLASS, FMT_I16 },
    { "torch", "CharStorage", STORAGE_CLASS, FMT_I8 },
    { "torch", "ByteStorage", STORAGE_CLASS, FMT_U8 },
    { "torch", "BoolStorage", STORAGE_CLASS, FMT_BOOL },
};

static int same(const char *text, const char *p, size_t n)
{
    return strlen(text) == n && memcmp(text, p, n) == 0;
}

q_status pk_global(pk *m, uint32_t *out, const char *module, size_t n_module, const char *name,
                   size_t n_name, q_err *err)
{
    q_status st = Q_OK;
    size_t i = 0;

    while (i < sizeof globals / sizeof globals[0] &&
           !(same(globals[i].module, module, n_module) && same(globals[i].name, name, n_name)))
        i++;
    if (i == sizeof globals / sizeof globals[0])
        Q_TRY(pk_refuse(m, err, "%s.%s is not allowed in a checkpoint", pk_show(module, n_module).s,
                        pk_show(name, n_name).s));
    Q_TRY(pk_new(m, out, PK_GLOBAL, err));
    pk_at(m, *out)->u.i = (int64_t)i;
out:
    return st;
}

fmt_dtype pk_storage_dtype(const pk *m, uint32_t global)
{
    return globals[pk_at(m, global)->u.i].dtype;
}

uint32_t pk_items(const pk *m, uint32_t node, uint32_t *v, uint32_t max)
{
    const pk_seq *s = &pk_at(m, node)->u.seq;
    uint32_t cell = s->first;

    for (uint32_t i = 0; i < s->n && i < max; i++, cell = pk_cell_at(m, cell)->next)
        v[i] = pk_cell_at(m, cell)->node;
    return s->n;
}

/* Argument i of what has to be of this kind. */
static q_status want(const pk *m, const char *what, const uint32_t *v, uint32_t i, pk_kind kind,
                     q_err *err)
{
    if (pk_kind_of(m, v[i]) == kind)
        return Q_OK;
    return pk_refuse(m, err, "item %u of %s is %s, wanted %s", i + 1, what,
                     pk_kind_name(pk_kind_of(m, v[i])), pk_kind_name(kind));
}

/* A tuple of at most FMT_MAX_DIMS ints. */
static q_status want_ints(const pk *m, const char *what, const uint32_t *v, uint32_t i, uint32_t *n,
                          q_err *err)
{
    q_status st = Q_OK;
    uint32_t item[FMT_MAX_DIMS];

    Q_TRY(want(m, what, v, i, PK_TUPLE, err));
    *n = pk_items(m, v[i], item, FMT_MAX_DIMS);
    if (*n > FMT_MAX_DIMS)
        Q_TRY(pk_refuse(m, err, "item %u of %s has %u dimensions, at most %d are read", i + 1, what,
                        *n, FMT_MAX_DIMS));
    for (uint32_t k = 0; k < *n; k++)
        Q_TRY(want(m, "a shape or stride", item, k, PK_INT, err));
out:
    return st;
}

static q_status want_no_hooks(const pk *m, const char *what, const uint32_t *v, uint32_t i,
                              q_err *err)
{
    const q_status st = want(m, what, v, i, PK_ODICT, err);

    if (st == Q_OK && pk_at(m, v[i])->u.seq.n)
        return pk_refuse(m, err, "item %u of %s: a tensor with backward hooks", i + 1, what);
    return st;
}

static q_status make_tensor(pk *m, uint32_t *out, uint32_t args, q_err *err)
{
    static const char what[] = "_rebuild_tensor_v2";
    q_status st = Q_OK;
    uint32_t v[7], n_dims = 0, n_strides = 0;
    const uint32_t n = pk_items(m, args, v, 7);

    if (n != 6 && n != 7)
        Q_TRY(pk_refuse(m, err, "%s with %u arguments, wanted 6", what, n));
    Q_TRY(want(m, what, v, 0, PK_STORAGE, err));
    Q_TRY(want(m, what, v, 1, PK_INT, err));
    Q_TRY(want_ints(m, what, v, 2, &n_dims, err));
    Q_TRY(want_ints(m, what, v, 3, &n_strides, err));
    if (n_dims != n_strides)
        Q_TRY(pk_refuse(m, err, "%s: %u dimensions and %u strides", what, n_dims, n_strides));
    Q_TRY(want(m, what, v, 4, PK_BOOL, err));
    Q_TRY(want_no_hooks(m, what, v, 5, err));
    if (n == 7) /* conjugate and negative views: complex numbers, nothing a checkpoint has */
        Q_TRY(want(m, what, v, 6, PK_NONE, err));
    Q_TRY(pk_new(m, out, PK_TENSOR, err));
    pk_at(m, *out)->u.seq = pk_at(m, args)->u.seq; /* a tuple never changes */
out:
    return st;
}

static q_status make_parameter(pk *m, uint32_t *out, uint32_t args, q_err *err)
{
    static const char what[] = "_rebuild_parameter";
    q_status st = Q_OK;
    uint32_t v[3];
    const uint32_t n = pk_items(m, args, v, 3);

    if (n != 3)
        Q_TRY(pk_refuse(m, err, "%s with %u arguments, wanted 3", what, n));
    Q_TRY(want(m, what, v, 0, PK_TENSOR, err));
    Q_TRY(want(m, what, v, 1, PK_BOOL, err));
    Q_TRY(want_no_hooks(m, what, v, 2, err));
    *out = v[0];
out:
    return st;
}

q_status pk_reduce(pk *m, uint32_t *out, uint32_t callable, uint32_t args, q_err *err)
{
    q_status st = Q_OK;
    action what;

    if (pk_kind_of(m, callable) != PK_GLOBAL || pk_kind_of(m, args) != PK_TUPLE)
        Q_TRY(pk_refuse(m, err, "calls %s with %s, wanted a name and a tuple",
                        pk_kind_name(pk_kind_of(m, callable)), pk_kind_name(pk_kind_of(m, args))));
    what = globals[pk_at(m, callable)->u.i].what;
    if (what == MAKE_TENSOR)
        return make_tensor(m, out, args, err);
    if (what == MAKE_PARAMETER)
        return make_parameter(m, out, args, err);
    if (what == STORAGE_CLASS)
        Q_TRY(pk_refuse(m, err, "calls torch.%s, a storage comes by a persistent id only",
                        globals[pk_at(m, callable)->u.i].name));
    if (pk_at(m, args)->u.seq.n)
        Q_TRY(pk_refuse(m, err, "collections.OrderedDict with arguments, wanted none"));
    Q_TRY(pk_new(m, out, PK_ODICT, err));
out:
    return st;
}

/* state_dict() leaves an attribute `_metadata` on its OrderedDict: versions of modules.  No other
 * attribute of no other object has a meaning here. */
q_status pk_build(pk *m, uint32_t object, uint32_t state, q_err *err)
{
    uint32_t v[1];

    if (pk_kind_of(m, object) != PK_ODICT || pk_kind_of(m, state) != PK_DICT ||
        pk_items(m, state, v, 1) != 2 || !pk_is_str(m, v[0], "_metadata") ||
        pk_at(m, object)->u.seq.state)
        return pk_refuse(m, err,
                         "gives a state to %s, allowed is {'_metadata': ...} to an OrderedDict, "
                         "once",
                         pk_kind_name(pk_kind_of(m, object)));
    pk_at(m, object)->u.seq.state = state;
    return Q_OK;
}

/* Storages are numbered; anything else in a key could only be meant to leave data/. */
static q_status check_key(const pk *m, uint32_t key, q_err *err)
{
    const char *p = m->text + pk_at(m, key)->u.str.at;
    const uint32_t n = pk_at(m, key)->u.str.n;
    uint32_t digits = 0;

    while (digits < n && p[digits] >= '0' && p[digits] <= '9')
        digits++;
    if (n == 0 || n > 20 || digits != n)
        return pk_refuse(m, err, "storage key '%s' is not a number", pk_show(p, n).s);
    return Q_OK;
}

q_status pk_persid(pk *m, uint32_t *out, uint32_t id, q_err *err)
{
    static const char what[] = "a persistent id";
    q_status st = Q_OK;
    uint32_t v[5], n;

    if (pk_kind_of(m, id) != PK_TUPLE)
        Q_TRY(pk_refuse(m, err, "%s is %s, wanted a tuple", what, pk_kind_name(pk_kind_of(m, id))));
    n = pk_items(m, id, v, 5);
    if (n != 5 || !pk_is_str(m, v[0], "storage"))
        Q_TRY(pk_refuse(m, err, "%s of %u items, wanted ('storage', class, key, location, numel)",
                        what, n));
    Q_TRY(want(m, what, v, 1, PK_GLOBAL, err));
    if (globals[pk_at(m, v[1])->u.i].what != STORAGE_CLASS)
        Q_TRY(pk_refuse(m, err, "%s with %s.%s, wanted a storage class", what,
                        globals[pk_at(m, v[1])->u.i].module, globals[pk_at(m, v[1])->u.i].name));
    Q_TRY(want(m, what, v, 2, PK_STR, err));
    Q_TRY(check_key(m, v[2], err));
    Q_TRY(want(m, what, v, 3, PK_STR, err));
    Q_TRY(want(m, what, v, 4, PK_INT, err));
    if (pk_at(m, v[4])->u.i < 0)
        Q_TRY(pk_refuse(m, err, "a storage of %lld elements", (long long)pk_at(m, v[4])->u.i));
    Q_TRY(pk_new(m, out, PK_STORAGE, err));
    pk_at(m, *out)->u.seq = pk_at(m, id)->u.seq;
out:
    return st;
}
