# qwenkit.  `make help` lists the targets.
#
# One non-recursive Makefile.  CONFIG chooses flags and build directory (release debug asan ubsan
# fuzz).  A library that is missing switches its part off with one printed line.
CONFIG   ?= release
B        := build/$(CONFIG)
PREFIX   ?= /usr/local
CC       ?= gcc
has       = $(shell echo '\#include <$(1)>' | $(CC) $(CPPFLAGS) -E -xc - >/dev/null 2>&1 && echo 1)
has_cxx   = $(shell echo '\#include <$(1)>' | $(CXX) $(CPPFLAGS) -std=c++17 -E -xc++ - >/dev/null 2>&1 && echo 1)
pc        = $(shell pkg-config $(1) $(2) 2>/dev/null)
# one short line per file; V=1 shows the commands
Q         = $(if $(V),,@)
say       = $(if $(V),@:,@echo "  $(1)")
bin       = $B/bin/$(subst _,-,$(notdir $(1:%.c=%)))

# ChatGLM tokenizers: the only C++ file, and only where the library is
SPM      := $(call has_cxx,sentencepiece_processor.h)
SPM_OBJ  := $(if $(SPM),$B/formats/text/spm_shim.o)
$(if $(SPM),,$(info ChatGLM tokenizers: not built (sentencepiece_processor.h not found: libsentencepiece-dev)))
# ranks of one calibration; needed at run time by the programs that calibrate
MPI_CFLAGS ?= $(patsubst -I%,-isystem %,$(call pc,--cflags,ompi-c))
MPI_LIBS   ?= $(or $(call pc,--libs,ompi-c),-lmpi)
MPI_LINK   := -Wl,--push-state,--as-needed $(MPI_LIBS) -Wl,--pop-state
MPI        := $(shell echo '\#include <mpi.h>' | $(CC) $(MPI_CFLAGS) -E -xc - >/dev/null 2>&1 && echo 1)
$(if $(MPI),,$(info several ranks (mpirun): not built (mpi.h not found: libopenmpi-dev)))
# the CUDA backend needs the toolkit, not a GPU; cudart is linked statically, cuBLASLt is opened at
# run time, so these programs start anywhere
NVCC     ?= $(or $(shell command -v nvcc 2>/dev/null),$(wildcard /usr/local/cuda/bin/nvcc))
CUDA_DIR := $(if $(NVCC),$(patsubst %/bin/,%,$(dir $(NVCC))))
NCCL     := $(if $(NVCC),$(shell echo '\#include <nccl.h>' | $(CC) -isystem $(CUDA_DIR)/include -E -xc - >/dev/null 2>&1 && echo 1))
$(if $(NVCC),$(if $(NCCL),,$(info several GPUs: not built (nccl.h not found: libnccl-dev))))
$(if $(NVCC),,$(info CUDA backend: not built (nvcc found neither on the PATH nor in /usr/local/cuda/bin)))
DIRS     := formats/base formats formats/text quant datasets convert calibrate runtime runtime/cpu \
            $(if $(NVCC),runtime/cuda)
PROGS    := $(sort $(wildcard */qwen_*.c))
SRC      := $(filter-out $(PROGS) $(if $(MPI),,runtime/comm_mpi.c),$(sort $(foreach d,$(DIRS),$(wildcard $d/*.c))))
# device code is the same in every CONFIG and takes a minute: built once
CU_SRC   := $(if $(NVCC),$(sort $(wildcard runtime/cuda/*.cu)))
CU_OBJ   := $(CU_SRC:%.cu=build/cuda/%.o)
OBJ      := $(SRC:%.c=$B/%.o) $(SPM_OBJ) $(CU_OBJ)
LIB      := $B/libqwenkit.a

CSTD     := -std=c11 -D_GNU_SOURCE
WARN     := -Wall -Wextra -Wpedantic -Wshadow -Wundef -Wvla -Wstrict-prototypes -Wmissing-prototypes \
            -Wconversion -Wsign-conversion \
            -Wno-missing-field-initializers -Werror
CFLAGS_release := -O2 -g
CFLAGS_debug   := -O0 -g3
CFLAGS_asan    := -O1 -g -fsanitize=address -fno-omit-frame-pointer
CFLAGS_ubsan   := -O1 -g -fsanitize=undefined,float-cast-overflow -fno-sanitize-recover=all
CFLAGS_fuzz    := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
OMP      ?= -fopenmp
JANSSON_CFLAGS := $(call pc,--cflags,jansson)
JANSSON_LIBS   := $(or $(call pc,--libs,jansson),-ljansson)
UTF8PROC_LIBS  := $(or $(call pc,--libs,libutf8proc),-lutf8proc)
BLAS_CFLAGS    := $(or $(call pc,--cflags,openblas),-I/usr/include/x86_64-linux-gnu)
BLAS_LIBS      := $(or $(call pc,--libs,openblas),-lopenblas)
SPM_LIBS       := $(if $(SPM),-lsentencepiece -lstdc++)
CUDA_LIBS      := $(if $(NVCC),-L$(firstword $(wildcard $(CUDA_DIR)/lib64 $(CUDA_DIR)/targets/x86_64-linux/lib)) -lcudart_static -ldl -lrt)
HDF5_CFLAGS    := $(or $(call pc,--cflags,hdf5),-I/usr/include/hdf5/serial)
HDF5_LIBS      := $(or $(call pc,--libs,hdf5),-L/usr/lib/x86_64-linux-gnu/hdf5/serial -lhdf5)
CPPFLAGS += -I. $(HDF5_CFLAGS) $(JANSSON_CFLAGS) $(BLAS_CFLAGS) $(if $(SPM),-DHAVE_SENTENCEPIECE)
ALL_CFLAGS = $(CSTD) $(WARN) $(OMP) $(CFLAGS_$(CONFIG)) $(CFLAGS) $(CPPFLAGS)
# programs of `make dist` find their libraries beside them; the old kind of tag, because libraries of
# libraries need it too
LDFLAGS  += -Wl,-rpath,'$$ORIGIN/../lib',--disable-new-dtags
CXX_WARN := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Werror
LIBS     := $(JANSSON_LIBS) $(UTF8PROC_LIBS) $(BLAS_LIBS) $(HDF5_LIBS) -lz $(SPM_LIBS) $(CUDA_LIBS) $(if $(MPI),$(MPI_LINK)) -lm -lpthread

# `make demo` and `make test` install these; a bare `make` stops with the package's name
needs     = $(if $(call has,$(1)),,$(error $(1) not found: install $(2), or run `make demo`))
ifneq ($(filter all run-tests,$(or $(MAKECMDGOALS),all)),)
$(call needs,jansson.h,libjansson-dev)
$(call needs,utf8proc.h,libutf8proc-dev)
$(call needs,cblas.h,libopenblas-dev)
$(call needs,hdf5.h,libhdf5-dev)
$(call needs,zlib.h,zlib1g-dev)
endif

.DEFAULT_GOAL := all
.SECONDARY:
all: $(foreach p,$(PROGS),$(call bin,$p)) ## build the programs (CONFIG=release|debug|asan|ubsan)

# reference arithmetic: no contraction, so that every compiler and CPU gives the same bits; nobody reads
# the exception flags, which lets loops with comparisons become vectors
$B/runtime/cpu/%.o $B/quant/%.o: ALL_CFLAGS += -O3 -ffp-contract=off -fno-trapping-math
# fuzzing looks at parsers; instrumenting unrolled kernels takes minutes and finds nothing there
$B/runtime/%.o $B/quant/%.o: CFLAGS_fuzz := -O1 -g
$B/formats/text/spm_shim.o: CFLAGS_fuzz := -O1 -g
# fully unrolled kernels: the sanitizers need minutes and gigabytes to compile them, valgrind sees them
$B/runtime/cpu/panel_avx%.o $B/runtime/cpu/group_%.o: CFLAGS_asan := -O2 -g
$B/runtime/cpu/panel_avx%.o $B/runtime/cpu/group_%.o: CFLAGS_ubsan := -O2 -g
# one file per instruction set, chosen at run time by cpuid
$B/runtime/cpu/%_avx2.o: ALL_CFLAGS += -mavx2 -mfma -mf16c
$B/runtime/cpu/%_avx512.o: ALL_CFLAGS += -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c
$B/runtime/cpu/%_vnni.o: ALL_CFLAGS += -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni

# Ampere (and by its PTX what comes after), Hopper
NVARCH   := -gencode arch=compute_80,code=[sm_80,compute_80] -gencode arch=compute_90a,code=sm_90a
NVFLAGS   = -std=c++17 -O3 $(NVARCH) -compress-mode=size -Xcompiler -Wall,-Wextra,-fno-exceptions,-fno-rtti
# instructions that only Hopper has
$(addprefix build/cuda/runtime/cuda/,attn_wgmma.o gemm_w8a8.o gram_wgmma.o): NVARCH := -gencode arch=compute_90a,code=sm_90a
$B/runtime/cuda/%.o: ALL_CFLAGS += -isystem $(CUDA_DIR)/include
$B/runtime/cuda/comm_nccl.o: ALL_CFLAGS += $(if $(NCCL),-DHAVE_NCCL)
$B/runtime/comm.o: ALL_CFLAGS += $(if $(MPI),-DHAVE_MPI)
$B/runtime/comm_mpi.o: ALL_CFLAGS += $(MPI_CFLAGS)
$B/runtime/backend.o: ALL_CFLAGS += $(if $(NVCC),-DQ_CUDA)

build/cuda/%.o: %.cu
	@mkdir -p $(@D)
	$(call say,NVCC $@)
	$Q$(NVCC) $(NVFLAGS) -I. -MMD -MP -c $< -o $@

$B/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC   $@)
	$Q$(CC) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

$B/%.o: %.cc
	@mkdir -p $(@D)
	$(call say,CXX  $@)
	$Q$(CXX) -std=c++17 $(CXX_WARN) $(CFLAGS_$(CONFIG)) $(CFLAGS) $(CPPFLAGS) -MMD -MP -c $< -o $@

$(LIB): $(OBJ)
	$(call say,AR   $@)
	$Qrm -f $@
	$Q$(AR) rcsD $@ $^

define prog
$(call bin,$1): $(1:%.c=$B/%.o) $(LIB)
	@mkdir -p $$(@D)
	$$(call say,LINK $$@)
	$Q$$(CC) $$(ALL_CFLAGS) $$(LDFLAGS) -o $$@ $$< $(LIB) $$(LIBS)
endef
$(foreach p,$(PROGS),$(eval $(call prog,$p)))

include tests/tests.mk


demo: ## install what is missing, build, convert, run and evaluate the built-in checkpoint
	scripts/install_packages.sh build
	+$(MAKE) --no-print-directory all
	scripts/demo.sh $B/bin build/demo

# What a machine without -dev packages needs: programs, the tests of the GPU, and the shared libraries
# that are not part of every system.  cuBLASLt stays where it is installed.
DIST       := build/dist
DIST_BIN    = $(foreach p,$(PROGS),$(call bin,$p)) $(TOOLS)
DIST_TESTS  = $(addprefix $B/tests/ops/,test_cuda test_w8a8_linear test_kv8 test_cuda_quant test_step test_ops test_attn test_vectors) \
              $(addprefix $B/tests/model/,test_golden test_families test_loop_plan test_quant_loop) $B/tests/unit/test_comm \
              $B/tests/bench/bench_cuda
DIST_SYSTEM = linux-vdso|ld-linux|libc\.so|libm\.so|libdl|librt|libpthread|libgcc_s|libstdc

dist: $(DIST_BIN) ## a folder that runs on Debian 12 and Ubuntu 24.04 as it is
	@rm -rf $(DIST) && mkdir -p $(DIST)/bin $(DIST)/lib
	@for f in $(DIST_BIN); do strip -o $(DIST)/bin/$${f##*/} $$f; done
	@ldd $(DIST_BIN) | awk '/=> \//{print $$3}' | grep -vE '$(DIST_SYSTEM)' | sort -u | \
		while read -r l; do strip -o $(DIST)/lib/$${l##*/} $$l; done
	@du -sh $(DIST)

dist-gpu: dist $(DIST_TESTS) ## the same with what scripts/gpu-check.sh runs
	@mkdir -p $(DIST)/tests
	@for f in $(DIST_TESTS); do strip -o $(DIST)/tests/$${f##*/} $$f; done
	@ldd $(DIST_TESTS) | awk '/=> .*cmocka/{print $$3}' | sort -u | xargs -r cp -t $(DIST)/lib
	@du -sh $(DIST)

check-layers: ## include rules, file sizes, unique names
	scripts/check_layers.sh

format: ## run clang-format over all C files
	clang-format -i $$(git ls-files '*.c' '*.h')

install: all ## install the programs under PREFIX
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(foreach p,$(PROGS),$(call bin,$p)) $(DESTDIR)$(PREFIX)/bin

clean: ## remove all build directories
	rm -rf build

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | \
		awk -F '\t' '{ printf "  make %-14s %s\n", $$1, $$2 }'


.PHONY: all demo dist dist-gpu check-layers format install clean help
-include $(shell find $B build/cuda -name '*.d' 2>/dev/null)
