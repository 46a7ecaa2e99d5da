# `make demo` shows Dyno at work, `make test` proves it; both set everything up on first use. `make help` lists the rest.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
STAMP := $(VENV)/.installed

# The first Python on the path that is new enough and able to make a virtual environment.
PY ?= $(shell for python in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

# Where torch comes from when pip has no local build: on Linux the CPU index, elsewhere (or when empty) PyPI.
TORCH := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' constraints.txt)
TORCH_INDEX ?= $(if $(filter Linux,$(shell uname -s)),https://download.pytorch.org/whl/cpu)

PROTO := dyno/inference/v1/inference.proto dyno/admin/v1/admin.proto
MODELS := tales-dense tales-moe

.DEFAULT_GOAL := help
.PHONY: help install demo serve test test-slow test-clients check bench docs proto constraints clean

help: ## List what make can do here
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

install: $(STAMP) ## Set up .venv with everything (does nothing when it is up to date)

demo: $(STAMP) ## Start the service, stream over REST and gRPC, compare two architectures, stop
	$(BIN)/dyno demo

serve: $(STAMP) ## Serve the embedded models until interrupted (REST on 8000, gRPC on 50051)
	$(BIN)/dyno serve $(MODELS:%=--model %)

test: $(STAMP) ## Run the tests
	@$(BIN)/python -m pytest

test-slow: $(STAMP) ## Run the tests that take minutes
	@$(BIN)/python -m pytest -m slow

test-clients: $(STAMP) ## Install clients that other people wrote beside .venv (gigabytes) and try them against the server
	@tests/clients/install.sh build/clients $(BIN)/python "$(TORCH_INDEX)"
	@$(BIN)/python -m pytest -m clients -rs tests/clients

check: $(STAMP) ## Lint, format, types, import floors, generated code up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest tests/test_surface.py -k generated

bench: $(STAMP) ## Measure speed against this machine's baseline (BENCH="--save" renews it, "--quick" is short)
	@$(BIN)/python -m tests.bench $(BENCH)

docs: $(STAMP) ## Write the reference pages of REST, gRPC and architecture files anew
	$(BIN)/python -m tests.reference

proto: $(STAMP) ## Regenerate the code of the gRPC contract
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iproto \
		--python_out=proto --grpc_python_out=proto --mypy_out=proto --mypy_grpc_out=proto $(PROTO)

constraints: $(STAMP) ## Resolve constraints.txt anew (nothing of CUDA: torch brings its own)
	$(BIN)/python -m venv build/uv
	build/uv/bin/python -m pip --disable-pip-version-check -q install uv
	{ sed -n 1p constraints.txt; build/uv/bin/uv pip compile -q pyproject.toml --extra server --group dev \
		--universal --python-version 3.11 --no-annotate --no-header | grep -vE '^(nvidia-|cuda-|triton)'; } > build/constraints.txt
	mv build/constraints.txt constraints.txt

clean: ## Remove the virtual environment and every cache
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PY)" || { echo "Dyno needs Python 3.11 or newer with venv and ensurepip; name one with PY=/path/to/python" >&2; exit 1; }
	@echo "Setting up $(VENV) with $(PY): about a minute"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PY) -m venv --clear $(VENV)
	@$(PIP) install "pip>=25.1"
	@# A build that pip is set up to find locally comes first, then TORCH_INDEX, then whatever pip asks by default.
	@$(PIP) install --no-index --no-deps "$(TORCH)" 2>/dev/null \
		|| { test -n "$(TORCH_INDEX)" && $(PIP) install --no-deps --retries 1 --timeout 20 --index-url "$(TORCH_INDEX)" "$(TORCH)"; } \
		|| $(PIP) install "$(TORCH)"
	@$(PIP) install -c constraints.txt -e ".[server]" --group dev
	@$(BIN)/python -c "import torch; print('torch', torch.__version__)"
	@touch $@
