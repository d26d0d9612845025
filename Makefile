# Weir: `make` lists what can be done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One lock for every Python from 3.11 on and every platform, with the fewest versions of a package.
LOCK = $(BIN)/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 \
	--generate-hashes --custom-compile-command "make lock"

# On a terminal, pip shows its progress.
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check $$(test -t 2 || echo --quiet)

.DEFAULT_GOAL := help
.PHONY: help run test test-agents lint format lock wheels image bench pictures observability manifests publish clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

run: $(VENV)/runtime ## set everything up and serve on port 8000
	@$(BIN)/python -m scripts.install_local_model
	@$(BIN)/gunicorn --config gunicorn.conf.py

test: $(VENV)/development ## set everything up and run every test
	# Where Python may not write bytecode, each of the processes compiles all tests again.
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 6

test-agents: $(VENV)/development ## install opencode and Codex (780 MB, in .agents) and run their tests
	@$(BIN)/python -m pytest tests/agents

lint: $(VENV)/development ## lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/development ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

image: ## build the container image weir, with docker, podman or buildah
	ENGINE=$(ENGINE) scripts/image.sh $(OPTIONS)

bench: $(VENV)/development ## measure speed and memory, or compare with a commit: BASE=<commit>
	$(BIN)/python -m benchmarks $(if $(BASE),--base $(BASE))

pictures: $(VENV)/development ## take the pictures of docs/images
	$(BIN)/python -m scripts.screenshots

observability: $(VENV)/development ## take the picture of docs/operating.md
	$(BIN)/python -m scripts.observability

manifests: $(VENV)/development ## write what the Helm chart and deploy/kubernetes take from elsewhere
	$(BIN)/python -m scripts.manifests

lock: $(VENV)/development ## compile the pinned requirements from *.in
	$(LOCK) requirements.in -o requirements.txt
	$(LOCK) requirements-aws.in -o requirements-aws.txt
	$(LOCK) requirements-gcp.in -o requirements-gcp.txt
	$(LOCK) requirements-azure.in -o requirements-azure.txt
	$(LOCK) --no-deps requirements-local.in -o requirements-local.txt
	$(LOCK) requirements-dev.in -o requirements-dev.txt

wheels: $(VENV)/development ## check that no requirement needs a compiler
	$(BIN)/python -m scripts.wheels

publish: ## put your repository's address into buttons, templates, pages: REPOSITORY=owner/name
	@$(PYTHON) -m scripts.publish '$(REPOSITORY)'

clean: ## remove the virtual environment, the agents and the local data
	rm -rf $(VENV) .agents data

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Weir needs Python 3.11 or newer. If you have one, name it: make run PYTHON=python3.13")'
	@echo "Making a virtual environment in $(VENV)…"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/runtime: requirements.txt | $(VENV)/bin/python
	@echo "Installing Weir's packages (90 MB to download, about a minute)…"
	@$(PIP_INSTALL) -r requirements.txt
	@touch $@

$(VENV)/development: $(VENV)/runtime requirements-dev.txt requirements-checkers.txt
	@echo "Installing the packages of tests and tools…"
	@$(PIP_INSTALL) -r requirements.txt -r requirements-dev.txt
	@$(PIP_INSTALL) --no-deps \
		-r requirements-checkers.txt || echo "Some checkers of manifests cannot be had here."
	@touch $@
