# Every target sets up what it needs in .venv, so a fresh clone wants only Python and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test check bench bench-check snapshots proofs soak clean

help: ## Show this list
	@echo "Forge: make small language models on one machine."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Another interpreter: make PYTHON=python3.12 run"

run: $(VENV)/.installed-run ## Train the tiny preset: in forge-tui on a terminal, headless elsewhere
	@if [ -t 1 ]; then exec $(BIN)/forge-tui --start tiny; else exec $(BIN)/forge run tiny; fi

test: check ## Run the checks, then the tests
	$(BIN)/python -m pytest

check: $(VENV)/.installed-dev ## Format, lint, types, import rules, function length
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_pot10.py

bench: $(VENV)/.installed-bench ## Print the side-by-side measurements
	$(BIN)/python -m benchmarks

bench-check: $(VENV)/.installed-bench ## Measure, and fail where a budget is broken
	$(BIN)/python -m benchmarks --check

# One worker: two of them would each report the other's snapshots as unused.
snapshots: $(VENV)/.installed-dev ## Draw the snapshots of the screens anew, to be reviewed
	$(BIN)/python -m pytest tests/ui -n 0 --snapshot-update

# No workers: a proof has the machine to itself, and its figures are shown.
proofs: $(VENV)/.installed-dev ## Show the claims on this machine (minutes)
	$(BIN)/python -m pytest -m proofs -n 0 -s -o faulthandler_timeout=3600

soak: $(VENV)/.installed-dev ## Kill a run 200 times, and compare it with one left alone (a quarter of an hour)
	$(BIN)/python -m pytest -m soak -n 0 -s -o faulthandler_timeout=3600

clean: ## Remove caches, builds and reports; keeps .venv
	rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache snapshot_report.html
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +

# A half-made environment is removed, else the next make would take it for a whole one.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	    echo "Forge needs Python 3.11 or newer, but there is no '$(PYTHON)' here. Name one: make PYTHON=/path/to/python3" >&2; \
	    exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Forge needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=/path/to/python3" >&2; \
	    exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	    rm -rf $(VENV); \
	    echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu its parts are in a package of their own: apt install python3-venv" >&2; \
	    exit 1; }

$(VENV)/.installed-run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Forge into $(VENV) (the first time takes minutes: torch is large)"
	$(PIP_INSTALL) -e .
	@touch $@

# The extras contain what `run` needs, so its stamp is set with theirs.
$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Forge and its development tools into $(VENV) (the first time takes minutes: torch is large)"
	$(PIP_INSTALL) -e '.[dev]'
	@touch $(VENV)/.installed-run $@

$(VENV)/.installed-bench: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Forge and the peers it is measured against into $(VENV)"
	$(PIP_INSTALL) -e '.[bench]'
	@touch $(VENV)/.installed-run $@
