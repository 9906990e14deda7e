PYTHON ?= python3
VENV ?= .venv
READY := $(VENV)/.installed

.PHONY: help demo static test check

help:
	@echo "make demo    serve the app on http://127.0.0.1:7860 with the bundled checkpoint"
	@echo "make static  build the page that reads in the browser (needs npm), and serve it on http://127.0.0.1:8000"
	@echo "make test    run the whole test suite"
	@echo "make check   run formatter, linter, type checker and import rules"
	@echo "Each command first creates the environment $(VENV) if it is missing or out of date (about 6 GB)."

$(READY): pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --constraint .ci/constraints.txt --editable ".[all,dev]"
	touch $@

demo: $(READY)
	$(VENV)/bin/python app.py

static: $(READY)
	rm -rf build/static
	$(VENV)/bin/python scripts/push_space.py --static --output_dir build/static
	$(VENV)/bin/python -m http.server --bind 127.0.0.1 --directory build/static 8000

test: $(READY)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal --durations=20

check: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
