# Everything a person runs, in one place. `make` alone lists it.
SHELL := /bin/bash
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
DATA ?= data

.DEFAULT_GOAL := help
.PHONY: help serve test check format bench constraints clean

help: ## List what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml constraints.txt scripts/venv.sh
	@scripts/venv.sh "$(PYTHON)" "$(VENV)"

serve: $(VENV)/.installed ## Set everything up and serve on SQLite and local disk (DATA=data)
	@$(BIN)/upwell serve --data "$(DATA)"

test: $(VENV)/.installed ## Set everything up and run every test
	@scripts/system-packages.sh
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest

check: $(VENV)/.installed ## The fast loop: format, lint, types, fast tests
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mypy
	$(BIN)/pytest -q -n 2 -m "not slow"

bench: $(VENV)/.installed ## Build and run the comparison with other servers on this machine
	@bench/run.sh

constraints: $(VENV)/.installed ## Pin the newest versions that pyproject.toml allows
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-header --no-annotate \
	  --extra server --extra media --group dev pyproject.toml -o constraints.txt --upgrade

clean: ## Remove what was built (never the data folder)
	rm -rf $(VENV) build dist bench/build bench/node_modules .mypy_cache .ruff_cache .pytest_cache
