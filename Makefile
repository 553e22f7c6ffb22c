# The verbs of the project; `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory --no-builtin-rules

# Every test process and every restart of the controller would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
READY := .venv/.ready
# Real calls mostly wait, so there may be more workers than cores; too many and the phones lose sound.
WORKERS ?= 9
# Processes without sound use all of the processor.
PROCESSES ?= 6
UV := $(firstword $(shell command -v uv) $(wildcard $(BIN)/uv))
# These alone cover every branch of ari_app/flow.
FLOW_TESTS := $(addprefix tests/unit/test_,$(addsuffix .py,sop sop_outside_hours story callbacks hours keypad identity \
	routing pace fairness erlang leading_orders duty billing survey matters measures assessment \
	audibility))
COMPILE := pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header

.PHONY: help demo run restart drain doctor test lint faults bench check render lock clean

help:  ## what each verb does
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/make \1\t\2/' | expand -t 14

demo: $(READY)  ## set everything up, make one whole call and judge it; JSON=FILE also writes it as JSON
	@$(BIN)/sanling demo $(if $(JSON),--json "$(JSON)")

run: $(READY)  ## the hotline, in the foreground; Ctrl-C ends it
	@exec $(BIN)/sanling run

restart: $(READY)  ## an upgrade: controller and AGI server anew, Asterisk and its calls stay
	@$(BIN)/sanling restart

drain: $(READY)  ## no new calls; stops after the last one; WITHIN=SECONDS waits that long at most
	@$(BIN)/sanling drain $(if $(WITHIN),--within "$(WITHIN)")

doctor: $(READY)  ## check each part, say what to do about a red one
	@$(BIN)/sanling doctor

test: lint  ## set-up, every check and every test
	@$(BIN)/python -m pytest -q -n 2 -m untraced $(FLOW_TESTS)
	@$(BIN)/python -m pytest -q -n 2 -p no:randomly -m "not untraced" $(FLOW_TESTS) --cov=ari_app/flow --cov-branch --cov-fail-under=100 --cov-report=
	@$(BIN)/python -m pytest -q -p no:randomly -m alone tests/faults tests/unit/test_house_processes.py
	@$(BIN)/python -m pytest -q -n 2 -m "not by_the_clock" $(FLOW_TESTS:%=--ignore=%)
	@failed=; \
	part() { $(BIN)/python -m pytest -n "$$1" -m "by_the_clock and not alone and $$2" "$${@:3}" || { [ $$? = 1 ] && failed=1; }; }; \
	part $(PROCESSES) "not asterisk" tests/unit tests/integration; \
	part $(WORKERS) asterisk tests/asterisk tests/calls tests/contract tests/faults; \
	if [ "$$failed" ]; then \
		echo "What failed is made again, five at a time, twice at most: on a busy machine phones lose sound."; \
		$(BIN)/python -m pytest -n 5 -m "by_the_clock and not alone" --last-failed --reruns 1 --maxfail 20; \
	fi

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/sanling sop --check

faults: $(READY)  ## random calls and faults, then the laws: CALLS=1000 SEED=1 JSON=FILE; see docs/faults.md
	@$(BIN)/python -m tests.faults $(if $(CALLS),--calls $(CALLS)) $(if $(SEED),--seed $(SEED)) \
		$(if $(JSON),--json "$(JSON)") $(FAULTS)

bench: $(READY)  ## beside native Asterisk, under real SIP load: JSON=FILE; QUICK=1 in 5 min; see docs/performance.md
	@$(BIN)/python -m tests.bench $(if $(QUICK),--quick) $(if $(JSON),--json "$(JSON)") $(BENCH)

check:  ## exactly what CI runs
	@bash .ci/run

render: $(READY)  ## speak new or changed prompts; fetches the speech model into the user's cache
	@$(BIN)/python -m pip install -q --require-hashes -r requirements-render.lock
	@$(BIN)/sanling prompts render

lock:  ## resolve the dependencies of pyproject.toml anew
	@$(if $(UV),true,echo "make lock needs uv: pip install uv" >&2; exit 1)
	@$(UV) $(COMPILE) -o requirements.lock
	@$(UV) $(COMPILE) --extra dev --extra phones -o requirements-dev.lock
	@$(UV) $(COMPILE) --extra render -o requirements-render.lock

clean:  ## remove what this clone made (recordings of its runs too); the user's cache stays
	@for pid in $$(cat var/*/run/asterisk.pid 2>/dev/null); do \
		if [ -d /proc/$$pid ]; then echo "A hotline of this clone is running (Asterisk, pid $$pid): end it first." >&2; exit 1; fi; \
	done
	@rm -rf .venv var build dist htmlcov .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

$(READY): requirements-dev.lock pyproject.toml .ci/set-up
	@.ci/set-up requirements-dev.lock
