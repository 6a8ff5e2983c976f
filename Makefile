# From a bare checkout with Python 3.11 and a network to the package registry.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
DEMO ?= demo

.PHONY: demo test test-slow test-reliability test-slurm bench screenshots lint format clean

# The main job, end to end on the embedded corpus; the README shows what it prints.
demo: $(INSTALLED)
	$(BIN)/featstore check --dataset synthetic
	$(BIN)/featstore build --dataset synthetic --preset tiny --set teachers.prosodic.optim.epochs=12 --store $(DEMO)/store --jobs $(JOBS)
	$(BIN)/featstore verify $(DEMO)/store
	$(BIN)/distill run --store $(DEMO)/store --fold 1,4,5,8 --student tiny --runs $(DEMO)/runs --jobs $(JOBS)
	$(BIN)/distill run --store $(DEMO)/store --fold 1,4,5,8 --student tiny --variant ce-only --runs $(DEMO)/runs --jobs $(JOBS)
	$(BIN)/distill report $(DEMO)/runs --out $(DEMO)/report

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

# Minutes: true-size weights, SIGKILL in every phase, the stand-in corpus where it is there.
test-slow: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

# What tests/reliability/README.md promises: kills, damage, full disks, hostile files, leaks.
test-reliability: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m reliability tests

# Boots a two-node SLURM, as root, where slurmctld, slurmd and munge are installed; else skipped.
test-slurm: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slurm tests -rs

# Side-by-side ratios, written to benchmarks/RESULTS.md; about half an hour.
bench: $(INSTALLED)
	$(BIN)/python -m pip install -e ".[bench]"
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks

# The README's pictures; needs a Chromium and the store of `make demo`.
screenshots: $(INSTALLED)
	$(BIN)/python -m featstore.inspection.view.screenshots $(DEMO)/store --out data/screenshots

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(DEMO) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install -e ".[demo,dev]"
	touch $@
