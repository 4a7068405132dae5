/* Restricted unpickler: what torch.save writes, hostile pickles with the message of each, limits.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/base/q_mem.h"
#include "formats/pickle.h"
#include "tests/t.h"
#include "tests/t_pickle.h"

#define SHAPE23  PK_T2("K\2", "K\3")
#define STRIDE31 PK_T2("K\3", "K\1")
#define GOOD     PK_F32("0", "K\6", "K\0", SHAPE23, STRIDE31)

static fmt_pickled *t;
static size_t n_t;
static char *text; /* a block of its own, so that an overrun is seen */

static q_status load(const void *p, size_t n, q_err *err)
{
    q_free(t);
    free(text);
    t = NULL;
    n_t = 99;
    text = malloc(n ? n : 1);
    T_TRUE(text != NULL);
    memcpy(text, p, n);
    return fmt_unpickle(&t, &n_t, text, n, "x.bin", err);
}

#define LOAD(literal, err) load((literal), sizeof(literal) - 1, (err))

typedef struct row {
    const char *p;
    size_t n;
    const char *part;
} row;

/* a pickle of protocol 2 and a part of the message */
#define R(literal, part)                                                                           \
    {                                                                                              \
        PK_PROTO literal, sizeof(PK_PROTO literal) - 1, part                                       \
    }
/* a value in front of a good tensor */
#define V(value, part) R("}" PK_ITEM("v", value) PK_ITEM("w", GOOD) ".", part)
/* a tensor by its parts */
#define G(numel, offset, shape, stride, part)                                                      \
    R("}" PK_ITEM("w", PK_F32("0", numel, offset, shape, stride)) ".", part)

static void refuse(const row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        q_err err = { 0 };
        const q_status st = load(rows[i].p, rows[i].n, &err);

        if (st != Q_EFORMAT || q_exit_code(st) != 65 || t || !strstr(err.msg, rows[i].part) ||
            strncmp(err.msg, "x.bin: ", 7) != 0)
            t_fail(__FILE__, __LINE__, "row %zu: %s \"%s\", wanted \"%s\"", i, q_status_name(st),
                   err.msg, rows[i].part);
    }
}

#define REFUSE(rows) refuse(rows, sizeof(rows) / sizeof((rows)[0]))

static void t_tensor(void)
{
    q_err err = { 0 };

    T_OK(
        LOAD(PK_DICT(PK_ITEM("w", GOOD) PK_ITEM("b", PK_TENSOR(PK_PERSID("HalfStorage", "7", "K\5"),
                                                               "K\2", PK_T1("K\3"), PK_T1("K\1")))),
             &err),
        err);
    T_INT(n_t, 2);
    T_STR(t[0].name, "w");
    T_STR(t[0].key, "0");
    T_TRUE(t[0].dtype == FMT_F32 && t[0].ndim == 2 && t[0].shape[0] == 2 && t[0].shape[1] == 3);
    T_TRUE(t[0].bytes == 24 && t[0].from == 0 && t[0].storage_bytes == 24);
    T_STR(t[1].name, "b");
    T_STR(t[1].key, "7");
    T_TRUE(t[1].dtype == FMT_F16 && t[1].ndim == 1 && t[1].shape[0] == 3);
    T_TRUE(t[1].bytes == 6 && t[1].from == 4 && t[1].storage_bytes == 10);

    T_OK(LOAD(PK_PROTO GOOD ".", &err), err); /* a file that is one tensor */
    T_INT(n_t, 1);
    T_STR(t[0].name, "");
    T_STR(t[0].key, "0");
    T_OK(LOAD(PK_DICT(""), &err), err);
    T_TRUE(n_t == 0 && t == NULL);
}

static void t_dtypes(void)
{
    static const struct {
        const char *p;
        size_t n;
        fmt_dtype dtype;
    } rows[] = {
#define D(class, dtype)                                                                            \
    { PK_PROTO PK_TENSOR(PK_PERSID(class, "0", "K\6"), "K\0", SHAPE23, STRIDE31) ".",              \
      sizeof(PK_PROTO PK_TENSOR(PK_PERSID(class, "0", "K\6"), "K\0", SHAPE23, STRIDE31) ".") - 1,  \
      dtype }
        D("FloatStorage", FMT_F32),  D("HalfStorage", FMT_F16), D("BFloat16Storage", FMT_BF16),
        D("DoubleStorage", FMT_F64), D("LongStorage", FMT_I64), D("IntStorage", FMT_I32),
        D("ShortStorage", FMT_I16),  D("CharStorage", FMT_I8),  D("ByteStorage", FMT_U8),
        D("BoolStorage", FMT_BOOL),
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        q_err err = { 0 };

        T_OK(load(rows[i].p, rows[i].n, &err), err);
        T_INT(t[0].dtype, rows[i].dtype);
        T_INT(t[0].bytes, 6 * fmt_dtype_bytes(rows[i].dtype));
    }
}

/* every opcode that is known, in values that are ignored; then both forms of names and strings */
static void t_plain_values(void)
{
    q_err err = { 0 };

    T_OK(LOAD("\x80\x04\x95\x01\0\0\0\0\0\0\0}(\x8c\x01z]\x94(N\x88\x89J\xff\xff\xff\xffK\1M\2\1"
              "\x8a\0\x8a\2\0\x80\x8b\1\0\0\0\7G\x3f\xf0\0\0\0\0\0\0X\1\0\0\0a\x8d\1\0\0\0\0\0\0\0b"
              ")K\1\x85K\1K\2\x86K\1K\2K\3\x87(t(K\1tqEhEr\x80\0\0\0j\x80\0\0\0e\x8c\1y]Na}"
              "\x8c\1kNs\x86"
              "\x8c\1w" GOOD "u.",
              &err),
         err);
    T_INT(n_t, 1);
    T_STR(t[0].name, "w");

    T_OK(LOAD("\x80\x04}\x8c\x01w\x8c\x0ctorch._utils\x8c\x12_rebuild_parameter\x93"
              "(\x8c\x0ctorch._utils\x8c\x12_rebuild_tensor_v2\x93((\x8c\x07storage\x8c\x05torch"
              "\x8c\x0c"
              "FloatStorage\x93\x8c\x01"
              "0\x8c\3cpuK\6tQK\0K\6\x85K\1\x85\x89"
              "\x8c\x0b"
              "collections\x8c\x0bOrderedDict\x93)RNtR\x88" PK_ODICT "tRs.",
              &err),
         err);
    T_INT(n_t, 1);
    T_INT(t[0].bytes, 24);
}

/* what state_dict() leaves behind: OrderedDict with items and the attribute _metadata */
static void t_metadata(void)
{
    static const row rows[] = {
        R(PK_ODICT PK_ITEM("w", GOOD) "}\x8c\x09_metadata" GOOD "sb.",
          "the value of '_metadata' has tensors inside"),
        R(PK_ODICT "}\x8c\x09_metadataNs"
                   "b}\x8c\x09_metadataNsb.",
          "BUILD at byte 58: gives a "),
        R(PK_ODICT "}\x8c\x09__class__Nsb.", "allowed is {'_metadata': ...} to an OrderedDict"),
        R(PK_ODICT "}b.", "BUILD at byte 30: gives a state to an OrderedDict"),
        R(PK_ODICT "N}\x8c\x09_metadataNs\x86"
                   "b.",
          "BUILD at byte 45: gives a state"),
        R("}}\x8c\x09_metadataNsb.", "gives a state to a dict"),
        R("]}\x8c\x09_metadataNsb.", "gives a state to a list"),
        R(GOOD "}\x8c\x09_metadataNsb.", "gives a state to a tensor"),
        R(PK_GLOBAL("torch", "FloatStorage") "}b.", "gives a state to a name"),
    };
    q_err err = { 0 };

    T_OK(LOAD(PK_PROTO PK_ODICT "q\x01(\x8c\x01w" GOOD "u}q\2\x8c\x09_metadata" PK_ODICT
                                "q\3(\x8c\0}\x8c\7versionK\1su"
                                "sb.",
              &err),
         err);
    T_INT(n_t, 1);
    T_STR(t[0].name, "w");
    REFUSE(rows);
}

/* names that would run code, and opcodes that import or make objects */
static void t_code(void)
{
    static const row rows[] = {
        R(PK_GLOBAL("posix", "system") "\x8c\2id\x85R.",
          "data.pkl, GLOBAL at byte 2: posix.system is not allowed in a checkpoint; use the"),
        R(PK_GLOBAL("__builtin__", "eval") ".", "__builtin__.eval is not allowed"),
        R("\x8c\x08"
          "builtins\x8c\4eval\x93\x8c\1x\x85R.",
          "STACK_GLOBAL at byte 18: builtins.eval is not allowed"),
        R("\x8c\x0b"
          "collections\x8c\x14OrderedDict.fromkeys\x93.",
          "collections.OrderedDict.fromkeys is not"),
        R("\x8c\x07"
          "builtinK\1\x93.",
          "wanted two strs"),
        R("K\1\x8c\4eval\x93.", "takes an int and a str, wanted two strs"),
        R("}\x8c\1w" PK_GLOBAL("torch", "load") "\x8c\1x\x85Rs.", "torch.load is not allowed"),
        R(PK_GLOBAL("torch.hub", "load") ".", "torch.hub.load is not allowed"),
        R(PK_GLOBAL("torch.storage", "_load_from_bytes") ".", "torch.storage._load_from_bytes is"),
        R(PK_GLOBAL("torch._utils", "_rebuild_tensor_v3") ".", "_rebuild_tensor_v3 is not"),
        R(PK_GLOBAL("torch", "UntypedStorage") ".", "torch.UntypedStorage is not allowed"),
        R(PK_GLOBAL("numpy.core.multiarray", "_reconstruct") ".", "_reconstruct is not allowed"),
        R(PK_GLOBAL("torch", "FloatStorage\0") ".", "torch.FloatStorage? is not allowed"),
        R(PK_GLOBAL("\x1b[2J", "\xff") ".", "?[2J.? is not allowed"),
        R(PK_GLOBAL("", "") ".", ". is not allowed"),
        R("cos\nsystem", "GLOBAL at byte 2: a name has no end"),
        R("cos", "GLOBAL at byte 2: a name has no end"),
        R("(\x8c\2idios\nsystem\n.", "INST at byte 7: opcode is not allowed"),
        R("(\x8c\1xo.", "OBJ at byte 6: opcode is not allowed"),
        R(PK_GLOBAL("collections", "OrderedDict") ")\x81.", "NEWOBJ at byte 28: opcode is not"),
        R(PK_GLOBAL("collections", "OrderedDict") ")}\x92.", "NEWOBJ_EX at byte 29: opcode is"),
        R("\x82\1.", "EXT1 at byte 2: opcode"),
        R("\x83\1\1.", "EXT2 at byte 2: opcode"),
        R("\x84\1\1\1\1.", "EXT4 at byte 2: opcode"),
        R("P0\n.", "PERSID at byte 2: opcode"),
        R("S'x'\n.", "STRING at byte 2: opcode"),
        R("I1\n.", "INT at byte 2: opcode"),
        R("U\1x.", "SHORT_BINSTRING at byte 2: opcode"),
        R("C\1x.", "SHORT_BINBYTES at byte 2: opcode"),
        R("\x8f.", "EMPTY_SET at byte 2: opcode"),
        R("\x97.", "NEXT_BUFFER at byte 2: opcode"),
        R("N0.", "POP at byte 3: opcode"),
        R("N2.", "DUP at byte 3: opcode"),
        R("(1.", "POP_MARK at byte 3: opcode"),
        R("\xff.", "0xff at byte 2: no such opcode"),
        R("\0.", "0x00 at byte 2: no such opcode"),
        R("\x80\2}.", "PROTO at byte 2: opcode"),
        R("N)R.", "REDUCE at byte 4: calls None with a tuple, wanted a name and a tuple"),
        R(PK_GLOBAL("collections", "OrderedDict") "]R.", "calls a name with a list"),
        R(PK_GLOBAL("collections", "OrderedDict") "N\x85R.", "OrderedDict with arguments"),
        R(PK_GLOBAL("torch", "FloatStorage") "K\1\x85R.", "calls torch.FloatStorage"),
    };

    REFUSE(rows);
}

static void t_machine(void)
{
    static const row rows[] = {
        R("}", "EMPTY_DICT at byte 2: the pickle ends without STOP"),
        R("", "the pickle ends without STOP"),
        R("}.}", "STOP at byte 3: 1 bytes behind it belong to nothing"),
        R("}}.", "2 values and 0 marks are left"),
        R("(}.", "1 values and 1 marks are left"),
        R(".", "0 values and 0 marks are left"),
        R("t.", "TUPLE at byte 2: wants a mark and there is none"),
        R("u.", "SETITEMS at byte 2: wants a mark"),
        R("e.", "APPENDS at byte 2: wants a mark"),
        R("R.", "REDUCE at byte 2: takes a value and the stack has none"),
        R("K\1(R.", "takes a value and the stack has none above the mark"),
        R("](N\x86.", "takes 2 values and the stack has 1 above the mark"),
        R("](Na.", "APPEND at byte 5: takes 2 values and the stack has 1"),
        R("(e.", "APPENDS at byte 3: takes a value and the stack has none"),
        R("(NNu.", "SETITEMS at byte 5: takes a value and the stack has none"),
        R("}Na.", "adds to a dict, wanted a list"),
        R("](NNu.", "adds to a list, wanted a dict"),
        R("NNNs.", "adds to None, wanted a dict"),
        R("}(K\1u.", "1 values, wanted pairs"),
        R("}]Ns.", "a key is a list, wanted a str or an int"),
        R("}NNs.", "a key is None"),
        R("h\0.", "BINGET at byte 2: memo index 0 was never set"),
        R("Nr\5\0\0\0h\4.", "memo index 4 was never set"),
        R("j\xff\xff\xff\xff.", "memo index 4294967295 was never set"),
        R("q\0.", "BINPUT at byte 2: takes a value"),
        R("Nr\xff\xff\xff\xff.", "memo index 4294967295 in a pickle of 9 bytes"),
        R("Nr\x09\0\0\0.", "memo index 9 in a pickle of 9 bytes"),
        R("X\xff\xff\xff\xffx.", "BINUNICODE at byte 2: a str of 4294967295 bytes, 2 are left"),
        R("\x8d\xff\xff\xff\xff\xff\xff\xff\xffx.", "a str of 18446744073709551615 bytes, 2 are"),
        R("\x8c\5x.", "SHORT_BINUNICODE at byte 2: a str of 5 bytes, 2 are left"),
        R("\x8a\x09\1\2\3\4\5\6\7\x08\x09.", "LONG1 at byte 2: an int of 9 bytes, at most 8"),
        R("\x8a\xff.", "an int of 255 bytes"),
        R("\x8a\4\1.", "wants 4 bytes, 2 are left"),
        R("\x8b\xff\xff\xff\xff.", "LONG4 at byte 2: an int of a negative number of bytes"),
        R("\x8b\xff\xff\xff\x7f.", "an int of 2147483647 bytes"),
        R("J\1\1.", "BININT at byte 2: wants 4 bytes, 3 are left"),
        R("G.", "BINFLOAT at byte 2: wants 8 bytes"),
        R("\x95\1\0\0\0\0\0\0\0", "a frame of 1 bytes, 0 are left"),
        R("\x95\xff\xff\xff\xff\xff\xff\xff\xff.", "a frame of 18446744073709551615 bytes"),
        R("].", "the file is a list, wanted a dict from names to tensors"),
        R("N.", "the file is None"),
        R("K\1.", "the file is an int"),
        R(").", "the file is a tuple"),
        R(PK_GLOBAL("torch", "FloatStorage") ".", "the file is a name"),
        { "", 0, "0x00 at byte 0: not a pickle of protocol 2 to 5" },
        { "\x80\1N.", 4, "PROTO at byte 0: not a pickle of protocol 2" },
        { "\x80\6N.", 4, "not a pickle of protocol 2 to 5" },
        { "(dp0\n.", 6, "MARK at byte 0: not a pickle" },
    };

    REFUSE(rows);
}

static void t_storages(void)
{
#define P(items, part)                                                                             \
    R("}\x8c\1w" PK_REBUILD "(" items "tR"                                                         \
      "s.",                                                                                        \
      part)
    static const row rows[] = {
        R("\x8c\x03"
          "abcQ.",
          "BINPERSID at byte 7: a persistent id is a str, wanted a tuple"),
        R(")Q.", "a persistent id of 0 items"),
        R("(\x8c\7storage" PK_GLOBAL("torch", "FloatStorage") "\x8c\1"
                                                              "0\x8c\3cpu"
                                                              "tQ.",
          "a persistent id of 4 items"),
        R("(\x8c\7storage" PK_GLOBAL("torch", "FloatStorage") "\x8c\1"
                                                              "0\x8c\3cpu"
                                                              "K\1NtQ.",
          "a persistent id of 6 items"),
        R("(\x8c\6"
          "module" PK_GLOBAL("torch", "FloatStorage") "\x8c\1"
                                                      "0\x8c\3cpu"
                                                      "K\1tQ.",
          "wanted ('storage', class, key, location, numel)"),
        R("(\x8c\7storageN\x8c\1"
          "0\x8c\3cpu"
          "K\1tQ.",
          "item 2 of a persistent id is None"),
        R("(\x8c\7storage" PK_GLOBAL("collections", "OrderedDict") "\x8c\1"
                                                                   "0\x8c\3cpu"
                                                                   "K\1tQ.",
          "with collections.OrderedDict, wanted a storage class"),
        R("(\x8c\7storage" PK_GLOBAL("torch", "FloatStorage") "K\0\x8c\3cpu"
                                                              "K\1tQ.",
          "item 3 of a persistent id is an int, wanted a str"),
        R("(\x8c\7storage" PK_GLOBAL("torch", "FloatStorage") "\x8c\x0b../data.pkl\x8c\3cpu"
                                                              "K\1tQ.",
          "storage key '../data.pkl' is not a number"),
        R("(\x8c\7storage" PK_GLOBAL("torch", "FloatStorage") "\x8c\0\x8c\3cpu"
                                                              "K\1tQ.",
          "storage key '' is not a number"),
        R("(\x8c\7storage" PK_GLOBAL("torch", "FloatStorage") "\x8c\2"
                                                              "0\0\x8c\3cpu"
                                                              "K\1tQ.",
          "storage key '0?' is not a number"),
        R("(\x8c\7storage" PK_GLOBAL("torch", "FloatStorage") "\x8c\x15"
                                                              "000000000000000000000"
                                                              "\x8c\3cpu"
                                                              "K\1tQ.",
          "storage key '000000000000000000000' is not a number"),
        R("(\x8c\7storage" PK_GLOBAL("torch", "FloatStorage") "\x8c\1"
                                                              "0N"
                                                              "K\1tQ.",
          "item 4 of a persistent id is None"),
        R(PK_PERSID("FloatStorage", "0", "J\xff\xff\xff\xff") ".", "a storage of -1 elements"),
        R(PK_PERSID("FloatStorage", "0", "N") ".", "item 5 of a persistent id is None"),
        P("", "_rebuild_tensor_v2 with 0 arguments, wanted 6"),
        P("NNNNNNNN", "_rebuild_tensor_v2 with 8 arguments"),
        P("NK\0))\x89" PK_ODICT, "item 1 of _rebuild_tensor_v2 is None, wanted a storage"),
        P(PK_PERSID("FloatStorage", "0", "K\1") "G\0\0\0\0\0\0\0\0))\x89" PK_ODICT,
          "item 2 of _rebuild_tensor_v2 is a float, wanted an int"),
        P(PK_PERSID("FloatStorage", "0", "K\1") "K\0])\x89" PK_ODICT, "item 3 of _rebuild_tensor_"),
        P(PK_PERSID("FloatStorage", "0", "K\1") "K\0)N\x89" PK_ODICT, "item 4 of _rebuild_tensor_"),
        P(PK_PERSID("FloatStorage", "0", "K\1") "K\0)K\1\x85\x89" PK_ODICT,
          "0 dimensions and 1 strides"),
        P(PK_PERSID("FloatStorage", "0", "K\1") "K\0\x88\x85K\1\x85\x89" PK_ODICT,
          "item 1 of a shape or stride is a bool, wanted an int"),
        P(PK_PERSID("FloatStorage", "0", "K\1") "K\0(K\1K\1K\1K\1K\1K\1K\1K\1K\1t)\x89" PK_ODICT,
          "has 9 dimensions, at most 8"),
        P(PK_PERSID("FloatStorage", "0", "K\1") "K\0))N" PK_ODICT, "item 5 of _rebuild_tensor_v2"),
        P(PK_PERSID("FloatStorage", "0", "K\1") "K\0))\x89}", "item 6 of _rebuild_tensor_v2 is a"),
        P(PK_PERSID("FloatStorage", "0", "K\1") "K\0))\x89" PK_ODICT "K\1Ns",
          "a tensor with backward hooks"),
        P(PK_PERSID("FloatStorage", "0", "K\1") "K\0))\x89" PK_ODICT "}\x8c\4conj\x88s",
          "item 7 of _rebuild_tensor_v2 is a dict, wanted None"),
        R(PK_GLOBAL("torch._utils", "_rebuild_parameter") "N\x85R.", "with 1 arguments, wanted 3"),
        R(PK_GLOBAL("torch._utils", "_rebuild_parameter") "N\x89" PK_ODICT "\x87R.",
          "item 1 of _rebuild_parameter is None, wanted a tensor"),
        R(PK_GLOBAL("torch._utils", "_rebuild_parameter") GOOD "N" PK_ODICT "\x87R.",
          "item 2 of _rebuild_parameter is None"),
        R(PK_GLOBAL("torch._utils", "_rebuild_parameter") GOOD "\x88N\x87R.",
          "item 3 of _rebuild_parameter is None"),
    };

    REFUSE(rows);
}

#define MINUS1 "J\xff\xff\xff\xff"
#define MAX64  "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f"
#define MIN64  "\x8a\x08\0\0\0\0\0\0\0\x80"
#define POW32  "\x8a\5\0\0\0\0\1"

static void t_geometry(void)
{
    static const row rows[] = {
        G("K\6", "K\0", PK_T1(MINUS1), PK_T1("K\1"), "'w': shape[0] is -1: file is damaged"),
        G("K\6", "K\0", PK_T1(MIN64), PK_T1("K\1"), "'w': shape[0] is -9223372036854775808"),
        G("K\6", "K\0", PK_T1(MAX64), PK_T1("K\1"), "'w': the product of its shape exceeds 64"),
        G("K\6", "K\0", PK_T2(POW32, POW32), PK_T2(POW32, "K\1"), "'w': the product of its shape"),
        G("K\6", "K\1", PK_T1("K\6"), PK_T1("K\1"),
          "'w': 6 elements from element 1 leave its storage of 6: file is damaged"),
        G("K\6", "K\0", PK_T1("K\7"), PK_T1("K\1"), "7 elements from element 0 leave"),
        G("K\6", MINUS1, PK_T1("K\1"), PK_T1("K\1"), "from element -1 leave"),
        G("K\6", MAX64, PK_T1("K\1"), PK_T1("K\1"), "from element 9223372036854775807 leave"),
        G(MAX64, "K\1", PK_T1("K\1"), PK_T1("K\1"), "its storage of 9223372036854775807"),
        G("K\0", "K\1", PK_T1("K\0"), PK_T1("K\1"), "0 elements from element 1 leave"),
        G("K\6", "K\0", PK_T2("K\2", "K\3"), PK_T2("K\1", "K\2"),
          "'w': stride[1] is 2, only rows without gaps (1) are read: save it after .contiguous()"),
        G("K\6", "K\0", PK_T2("K\2", "K\3"), PK_T2("K\2", "K\1"), "'w': stride[0] is 2"),
        G("K\6", "K\0", PK_T2("K\2", "K\3"), PK_T2(MAX64, "K\1"), "stride[0] is 922337203685477"),
        G("K\6", "K\0", PK_T1("K\6"), PK_T1("K\0"), "'w': stride[0] is 0, only"),
        G("K\6", "K\5", PK_T1("K\6"), PK_T1(MINUS1), "'w': stride[0] is -1, only"),
    };
    q_err err = { 0 };

    REFUSE(rows);
    /* the stride of a dimension of one element, and every stride of nothing, is meaningless */
    T_OK(LOAD(PK_PROTO PK_F32("0", "K\6", "K\4", PK_T2("K\1", "K\2"), PK_T2("K\x63", "K\1")) ".",
              &err),
         err);
    T_TRUE(t[0].from == 16 && t[0].bytes == 8);
    T_OK(LOAD(PK_PROTO PK_F32("0", "K\6", "K\6", PK_T2("K\0", "K\2"), PK_T2(MAX64, MIN64)) ".",
              &err),
         err);
    T_TRUE(t[0].from == 24 && t[0].bytes == 0);
    T_OK(LOAD(PK_PROTO PK_F32("0", "K\1", "K\0", ")", ")") ".", &err), err); /* a scalar */
    T_TRUE(t[0].ndim == 0 && t[0].bytes == 4);
}

static void t_values(void)
{
    static const row rows[] = {
        V(GOOD "\x85", "the value of 'v' has tensors inside; save the state_dict alone"),
        V("}" PK_ITEM("x", GOOD), "the value of 'v' has tensors inside"),
        V("]]" GOOD "aa", "the value of 'v' has tensors inside"),
        V(PK_PERSID("FloatStorage", "0", "K\1"), "the value of 'v' has tensors inside"),
        V(PK_GLOBAL("torch", "FloatStorage"), "the value of 'v' is or has a bare class"),
        V("]" PK_GLOBAL("torch", "FloatStorage") "a", "the value of 'v' is or has a bare class"),
        V("]q\0h\0a", "the value of 'v' contains itself"),
        V("]q\0}" PK_ITEM("x", "h\0\x85") "a", "the value of 'v' contains itself"),
        V(PK_ODICT "q\0}\x8c\x09_metadatah\0sb", "the value of 'v' contains itself"),
        R("}q\0" PK_ITEM("v", "h\0") ".", "the value of 'v' contains itself"),
        R("}" PK_ITEM("w", GOOD) PK_ITEM("w", GOOD) ".", "'w' is there twice"),
        R("}" PK_ITEM("w", GOOD) PK_ITEM("w", "N") ".", "'w' is there twice"),
        R("}K\5" GOOD "s.", "name 5 is not a str"),
        R("}\x8c\3w\0x" GOOD "s.", "the name 'w?x' is not UTF-8"),
        R("}\x8c\2w\xff" GOOD "s.", "the name 'w?' is not UTF-8"),
        R("}\x8c\2\xc0\x80" GOOD "s.", "is not UTF-8"),
        R("}\x8c\3\xed\xa0\x80" GOOD "s.", "is not UTF-8"),
        R("}\x8c\4\xf4\x90\x80\x80" GOOD "s.", "is not UTF-8"),
        R("}\x8c\3\xe0\x9f\xbf" GOOD "s.", "is not UTF-8"),
        R("}\x8c\2w\xe2" GOOD "s.", "is not UTF-8"),
    };
    q_err err = { 0 };

    REFUSE(rows);
    T_OK(LOAD(PK_PROTO "}\x8c\7\xc3\xa4\xe2\x82\xac"
                       "./" GOOD "s.",
              &err),
         err);
    T_STR(t[0].name, "\xc3\xa4\xe2\x82\xac./");
}

/* ---- pickles that are made large ------------------------------------------------------------ */

static void times(q_buf *b, const char *p, size_t n, size_t count)
{
    q_err err = { 0 };

    for (size_t i = 0; i < count; i++)
        T_OK(q_buf_put(b, p, n, &err), err);
}

#define TIMES(b, literal, count) times((b), (literal), sizeof(literal) - 1, (count))

static void expect(q_buf *b, const char *part)
{
    const row r = { b->data, b->size, part };

    if (part) {
        refuse(&r, 1);
    } else {
        q_err err = { 0 };

        T_OK(load(b->data, b->size, &err), err);
    }
    q_buf_clear(b);
}

/* [[[...]]] as a value that is ignored */
static void nest(q_buf *b, size_t depth)
{
    TIMES(b, PK_PROTO "}\x8c\1v", 1);
    TIMES(b, "]", depth);
    TIMES(b, "a", depth - 1);
    TIMES(b, "s.", 1);
}

static void t_deep(void)
{
    q_buf b = { 0 };

    TIMES(&b, PK_PROTO, 1);
    TIMES(&b, "(", 1000000);
    expect(&b, "MARK at byte 102: nested deeper than 100 marks");
    nest(&b, 100);
    expect(&b, NULL);
    nest(&b, 101);
    expect(&b, "the value of 'v' is nested deeper than 100 levels");
    nest(&b, 1000000);
    expect(&b, "the value of 'v' is nested deeper than 100 levels");
    TIMES(&b, PK_PROTO "}\x8c\1v)", 1); /* tuples are made from inside out */
    TIMES(&b, "\x85", 1000000);
    TIMES(&b, "s.", 1);
    expect(&b, "the value of 'v' is nested deeper than 100 levels");
    q_buf_free(&b);
}

/* levels of lists, each with ten times the one before: 10^levels values in a few bytes */
static void bomb(q_buf *b, size_t levels)
{
    TIMES(b, PK_PROTO "}\x8c\1v]q\1", 1);
    for (size_t i = 0; i < levels; i++)
        TIMES(b, "](h\1h\1h\1h\1h\1h\1h\1h\1h\1h\1eq\1", 1);
    for (size_t i = 0; i < levels; i++)
        TIMES(b, "\x86", 1); /* the lower levels are still on the stack */
    TIMES(b, "s.", 1);
}

static void t_bombs(void)
{
    q_buf b = { 0 };

    bomb(&b, 4);
    expect(&b, NULL);
    bomb(&b, 9);
    expect(&b, "the value of 'v' unfolds into more than 16777216 values");
    bomb(&b, 90);
    expect(&b, "the value of 'v' unfolds into more than 16777216 values");
    q_buf_free(&b);
}

static void t_large(void)
{
    q_buf b = { 0 };

    TIMES(&b, PK_PROTO "}\x8c\1v](", 1);
    TIMES(&b, "N", 2000000);
    TIMES(&b, "es.", 1);
    expect(&b, NULL);
    TIMES(&b, PK_PROTO "}\x8c\1v](", 1);
    TIMES(&b, "N", 4194304);
    TIMES(&b, "es.", 1);
    expect(&b, "more than 4194304 objects");
    TIMES(&b, PK_PROTO "}\x8c\1v]Nq\0(", 1); /* one node, many references */
    TIMES(&b, "h\0", 4194304);
    TIMES(&b, "es.", 1);
    expect(&b, "more than 4194304 objects");
    TIMES(&b, PK_PROTO "}(", 1);
    TIMES(&b, "K\1N", 1000001);
    TIMES(&b, "u.", 1);
    expect(&b, "1000001 names, at most 1000000 are read");
    TIMES(&b, PK_PROTO, 1);
    TIMES(&b, "................................................................", 1 << 20);
    expect(&b, "data.pkl has 67108866 bytes, at most 67108864 are read");
    TIMES(&b, PK_PROTO "}X\1\2\0\0", 1);
    TIMES(&b, "x", 513);
    TIMES(&b, GOOD "s.", 1);
    expect(&b, "a tensor name of 513 bytes, at most 512 are read");
    TIMES(&b, PK_PROTO "c", 1);
    TIMES(&b, "x", 100000);
    TIMES(&b, "\ny\n.", 1);
    expect(&b, "xxxxxxxx....y is not allowed in a checkpoint; use the safetensors files");
    q_buf_free(&b);
}

/* T11 for the pickle: no prefix of it is a pickle, and no byte of it can be set free */
static void t_damaged(void)
{
    static const char good[] = PK_PROTO PK_ODICT "q\1(\x8c\1w" GOOD "\x8c\1v(K\1K\2t"
                                                 "u}\x8c\x09_metadata}sb.";
    char bent[sizeof good];
    q_err err = { 0 };

    T_OK(load(good, sizeof good - 1, &err), err);
    for (size_t n = 0; n < sizeof good - 1; n++)
        T_ERR(load(good, n, &err), err, Q_EFORMAT, "x.bin: data.pkl, ");
    for (size_t i = 0; i < sizeof good - 1; i++)
        for (int v = 0; v < 256; v++) {
            q_status st;

            memcpy(bent, good, sizeof good);
            bent[i] = (char)v;
            st = load(bent, sizeof good - 1, &err);
            T_TRUE(st == Q_OK || (st == Q_EFORMAT && strstr(err.msg, "data.pkl")) ||
                   (st == Q_EFORMAT && strstr(err.msg, "x.bin: '")));
            T_TRUE(st != Q_OK || n_t == 0 ||
                   (n_t == 1 && t[0].from + t[0].bytes <= t[0].storage_bytes));
            err = (q_err){ 0 };
        }
}

static const t_case cases[] = { T(t_tensor),  T(t_dtypes),  T(t_plain_values), T(t_metadata),
                                T(t_code),    T(t_machine), T(t_storages),     T(t_geometry),
                                T(t_values),  T(t_deep),    T(t_bombs),        T(t_large),
                                T(t_damaged), { 0 } };

int main(int argc, char **argv)
{
    const int rc = t_main(argc, argv, cases);

    q_free(t);
    free(text);
    return rc;
}
