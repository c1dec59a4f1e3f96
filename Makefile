# The commands of the project. Each target installs what it needs, says so, and keeps its files
# in .venv and .cache.

VENV := .venv
BIN := $(VENV)/bin
# Quiet twice: errors only. Once leaves in warnings of the build tools that mean nothing here.
PIP_INSTALL := pip install --quiet --quiet --disable-pip-version-check
# The tests run in groups, three side by side on two cores, because each group waits a lot. No group
# measures time. A group that takes longer than BOUND_S hangs.
GROUPS := lab kernel vm zookeeper unit simulation
ABREAST := 3
BOUND_S := 1500
# Tests that run `make` must not get the flags of this one.
PYTEST = @env -u MAKEFLAGS -u MAKELEVEL $(BIN)/python -m pytest --session-timeout=$(BOUND_S)
SHELL_SCRIPTS := .ci/run .ci/need .ci/find-python
# Pure modules owe a test for every branch: core and protocol by their place, others by their first
# lines.
PURE := maglev0/core/*,maglev0/protocol/*,$(shell grep -rlE '^(""")?Pure\b' --include='*.py' maglev0 | sort | paste -sd,)

PREFIX ?= /opt/maglev0
BINDIR ?= /usr/local/bin
UNITDIR ?= /usr/local/lib/systemd/system
CONFDIR ?= /etc/maglev0
MANDIR ?= /usr/local/share/man
COMPLETIONDIR ?= /usr/local/share/bash-completion/completions

.PHONY: help demo test $(GROUPS:%=test-%) check bench simulate chaos build install clean
ifeq ($(MAKELEVEL),0)
.NOTPARALLEL:
endif

help:
	@echo 'make demo     a cluster in a box on this machine: daemons, packets, ZooKeeper; a minute'
	@echo 'make test     every test, and the branch coverage of the pure modules; as root'
	@echo 'make check    linters, types and the rules of the repository'
	@echo 'make bench    costs: packets, hand-overs, a hundred members, tables, memory; 25 minutes'
	@echo 'make simulate 100,000 schedules of the hand-over under an adversary; half an hour'
	@echo 'make chaos    faults for ten minutes, three times, on a cluster in a box with clients'
	@echo 'make build    the wheel and the source archive, into dist/'
	@echo 'make install  as root: $(PREFIX), $(BINDIR)/maglev0, $(UNITDIR)/maglev0.service,'
	@echo '              $(CONFDIR)/example.toml, $(COMPLETIONDIR)/maglev0,'
	@echo '              $(MANDIR)/man8/maglev0.8, $(MANDIR)/man7/maglev0-TOPIC.7;'
	@echo '              to remove it, stop the service and delete these'
	@echo 'make clean    delete what make made in this directory'

demo: $(VENV)/.runtime
	@.ci/need lab
	@$(BIN)/maglev0 lab

test: $(VENV)/.dev
	@.ci/need test
	@echo 'testing: $(GROUPS), $(ABREAST) groups side by side; each prints its results when it ends'
	@$(MAKE) --no-print-directory --jobs=$(ABREAST) --output-sync=target --keep-going $(GROUPS:%=test-%)

test-lab:
	$(PYTEST) -m kernel tests/lab

test-kernel:
	$(PYTEST) -m kernel --ignore=tests/lab

test-vm:
	$(PYTEST) -m vm

test-zookeeper:
	$(PYTEST) -m 'zookeeper and not kernel'

test-unit:
	$(PYTEST) -m 'not (simulation or kernel or zookeeper or vm)' --cov --cov-report=
	@$(BIN)/coverage report --fail-under=100 --skip-covered --include='$(PURE)'

test-simulation:
	$(PYTEST) -m simulation

check: $(VENV)/.dev
	@.ci/need check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	shellcheck $(SHELL_SCRIPTS)
	$(BIN)/python -m pytest -q tests/project/test_rules.py tests/project/test_layers.py

bench: $(VENV)/.dev
	@.ci/need test
	$(BIN)/python -m tests.bench

simulate: $(VENV)/.dev
	$(BIN)/python -m tests.simulation --seeds 0:100000

chaos: $(VENV)/.runtime
	@.ci/need lab
	@for seed in 1 2 3; do $(BIN)/python -m maglev0.lab.chaos --seed=$$seed || failed=1; done; [ -z "$$failed" ]

build: $(VENV)/.dev
	@rm -rf dist
	$(BIN)/python -m build --quiet --outdir dist .

install:
	@.ci/need system-python dataplane
	@mkdir -p '$(PREFIX)' '$(BINDIR)' '$(UNITDIR)' '$(CONFDIR)' '$(MANDIR)/man7' '$(MANDIR)/man8' '$(COMPLETIONDIR)' || \
	    { echo 'make install writes to $(PREFIX): run it as root' >&2; exit 1; }
	@echo 'installing maglev0 into $(PREFIX)'
	@"$$(.ci/find-python --system)" -m venv --upgrade-deps '$(PREFIX)' >/dev/null
	@rm -rf build
	@'$(PREFIX)/bin/'$(PIP_INSTALL) .
	@ln -sf '$(PREFIX)/bin/maglev0' '$(BINDIR)/maglev0'
	@sed -e 's|/opt/maglev0|$(PREFIX)|' -e 's|/etc/maglev0|$(CONFDIR)|' maglev0/runtime/systemd/maglev0.service >'$(UNITDIR)/maglev0.service'
	@sed -e 's|/etc/maglev0|$(CONFDIR)|' maglev0/runtime/systemd/example.toml >'$(CONFDIR)/example.toml'
	@'$(PREFIX)/bin/maglev0' man maglev0 >'$(MANDIR)/man8/maglev0.8'
	@rm -f '$(MANDIR)'/man7/maglev0-*.7
	@'$(PREFIX)/bin/maglev0' man | while read -r topic _; do \
	    '$(PREFIX)/bin/maglev0' man --roff "$$topic" >'$(MANDIR)'/man7/maglev0-"$$topic".7 || exit; done
	@'$(PREFIX)/bin/maglev0' completion bash >'$(COMPLETIONDIR)/maglev0'
	@if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
	@echo 'next: cp $(CONFDIR)/example.toml $(CONFDIR)/maglev0.toml, edit it, systemctl enable --now maglev0'

clean:
	rm -rf $(VENV) .cache build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* *.egg-info
	find maglev0 tests -name __pycache__ -prune -exec rm -rf {} +

# The pip that venv brings along is older than 25.1, the first to know --group, on most systems.
# Made again whenever the dependencies may have changed, so that it holds nothing that pyproject.toml
# does not name.
$(VENV)/.runtime: pyproject.toml maglev0/dataplane/xdp/early.bpf.c maglev0/dataplane/xdp/build.py
	@.ci/need python
	@echo 'installing maglev0 and what it imports into $(VENV)'
	@"$$(.ci/find-python)" -m venv --clear --upgrade-deps $(VENV) >/dev/null
	@$(BIN)/$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo 'installing the development tools into $(VENV)'
	@$(BIN)/$(PIP_INSTALL) --group dev
	@touch $@
