# On a fresh machine with Python >= 3.11: `make demo` runs the benchmark on digits, `make test` the quick tests.
# Each makes .venv by itself. PYTHON=python3.12 chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo grid test test-all lab lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/ready
	$(BIN)/python -m semlib grid params/demo/benchmark.yaml

# make grid PARAMS=params/fast/table3_cifar10.yaml
PARAMS ?= params/demo/benchmark.yaml
grid: $(VENV)/ready
	$(BIN)/python -m semlib grid $(PARAMS)

# Two files of tests side by side, a thread each
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test: $(VENV)/ready
	$(PYTEST) -m "not slow and not notebook and not browser and not slurm and not data"

test-all: $(VENV)/lab
	$(PYTEST) -m "slow or notebook or browser or slurm or data"

# make lab LAB="--no-browser --port 9000" on a remote machine
LAB ?=
lab: $(VENV)/lab
	$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB)

lint: $(VENV)/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

$(VENV)/lab: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --editable ".[lab]"
	touch $@

clean:
	rm -rf $(VENV)
