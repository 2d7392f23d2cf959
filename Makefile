# make demo: the main job · make check: lint, types, layers, docs · make test: the tests · make docs: generated pages
VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --constraint infra/constraints.txt
# make chaos DURATION_S=600 SEED=1: faults on running processes · make fuzz RUNS=10000000: broken messages
DURATION_S ?= 600
RUNS ?= 10000000
SOURCES := common device_agent edge_broker cloud_worker tests benchmarks docs

.PHONY: demo check test docs chaos fuzz clean

demo: $(VENV)/demo.stamp
	$(BIN)/dimee demo --log dimee-demo.sqlite

check: $(VENV)/test.stamp
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/docs

test: $(VENV)/test.stamp
	$(BIN)/pytest tests

chaos: $(VENV)/test.stamp
	$(BIN)/python -m tests.chaos --duration $(DURATION_S) $(if $(SEED),--seed $(SEED))

fuzz: $(VENV)/test.stamp
	$(BIN)/python -m tests.fuzz --plain --runs $(RUNS)

docs: $(VENV)/test.stamp
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) build *.egg-info

$(BIN)/python:
	python3 -m venv $(VENV)

$(VENV)/demo.stamp: $(BIN)/python pyproject.toml infra/constraints.txt
	$(INSTALL) --editable '.[edge]'
	touch $@

$(VENV)/test.stamp: $(BIN)/python pyproject.toml infra/constraints.txt
	$(INSTALL) torch    # the constraints pin the version: a plain torch may bring gigabytes of GPU packages
	$(INSTALL) --editable '.[dashboard,edge,evaluate,metrics,parquet,postgresql,security,tracing,train,check,test]'
	touch $@
