# make demo   complete pipeline: install, draw data, train, evaluate, caption, report
# make test   checks that every change must pass: lint, types, tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Number of test processes; each file runs in one of them.
JOBS ?= 2

.PHONY: help install demo test lint types tests format oracle slow soak bench clean

help:
	@sed -n 's/^# //p' Makefile

install: $(READY)

# The marker file is renewed when the dependencies change; an interrupted install leaves none and starts again.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "seesay needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/seesay demo

test: lint types tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

tests: $(READY)
	$(BIN)/pytest -n $(JOBS) --dist loadfile -m 'not oracle and not slow and not soak'

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Compares with the reference scorers; needs Java.
oracle: $(READY)
	$(BIN)/pytest -m oracle

# Takes minutes and needs real data.
slow: $(READY)
	$(BIN)/pytest -m slow

# Takes an hour: thousands of hostile uploads and valid requests while memory is measured.
soak: $(READY)
	$(BIN)/pytest -m soak -s

bench: $(READY)
	for benchmark in benchmarks/*.py; do $(BIN)/python $$benchmark --quick || exit 1; done

clean:
	rm -rf $(VENV) build dist demo .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
