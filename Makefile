# isoform: `make` lists what there is. Everything runs in an environment of its own, .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PORT ?= 8000
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help quickstart serve test lint format edge clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "%-14s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(VENV)/.run  ## train, compile, swap and serve on real digits; everything lands in quickstart/
	$(BIN)/python docs/examples/quickstart.py -o quickstart

serve: quickstart/bundle/compiled/report.json  ## serve the quickstart's bundle, with the page, on port $(PORT); trains it first if it is not there
	$(BIN)/isoform serve quickstart/bundle --open --port $(PORT) --store quickstart/isoform.db

quickstart/bundle/compiled/report.json: | $(VENV)/.run
	mkdir -p quickstart
	$(BIN)/isoform train digits -o quickstart/bundle
	$(BIN)/isoform compile quickstart/bundle

test: $(VENV)/.all  ## run all tests
	$(BIN)/python -m pytest

lint: $(VENV)/.all  ## ruff, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/typecheck.py
	$(BIN)/lint-imports

format: $(VENV)/.all  ## let ruff fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

edge:  ## install the base package alone in a fresh environment, and use it without torch
	$(MAKE) $(VENV)/.all
	$(BIN)/python -m pytest tests/test_edge_install.py

clean:  ## remove what was built, but not the environment
	rm -rf build dist *.egg-info quickstart .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "isoform needs Python 3.11 or newer, but $(PYTHON) is older; say make PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,server]'
	touch $@

$(VENV)/.all: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	touch $@ $(VENV)/.run
