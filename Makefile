# The commands of this checkout; CONTRIBUTING.md explains them. Needs Python >= 3.11, a C compiler and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install

# What the compiled modules are made of. Their C files are made on the way.
SOURCES := $(wildcard _ext/*.pyx _ext/*/*.pxi _ext/*.h _ext/bench/*.pyx dynafast/_ext/*.pxd bench/_ext/*.pxd)
SANITIZED := build/sanitize
TOO_OLD := dynafast needs Python 3.11 or newer, as in: make PYTHON=python3.12

# Keeps what it compiles under build/, and so compiles only what has changed.
COMPILE := $(BIN)/python setup.py --quiet build_ext --inplace

# Prints a list of requirements of pyproject.toml, one per line, as pip reads them from a file.
REQUIREMENTS = $(BIN)/python -c 'import tomllib; \
    print(*tomllib.load(open("pyproject.toml", "rb"))$(1), sep="\n")'

.PHONY: build demo test lint sanitize soak bench clean
.DEFAULT_GOAL := build

build: $(VENV)/built

# Compiling and fetching packages take about as long, so they run side by side.
$(VENV)/installed: pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit("$(TOO_OLD)" if sys.version_info < (3, 11) else 0)'
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(call REQUIREMENTS,["build-system"]["requires"]) > $(VENV)/build-requires.txt
	@$(PIP) --requirement $(VENV)/build-requires.txt
	@$(COMPILE) & compiling=$$!; \
	    DYNAFAST_PREBUILT=1 $(PIP) --no-build-isolation --editable '.[test,bench]'; \
	    installed=$$?; wait $$compiling && exit $$installed
	@touch $@ $(VENV)/built

$(VENV)/built: $(VENV)/installed $(SOURCES)
	@if test ! -e $@ || test -n "$$(find $(SOURCES) -newer $@)"; then $(COMPILE); fi
	@touch $@

demo: build
	@$(BIN)/dynafast demo

test: build
	@$(BIN)/python -m pytest

$(VENV)/lint: pyproject.toml $(VENV)/built
	@$(call REQUIREMENTS,["project"]["optional-dependencies"]["lint"]) > $(VENV)/lint-requires.txt
	@$(PIP) --requirement $(VENV)/lint-requires.txt
	@touch $@

lint: $(VENV)/lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/stubtest dynafast._ext bench._ext --allowlist tests/stubtest.allow

# The extension tests once more, on a copy that is built for the address and undefined-behaviour sanitizers.
# Python itself is not, so their library must be loaded first, and Python's own allocator must stand aside.
sanitize: build
	@rm -rf $(SANITIZED) && mkdir -p $(SANITIZED)
	@tar -cf - --exclude='*.so' --exclude='*.c' --exclude=__pycache__ \
	    LICENSE README.md pyproject.toml setup.py _ext dynafast tests | tar -xf - -C $(SANITIZED)
	cd $(SANITIZED) && DYNAFAST_SANITIZE=1 $(CURDIR)/$(BIN)/python setup.py --quiet build_ext --inplace
	cd $(SANITIZED) && LD_PRELOAD="$$(gcc -print-file-name=libasan.so)" PYTHONMALLOC=malloc \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	    $(CURDIR)/$(BIN)/python -m pytest tests/ext

# Fresh seeds of the simulator for as long as one likes; those that fail are kept.
MINUTES ?= 10
soak: build
	@$(BIN)/dynafast sim --minutes $(MINUTES) --failures build/soak/failing-seeds.txt

# Measures everything of docs/benchmarks.md anew, and writes it: an hour on a quiet machine. QUICK=--quick: minutes.
QUICK ?=
BENCH = $(BIN)/python -m bench
RESULTS = bench/results
bench: build
	$(BENCH) peers $(QUICK) --json $(RESULTS)/peers.json
	$(BENCH) load $(QUICK) --nodes 1 --json $(RESULTS)/load-one.json
	$(BENCH) load $(QUICK) --curve --json $(RESULTS)/load-three.json
	for name in a b c d f; do \
	    $(BENCH) load $(QUICK) --workload $$name --route owner --json $(RESULTS)/ycsb-$$name.json; \
	done
	$(BENCH) scale $(QUICK) --json $(RESULTS)/scale.json
	for name in figure4 figure5 figure6 figure8 table2 versions background; do \
	    $(BENCH) paper $(QUICK) --only $$name --json $(RESULTS)/paper-$$name.json; \
	done
	$(BENCH) sla $(QUICK) --json $(RESULTS)/sla.json
	$(BENCH) cold $(QUICK) --json $(RESULTS)/cold.json
	$(BENCH) footprint $(QUICK) --json $(RESULTS)/footprint.json
	$(BENCH) micro > $(RESULTS)/micro.txt
	$(BENCH) report

clean:
	rm -rf $(VENV) build dist *.egg-info
