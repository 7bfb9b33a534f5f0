PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint install kill-test docs docs-linkcheck docs-pictures

demo: install
	$(BIN)/python examples/demo.py

test: lint
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check

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

.venv/installed: setup.py $(wildcard requirements/*.txt)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements/tests.txt
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps -r requirements/headless.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

.venv/docs-installed: .venv/installed requirements/docs.txt
	$(BIN)/python -m pip install --quiet -r requirements/docs.txt
	touch $@
