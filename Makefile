# Everything a person types. `make` alone lists the targets.

PYTHON ?= python3.11
VENV ?= .venv
LINE ?= sample
# Where to take PyTorch from. On Linux the default build brings gigabytes of CUDA; for the processor alone:
#   make install TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH ?= torch==2.13.0
TORCH_INDEX ?=

BIN := $(abspath $(VENV))/bin
STEPS := validate synthesize cache-teacher distill train-fa evaluate export register
STAMP := $(VENV)/.installed

# The stages call `stlm`, so the environment comes first on the path.
export PATH := $(BIN):$(PATH)
export PYTHONNOUSERSITE := 1
export GX_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := true
# Where this is set, each of the tests' many processes would compile PyTorch and MLflow anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo repro bench test test-slow test-containers lint format lock images sbom pipeline-local validate-infra ui clean
.DELETE_ON_ERROR:

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Create .venv from requirements.lock (PYTHON=, TORCH_INDEX=)

# --no-compile: Python compiles the few modules that are imported, instead of pip all of every package.
$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found: install Python 3.11, or name it with PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "make: $(PYTHON) is not Python 3.11; name one with PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "make: $(PYTHON) cannot make environments; on Debian and Ubuntu: apt install python3.11-venv" >&2; exit 2; }
	"$(BIN)/python" -m pip install --quiet --no-compile --no-deps --require-hashes -r requirements.lock
	"$(BIN)/python" -m pip install --quiet --no-compile $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	"$(BIN)/python" -m pip install --quiet --no-deps --editable .
	@touch $@

demo: install .dvc/config.local ## The sample line from nothing to a promoted model, and its table
	stlm sample
	stlm weights fetch efficientnet_lite0
	dvc repro $(addsuffix @sample,$(STEPS))
	# A champion that stays, or waits for a person to decide, is no failure.
	stlm promote --line sample || [ $$? -ge 3 ]
	stlm summary --line sample

repro: install .dvc/config.local ## Bring one line up to date (LINE=sample)
	dvc repro $(addsuffix @$(LINE),$(STEPS))

BENCHMARKS := inference_speed compute_speed training_speed decoder_training_speed metrics_speed synthesis_speed decode_speed cache_speed scale
BENCH_OUT ?= outputs/bench
# One after the other: they would slow each other down. Leave the machine alone meanwhile.
bench: install ## Time the parts side by side with their alternatives; JSON in outputs/bench (BENCH_OUT=)
	@mkdir -p $(BENCH_OUT)
	@set -e; for name in $(BENCHMARKS); do \
		echo "== $$name"; "$(BIN)/python" benchmarks/$$name.py --json $(BENCH_OUT)/$$name.json; done

# A checkout without git (an archive, an image) works too.
.dvc/config.local:
	@test -e .git && printf '' > $@ || printf '[core]\n    no_scm = true\n' > $@

# Neighbours stay together, for what a file shares is made once; a worker that is done takes half of another's rest.
TEST_WORKERS ?= auto
IN_PARALLEL := -n $(TEST_WORKERS) --maxprocesses 4 --dist worksteal
test: install ## The fast tests (TEST_WORKERS=)
	"$(BIN)/python" -m pytest $(IN_PARALLEL)

test-slow: install ## The slow tests: real training, real data, DVC's decisions
	"$(BIN)/python" -m pytest -m slow $(IN_PARALLEL)

# SKIPPED when there is no container engine, or no root to install one: pytest says so.
test-containers: install ## The pipeline in real containers; needs Docker and the images
	"$(BIN)/python" -m pytest -m containers

lint: install ## Style, types and import rules
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-cache

format: install ## Rewrite the sources in the project's style
	ruff check --fix .
	ruff format .

# PyTorch is left out because its build depends on the machine; the constraint keeps the CUDA packages of its default
# Linux build out too. Where the CPU build is not on the default index: UV_FIND_LINKS=FOLDER or TORCH_INDEX=URL.
lock: ## Rewrite requirements.lock and those of the images (needs uv)
	@command -v uv >/dev/null || { echo "make: uv not found: see https://docs.astral.sh/uv" >&2; exit 2; }
	echo '$(TORCH)+cpu' | uv pip compile pyproject.toml --extra train --extra serve --extra workstation --extra pipelines --extra dev \
		--python-version 3.11 --generate-hashes --no-emit-package torch --no-emit-package setuptools \
		--no-emit-index-url --custom-compile-command "make lock" $(if $(TORCH_INDEX),--index $(TORCH_INDEX)) \
		--constraint /dev/stdin --output-file requirements.lock
	cd infra/docker/requirements && for set in *.in; do uv pip compile --quiet $$set --python-version 3.11 --generate-hashes \
		--no-emit-package torch --no-emit-index-url --no-header --constraint ../../../requirements.lock \
		$(if $(TORCH_INDEX),--index $(TORCH_INDEX)) --output-file $${set%.in}.txt || exit; done

# BASE_IMAGE=local makes the base from Debian's packages, where no registry of images can be reached.
images: ## Build the container images (IMAGE_PREFIX=, BASE_IMAGE=, TORCH_WHEELS=, BUILD_CA=; infra/docker/build.sh)
	infra/docker/build.sh

# Every image carries its own list, of what is really in it.
sbom: ## Copy the parts lists (CycloneDX) out of the images into dist/ (SBOM_IMAGES="serve ...")
	infra/docker/sbom.sh $(SBOM_IMAGES)

pipeline-local: install images ## The compiled training pipeline in containers on this machine (LINE=sample)
	"$(BIN)/python" -m pipelines local --line $(LINE)

validate-infra: install ## Check the cluster's manifests and the compose file offline
	"$(BIN)/python" -m pytest tests/contract -k "infra or compose"

ui: install ## MLflow on http://127.0.0.1:5000
	mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port 5000

clean: ## Remove outputs, the registry and caches; keep .venv and the weights
	rm -rf outputs data/sample dvc.lock mlflow.db mlruns mlartifacts .dvc/cache .dvc/tmp dist
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find stlm_core tests -name __pycache__ -type d -prune -exec rm -rf {} +
