# Two commands on a fresh machine with Python 3.11+ and make: `make demo`, `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test soak fuzz check audit fix bench clean

help:  ## say what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: .venv/installed  ## run everything on a virtual screen; says where the report is
	$(BIN)/cytoclr demo

test: .venv/installed-dev  ## run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

soak: .venv/installed-dev  ## hours of kills and failing disks: what trust.md counts
	$(BIN)/python tests/trust/crash.py --kills 500 --deaths all --faults all

fuzz: .venv/installed-dev  ## random files for our parsers, a minute each; what fails is kept in fuzz/found
	$(BIN)/pip install --quiet -e '.[fuzz]'
	$(BIN)/python -m fuzz.run

check: .venv/installed-dev  ## style, types, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/licences.py

audit: .venv/installed-dev  ## known holes in what is installed; asks the network, and skips nothing
	$(BIN)/pip install --quiet 'pip-audit>=2.7'
	$(BIN)/pip freeze --exclude-editable > .venv/installed.txt
	$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement .venv/installed.txt

fix: .venv/installed-dev  ## put style right
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/installed-dev  ## measure quality on three virtual screens
	$(BIN)/python benchmarks/quality.py

clean:  ## forget the installation; runs are kept
	rm -rf .venv

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/pip
	$(BIN)/pip install --quiet -e .
	touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/pip
	$(BIN)/pip install --quiet -e '.[dev]'
	touch $@ .venv/installed
