# Two commands on a machine with Python >= 3.11 and make:  make demo  and  make test.  Both install what they need into .venv, once.
PYTHON ?= python3
BIN := .venv/bin
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
DEMO ?= runs/demo
export MPLBACKEND := Agg
# read when torch is loaded: threads that wait leave the core to others instead of spinning on it
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test results lint notebooks pytest sync kernels docs wheel clean

demo: .venv/user
	$(BIN)/galaxy-cnn demo --out $(DEMO)

test: lint notebooks pytest sync

# README.md, results/README.md and all figures that come from stored numbers and predictions: a minute and a half of one core, nothing is trained
results: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/draw.py

# unused names, order of imports, 120 columns
lint: .venv/dev
	$(BIN)/ruff check

# one thread in each of as many workers as there are cores
notebooks: .venv/dev
	cd nbs && OMP_NUM_THREADS=1 ../$(BIN)/nbdev_test --n_workers $(CORES) --timing --do_print

pytest: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(CORES) --dist worksteal -rs tests

# The notebooks are the source: cleaning and exporting them must change nothing.
sync: .venv/dev
	@before=$$(git status --porcelain; git diff | sha256sum); $(BIN)/nbdev_clean && $(BIN)/nbdev_export && \
	after=$$(git status --porcelain; git diff | sha256sum); \
	if [ "$$before" != "$$after" ]; then git status --short; echo "Notebooks and package are out of step: commit what nbdev_clean and nbdev_export changed."; exit 1; fi; \
	echo "Notebooks are clean and the package is what they export."

# every notebook, top to bottom, in a Jupyter kernel, from the folder where a person opens it
kernels: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python tests/run_in_kernel.py --workers $(CORES) nbs/*.ipynb

# the documentation site, in _docs, from the notebooks as they are stored
docs: .venv/dev
	$(BIN)/python docs/build.py

wheel: .venv/dev
	$(BIN)/python -m build --wheel --outdir dist .

.venv/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"galaxy_cnn needs Python 3.11 or newer, this is {v.major}.{v.minor}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

.venv/user: settings.ini setup.py | .venv/bin/python
	@test -e .venv/dev || $(BIN)/pip install --disable-pip-version-check -q -e .
	@touch $@

.venv/dev: settings.ini setup.py | .venv/bin/python
	$(BIN)/pip install --disable-pip-version-check -q -e '.[dev]'
	@touch $@ .venv/user

clean:
	rm -rf dist build *.egg-info .pytest_cache .hypothesis
