# make run    set up .venv and train MGCS on the embedded pictures with 40 % mismatched pairs
#             (make run ARGS=--resume goes on after an interruption)
# make test   set up .venv, lint, type-check and run the tests
# make soak   what takes minutes: 50 kills, failing writes, damaged states, 10,000 broken inputs a reader
# make check  lint and type-check only
# make format let ruff format the code

PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test soak check format

run: .venv/.runtime
	$(BIN)/python run.py @recipes/emoji_mgcs_0.4.args $(ARGS)

test: check
	$(BIN)/python -m pytest

soak: .venv/.development
	$(BIN)/python -m tests.soak --kills 50
	$(BIN)/python -m tests.fuzz --inputs 10000

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

.venv/.development: requirements.txt requirements-report.txt requirements-dev.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@
