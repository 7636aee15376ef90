# Everything is done by `make run` and `make test`; both install what they need into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Tests run in so many processes: most of them wait more than they work, so one more than two cores.
TESTERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help run test test-long fuzz api-fuzz soak check format bench eval-routing clients install

help:  ## Show what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(INSTALLED)  ## Install, then serve on the embedded defaults
	$(BIN)/headgate serve

test: $(INSTALLED)  ## Install, then run the tests, offline
	$(BIN)/python -m pytest --numprocesses $(TESTERS)

test-long: $(INSTALLED)  ## The slow suites in their full form, and ten times as many invented examples
	HEADGATE_TEST_LONG=1 $(BIN)/python -m pytest -m "long or hypothesis" --timeout 1800

fuzz: $(INSTALLED)  ## Five minutes of invented credentials, headers and paths at the door
	HEADGATE_TEST_LONG=1 $(BIN)/python -m pytest -m long tests/e2e/test_auth_fuzz.py

api-fuzz: $(INSTALLED)  ## Five minutes, on each kind of database, of all that the OpenAPI document allows and forbids
	HEADGATE_TEST_LONG=1 FUZZ_SECONDS=$${FUZZ_SECONDS:-300} $(BIN)/python -m pytest -s -m long tests/e2e/test_schema_fuzz.py

soak: $(INSTALLED)  ## Ten minutes of a crowd and of kills at each of four set-ups, and every cent found after it
	HEADGATE_TEST_LONG=1 SOAK_SECONDS=$${SOAK_SECONDS:-600} $(BIN)/python -m pytest -s tests/e2e/test_soak.py

check: $(INSTALLED)  ## Formatting, lints, types, the order of the layers, licences
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pip check
	$(BIN)/pip-licenses --partial-match --fail-on="GPL;GNU" --summary

format: $(INSTALLED)  ## Format the code and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)  ## Measure CPU per request and event, latency, memory and cold start
	$(BIN)/python -m tests.bench.books
	$(BIN)/python -m tests.bench.gateway
	$(BIN)/python -m tests.bench.limits

eval-routing: $(INSTALLED)  ## How well complexity scores order questions, on held-out rows: DATA=folder with the sets
	$(BIN)/python -m tests.bench.routing $(DATA)

clients: $(INSTALLED)  ## Install the clients people use (needs the network), try them, write docs/clients.md
	$(BIN)/python -m tests.clients.run

install: $(INSTALLED)  ## Only install

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "torch==2.13.0"
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $(INSTALLED)
