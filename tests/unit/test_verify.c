/* manifest and verify: the text, its hash, and that nothing in a directory can change unseen. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/verify.h"
#include "formats/base/q_file.h"
#include "tests/t_convert.h"

static const tiny_hf tiny = {
    .hid = 24, .layers = 2, .heads = 4, .ffn = 20, .vocab = 37, .dtype = FMT_BF16
};

static void t_manifest_text(void)
{
    static const char zero[CVT_HEX] =
        "0000000000000000000000000000000000000000000000000000000000000000";
    static const char *const edits[][3] = {
        { "qwenkit-ft", "qwenkit-fu", "not a manifest of format 'qwenkit-ft'" },
        { "\"version\": 1", "\"version\": 2", "version 2, this program reads up to 1" },
        { "\"version\": 1", "\"version\": 1.0", "not the text that was written" },
        { "\"version\": 1", "\"version\": x", "line 3" },
        { "tool 7", "tool 8", "root_sha256 does not fit the list" },
        { "\"tool\"", "\"tolo\"", "'tool' is missing" },
        { "float16", "float32", "root_sha256 does not fit the list" },
        { "float16", "float99", "'store' is missing or no element type" },
        { "llelism\": 2", "llelism\": 3", "root_sha256 does not fit the list" },
        { "llelism\": 2", "llelism\": 0", "'tensor_parallelism' is missing or no whole number" },
        { "\"a\"", "\"b/c\"", "file 0: 'b/c' is no file name" },
        { "\"a\"", "\"..\"", "file 0: '..' is no file name" },
        { "\"a\"", "\"manifest.json\"", "'manifest.json' is no file name" },
        { "\"a\"", "\"b\"", "'b' is out of order or appears twice" },
        { "\"size\": 5", "\"size\": -5", "'a' has no size" },
        { "\"size\": 5", "\"size\": 6", "root_sha256 does not fit the list" },
        { "\"sha256\": \"00", "\"sha256\": \"0A", "'a' has no sha256 of 64 hex digits" },
        { "\"sha256\": \"00", "\"sha256\": \"0", "'a' has no sha256 of 64 hex digits" },
        { "\"sha256\": \"00", "\"sha256\": \"01", "root_sha256 does not fit the list" },
        { "\"files\"", "\"filez\"", "'files' is missing or not a list" },
        { "{\n", "{ \n", "not the text that was written" },
        { "\n}", "\n}\n", "not the text that was written" },
    };
    cvt_manifest m = { .tool = "tool 7", .ranks = 2, .store = FMT_F16 }, back;
    q_buf text = { 0 }, bad = { 0 };
    q_err err = { 0 };

    T_OK(cvt_manifest_add(&m, "b", 1, zero, &err), err);
    T_OK(cvt_manifest_add(&m, "a", 5, zero, &err), err);
    cvt_manifest_sort(&m);
    T_OK(cvt_manifest_text(&text, &m, &err), err);
    T_OK(cvt_manifest_parse(&back, text.data, text.size, "m.json", &err), err);
    T_INT(back.n, 2);
    T_STR(back.entry[0].name, "a");
    T_INT(back.entry[0].size, 5);
    T_STR(back.entry[1].sha256, zero);
    T_INT(back.ranks, 2);
    cvt_manifest_free(&back);
    for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++) {
        const char *at = strstr(text.data, edits[i][0]);
        const size_t head = at ? (size_t)(at - text.data) : 0;

        T_TRUE(at != NULL);
        q_buf_clear(&bad);
        T_OK(q_buf_put(&bad, text.data, head, &err), err);
        T_OK(q_buf_puts(&bad, edits[i][1], &err), err);
        T_OK(q_buf_puts(&bad, at + strlen(edits[i][0]), &err), err);
        T_ERR(cvt_manifest_parse(&back, bad.data, bad.size, "m.json", &err), err,
              strstr(edits[i][2], "reads up to") ? Q_EUNSUPPORTED : Q_EFORMAT, edits[i][2]);
        T_TRUE(back.n == 0 && back.entry == NULL);
    }
    T_ERR(cvt_manifest_parse(&back, "[]", 2, "m.json", &err), err, Q_EFORMAT, "not a manifest");
    T_ERR(cvt_manifest_parse(&back, "", 0, "m.json", &err), err, Q_EFORMAT, "m.json: line 1");
    cvt_manifest_free(&m);
    q_buf_free(&text);
    q_buf_free(&bad);
}

/* root_sha256, from another implementation:
 *   printf 'qwenkit-ft 1\ntool t\ntensor_parallelism 1\nstore float16\n' | sha256sum, and with a
 *   line of a file */
static void t_manifest_root(void)
{
    cvt_manifest m = { .tool = "t", .ranks = 1, .store = FMT_F16 };
    char root[CVT_HEX];
    q_err err = { 0 };

    T_OK(cvt_manifest_root(root, &m, &err), err);
    T_STR(root, "a5ba7a63d119c6e95c6d5d97a30d97c88ad736f2df1f2db08363babcdb9b9ef8");
    T_OK(cvt_manifest_add(&m, "a.bin", 3,
                          "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", &err),
         err);
    T_OK(cvt_manifest_root(root, &m, &err), err);
    T_STR(root, "aec70b2649b06cd5088d3586c54a1cdc52d6b25369fc437e32668b38e9faf732");
    cvt_manifest_free(&m);
}

static void t_verify(void)
{
    run_opts o = { .in = tmp("ver"), .out = tmp("verout"), .ranks = 2, .store = FMT_F16 };
    const char *dir = tmp("verout/2-gpu"), *norm = tmp("verout/2-gpu/ln_f.weight.bin");
    cvt_verify_report rep;
    const volatile sig_atomic_t stop = 1;
    q_err err = { 0 };

    tiny_hf_write(o.in, &tiny);
    T_OK(run(&o, &err), err);
    T_OK(cvt_verify(&rep, dir, 2, NULL, NULL, &err), err);
    T_INT(rep.files, 3 + 2 * (2 + 6 * 2) + 3);
    T_INT(rep.n_bad, 0);
    cvt_verify_free(&rep);
    T_ERR(cvt_verify(&rep, dir, 2, NULL, &stop, &err), err, Q_ECANCEL, "stopped");
    cvt_verify_free(&rep);

    T_OK(q_out_whole(norm, 1, "x", 1, &err), err);
    T_ERR(cvt_verify(&rep, dir, 1, NULL, NULL, &err), err, Q_EFORMAT,
          "2-gpu: ln_f.weight.bin: 1 bytes, the manifest has 48");
    cvt_verify_free(&rep);
    T_INT(unlink(norm), 0);
    T_ERR(cvt_verify(&rep, dir, 2, NULL, NULL, &err), err, Q_EFORMAT,
          "ln_f.weight.bin: is missing");
    cvt_verify_free(&rep);
    T_INT(symlink("model.layers.0.ln_1.weight.bin", norm), 0);
    T_ERR(cvt_verify(&rep, dir, 2, NULL, NULL, &err), err, Q_EFORMAT, "is not a plain file");
    cvt_verify_free(&rep);
    T_OK(q_out_whole(tmp("verout/2-gpu/extra\x01"), 1, "x", 1, &err), err);
    T_ERR(cvt_verify(&rep, dir, 2, NULL, NULL, &err), err, Q_EFORMAT, "(and 1 other files)");
    T_STR(rep.bad.data, "ln_f.weight.bin: is not a plain file\nextra?: not in the manifest\n");
    cvt_verify_free(&rep);
    T_INT(unlink(tmp("verout/2-gpu/manifest.json")), 0);
    T_ERR(cvt_verify(&rep, dir, 2, NULL, NULL, &err), err, Q_ENOINPUT, "no manifest.json in it");
    cvt_verify_free(&rep);
    T_ERR(cvt_verify(&rep, tmp("gone"), 2, NULL, NULL, &err), err, Q_ENOINPUT, "gone: no such");
    cvt_verify_free(&rep);
}

/* every single bit of the small files and a sample of the large ones */
static void t_bit_flips(void)
{
    run_opts o = { .in = tmp("flip"), .out = tmp("flipout"), .store = FMT_F16 };
    static const char *const names[] = { "manifest.json", "config.ini", "ln_f.weight.bin",
                                         "model.layers.1.mlp.w2.weight.0.bin" };
    const char *dir = tmp("flipout/1-gpu");
    tiny_hf m = tiny;
    q_err err = { 0 };

    m.layers = 1;
    tiny_hf_write(o.in, &m);
    T_OK(run(&o, &err), err);
    for (int k = 0; k < 3; k++) {
        char path[512];
        struct stat sb;
        FILE *f;

        snprintf(path, sizeof path, "%s/%s", dir, names[k]);
        T_TRUE((f = fopen(path, "r+b")) != NULL && fstat(fileno(f), &sb) == 0);
        for (long bit = 0; bit < 8 * (long)sb.st_size; bit += k ? 7 : 11) {
            cvt_verify_report rep;
            int c = 0;

            T_TRUE(fseek(f, bit / 8, SEEK_SET) == 0 && (c = fgetc(f)) != EOF);
            T_TRUE(fseek(f, bit / 8, SEEK_SET) == 0 && fputc(c ^ 1 << bit % 8, f) != EOF);
            T_INT(fflush(f), 0);
            T_TRUE(cvt_verify(&rep, dir, 1, NULL, NULL, &err) != Q_OK);
            T_TRUE(strstr(err.msg, names[k]) != NULL);
            memset(&err, 0, sizeof err);
            cvt_verify_free(&rep);
            T_TRUE(fseek(f, bit / 8, SEEK_SET) == 0 && fputc(c, f) != EOF);
            T_INT(fflush(f), 0);
        }
        T_INT(fclose(f), 0);
    }
}

static const t_case cases[] = {
    T(t_manifest_text), T(t_manifest_root), T(t_verify), T(t_bit_flips), { 0 }
};

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
