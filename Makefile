# Every target sets up what it needs in .venv; all it takes is python3 (3.11 or newer) and make.
# `requirements.lock` only constrains versions: what is installed is what pyproject.toml asks for.

UV_VERSION := 0.13.9
PIP := .venv/bin/python -m pip --disable-pip-version-check install --quiet
SETUP := .venv/.setup-done
SETUP_ALL := .venv/.setup-all-done
# The compilers are some 4 GB, and JAX with them looks for chips: an environment of their own.
COMPILERS := .venv-compilers
SETUP_COMPILERS := $(COMPILERS)/.setup-done

# The interpreter that .venv is made with: PYTHON=... if given, else the first that will do. A
# version manager's stand-in may be on the path without a Python behind it, so each one is tried.
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)
SUITABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

BENCH_FLAGS := $(if $(FRAMES),--frames $(FRAMES)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
    $(if $(PEER),--peer) $(if $(DECODE),--decode) $(if $(PACKING),--packing $(PACKING))
DEMO_FLAGS := $(if $(SHORT),--short) $(if $(LONG),--long) $(if $(SEED),--seed $(SEED)) \
    $(if $(SEEDS),--seeds $(SEEDS)) $(if $(ABLATIONS),--ablations)
# Files are shared out between processes: what a file compiles, its tests share. WORKERS=0: none.
# tests/conftest.py puts them in order, the long ones first, so that no process idles at the end.
WORKERS ?= 2
PYTEST := .venv/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# Of every part the tests that take seconds, and one training step; tests/test_smoke.py checks them.
SMOKE := tests/test_training_step.py::test_a_fixed_batch_is_learnt \
    tests/test_model.py::test_parameters_are_as_many_as_published \
    tests/test_model_dropping.py::test_pruning_only_at_the_connector_leaves_the_vit_whole \
    tests/test_attention.py::test_attention_equals_the_plain_form \
    tests/test_pruned_layouts.py::test_a_stream_holds_the_kept_patches_in_order \
    tests/test_evaluation_scoring.py tests/test_convert_native.py tests/test_data_rows.py \
    tests/test_config.py tests/test_config_files.py tests/test_budget.py
# The browser of `make test-web`, by default Debian's.
CHROMIUM ?= $(or $(shell command -v chromium),/usr/bin/chromium)
PARITY_TESTS := $(shell grep -ls "mark\.parity_torch" tests/test_*.py)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo bench smoke test test-parity test-web fuzz test-compilers test-all lint \
    settings lock clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: $(SETUP)  ## make .venv and install the package with its test tools

demo: $(SETUP)  ## run the demo; SHORT=1, LONG=1 or SEEDS=n sets its length, SEED=n its seed
	.venv/bin/python -m stts_jax.demo $(DEMO_FLAGS)

bench: $(if $(PEER),$(SETUP_ALL),$(SETUP))  ## time pruned against unpruned, with PEER=1 transformers too
	.venv/bin/python -m stts_jax.bench $(BENCH_FLAGS)

smoke: $(SETUP)  ## run one quick test or more of every part: under a minute
	$(PYTEST) -m "not slow and not parity_torch and not web" $(SMOKE)

test: $(SETUP)  ## run the quick tests
	$(PYTEST) -m "not slow and not parity_torch and not web"

test-parity: $(if $(PARITY_TESTS),$(SETUP_ALL))  ## run the tests against PyTorch, which it installs
ifeq ($(PARITY_TESTS),)
	@echo "tests/ has no test marked parity_torch: nothing to run"
else
	$(PYTEST) -m parity_torch
endif

test-web: $(SETUP)  ## test the page in headless Chromium, which it installs
	@test -x "$(CHROMIUM)" || { apt-get update -qq && \
	    apt-get install -y -qq --no-install-recommends chromium; }
	$(PIP) -c requirements.lock -e '.[test,web]'
	CHROMIUM=$(CHROMIUM) .venv/bin/python -m pytest -m web tests/test_web_page.py

fuzz: $(SETUP)  ## change users' files at random for SECONDS=600, from SEED=0 on
	cd tests && PYTHONPATH=.. ../.venv/bin/python -m fuzz --seconds $(or $(SECONDS),600) \
	    --seed $(or $(SEED),0)

test-compilers: $(SETUP_COMPILERS)  ## compile for TPUs and GPUs, with compilers that it installs
	$(COMPILERS)/bin/python -m pytest -m compilers

test-all: $(SETUP_ALL)  ## run all tests: slow ones, those against PyTorch, those of the compilers
	$(PYTEST) -m "not compilers and not web"
	$(MAKE) test-compilers

lint: $(SETUP)  ## check style, formatting and types
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy

settings: $(SETUP)  ## remake docs/settings.md from stts_jax/config and configs/
	.venv/bin/python -m stts_jax.config.reference > docs/settings.md

# Pins stay as they are unless pyproject.toml rules them out; UPGRADE=1 takes the newest of all.
lock: | .venv/bin/python  ## remake requirements.lock; UPGRADE=1 takes newer versions
	$(PIP) uv==$(UV_VERSION)
	.venv/bin/python -m uv pip compile pyproject.toml --output-file requirements.lock \
	    --universal --python-version 3.11 --all-extras $(if $(UPGRADE),--upgrade) \
	    --no-config --no-emit-index-url --no-emit-find-links --no-annotate --quiet \
	    --custom-compile-command "make lock"

clean:  ## remove caches and build outputs; .venv and runs/ stay
	rm -rf build *.egg-info .mypy_cache .pytest_cache .ruff_cache .jax_cache
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

.venv/bin/python $(COMPILERS)/bin/python:
	@for python in $(CANDIDATES); do \
	    if $$python -c '$(SUITABLE)' >/dev/null 2>&1; then \
	        echo "making $(@:/bin/python=) with $$($$python --version)"; \
	        exec $$python -m venv $(@:/bin/python=); \
	    fi; \
	done; \
	echo "This needs Python 3.11 or newer with its venv module, and none of" \
	    "'$(CANDIDATES)' is that; install one, or name it with PYTHON=/path/to/python3." >&2; \
	exit 1

$(SETUP): pyproject.toml setup.py requirements.lock | .venv/bin/python
	@echo "installing into .venv; the first time takes a minute or two"
	$(PIP) -c requirements.lock -e '.[test]'
	@touch $@

$(SETUP_COMPILERS): pyproject.toml setup.py requirements.lock | $(COMPILERS)/bin/python
	@echo "installing the compilers for TPUs and GPUs into $(COMPILERS); it takes some minutes"
	$(subst .venv,$(COMPILERS),$(PIP)) -c requirements.lock -e '.[test,tpu,cuda]'
	@touch $@

$(SETUP_ALL): $(SETUP)
	@echo "installing PyTorch and transformers into .venv, for the comparisons"
	$(PIP) -c requirements.lock -e '.[test,convert,parity]'
	@touch $@
