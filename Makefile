# make demo   installs into .venv and packs a small network for a Raspberry Pi
# make test   installs into .venv, then checks and all tests (what CI runs)
# make sweep  all cases of the tests that try some of many: networks, hostile files (for hours; CI does not run it)
# make check  the daily round: format, lint, types, fast tests
# make fix    what a machine can mend
PYTHON ?= python3
BIN := .venv/bin
# A bare Debian has pip but no ensurepip, so the environment borrows the pip outside.
PIP := $(PYTHON) -m pip --python $(BIN)/python
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test sweep check lint fix
demo: .venv/installed
	$(BIN)/haversack pack examples/digits.py --device raspberry-pi-zero-2w --flash 20kB --latency 1ms --max-drop 1% --seconds 0.5 --out out/digits

test: .venv/installed lint
	$(BIN)/pytest --numprocesses logical --maxprocesses 4 --dist worksteal

sweep: .venv/installed
	HAVERSACK_SWEEP=whole $(BIN)/pytest -m sweep --numprocesses logical --maxprocesses 4 --dist worksteal

check: .venv/installed lint
	$(BIN)/pytest -m "not slow"

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --without-pip .venv
	$(PIP) install --quiet --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
