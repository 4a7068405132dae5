/* Byte-pair merging by rank.
 *
 * Vocabulary: the bytes of all tokens in one block, off[id] .. off[id + 1], and an open hash table
 * from bytes to id.  A slot is 64 bits, (upper half of the hash | id + 1): almost every miss and
 * every step over a neighbour is settled without touching the token bytes.  Listed pairs have a
 * second table, from two ids to their rank, and made[rank] is the token that the pair becomes.
 *
 * Merging: parts of a piece are always tokens, so a part is its first byte position and its id; the
 * rank of a pair comes from the bytes between the left part's start and the right part's end, or
 * from the two ids.
 *   short pieces (almost all): arrays on the stack, the lowest rank found by a scan;
 *   long pieces: parts in a doubly linked list over byte positions, pairs in a binary heap of
 *     (rank << 40 | position).  An entry is stale when the pair at its position has another rank by
 *     now: a pair only ever grows, so it never has the same rank twice.
 * A pair longer than the longest token has no rank, so a lookup never hashes more than that. */
#include "formats/text/bpe.h"

#include <assert.h>
#include <string.h>

#define NO_RANK    INT32_MAX
#define SHORT_MAX  64   /* bytes; the scan costs at most 32 steps per byte */
#define PROBES_MAX 1024 /* seen in real vocabularies: below 64 */
#define POS_BITS   40
#define PIECE_MAX  ((size_t)UINT32_MAX - 1)

typedef struct pair_slot {
    int32_t left, right, rank; /* rank is 1 more than the rank; 0: free */
} pair_slot;

struct txt_bpe {
    uint8_t *bytes;
    uint32_t *off;  /* [max_tokens + 1] */
    uint64_t *slot; /* [mask + 1], 0: free */
    size_t n, max_tokens, max_bytes, mask, longest;
    int32_t byte_id[256]; /* -1: not there */
    int whole;            /* a piece that is a token is not merged */
    pair_slot *pair;      /* [pair_mask + 1]; NULL: merging by bytes */
    int32_t *made;        /* [max_merges] */
    size_t n_merges, max_merges, pair_mask;
};

q_status txt_bpe_create(txt_bpe **out, size_t n_tokens, size_t n_bytes, q_err *err)
{
    q_status st = Q_OK;
    size_t slots = 64;
    txt_bpe *b = NULL;

    if (n_tokens < 1 || n_tokens > TXT_BPE_MAX_TOKENS || n_bytes > UINT32_MAX)
        Q_FAIL(err, Q_ESHAPE, "vocabulary of %zu tokens and %zu bytes, at most %zu and %zu",
               n_tokens, n_bytes, TXT_BPE_MAX_TOKENS, (size_t)UINT32_MAX);
    while (slots < n_tokens + n_tokens / 2) /* at most two thirds full */
        slots *= 2;
    if (!(b = q_calloc(1, sizeof *b)))
        Q_FAIL(err, Q_ENOMEM, "no memory for a vocabulary");
    b->bytes = q_malloc(n_bytes + 1);
    b->off = q_calloc(n_tokens + 1, sizeof *b->off);
    b->slot = q_calloc(slots, sizeof *b->slot);
    if (!b->bytes || !b->off || !b->slot)
        Q_FAIL(err, Q_ENOMEM, "no memory for a vocabulary of %zu tokens", n_tokens);
    b->mask = slots - 1;
    b->max_tokens = n_tokens;
    b->max_bytes = n_bytes;
    memset(b->byte_id, 0xFF, sizeof b->byte_id);
    b->whole = 1;
    *out = b;
    b = NULL;
out:
    txt_bpe_free(b);
    return st;
}

void txt_bpe_free(txt_bpe *b)
{
    if (!b)
        return;
    q_free(b->bytes);
    q_free(b->off);
    q_free(b->slot);
    q_free(b->pair);
    q_free(b->made);
    q_free(b);
}

/* Multiply and fold the upper half down, eight bytes a step; tails read overlapping words.
 * The constants are odd with about half of their bits set, nothing more. */
static uint64_t hash_bytes(const uint8_t *p, size_t n)
{
    const uint64_t k1 = 0x9E3779B97F4A7C15u, k2 = 0xD6E8FEB86659FD93u;
    uint64_t h = n * k2, w;
    uint32_t lo, hi;

    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&w, p, 8);
        h = (h ^ w) * k1;
        h ^= h >> 32;
    }
    if (n >= 4) {
        memcpy(&lo, p, 4);
        memcpy(&hi, p + n - 4, 4);
        w = (uint64_t)hi << 32 | lo;
    } else {
        w = n ? (uint64_t)p[0] << 16 | (uint64_t)p[n / 2] << 8 | p[n - 1] : 0;
    }
    h = (h ^ w) * k1;
    h = (h ^ h >> 32) * k2;
    return h ^ h >> 29;
}

/* The slot of these bytes, or the free slot where they would go; NULL after too many probes. */
static uint64_t *find_slot(const txt_bpe *b, uint64_t hash, const char *p, size_t n)
{
    const uint64_t tag = hash >> 32;

    for (size_t i = 0; i < PROBES_MAX; i++) {
        uint64_t *s = &b->slot[(hash + i) & b->mask];
        const uint32_t r = (uint32_t)*s - 1; /* wraps for a free slot, and is not used then */

        if (*s == 0 || (*s >> 32 == tag && b->off[r + 1] - b->off[r] == n &&
                        memcmp(b->bytes + b->off[r], p, n) == 0))
            return s;
    }
    return NULL;
}

q_status txt_bpe_add(txt_bpe *b, const char *p, size_t n, q_err *err)
{
    const uint64_t hash = hash_bytes((const uint8_t *)p, n);
    uint64_t *s = find_slot(b, hash, p, n);
    const size_t at = b->off[b->n];

    assert(n > 0 && n <= TXT_BPE_MAX_TOKEN && b->n < b->max_tokens && n <= b->max_bytes - at);
    if (!s)
        return q_fail(err, Q_EFORMAT, "more than %d tokens fall on one place of the hash table",
                      PROBES_MAX);
    if (*s != 0)
        return q_fail(err, Q_EFORMAT, "the same bytes as rank %u", (unsigned)((uint32_t)*s - 1));
    memcpy(b->bytes + at, p, n);
    if (n == 1)
        b->byte_id[(uint8_t)*p] = (int32_t)b->n;
    if (n > b->longest)
        b->longest = n;
    *s = (hash >> 32 << 32) | (b->n + 1);
    b->off[++b->n] = (uint32_t)(at + n);
    return Q_OK;
}

int32_t txt_bpe_size(const txt_bpe *b)
{
    return (int32_t)b->n;
}

int32_t txt_bpe_find(const txt_bpe *b, const char *p, size_t n)
{
    const uint64_t *s;

    if (n > b->longest)
        return -1;
    s = find_slot(b, hash_bytes((const uint8_t *)p, n), p, n);
    return s ? (int32_t)((uint32_t)*s - 1) : -1; /* a free slot, 0, gives -1 as well */
}

const char *txt_bpe_token(const txt_bpe *b, int32_t rank, size_t *n)
{
    assert(rank >= 0 && (size_t)rank < b->n);
    *n = b->off[rank + 1] - b->off[rank];
    return (const char *)b->bytes + b->off[rank];
}

void txt_bpe_skip(txt_bpe *b)
{
    assert(b->n < b->max_tokens);
    b->off[b->n + 1] = b->off[b->n];
    b->n++;
}

q_status txt_bpe_pairs(txt_bpe *b, size_t n_merges, int whole, q_err *err)
{
    size_t slots = 64;

    assert(!b->pair);
    if (n_merges > TXT_BPE_MAX_TOKENS)
        return q_fail(err, Q_ESHAPE, "%zu merges, at most %zu", n_merges, TXT_BPE_MAX_TOKENS);
    while (slots < 2 * n_merges)
        slots *= 2;
    b->pair = q_calloc(slots, sizeof *b->pair);
    b->made = q_calloc(n_merges + 1, sizeof *b->made);
    if (!b->pair || !b->made)
        return q_fail(err, Q_ENOMEM, "no memory for %zu merges", n_merges);
    b->pair_mask = slots - 1;
    b->max_merges = n_merges;
    b->whole = whole;
    return Q_OK;
}

/* The slot of this pair, or the free slot where it would go; NULL after too many probes. */
static pair_slot *find_pair(const txt_bpe *b, int32_t left, int32_t right)
{
    uint64_t hash = ((uint64_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;

    hash ^= hash >> 32;
    for (size_t i = 0; i < PROBES_MAX; i++) {
        pair_slot *s = &b->pair[(hash + i) & b->pair_mask];

        if (s->rank == 0 || (s->left == left && s->right == right))
            return s;
    }
    return NULL;
}

q_status txt_bpe_merge(txt_bpe *b, int32_t left, int32_t right, q_err *err)
{
    char joined[2 * TXT_BPE_MAX_TOKEN];
    pair_slot *s = find_pair(b, left, right);
    const char *l, *r;
    size_t n_l, n_r;
    int32_t id;

    assert(b->pair && b->n_merges < b->max_merges);
    if (!s)
        return q_fail(err, Q_EFORMAT, "more than %d pairs fall on one place of the hash table",
                      PROBES_MAX);
    if (s->rank != 0)
        return q_fail(err, Q_EFORMAT, "the same pair as merge %d", s->rank - 1);
    l = txt_bpe_token(b, left, &n_l);
    r = txt_bpe_token(b, right, &n_r);
    memcpy(joined, l, n_l);
    memcpy(joined + n_l, r, n_r);
    id = txt_bpe_find(b, joined, n_l + n_r);
    if (id < 0)
        return q_fail(err, Q_EFORMAT, "ids %d and %d together are no token", left, right);
    b->made[b->n_merges++] = id;
    *s = (pair_slot){ left, right, (int32_t)b->n_merges };
    return Q_OK;
}

/* Rank of two neighbours that span p[from..to). */
static int32_t pair_rank(const txt_bpe *b, const char *p, size_t from, size_t to, int32_t left,
                         int32_t right)
{
    const pair_slot *s;
    int32_t r;

    if (b->pair) {
        s = find_pair(b, left, right);
        return s && s->rank > 0 ? s->rank - 1 : NO_RANK;
    }
    r = txt_bpe_find(b, p + from, to - from);
    return r < 0 ? NO_RANK : r;
}

/* The token that a pair of this rank becomes. */
static int32_t made_by(const txt_bpe *b, int32_t rank)
{
    return b->pair ? b->made[rank] : rank;
}

static q_status encode_short(const txt_bpe *b, const char *p, size_t n, q_ids *ids, q_err *err)
{
    uint8_t cut[SHORT_MAX + 1];             /* part i is p[cut[i]..cut[i + 1]) */
    int32_t id[SHORT_MAX], rank[SHORT_MAX]; /* rank[i]: of part i with part i + 1 */
    size_t m = n;

    for (size_t i = 0; i < n; i++) {
        cut[i] = (uint8_t)i;
        id[i] = b->byte_id[(uint8_t)p[i]];
    }
    cut[n] = (uint8_t)n;
    for (size_t i = 0; i < n; i++)
        rank[i] = i + 1 < n ? pair_rank(b, p, i, i + 2, id[i], id[i + 1]) : NO_RANK;
    while (m > 1) {
        size_t at = 0;

        for (size_t i = 1; i + 1 < m; i++)
            if (rank[i] < rank[at])
                at = i;
        if (rank[at] == NO_RANK)
            break;
        id[at] = made_by(b, rank[at]);
        m--;
        memmove(cut + at + 1, cut + at + 2, m - at);
        memmove(id + at + 1, id + at + 2, (m - at - 1) * sizeof *id);
        memmove(rank + at + 1, rank + at + 2, (m - at - 1) * sizeof *rank);
        rank[at] = at + 1 < m ? pair_rank(b, p, cut[at], cut[at + 2], id[at], id[at + 1]) : NO_RANK;
        if (at > 0)
            rank[at - 1] = pair_rank(b, p, cut[at - 1], cut[at + 1], id[at - 1], id[at]);
    }
    return q_ids_append(ids, id, m, err);
}

/* A part of a long piece, at the index of its first byte; others are not looked at. */
typedef struct part {
    uint32_t next, prev; /* first bytes of the neighbours; next is n for the last */
    int32_t id, rank;    /* rank: of this part with the next one */
} part;

typedef struct heap {
    uint64_t *v;
    size_t n;
} heap;

static void sift_down(heap *h, size_t i)
{
    const uint64_t x = h->v[i];
    size_t c;

    while ((c = 2 * i + 1) < h->n) {
        if (c + 1 < h->n && h->v[c + 1] < h->v[c])
            c++;
        if (h->v[c] >= x)
            break;
        h->v[i] = h->v[c];
        i = c;
    }
    h->v[i] = x;
}

static void heap_push(heap *h, uint64_t x)
{
    size_t i = h->n++;

    for (; i > 0 && h->v[(i - 1) / 2] > x; i = (i - 1) / 2)
        h->v[i] = h->v[(i - 1) / 2];
    h->v[i] = x;
}

static uint64_t heap_pop(heap *h)
{
    const uint64_t x = h->v[0];

    h->v[0] = h->v[--h->n];
    if (h->n > 0)
        sift_down(h, 0);
    return x;
}

/* Rank the pair at i anew; a ranked pair enters the heap. */
static void rank_pair(const txt_bpe *b, const char *p, size_t n, part *v, heap *h, uint32_t i)
{
    const uint32_t mid = v[i].next;

    v[i].rank = mid < n ? pair_rank(b, p, i, v[mid].next, v[i].id, v[mid].id) : NO_RANK;
    if (v[i].rank != NO_RANK)
        heap_push(h, (uint64_t)v[i].rank << POS_BITS | i);
}

static void merge_long(const txt_bpe *b, const char *p, size_t n, part *v, heap *h)
{
    for (size_t i = 0; i < n; i++)
        v[i] = (part){ .next = (uint32_t)i + 1,
                       .prev = (uint32_t)i - 1, /* of the first part: never used */
                       .id = b->byte_id[(uint8_t)p[i]] };
    for (size_t i = 0; i < n; i++)
        rank_pair(b, p, n, v, h, (uint32_t)i);
    while (h->n > 0) {
        const uint64_t top = heap_pop(h);
        const uint32_t i = (uint32_t)(top & (((uint64_t)1 << POS_BITS) - 1));
        uint32_t gone;

        if (v[i].rank != (int32_t)(top >> POS_BITS)) /* stale, or swallowed: rank NO_RANK */
            continue;
        gone = v[i].next;
        v[i].id = made_by(b, v[i].rank);
        v[i].next = v[gone].next;
        v[gone].rank = NO_RANK;
        if (v[i].next < n)
            v[v[i].next].prev = i;
        rank_pair(b, p, n, v, h, i);
        if (i > 0)
            rank_pair(b, p, n, v, h, v[i].prev);
    }
}

static q_status encode_long(const txt_bpe *b, const char *p, size_t n, q_ids *ids, q_err *err)
{
    q_status st = Q_OK;
    size_t bytes, room;
    part *v = NULL;
    heap h = { 0 };

    /* n - 1 pairs at first; a merge takes one entry and adds at most two, n - 1 times at most */
    if (n > PIECE_MAX || !q_mul_ok(n, sizeof *v, &bytes) || !q_mul_ok(n, 2 * sizeof *h.v, &room))
        Q_FAIL(err, Q_ENOMEM, "%zu bytes of text without a place to cut", n);
    v = q_malloc(bytes);
    h.v = q_malloc(room);
    if (!v || !h.v)
        Q_FAIL(err, Q_ENOMEM, "no memory to merge %zu bytes of text without a place to cut", n);
    merge_long(b, p, n, v, &h);
    for (size_t i = 0; i < n; i = v[i].next)
        Q_TRY(q_ids_push(ids, v[i].id, err));
out:
    q_free(v);
    q_free(h.v);
    return st;
}

q_status txt_bpe_encode(const txt_bpe *b, const char *p, size_t n, q_ids *ids, q_err *err)
{
    const int32_t whole = b->whole ? txt_bpe_find(b, p, n) : -1;

    if (whole >= 0)
        return q_ids_push(ids, whole, err);
    return n <= SHORT_MAX ? encode_short(b, p, n, ids, err) : encode_long(b, p, n, ids, err);
}
