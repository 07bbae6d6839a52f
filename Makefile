# `make demo` sets up what it needs below .demo, everything else below .venv; caches outside are named in CONTRIBUTING.md.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DEMO   := .demo/environment
TOOLS  := pip uv
QUICK  := tests/test_plugins.py tests/test_documentation.py tests/unit/test_error_causes.py tests/unit/test_runtime.py tests/unit/recipe tests/unit/contract tests/unit/knobs tests/unit/policy \
          tests/unit/graph tests/unit/trust tests/unit/store $(filter-out %/test_promises.py,$(wildcard tests/unit/release/test_*.py))
T      ?= tests
K      ?=
SHUFFLE ?=
# Processes of a test run: tests wait too. Each may hold 2 GB.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 2)
PINS   := -c tests/constraints.txt
# Bytecode of the tests, and of what they start, is kept even where Python is told to write none.
UNSET  := env -u PYTHONDONTWRITEBYTECODE
# pip knows this machine's package index and wheels; uv is told the same, because it does not read pip's settings.
LINKS  = $(shell $(1)/python -m pip config get global.find-links 2>/dev/null)
FIND   = $(foreach place,$(PIP_FIND_LINKS) $(LINKS),--find-links $(place))
UV     = $(1)/uv pip install --quiet --python $(1)/python $(FIND) $(PINS)
# torch's CPU build is tried in pip's own places and then at TORCH_INDEX. TORCH=cuda asks for PyPI's, with CUDA on Linux;
# it is also the way out where there is no other, unless TORCH=cpu.
TORCH       ?= auto
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH_PIN   := $(shell sed -n 's/^torch==//p' tests/constraints.txt)

export ORT_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true

.DEFAULT_GOAL := help
.PHONY: help dev torch demo demo-cnn demo-encoder demo-chat corpus check quick test default bytecode test-times test-all attacks lint fmt bench gpu-kit gpu-report wheel reference docs golden clean

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

dev: $(READY) ## set up .venv with everything for development

$(READY): pyproject.toml tests/constraints.txt
	@echo "setting up $(VENV): 3.3 GB on disk, of which 1.1 GB are downloaded (with TORCH=cuda: 8 GB)"
	@$(MAKE) --no-print-directory torch
	$(call UV,$(BIN)) --compile-bytecode -e '.[dev]'
	@touch $@

torch:
	$(PYTHON) -m venv $(VENV)
	$(if $(TOOLS),$(BIN)/python -m pip install --quiet --upgrade $(TOOLS))
ifneq ($(TORCH),cuda)
	@$(BIN)/python -m pip install --quiet $(PINS) torch==$(TORCH_PIN)+cpu 2>/dev/null || \
	 $(BIN)/python -m pip install --quiet --no-deps --timeout 15 --retries 1 --index-url $(TORCH_INDEX) torch==$(TORCH_PIN)+cpu 2>/dev/null || \
	 if [ $(TORCH) = cpu ]; then echo "no CPU build of torch $(TORCH_PIN) in pip's places or at $(TORCH_INDEX)" >&2; exit 1; \
	 else echo "no CPU build of torch $(TORCH_PIN) in pip's places or at $(TORCH_INDEX): the index's own is next, on Linux 5 GB with CUDA; interrupt and name another TORCH_INDEX to avoid it" >&2; \
	 $(BIN)/python -m pip install --quiet $(PINS) torch; fi
else
	$(BIN)/python -m pip install --quiet $(PINS) torch
endif

$(DEMO)/.ready: pyproject.toml tests/constraints.txt
	@echo "setting up $(DEMO): 600 MB on disk, of which 200 MB are downloaded; the demo adds 220 MB"
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install --quiet uv
	$(call UV,$(DEMO)/bin) -e '.[demo]'
	@touch $@

demo: $(DEMO)/.ready ## the main job on a real model: train, register, build, sign, verify, install, serve, classify
	$(DEMO)/bin/python docs/examples/digits/demo.py

demo-cnn: $(READY) ## the same for a CNN of torch
	$(BIN)/python docs/examples/digits/demo.py --cnn

demo-encoder: $(READY) ## the same for a trained sentence encoder (90 MB)
	$(BIN)/python docs/examples/sentence-encoder/demo.py

demo-chat: $(READY) ## the same for a trained chat model (93 MB), which then answers
	@$(call UV,$(BIN)) gguf accelerate
	$(BIN)/python docs/examples/chat/demo.py

check: $(READY) ## lint, types and the tests that build nothing, beside each other: the minute before a commit
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint quick

quick: $(READY)
	$(BIN)/python -m pytest -n 2 -q -m 'not slow' $(QUICK)

test: $(READY) ## lint, types and, beside them, all tests but the slow matrices (T=path, K=filter, SHUFFLE=seed)
	@$(MAKE) --no-print-directory --jobs 2 lint default

# Workers write no bytecode: without this each of them compiles what it imports.
bytecode: $(READY)
	@$(BIN)/python -m compileall -q packager runtimes policies conformance tests/support

default: $(READY) bytecode
	$(UNSET) $(BIN)/python -m tests.support.in_memory $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m 'not slow' $(T) $(if $(K),-k '$(K)') $(if $(SHUFFLE),--shuffle '$(SHUFFLE)')

test-times: $(READY) bytecode ## the tests of `make test`, with the processor time of each (T=path)
	$(UNSET) $(BIN)/python -m pytest -p tests.support.times -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m 'not slow' $(T)

test-all: $(READY) lint bytecode ## every test
	$(UNSET) PACKAGER_TEST_STARTS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(T) $(if $(K),-k '$(K)') $(if $(SHUFFLE),--shuffle '$(SHUFFLE)')

attacks: $(READY) ## the attacks as an ordinary user, with bubblewrap and without it (as root)
	$(BIN)/python -m tests.attacks.as_user $(T:tests=tests/attacks) -m 'not slow'
	$(BIN)/python -m tests.attacks.as_user --without-bubblewrap $(T:tests=tests/attacks) -m 'not slow'

lint: $(READY) ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy packager runtimes policies conformance

fmt: $(READY) ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

corpus: $(READY) ## ONNX files out of public packages, from init to served answers; goes on where it ended
	$(BIN)/python -m tests.corpus.run

bench: $(READY) ## run the benchmarks and print their ratios
	@for file in tests/benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

gpu-kit: $(READY) ## prepare what a bare machine with a GPU needs, in build/gpu-kit (tests/gpu/README.md)
	$(BIN)/python -m tests.gpu.prepare --folder build/gpu-kit

gpu-report: $(READY) ## write docs/measurements/gpu.md from a run on a GPU (R=gpu-report.json)
	$(if $(R),,$(error name the JSON of the run: make gpu-report R=gpu-report.json))
	$(BIN)/python -m tests.gpu.report $(R) --out docs/measurements/gpu.md

wheel: $(READY) ## build the wheel into dist/
	$(BIN)/uv build --quiet --wheel --out-dir dist .

reference: $(READY) ## write the reference pages that follow from the code
	$(BIN)/python docs/site/reference.py

docs: $(READY) ## build the documentation into build/docs, with every link checked
	$(call UV,$(BIN)) -e '.[docs]'
	$(BIN)/mkdocs build --strict --config-file docs/site/mkdocs.yml

clean: ## remove what the targets above made
	rm -rf $(VENV) .demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find packager runtimes policies conformance tests docs -name __pycache__ -prune -exec rm -rf {} +
