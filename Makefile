# `make help` lists the targets. PYTHON creates the environment VENV, and everything else runs in VENV. The
# environment is only rebuilt if pyproject.toml changes.

PYTHON ?= python3
LOWEST_PYTHON ?= python3.10
VENV ?= .venv
LOWEST_VENV ?= .venv-lowest
ARGS ?=
# One test process per core; the tests of a file share fixtures, so they stay in one process. tests/conftest.py
# sets the order of the files.
PARALLEL ?= -n auto --dist loadfile --no-loadscope-reorder

# Every process that the tests start would compile this package anew if the shell forbade compiled files.
unexport PYTHONDONTWRITEBYTECODE

BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-lowest check package format bench cards notebook api clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile
	@echo "  Variables: PYTHON=$(PYTHON)  LOWEST_PYTHON=$(LOWEST_PYTHON)  VENV=$(VENV)  ARGS=extra arguments"

demo: $(VENV)/.installed ## train the embedded default (no network, under 3 minutes on 2 cores)
	$(BIN)/hf-dmt train $(ARGS)

test: $(VENV)/.installed-test ## run the tests
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow" $(ARGS)

test-slow: $(VENV)/.installed-test ## run the slow tests (minutes each)
	$(BIN)/python -m pytest -m slow $(ARGS)

test-lowest: $(LOWEST_VENV)/.installed-test ## run the tests with the lowest versions that pyproject.toml allows
	$(LOWEST_VENV)/bin/python -m pytest $(PARALLEL) -m "not slow" $(ARGS)

check: $(VENV)/.installed-test ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

package: $(VENV)/.installed-test ## build sdist and wheel, install the wheel into an empty environment, and try it there
	rm -rf build/package && mkdir -p build/package
	$(BIN)/python -m build --outdir build/package/dist .
	PYTHON=$(PYTHON) .ci/package "$(CURDIR)/build/package" "$(CURDIR)/build/package/alone"

format: $(VENV)/.installed-test ## apply the formatter and the linter's safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed ## run a benchmark: make bench NAME=labeling ARGS=--quick (default: step)
	$(BIN)/python scripts/benchmarks/$(or $(NAME),step).py $(ARGS)

cards: $(VENV)/.installed ## train the embedded recipes and update model_cards/ (10 minutes)
	for name in digits digit-scenes; do \
		$(BIN)/hf-dmt train $$name --output_dir runs/cards/$$name && \
		sh model_cards/keep.sh runs/cards/$$name || exit 1; \
	done

notebook: $(VENV)/.installed-docs ## execute docs/quickstart.ipynb in place (3 to 5 minutes)
	$(BIN)/python -m nbconvert --to notebook --execute --inplace docs/quickstart.ipynb

api: $(VENV)/.installed-docs ## build the API reference in build/api
	$(BIN)/python -m pdoc --docformat google --output-directory build/api \
		hf_dmt hf_dmt.method hf_dmt.training.settings.methods hf_dmt.data.labels.pseudo_labels

clean: ## remove environments, builds and caches (keeps runs/)
	rm -rf $(VENV) $(LOWEST_VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find hf_dmt scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --editable ".[test]"
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --editable ".[docs]"
	touch $@

$(LOWEST_VENV)/.installed-test: pyproject.toml
	test -x $(LOWEST_VENV)/bin/python || $(LOWEST_PYTHON) -m venv $(LOWEST_VENV)
	sed -nE 's/^ *"([A-Za-z0-9_-]+)>=([0-9.]+)",$$/\1==\2/p' pyproject.toml > $(LOWEST_VENV)/constraints.txt
	$(LOWEST_VENV)/bin/python -m pip install --constraint $(LOWEST_VENV)/constraints.txt --editable ".[test]"
	touch $@
