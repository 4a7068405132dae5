/* The two containers of checkpoints behind one name.  Both give fmt_tensor with places in the file,
 * so a directory of shards needs no more than this choice. */
#include "formats/shard.h"

q_status fmt_shard_open(fmt_shard *s, fmt_shard_kind kind, const char *dir, const char *name,
                        q_err *err)
{
    *s = (fmt_shard){ NULL, NULL };
    return kind == FMT_SHARD_TORCH ? fmt_tz_open(&s->tz, dir, name, err)
                                   : fmt_st_open(&s->st, dir, name, err);
}

void fmt_shard_close(fmt_shard *s)
{
    fmt_st_close(s->st);
    fmt_tz_close(s->tz);
    *s = (fmt_shard){ NULL, NULL };
}

const char *fmt_shard_path(const fmt_shard *s)
{
    return s->tz ? fmt_tz_path(s->tz) : fmt_st_path(s->st);
}

size_t fmt_shard_count(const fmt_shard *s)
{
    return s->tz ? fmt_tz_count(s->tz) : fmt_st_count(s->st);
}

const fmt_tensor *fmt_shard_at(const fmt_shard *s, size_t i)
{
    return s->tz ? fmt_tz_at(s->tz, i) : fmt_st_at(s->st, i);
}

const fmt_tensor *fmt_shard_find(const fmt_shard *s, const char *name)
{
    return s->tz ? fmt_tz_find(s->tz, name) : fmt_st_find(s->st, name);
}

q_status fmt_shard_read(const fmt_shard *s, const fmt_tensor *t, uint64_t from, size_t n, void *dst,
                        q_err *err)
{
    return s->tz ? fmt_tz_read(s->tz, t, from, n, dst, err)
                 : fmt_st_read(s->st, t, from, n, dst, err);
}
