# make help lists what can be made. Each target makes the environment first.
# Needs Python 3.11 or newer and make. Pins are in constraints.txt; EXTRAS=cuda12 installs JAX for NVIDIA GPUs.

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.made-$(if $(EXTRAS),$(EXTRAS),cpu)
WORKERS ?= 2

comma := ,
ALL_EXTRAS := dev$(if $(EXTRAS),$(comma)$(EXTRAS))

.PHONY: help env demo test floors ports mutants faults wrong-turns first-hour fuzz lint docs clean

env: $(STAMP)  ## creates the environment

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("error: expected Python 3.11 or newer, got %d.%d; install one and run make PYTHON=python3.11." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$(ALL_EXTRAS)]"
	@touch $@

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

demo: env  ## trains MFV on drawn people and evaluates it, a few minutes
	$(BIN)/python scripts/main.py --config configs/mfv.py

test: env  ## runs the whole suite
	$(BIN)/python -m pytest -n $(WORKERS)

# Whole runs: demos of all systems, cut to about a minute each on two cores, must learn.
floors: env  ## trains the demos of all systems for about a minute each: they must learn
	$(BIN)/python -m pytest -n $(WORKERS) --dist=load --confcutdir=tests/floors tests/floors

# Train steps and embeddings of all systems at full size, lowered for GPU and TPU without either; a minute.
ports: env  ## lowers the programs of all systems for GPU and TPU
	$(BIN)/python -m pytest -n $(WORKERS) --confcutdir=tests/ports tests/ports

# Deliberate mistakes, applied one by one to a copy: which of them no test notices. Takes an hour; results/mutants.json.
mutants: env  ## applies deliberate mistakes, which a test must notice, an hour
	$(BIN)/python -m tests.mutants.run --workers $(WORKERS)

# Kills, signals, full disks, damaged files: each must end in one sentence or be survived. Half an hour, as root for the
# small disks; results/faults.json.
faults: env  ## kills, signals, full disks, damaged files, half an hour
	$(BIN)/python -m tests.faults.run --jobs $(WORKERS)

# Mistakes of a first hour: each must end in one sentence within five seconds of processor time. Some minutes;
# results/wrong_turns.json.
wrong-turns: env  ## a newcomer's mistakes, some minutes
	$(BIN)/python -m tests.first_hour.wrong_turns

# A new user's first hour in real processes, published weights from a server on localhost; results/first_hour.json.
first-hour: env  ## a newcomer's first hour
	$(BIN)/python -m tests.first_hour.walk --demo --folder $$(mktemp -d) --output results/first_hour.json

# Malformed inputs of every kind; tracebacks, hangs, memory and code run are counted. FAILURES=DIR keeps inputs that fail.
SECONDS ?= 600
INPUTS ?= 50000
SEED ?= 0
fuzz: env  ## malformed inputs, SECONDS=600
	$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS) --inputs $(INPUTS) --seed $(SEED) $(if $(FAILURES),--failures $(FAILURES))

lint: env  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site goes to site/; a broken link, a missing table or a docstring that does not parse fails.
docs: env  ## builds the site into site/
	test -x $(BIN)/mkdocs || $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:  ## removes the environment and what was built
	rm -rf site $(VENV) .cache .mypy_cache .ruff_cache
