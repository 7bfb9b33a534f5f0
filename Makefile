PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --no-cache-dir
# Each process of pytest computes on one core.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: demo check test lint types install matrix kill-test docs docs-linkcheck docs-pictures

demo: install
	$(BIN)/python examples/demo.py

check: lint types
	$(PYTEST) -m 'not slow and not long' --ignore tests/tools --ignore tests/journeys --ignore tests/benchmarks

test: lint types
	$(PYTEST)

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: install
	$(BIN)/mypy

# Not in CI: an hour and more. make matrix NOX='-s tests-3.13'
matrix: install
	$(PIP) nox
	$(BIN)/nox $(NOX)

docs: .venv/docs-installed
	$(BIN)/python -m sphinx --fail-on-warning --keep-going docs build/docs
	@echo "open build/docs/index.html"

docs-linkcheck: .venv/docs-installed
	$(BIN)/python -m sphinx --builder linkcheck docs build/docs-linkcheck

docs-pictures: install
	$(BIN)/python docs/make_pictures.py

# Not in CI: 20 minutes. make kill-test KILL_TEST='--minutes 60 --seed 1'
kill-test: install
	$(BIN)/python benchmarks/kill_test.py $(KILL_TEST)

install: .venv/installed

.venv/installed: setup.py pyproject.toml $(wildcard requirements/*.txt)
	$(PYTHON) -m venv .venv
	$(PIP) -r requirements/tests.txt
	$(PIP) --force-reinstall --no-deps -r requirements/headless.txt
	$(PIP) --no-deps --editable .
	touch $@

.venv/docs-installed: .venv/installed requirements/docs.txt
	$(PIP) -r requirements/docs.txt
	touch $@
