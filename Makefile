# make demo: from nothing to a tracked MIMU run.   make test: the tests.   make check: before a commit.
# make docs: the site, into site/.   make torture: a sweep that is killed again and again.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A worker for each core; a test file stays in one worker. tests/conftest.py puts the slow files first.
# Python keeps what it compiled, or each worker, and each process that a test starts, would compile all of it again.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: demo test torture check lint docs clean

demo: $(VENV)/.installed
	$(BIN)/python -u mlflow_forget.py --unlearn MIMU
	@echo
	@echo "Look at the run:      $(BIN)/mlflow ui              then open http://127.0.0.1:5000"
	@echo "All runs as a table:  $(BIN)/python mlruns_parser.py   -> mlruns_parsed.csv"

test: $(VENV)/.installed-dev
	$(PYTEST)

torture: $(VENV)/.installed-dev
	LETHE_TORTURE=50 $(BIN)/python -m pytest -s tests/test_sweep_run.py -k whoever_is_killed

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

check: lint
	$(PYTEST) -m "not slow"

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
