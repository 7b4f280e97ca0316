# make demo    install into .venv, train on rendered digits (no download, no GPU needed), print where the report is
# make test    install what the tests need, check the style, run the tests
# make index   write log/index.html, a table of all log folders in log
# make clean   remove .venv and what the demo wrote

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test index clean

demo: $(VENV)/.runtime
	$(BIN)/python train_mnist.py --dataset rendered --log_dir log/log_demo --n_features 16 --batch_size 64 --n_epochs 2 --limit 35000

test: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q

index: $(VENV)/.runtime
	$(BIN)/python report.py --index log

clean:
	rm -rf $(VENV) log/log_demo log/log_demo_old*

$(VENV)/.runtime: requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	touch $@
