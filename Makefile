# `make demo` and `make test` are all that a fresh machine needs: python3 (with venv), make and git.
# Everything is installed into .venv, with the versions of constraints.txt. On a machine that wants another torch:
#   make demo TORCH='torch==2.13.0+cpu'        (any pip requirement; give the same one to every later make)

PYTHON ?= python3
VENV ?= .venv
TORCH ?=
PYTEST_ARGS ?=
NETKET_PYTHON ?=

python := $(VENV)/bin/python
# Two workers with one thread each: small matrices gain nothing from more threads.
pytest := OMP_NUM_THREADS=1 $(python) -m pytest -q -n 2 --dist worksteal
# The stamp's name follows the torch that was asked for and the folder, so that either change installs again.
stamp := $(VENV)/installed-$(shell printf '%s|%s' "$(TORCH)" "$(CURDIR)" | cksum | cut -d ' ' -f 1)

.PHONY: help venv demo test test-all check docs bench bench-hsm bench-qembed clean

help:
	@echo 'make demo      install into $(VENV), find a 4x4 ground state, compare with the exact one'
	@echo 'make test      the tests (some minutes)'
	@echo 'make test-all  the slow ones too'
	@echo 'make check     ruff, mypy, import layers'
	@echo 'make docs      the documentation site, into site/'
	@echo 'make bench-hsm Hilbert-space models: steps, tables, geometry (about 10 minutes)'
	@echo 'make bench-qembed  quantum embeddings: jobs with exact answers, energies (about 15 minutes)'
	@echo 'make bench     the short benchmarks and their picture (about 10 minutes)'
	@echo 'make clean     remove $(VENV) and everything that was built (runs/ stays)'

venv: $(stamp)

$(stamp): setup.cfg constraints.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: there is no $(PYTHON); install Python 3.10 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "make: qsr needs Python 3.10 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1); name another: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "make: $(PYTHON) cannot make virtual environments; install its venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo 'Installing qsr and the versions of constraints.txt into $(VENV) (a minute or more, once) ...'
	@$(python) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@rm -f $(VENV)/installed-*
	@if [ -n "$(TORCH)" ]; then grep -v '^torch==' constraints.txt; else cat constraints.txt; fi > $(VENV)/constraints.txt
	@# The CPU build of torch is a tenth of the size of the other; not every package index has it.
	@[ -n "$(TORCH)" ] || $(python) -m pip install -qq --disable-pip-version-check "$$(grep '^torch==' constraints.txt)+cpu" >/dev/null 2>&1 || true
	@$(python) -m pip install -qq --disable-pip-version-check -c $(VENV)/constraints.txt $(if $(TORCH),"$(TORCH)") -e '.[dev]'
	@touch $@

demo: $(stamp)
	@$(python) demos/ground_state_4x4.py

test: $(stamp)
	@$(pytest) $(PYTEST_ARGS)

test-all: $(stamp)
	@$(pytest) -m "" $(PYTEST_ARGS)

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
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis demos/out
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
