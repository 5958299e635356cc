# make demo   train a tiny model on this machine's CPU: about a minute, no download but packages
# make test   every check and every test: what CI runs
# make venv   only set up the environment that both use
# make test-long   what takes longer than a commit should: 200 kills, the statistics' rates, slow launchers
#
# VENV=DIR         where the virtual environment is (default .venv)
# PYTHON=COMMAND   the Python that makes it, 3.11 or newer (default python3)
# TORCH="..."      what pip installs as PyTorch, before anything else. The default is the tested version in the variant
#                  that pip prefers. For a certain one give pip's own arguments, as pytorch.org/get-started prints them,
#                  e.g. make TORCH="torch==2.13.0 --index-url URL"; TORCH="torch" lets constraints.txt choose.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0

.PHONY: demo test test-long check venv

demo: venv
	@start=$$(date +%s); $(VENV)/bin/retrain examples/demo.toml && echo "demo: $$(( $$(date +%s) - start )) seconds"

test: venv
	@start=$$(date +%s); VENV=$(VENV) scripts/check; status=$$?; echo "checks: $$(( $$(date +%s) - start )) seconds"; exit $$status
	@VENV=$(VENV) scripts/test

test-long: venv
	@VENV=$(VENV) scripts/test -m slow
	@$(VENV)/bin/python scripts/coverage
	@$(VENV)/bin/python scripts/chaos --kills 200

check: venv
	@VENV=$(VENV) scripts/check

venv: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "retrain needs Python 3.11 or newer; name one, e.g. make PYTHON=python3.12" >&2; exit 2; }
	@echo "installing into $(VENV): a few minutes, once"
	@start=$$(date +%s); set -e; \
	  $(PYTHON) -m venv $(VENV); \
	  $(VENV)/bin/python -m pip install -qq -c constraints.txt $(TORCH); \
	  $(VENV)/bin/python -m pip install -qq -c constraints.txt -e ".[dev]"; \
	  touch $@; \
	  echo "install: $$(( $$(date +%s) - start )) seconds"
