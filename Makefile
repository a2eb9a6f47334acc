# make demo    the main job for real, in a throwaway network namespace
# make test    everything that CI runs; WORKERS=2 for fewer tests at once
# make check   style and types alone
# make vagrant a virtual machine: applied over ssh, tested, locked out, restarted; MACHINES="debian rocky" for others
# make accept  writes what portctl says now into the expected texts; read git diff afterwards

SHELL = /bin/sh
VENV = .venv
PYTHON ?= python3
BIN = $(VENV)/bin
DEMO_TOOLS = iptables nftables ipset conntrack iproute2 procps util-linux python3-venv
TOOLS = $(DEMO_TOOLS) net-tools lsof openssh-server openssh-client fail2ban shellcheck dash posh mksh busybox podman sudo tmux

# More than the processors of a small machine: many tests wait for a kernel, a guard or a clock.
WORKERS = 3
MACHINES = debian
VAGRANT_TOOLS = vagrant vagrant-libvirt libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients dnsmasq-base \
	qemu-system-x86 qemu-utils mmdebstrap e2fsprogs openssh-client iproute2

.PHONY: nightly demo test check accept bench tools demo-tools vagrant vagrant-tools clean

demo: $(BIN)/.ready demo-tools
	@sh .ci/demo.sh $(BIN)/portctl

# What is compiled first need not be compiled by each of the thousand starts of Python.
test: $(BIN)/.ready tools check
	$(BIN)/python -m compileall -q portctl tests
	PORTCTL_SYSTEM=required $(BIN)/pytest -n $(WORKERS) --dist loadgroup
	$(MAKE) vagrant

vagrant: $(BIN)/.ready vagrant-tools
	$(BIN)/python vagrant/trial.py $(MACHINES)

check: $(BIN)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

accept: $(BIN)/.ready
	PORTCTL_ACCEPT=1 $(BIN)/pytest -q tests/test_golden.py tests/test_problems.py tests/test_listeners.py tests/test_import.py

# the packet-space engine against brute force, 10,000 examples a property; 500 policies proved on every back end and dialect
nightly: $(BIN)/.ready
	PORTCTL_POLICIES=500 $(BIN)/pytest -q tests/test_pf_proved.py tests/test_linux_proved.py
	PORTCTL_EXAMPLES=10000 $(BIN)/pytest -q tests/test_space.py
	PORTCTL_POLICIES=500 $(BIN)/pytest -q tests/test_ipfw.py -k generated

bench: $(BIN)/.ready tools
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/space.py

# The Debian packages that the demonstration and the tests run for real. Without root it says what is missing.
demo-tools: $(VENV)/.demo-tools
$(VENV)/.demo-tools: Makefile .ci/tools.sh | $(BIN)/.ready
	sh .ci/tools.sh $(DEMO_TOOLS)
	touch $@

tools: $(VENV)/.tools
$(VENV)/.tools: Makefile .ci/tools.sh | $(BIN)/.ready
	sh .ci/tools.sh $(TOOLS)
	touch $@

vagrant-tools: $(VENV)/.vagrant-tools
$(VENV)/.vagrant-tools: Makefile .ci/tools.sh | $(BIN)/.ready
	sh .ci/tools.sh $(VAGRANT_TOOLS)
	touch $@

$(BIN)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "portctl needs Python 3.11 or later; set PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || sh .ci/tools.sh python3-venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .vagrant-box .mypy_cache .ruff_cache .pytest_cache .hypothesis
