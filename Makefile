# make run    set up .venv and train MGCS on the embedded pictures with 40 % mismatched pairs
# make test   set up .venv, lint, type-check and run the tests
# make check  lint and type-check only
# make format let ruff format the code

PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test check format

run: .venv/.runtime
	$(BIN)/python run.py @recipes/emoji_mgcs_0.4.args

test: check
	$(BIN)/python -m pytest

check: .venv/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.development
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.runtime: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

.venv/.development: requirements.txt requirements-dev.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@
