# Results that take long to build are cached outside the checkout, in CACHE, by version.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/finetune-operator
PYTHON ?= python3
UV := $(CACHE)/uv/bin/uv
BIN := .venv/bin
# Trust the certificates of this machine as well, such as those of a corporate proxy.
export UV_SYSTEM_CERTS ?= 1
# Without bytecode caches, every process that a test starts would spend twenty seconds on imports.
unexport PYTHONDONTWRITEBYTECODE
# A cold mypy cache costs a minute in a new checkout.
export MYPY_CACHE_DIR := $(CACHE)/mypy
RIGHT_PYTHON := finetune-operator needs Python 3.11 or newer; select one with PYTHON=…
CHECK_PYTHON = command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: $(RIGHT_PYTHON)" >&2; exit 1; }; \
  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(RIGHT_PYTHON)")'
# For tests that compare losses. It is no package of the environment, because transformers would import it everywhere.
TRL := trl datasets dill multiprocess pandas python-dateutil six xxhash
# For the test of endpoints against `transformers serve`; transformers would import some of it everywhere.
SERVING := fastapi opentelemetry-api starlette uvicorn
UV_INSTALL := $(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt

.PHONY: install help preflight demo quickstart-inputs compiled examples test tested test-unit test-families test-methods test-smoke test-cluster test-gpu \
  programs cluster cluster-possible cluster-made cluster-down lint crds constraints bench clean

install: .venv/.installed ## Create .venv with everything needed to develop and test (default target)

# Needs make and awk only: it runs before anything is installed.
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(UV):
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(CACHE)/uv
	$(CACHE)/uv/bin/python -m pip install --quiet --disable-pip-version-check uv

# `make test-unit` needs only the packages that do not depend on torch.
.venv/.unit: pyproject.toml constraints.txt | $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	$(UV_INSTALL) --editable '.[cli,data,dev,operator]'
	touch $@

# DeepSpeed's build imports the installed torch, so torch comes first.
.venv/.installed: .venv/.unit Makefile trainer_image/finetune_trainer/harness/requirements.txt
	$(UV_INSTALL) torch setuptools wheel
	$(UV_INSTALL) --no-build-isolation-package deepspeed --requirement pyproject.toml --extra examples --extra trainer
	$(UV) pip install --quiet --target .venv/trl --no-deps --constraint constraints.txt $(TRL)
	$(UV) pip install --quiet --target .venv/serving --no-deps --constraint constraints.txt $(SERVING)
	$(UV) pip install --quiet --python $(BIN)/python --target .venv/harness --no-deps --constraint constraints.txt \
	  --requirement trainer_image/finetune_trainer/harness/requirements.txt
	touch $@

.venv/.bench: .venv/.installed
	$(UV_INSTALL) --editable '.[bench]'
	touch $@

# Reports missing prerequisites before anything is built.
preflight:
	@$(CHECK_PYTHON)
	@$(PYTHON) examples/preflight.py

demo: preflight install ## Fine-tune a small encoder on this machine (examples/quickstart.yaml)
	$(MAKE) --jobs 2 quickstart-inputs compiled
	$(BIN)/finetune run examples/quickstart.yaml

quickstart-inputs:
	$(BIN)/python examples/make_inputs.py quickstart

# Training processes start together, and each would compile what it imports. Errors are hidden: the job reports them.
compiled:
	-@exec $(BIN)/python -c 'import finetune_trainer.train.gang, finetune_trainer.tasks.text_classification.evaluation' >/dev/null 2>&1

# demo-chat, demo-summarization, …: one for each manifest.
demo-%: preflight install
	$(BIN)/python examples/make_inputs.py $*
	$(BIN)/finetune run examples/$*.yaml

# A server on this machine answers for the teacher while the job runs.
demo-distillation-responses: preflight install
	$(BIN)/python examples/make_inputs.py distillation-responses
	$(BIN)/python examples/serve_model.py examples/models/teacher 8742 $(BIN)/finetune run examples/distillation-responses.yaml

examples: preflight install ## Run all examples, and write the table of README.md (15 minutes on two cores)
	$(BIN)/python examples/run_all.py

lint: install ## Run ruff, mypy and import-linter, and check the generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m finetune_api.crd --check crds/finetunejobs.finetune.dev.yaml
	$(BIN)/python -m finetune_api.docs --check docs/api.md
	$(BIN)/python -m finetune_api.support --check docs/support.md
	$(BIN)/python -m tests.families.results --check
	$(BIN)/python -m tests.combinations.results --check

# The programs that `make test` runs against, slowest build first.
PROGRAMS := kube-apiserver etcd helm promtool versitygw
# Each process takes one file at a time. Many tests mostly wait, so there is one process more than cores; see tests/conftest.py.
BY_FILE := $(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 20
# A test that takes longer than this hangs. A process that does not react within another minute is killed.
HANGS := --timeout 600 --override-ini faulthandler_timeout=660 --override-ini faulthandler_exit_on_timeout=true
# Every Python process that a test starts records coverage; see tests/site/measuring.py.
MEASURED := COVERAGE_FILE=$(CURDIR)/.coverage

# Stops every process that it started, even when it is interrupted.
test: ## Run lint and all tests that need neither a cluster nor a GPU (15 minutes on two cores)
	@$(PYTHON) -m tests.preflight $(CACHE) $(PROGRAMS)
	@$(PYTHON) -m tests.supervised $(MAKE) --no-print-directory tested

# Go builds in parallel with the installation of the environment and with lint.
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

test-unit: .venv/.unit ## Run the unit tests, without torch (2 minutes)
	$(BIN)/pytest --numprocesses 2 --dist worksteal tests/unit

test-cluster: cluster-possible install ## Run all tests on a real cluster on this machine (28 minutes on two cores)
	$(BY_FILE) tests/cluster/serial tests/cluster/smoke tests/cluster/test_*.py

# The main job, one crash and one storage fault: whatever breaks most cluster tests breaks these.
test-smoke: cluster-possible install ## Run the most important cluster tests (6 minutes on two cores)
	$(BY_FILE) tests/cluster/smoke

# Continues an interrupted run. After an upgrade of transformers or PEFT, it tries every model type again.
test-families: install ## Try every model type of transformers with small random models (an hour), and write docs/models.md
	$(BIN)/python -m tests.families.run
	$(BIN)/python -m tests.families.results

# Continues an interrupted run. After a change of a method or a task, delete its lines in tests/combinations/results.jsonl.
test-methods: install ## Try every combination of task, model, method and quantization with small models (20 minutes), and write docs/combinations.md
	$(BIN)/python -m tests.combinations.run
	$(BIN)/python -m tests.combinations.results

# The processes share the GPU.
test-gpu: install ## Run the tests that need a GPU
	$(BIN)/pytest --numprocesses 6 --dist load --durations 20 tests/gpu

# Reports in one sentence what is missing, with nothing but Python, before anything is built.
cluster-possible:
	@$(PYTHON) -m tests.cluster.preflight $(ALSO)
cluster test-cluster: ALSO := prometheus

# Needs Linux, root and Go. The first run takes twenty minutes.
cluster: cluster-possible install ## Start a real Kubernetes cluster on this machine, with the operator installed
	$(BIN)/python -m tests.cluster.cluster up

cluster-down: install ## Stop that cluster and remove it from this machine
	$(BIN)/python -m tests.cluster.cluster down

bench: .venv/.bench ## Run all benchmarks that need no GPU
	for name in prepare storage train checkpoint operator; do $(BIN)/python -m bench.$$name || exit 1; done

crds: install ## Generate the CRD and the references in docs from the models, tables and results
	$(BIN)/python -m finetune_api.crd > crds/finetunejobs.finetune.dev.yaml
	cp crds/finetunejobs.finetune.dev.yaml charts/finetune-operator/files/
	$(BIN)/python -m finetune_api.docs > docs/api.md
	$(BIN)/python -m finetune_api.support > docs/support.md
	$(BIN)/python -m tests.families.results
	$(BIN)/python -m tests.combinations.results

# Versions only, without the address of any package index.
constraints: .venv/.bench ## Pin the installed versions in constraints.txt
	{ $(UV) pip freeze --python $(BIN)/python --exclude-editable; $(UV) pip freeze --path .venv/harness; \
	  $(UV) pip freeze --path .venv/serving; } \
	  | LC_ALL=C sort --unique --field-separator '=' --key 1,1 > constraints.txt

clean: ## Remove .venv
	rm -rf .venv
