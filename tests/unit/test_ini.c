/* ini: what Python's configparser writes, read into JSON values and back. */
#include <string.h>

#include "formats/ini.h"
#include "tests/t.h"

static void t_values(void)
{
    static const struct {
        const char *value, *json;
    } rows[] = {
        { "True", "true" },
        { "False", "false" },
        { "None", "null" },
        { "0", "0" },
        { "-12", "-12" },
        { "9223372036854775807", "9223372036854775807" },
        { "9223372036854775808", "\"9223372036854775808\"" }, /* too large for a whole number */
        { "1e-06", "1e-6" },
        { "0.5", "0.5" },
        { "-2.5E3", "-2500.0" },
        { "1.", "1.0" },
        { "nan", "\"nan\"" },
        { "inf", "\"inf\"" },
        { "1e999", "\"1e999\"" },
        { "0x10", "\"0x10\"" },
        { "1.2.3", "\"1.2.3\"" },
        { "4.32.0", "\"4.32.0\"" },
        { "-", "\"-\"" },
        { ".", "\".\"" },
        { "true", "\"true\"" },
        { "", "\"\"" },
        { "['QWenLMHeadModel']", "\"['QWenLMHeadModel']\"" },
        { "a = b: c", "\"a = b: c\"" },
        { "100%% of %%", "\"100% of %\"" },
        { "50% alone", "\"50% alone\"" },
        { "\xe4\xbd\xa0", "\"\xe4\xbd\xa0\"" },
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        q_err err = { 0 };
        q_buf text = { 0 }, got = { 0 }, want = { 0 };
        fmt_json *doc = NULL, *v = NULL;

        T_OK(q_buf_printf(&text, &err, "[s]\nkey = %s\n", rows[i].value), err);
        T_OK(fmt_ini_parse(&doc, text.data, text.size, "x.ini", &err), err);
        T_OK(fmt_json_parse(&v, rows[i].json, strlen(rows[i].json), "json", &err), err);
        T_OK(fmt_json_print(&got, fmt_json_get(fmt_json_get(doc, "s"), "key"), 0, &err), err);
        T_OK(fmt_json_print(&want, v, 0, &err), err);
        T_STR(got.data, want.data);
        fmt_json_free(doc);
        fmt_json_free(v);
        q_buf_free(&text);
        q_buf_free(&got);
        q_buf_free(&want);
    }
}

static void t_grammar(void)
{
    static const struct {
        const char *text, *json;
    } rows[] = {
        { "", "{}" },
        { "\n\n# comment\n; another\n", "{}" },
        { "[a]\n[b]\n", "{\"a\": {}, \"b\": {}}" },
        { "[a]\nX=1\ny : 2\n  \nz\t=\t3\t\n", "{\"a\": {\"x\": 1, \"y\": 2, \"z\": 3}}" },
        { "[a]\r\nx = 1\r\ny = no end", "{\"a\": {\"x\": 1, \"y\": \"no end\"}}" },
        { "[a]\nx = one\n\ttwo\n  three\n", "{\"a\": {\"x\": \"one\\ntwo\\nthree\"}}" },
        { "[a]\nx = one\n# not a part\n\ttwo\n", "{\"a\": {\"x\": \"one\\ntwo\"}}" },
        { "[a]\nx =\n  1\n", "{\"a\": {\"x\": \"\\n1\"}}" },
        { "  [a]\nx = 1\n", "{\"a\": {\"x\": 1}}" },
        { "[a b]\nTwo Words = 1\n", "{\"a b\": {\"two words\": 1}}" },
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        q_err err = { 0 };
        q_buf got = { 0 };
        fmt_json *doc = NULL;

        T_OK(fmt_ini_parse(&doc, rows[i].text, strlen(rows[i].text), "x.ini", &err), err);
        T_OK(fmt_json_print(&got, doc, 0, &err), err);
        T_STR(got.data, rows[i].json);
        fmt_json_free(doc);
        q_buf_free(&got);
    }
}

static void t_errors(void)
{
    static const struct {
        const char *text, *part;
    } rows[] = {
        { "x = 1\n", "x.ini: line 1: entry before the first [section]" },
        { "[a]\nx\n", "x.ini: line 2: wanted 'key = value'" },
        { "[a]\n= 1\n", "x.ini: line 2: wanted 'key = value'" },
        { "[a\n", "x.ini: line 1: section without ']'" },
        { "[]\n", "x.ini: line 1: section without ']'" },
        { "[a]\n\n[a]\n", "x.ini: line 3: section 'a' appears twice" },
        { "[a]\nx = 1\ny = 2\nX = 3\n\n\n[b]\n", "line 4: key 'x' appears twice" },
        { "[a]\nx = \xff\n", "x.ini: line 2: JSON: the value of 'x' is not UTF-8" },
        { "[\xc3]\n", "x.ini: line 1: JSON: key" },
        { "[a]\n\xed\xa0\x80 = 1\n", "is not UTF-8" },
    };
    fmt_json *doc = NULL;
    q_err err = { 0 };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        T_ERR(fmt_ini_parse(&doc, rows[i].text, strlen(rows[i].text), "x.ini", &err), err,
              Q_EFORMAT, rows[i].part);
    T_ERR(fmt_ini_parse(&doc, "[a]\nx = a\0b\n", 12, "x.ini", &err), err, Q_EFORMAT,
          "x.ini: holds a NUL byte");
    T_TRUE(doc == NULL);
}

/* The text that Python would write for the values of a config.json. */
static void t_write(void)
{
    static const struct {
        const char *json, *repr;
    } rows[] = {
        { "true", "True" },
        { "false", "False" },
        { "null", "None" },
        { "10000", "10000" },
        { "-1", "-1" },
        { "1e-06", "1e-06" },
        { "0.0001", "0.0001" },
        { "0.02", "0.02" },
        { "0.1", "0.1" },
        { "1.0", "1.0" },
        { "1000000.0", "1000000.0" },
        { "1e15", "1000000000000000.0" },
        { "1e16", "1e+16" },
        { "12345678901234567.0", "1.2345678901234568e+16" },
        { "-0.0", "-0.0" },
        { "1.5e-300", "1.5e-300" },
        { "3.141592653589793", "3.141592653589793" },
        { "\"swiglu\"", "swiglu" },
        { "\"\"", "" },
        { "\"5 %\"", "5 %%" },
        { "\"a\\nb\\rc\"", "a\n\tb\n\tc" },
        { "[\"QWenLMHeadModel\", 1, null]", "['QWenLMHeadModel', 1, None]" },
        { "{\"a\": {\"b\": [true]}, \"c\": 2.5}", "{'a': {'b': [True]}, 'c': 2.5}" },
        { "[]", "[]" },
        { "{}", "{}" },
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        q_err err = { 0 };
        q_buf out = { 0 };
        fmt_json *v = NULL;
        char want[128];

        T_OK(fmt_json_parse(&v, rows[i].json, strlen(rows[i].json), "json", &err), err);
        T_OK(fmt_ini_put(&out, "key", v, &err), err);
        snprintf(want, sizeof want, "key = %s\n", rows[i].repr);
        T_STR(out.data, want);
        fmt_json_free(v);
        q_buf_free(&out);
    }
}

/* scalars come back as they were; a text with line ends cannot break out of its value */
static void t_round_trip(void)
{
    static const char json[] =
        "{\"flag\": true, \"none\": null, \"n\": -7, \"real\": 1e-06, \"base\": 1000000.0, "
        "\"text\": \"50% [x]\", \"evil\": \"a\\n[qwen]\\nhidden_size = 9\\r[x]\\n# gone\"}";
    q_err err = { 0 };
    q_buf out = { 0 }, got = { 0 };
    fmt_json *v = NULL, *back = NULL;

    T_OK(fmt_json_parse(&v, json, sizeof json - 1, "json", &err), err);
    T_OK(fmt_ini_section(&out, "s", &err), err);
    for (fmt_json_iter *it = fmt_json_first(v); it; it = fmt_json_next(v, it))
        T_OK(fmt_ini_put(&out, fmt_json_key(it), fmt_json_value(it), &err), err);
    T_OK(fmt_ini_section(&out, "t", &err), err);
    T_OK(fmt_ini_put_int(&out, "i", INT64_MIN, &err), err);
    T_OK(fmt_ini_put_str(&out, "s", "x%y", &err), err);
    T_OK(fmt_ini_parse(&back, out.data, out.size, "x.ini", &err), err);
    T_OK(fmt_json_print(&got, back, 0, &err), err);
    T_TRUE(strchr(out.data, '\r') == NULL);
    T_STR(got.data, "{\"s\": {\"flag\": true, \"none\": null, \"n\": -7, "
                    "\"real\": 9.9999999999999995e-7, \"base\": 1000000.0, "
                    "\"text\": \"50% [x]\", \"evil\": \"a\\n[qwen]\\nhidden_size = 9\\n[x]\"}, "
                    "\"t\": {\"i\": -9223372036854775808, \"s\": \"x%y\"}}");
    fmt_json_free(v);
    fmt_json_free(back);
    q_buf_free(&out);
    q_buf_free(&got);
}

static const t_case cases[] = { T(t_values), T(t_grammar),    T(t_errors),
                                T(t_write),  T(t_round_trip), { 0 } };

int main(int argc, char **argv)
{
    return t_main(argc, argv, cases);
}
