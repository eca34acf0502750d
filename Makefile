# Every target sets up what it needs: with Python 3.11+ and make, any of them may be the first on a machine.
# Which Python: `make PYTHON=python3.12 demo`. Which package index: whatever your pip is configured to use.

SHELL       := bash
.SHELLFLAGS := -o pipefail -c

VENV   := .venv
BIN    := $(VENV)/bin
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)

# One dot per package, a line per large download; warnings and errors (stderr) pass through.
define PIP_INSTALL
$(BIN)/python -m pip --disable-pip-version-check install --progress-bar off -c constraints.txt -e $(1) | awk ' \
	/^Collecting / { printf "."; fflush() } \
	/Downloading .*\(([0-9][0-9]+\.[0-9]+ M|[0-9.]+ G)B\)/ { printf "\n  %s %s %s ", $$2, $$3, $$4; fflush() } \
	/^Installing collected/ { printf "\n  unpacking "; fflush() } \
	END { print "" }'
endef

# A stamp is as new as the last successful install; changed pins or requirements make it stale.
RUNTIME := $(VENV)/.installed-runtime
TESTS   := $(VENV)/.installed-test
DEV     := $(VENV)/.installed-dev
SUITE   := $(VENV)/json-schema-test-suite/.unpacked

# The suite starts some hundred interpreters; without bytecode each of them compiles the project again.
unexport PYTHONDONTWRITEBYTECODE

# One process per core, each computing on one thread.
PARALLEL := --numprocesses auto --maxprocesses 4

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-clients test-llama-server test-triton test-gpu test-browser soak serve bench check format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(RUNTIME) ## Install specguard into .venv
	@echo "Installed. Start it with: $(BIN)/specguard serve"

demo: $(RUNTIME) ## Watch an agent repair a bug through the guard, then again with an engine fault planted
	@$(BIN)/python -m examples.demo $(ARGS)

serve: $(RUNTIME) ## Serve the embedded model on 127.0.0.1 (options: make serve ARGS="--port 9000")
	@$(BIN)/specguard serve $(ARGS)

test: $(TESTS) $(SUITE) ## Run the whole test suite
	@$(BIN)/python -m pytest -q $(PARALLEL) $(ARGS)

test-slow: $(TESTS) $(SUITE) ## Run the tests that take minutes
	@$(BIN)/python -m pytest -q -m slow --timeout 1200 $(ARGS)

soak: $(TESTS) ## Half an hour of mixed load on a real server: memory, tasks, steps (make soak ARGS="--minutes 2")
	@$(BIN)/python -m pytest -q -s -m soak --timeout 0 tests/soak $(ARGS)

# One process for each client, so that its runs can be compared.
test-clients: $(TESTS) ## Install the real coding agents into .clients (3 GB) and run them against a server
	@$(BIN)/python -m tests.clients.installing
	@tests/clients/alone.sh $(BIN)/python -m pytest -q -m clients tests/clients --numprocesses 2 --dist loadgroup $(ARGS)

test-llama-server: $(TESTS) ## Run both presets of the embedded model on a llama.cpp server (LLAMA_SERVER=PATH)
	@test -x "$(LLAMA_SERVER)" || { \
		echo "Name a llama.cpp server: make test-llama-server LLAMA_SERVER=/path/to/llama-server"; exit 1; }
	@LLAMA_SERVER="$(LLAMA_SERVER)" $(BIN)/python -m pytest -q -m llama_server tests/test_llama_server.py $(ARGS)

test-triton: $(TESTS) ## Run the GPU kernels in triton's interpreter (installs triton, 640 MB; Linux)
	@$(call PIP_INSTALL,'.[triton]')
	@TRITON_INTERPRET=1 $(BIN)/python -m pytest -q -m "slow or not slow" --timeout 1200 $(PARALLEL) \
		tests/engine/kernels tests/engine/bench/kv/test_report.py $(ARGS)

test-gpu: $(TESTS) ## On a GPU machine: everything about CUDA in one call, report in .gpu-report (see engine/bench/gpu.py)
	@$(BIN)/python -m engine.bench.gpu $(ARGS)

test-browser: $(TESTS) ## Look at the pack's page in an installed Chromium (Debian: apt install chromium); pictures are kept
	@$(BIN)/python -m pytest -q -s -m browser tests/browser $(ARGS)

bench: $(TESTS) ## Measure the drafters side by side, and transformers beside them (options: make bench ARGS="--quick")
	@$(BIN)/specguard bench engine $(ARGS)

check: $(TESTS) $(SUITE) $(DEV) ## Format, lint, types, tests: what must pass before a commit
	@$(BIN)/ruff format --check --quiet . || { echo "Some files are not formatted: run make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q $(PARALLEL) $(ARGS)

format: $(DEV) ## Format the code and sort imports
	@$(BIN)/ruff check --quiet --fix --select I .
	@$(BIN)/ruff format --quiet .

clean: ## Remove .venv, .clients, caches and build leftovers
	@rm -rf $(VENV) .clients .gpu-report build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
		echo "specguard needs Python 3.11 or newer, and none was found on PATH."; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "specguard needs Python 3.11 or newer; $(PYTHON) is $$("$(PYTHON)" --version 2>&1)."; \
		echo "Name another: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Creating $(VENV) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv $(VENV) || { \
		echo "Could not create $(VENV); on Debian and Ubuntu: apt install python3-venv"; rm -rf $(VENV); exit 1; }

$(RUNTIME): $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing specguard and what it runs on (once; torch is the large part)"
	@$(call PIP_INSTALL,.)
	@touch $@

$(TESTS): $(RUNTIME)
	@echo "Installing what the tests need (once)"
	@$(call PIP_INSTALL,'.[test]')
	@touch $@

# The official JSON-Schema-Test-Suite travels in the source distribution of the pinned `jsonschema`.
$(SUITE): $(BIN)/python constraints.txt
	@echo "Fetching the official JSON-Schema-Test-Suite (once)"
	@rm -rf $(@D) $(@D).part && mkdir -p $(@D).part
	@$(BIN)/python -m pip --disable-pip-version-check download --quiet --no-deps --no-binary jsonschema \
		--dest $(@D).part "$$(grep '^jsonschema==' constraints.txt)"
	@tar -xzf $(@D).part/jsonschema-*.tar.gz -C $(@D).part
	@mv $(@D).part/jsonschema-*/json $(@D) && rm -r $(@D).part
	@touch $@

$(DEV): $(RUNTIME)
	@echo "Installing ruff and mypy (once)"
	@$(call PIP_INSTALL,'.[dev]')
	@touch $@
