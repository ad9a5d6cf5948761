# Two commands: `make demo` sets everything up and runs the whole pipeline; `make test` sets up and passes the
# tests. Both work on a fresh Debian 12 machine without a GPU.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
TORCH ?= torch==2.13.0
TRITON ?= triton==3.7.1
# DALI with what it imports: on a CPU it needs neither nvImageCodec nor nvCOMP, which it names as dependencies.
DALI ?= nvidia-dali-cuda130==2.4.0 "astunparse>=1.6" "gast>=0.3.3" optree packaging "six>=1.16"
VENV := .venv
BIN := $(VENV)/bin
# Bytecode is left to the first import: compiling all of it costs a minute. It is always kept: the tests start many
# processes, each of which would spend ten seconds and more on compiling torch and diffusers again.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq --no-compile
NATIVE := $(wildcard kernels/native/src/*)
# Prints 1 if this Python is new enough, 2 if it can also make virtual environments.
PYTHON_CHECK := import sys, importlib.util as u; print((sys.version_info >= (3, 11)) * (1 + bool(u.find_spec("ensurepip"))))

OUT ?= runs/gpu
SOURCE ?= runs/diffusers
JOBS ?= 2
# A test that hangs fails, with the stacks of its threads.
HANGS := -o faulthandler_timeout=400 -o faulthandler_exit_on_timeout=true

.PHONY: help venv demo test test-slow chaos test-diffusers test-matrix mutate test-gpu bench-gpu lint docs clean

help:
	@echo "make demo       the whole pipeline on this machine, from simulation to runs/demo/report.html"
	@echo "make test       ruff, mypy and the tests, on JOBS=$(JOBS) cores"
	@echo "make test-slow  chaos, fuzz and long tests"
	@echo "make chaos      kills runs at random instants, on one to three ranks, and prints each kill; under 25 minutes"
	@echo "make test-diffusers  diffusers' own tests, fetched into SOURCE=$(SOURCE), with and without acceleration"
	@echo "make test-matrix  the kernels' tests with torch 2.11, triton 3.6, Python 3.12 and with 2.13, 3.7.1, 3.11"
	@echo "make mutate     plants small faults and says which no test notices; an hour and more"
	@echo "make test-gpu   the tests of the kernels on a GPU; make bench-gpu checks and times them, beside every peer"
	@echo "make lint       ruff and mypy alone"
	@echo "make docs       the API reference from the docstrings, build/api/index.html"
	@echo "make venv       only the virtual environment $(VENV)"
	@echo "make clean      removes $(VENV) and everything built"

demo: venv
	$(BIN)/python -m phys4d demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) $(HANGS) -m "not slow and not gpu and not interpreted"
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) $(HANGS) -m "interpreted and not slow" tests/kernels

test-slow: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) -m "slow and not gpu and not interpreted"
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) -m "interpreted and slow" tests/kernels

chaos: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow tests/cluster/test_chaos.py

test-diffusers: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m phys4d.benchmarks.diffusers_tests --source $(SOURCE)

# The kernels' tests in two environments, which hold only what these tests import: triton 3.6's interpreter needs an older
# numpy, scipy is what Chamfer is compared with. The native kernels are those that `make venv` built.
MATRIX := .venv-matrix
PYTHON311 ?= python3.11
PYTHON312 ?= python3.12
$(MATRIX)/3.12/.installed: VERSIONS := torch==2.11.0 triton==3.6.0 "numpy<2.4"
$(MATRIX)/3.11/.installed: VERSIONS := $(TORCH) $(TRITON) numpy
MATRIX_TESTS := tests/kernels --ignore=tests/kernels/integrate

test-matrix: $(MATRIX)/3.12/.installed $(MATRIX)/3.11/.installed test-matrix-3.12 test-matrix-3.11

.PHONY: test-matrix-3.12 test-matrix-3.11
test-matrix-3.12 test-matrix-3.11: test-matrix-%: $(MATRIX)/%/.installed
	@PYTHONPATH=$(CURDIR) $(MATRIX)/$*/bin/python -c "import sys, torch, triton; from phys4d.kernels import native; \
	    print('phys4d: Python', sys.version.split()[0], 'torch', torch.__version__, 'triton', triton.__version__); \
	    sys.exit(0 if native.status()[0] else 'phys4d: no native kernels (' + native.status()[1] + '); run: make venv')"
	PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=1 $(MATRIX)/$*/bin/python -m pytest -q $(HANGS) \
	    -m "not slow and not gpu and not interpreted" $(MATRIX_TESTS)
	PYTHONPATH=$(CURDIR) TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(MATRIX)/$*/bin/python -m pytest -q $(HANGS) \
	    -m "interpreted and not slow" $(MATRIX_TESTS)

$(MATRIX)/%/.installed:
	@python="$(PYTHON$(subst .,,$*))"; \
	if [ "$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>&1)" != "$*" ]; then \
	    echo "phys4d: make test-matrix needs Python $* as $$python; set PYTHON$(subst .,,$*)=..."; exit 2; \
	fi; \
	echo "phys4d: setting up $(MATRIX)/$*"; \
	"$$python" -m venv $(MATRIX)/$*
	@$(MATRIX)/$*/bin/python -m pip --disable-pip-version-check install -qq --no-compile \
	    $(VERSIONS) "pytest>=9" "hypothesis>=6.100" "scipy>=1.14"
	@touch $@

mutate: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutate --named
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutate

# On a machine with a GPU and torch, triton, numpy, pytest and hypothesis in PYTHON. Most of the tests' time is compiling:
# with pytest-xdist, PARALLEL="-n 8" takes eight cores for it.
test-gpu:
	$(PYTHON) -m pytest -q $(PARALLEL) -m "gpu or interpreted" tests/gpu tests/kernels

# Every measurement, with torch, triton and numpy in PYTHON: docs/gpu-run.md. Started again, it goes on with OUT.
bench-gpu:
	$(PYTHON) -m phys4d.benchmarks.gpu_run run --out $(OUT)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: venv
	$(BIN)/python docs/api_reference.py

venv: $(VENV)/.installed

# What pip cannot install: a Python that makes virtual environments, and the libraries of headless rendering.
$(VENV)/.torch:
	@case "$$($(PYTHON) -c '$(PYTHON_CHECK)' || echo none)" in \
	    2) ;; \
	    1) echo "phys4d: $(PYTHON) cannot make virtual environments; run: apt-get install -y python3-venv"; exit 2;; \
	    *) echo "phys4d: needs Python 3.11 or newer as $(PYTHON); set PYTHON=..., or run: apt-get install -y python3 python3-venv"; exit 2;; \
	esac
	@libraries="$$(PATH="$$PATH:/usr/sbin:/sbin" ldconfig -p)"; \
	for name in libEGL.so.1 libGL.so.1; do \
	    if ! grep -q "$$name" <<< "$$libraries"; then \
	        echo "phys4d: $$name is missing (headless rendering); run: apt-get install -y --no-install-recommends libegl1 libgl1 libgl1-mesa-dri"; \
	        exit 2; \
	    fi; \
	done
	@echo "phys4d: setting up $(VENV), a few minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) "setuptools>=77" wheel "cmake>=3.25" ninja
	@echo "phys4d: installing $(TORCH) and $(TRITON)"
	@$(PIP) "$(TORCH)"
	@$(PIP) "$(TRITON)"
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml setup.py CMakeLists.txt $(NATIVE)
	@echo "phys4d: installing phys4d and what it needs"
	@$(PIP) --no-build-isolation -e ".[train,sim,newton,teachers,dev]"
	@$(PIP) --no-deps $(DALI)
	@$(BIN)/python -c "from phys4d.kernels import native; print('phys4d: native kernels', native.status()[1])"
	@touch $@

clean:
	rm -rf $(VENV) $(MATRIX) build dist *.egg-info kernels/native/_C.so kernels/native/_build.json
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
