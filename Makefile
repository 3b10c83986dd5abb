# Everything is done through make, by people and by CI. Each target brings what it needs: the environment in .venv with
# exactly the versions of requirements/dev.txt, checked by hash, and the project itself, editable.

PYTHON ?= python3
# What pytest gets; `make test PYTEST_ARGS="-x tests/repository/test_repository.py"` runs less. Six processes keep two cores busy:
# many tests wait for servers.
PYTEST_ARGS ?= -n 6 --dist worksteal tests
# What pytest gets for the soak tests, which kill and starve for minutes; SOAK_BOUND_S is what one of them may take.
SOAK_ARGS ?= -n 2 --dist worksteal tests
SOAK_BOUND_S ?= 1800

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
MERMAID_VERSION := 11.12.1
MERMAID := build/mermaid/.fetched
# Each example is a project of its own: typed and tested on its own, with its own folder importable.
EXAMPLES := $(sort $(dir $(wildcard examples/*/*.py)))
# Parents of Python files outside of the package and of the examples.
TYPED := tests benchmarks docs/conf.py docs/_tools
# Ends everything that a command has started when `make` is killed; fails when a process outlives the command by 60 s.
GUARD := $(PY) -P tests/support/reaper.py guard 60
PIP := $(PY) -m pip -qq --disable-pip-version-check
# What is installed is compiled when it is first imported; were that not kept, each of some hundred starts would do it.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SHELLFLAGS := -euc
.PHONY: help demo test soak prove bench docs lint types layers examples collect pytest pins clean timed-test FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(READY) ## run real sagas and a pipeline of messages; see sagas compensated, and a killed consumer lose nothing
	@$(PY) examples/orders/demo.py
	@echo
	@$(PY) examples/payments/demo.py

test: $(READY) ## everything that CI checks
	@exec $(GUARD) $(MAKE) --no-print-directory timed-test

# The parts of `make test`, each with how long it took.
timed-test:
	@$(MAKE) --no-print-directory -j2 timed-lint timed-types timed-layers timed-docs timed-examples timed-collect
	@$(MAKE) --no-print-directory timed-pytest

timed-%:
	@start=$$(date +%s); $(MAKE) --no-print-directory $*; echo "make: $* took $$(($$(date +%s) - start)) s"

soak: $(READY) ## the tests marked `soak`, which take too long for every change, and property tests with many examples
	@exec $(GUARD) $(PY) -P -m pytest -m "soak or hypothesis" --hypothesis-profile=soak -o timeout=$(SOAK_BOUND_S) -o faulthandler_timeout=$$(($(SOAK_BOUND_S) + 60)) $(SOAK_ARGS)

# `make prove SHARE=20` explores every twentieth plan.
prove: $(READY) ## explore how runs of about 800 plans can fail, and check that the core keeps every law
	@PYTHONPATH=tests/support $(PY) -P -m proving.prove_core

bench: $(READY) ## measure, and print the table of the README
	@$(PY) benchmarks/run.py

docs: $(READY) $(MERMAID) ## build the documentation into site/; a broken link fails
	@echo "docs: sphinx"
	@$(PY) -P -m sphinx -q -E -W --keep-going -b html -d build/doctrees docs site

# The script that draws the diagrams; docs/conf.py knows its hash. Without npm the pages show the sources.
$(MERMAID):
	@mkdir -p $(@D)
	@if ( cd $(@D) && npm pack --silent mermaid@$(MERMAID_VERSION) >/dev/null 2>&1 ); then \
	    tar -xzf $(@D)/mermaid-$(MERMAID_VERSION).tgz -C $(@D) --strip-components 1 package/dist/mermaid.min.js package/LICENSE; \
	    mv $(@D)/LICENSE $(@D)/mermaid.LICENSE; \
	    rm $(@D)/mermaid-$(MERMAID_VERSION).tgz; \
	    touch $@; \
	else \
	    echo "docs: npm has not fetched mermaid: the sources of the diagrams are shown" >&2; \
	fi

lint: $(READY) ## style and formatting of every Python file
	@echo "lint: ruff"
	@$(PY) -m ruff check -q .
	@$(PY) -m ruff format -q --check .

types: $(READY) ## mypy --strict over the package, tests, benchmarks, docs and examples
	@echo "types: the package"
	@MYPYPATH=src $(PY) -P -m mypy --strict -p amends
	@echo "types: $(TYPED)"
	@MYPYPATH=src:tests/support:examples/orders $(PY) -P -m mypy --strict $(TYPED)
	@set -e; for example in $(EXAMPLES); do \
	    echo "types: $$example"; \
	    MYPYPATH=src:$$example:examples/orders $(PY) -P -m mypy --strict $$example; \
	done

layers: $(READY) ## imports run downwards only, without cycles
	@echo "layers: import-linter"
	@PYTHONPATH=src $(PY) -P -c 'from importlinter.cli import lint_imports_command; lint_imports_command(["--no-logo"])'

examples: $(READY) ## the tests of the examples, as their users would run them
	@set -e; for example in $(EXAMPLES); do \
	    if ls $$example | grep -q '^test_.*\.py$$'; then \
	        echo "pytest: $$example"; \
	        ( cd $$example && $(CURDIR)/$(PY) -P -m pytest -q . ); \
	    fi; \
	done

# Compiles every test module once, before each process of pytest would do it.
collect: $(READY)
	@$(PY) -P -m pytest --collect-only -q tests | tail -n 1

pytest: $(READY) ## the tests alone, without those marked `soak`
	@exec $(GUARD) $(PY) -P -m pytest -m "not soak" $(PYTEST_ARGS)

# Pins are made with the oldest supported Python, so that they hold on newer ones too. Pins that still fit are kept:
# `make pins PINS_ARGS=--upgrade` takes the newest of everything, `PINS_ARGS="-P NAME"` of one package.
pins: $(READY) ## write requirements/dev.txt anew from pyproject.toml and requirements/dev.in
	@$(PY) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	    || { echo "make pins: needs Python 3.11, the oldest supported: rm -r $(VENV) && make pins PYTHON=python3.11" >&2; exit 1; }
	@CUSTOM_COMPILE_COMMAND="make pins" $(PY) -m piptools compile --quiet --generate-hashes --allow-unsafe --strip-extras \
	    --no-emit-options --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	    --extra kafka --extra nats --extra postgresql --output-file requirements/dev.txt $(PINS_ARGS) pyproject.toml requirements/dev.in

clean: ## remove what was built (.venv and .amends stay)
	@rm -rf build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

# The stamp holds the folder that it was made in: a clone that has moved, or whose Python has gone, is installed anew.
ifneq ($(shell test -x $(PY) && cat $(READY) 2>/dev/null),$(CURDIR))
$(READY): FORCE
endif

$(READY): requirements/dev.txt pyproject.toml
	@version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) \
	    || { echo "make: $(PYTHON) does not run: install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "make: $(PYTHON) is Python $$version, but Amends needs 3.11 or newer: name one: make PYTHON=python3.12" >&2; exit 1; }; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	    || { echo "make: $(PYTHON) cannot make environments with pip: install its venv package (Debian, Ubuntu: apt-get install python$$version-venv)" >&2; exit 1; }
	@if ! test -x $(PY) || [ "$$(cat $@ 2>/dev/null)" != "$(CURDIR)" ]; then $(PYTHON) -m venv --clear $(VENV); fi
	@echo "make: installing the pinned requirements into $(VENV) (a minute or two, once)"
	@rm -f $@
	@start=$$(date +%s); \
	$(PIP) install --no-compile --require-hashes --requirement requirements/dev.txt; \
	$(PIP) install --no-deps --no-build-isolation --editable .; \
	echo "make: installing took $$(($$(date +%s) - start)) s"
	@echo "$(CURDIR)" > $@
