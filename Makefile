# make demo   everything from nothing: install, make data, train, evaluate, caption, report
# make test   what must pass before a change is kept: lint, types, tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Processes that share the tests, whole files each.
JOBS ?= 2

.PHONY: help install demo test lint types tests format oracle slow soak bench clean

help:
	@sed -n 's/^# //p' Makefile

install: $(READY)

# The mark is renewed when the dependencies change; an interrupted install leaves none and starts again.
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

# Needs Java: equality with the reference scorers.
oracle: $(READY)
	$(BIN)/pytest -m oracle

# Minutes, and real data.
slow: $(READY)
	$(BIN)/pytest -m slow

# An hour: thousands of hostile uploads and good requests, memory watched.
soak: $(READY)
	$(BIN)/pytest -m soak -s

bench: $(READY)
	for benchmark in benchmarks/*.py; do $(BIN)/python $$benchmark --quick || exit 1; done

clean:
	rm -rf $(VENV) build dist demo .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
