# Every target sets itself up; a repeat costs nothing. `make` alone lists them.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Options of `dirl demo`, e.g. make demo ARGS="--exit --seed 1"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup proto pins fmt check test test-all demo bench up

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv with everything that is needed

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 13) else "Python 3.11 or 3.12 is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

proto: $(STAMP) ## Regenerate services/common/pb from proto/
	$(BIN)/python scripts/gen_proto.py

pins: $(STAMP) ## Rewrite constraints.txt from what is installed
	$(BIN)/python scripts/pin_constraints.py

fmt: $(STAMP) ## Format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: $(STAMP) ## Format, lint, types, import contracts, generated code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p services
	$(BIN)/lint-imports
	$(BIN)/python scripts/gen_proto.py --check

test: $(STAMP) ## Every test that needs no GPU and no patience
	$(BIN)/pytest -m "not gpu and not slow"

test-all: $(STAMP) ## Every test that this machine can run
	$(BIN)/pytest

demo: $(STAMP) ## SFT, RL and evaluation of a tiny model, start to end
	$(BIN)/dirl demo $(ARGS)

bench: $(STAMP) ## The benchmarks that need no GPU; figures as JSON lines
	set -e; for script in benchmarks/*.py; do echo "# $$script"; $(BIN)/python "$$script"; done

up: $(STAMP) ## Run the platform on this machine until Ctrl-C
	$(BIN)/dirl up
