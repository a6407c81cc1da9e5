# Everything runs in .venv, which the first target that needs it makes from `python3` and pip alone.

PYTHON ?= python3
UV_VERSION := 0.13.9
BIN := .venv/bin
UV := $(BIN)/uv
CONFIG ?= experiments/frey_faces.py
ARGS ?=
DATA ?=
TORCH ?= --torch-backend=cpu
PARALLEL ?= --numprocesses=auto --dist=loadfile --no-loadscope-reorder
LOCK := $(UV) pip compile --quiet --upgrade --universal --fork-strategy fewest --generate-hashes \
	--python-version 3.11 --no-header

.DEFAULT_GOAL := help
.PHONY: help run test test-all test-mutations test-faults test-slurm test-browser lint types check format \
	sweep-frey sweep-mnist paper paper-quick docs docs-figures bench bench-gpu dist lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/users  ## train on the Frey faces and draw the figures (CONFIG=file ARGS="--config.FIELD=VALUE")
	$(BIN)/python experiments/run.py --config=$(CONFIG) $(ARGS)

test: .venv/developers  ## run the quick tests, in minutes
	$(BIN)/python -m pytest $(PARALLEL) --durations=10

test-all: .venv/developers  ## run the slow tests too, in at most forty minutes
	$(BIN)/python -m pytest $(PARALLEL) --durations=10 -m 'not faults and not slurm and not browser'

test-mutations: .venv/developers  ## check that the tests detect each of many small errors in the code, in ten minutes or more
	$(BIN)/python tests/support/run_mutations.py

test-faults: .venv/developers  ## kill, damage and starve runs at random, and print a table of the outcomes, in an hour
	$(BIN)/python -m pytest $(PARALLEL) -m '' tests/faults

test-slurm: .venv/developers  ## test sweeps on a local SLURM (Debian's slurmctld, slurmd and slurm-client)
	$(BIN)/python -m pytest -m slurm

test-browser: .venv/developers  ## test the pages of runs in a browser (Debian's chromium)
	$(BIN)/python -m pytest -m browser

lint: .venv/developers  ## check the style with ruff
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/developers  ## check the types with pyright
	$(BIN)/pyright

check: lint types  ## check style and types

format: .venv/developers  ## fix the style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

sweep-frey: .venv/users  ## train the paper's latent dimensions on the Frey faces (ARGS="--axis=seed=0")
	$(BIN)/python experiments/run.py --config=experiments/figure_4_frey.py --sweep $(ARGS)

sweep-mnist: .venv/users  ## train the paper's latent dimensions on MNIST
	$(BIN)/python experiments/run.py --config=experiments/mnist.py --sweep $(ARGS)

paper: .venv/users  ## train the study of the paper and make docs/paper.md, in hours (DATA=folder of MNIST's files)
	$(BIN)/python -m experiments.paper $(if $(DATA),--data-dir=$(DATA)) $(ARGS)
	$(BIN)/python -m docs.tools.paper

paper-quick: .venv/users  ## check that `make paper` works, by very short runs in runs/paper-quick, in ten minutes
	$(BIN)/python -m experiments.paper --quick $(if $(DATA),--data-dir=$(DATA)) $(ARGS)
	$(BIN)/python -m docs.tools.paper --folder=runs/paper-quick

docs: .venv-docs/tools  ## build the documentation, site/index.html; a warning is an error
	rm -rf site
	.venv-docs/bin/sphinx-build --fail-on-warning --keep-going --quiet --fresh-env \
	  --conf-dir docs --doctree-dir build/doctrees . site
	@echo site/index.html

docs-figures: .venv/users  ## draw the figures of docs/variational_bayes.md by running its code
	$(BIN)/python -m docs.tools.variational_bayes

bench: .venv/users .venv-bench/peers  ## run every benchmark, in two and a half hours (DATA=folder ARGS=--quick)
	@test -n "$(DATA)" || { echo "make bench needs DATA=the folder of the datasets' files"; exit 2; }
	$(BIN)/python experiments/benchmarks/bench.py --data-dir=$(DATA) $(ARGS)

bench-gpu: .venv/users  ## measure the accelerator that jax finds, in at most twelve minutes; the same command continues (DATA=folder ARGS=--quick)
	@test -n "$(DATA)" || { echo "make bench-gpu needs DATA=the folder of the datasets' files"; exit 2; }
	$(BIN)/python experiments/benchmarks/accelerator.py --data-dir=$(DATA) $(ARGS)

dist: .venv/developers  ## build the wheel and the sdist, in dist/
	$(UV) build --quiet --no-build-isolation --python $(BIN)/python

lock: .venv/uv  ## renew the lock files
	$(LOCK) pyproject.toml --output-file requirements.lock
	$(LOCK) pyproject.toml --group dev --constraint requirements.lock --output-file requirements-dev.lock
	$(LOCK) --group docs --constraint requirements.lock --output-file requirements-docs.lock

clean:  ## remove environments and caches, but no runs
	rm -rf .venv .venv-bench .venv-docs .pytest_cache .ruff_cache *.egg-info build dist site docs/api
	find aevb docs experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +

# `--without-pip` and `pip --python` work where Debian has split ensurepip off.
.venv/uv:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	  f"aevb needs Python 3.11 or newer; {sys.executable} is {v[0]}.{v[1]}. Try: make PYTHON=python3.12")'
	$(PYTHON) -m venv --without-pip .venv
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

.venv/users: .venv/uv requirements.lock pyproject.toml
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

.venv/developers: .venv/users requirements-dev.lock
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements-dev.lock
	@touch $@

# The peers that the benchmarks measure. TORCH tells uv where PyTorch is, which it takes from
# pytorch.org unless told otherwise: TORCH=--find-links=FOLDER, or TORCH= for the one on PyPI.
.venv-bench/peers: .venv/uv experiments/benchmarks/requirements.txt
	$(UV) venv --quiet --allow-existing --python $(BIN)/python .venv-bench
	$(UV) pip install --quiet --python .venv-bench/bin/python $(TORCH) \
	  --requirements experiments/benchmarks/requirements.txt
	@touch $@

# Sphinx, and what the package imports.
.venv-docs/tools: .venv/uv requirements.lock requirements-docs.lock
	$(UV) venv --quiet --allow-existing --python $(BIN)/python .venv-docs
	$(UV) pip install --quiet --python .venv-docs/bin/python --require-hashes -r requirements.lock \
	  -r requirements-docs.lock
	@touch $@
