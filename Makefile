# `make help` lists the targets. PYTHON may name another interpreter: `make quickstart PYTHON=python3.12`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
.DEFAULT_GOAL := help

.PHONY: quickstart
quickstart: $(VENV)/.installed ## install, then train the embedded seven-member ensemble
	$(BIN)/septet launch

.PHONY: test
test: $(VENV)/.installed-test ## install if needed, then run the test suite in two processes
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --maxfail 10

.PHONY: test-slow
test-slow: $(VENV)/.installed-test ## run the tests that take longer: launches on Ray, kills, many updates; six minutes
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --maxfail 10 -m 'slow and not soak'

.PHONY: check
check: $(VENV)/.installed-dev ## format, lint, types, architecture laws
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest --quiet tests/architecture

.PHONY: soak
soak: $(VENV)/.installed-soak ## kill runs at dozens of seeded moments, compare their bytes; an hour; SEEDS=0-99 SOAK=path
	SEPTET_SOAK_DONE=.soak SEEDS=$(or $(SEEDS),2012) $(BIN)/python -m pytest -m soak --capture=no $(SOAK)

SOAK_KILLS := $(addprefix tests/faults/test_,killed_driver.py killed_at_start.py nodes.py soak.py)

# Ray runs members at this priority: a load above it would leave them no core at all.
MEMBERS_NICE := 15

.PHONY: soak-stressed
soak-stressed: $(VENV)/.installed-test ## the soak's kills with both cores taken (needs stress-ng) and a slow fsync
	mkdir -p .soak && cc -shared -fPIC -o .soak/slow_fsync.so tests/faults/slow_fsync.c -ldl
	nice -n $(MEMBERS_NICE) stress-ng --quiet --cpu 2 & stress=$$!; trap "kill $$stress" EXIT; \
	  LD_PRELOAD=$(CURDIR)/.soak/slow_fsync.so SEPTET_SOAK_DONE=.soak/stressed SEEDS=$(or $(SEEDS),2012) \
	  $(BIN)/python -m pytest -m soak --capture=no $(or $(SOAK),$(SOAK_KILLS))

.PHONY: fuzz
fuzz: $(VENV)/.installed-test ## the fuzzed tests with sixty times as many inputs, others each time; about an hour
	FUZZ=$(or $(FUZZ),60) $(BIN)/python -m pytest --override-ini timeout=7200 tests/fuzz

.PHONY: bench
bench: $(VENV)/.installed-bench ## compare with peers, both sides in one run; ROWS="step ten_crop", BENCH_FLAGS=--help
	$(BIN)/python -m benchmarks $(ROWS) $(BENCH_FLAGS) \
	  $(if $(BENCH_IMAGES),--images $(BENCH_IMAGES)) $(if $(BENCH_CIFAR10),--cifar10 $(BENCH_CIFAR10)) \
	  $(if $(BENCH_TINY_IMAGENET),--tiny-imagenet $(BENCH_TINY_IMAGENET))

.PHONY: gpu-check
gpu-check: $(VENV)/.installed-test ## check this machine's GPUs in ten minutes; one page to paste into an issue; GPU_FLAGS=--help
	$(BIN)/python -m benchmarks.gpu_check $(GPU_FLAGS)

.PHONY: help
help: ## print this list
	@sed -n 's/^\([a-z.$$()A-Z-]*\):.* ## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | sed 's/^$$(VENV)/.venv/' \
	  | awk -F'|' '{ printf "make %-12s %s\n", $$1, $$2 }'

.PHONY: $(VENV)
$(VENV): $(VENV)/.installed ## only install, into .venv

# A stamp is written last, so an interrupted installation is repeated. Each stamp depends on the one before it, because
# two pips must not write into one environment at once.
$(VENV)/.installed: pyproject.toml constraints.txt $(wildcard workers/kernels/*.c)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13; set one, for example PYTHON=python3.12" >&2; exit 2; }
	@echo "Installing into $(VENV). The first time takes some minutes, because PyTorch is large." >&2
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP_INSTALL) --editable '.[test]'
	@touch $@

# This depends on the other stamps, so that no two pips write at once.
$(VENV)/.installed-bench: $(VENV)/.installed-dev
	$(PIP_INSTALL) --editable '.[test,dev,bench]'
	@touch $@

$(VENV)/.installed-soak: $(VENV)/.installed-dev
	$(PIP_INSTALL) --editable '.[test,dev,serve]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-test
	$(PIP_INSTALL) --editable '.[test,dev]'
	@touch $@
