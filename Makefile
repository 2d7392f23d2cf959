# make demo: the main job · make check: lint, types, layers, secrets, docs · make test: the tests · make docs: generated pages
# make sbom: a bill of materials of the lock file in build/ · make audit: its packages against an advisory service
VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --constraint infra/constraints.txt
# make chaos DURATION_S=600 SEED=1: faults on running processes · make fuzz RUNS=10000000: broken messages
DURATION_S ?= 600
RUNS ?= 10000000
SOURCES := common device_agent edge_broker cloud_worker tests benchmarks docs .ci
BUILD ?= build

.PHONY: demo check test docs sbom audit chaos fuzz clean

demo: $(VENV)/demo.stamp
	$(BIN)/dimee demo --log dimee-demo.sqlite

check: $(VENV)/test.stamp
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	mkdir -p $(BUILD) && cp .ci/secrets.json $(BUILD)/    # a copy: it is written anew, with status 3, when lines have moved
	$(BIN)/detect-secrets-hook --no-verify --baseline $(BUILD)/secrets.json $$(git ls-files) || test $$? = 3
	$(BIN)/pytest -q tests/docs

test: $(VENV)/test.stamp
	$(BIN)/pytest tests

sbom: $(VENV)/test.stamp
	mkdir -p $(BUILD)
	$(BIN)/cyclonedx-py requirements infra/constraints.txt --pyproject pyproject.toml --output-reproducible --output-file $(BUILD)/sbom.json

audit: $(VENV)/test.stamp
	$(BIN)/python .ci/audit.py $(BIN)/pip-audit --requirement infra/constraints.txt --no-deps --disable-pip --progress-spinner off --format json

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
	$(INSTALL) --editable '.[dashboard,edge,evaluate,metrics,parquet,postgresql,security,supply,tracing,train,check,test]'
	touch $@
