# `make demo` and `make test` are all that a fresh machine needs: python3 (with venv), make and git.
# Everything is installed into .venv, with the versions of constraints.txt; each file must have a SHA-256 of locks/. On a machine
# that wants another torch, whose files are then the only ones that are not compared:
#   make demo TORCH='torch==2.13.0+cu126'      (any pip requirement; give the same one to every later make)

PYTHON ?= python3
VENV ?= .venv
TORCH ?=
PYTEST_ARGS ?=
NETKET_PYTHON ?=
LOWEST_PYTHON ?= python3.11

python := $(VENV)/bin/python
# Two workers with one thread each: small matrices gain nothing from more threads.
pytest := OMP_NUM_THREADS=1 $(python) -m pytest -q -n 2 --dist worksteal
# The stamp's name follows the torch that was asked for and the folder, so that either change installs again.
stamp := $(VENV)/installed-$(shell printf '%s|%s' "$(TORCH)" "$(CURDIR)" | cksum | cut -d ' ' -f 1)
lowest := $(VENV)-lowest
# Only what stands in a lock, in the version and with a hash that stand there; sdists are built with the locked setuptools.
pip := -m pip --disable-pip-version-check
locked := install -qq --require-hashes --no-deps --no-build-isolation --use-pep517

.PHONY: help venv demo test test-all test-lowest check lock audit docs bench bench-hsm bench-qembed clean

help:
	@echo 'make demo      install into $(VENV), find a 4x4 ground state, compare with the exact one'
	@echo 'make test      the tests (some minutes)'
	@echo 'make test-all  the slow ones too'
	@echo 'make test-lowest  the tests with the lowest versions that setup.cfg allows'
	@echo 'make check     ruff, mypy, import layers'
	@echo 'make audit     known vulnerabilities of the locked packages'
	@echo 'make lock      constraints.txt and locks/ anew, from setup.cfg'
	@echo 'make docs      the documentation site, into site/'
	@echo 'make bench-hsm Hilbert-space models: steps, tables, geometry (about 10 minutes)'
	@echo 'make bench-qembed  quantum embeddings: jobs with exact answers, energies (about 15 minutes)'
	@echo 'make bench     the short benchmarks and their picture (about 10 minutes)'
	@echo 'make clean     remove $(VENV), $(lowest) and everything that was built (runs/ stays)'

venv: $(stamp)

$(stamp): setup.cfg constraints.txt pyproject.toml locks/packages.lock locks/torch.lock locks/torch-cpu.lock
	@command -v $(PYTHON) >/dev/null || { echo "make: there is no $(PYTHON); install Python 3.10 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "make: qsr needs Python 3.10 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1); name another: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "make: $(PYTHON) cannot make virtual environments; install its venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo 'Installing qsr and the versions of constraints.txt into $(VENV) (a minute or more, once) ...'
	@$(python) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@rm -f $(VENV)/installed-*
	@sed -n '/^setuptools==/,/[^\\]$$/p' locks/packages.lock > $(VENV)/setuptools.lock
	@$(python) $(pip) $(locked) -r $(VENV)/setuptools.lock
	@$(python) $(pip) $(locked) -r locks/packages.lock
	@grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	@# The CPU build of torch is a tenth of the size of the other; not every package index has it.
	@if [ -n "$(TORCH)" ]; then $(python) $(pip) install -qq -c $(VENV)/constraints.txt "$(TORCH)"; \
	elif ! $(python) $(pip) $(locked) -r locks/torch-cpu.lock >/dev/null 2>&1; then \
	  echo 'No CPU build of torch with a hash of locks/torch-cpu.lock is offered here: installing the one of locks/torch.lock ...'; \
	  $(python) $(pip) $(locked) -r locks/torch.lock; \
	fi
	@$(python) $(pip) install -qq --no-deps --no-build-isolation -e .
	@$(python) $(pip) check >/dev/null || { $(python) $(pip) check >&2; exit 1; }
	@touch $@

demo: $(stamp)
	@$(python) demos/ground_state_4x4.py

test: $(stamp)
	@$(pytest) $(PYTEST_ARGS)

test-all: $(stamp)
	@$(pytest) -m "" $(PYTEST_ARGS)

# The lower bounds of setup.cfg in an environment of their own (torch 2.6 with its CUDA libraries: some GB).
test-lowest: $(lowest)/installed
	@OMP_NUM_THREADS=1 $(lowest)/bin/python -m pytest -q -n 2 --dist worksteal $(PYTEST_ARGS)

$(lowest)/installed: setup.cfg pyproject.toml locks/lowest.lock
	@command -v $(LOWEST_PYTHON) >/dev/null || { echo "make: there is no $(LOWEST_PYTHON); name a Python 3.11: make test-lowest LOWEST_PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(LOWEST_PYTHON) -m venv --clear $(lowest)
	@sed -n '/^setuptools==/,/[^\\]$$/p' locks/lowest.lock > $(lowest)/setuptools.lock
	@$(lowest)/bin/python $(pip) $(locked) -r $(lowest)/setuptools.lock
	@$(lowest)/bin/python $(pip) $(locked) -r locks/lowest.lock
	@$(lowest)/bin/python $(pip) install -qq --no-deps --no-build-isolation -e .
	@$(lowest)/bin/python $(pip) check >/dev/null || { $(lowest)/bin/python $(pip) check >&2; exit 1; }
	@touch $@

# Where pins were changed or taken out of constraints.txt, or requirements in setup.cfg.
lock: $(stamp)
	@$(python) locks/update.py

audit: $(stamp)
	@$(python) locks/audit.py

docs: $(stamp)
	@NO_MKDOCS_2_WARNING=1 $(python) -m mkdocs build --strict -q && echo 'open site/index.html'

check: $(stamp)
	@$(python) -m ruff check .
	@$(python) -m ruff format --check .
	@$(python) -m mypy
	@$(python) -m pytest -q tests/test_layers.py

# The short ones; each script alone does more (`$(python) benchmarks/NAME.py --help` says what and how long). NetKet is
# compared with if there is an interpreter that has it: make bench NETKET_PYTHON=nk/bin/python
bench: $(stamp)
	@for script in steps flips 'scaling --quick' 'engine --quick' overhead 'accuracy --size 4x4 --seeds 1' \
	  $(if $(NETKET_PYTHON),'netket_8x8 --netket-python $(NETKET_PYTHON)'); do \
	  set -- $$script; name=$$1; shift; echo "== benchmarks/$$name.py $$*"; $(python) "benchmarks/$$name.py" "$$@" || exit 1; echo; \
	done
	@$(python) benchmarks/plot.py

# Hilbert-space models: a step against the plain way to write it, tables beside linear models, dimensions of noisy data.
bench-hsm: $(stamp)
	@for script in hsm_steps hsm_tables hsm_geometry; do \
	  echo "== benchmarks/$$script.py"; $(python) "benchmarks/$$script.py" || exit 1; echo; \
	done

# Quantum embeddings beside ordinary ones, on data whose best possible answer is known; energies of samplers with them.
bench-qembed: $(stamp)
	@for script in qembed_jobs qembed_vmc; do \
	  echo "== benchmarks/$$script.py"; $(python) "benchmarks/$$script.py" || exit 1; echo; \
	done

clean:
	@rm -rf $(VENV) $(lowest) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis demos/out
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
