# On a fresh machine with Python >= 3.11: `make demo` runs the benchmark on digits, `make test` the quick tests.
# Each makes .venv by itself. PYTHON=python3.12 chooses the interpreter, LOCK= the newest releases, CUDA=no the
# newest releases and PyTorch without CUDA.
PYTHON ?= python3
LOCK ?= $(if $(filter no,$(CUDA)),,requirements.lock)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo grid paper test test-avx2 test-all kills bench lab docs lint lock clean
.DELETE_ON_ERROR:

demo: $(VENV)/ready
	$(BIN)/python -m semlib grid params/demo/benchmark.yaml --classes 5

# make grid PARAMS=params/fast/table3_cifar10.yaml GRID=--dry-run
PARAMS ?= params/demo/benchmark.yaml
GRID ?=
grid: $(VENV)/ready
	$(BIN)/python -m semlib grid $(PARAMS) $(GRID)

# All tables of the paper, each run once: make paper PROFILE=fast GRID="--on slurm --resource slurm_partition gpu"
PROFILE ?= fast
paper: PARAMS = $(wildcard params/$(PROFILE)/*.yaml)
paper: override GRID := --split method $(GRID)
paper: grid

# Two groups of tests side by side (a file, or a part of it: tests/conftest.py), a thread each, in the files' order
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

QUICK := -m "not slow and not notebook and not browser and not slurm and not data and not gpu"

test: $(VENV)/ready
	$(PYTEST) $(QUICK)

# Processors round differently, and no test may depend on it: the quick tests once more with PyTorch limited to AVX2, those
# of the files that compute with it: the others parse, draw and start processes.
COMPUTING := $(patsubst %,tests/test_%.py,runs new_images own_network training cpc metrics detectors models auxiliary appendix_d datasets)

test-avx2: $(VENV)/ready
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) $(QUICK) $(COMPUTING)

# The browser's alone: beside processes that train, pages answer late
test-all: $(VENV)/ready
	$(BIN)/python -m pytest -m gpu
	$(PYTEST) -m "slow or notebook or slurm or data"
	$(BIN)/python -m pytest tests/test_browser.py

# Random kills of the demo's grid: an hour for 200
N ?= 200
kills: $(VENV)/ready
	$(BIN)/python tests/kills.py --kills $(N) --log outputs/demo/kills.log

# On an otherwise idle machine; writes benchmarks/*.json. cpc_learning.py is an experiment, report.py their output
BENCHMARKS := $(filter-out %/report.py %/cpc_learning.py,$(wildcard benchmarks/*.py))
bench: $(VENV)/ready
	$(BIN)/python -m pip install --quiet "pytorch-ood>=0.4" faiss-cpu
	for script in $(BENCHMARKS); do $(BIN)/python $$script || exit 1; done

# Over copies of the notebooks in lab/, where their tables and figures go too, so that those in outputs/ stay.
# make lab LAB="--no-browser --port 9000" on a remote machine
LAB ?=
lab: $(VENV)/ready
	$(BIN)/python -c 'from workbench.batch import notebooks; notebooks.copy_all()'
	SEMLIB_RESULTS=$(CURDIR)/lab $(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/lab $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB)

# The site, in docs/_site: pages, executed notebooks, reference. A warning or a broken link is an error.
docs: $(VENV)/ready
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -c docs . docs/_site

lint: $(VENV)/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/ty check semlib workbench

# The environment of requirements.lock, then semlib itself; LOCK= takes the newest releases instead, after make clean
$(VENV)/ready: pyproject.toml $(LOCK)
	$(PYTHON) -m venv $(VENV)
ifeq ($(CUDA),no)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend cpu --editable ".[test,lab,docs,cluster]"
else ifeq ($(LOCK),)
	$(BIN)/python -m pip install --quiet --editable ".[test,lab,docs,cluster]"
else
	$(BIN)/python -m pip install --quiet --require-hashes --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
endif
	touch $@

# With uv (pip install uv); hashes of every file for CPython 3.11 to 3.13 on all systems
lock:
	uv pip compile --upgrade --universal --generate-hashes --no-annotate --no-header --python-version 3.11 --all-extras \
	    --output-file requirements.lock pyproject.toml requirements.in

clean:
	rm -rf $(VENV)
