# Everything a contributor runs. `make` alone lists it. The environment is made on first use, in .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Source roots that hold code; a root is left out until it has some.
ROOTS  := runtime $(if $(wildcard operator/*/*.py),operator) e2e
# Arguments for pytest, the fault runs and the benchmarks: make test ARGS="-k keys"
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format parts parts-kubernetes kubernetes unit long e2e e2e-up e2e-down simulate faults faults-kubernetes soak soak-processes bench bench-state bench-memory bench-e2e bench-operator crds manifests docs-reference locks clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## create the environment and install the project with all extras

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python must be 3.11 or newer (got %d.%d); try make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,examples]'
	@touch $@

demo: $(STAMP) ## run the main example on real input, with a worker killed on the way
	$(BIN)/python examples/flight-delays/demo.py

test: lint unit ## everything that must hold before a change is merged

lint: $(STAMP) ## style, types and import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict $(ROOTS)
	$(BIN)/lint-imports

format: $(STAMP) ## put the code into the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

parts: $(STAMP) ## get the real servers that tests run against, once (needs Go, Java and Maven)
	$(BIN)/python tests/real_parts/install_parts.py

parts-kubernetes: $(STAMP) ## build what serves the Kubernetes API, once: ten minutes of two cores (needs Go)
	PYTHONPATH=e2e $(BIN)/python -m cluster install

kubernetes: parts-kubernetes ## serve the Kubernetes API, with nodes that run nothing, until Ctrl-C; prints how to use it
	@PYTHONPATH=e2e $(BIN)/python -m cluster control-plane $(ARGS)

unit: parts ## the tests alone
	$(BIN)/pytest -n 2 -m "not long" $(ARGS)

long: parts parts-kubernetes ## the tests that `make test` leaves out: whole jobs on a Kubernetes API, and what may happen to them
	$(BIN)/pytest -n 2 -m long $(ARGS)

e2e: $(STAMP) ## tests against a Kubernetes with real pods: kind with Docker, else one of our own (root, Debian, Go)
	$(BIN)/python e2e/run.py $(ARGS)

e2e-up: $(STAMP) ## bring that Kubernetes up, to stay, or bring it to the current code
	@PYTHONPATH=e2e $(BIN)/python -m cluster up

e2e-down: $(STAMP) ## remove it
	@PYTHONPATH=e2e $(BIN)/python -m cluster down

simulate: $(STAMP) ## play 1000 stories of what may happen to a job while operators look after it
	$(BIN)/python tests/operator/simulate.py $(ARGS)

faults: $(STAMP) ## kill processes and break storage at random moments, 96 seeded runs
	$(BIN)/python tests/faults/run.py $(ARGS)

faults-kubernetes: $(STAMP) ## strike at pods, operator and storage of a whole job on a Kubernetes API for a minute
	$(BIN)/python tests/kubernetes/run_strikes.py $(ARGS)

soak: $(STAMP) ## strike at a job on a Kubernetes with real pods, every 20 to 40 seconds for 15 minutes; ARGS="--seconds 60 --seed 7"
	$(BIN)/python e2e/run.py -n 0 --dist no -k soak --seconds 900 $(ARGS)

soak-processes: $(STAMP) ## ten minutes at a steady rate without Kubernetes, with a kill every 20 seconds
	$(BIN)/python tests/faults/soak_processes.py $(ARGS)

bench: $(STAMP) ## measure speed and print one table
	$(BIN)/python bench/run.py $(ARGS)

bench-state: $(STAMP) ## measure storing, restoring and moving state, on a real S3 server
	$(BIN)/python bench/state.py $(ARGS)

bench-memory: $(STAMP) ## measure whether RocksDB state of 5 GiB stays within 256 MiB of memory
	$(BIN)/python bench/state_memory.py
	$(BIN)/python bench/job_memory.py

bench-e2e: $(STAMP) ## measure starts, failures and changes of a job on a Kubernetes with real pods, beside a bare pod
	$(BIN)/python bench/e2e.py $(ARGS)

bench-operator: parts-kubernetes ## measure the operator with 1,000 jobs, on a real API server
	$(BIN)/python bench/operator_scale.py $(ARGS)

crds: $(STAMP) ## make the CustomResourceDefinitions from the models
	$(BIN)/python -m checkdam.spec.crd crds
	cp crds/*.yaml charts/checkdam/files/crds/
	cp crds/*.yaml deploy/kustomize/crds/

manifests: crds ## make what is deployed out of the chart, the CustomResourceDefinitions and the scripts for Argo CD (needs Go)
	$(BIN)/python deploy/make_manifests.py

docs-reference: $(STAMP) ## make the pages of docs/reference from the models
	$(BIN)/python -m checkdam.spec.reference docs/reference
	$(BIN)/python -m checkdam.coordinator.openapi docs/openapi.json
	$(BIN)/python docs/make_reference.py

LOCK := $(BIN)/uv pip compile --quiet --upgrade --python-version 3.11 --python-platform linux --generate-hashes --no-header
LOCKS := images/requirements

locks: $(STAMP) ## pin anew what goes into the images
	$(LOCK) --extra hdfs --extra fsspec pyproject.toml --output-file $(LOCKS)/runtime.txt
	$(LOCK) --constraints $(LOCKS)/runtime.txt $(LOCKS)/operator.in --output-file $(LOCKS)/operator.txt
	$(LOCK) $(LOCKS)/build.in --output-file $(LOCKS)/build.txt

clean: ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
