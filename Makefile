# make demo · make test: each sets up .venv first, where that has not been done. Nothing is installed outside of it.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/installed
# Package index to take torch from, where it should not be the usual one (to choose a build, say).
TORCH_INDEX ?=
PEERS := .venv-peers/bin
PEERS_STAMP := .venv-peers/installed
PEERS_PINS := benchmarks/peers/constraints.txt

.PHONY: demo test setup lint format docs serve clean bench bench-peers bench-serving bench-swap soak
.DEFAULT_GOAL := help

help:
	@echo 'make demo    train on a simulated log, register the model, print lists with titles'
	@echo 'make test    run the tests'
	@echo 'make serve   answer requests on http://127.0.0.1:8000 with the champion'
	@echo 'make lint    style, types and import contracts'
	@echo 'make format  put the code into shape, as far as ruff can'
	@echo 'make docs    write the generated parts of docs/ and configs/'
	@echo 'make bench         measure the quality on all suites, with ablations and peers; takes hours, can be interrupted'
	@echo 'make bench-serving measure the running service: latency, capacity, CPU, memory'
	@echo 'make bench-swap    lists while new models take over, against lists in quiet'
	@echo 'make soak    ten minutes of load with events coming in, then 10,000 cases of fuzz'
	@echo 'make bench-peers   set up the libraries to compare with, in .venv-peers'
	@echo 'make setup   only make .venv'
	@echo 'make clean   remove what the tools left, but neither .venv nor models'

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n '$(PYTHON)' || { echo 'error: no Python 3.11 or later with venv and ensurepip was found; install one (on' \
		'Debian and Ubuntu: python3 and python3-venv), or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3' >&2; exit 2; }
	@echo "setting up .venv with $$($(PYTHON) --version); the first time takes some minutes"
	@test -x $(BIN)/python && $(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		$(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[offline,dev]'
	@touch $(STAMP)

bench-peers: $(PEERS_STAMP)

# torch comes first and alone: left to the others, its version brings gigabytes for graphics cards. LightFM is built
# from its source, which takes a C compiler.
$(PEERS_STAMP): benchmarks/peers/requirements.txt $(PEERS_PINS)
	@test -n '$(PYTHON)' || { echo 'error: no Python 3.11 or 3.12 was found; name one: make bench-peers PYTHON=…' >&2; exit 2; }
	@echo "setting up .venv-peers with $$($(PYTHON) --version); it takes some minutes and 2.5 GB"
	@test -x $(PEERS)/python && $(PEERS)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear .venv-peers
	@$(PEERS)/python -m pip install --quiet --disable-pip-version-check -c $(PEERS_PINS) \
		$(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@$(PEERS)/python -m pip install --quiet --disable-pip-version-check -c $(PEERS_PINS) setuptools
	@$(PEERS)/python -m pip install --quiet --disable-pip-version-check -c $(PEERS_PINS) -r benchmarks/peers/requirements.txt
	@$(PEERS)/python -m pip install --quiet --disable-pip-version-check -c $(PEERS_PINS) --no-deps recommenders
	@touch $(PEERS_STAMP)

SUITES := mind-zh-impressions ml-100k-random ml-1m-loo ml-1m-cold
# What has finished is kept here, so that an interrupted run goes on where it was.
BENCH_WORK ?= runs/bench

# What fails, such as a peer, stops nothing else: the exit code says so at the end.
bench: setup bench-peers
	@failed=0; for suite in $(SUITES); do \
		$(BIN)/python benchmarks/quality.py --suite $$suite --ablations --peers --work $(BENCH_WORK)/$$suite \
			--out benchmarks/results/$$suite.json || failed=1; done; \
	$(BIN)/python benchmarks/diversity.py --suite ml-1m-loo --work $(BENCH_WORK)/ml-1m-loo || failed=1; \
	$(BIN)/python benchmarks/diversity.py --markdown docs/diversity.md || failed=1; \
	$(BIN)/python benchmarks/goals.py --page docs/results.md || failed=1; \
	$(BIN)/python benchmarks/sentiment.py --work $(BENCH_WORK)/sentiment --out benchmarks/results/sentiment.json || \
		failed=1; \
	exit $$failed

# A bundle's folder, or a data folder to train on, here one of the published logs that the suites use:
# make bench-serving BENCH_SERVING='--bundle FOLDER'
BENCH_SERVING ?= --data $(or $(RECSYS_DATA),../shared/data)/ml-1m-half

bench-serving: setup
	@$(BIN)/python benchmarks/serving.py $(BENCH_SERVING)

bench-swap: setup
	@$(BIN)/python benchmarks/swap.py $(BENCH_SERVING)

SOAK_SECONDS ?= 600
FUZZ_CASES ?= 10000

soak: setup
	@$(BIN)/python benchmarks/soak.py $(BENCH_SERVING) --seconds $(SOAK_SECONDS)
	@RECSYS_FUZZ_CASES=$(FUZZ_CASES) $(BIN)/python -m pytest -q tests/contract/test_openapi.py tests/e2e/test_raw_bytes.py
	@$(BIN)/python -m pytest -q -m soak

demo: setup
	@$(BIN)/recsys demo

test: setup
	@$(BIN)/python -m pytest -q

serve: setup
	@$(BIN)/recsys serve

lint: setup
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

docs: setup
	@$(BIN)/python -m recsys.config_reference

clean:
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name .venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
