# Each target alone does all set-up, from a clean clone, with python3 (>= 3.11) and make.
#   make demo    the whole path on real data
#   make test    all tests
#   make check   format, lint, types
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,$(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: demo test check clean
.DELETE_ON_ERROR:

demo: $(READY)
	@$(BIN)/python -m streamlet demo

test: $(READY)
	@$(BIN)/python -m pytest

check: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

# Anew whenever what is to be installed changes.
$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "streamlet needs python3 of version 3.11 or newer; name one with: make PYTHON=/path/to/python3 $(MAKECMDGOALS)"; exit 2; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version) (once; needs the package index)"
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) has no venv module; on Debian: apt-get install python3-venv"; exit 2; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
