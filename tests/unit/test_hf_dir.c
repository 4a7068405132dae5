/* hf_dir: golden checkpoints, round trips through the sharded writer, hostile and damaged indexes.
 */
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/q_file.h"
#include "formats/base/q_mem.h"
#include "formats/hf_dir.h"
#include "formats/json.h"
#include "tests/t.h"
#include "tests/t_pickle.h"

#define S1 "model-00001-of-00002.safetensors"
#define S2 "model-00002-of-00002.safetensors"
#define B1 "pytorch_model-00001-of-00002.bin"
#define B2 "pytorch_model-00002-of-00002.bin"

static const char *fresh_dir(const char *name)
{
    q_err err = { 0 };
    const char *dir = t_tmp(name);

    T_OK(q_dir_remove(dir, &err), err);
    T_OK(q_dir_make(dir, &err), err);
    return dir;
}

static void put_text(const char *dir, const char *name, const char *text)
{
    q_err err = { 0 };
    char *path = q_path_join(dir, name);

    T_OK(q_out_whole(path, 1, text, strlen(text), &err), err);
    q_free(path);
}

/* a shard of u8 tensors of 4 bytes each, the first letter of the name four times */
static void put_shard(const char *dir, const char *file, const char *const *names)
{
    q_err err = { 0 };
    fmt_st_writer *w = NULL;
    char *path = q_path_join(dir, file);

    T_OK(fmt_st_create(&w, path, 1, &err), err);
    for (size_t i = 0; names[i]; i++)
        T_OK(fmt_st_declare(w, names[i], FMT_U8, 1, (int64_t[]){ 4 }, &err), err);
    for (size_t i = 0; names[i]; i++) {
        const char c = names[i][0];

        T_OK(fmt_st_write(w, (char[]){ c, c, c, c }, 4, &err), err);
    }
    T_OK(fmt_st_commit(w, &err), err);
    fmt_st_writer_close(w);
    q_free(path);
}

/* the same as a PyTorch archive: all tensors in one storage */
static void put_bin(const char *dir, const char *file, const char *const *names)
{
    q_err err = { 0 };
    q_buf pkl = { 0 }, data = { 0 };
    t_zip zip = { 0 };
    char *path = q_path_join(dir, file);
    size_t n = 0;

    while (names[n])
        n++;
    T_OK(q_buf_put(&pkl, PK_PROTO "}", 3, &err), err);
    for (size_t i = 0; i < n; i++) {
        const char c = names[i][0];

        t_put(&pkl, 0x8c, 1);
        t_put(&pkl, strlen(names[i]), 1);
        T_OK(q_buf_puts(&pkl, names[i], &err), err);
        T_OK(q_buf_puts(&pkl,
                        PK_REBUILD "((\x8c\x07storage" PK_GLOBAL("torch", "ByteStorage") "\x8c\x01"
                                                                                         "0\x8c\x03"
                                                                                         "cpuK",
                        &err),
             err);
        t_put(&pkl, 4 * n, 1);
        T_OK(q_buf_puts(&pkl, "tQK", &err), err);
        t_put(&pkl, 4 * i, 1);
        T_OK(q_buf_puts(&pkl, PK_T1("K\4") PK_T1("K\1") "\x89" PK_ODICT "tRs", &err), err);
        T_OK(q_buf_put(&data, (char[]){ c, c, c, c }, 4, &err), err);
    }
    T_OK(q_buf_puts(&pkl, ".", &err), err);
    t_zip_build(&zip,
                (t_entry[]){ { "m/data.pkl", pkl.data, pkl.size },
                             { "m/data/0", data.data ? data.data : "", data.size } },
                2, 1);
    T_OK(q_out_whole(path, 1, zip.b.data, zip.b.size, &err), err);
    q_buf_free(&pkl);
    q_buf_free(&data);
    q_buf_free(&zip.b);
    q_free(path);
}

#define MAP(list)   "{\"weight_map\":{" list "}}"
#define IN(t, file) "\"" t "\":\"" file "\""

/* two shards, a and b in the first, c and d in the second */
static const char *good_dir(void)
{
    const char *dir = fresh_dir("good");

    put_shard(dir, S1, (const char *[]){ "a", "b", NULL });
    put_shard(dir, S2, (const char *[]){ "c", "d", NULL });
    put_text(dir, FMT_HF_INDEX, MAP(IN("a", S1) "," IN("c", S2) "," IN("d", S2) "," IN("b", S1)));
    return dir;
}

static q_status open_it(fmt_hf **hf, const char *dir, q_err *err)
{
    *hf = NULL;
    return fmt_hf_open(hf, dir, err);
}

static void t_two_shards(void)
{
    q_err err = { 0 };
    fmt_hf *hf;
    char v[5] = "";

    T_OK(open_it(&hf, good_dir(), &err), err);
    T_INT(fmt_hf_count(hf), 4);
    for (size_t i = 0; i < 4; i++) {
        const char name[] = { (char)('a' + (char)i), '\0' };

        T_STR(fmt_hf_tensor(hf, i)->name, name);
        T_INT(fmt_hf_find(hf, name), i);
        T_TRUE(strstr(fmt_hf_shard_path(hf, i), i < 2 ? S1 : S2) != NULL);
        T_OK(fmt_hf_read(hf, i, 0, 4, v, &err), err);
        T_TRUE(v[0] == name[0] && v[3] == name[0]);
    }
    T_INT(fmt_hf_find(hf, "e"), FMT_NONE);
    T_INT(fmt_hf_find(hf, ""), FMT_NONE);
    T_TRUE(fmt_hf_tensor(hf, 4) == NULL && fmt_hf_shard_path(hf, 4) == NULL);
    T_ERR(fmt_hf_read(hf, 0, 2, 3, v, &err), err, Q_ESHAPE, S1 ": 'a': 3 bytes from byte 2 wanted");
    fmt_hf_close(hf);
}

/* indexes that are wrong by themselves or against the two good shards */
static void t_index_errors(void)
{
    static const struct {
        const char *index;
        q_status status;
        const char *part;
    } rows[] = {
        { "", Q_EFORMAT, FMT_HF_INDEX ": 0 bytes, from 1 to 100000000 are read" },
        { "{", Q_EFORMAT, FMT_HF_INDEX ": line 1" },
        { "{}", Q_EFORMAT, FMT_HF_INDEX ": 'weight_map' is missing" },
        { "[]", Q_EFORMAT, "'weight_map' is missing" },
        { "{\"weight_map\":[]}", Q_EFORMAT, "'weight_map' is not an object" },
        { "{\"weight_map\":null}", Q_EFORMAT, "'weight_map' is not an object" },
        { MAP("\"a\":1"), Q_EFORMAT, "the file of 'a' is not a string" },
        { MAP(IN("a", S1) "," IN("a", S1)), Q_EFORMAT, "duplicate object key" },
        { "\xef\xbb\xbf" MAP(IN("a", S1)), Q_EFORMAT, FMT_HF_INDEX ": line 1" },
        { MAP(IN("a\\u0000", S1)), Q_EFORMAT, FMT_HF_INDEX ": line 1" },
        { MAP(IN("a", S1)) "x", Q_EFORMAT, FMT_HF_INDEX ": line 1" },
        { MAP(IN("a", S1) "," IN("b", S1) "," IN("c", S2)), Q_EFORMAT,
          S2 ": 'd' is not in " FMT_HF_INDEX ": shards and index are of different downloads" },
        { MAP(IN("a", S1) "," IN("b", S1) "," IN("c", S2) "," IN("d", S2) "," IN("e", S2)),
          Q_EFORMAT, "'e' should be in " S2 ", which does not have it" },
        { MAP(IN("a", S1) "," IN("b", S2) "," IN("c", S2) "," IN("d", S2)), Q_EFORMAT,
          "'b' should be in " S2 " and is in " S1 ": files swapped or of different downloads" },
        { MAP(IN("a", S1) "," IN("b", "model-3.safetensors")), Q_ENOINPUT,
          "model-3.safetensors: shard is missing, " FMT_HF_INDEX " names it for 'b': fetch it" },
        { MAP(IN("a", S1) "," IN("b", FMT_HF_INDEX)), Q_EFORMAT, "at most 100000000 are read" },
    };
    const char *dir = good_dir();
    q_err err = { 0 };
    fmt_hf *hf;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        put_text(dir, FMT_HF_INDEX, rows[i].index);
        T_ERR(open_it(&hf, dir, &err), err, rows[i].status, rows[i].part);
        T_TRUE(hf == NULL);
    }
    put_text(dir, FMT_HF_INDEX, MAP("")); /* nothing in it: nothing is opened */
    T_OK(open_it(&hf, dir, &err), err);
    T_INT(fmt_hf_count(hf), 0);
    T_INT(fmt_hf_find(hf, "a"), FMT_NONE);
    fmt_hf_close(hf);
}

/* T10: names that leave the directory, and things in it that are no files */
static void t_traversal(void)
{
    static const char *const names[] = { "../good/" S1, "..",    ".",    "",        "/etc/passwd",
                                         "a/b",         "./" S1, S1 "/", "x/../" S1 };
    static const struct {
        const char *name, *part;
    } things[] = {
        { "link", "link: is a link: refused, replace it by the file" },
        { "outside", "outside: is a link: refused" },
        { "null", "null: is a link: refused" },
        { "fifo", "fifo: not a regular file" },
        { "folder", "folder: is a directory, wanted a file" },
    };
    const char *dir = good_dir();
    char index[512], part[128];
    q_err err = { 0 };
    fmt_hf *hf;

    T_INT(symlink(S1, t_tmp("good/link")), 0);
    T_INT(symlink("/etc/passwd", t_tmp("good/outside")), 0);
    T_INT(symlink("/dev/null", t_tmp("good/null")), 0);
    T_INT(mkfifo(t_tmp("good/fifo"), 0600), 0);
    T_INT(mkdir(t_tmp("good/folder"), 0700), 0);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(index, sizeof index, MAP(IN("a", S1) "," IN("b", "%s")), names[i]);
        snprintf(part, sizeof part, "'b' is in '%s', wanted a plain file name: refused", names[i]);
        put_text(dir, FMT_HF_INDEX, index);
        T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT, part);
    }
    for (size_t i = 0; i < sizeof things / sizeof things[0]; i++) {
        snprintf(index, sizeof index, MAP(IN("b", "%s")), things[i].name);
        put_text(dir, FMT_HF_INDEX, index);
        T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT, things[i].part);
    }
    /* the index and the single file are held to the same rule */
    T_INT(unlink(t_tmp("good/" FMT_HF_INDEX)), 0);
    T_INT(symlink("/etc/passwd", t_tmp("good/" FMT_HF_INDEX)), 0);
    T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT, FMT_HF_INDEX ": is a link: refused");
    T_INT(unlink(t_tmp("good/" FMT_HF_INDEX)), 0);
    T_INT(symlink(S1, t_tmp("good/" FMT_HF_SINGLE)), 0);
    T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT, FMT_HF_SINGLE ": is a link: refused");
}

/* the layout of the Hugging Face cache is the one place where links are normal */
static void t_cache_links(void)
{
    const char *dir = t_tmp("cache/snapshots/12ab");
    q_err err = { 0 };
    fmt_hf *hf;

    fresh_dir("cache");
    T_OK(q_dir_make(t_tmp("cache/blobs"), &err), err);
    T_OK(q_dir_make(dir, &err), err);
    put_shard(t_tmp("cache/blobs"), "00ff12", (const char *[]){ "a", NULL });
    T_INT(symlink("../../blobs/00ff12", t_tmp("cache/snapshots/12ab/" FMT_HF_SINGLE)), 0);
    T_OK(open_it(&hf, dir, &err), err);
    T_INT(fmt_hf_count(hf), 1);
    fmt_hf_close(hf);
}

/* T11: a shard that is missing, cut, empty, a pointer, of another checkpoint, or twice there */
static void t_damaged_shards(void)
{
    const char *dir = good_dir();
    q_err err = { 0 };
    fmt_hf *hf;
    struct stat sb;

    T_INT(stat(t_tmp("good/" S2), &sb), 0);
    for (off_t cut = sb.st_size - 1; cut > 0; cut -= 1 + sb.st_size / 50) {
        T_INT(truncate(t_tmp("good/" S2), cut), 0);
        T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT, "download is incomplete, fetch it again");
    }
    put_text(dir, S2, "");
    T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT, S2 ": 0 bytes");
    put_text(dir, S2, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n");
    T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT, S2 ": is a git-lfs pointer");
    T_INT(unlink(t_tmp("good/" S2)), 0);
    T_ERR(open_it(&hf, dir, &err), err, Q_ENOINPUT, S2 ": shard is missing");

    dir = good_dir();
    T_INT(rename(t_tmp("good/" S1), t_tmp("good/x")), 0);
    T_INT(rename(t_tmp("good/" S2), t_tmp("good/" S1)), 0);
    T_INT(rename(t_tmp("good/x"), t_tmp("good/" S2)), 0);
    T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT,
          "'c' should be in " S2 " and is in " S1 ": files swapped");

    dir = good_dir();
    put_shard(dir, S2, (const char *[]){ "b", "c", "d", NULL });
    T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT, S2 ": 'b' is also in ");
    put_shard(dir, S2, (const char *[]){ "c", NULL });
    T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT, "'d' should be in " S2 ", which does not have");
}

static void t_no_checkpoint(void)
{
    const char *dir = fresh_dir("empty");
    q_err err = { 0 };
    fmt_hf *hf;

    T_ERR(open_it(&hf, t_tmp("absent"), &err), err, Q_ENOINPUT, "absent: no such directory");
    T_ERR(open_it(&hf, dir, &err), err, Q_ENOINPUT,
          "no model.safetensors, no model.safetensors.index.json and no pytorch_model.bin: give");
    put_text(dir, FMT_HF_BIN, "PK");
    T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT, FMT_HF_BIN ": 2 bytes, a PyTorch checkpoint");
    T_ERR(open_it(&hf, t_tmp("empty/pytorch_model.bin"), &err), err, Q_ENOINPUT,
          "not a directory: give the folder of the checkpoint");
    put_shard(dir, FMT_HF_SINGLE, (const char *[]){ "b", "a", NULL });
    T_OK(open_it(&hf, dir, &err), err);
    T_STR(fmt_hf_tensor(hf, 0)->name, "a");
    fmt_hf_close(hf);

    /* an index beside it: fine when it names the file, refused when one of the two is old */
    put_text(dir, FMT_HF_INDEX, MAP(IN("a", FMT_HF_SINGLE) "," IN("b", FMT_HF_SINGLE)));
    T_OK(open_it(&hf, dir, &err), err);
    fmt_hf_close(hf);
    put_shard(dir, S1, (const char *[]){ "a", NULL });
    put_text(dir, FMT_HF_INDEX, MAP(IN("a", S1)));
    T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT, "an index that does not name it: remove");
}

/* ---- PyTorch files -------------------------------------------------------------------------- */

static const char *bin_dir(void)
{
    const char *dir = fresh_dir("bin");

    put_bin(dir, B1, (const char *[]){ "a", "b", NULL });
    put_bin(dir, B2, (const char *[]){ "d", "c", NULL });
    put_text(dir, FMT_HF_BIN_INDEX,
             MAP(IN("a", B1) "," IN("c", B2) "," IN("d", B2) "," IN("b", B1)));
    return dir;
}

static void t_bin_shards(void)
{
    q_err err = { 0 };
    fmt_hf *hf;
    char v[5] = "";

    T_OK(open_it(&hf, bin_dir(), &err), err);
    T_INT(fmt_hf_count(hf), 4);
    for (size_t i = 0; i < 4; i++) {
        const char name[] = { (char)('a' + (char)i), '\0' };

        T_STR(fmt_hf_tensor(hf, i)->name, name);
        T_INT(fmt_hf_find(hf, name), i);
        T_TRUE(strstr(fmt_hf_shard_path(hf, i), i < 2 ? B1 : B2) != NULL);
        T_OK(fmt_hf_read(hf, i, 0, 4, v, &err), err);
        T_TRUE(v[0] == name[0] && v[3] == name[0]);
    }
    T_ERR(fmt_hf_read(hf, 0, 2, 3, v, &err), err, Q_ESHAPE, B1 ": 'a': 3 bytes from byte 2 wanted");
    fmt_hf_close(hf);
}

static void t_bin_errors(void)
{
    const char *dir = bin_dir();
    q_err err = { 0 };
    fmt_hf *hf;
    struct stat sb;

    T_INT(stat(t_tmp("bin/" B2), &sb), 0);
    for (off_t cut = sb.st_size - 1; cut >= 22; cut -= 1 + sb.st_size / 50) {
        T_INT(truncate(t_tmp("bin/" B2), cut), 0);
        T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT, "download is incomplete, fetch it again");
    }
    put_text(dir, B2, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n");
    T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT, B2 ": is a git-lfs pointer, not the data");
    put_shard(dir, B2, (const char *[]){ "c", "d", NULL });
    T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT, B2 ": begins with bytes");
    T_INT(unlink(t_tmp("bin/" B2)), 0);
    T_ERR(open_it(&hf, dir, &err), err, Q_ENOINPUT,
          B2 ": shard is missing, " FMT_HF_BIN_INDEX " names it for 'c': fetch it");
    T_INT(symlink("/dev/null", t_tmp("bin/" B2)), 0);
    T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT, B2 ": is a link: refused");

    dir = bin_dir();
    put_bin(dir, B2, (const char *[]){ "c", NULL });
    T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT, "'d' should be in " B2 ", which does not have");
    put_bin(dir, B2, (const char *[]){ "c", "d", "e", NULL });
    T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT, B2 ": 'e' is not in " FMT_HF_BIN_INDEX);
    put_bin(dir, B2, (const char *[]){ "c", "c", "d", NULL });
    T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT, B2 ": data.pkl: 'c' is there twice");
    put_bin(dir, FMT_HF_BIN, (const char *[]){ "a", NULL });
    T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT,
          "bin: has pytorch_model.bin and an index that does not name it: remove the one");
    put_text(dir, FMT_HF_BIN_INDEX, MAP(IN("a", "../bin/" B1)));
    T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT,
          FMT_HF_BIN_INDEX ": 'a' is in '../bin/" B1 "', wanted a plain file name: refused");
    put_text(dir, FMT_HF_BIN_INDEX, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
    T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT, FMT_HF_BIN_INDEX ": is a git-lfs pointer");
}

/* safetensors are taken when they are there, whatever else is */
static void t_bin_and_safetensors(void)
{
    const char *dir = fresh_dir("both");
    q_err err = { 0 };
    fmt_hf *hf;

    put_bin(dir, FMT_HF_BIN, (const char *[]){ "p", "q", NULL });
    T_OK(open_it(&hf, dir, &err), err);
    T_INT(fmt_hf_count(hf), 2);
    T_STR(fmt_hf_tensor(hf, 0)->name, "p");
    T_TRUE(strstr(fmt_hf_shard_path(hf, 0), "both/" FMT_HF_BIN) != NULL);
    fmt_hf_close(hf);

    put_shard(dir, S1, (const char *[]){ "a", NULL });
    put_text(dir, FMT_HF_INDEX, MAP(IN("a", S1)));
    T_OK(open_it(&hf, dir, &err), err);
    T_INT(fmt_hf_count(hf), 1);
    T_STR(fmt_hf_tensor(hf, 0)->name, "a");
    fmt_hf_close(hf);
    T_INT(unlink(t_tmp("both/" FMT_HF_INDEX)), 0);
    put_shard(dir, FMT_HF_SINGLE, (const char *[]){ "s", NULL });
    T_OK(open_it(&hf, dir, &err), err);
    T_STR(fmt_hf_tensor(hf, 0)->name, "s");
    fmt_hf_close(hf);
    put_text(dir, FMT_HF_SINGLE, ""); /* a broken one is not passed over */
    T_ERR(open_it(&hf, dir, &err), err, Q_EFORMAT, FMT_HF_SINGLE ": 0 bytes");
}

/* ---- golden --------------------------------------------------------------------------------- */

/* The real indexes (LF and CR LF) with shards of one byte per tensor. */
static void real_index(const char *shared, size_t tensors, size_t shards, const char *name,
                       const char *file)
{
    const char *path = T_SHARED(shared);
    const char *dir = fresh_dir("real");
    q_err err = { 0 };
    q_buf text = { 0 };
    fmt_json *doc = NULL;
    const fmt_json *map;
    fmt_hf *hf;

    T_OK(q_file_slurp(&text, path, 1 << 20, &err), err);
    T_OK(fmt_json_parse(&doc, text.data, text.size, "index", &err), err);
    map = fmt_json_get(doc, "weight_map");
    put_text(dir, FMT_HF_INDEX, text.data);
    T_ERR(open_it(&hf, dir, &err), err, Q_ENOINPUT, "model-00001-of-0000");
    for (size_t k = 1; k <= shards; k++) {
        fmt_st_writer *w = NULL;
        char shard[64], in_dir[96];
        size_t n = 0;

        snprintf(shard, sizeof shard, "model-%05zu-of-%05zu.safetensors", k, shards);
        snprintf(in_dir, sizeof in_dir, "real/%s", shard);
        T_OK(fmt_st_create(&w, t_tmp(in_dir), 0, &err), err);
        for (fmt_json_iter *it = fmt_json_first(map); it; it = fmt_json_next(map, it))
            if (strcmp(fmt_json_text(fmt_json_value(it)), shard) == 0) {
                T_OK(fmt_st_declare(w, fmt_json_key(it), FMT_U8, 0, NULL, &err), err);
                n++;
            }
        for (; n > 0; n--)
            T_OK(fmt_st_write(w, "", 1, &err), err);
        T_OK(fmt_st_commit(w, &err), err);
        fmt_st_writer_close(w);
    }
    T_OK(open_it(&hf, dir, &err), err);
    T_INT(fmt_hf_count(hf), tensors);
    T_TRUE(strstr(fmt_hf_shard_path(hf, fmt_hf_find(hf, name)), file) != NULL);
    fmt_hf_close(hf);
    fmt_json_free(doc);
    q_buf_free(&text);
}

static void t_real_indexes(void)
{
    real_index("data/formats/qwen-7b/model.safetensors.index.json", 259, 8, "lm_head.weight",
               "model-00008-of-00008.safetensors");
    real_index("data/formats/qwen-vl-chat-int4/model.safetensors.index.json", 1461, 5,
               "transformer.h.0.attn.c_attn.qweight", "model-00001-of-00005.safetensors");
}

/* All tensors of a checkpoint into a writer, in pieces of n bytes. */
static void copy(fmt_hf *from, const char *to, uint64_t max_shard, int force, size_t piece)
{
    q_err err = { 0 };
    fmt_hf_writer *w = NULL;
    q_buf all = { 0 };

    T_OK(fmt_hf_create(&w, to, max_shard, force, &err), err);
    for (size_t i = 0; i < fmt_hf_count(from); i++) {
        const fmt_tensor *t = fmt_hf_tensor(from, i);
        char *data = q_malloc((size_t)t->bytes + 1);

        T_OK(fmt_hf_declare(w, t->name, t->dtype, t->ndim, t->shape, &err), err);
        T_OK(fmt_hf_read(from, i, 0, (size_t)t->bytes, data, &err), err);
        T_OK(q_buf_put(&all, data, (size_t)t->bytes, &err), err);
        q_free(data);
    }
    for (size_t at = 0; at < all.size; at += piece)
        T_OK(fmt_hf_write(w, all.data + at, all.size - at < piece ? all.size - at : piece, &err),
             err);
    T_OK(fmt_hf_commit(w, &err), err);
    fmt_hf_writer_close(w);
    q_buf_free(&all);
}

static void same(fmt_hf *a, const char *dir)
{
    q_err err = { 0 };
    fmt_hf *b;

    T_OK(open_it(&b, dir, &err), err);
    T_INT(fmt_hf_count(a), fmt_hf_count(b));
    for (size_t i = 0; i < fmt_hf_count(a); i++) {
        const fmt_tensor *x = fmt_hf_tensor(a, i), *y = fmt_hf_tensor(b, i);
        char *p = q_malloc((size_t)x->bytes + 1), *q = q_malloc((size_t)x->bytes + 1);

        T_STR(x->name, y->name);
        T_TRUE(x->dtype == y->dtype && x->ndim == y->ndim && x->bytes == y->bytes);
        T_TRUE(memcmp(x->shape, y->shape, sizeof x->shape) == 0);
        T_OK(fmt_hf_read(a, i, 0, (size_t)x->bytes, p, &err), err);
        T_OK(fmt_hf_read(b, i, 0, (size_t)x->bytes, q, &err), err);
        T_TRUE(memcmp(p, q, (size_t)x->bytes) == 0);
        q_free(p);
        q_free(q);
    }
    fmt_hf_close(b);
}

static int has(const char *dir, const char *name)
{
    char *path = q_path_join(dir, name);
    const int there = q_path_exists(path);

    q_free(path);
    return there;
}

static void t_round_trip(void)
{
    q_err err = { 0 };
    fmt_hf *tiny, *hf;
    const char *dir = fresh_dir("copy");
    q_buf text = { 0 };

    T_OK(open_it(&tiny, T_SHARED("models/qwen-tiny"), &err), err);
    T_INT(fmt_hf_count(tiny), 3 + 8 * 8);
    copy(tiny, dir, 0, 0, 1000003);
    T_TRUE(has(dir, FMT_HF_SINGLE) && !has(dir, FMT_HF_INDEX));
    same(tiny, dir);

    copy(tiny, dir, 4 << 20, 1, 1 << 20); /* overwrites the single file */
    T_TRUE(!has(dir, FMT_HF_SINGLE) && has(dir, FMT_HF_INDEX));
    T_TRUE(has(dir, "model-00001-of-00005.safetensors"));
    same(tiny, dir);
    T_OK(q_file_slurp(&text, t_tmp("copy/" FMT_HF_INDEX), 1 << 20, &err), err);
    T_TRUE(strstr(text.data, "\"total_size\": 17846784") != NULL);
    q_buf_free(&text);

    copy(tiny, dir, 1, 1, 123457); /* a shard for every tensor, the old ones are gone */
    T_TRUE(!has(dir, "model-00001-of-00005.safetensors"));
    T_TRUE(has(dir, "model-00067-of-00067.safetensors"));
    same(tiny, dir);
    T_OK(open_it(&hf, dir, &err), err);
    copy(hf, t_tmp("copy2"), 17846784, 0, 1 << 22); /* exactly fits one file */
    fmt_hf_close(hf);
    T_TRUE(has(t_tmp("copy2"), FMT_HF_SINGLE));
    same(tiny, t_tmp("copy2"));
    copy(tiny, dir, 17846784, 1, 1 << 22); /* and back to one file */
    T_TRUE(!has(dir, FMT_HF_INDEX) && !has(dir, "model-00067-of-00067.safetensors"));
    same(tiny, dir);
    fmt_hf_close(tiny);
}

static void t_writer_errors(void)
{
    static const int64_t four[] = { 4 }, bad[] = { INT64_MAX, INT64_MAX };
    const char *dir = good_dir();
    q_err err = { 0 };
    fmt_hf_writer *w = NULL;
    fmt_hf *hf;

    T_ERR(fmt_hf_create(&w, dir, 0, 0, &err), err, Q_ECREATE,
          "good: has a " FMT_HF_INDEX "; --force overwrites it");
    put_text(dir, "file", "");
    T_ERR(fmt_hf_create(&w, t_tmp("good/file"), 0, 0, &err), err, Q_ECREATE, "not a directory");
    T_TRUE(w == NULL);

    /* force, but never committed: the old checkpoint stays whole */
    T_OK(fmt_hf_create(&w, dir, 4, 1, &err), err);
    T_OK(fmt_hf_declare(w, "x", FMT_U8, 1, four, &err), err);
    T_ERR(fmt_hf_declare(w, "x", FMT_U8, 1, four, &err), err, Q_EARG, "'x' is declared twice");
    T_ERR(fmt_hf_declare(w, "y", FMT_U8, 2, bad, &err), err, Q_ESHAPE, "'y': shape[1] = 9223");
    T_OK(fmt_hf_declare(w, "z", FMT_U8, 1, four, &err), err);
    T_OK(fmt_hf_write(w, "12345", 5, &err), err);
    T_ERR(fmt_hf_declare(w, "v", FMT_U8, 1, four, &err), err, Q_EARG, "'v' is declared after");
    T_ERR(fmt_hf_commit(w, &err), err, Q_EARG, "shard 2 of 2 lacks 3 bytes");
    T_ERR(fmt_hf_write(w, "12345", 5, &err), err, Q_EARG, "2 bytes more than the 8 declared");
    fmt_hf_writer_close(w);
    T_OK(open_it(&hf, dir, &err), err);
    T_INT(fmt_hf_count(hf), 4);
    fmt_hf_close(hf);

    T_OK(fmt_hf_create(&w, fresh_dir("none"), 0, 0, &err), err); /* no tensors: an empty file */
    T_OK(fmt_hf_commit(w, &err), err);
    fmt_hf_writer_close(w);
    T_OK(open_it(&hf, t_tmp("none"), &err), err);
    T_INT(fmt_hf_count(hf), 0);
    fmt_hf_close(hf);
}

static const t_case cases[] = { T(t_two_shards),
                                T(t_index_errors),
                                T(t_traversal),
                                T(t_cache_links),
                                T(t_damaged_shards),
                                T(t_no_checkpoint),
                                T(t_bin_shards),
                                T(t_bin_errors),
                                T(t_bin_and_safetensors),
                                T(t_real_indexes),
                                T(t_round_trip),
                                T(t_writer_errors),
                                { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
