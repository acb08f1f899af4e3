# `make quickstart` trains and measures a robust CLIP, `make test` and `make lint` check the package.
# Each makes .venv first where there is none, or where what it was made from has changed.

PYTHON ?= python3
VENV := .venv
# Stamps of what was installed: what the quickstart needs, and what the checks need, which is more.
RUNS := $(VENV)/.installed-quickstart
CHECKS := $(VENV)/.installed

.PHONY: quickstart test lint

# No call to the Hub: what these two need is in the package, and a call that fails is retried for minutes.
quickstart test: export HF_HUB_OFFLINE = 1
quickstart test: export HF_HUB_DISABLE_TELEMETRY = 1

quickstart: $(RUNS)
	$(VENV)/bin/robust-clip train recipes/quickstart.yaml

test: $(CHECKS)
	$(VENV)/bin/python -m pytest --numprocesses auto --dist worksteal

lint: $(CHECKS)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

$(RUNS): EXTRAS := quickstart
$(CHECKS): EXTRAS := test,dev
$(CHECKS): STAMPS := $(RUNS) $(CHECKS)
$(RUNS) $(CHECKS): pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $(or $(STAMPS),$@)
