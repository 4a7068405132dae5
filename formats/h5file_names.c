/* Names and attributes of an HDF5 file: whether something is there, and what it says of itself.
 *
 * In a damaged file the library may find nothing where something is.  Every question about a name
 * therefore goes from the root downwards, and what cannot be looked up is an error, never absent.
 */
#include <string.h>

#include "formats/h5file_impl.h"

/* ---- what is there ---------------------------------------------------------------------------
 */

/* H5Lexists wants every step of the way to exist. */
q_status fmt_h5_has(const fmt_h5 *h, const char *name, int *yes, q_err *err)
{
    q_status st = Q_OK;
    char part[FMT_H5_NAME];
    const char *p = name;

    *yes = 1;
    if (strcmp(name, "/") == 0)
        return Q_OK;
    Q_TRY(fmt_h5_check_name(h->path, name, err));
    while (*yes && p) {
        size_t n;
        htri_t found;

        p = strchr(p + 1, '/');
        n = p ? (size_t)(p - name) : strlen(name);
        memcpy(part, name, n);
        part[n] = '\0';
        found = H5Lexists(h->file, part, H5P_DEFAULT);
        if (found < 0)
            Q_TRY(fmt_h5_fail(err, Q_EFORMAT, h->path, name, FMT_H5_DAMAGED));
        *yes = found > 0;
    }
out:
    return st;
}

q_status fmt_h5_has_attr(const fmt_h5 *h, const char *name, const char *key, int *yes, q_err *err)
{
    q_status st = Q_OK;
    htri_t found;

    Q_TRY(fmt_h5_has(h, name, yes, err));
    if (!*yes)
        goto out;
    found = H5Aexists_by_name(h->file, name, key, H5P_DEFAULT);
    if (found < 0)
        Q_TRY(fmt_h5_fail(err, Q_EFORMAT, h->path, name, "its attributes: " FMT_H5_DAMAGED));
    *yes = found > 0;
out:
    return st;
}

q_status fmt_h5_is_group(const fmt_h5 *h, const char *name, int *yes, q_err *err)
{
    q_status st = Q_OK;
    H5O_info_t info;

    Q_TRY(fmt_h5_has(h, name, yes, err));
    if (!*yes)
        goto out;
    if (H5Oget_info_by_name(h->file, name, &info, H5P_DEFAULT) < 0)
        Q_TRY(fmt_h5_fail(err, Q_EFORMAT, h->path, name, FMT_H5_DAMAGED));
    *yes = info.type == H5O_TYPE_GROUP;
out:
    return st;
}

/* ---- attributes ----------------------------------------------------------------------------- */

static q_status open_attr(hid_t *attr, const fmt_h5 *h, const char *name, const char *key,
                          q_err *err)
{
    q_status st = Q_OK;
    int yes;

    *attr = -1;
    Q_TRY(fmt_h5_has_attr(h, name, key, &yes, err));
    if (!yes)
        Q_FAIL(err, Q_EFORMAT, "%s: '%s' has no attribute '%s'", h->path, name, key);
    *attr = H5Aopen_by_name(h->file, name, key, H5P_DEFAULT, H5P_DEFAULT);
    if (*attr < 0)
        Q_TRY(fmt_h5_fail(err, Q_EFORMAT, h->path, name, "cannot read its attributes"));
out:
    return st;
}

/* One value of a numeric attribute into *v of the memory type. */
static q_status get_number(const fmt_h5 *h, const char *name, const char *key, hid_t memory,
                           H5T_class_t class, void *v, q_err *err)
{
    q_status st = Q_OK;
    hid_t attr = -1, type = -1, space = -1;

    Q_TRY(open_attr(&attr, h, name, key, err));
    type = H5Aget_type(attr);
    space = H5Aget_space(attr);
    if (type < 0 || space < 0 || H5Tget_class(type) != class ||
        H5Sget_simple_extent_npoints(space) != 1)
        Q_FAIL(err, Q_EFORMAT, "%s: attribute '%s' of '%s' is not one number", h->path, key, name);
    if (H5Aread(attr, memory, v) < 0)
        Q_TRY(fmt_h5_fail(err, Q_EFORMAT, h->path, name, key));
out:
    if (type >= 0)
        H5Tclose(type);
    if (space >= 0)
        H5Sclose(space);
    if (attr >= 0)
        H5Aclose(attr);
    return st;
}

q_status fmt_h5_get_int(const fmt_h5 *h, const char *name, const char *key, int64_t *out,
                        q_err *err)
{
    return get_number(h, name, key, H5T_NATIVE_INT64, H5T_INTEGER, out, err);
}

q_status fmt_h5_get_real(const fmt_h5 *h, const char *name, const char *key, double *out,
                         q_err *err)
{
    return get_number(h, name, key, H5T_NATIVE_DOUBLE, H5T_FLOAT, out, err);
}

q_status fmt_h5_get_str(const fmt_h5 *h, const char *name, const char *key, char *out, size_t cap,
                        q_err *err)
{
    q_status st = Q_OK;
    hid_t attr = -1, type = -1;
    size_t n;

    Q_TRY(open_attr(&attr, h, name, key, err));
    type = H5Aget_type(attr);
    if (type < 0 || H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type))
        Q_FAIL(err, Q_EFORMAT, "%s: attribute '%s' of '%s' is not a short text", h->path, key,
               name);
    n = H5Tget_size(type);
    if (n >= cap)
        Q_FAIL(err, Q_EFORMAT, "%s: attribute '%s' of '%s' has %zu bytes, at most %zu", h->path,
               key, name, n, cap - 1);
    memset(out, 0, cap);
    if (H5Aread(attr, type, out) < 0)
        Q_TRY(fmt_h5_fail(err, Q_EIO, h->path, name, key));
out:
    if (type >= 0)
        H5Tclose(type);
    if (attr >= 0)
        H5Aclose(attr);
    return st;
}
