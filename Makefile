# From a bare checkout with Python 3.11 and a network to the package registry.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
DEMO ?= demo

.PHONY: demo test test-slow test-reliability test-slurm test-newest test-oldest bench screenshots \
	lock lint format clean

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

# Both ends of pyproject.toml's ranges, in a venv of their own; PYTHON= takes another Python.
test-newest: RESOLUTION := highest
test-oldest: RESOLUTION := lowest-direct
test-newest test-oldest: test-%: $(INSTALLED)
	$(BIN)/uv venv --quiet --clear --python $(PYTHON) $(VENV)-$*
	$(BIN)/uv pip install --python $(VENV)-$* --resolution $(RESOLUTION) -e ".[demo,dev]"
	$(VENV)-$*/bin/python --version && $(BIN)/uv pip list --python $(VENV)-$*
	OMP_NUM_THREADS=1 $(VENV)-$*/bin/python -m pytest

# Side-by-side ratios, written to benchmarks/RESULTS.md; about half an hour.
bench: $(INSTALLED)
	$(BIN)/python -m pip install -e ".[bench]"
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks

# The README's pictures; needs a Chromium and the store of `make demo`.
screenshots: $(INSTALLED)
	$(BIN)/python -m benchmarks.screenshots $(DEMO)/store --out data/screenshots

# Newer versions of everything, as far as pyproject.toml allows, for make to install from now on.
lock: $(INSTALLED)
	$(BIN)/uv pip compile pyproject.toml --extra demo --extra dev --upgrade --quiet --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" --output-file requirements.lock

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

# Nothing is resolved here: every version is the lock's, every file has its hash, none is built.
# Python's own pip can do that, so it is not renewed.
$(INSTALLED): pyproject.toml requirements.lock
	@echo "installing into $(VENV) what requirements.lock lists"
	@$(PYTHON) -m venv $(VENV)
	@.ci/quietly $(VENV)/install.log $(VENV) $(BIN)/python -m pip install --progress-bar off \
		--no-deps --require-hashes --only-binary :all: -r requirements.lock
	@.ci/quietly $(VENV)/install.log $(VENV) $(BIN)/python -m pip install \
		--no-deps --no-build-isolation -e .
	@echo "installed: $$(du -sh $(VENV) | cut -f1) in $(VENV)"
	@touch $@
