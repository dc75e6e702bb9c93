# Every target does its own set-up in .venv. PIP_ARGS goes to pip, e.g. on a CPU machine without a CPU wheel of torch in
# its index: make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
TARGETS := langchain_bge_medical tests examples

.PHONY: demo test trust soak mutants clients ray-tests load benchmark oldest newest lint types format build clean help

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/  /'

demo: .venv/.run  ## Run the chatbot once on three complaints, with the bundled models
	$(BIN)/python examples/rag_chatbot.py --demo

test: .venv/.dev  ## Run the default test suite
	$(BIN)/python -m pytest

clients: .venv/.dev  ## Try every rerank client against the service, in environments of their own
	$(BIN)/python -m pytest -n0 -m clients tests/test_serving_clients.py

ray-tests: .venv/.dev  ## Run the service and offline jobs on a Ray cluster of two nodes on this machine
	$(BIN)/python -m pytest -n0 -m ray tests

trust: .venv/.dev  ## Attack it for minutes: files, crashes, threads, packages
	$(BIN)/python -m pytest -m long

soak: .venv/.dev  ## Load the service for 40 minutes and see whether anything grows
	$(BIN)/python -m tests.soak_service

mutants: .venv/.mutation  ## Change the code in thousands of small ways, and list those that no test notices (hours)
	$(BIN)/python -m mutmut run
	$(BIN)/python -m mutmut results

benchmark: .venv/.benchmark  ## Time scoring beside other libraries, on random weights of the real model's shape (an hour)
	$(BIN)/langchain-bge-medical benchmark --shape bge-reranker-v2-m3 --folder .venv/models --plot benchmark.png

load: .venv/.dev  ## Measure the service under load
	$(BIN)/python -m tests.load_service

oldest: .venv-oldest/.tests  ## Run the default tests on the oldest versions allowed of what is needed (gigabytes)
	.venv-oldest/bin/python -m pytest -W default  # old libraries use what others have deprecated since

newest: .venv-newest/.tests  ## Run the default tests on the newest ones (gigabytes)
	.venv-newest/bin/python -m pytest

lint: .venv/.dev  ## Check style
	$(BIN)/ruff check $(TARGETS)
	$(BIN)/ruff format --check $(TARGETS)

types: .venv/.dev  ## Check types
	$(BIN)/mypy

format: .venv/.dev  ## Rewrite what can be rewritten
	$(BIN)/ruff check --fix $(TARGETS)
	$(BIN)/ruff format $(TARGETS)

build: .venv/.dev  ## Make the wheel and the sdist in dist/
	$(BIN)/python -m build

clean:  ## Remove what the other targets made
	rm -rf .venv .venv-clients .venv-oldest .venv-newest dist build mutants .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/.pip: constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"  # the first that knows --group
	touch $@

.venv/.run: .venv/.pip pyproject.toml
	$(PIP) --editable .
	touch $@

.venv/.dev: .venv/.run
	$(PIP) --editable '.[llm,train,serve,chroma,milvus,ray,otel]' --group dev
	touch $@

.venv/.benchmark: .venv/.dev
	$(PIP) --group benchmark
	touch $@

# Without our constraints torch may bring CUDA's libraries. uv can choose the lowest versions; pip cannot.
.venv-oldest/.tests: RESOLUTION := lowest-direct
.venv-newest/.tests: RESOLUTION := highest
.venv-oldest/.tests .venv-newest/.tests: pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check uv
	$(@D)/bin/uv pip install --quiet --python $(@D)/bin/python --resolution $(RESOLUTION) \
		--editable '.[llm,train,serve,chroma,milvus,ray,otel]' --group test
	touch $@

.venv/.mutation: .venv/.dev
	$(PIP) --group mutation
	touch $@
