# Test targets.  Every tests/unit/test_X.c is one cmocka program; scripts/run_tests.sh runs them and
# the shell tests and prints "N passed, N failed, N skipped" last.
UNIT     := $(sort $(wildcard tests/unit/test_*.c tests/ops/test_*.c tests/model/test_*.c))
CMOCKA   := $(call has,cmocka.h)
PCRE2    := $(shell pkg-config --exists libpcre2-8 2>/dev/null && echo 1)
TEST_BIN  = $(patsubst %.c,$B/%,$(UNIT))
TEST_LIBS := -lcmocka $(if $(PCRE2),-lpcre2-8)

$B/tests/%.o: CPPFLAGS += $(if $(PCRE2),-DHAVE_PCRE2)
$B/tests/%: $B/tests/%.o $B/tests/t.o $(LIB)
	$(call say,LINK $@)
	$Q$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $< $B/tests/t.o $(LIB) $(LIBS) $(TEST_LIBS)
