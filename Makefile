# Every target does its own set-up on a fresh machine: Python >= 3.10, a C++17 compiler and make are all it takes.
#
#   make demo [SOURCE=my.jpg]   people found in a photograph: overlay and JSON in demo/
#   make test                   builds everything, runs the C++ and the Python tests
#   make check                  formatters, linters, type checker
#   make bench                  benchmarks; results as JSON in benchmarks/results/
#   make check-torch-2.13       the built binary under another torch, in an environment of its own

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
CPP := $(shell git ls-files 'csrc/*' 'tests/cpp/*' 2>/dev/null | grep -E '\.(h|cpp|cu)$$')
SOURCES := $(wildcard csrc/*.h csrc/*.cpp csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu)
export PIP_CONSTRAINT := constraints.txt

.PHONY: demo build test test-cpp test-python check bench check-torch-2.13 clean

demo: build
	$(BIN)/dgcn demo $(if $(SOURCE),--source "$(SOURCE)") --output demo

build: $(VENV)/built

$(VENV)/installed: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet torch torchvision timm numpy opencv-python-headless pycocotools safetensors tqdm \
	    setuptools wheel ninja pybind11 pytest pytest-benchmark hypothesis ruff mypy clang-format types-tqdm
	touch $@

$(VENV)/built: $(VENV)/installed setup.py pyproject.toml $(SOURCES)
	$(PIP) install --quiet --no-build-isolation --no-deps -e .
	touch $@

test: test-cpp test-python

test-cpp:
	cmake -S . -B build/cpp -DCMAKE_BUILD_TYPE=Release
	cmake --build build/cpp --parallel 2
	ctest --test-dir build/cpp --output-on-failure

test-python: build
	$(BIN)/pytest

check: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy

bench: build
	$(BIN)/python benchmarks/bench_graph_conv.py

# The op tests again, with the binary that was built against the development torch.
check-torch-2.13: build
	test -x .venv-2.13/bin/python || $(PYTHON) -m venv .venv-2.13
	PIP_CONSTRAINT= .venv-2.13/bin/pip install --quiet torch==2.13.0 numpy pytest pytest-benchmark hypothesis
	.venv-2.13/bin/python -m pytest -p no:cacheprovider tests/test_graph_conv.py tests/test_philox.py

clean:
	rm -rf build demo $(VENV) .venv-2.13 dgcn_ext/*.so *.egg-info
