PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint install

demo: install
	$(BIN)/python tools/demo.py

test: lint
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check

install: .venv/installed

.venv/installed: setup.py $(wildcard requirements/*.txt)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements/tests.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@
