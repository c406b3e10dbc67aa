# Two commands for a new user: `make demo` and `make test`. Each sets up its own .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATA ?=
# PyTorch is for the export tests alone; `make test TORCH=` does without, and skips them.
TORCH ?= torch==2.13.0
# A process per core, with tests that share something in one of them (tests/conftest.py). Each process holds about 1.5 GB.
PARALLEL := -n logical --maxprocesses=8 --dist loadgroup --no-loadscope-reorder
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
.PHONY: demo test test-all lint format golden clean

demo: $(VENV)/.prep  ## simulate (or take DATA=folder of EnMAP tiles), convert, pretrain, evaluate, export, report
	@$(BIN)/python -m launch.demo $(if $(DATA),--data "$(DATA)")

test: $(VENV)/.test  ## the quick tier: six minutes on two cores
	XLA_FLAGS="$$($(BIN)/python tests/fast_compile.py)" $(BIN)/python -m pytest $(PARALLEL)

test-all: test  ## the quick tier, then the slow one, whose networks train as compiled for users: 25 minutes on two cores
	$(BIN)/python -m pytest $(PARALLEL) -m "slow and not gpu"

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

golden: $(VENV)/.test  ## rewrite tests/golden after a change of a config that is meant
	$(BIN)/python -m tests.golden_text

clean:  ## remove what the demo and the tests made
	rm -rf $(VENV) .cache runs stores archives

# The constraints pin what CI runs; the extras say what is needed at all.
$(VENV)/.prep: pyproject.toml constraints.txt
	@echo "setting up $(VENV) (once; about a minute)"
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; use make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[prep]'
	@touch $@

$(VENV)/.test: $(VENV)/.prep
	@echo "adding what the tests need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@test -z "$(TORCH)" || $(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" || echo "no torch here: the export tests will be skipped"
	@touch $@
