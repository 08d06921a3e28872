# isoform: `make` lists what there is. Everything runs in an environment of its own, .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PORT ?= 8000
BIN := $(VENV)/bin
# what `make serve` serves: the quickstart's bundle if it has run here, else the one that it left when it ran for this repository
BUNDLE ?= $(if $(wildcard quickstart/bundle/compiled/report.json),quickstart/bundle,docs/examples/bundle)

.DEFAULT_GOAL := help
.PHONY: help quickstart serve keep test lint format wheel clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "%-14s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(VENV)/.run  ## train, compile, swap and serve on real digits; everything lands in quickstart/
	$(BIN)/python docs/examples/quickstart.py -o quickstart

serve: $(VENV)/.server  ## serve the quickstart's bundle, with the page, on port $(PORT)
	mkdir -p quickstart
	$(BIN)/isoform serve $(BUNDLE) --open --port $(PORT) --store quickstart/$(subst /,-,$(BUNDLE)).db

keep:  ## keep the bundle that the quickstart has left, without its engines, as docs/examples/bundle
	test -f quickstart/bundle/compiled/report.json
	rm -rf docs/examples/bundle
	cp -r quickstart/bundle docs/examples/bundle
	rm -rf docs/examples/bundle/compiled/fast docs/examples/bundle/compiled/small

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

wheel: $(VENV)/bin/python  ## build the wheel to install elsewhere, in dist/
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w dist .
	rm -rf build
	@ls dist/isoform-*.whl

clean:  ## remove what was built, but not the environment
	rm -rf build dist *.egg-info quickstart .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "isoform needs Python 3.11 or newer, but $(PYTHON) is older; say make PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.server: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[server]'
	touch $@

$(VENV)/.run: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,server]'
	touch $@ $(VENV)/.server

$(VENV)/.all: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	touch $@ $(VENV)/.run $(VENV)/.server
