/* ft_names: names, shapes and cuts of the files of an FT directory, and that they cover every
 * element of every role exactly once for any number of ranks. */
#include <string.h>

#include "formats/base/q_mem.h"
#include "formats/ft_names.h"
#include "tests/t.h"

/* Qwen-1 with sizes that differ from one another */
static fmt_model model(void)
{
    return (fmt_model){ .family = &fmt_families[0],
                        .hid = 24,
                        .layers = 2,
                        .n_head = 4,
                        .n_kv = 4,
                        .hd = 6,
                        .ffn = 20,
                        .vocab = 10 };
}

/* the i-th file of weights at T ranks */
static int file_at(fmt_ft_file *f, const fmt_model *m, int T, size_t i)
{
    return fmt_ft_file_at(f, m, &(fmt_ft_layout){ .ranks = T, .store = FMT_F16 }, i);
}

typedef struct want_row {
    const char *name;
    fmt_role role;
    fmt_part part;
    int rank;
    int64_t rows, cols;
    int n_seg;
    fmt_box box; /* of the first segment */
} want_row;

static void check(const want_row *want, size_t n, int T)
{
    const fmt_model m = model();
    fmt_ft_file f;

    for (size_t i = 0; i < n; i++) {
        T_TRUE(file_at(&f, &m, T, i));
        T_STR(f.name, want[i].name);
        T_INT(f.ref.role, want[i].role);
        T_INT(f.ref.part, want[i].part);
        T_INT(f.ref.layer, i < 3 ? 0 : (int)(i - 3) / ((int)n - 3));
        T_INT(f.rank, want[i].rank);
        T_INT(f.rows, want[i].rows);
        T_INT(f.cols, want[i].cols);
        T_INT(f.n_seg, want[i].n_seg);
        T_INT(f.seg[0].at, 0);
        T_INT(f.seg[0].box.n0, want[i].box.n0);
        T_INT(f.seg[0].box.n1, want[i].box.n1);
        T_INT(f.seg[0].box.k0, want[i].box.k0);
        T_INT(f.seg[0].box.k1, want[i].box.k1);
        T_INT(f.transposed, fmt_role_get(f.ref.role)->quant && f.ref.part == FMT_WEIGHT);
    }
}

#define L0 "model.layers.0."

static void t_one_rank(void)
{
    static const want_row want[] = {
        { "vocab_embedding.weight.bin", FMT_TOK_EMBD, FMT_WEIGHT, 0, 10, 24, 1, { 0, 10, 0, 24 } },
        { "lm_head.weight.bin", FMT_LM_HEAD, FMT_WEIGHT, 0, 10, 24, 1, { 0, 10, 0, 24 } },
        { "ln_f.weight.bin", FMT_OUT_NORM, FMT_WEIGHT, 0, 24, 1, 1, { 0, 24, 0, 1 } },
        { L0 "ln_1.weight.bin", FMT_ATTN_NORM, FMT_WEIGHT, 0, 24, 1, 1, { 0, 24, 0, 1 } },
        { L0 "attention.qkv.weight.0.bin",
          FMT_ATTN_QKV,
          FMT_WEIGHT,
          0,
          24,
          72,
          3,
          { 0, 24, 0, 24 } },
        { L0 "attention.qkv.bias.0.bin", FMT_ATTN_QKV, FMT_BIAS, 0, 72, 1, 3, { 0, 24, 0, 1 } },
        { L0 "attention.dense.weight.0.bin",
          FMT_ATTN_OUT,
          FMT_WEIGHT,
          0,
          24,
          24,
          1,
          { 0, 24, 0, 24 } },
        { L0 "ln_2.weight.bin", FMT_FFN_NORM, FMT_WEIGHT, 0, 24, 1, 1, { 0, 24, 0, 1 } },
        { L0 "mlp.w1.weight.0.bin", FMT_FFN_GATE_UP, FMT_WEIGHT, 0, 24, 20, 1, { 20, 40, 0, 24 } },
        { L0 "mlp.w2.weight.0.bin", FMT_FFN_GATE_UP, FMT_WEIGHT, 0, 24, 20, 1, { 0, 20, 0, 24 } },
        { L0 "mlp.c_proj.weight.0.bin", FMT_FFN_DOWN, FMT_WEIGHT, 0, 20, 24, 1, { 0, 24, 0, 20 } },
    };

    check(want, sizeof want / sizeof want[0], 1);
}

static void t_two_ranks(void)
{
    static const want_row want[] = {
        { "vocab_embedding.weight.bin", FMT_TOK_EMBD, FMT_WEIGHT, 0, 10, 24, 1, { 0, 10, 0, 24 } },
        { "lm_head.weight.bin", FMT_LM_HEAD, FMT_WEIGHT, 0, 10, 24, 1, { 0, 10, 0, 24 } },
        { "ln_f.weight.bin", FMT_OUT_NORM, FMT_WEIGHT, 0, 24, 1, 1, { 0, 24, 0, 1 } },
        { L0 "ln_1.weight.bin", FMT_ATTN_NORM, FMT_WEIGHT, 0, 24, 1, 1, { 0, 24, 0, 1 } },
        { L0 "attention.qkv.weight.0.bin",
          FMT_ATTN_QKV,
          FMT_WEIGHT,
          0,
          24,
          36,
          3,
          { 0, 12, 0, 24 } },
        { L0 "attention.qkv.weight.1.bin",
          FMT_ATTN_QKV,
          FMT_WEIGHT,
          1,
          24,
          36,
          3,
          { 12, 24, 0, 24 } },
        { L0 "attention.qkv.bias.0.bin", FMT_ATTN_QKV, FMT_BIAS, 0, 36, 1, 3, { 0, 12, 0, 1 } },
        { L0 "attention.qkv.bias.1.bin", FMT_ATTN_QKV, FMT_BIAS, 1, 36, 1, 3, { 12, 24, 0, 1 } },
        { L0 "attention.dense.weight.0.bin",
          FMT_ATTN_OUT,
          FMT_WEIGHT,
          0,
          12,
          24,
          1,
          { 0, 24, 0, 12 } },
        { L0 "attention.dense.weight.1.bin",
          FMT_ATTN_OUT,
          FMT_WEIGHT,
          1,
          12,
          24,
          1,
          { 0, 24, 12, 24 } },
        { L0 "ln_2.weight.bin", FMT_FFN_NORM, FMT_WEIGHT, 0, 24, 1, 1, { 0, 24, 0, 1 } },
        { L0 "mlp.w1.weight.0.bin", FMT_FFN_GATE_UP, FMT_WEIGHT, 0, 24, 10, 1, { 20, 30, 0, 24 } },
        { L0 "mlp.w1.weight.1.bin", FMT_FFN_GATE_UP, FMT_WEIGHT, 1, 24, 10, 1, { 30, 40, 0, 24 } },
        { L0 "mlp.w2.weight.0.bin", FMT_FFN_GATE_UP, FMT_WEIGHT, 0, 24, 10, 1, { 0, 10, 0, 24 } },
        { L0 "mlp.w2.weight.1.bin", FMT_FFN_GATE_UP, FMT_WEIGHT, 1, 24, 10, 1, { 10, 20, 0, 24 } },
        { L0 "mlp.c_proj.weight.0.bin", FMT_FFN_DOWN, FMT_WEIGHT, 0, 10, 24, 1, { 0, 24, 0, 10 } },
        { L0 "mlp.c_proj.weight.1.bin", FMT_FFN_DOWN, FMT_WEIGHT, 1, 10, 24, 1, { 0, 24, 10, 20 } },
    };
    const fmt_model m = model();
    fmt_ft_file f;

    check(want, sizeof want / sizeof want[0], 2);
    T_TRUE(file_at(&f, &m, 2, 4 + 14)); /* the second layer follows */
    T_STR(f.name, "model.layers.1.attention.qkv.weight.0.bin");
    T_INT(f.ref.layer, 1);
    T_INT(f.seg[1].box.n0, 24); /* k of rank 0 */
    T_INT(f.seg[1].at, 12);
    T_INT(f.seg[2].box.n1, 60);
    T_INT(f.seg[2].at, 24);
}

/* grouped query attention: k and v are narrower than q */
static void t_gqa(void)
{
    fmt_model m = model();
    fmt_ft_file f;

    m.n_kv = 2;
    T_TRUE(file_at(&f, &m, 2, 4));
    T_STR(f.name, "model.layers.0.attention.qkv.weight.0.bin");
    T_INT(f.cols, 12 + 6 + 6);
    T_INT(f.seg[1].box.n0, 24);
    T_INT(f.seg[1].box.n1, 30);
    T_INT(f.seg[2].box.n0, 36);
    T_INT(f.seg[2].at, 18);
}

/* more ranks than key/value heads: 0 and 1 hold the first head, 2 and 3 the second */
static void t_shared_heads(void)
{
    fmt_model m = model();
    fmt_ft_file f;

    m.n_kv = 2;
    T_INT(fmt_ft_kv_copies(&m, 1), 1);
    T_INT(fmt_ft_kv_copies(&m, 2), 1);
    T_INT(fmt_ft_kv_copies(&m, 4), 2);
    for (size_t r = 0; r < 4; r++) {
        T_TRUE(file_at(&f, &m, 4, 4 + r));
        T_INT(f.rank, r);
        T_INT(f.cols, 6 + 6 + 6);
        T_INT(f.seg[0].box.n0, 6 * (int)r);
        T_INT(f.seg[0].again, 0);
        T_INT(f.seg[1].box.n0, 24 + 6 * ((int)r / 2));
        T_INT(f.seg[1].box.n1, 30 + 6 * ((int)r / 2));
        T_INT(f.seg[1].again, r % 2);
        T_INT(f.seg[2].box.n0, 36 + 6 * ((int)r / 2));
        T_INT(f.seg[2].at, 12);
        T_INT(f.seg[2].again, r % 2);
    }
    m.tied = 1; /* no lm_head.weight.bin */
    for (size_t i = 0; file_at(&f, &m, 4, i); i++)
        T_TRUE(f.ref.role != FMT_LM_HEAD);
}

static void cover(const fmt_ft_file *f, uint8_t *element, uint8_t *stored, int64_t K)
{
    for (int k = 0; k < f->n_seg; k++) {
        const fmt_ft_seg *s = &f->seg[k];

        for (int64_t n = s->box.n0; n < s->box.n1; n++)
            for (int64_t c = s->box.k0; c < s->box.k1; c++) {
                const int64_t dn = s->at + n - s->box.n0, dk = c - s->box.k0;
                const int64_t row = f->transposed ? dk : dn, col = f->transposed ? dn : dk;

                T_TRUE(row < f->rows && col < f->cols);
                element[n * K + c]++;
                stored[row * f->cols + col]++;
            }
    }
}

/* every element of a role once over all files, every element of a file once */
static void t_coverage(void)
{
    static const int ranks[] = { 1, 2, 4 };
    static uint8_t element[FMT_ROLES][FMT_PARTS][2][72 * 24], stored[72 * 24];
    const fmt_model m = model();
    fmt_ft_file f;

    for (size_t t = 0; t < 3; t++) {
        memset(element, 0, sizeof element);
        for (size_t i = 0; file_at(&f, &m, ranks[t], i); i++) {
            const fmt_role_row *r = fmt_role_get(f.ref.role);
            const int64_t K = f.ref.part == FMT_BIAS ? 1 : fmt_dim_size(r->cols, &m);

            memset(stored, 0, sizeof stored);
            cover(&f, element[f.ref.role][f.ref.part][f.ref.layer], stored, K);
            for (int64_t k = 0; k < f.rows * f.cols; k++)
                T_INT(stored[k], 1);
        }
        for (int r = 0; r < FMT_ROLES; r++) {
            const fmt_role_row *row = fmt_role_get((fmt_role)r);
            const fmt_name_row *names = fmt_family_names(m.family, (fmt_role)r);
            const int64_t N = fmt_role_rows(row, &m), K = fmt_dim_size(row->cols, &m);

            for (int64_t l = 0; names && l < (row->per_layer ? m.layers : 1); l++) {
                for (int64_t k = 0; k < N * K; k++)
                    T_INT(element[r][FMT_WEIGHT][l][k], 1);
                for (int64_t k = 0; k < N; k++)
                    T_INT(element[r][FMT_BIAS][l][k], names->bias);
            }
        }
    }
}

/* no two files share a name, and the number of files is what the layout says */
static void t_names_differ(void)
{
    static char seen[400][FMT_FT_NAME_MAX];
    fmt_model m = model();
    fmt_ft_file f;
    size_t n = 0;

    m.layers = 12; /* numbers of two digits */
    for (; file_at(&f, &m, 4, n); n++) {
        T_TRUE(n < 400);
        for (size_t k = 0; k < n; k++)
            T_TRUE(strcmp(seen[k], f.name) != 0);
        strcpy(seen[n], f.name);
        T_TRUE(f.rank < 4 && f.ref.layer < 12);
    }
    T_INT(n, 3 + 12 * (2 + 6 * 4));
    T_INT(file_at(&f, &m, 4, n + 1000000), 0);
    T_INT(file_at(&f, &m, 4, SIZE_MAX), 0);
}

/* The files that calibration adds: types, shapes, order, and every element of every part once. */
static void t_sets(void)
{
    static const struct {
        const char *name;
        fmt_part part;
        fmt_dtype dtype;
        int64_t rows, cols, N, K, n0; /* n0: of the first segment */
        int n_seg, transposed;
    } want[] = {
        { L0 "attention.qkv.weight.int8.3.bin", FMT_CODES, FMT_I8, 24, 18, 48, 24, 18, 3, 1 },
        { L0 "attention.dense.weight.int8.col.1.bin", FMT_CODES_COL, FMT_I8, 6, 24, 24, 24, 0, 1,
          1 },
        { L0 "attention.qkv.scale_x_orig_quant.bin", FMT_SCALE_X, FMT_F32, 1, 1, 1, 1, 0, 1, 0 },
        { L0 "mlp.w1.scale_x_orig_quant.bin", FMT_SCALE_X, FMT_F32, 1, 1, 2, 1, 1, 1, 0 },
        { L0 "mlp.w2.scale_y_quant_orig.bin", FMT_SCALE_Y, FMT_F32, 1, 1, 2, 1, 0, 1, 0 },
        { L0 "attention.qkv.scale_w_quant_orig.bin", FMT_SCALE_W, FMT_F32, 48, 1, 48, 1, 0, 3, 0 },
        { L0 "mlp.c_proj.scale_w_quant_orig.bin", FMT_SCALE_W, FMT_F32, 1, 1, 1, 1, 0, 1, 0 },
        { L0 "attention.qkv.scale_y_accum_quant.bin", FMT_SCALE_ACC, FMT_F32, 48, 1, 48, 1, 0, 3,
          0 },
        { L0 "attention.qkv.scale_w_quant_orig.col.2.bin", FMT_SCALE_W_COL, FMT_F32, 18, 1, 48, 1,
          12, 3, 0 },
        { L0 "mlp.w1.scale_y_accum_quant.col.1.bin", FMT_SCALE_ACC_COL, FMT_F32, 5, 1, 40, 1, 25, 1,
          0 },
        { L0 "mlp.c_proj.scale_w_quant_orig.col.bin", FMT_SCALE_W_COL, FMT_F32, 24, 1, 24, 1, 0, 1,
          0 },
        { L0 "attention.dense.smoother.2.bin", FMT_SMOOTHER, FMT_F32, 6, 1, 24, 1, 12, 1, 0 },
        { L0 "mlp.c_proj.smoother.0.bin", FMT_SMOOTHER, FMT_F32, 5, 1, 20, 1, 0, 1, 0 },
        { L0 "attention.k_scale.bin", FMT_K_SCALE, FMT_F32, 2, 1, 2, 1, 0, 1, 0 },
        { L0 "attention.v_scale.bin", FMT_V_SCALE, FMT_F32, 2, 1, 2, 1, 0, 1, 0 },
    };
    static const unsigned sets[] = { 0, FMT_FT_W8A8, FMT_FT_KV8, FMT_FT_W8A8 | FMT_FT_KV8 };
    static const size_t more[] = { 0, 24 + 18 * 4, 3, 24 + 18 * 4 + 2 };
    fmt_model m = model();
    fmt_ft_layout l = { .ranks = 4, .store = FMT_BF16 };
    fmt_ft_file f;
    size_t n = 0, found = 0;

    m.n_kv = 2; /* two ranks for each key/value head */
    for (int k = 0; k < 4; k++) {
        l.sets = sets[k];
        for (n = 0; fmt_ft_file_at(&f, &m, &l, n); n++) {
            T_TRUE(f.dtype == (f.ref.part <= FMT_BIAS        ? FMT_BF16
                               : f.ref.part <= FMT_CODES_COL ? FMT_I8
                                                             : FMT_F32));
            for (size_t i = 0; k == 3 && i < sizeof want / sizeof want[0]; i++) {
                if (strcmp(f.name, want[i].name) != 0)
                    continue;
                found++;
                T_INT(f.ref.part, want[i].part);
                T_INT(f.dtype, want[i].dtype);
                T_INT(f.rows, want[i].rows);
                T_INT(f.cols, want[i].cols);
                T_INT(f.N, want[i].N);
                T_INT(f.K, want[i].K);
                T_INT(f.seg[0].box.n0, want[i].n0);
                T_INT(f.n_seg, want[i].n_seg);
                T_INT(f.transposed, want[i].transposed);
            }
        }
        T_INT(n, 3 + 2 * (2 + 6 * 4 + more[k]));
    }
    T_INT(found, sizeof want / sizeof want[0]);
}

/* Each element of each part is in exactly one file that is not a copy. */
static void t_sets_cover(void)
{
    static uint8_t element[FMT_ROLES][FMT_PARTS][48 * 24];
    fmt_model m = model();
    fmt_ft_file f;
    int64_t parts = 0;

    m.n_kv = 2;
    for (int T = 1; T <= 4; T *= 2) {
        const fmt_ft_layout l = { .ranks = T, .store = FMT_F16, .sets = FMT_FT_W8A8 | FMT_FT_KV8 };
        int64_t N[FMT_ROLES][FMT_PARTS] = { 0 };

        memset(element, 0, sizeof element);
        for (size_t i = 0; fmt_ft_file_at(&f, &m, &l, i); i++) {
            if (f.ref.layer != 1)
                continue;
            N[f.ref.role][f.ref.part] = f.N * f.K;
            for (int k = 0; k < f.n_seg; k++)
                for (int64_t n = f.seg[k].box.n0; n < f.seg[k].box.n1 && !f.seg[k].again; n++)
                    for (int64_t c = f.seg[k].box.k0; c < f.seg[k].box.k1; c++)
                        element[f.ref.role][f.ref.part][n * f.K + c]++;
        }
        for (int r = 0; r < FMT_ROLES; r++)
            for (int p = 0; p < FMT_PARTS; p++) {
                parts += N[r][p] > 0;
                for (int64_t i = 0; i < N[r][p]; i++)
                    T_INT(element[r][p][i], 1);
            }
    }
    T_INT(parts, 3 * (2 + 4 + 1 + 4 * 8 + 2 + 2));
}

static void t_ranks(void)
{
    fmt_model m = model();
    q_err err = { 0 };

    for (int T = 1; T <= 4; T *= 2)
        T_OK(fmt_ft_check_ranks(&m, T, &err), err);
    T_ERR(fmt_ft_check_ranks(&m, 3, &err), err, Q_ECONFIG,
          "3 ranks do not divide attention heads 4: use --tensor-parallelism 2");
    T_ERR(fmt_ft_check_ranks(&m, 64, &err), err, Q_ECONFIG, "use --tensor-parallelism 4");
    m.n_kv = 2;
    T_OK(fmt_ft_check_ranks(&m, 4, &err), err); /* ranks share heads */
    m.n_head = 12;
    m.n_kv = 3;
    T_ERR(fmt_ft_check_ranks(&m, 4, &err), err, Q_ECONFIG,
          "4 ranks do not divide key/value heads 3: use --tensor-parallelism 1");
    m = model();
    m.ffn = 21;
    T_ERR(fmt_ft_check_ranks(&m, 2, &err), err, Q_ECONFIG,
          "2 ranks do not divide MLP width 21: use --tensor-parallelism 1");
}

static const t_case cases[] = { T(t_one_rank),     T(t_two_ranks), T(t_gqa),          T(t_coverage),
                                T(t_names_differ), T(t_ranks),     T(t_shared_heads), T(t_sets),
                                T(t_sets_cover),   { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
