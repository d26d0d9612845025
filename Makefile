# Weir: `make` lists what can be done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run test lint format lock image bench pictures observability clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

run: $(VENV)/runtime ## set everything up and serve on port 8000
	$(BIN)/gunicorn --config gunicorn.conf.py

test: $(VENV)/development ## set everything up and run every test
	$(BIN)/python -m pytest

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

bench: $(VENV)/development ## measure speed and memory
	$(BIN)/python -m benchmarks

pictures: $(VENV)/development ## take the pictures of docs/images
	$(BIN)/python -m scripts.screenshots

observability: $(VENV)/development ## take the picture of docs/operating.md
	$(BIN)/python -m scripts.observability

lock: $(VENV)/development ## compile the pinned requirements from *.in
	$(BIN)/uv pip compile --quiet --python-version 3.11 --custom-compile-command "make lock" requirements.in -o requirements.txt
	$(BIN)/uv pip compile --quiet --python-version 3.11 --custom-compile-command "make lock" requirements-dev.in -o requirements-dev.txt

clean: ## remove the virtual environment and the local data
	rm -rf $(VENV) data

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/runtime: requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/development: $(VENV)/runtime requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	@touch $@
