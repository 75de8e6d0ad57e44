SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
CORES ?= all
# `make replicate SCALE=smoke` replaces the scale of config.yaml for one run.
GIVEN_SCALE := $(filter command environment,$(firstword $(origin SCALE)))
SCALE ?= $(shell sed -n 's/^scale: *\([a-z]*\).*/\1/p' config.yaml)
CONFIG := $(if $(GIVEN_SCALE),--config scale=$(SCALE))

VENV := .venv
INSTALLED := $(VENV)/installed
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help install replicate compare reference test coverage cluster-test kills benchmark lint format lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Install the package and its locked dependencies into .venv

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: Python 3.11 or newer is needed; give its name as PYTHON=NAME")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -r requirements.lock
	$(VENV)/bin/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

replicate: $(INSTALLED) ## Run every study and write results/<scale>/report.html
	diffusion-density fetch
	diffusion-density alone workflow/Snakefile "snakemake --unlock && exec snakemake --cores $(CORES) $(CONFIG)"
	snakemake --report results/$(SCALE)/report.html --report-stylesheet workflow/report/style.css $(CONFIG)

compare: $(INSTALLED) ## List every number of results/<scale> that differs from results/reference by more than its error
	diffusion-density compare results/$(SCALE) results/reference

reference: $(INSTALLED) ## Replace results/reference by the tables, figures and verdicts of results/<scale>
	diffusion-density collect results/$(SCALE) --out results/reference

test: $(INSTALLED) ## Run the tests
	@python -m pytest -n 2 --dist loadfile -rs $(TESTS)

coverage: $(INSTALLED) ## Run the tests and list the lines of src that they do not reach
	python -m pytest -n 2 --dist loadfile --cov --cov-report=term-missing:skip-covered --cov-fail-under=90 $(TESTS)

cluster-test: $(INSTALLED) ## Start a SLURM with two simulated GPUs on this machine (as root) and run jobs on it
	@REQUIRE_SLURM=1 python -m pytest -rs tests/workflow/test_slurm.py

kills: $(INSTALLED) ## Kill a smoke run twenty times at random moments and compare its tables (twenty minutes)
	python tests/kills.py $(KILLS)

benchmark: $(INSTALLED) ## Time this library against others, which are installed into .venv
	python -m pip install --disable-pip-version-check --no-build-isolation -c requirements.lock -e '.[benchmarks]'
	python -m benchmarks $(BENCHMARKS)

lint: $(INSTALLED) ## Check style, types, imports and the workflow
	ruff check
	ruff format --check
	snakefmt --check workflow
	snakemake --lint
	mypy
	lint-imports --no-cache --no-logo

format: $(INSTALLED) ## Format the code and the workflow
	ruff check --fix-only
	ruff format
	snakefmt workflow

lock: ## Resolve the dependencies again and write requirements.lock
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install '.[workflow,dev]'
	head -1 requirements.lock > requirements.new
	$(VENV)-lock/bin/python -m pip freeze --all --exclude pip --exclude diffusion-density | sed 's/+cpu$$//' >> requirements.new
	mv requirements.new requirements.lock
	rm -rf $(VENV)-lock

clean: ## Remove all results but results/reference; .venv stays
	find results -mindepth 1 -maxdepth 1 ! -name reference -exec rm -rf {} + 2>/dev/null || true
	rm -rf logs benchmarks/results .snakemake .pytest_cache .mypy_cache .ruff_cache .hypothesis build
