# make demo    install into .venv, train on rendered digits (no download, no GPU needed), print where the report is
# make test    install what the tests need, check the style and the types, run the tests
# make notebooks   run the notebooks (notebooks/*.py) and write them with their outputs (notebooks/*.ipynb); QUICK=0: as on the sheets
# make index   write log/index.html, a table of all log folders in log
# make clean   remove .venv and what the demo wrote
# make test-oldest    run the tests with the oldest releases of requirements.txt; OLDEST names a Python 3.8

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Tests run in this many processes, each with one thread: their tensors are small.
WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal
OLDEST ?= python3.8

.PHONY: demo test test-oldest notebooks index clean

demo: $(VENV)/.runtime
	$(BIN)/python train_mnist.py --dataset rendered --log_dir log/log_demo --n_features 16 --batch_size 16 --l_rate 1e-3 --n_epochs 2 --limit 23000

test: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST)

test-oldest: BIN = $(VENV)-oldest/bin
test-oldest: $(VENV)-oldest/.dev
	$(PYTEST) $(TESTS)

notebooks: $(VENV)/.dev
	$(BIN)/python tests/run_notebooks.py

index: $(VENV)/.runtime
	$(BIN)/python report.py --index log

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-newest log/log_demo log/log_demo_old*

$(VENV)/.runtime: requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 8) or sys.exit("Python 3.8 to 3.13 is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	touch $@

# The lower bound of each requirement becomes the release itself.
$(VENV)-oldest/.dev: requirements.txt
	$(OLDEST) -m venv $(VENV)-oldest
	sed -n 's/>=/==/p' requirements.txt > $(VENV)-oldest/constraints.txt
	$(VENV)-oldest/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt 'pytest>=7' 'pytest-xdist>=3.2' -c $(VENV)-oldest/constraints.txt
	touch $@
