# Everything a person runs, in one place. `make` alone lists it.
SHELL := /bin/bash
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
DATA ?= data

# Compiled once, tests are collected in a third of the time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help serve page test check soak bench constraints clean

help: ## List what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml constraints.txt scripts/venv.sh
	@scripts/venv.sh "$(PYTHON)" "$(VENV)"

web/node_modules/.package-lock.json: web/package-lock.json | $(VENV)/.installed
	@scripts/npm.sh "$(VENV)" ci --no-audit --no-fund

page: $(VENV)/.installed ## Build the page, if web/ has changed
	@$(BIN)/python web/build_page.py

serve: page ## Set everything up and serve on SQLite and local disk (DATA=data)
	@$(BIN)/upwell serve --data "$(DATA)"

test: page web/node_modules/.package-lock.json ## Set everything up and run every test
	@scripts/system-packages.sh
	scripts/npm.sh $(VENV) run check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2

check: page web/node_modules/.package-lock.json ## Format, lint, types, and the tests that are not slow: under a minute
	scripts/npm.sh $(VENV) run format
	scripts/npm.sh $(VENV) run check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mypy
	scripts/in-memory.sh $(VENV) $(BIN)/pytest -q -n 2 -m "not slow" --durations=5 --durations-min=0.5

soak: page ## Cut the power and kill servers, compare with what clients know (SOAK="--cuts 100")
	@$(BIN)/python -m tests.soak $(SOAK)

bench: $(VENV)/.installed ## Build and run the comparison with other servers on this machine
	@bench/run.sh

constraints: $(VENV)/.installed ## Pin the newest versions that pyproject.toml allows
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-header --no-annotate \
	  --extra server --extra media --group dev pyproject.toml -o constraints.txt --upgrade

clean: ## Remove what was built (never the data folder)
	rm -rf $(VENV) build dist bench/build bench/node_modules .mypy_cache .ruff_cache .pytest_cache \
	  src/upwell/page web/node_modules web/packages/*/dist
