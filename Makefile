# make demo       train a small BERT twice, whole and in stages, and compare
# make test       the tests                      (WORKERS=4 for four processes)
# make check      formatting, lint, types, tests: what a change must pass
# make torture    what breaks other trainers, thrown at this one: an hour
# make format     rewrite the code as `make check` wants it
# make wheel      dist/mslt-*.whl
# make clean      remove .venv and everything that was built or cached
#
# Each makes .venv first, once, with the versions in constraints.txt. PYTHON=... picks the Python.

WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin

# The first Python that is new enough and can make a venv with pip in it.
FIT := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3.12 python3.11 python3 python3.13; do \
	$$python -c '$(FIT)' >/dev/null 2>&1 && echo $$python && break; done)

# pip builds the package in an environment of its own, where only these variables reach.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
PIP := $(BIN)/python -m pip

.PHONY: demo test check torture lint format wheel clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(BIN)/mslt demo

test: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

check: lint test

torture: $(VENV)/installed-dev
	$(BIN)/python -m torture.corpora
	$(BIN)/python -m torture.configs
	$(BIN)/python -m torture.hostile
	OMP_NUM_THREADS=1 $(BIN)/python -m torture.damage
	OMP_NUM_THREADS=1 $(BIN)/python -m torture.kill
	OMP_NUM_THREADS=1 $(BIN)/python -m torture.kill --processes 2
	OMP_NUM_THREADS=1 $(BIN)/python -m torture.numbers
	OMP_NUM_THREADS=1 $(BIN)/python -m torture.numbers --processes 2
	OMP_NUM_THREADS=1 $(BIN)/python -m torture.worlds
	OMP_NUM_THREADS=1 $(BIN)/python -m torture.restarts
	$(BIN)/python -m pytest tests/test_full_disk.py

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: | $(BIN)/python
	$(PIP) wheel --no-deps --wheel-dir dist .

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --editable '.[dev]'
	touch $@ $(VENV)/installed

$(BIN)/python:
	@$(PYTHON) -c '$(FIT)' 2>/dev/null || { echo "make: Python 3.11 or newer with venv is needed" \
		"(on Debian: python3 and python3-venv); PYTHON=/path/to/python3 says where it is" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
