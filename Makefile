# make demo   complete pipeline: install, draw data, train, evaluate, caption, report
# make test   checks that every change must pass: lint, types, tests
# make docs   the documentation as a site, in site/
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Number of test processes; each file runs in one of them.
JOBS ?= 2

.PHONY: help install native demo test lint types tests tests-reference format oracle slow soak bench docs clean

help:
	@sed -n 's/^# //p' Makefile

install: $(READY)

# The marker file is renewed when the dependencies change; an interrupted install leaves none and starts again.
$(READY): pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "seesay needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(READY)

# Rebuilds the native CPU operations in place, after a change of the C code.
native: $(READY)
	$(BIN)/python -m pip install --quiet 'setuptools>=77'
	$(BIN)/python setup.py --quiet build_ext --inplace

demo: $(READY)
	$(BIN)/seesay demo

test: lint types tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

tests: $(READY)
	$(BIN)/pytest -n $(JOBS) --dist loadfile -m 'not oracle and not slow and not soak and not site'

# The same tests without the native library.
tests-reference: $(READY)
	SEESAY_NATIVE=0 $(BIN)/pytest -n $(JOBS) --dist loadfile -m 'not oracle and not slow and not soak and not site'

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

# Strict: a broken link, a page outside the navigation or a file from another host fails the build. The tests open pages in
# Chromium. Needs no network.
docs: $(READY)
	$(BIN)/pytest -m site tests/test_site.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) build dist demo site .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info src/seesay/kernels/*.so
