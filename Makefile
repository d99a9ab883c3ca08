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

.PHONY: install preflight demo quickstart-inputs compiled demo-chat test test-unit test-cluster test-gpu programs cluster-made cluster cluster-down lint crds constraints bench clean

install: .venv/.installed

$(UV):
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(CACHE)/uv
	$(CACHE)/uv/bin/python -m pip install --quiet --disable-pip-version-check uv

# DeepSpeed is built against the torch that is there, so torch comes first.
.venv/.installed: pyproject.toml constraints.txt | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	$(UV_INSTALL) torch setuptools wheel
	$(UV_INSTALL) --no-build-isolation-package deepspeed --editable '.[cli,dev,examples,operator,trainer]'
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

# A file for each process, in this order: tests that need no cluster keep those company that want it alone, and what shares it
# has the soak for company. Tests of the cluster mostly wait, so there may be more processes than cores.
PYTEST := $(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 20

# What the tests run against is made before them: beside those that need no cluster it takes as long, and nothing would be left
# to do beside those that want the cluster alone and mostly wait. It goes on beside lint, which leaves a core idle, as do the
# images; the first programs need not wait for uv. Where no cluster can be, its tests say so again.
test:
	$(MAKE) --jobs 3 lint programs cluster-made
	$(PYTEST) tests/cluster/serial tests/trainer tests/apiserver tests/chart tests/unit tests/cluster/test_*.py

programs:
	$(PYTHON) -m tests.tools crane etcd kube-apiserver

cluster-made: install
	-$(BIN)/python -m tests.cluster.cluster build

test-unit: install
	$(BIN)/pytest tests/unit

test-cluster: install
	$(PYTEST) tests/cluster/serial tests/cluster/test_*.py

# What `make test` cannot do without one; the processes share it.
test-gpu: install
	$(BIN)/pytest --numprocesses 6 --dist load --durations 20 tests/gpu

# A real Kubernetes on this machine; needs Linux, root and Go. The first time takes twenty minutes.
cluster: install
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
