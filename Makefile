# `make demo` and `make test` need Python 3.11 and nothing else; everything goes into .venv.
PYTHON ?= python3.11
BIN := .venv/bin
export MLFLOW_DISABLE_TELEMETRY = true

.PHONY: help install demo test check bench format

help:  ## list these targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: .venv/.installed  ## make .venv with the pinned packages (6.5 GB, about 3 minutes)

.venv/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "needs Python 3.11; set PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: .venv/.installed  ## make a factory, train all ten rows of the report on it, compare them (8 to 10 minutes on 2 cores)
	$(BIN)/asd synth data/demo
	$(BIN)/asd run configs/studies/demo.yaml
	@echo "first: source $(BIN)/activate"

test: .venv/.installed  ## run all tests
	$(BIN)/python -m pytest

check: .venv/.installed  ## lint, format, types, import arrows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.installed  ## how fast this machine is against the common way (about 40 minutes)
	$(BIN)/asd bench

format: .venv/.installed  ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
