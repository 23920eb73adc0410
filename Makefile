PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo check test test-peer bench-smoke coverage lint types clean

demo: $(VENV)/installed
	$(BIN)/dinado demo

check: lint types
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test: lint types
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-peer: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[peer]'
	$(BIN)/python -m pytest tests/benchmarks

bench-smoke: $(VENV)/installed
	for what in vocab train decode rollout beam; do \
		$(BIN)/dinado bench $$what --size tiny --batch 8 --length 8 --repeats 1 || exit 1; \
	done

coverage: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov dinado_jax --cov-report term

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/basedpyright

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) runs/demo
