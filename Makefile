# Every target does its own set-up: a virtual environment in .venv, made again when pyproject.toml changes.
# PYTHON chooses the interpreter (3.11 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCAL := $(VENV)/.local-lm
# Test files at once; each starts processes of its own.
JOBS ?= 2

.PHONY: help toolchains test demo lint types soak long chaos mutants bench clean

help:
	@echo "make demo     real broker, pool and programs on a small embedded model"
	@echo "make test     all tests but the long ones; as root on Debian it installs what other languages need"
	@echo "make lint     ruff; make types: mypy --strict on the installed wheel"
	@echo "make soak     tests that take minutes of real time"
	@echo "make chaos    clients in all languages while everything is killed, frozen and cut off: SEED=N MINUTES=2"
	@echo "make long     tests that take minutes of all CPUs"
	@echo "make mutants  shows that the tests can fail"
	@echo "make bench    figures against zmq.proxy, a bare loop and FastAPI"

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "dspymq needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "cannot make a virtual environment; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "Installing dspymq and what it needs into $(VENV) (about a minute the first time) ..."
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

$(LOCAL): $(STAMP)
	@$(BIN)/dspymq local install
	@touch $@

demo: $(LOCAL)
	@$(BIN)/python examples/demo.py

toolchains:
	@.ci/toolchains

test: $(LOCAL) toolchains
	$(BIN)/python -m pytest -m "not soak and not long" -n $(JOBS) --dist loadfile $(ARGS)

soak: $(STAMP)
	$(BIN)/python -m pytest -m soak --durations 20 tests $(ARGS)

long: $(STAMP)
	$(BIN)/python -m pytest -m long tests $(ARGS)

chaos: $(STAMP) toolchains
	$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) --minutes $(or $(MINUTES),2) $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	rm -rf build/wheel build/types
	$(BIN)/python -m build --quiet --wheel --outdir build/wheel .
	$(BIN)/python -m tests.unit.packaging.wheel_check build/wheel/*.whl
	$(PYTHON) -m venv build/types
	build/types/bin/python -m pip install --quiet "$$(ls build/wheel/*.whl)[worker]" mypy
	cd build/types && bin/mypy --strict --config-file ../../pyproject.toml -p dspymq

mutants: $(STAMP)
	$(BIN)/python -m tests.mutants

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m bench.dispatch
	$(BIN)/python -m bench.dspy

clean:
	rm -rf $(VENV) build dist *.egg-info
