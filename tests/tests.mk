# Test targets.  Every tests/{unit,ops,model}/test_X.c is one program, every tests/fuzz/fuzz_X.c a fuzz
# target that the replay driver also turns into a test, every tests/cli/X.sh a shell test.
# scripts/run_tests.sh runs them all and prints "N passed, N failed, N skipped" last.
CMOCKA    := $(call has,cmocka.h)
PCRE2     := $(shell pkg-config --exists libpcre2-8 2>/dev/null && echo 1)
TESTS     := $(sort $(wildcard tests/unit/test_*.c tests/ops/test_*.c tests/model/test_*.c))
FUZZ      := $(sort $(wildcard tests/fuzz/fuzz_*.c))
BENCH     := $(sort $(wildcard tests/bench/bench_*.c))
CLI_TESTS := $(sort $(filter-out tests/cli/lib.sh,$(wildcard tests/cli/*.sh)))
TEST_BIN   = $(TESTS:%.c=$B/%) $(FUZZ:%.c=$B/%)
BENCH_BIN  = $(BENCH:%.c=$B/%)
TOOLS     := $B/bin/random-checkpoint
FAULTS    := $(patsubst %.c,$B/%.so,$(wildcard tests/faults/*.c))
TEST_LIBS := $(if $(CMOCKA),-lcmocka) $(if $(PCRE2),-lpcre2-8)
FUZZ_TIME ?= 60
LONG      ?= $(if $(CI),1)

$B/tests/%.o: CPPFLAGS += $(if $(PCRE2),-DHAVE_PCRE2) $(if $(CMOCKA),-DHAVE_CMOCKA)
$B/tests/%: $B/tests/%.o $B/tests/t.o $(LIB)
	$(call say,LINK $@)
	$Q$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $< $B/tests/t.o $(LIB) $(LIBS) $(TEST_LIBS)

# a fuzz target with the replay driver; under CONFIG=fuzz clang's own driver takes its place
FUZZ_MAIN = $(if $(filter fuzz,$(CONFIG)),,$B/tests/fuzz/driver.o)
$B/tests/fuzz/%: $B/tests/fuzz/%.o $B/tests/t.o $(if $(filter fuzz,$(CONFIG)),,$B/tests/fuzz/driver.o) $(LIB)
	$(call say,LINK $@)
	$Q$(CC) $(ALL_CFLAGS) $(LDFLAGS) $(if $(FUZZ_MAIN),,-fsanitize=fuzzer) -o $@ $< $(FUZZ_MAIN) \
		$B/tests/t.o $(LIB) $(LIBS) $(TEST_LIBS)

# preloaded into programs to make system calls fail
$B/tests/faults/%.so: tests/faults/%.c
	@mkdir -p $(@D)
	$(call say,SO   $@)
	$Q$(CC) $(CSTD) $(WARN) -O1 -fPIC -shared -o $@ $< -ldl

$(TOOLS): $B/scripts/random_checkpoint.o $B/scripts/random_configs.o $B/scripts/random_weights.o $(LIB)
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$Q$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(LIB) $(LIBS)

test: ## install what is missing, build, test (no GPU, no network needed); LONG=1: with the long ones
	scripts/install_packages.sh build test
	+$(MAKE) --no-print-directory run-tests

run-tests: all $(TEST_BIN) $(TOOLS) $(FAULTS)
	@$(if $(CMOCKA),,echo "cmocka.h not found (libcmocka-dev): tests run on the built-in harness";)
	@$(if $(PCRE2),,echo "pcre2 not found (libpcre2-dev): the splitter runs without its oracle";)
	scripts/check_layers.sh
	@QWENKIT_LONG=$(LONG) scripts/run_tests.sh $B $(TEST_BIN) $(CLI_TESTS)

asan: ## all tests with the address sanitizer
	+$(MAKE) --no-print-directory CONFIG=asan run-tests

ubsan: ## all tests with the undefined-behaviour sanitizer
	+$(MAKE) --no-print-directory CONFIG=ubsan run-tests

fuzz: ## fuzz every parser with libFuzzer (clang), FUZZ_TIME=60 seconds each
	scripts/install_packages.sh build test fuzz
	+$(MAKE) --no-print-directory CONFIG=fuzz CC=clang OMP="-Wno-unknown-pragmas -Wno-error" run-fuzz

run-fuzz: $(FUZZ:%.c=$B/%)
	@for t in $^; do \
		name=$${t##*/fuzz_}; corpus=$B/corpus/$$name; mkdir -p $$corpus; \
		echo "== $$name, $(FUZZ_TIME) s"; \
		$$t -max_total_time=$(FUZZ_TIME) -max_len=65536 -timeout=10 -rss_limit_mb=1024 \
			-artifact_prefix=$$corpus- $$corpus $$(ls -d tests/fuzz/corpus/$$name 2>/dev/null) \
			2>$$corpus.log || { tail -20 $$corpus.log; exit 1; }; \
		grep -E '^Done|stat::number' $$corpus.log || tail -1 $$corpus.log; \
	done

bench: all $(BENCH_BIN) $(TOOLS) ## micro benchmarks, each without arguments
	@for b in $(BENCH_BIN); do echo "== $${b##*/}"; $$b || exit 1; done

.PHONY: test run-tests asan ubsan fuzz run-fuzz bench
