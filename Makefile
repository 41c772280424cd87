# Each target does its own set-up on a fresh machine: Python >= 3.10, a C++17 compiler and make are all it takes.
#
#   make demo [SOURCE=my.jpg]   finds the people in a photograph; overlay and JSON in demo/
#   make test                   builds everything, runs the C++ and the Python tests
#   make check                  formatters, linter, type checker
#   make bench                  benchmarks of the graph convolution on the CPU (under 5 minutes); results as JSON in
#                               benchmarks/results/
#   make bench-nonlocal         those of the non-local layer (5 minutes)
#   make bench-encoder [PEER_PYTHON=python3.10]    those of the encoder (2 minutes), beside OpenPifPaf where that has it
#   make bench-decoder [PEER_PYTHON=python3.10]    those of the decoder (3 minutes), beside OpenPifPaf where that has it
#   make bench-training         those of the loader and of a step of training (20 minutes)
#   make bench-prediction [PEER_MODELS=DIR]    those of the shipped model: its network, and from its heads to persons (10
#                               minutes); with the files of other networks beside them (benchmarks/prediction/bench_peers.py)
#   make bench-smoke            every benchmark, plot and experiment once, on its smallest case (a minute); results go to
#                               build/smoke
#   make docs                   the pages as a site, with the --help of every command and the Python interface: build/docs
#   make check-cuda             the instructions that the CUDA kernels issue for a pixel, counted in their machine code,
#                               against limits; no GPU is needed
#   make gpu [MINUTES=20] [STEPS="..."] [RESULTS=DIR]    on a machine with a GPU, with the packages of $(PYTHON) and no
#                               network: a probe, benchmarks, every test, compute-sanitizer, as far as 5 minutes go
#   make sanitize               the C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer, those of threads under
#                               ThreadSanitizer
#   make fuzz                   each fuzz target for 60 s (FUZZ="-max_total_time=60"); needs a clang++ with libFuzzer
#   make wheel                  dist/: the sources as a package, and a wheel for the Python of .venv, without torch inside
#   make check-wheel            `dgcn check` and the tests of the operators and the decoder with what that wheel installs, in
#                               an environment of its own with another torch
#   make check-no-torch         the decoder and the encoder installed and tested in an environment without torch
#   make check-machines         the Python tests as on machines with fewer instructions, with one thread, and busy ones
#   make check-lowest           the Python tests with the lowest versions of numpy, OpenCV, ... that dgcn accepts
#   make clean                  removes all that these made

PYTHON ?= python3
BIN := .venv/bin
CPP := $(foreach level,* */* */*/*,$(wildcard $(addprefix csrc/$(level),.h .cpp .cu .cuh))) \
       $(wildcard tests/cpp/*.h tests/cpp/*.cpp \
                  tests/cpp/package/*.cpp tests/fuzz/*.h tests/fuzz/*.cpp benchmarks/*.cpp examples/*/*.cpp)
export PIP_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo build test test-cpp test-python check machine-peak bench bench-nonlocal bench-encoder bench-decoder \
        bench-training bench-prediction bench-smoke check-cuda docs gpu sanitize fuzz wheel check-wheel check-example \
        check-no-torch check-machines check-lowest clean

demo: build
	$(BIN)/dgcn demo $(if $(SOURCE),--source "$(SOURCE)") --output demo

.venv/installed: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "dgcn needs Python >= 3.10 (make PYTHON=...)")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $$(sed -e '/^#/d' -e 's/==.*//' constraints.txt | sort -u)
	touch $@

.venv/built: .venv/installed setup.py pyproject.toml $(filter csrc/%,$(CPP))
	$(BIN)/pip install --quiet --no-build-isolation --no-deps --editable .
	touch $@

build: .venv/built

test: test-cpp test-python

# A build folder under build/ for each value of DGCN_SANITIZE.
CMAKE = $(BIN)/cmake -S . -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DCMAKE_BUILD_TYPE=Release

build/cpp/build.ninja: .venv/installed
	$(CMAKE) -B build/cpp

test-cpp: build/cpp/build.ninja
	$(BIN)/cmake --build build/cpp
	$(BIN)/ctest --test-dir build/cpp --output-on-failure

test-python: build
	$(BIN)/pytest

check: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy

machine-peak: build/cpp/build.ninja
	$(BIN)/cmake --build build/cpp --target machine_peak

MEASURE := $(BIN)/pytest --results=benchmarks/results

bench: build machine-peak
	$(MEASURE) benchmarks/bench_machine.py
	$(MEASURE) benchmarks/graph_conv/bench_time.py
	$(MEASURE) benchmarks/graph_conv/bench_formats.py
	$(MEASURE) benchmarks/graph_conv/bench_sizes.py
	$(MEASURE) benchmarks/bench_threads.py -k graph_conv
	$(BIN)/python -m benchmarks.plots
	$(BIN)/python -m benchmarks.report

bench-nonlocal: build
	$(MEASURE) benchmarks/non_local/bench_time.py
	$(MEASURE) benchmarks/non_local/bench_onnx.py
	$(MEASURE) benchmarks/non_local/bench_memory.py
	$(MEASURE) benchmarks/bench_threads.py -k relu_affinity
	$(BIN)/python -m benchmarks.plots

bench-encoder: build
	PEER_PYTHON="$(PEER_PYTHON)" $(MEASURE) benchmarks/encoder
	$(MEASURE) benchmarks/bench_threads.py -k encoder

bench-decoder: build
	PEER_PYTHON="$(PEER_PYTHON)" $(MEASURE) benchmarks/decoder
	$(MEASURE) benchmarks/bench_threads.py -k decoder

bench-training: build
	$(MEASURE) benchmarks/training

bench-prediction: build
	PEER_MODELS="$(PEER_MODELS)" $(MEASURE) benchmarks/prediction

# What needs a GPU, or real layouts of people where $DGCN_DATA is absent, skips itself.
bench-smoke: build machine-peak
	mkdir -p build/smoke
	$(BIN)/pytest benchmarks --smoke --results=build/smoke
	$(BIN)/python -m benchmarks.plots build/smoke build/smoke
	$(BIN)/python -m benchmarks.report
	data="$${DGCN_DATA:-../shared/data}"; if [ -d "$$data" ]; then \
	    $(BIN)/python -m benchmarks.experiments.occlusion --images 2 && \
	    $(BIN)/python -m benchmarks.experiments.colour_profiles --images 2 && \
	    $(BIN)/python -m benchmarks.experiments.tracking --clips 2 && \
	    $(BIN)/python -m benchmarks.experiments.roundtrip "$$data/coco_val2017_layouts.json.gz" --images 20 && \
	    $(BIN)/python -m benchmarks.experiments.model_changes "$$data/coco512" \
	        python/dgcn/assets/dgcn_movenet_coco512.safetensors "$$data/weights/movenet_multipose_lightning.npz" \
	        build/smoke/changes --images 8; \
	fi

# The C++ example, built against the installed decoder and compared with Python.
check-example: build build/cpp/build.ninja
	$(BIN)/cmake --build build/cpp --target dgcn_pifpaf
	$(BIN)/cmake --install build/cpp --prefix build/prefix
	sh examples/cpp_onnx/onnxruntime.sh build/onnxruntime $(BIN)/python
	$(BIN)/cmake -S examples/cpp_onnx -B build/cpp_onnx -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	    "-DCMAKE_PREFIX_PATH=$(CURDIR)/build/prefix;$(CURDIR)/build/onnxruntime"
	$(BIN)/cmake --build build/cpp_onnx
	$(BIN)/dgcn export -o build/cpp_onnx/model.onnx --size 385 385
	$(BIN)/python examples/cpp_onnx/compare.py build/cpp_onnx/find_persons build/cpp_onnx/model.onnx

check-cuda: build
	$(BIN)/python -m benchmarks.graph_conv.instructions --check

docs: build
	$(BIN)/sphinx-build --fresh-env --fail-on-warning --keep-going --quiet -c docs -d build/doctrees . build/docs

gpu:
	$(PYTHON) .ci/gpu.py $(if $(RESULTS),--results "$(RESULTS)") $(if $(MINUTES),--minutes $(MINUTES)) \
	    $(if $(STEPS),--steps $(STEPS))

THREADED := test_threads test_decoder test_encoder

sanitize: .venv/installed
	$(CMAKE) -B build/asan -DDGCN_SANITIZE=address,undefined,float-cast-overflow
	$(BIN)/cmake --build build/asan
	$(BIN)/ctest --test-dir build/asan --output-on-failure --parallel 2
	$(CMAKE) -B build/tsan -DDGCN_SANITIZE=thread
	$(BIN)/cmake --build build/tsan --target $(THREADED)
	for test in $(THREADED); do build/tsan/$$test || exit 1; done

CLANGXX ?= clang++
FUZZ ?= -max_total_time=60
FUZZ_TARGETS := $(patsubst tests/fuzz/%.cpp,%,$(wildcard tests/fuzz/fuzz_*.cpp))

# What a run finds on its way goes to build/fuzz/found, not to the committed corpus.
fuzz: .venv/installed
	$(CMAKE) -B build/fuzz -DCMAKE_CXX_COMPILER=$(CLANGXX) \
	    -DDGCN_SANITIZE=fuzzer-no-link,address,undefined,float-cast-overflow
	$(BIN)/cmake --build build/fuzz --target $(FUZZ_TARGETS)
	for target in $(FUZZ_TARGETS); do \
	    mkdir -p build/fuzz/found/$$target && build/fuzz/$$target $(FUZZ) -max_len=512 -print_final_stats=1 \
	        -artifact_prefix=build/fuzz/ build/fuzz/found/$$target tests/fuzz/corpus/$$target || exit 1; \
	done

check-no-torch: build
	test -x .venv-no-torch/bin/python || $(PYTHON) -m venv .venv-no-torch
	.venv-no-torch/bin/pip install --quiet pytest hypothesis
	DGCN_TORCH=0 .venv-no-torch/bin/pip install --quiet .
	.venv-no-torch/bin/pytest tests/test_decoder*.py tests/test_encoder*.py
	DGCN_TORCH=0 .venv-no-torch/bin/pip install --quiet '.[predict]'
	! .venv-no-torch/bin/python -c 'import torch' 2> /dev/null
	$(BIN)/dgcn export --dynamic -o build/no-torch/model.onnx
	cd build/no-torch && ../../.venv-no-torch/bin/dgcn predict --checkpoint model.onnx -o out \
	    --source "$(CURDIR)/python/dgcn/assets/astronaut.jpg" | grep '^1 persons in 1 of 1 pictures'

# The wheel is built as pip does for users: from the source distribution, in isolation. Torch's libraries stay outside,
# since they are those of the torch that is installed beside it (see setup.py).
wheel: build
	rm -rf dist build/dist
	$(BIN)/python -m build --no-isolation --sdist --outdir dist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir build/dist dist/*.tar.gz
	PATH=$(BIN):$$PATH $(BIN)/auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' --wheel-dir dist build/dist/*.whl

# The Python tests as on other machines: without vector instructions and threads, with AVX2 alone, with every core busy.
check-machines: build
	$(PORTABLE) $(BIN)/pytest
	$(AVX2) $(BIN)/pytest
	for core in $$(seq $$(nproc)); do while :; do :; done & busy="$$busy $$!"; done; \
	    $(BIN)/pytest; status=$$?; kill $$busy; exit $$status

PORTABLE := ATEN_CPU_CAPABILITY=default DGCN_CPU_CAPABILITY=portable OMP_NUM_THREADS=1
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 DGCN_CPU_CAPABILITY=avx2

# Everything but torch and Python at the lowest versions that setup.py allows, with the headless and then with the full
# build of OpenCV. Packages in a folder of their own, ahead of those in .venv. With AVX2 alone, and check-wheel with the
# portable kernels on one thread: so CI sees other machines too.
LOWEST = $(shell sed -n 's/^    "\([a-z-]*\)>=\(.*\)",$$/\1==\2/p' setup.py)
check-lowest: build
	PIP_CONSTRAINT= $(BIN)/pip install --quiet --no-deps --upgrade --target build/lowest $(LOWEST)
	PIP_CONSTRAINT= $(BIN)/pip install --quiet --no-deps --upgrade --target build/lowest-gui \
	    $(filter opencv-%,$(subst -headless,,$(LOWEST)))
	$(AVX2) PYTHONPATH=build/lowest $(BIN)/pytest -W default -k 'not random_fields' \
	    $(filter-out $(OPERATOR_TESTS) tests/test_onnx.py tests/test_export.py tests/test_examples.py tests/test_docs.py,$(wildcard tests/test_*.py))
	PYTHONPATH=build/lowest-gui:build/lowest $(BIN)/pytest -W default tests/test_images.py tests/test_predictor.py \
	    tests/test_transforms.py tests/test_visualize.py

OPERATOR_TESTS := $(wildcard tests/test_philox.py tests/test_graph_conv*.py tests/test_relu_affinity*.py) \
    tests/test_func.py tests/test_torch_tools.py tests/test_instruction_sets.py \
    tests/test_modules_torch.py tests/test_folding.py
check-wheel: wheel
	rm -rf .venv-wheel
	$(PYTHON) -m venv .venv-wheel
	PIP_CONSTRAINT= .venv-wheel/bin/pip install --quiet torch==2.13.0 pytest hypothesis dist/*.whl
	cd build && ../.venv-wheel/bin/dgcn check
	# torch 2.13 warns of its own deprecations when it compiles; they are not errors of ours. The frozen norm is
	# torchvision's, which does not load beside a torch that is built for the CPU alone.
	DGCN_CPU_CAPABILITY=portable OMP_NUM_THREADS=1 .venv-wheel/bin/pytest -W default::DeprecationWarning \
	    -k 'not frozen_batch_norm' $(OPERATOR_TESTS) tests/test_decoder.py

clean:
	rm -rf .venv .venv-no-torch .venv-wheel build demo dist dgcn_ext/*.so dgcn.egg-info
