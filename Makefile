# make demo: train and evaluate MFV on the embedded data set; make test: the whole suite; make docs: the site.
# Each makes the environment.
# Needs Python 3.11 or newer and make. Pins are in constraints.txt; EXTRAS=cuda12 installs JAX for NVIDIA GPUs.

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.made-$(if $(EXTRAS),$(EXTRAS),cpu)
WORKERS ?= 2

comma := ,
ALL_EXTRAS := dev$(if $(EXTRAS),$(comma)$(EXTRAS))

.PHONY: env demo test floors mutants faults wrong-turns first-hour fuzz lint docs clean

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("error: expected Python 3.11 or newer, got %d.%d; install one and run make PYTHON=python3.11." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$(ALL_EXTRAS)]"
	@touch $@

demo: env
	$(BIN)/python scripts/main.py --config configs/mfv.py

test: env
	$(BIN)/python -m pytest -n $(WORKERS)

# Whole runs: demos of all systems, cut to about a minute each on two cores, must learn.
floors: env
	$(BIN)/python -m pytest -n $(WORKERS) --dist=load --confcutdir=tests/floors tests/floors

# Deliberate mistakes, applied one by one to a copy: which of them no test notices. Takes an hour; results/mutants.json.
mutants: env
	$(BIN)/python -m tests.mutants.run --workers $(WORKERS)

# Kills, signals, full disks, damaged files: each must end in one sentence or be survived. Half an hour, as root for the
# small disks; results/faults.json.
faults: env
	$(BIN)/python -m tests.faults.run --jobs $(WORKERS)

# Mistakes of a first hour: each must end in one sentence within five seconds of processor time. Some minutes;
# results/wrong_turns.json.
wrong-turns: env
	$(BIN)/python -m tests.first_hour.wrong_turns

# A new user's first hour in real processes, published weights from a server on localhost; results/first_hour.json.
first-hour: env
	$(BIN)/python -m tests.first_hour.walk --demo --folder $$(mktemp -d) --output results/first_hour.json

# Malformed inputs of every kind; tracebacks, hangs, memory and code run are counted. FAILURES=DIR keeps inputs that fail.
SECONDS ?= 600
INPUTS ?= 50000
SEED ?= 0
fuzz: env
	$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS) --inputs $(INPUTS) --seed $(SEED) $(if $(FAILURES),--failures $(FAILURES))

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site goes to site/; a broken link, a missing table or a docstring that does not parse fails.
docs: env
	test -x $(BIN)/mkdocs || $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf site $(VENV) .cache .mypy_cache .ruff_cache
