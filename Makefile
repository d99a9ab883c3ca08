# Everything that is slow to make lies outside the checkout, below CACHE, keyed by version.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/finetune-operator
PYTHON ?= python3
UV := $(CACHE)/uv/bin/uv
BIN := .venv/bin
# Certificates of this machine, such as those of a company's proxy, count too.
export UV_SYSTEM_CERTS ?= 1
# Without compiled modules every process of every test would import for twenty seconds.
unexport PYTHONDONTWRITEBYTECODE
# A minute, in a new checkout.
export MYPY_CACHE_DIR := $(CACHE)/mypy
RIGHT_PYTHON := finetune-operator needs Python 3.11 or newer; say which with PYTHON=…
CHECK_PYTHON = command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there: $(RIGHT_PYTHON)" >&2; exit 1; }; \
  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(RIGHT_PYTHON)")'
UV_INSTALL := $(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt

.PHONY: install preflight demo quickstart-inputs compiled demo-chat test tested test-unit test-smoke test-cluster test-gpu \
  programs cluster cluster-possible cluster-made cluster-down lint crds constraints bench clean

install: .venv/.installed

$(UV):
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(CACHE)/uv
	$(CACHE)/uv/bin/python -m pip install --quiet --disable-pip-version-check uv

# What needs no torch is all that `make test-unit` needs.
.venv/.unit: pyproject.toml constraints.txt | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	$(UV_INSTALL) --editable '.[cli,data,dev,operator]'
	touch $@

# DeepSpeed is built against the torch that is there, so torch comes first.
.venv/.installed: .venv/.unit
	$(UV_INSTALL) torch setuptools wheel
	$(UV_INSTALL) --no-build-isolation-package deepspeed --requirement pyproject.toml --extra examples --extra trainer
	touch $@

.venv/.bench: .venv/.installed
	$(UV_INSTALL) --editable '.[bench]'
	touch $@

# What is missing is said before anything is built.
preflight:
	@$(CHECK_PYTHON)
	@$(PYTHON) examples/preflight.py

demo: preflight install
	$(MAKE) --jobs 2 quickstart-inputs compiled
	$(BIN)/finetune run examples/quickstart.yaml

quickstart-inputs:
	$(BIN)/python examples/make_inputs.py quickstart

# Each training process would compile what it imports, and they start together. It says what a job would say again.
compiled:
	-@exec $(BIN)/python -c 'import finetune_trainer.train.gang, finetune_trainer.evaluate.classify' >/dev/null 2>&1

demo-chat: preflight install
	$(BIN)/python examples/make_inputs.py chat
	$(BIN)/finetune run examples/chat-lora.yaml

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m finetune_api.crd --check crds/finetunejobs.finetune.dev.yaml
	$(BIN)/python -m finetune_api.docs --check docs/api.md

# What `make test` runs against, the slowest to build first.
PROGRAMS := kube-apiserver etcd helm promtool versitygw
# A file at a time for each process. Many tests mostly wait, so there is one process more than cores; see tests/conftest.py.
BY_FILE := $(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 20
# A test of longer hangs, and a process that does not hear of it a minute later is lost.
HANGS := --timeout 600 --override-ini faulthandler_timeout=660 --override-ini faulthandler_exit_on_timeout=true
# Every Python process that a test starts measures what it runs. Times of tests/unit say nothing while it does.
MEASURED := COVERAGE_PROCESS_START=$(CURDIR)/pyproject.toml COVERAGE_FILE=$(CURDIR)/.coverage

# Ends all that it has started, also when it is interrupted, and wherever it is then.
test:
	@$(PYTHON) -m tests.preflight $(CACHE) $(PROGRAMS)
	@$(PYTHON) -m tests.supervised $(MAKE) --no-print-directory tested

# Go compiles from the first moment, beside the environment's installation and lint.
tested:
	$(MAKE) --no-print-directory --jobs 3 programs lint
	rm -f .coverage .coverage.*
	$(MEASURED) $(BIN)/pytest --numprocesses 2 --dist worksteal $(HANGS) --quiet tests/unit
	$(MEASURED) $(BY_FILE) $(HANGS) tests/trainer tests/apiserver tests/chart tests/runs
	$(BIN)/python -m tests.covered

programs:
	$(PYTHON) -m tests.tools $(PROGRAMS)

cluster-made: cluster-possible install
	$(BIN)/python -m tests.cluster.cluster build

test-unit: .venv/.unit
	$(BIN)/pytest --numprocesses 2 --dist worksteal tests/unit

# Everything on a real Kubernetes, on this machine: half an hour.
test-cluster: cluster-possible install
	$(BY_FILE) tests/cluster/serial tests/cluster/smoke tests/cluster/test_*.py

# The main job, one crash and one fault of storage: what breaks most tests of the cluster breaks these.
test-smoke: cluster-possible install
	$(BY_FILE) tests/cluster/smoke

# What `make test` cannot do without one; the processes share it.
test-gpu: install
	$(BIN)/pytest --numprocesses 6 --dist load --durations 20 tests/gpu

# Says in a sentence what is missing, with no more than Python, before anything is built.
cluster-possible:
	@$(PYTHON) -m tests.cluster.preflight $(ALSO)
cluster test-cluster: ALSO := prometheus

# A real Kubernetes on this machine; needs Linux, root and Go. The first time takes twenty minutes.
cluster: cluster-possible install
	$(BIN)/python -m tests.cluster.cluster up

cluster-down: install
	$(BIN)/python -m tests.cluster.cluster down

bench: .venv/.bench
	for name in prepare storage train checkpoint operator; do $(BIN)/python -m bench.$$name || exit 1; done

crds: install
	$(BIN)/python -m finetune_api.crd > crds/finetunejobs.finetune.dev.yaml
	cp crds/finetunejobs.finetune.dev.yaml charts/finetune-operator/files/
	$(BIN)/python -m finetune_api.docs > docs/api.md

# Versions only: no addresses of an index.
constraints: .venv/.bench
	$(UV) pip freeze --python $(BIN)/python --exclude-editable > constraints.txt

clean:
	rm -rf .venv
