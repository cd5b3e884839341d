# make train: install with PyTorch and train the baseline on the embedded digits.
# make test:  install everything and run what CI runs.
# make docs:  write the documentation as a site into site/.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# The tests' networks are too small to gain from threads; two processes at a time do gain.
ONE_THREAD := OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 NPROC=1

.PHONY: train test test-torch test-tensorflow test-jax test-faults test-notebooks lint docs clean

train: $(VENV)/installed-torch
	$(BIN)/sparring train baseline --data digits

# Tests marked `backend` run on every backend; the others need to run only once. Two of these run at
# a time, the longest first.
test: $(VENV)/installed-all lint
	$(MAKE) --jobs=2 test-torch test-jax test-tensorflow test-faults test-notebooks

# Trainings that are killed, stopped and made many at a time: processes, which no other tests share.
FAULTS := tests/test_faults.py tests/test_jobs.py

test-torch:
	$(ONE_THREAD) KERAS_BACKEND=torch $(BIN)/pytest $(FAULTS:%=--ignore=%)

test-tensorflow:
	$(ONE_THREAD) KERAS_BACKEND=tensorflow $(BIN)/pytest -m backend

# Kept, what JAX has compiled need not be compiled again by the next test that trains the same.
test-jax:
	$(ONE_THREAD) KERAS_BACKEND=jax JAX_COMPILATION_CACHE_DIR=$(abspath $(VENV))/jax-cache \
		JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.05 \
		JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1 $(BIN)/pytest -m backend

test-faults:
	$(ONE_THREAD) KERAS_BACKEND=torch $(BIN)/pytest $(FAULTS)

# Each ends with assertions of what it teaches.
test-notebooks:
	$(ONE_THREAD) KERAS_BACKEND=torch $(BIN)/pytest --nbmake docs/notebooks

lint: $(VENV)/installed-all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# tests/test_site.py builds it, too. Material says at every build which program will succeed it.
docs: $(VENV)/installed-all
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(VENV)/installed-torch: pyproject.toml constraints.txt sparring/version.py | $(BIN)/python
	$(INSTALL) --editable '.[torch]'
	@touch $@

$(VENV)/installed-all: pyproject.toml constraints.txt sparring/version.py | $(BIN)/python
	$(INSTALL) --editable '.[torch,tensorflow,jax,test]'
	@touch $@ $(VENV)/installed-torch

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Sparring needs Python 3.11 or newer; name one with make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build site *.egg-info .mypy_cache .pytest_cache .ruff_cache
