# Each target alone does all set-up, from a clean clone, with python3 (>= 3.11) and make.
#   make demo    the whole path on real data
#   make test    all tests
#   make check   format, lint, types
#   make bench   the benchmark suite against the other local brokers, up to 25 minutes; make bench QUICK=1: a few minutes
#   make fuzz    100,000 requests that mean harm, against the broker
#   make conformance   which local Kinesis does what: ours and the others, into localstack/results/
#   make clean   back to a clean clone
# Another interpreter: make clean, then make PYTHON=/path/to/python3 demo
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: demo test check bench clean conformance fuzz
.DELETE_ON_ERROR:

demo: $(READY)
	@$(BIN)/python -m streamlet demo

# Two processes, file by file: most of what takes long waits for processes that are killed on purpose.
test: $(READY)
	@$(BIN)/python -m pytest -n 2 --dist loadfile

# Installs the other brokers on the first run (package indexes needed); one that this machine cannot run is left out, and the table says why.
conformance: $(READY)
	@$(BIN)/python localstack/conformance.py --markdown localstack/results/conformance.md

fuzz: $(READY)
	@$(BIN)/python tests/e2e/test_fuzz.py --requests 100000

check: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

# Peers are installed into benchmarks/.cache/; those that this machine cannot run are named with the reason. NAME= names the results.
bench: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@$(BIN)/python -m benchmarks run $(if $(QUICK),--quick) --name '$(or $(NAME),$(if $(QUICK),quick,local))'

# Anew whenever what is to be installed changes. The stamp comes last, so that a set-up that was cut short is taken up again.
# A .venv that works is installed into, not replaced: someone may be running from it.
$(READY): pyproject.toml
	@enough='import sys; sys.version_info >= (3, 11) or sys.exit(1)'; \
	if $(BIN)/python -c "$$enough; import pip" 2>/dev/null; then \
	    echo "Updating $(VENV) of $$($(BIN)/python --version) (needs the package index)"; \
	else \
	    python='$(PYTHON)'; \
	    if [ -n "$$python" ]; then \
	        "$$python" -c "$$enough" 2>/dev/null || { echo "PYTHON=$$python does not run, or is older than 3.11." >&2; exit 2; }; \
	    else \
	        for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	            if "$$name" -c "$$enough" 2>/dev/null; then python="$$name"; break; fi; \
	        done; \
	        [ -n "$$python" ] || { \
	            echo "streamlet needs Python 3.11 or newer; here is $$(python3 --version 2>/dev/null || echo 'no python3')." >&2; \
	            echo "Install one, or name one: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 2; }; \
	    fi; \
	    "$$python" -c 'import ensurepip, venv' 2>/dev/null || { \
	        echo "$$python lacks venv (on Debian and Ubuntu a package of its own: apt-get install python3-venv)." >&2; exit 2; }; \
	    echo "Setting up $(VENV) with $$("$$python" --version) (once, a minute or two; needs the package index)"; \
	    "$$python" -m venv --clear $(VENV) || { echo "$(VENV) could not be made; the reason is above." >&2; exit 2; }; \
	fi; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]' || { \
	    echo "The install into $(VENV) failed; pip's reason is above." >&2; exit 1; }
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist benchmarks/.cache
