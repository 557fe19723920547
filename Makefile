# flowcar's commands; `make` alone lists them. Each first finds or installs what it needs (.ci/setup), which
# takes no time when all is there. Arguments for cargo, or for the program that is run: make test ARGS=...

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help demo test costs lint bench bench-webhook fuzz build image setup test-image test-kernels test-node test-fresh soak clean

ARGS ?=
out := $(or $(CARGO_TARGET_DIR),target)

# Finds or installs what a recipe needs, and takes its PATH and settings over.
setup = .ci/setup $(1); source target/setup/$(1).env

# Namespaces, cgroups and kernel programs are root's; compiling is not. Empty for root.
sudo := $(shell [ "$$(id -u)" = 0 ] || echo sudo --preserve-env)
say_sudo := $(if $(sudo),echo "flowcar: not root: what needs root is started by sudo")
# --preserve-env keeps everything but PATH.
as_root = $(if $(sudo),$(sudo) env "PATH=$$PATH")
# The same for the test binaries that cargo starts.
define runner
--config "target.'cfg(all())'.runner = ['sudo', '--preserve-env', 'env', 'PATH=$$PATH']"
endef

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# cargo takes the features of libraries from the packages that have a target of what is named. A test's name alone names one package, and
# cargo would compile the libraries a second time, with the features that this package wants.
as_built := --bins

demo: ## Two pods on a slow link, a flowcar beside each: tables, histograms and a trace
	@$(say_sudo)
	$(call setup,build)
	# The release profile takes three times as long, nearly all of it for dependencies.
	cargo build --package flowcar --package flowcar-lab --bin flowcar --bin demo --bin traffic
	$(as_root) $(out)/debug/demo $(ARGS)

# What tests/tests/costs counts, unless other tests are named. It loads no kernel program, so it needs none.
build_costs = FLOWCAR_BPF=skip cargo build --profile costs --package flowcar-costs
names_others = $(if $(filter --test --lib --bin,$(ARGS)),$(if $(filter costs,$(ARGS)),,yes))

test: ## All tests, with real sockets, kernels and peers
	@$(say_sudo)
	$(call setup,test)
	tests/peers/build otlp k8s
	# Tests start flowcar's binaries, and cargo builds them only for tests of their own crate. Together with the tests,
	# or the crates that both need would be built twice, with the features of each.
	cargo build --bins --tests
	$(if $(names_others),,$(build_costs))
	cargo test $(if $(sudo),$(runner)) $(ARGS)

costs: ## Instructions, allocations and bytes beside the committed ones (FLOWCAR_BLESS=1 accepts them)
	@$(say_sudo)
	$(call setup,test)
	$(build_costs)
	cargo test $(if $(sudo),$(runner)) $(as_built) --test costs $(ARGS)

lint: ## Formatting, words, clippy and the documentation of the code, of the kernel programs too
	@$(call setup,lint)
	.ci/parts/words
	cargo fmt --all --check
	cargo clippy --workspace --exclude flowcar-ebpf --all-targets -- -D warnings
	# With private items, to which links may lead.
	RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' \
		cargo doc --quiet --no-deps --document-private-items --workspace --exclude flowcar-ebpf
	RUSTFLAGS="--cfg=bpf_target_arch=\"$$(uname -m)\"" $$FLOWCAR_BPF_CARGO clippy --package flowcar-ebpf \
		--release --target bpfel-unknown-none -Z build-std=core --target-dir $(out)/bpf -- -D warnings

bench: ## What flowcar and other tools cost, by the kernel's own count (ARGS=--quick, --json FILE)
	@$(say_sudo)
	$(call setup,build)
	cargo build --release --package flowcar --package flowcar-lab --bins
	$(as_root) $(out)/release/bench $(ARGS)

bench-webhook: ## Latency of an admission call, and the controller's memory
	@$(call setup,test)
	tests/peers/build k8s
	cargo build --release --package flowcar-k8s --bins
	cargo bench --package flowcar-tests --bench admission $(ARGS)

fuzz: ## Fuzz each parser of foreign bytes for a minute (ARGS: libFuzzer's)
	@$(call setup,fuzz)
	cd tests/fuzz
	for target in $$($$FLOWCAR_BPF_CARGO fuzz list --fuzz-dir .); do
		$$FLOWCAR_BPF_CARGO fuzz run --fuzz-dir . "$$target" -- -max_len=8192 -max_total_time=60 $(ARGS)
	done

build: ## The release binaries, in target/release
	@$(call setup,build)
	cargo build --release --bins $(ARGS)

image: ## The images of the sidecar and of the controller, in target/image
	@$(call setup,image)
	k8s/image/build $(ARGS)

setup: ## Only find or install what the others need
	@for what in build lint test; do .ci/setup $$what; done

soak: ## An hour of load that never repeats: memory and descriptors do not grow (FLOWCAR_SOAK_SECONDS)
	@$(say_sudo)
	$(call setup,test)
	# As it is shipped: what a debug build holds says less.
	cargo build --release --bins
	export FLOWCAR_SOAK_SECONDS=$${FLOWCAR_SOAK_SECONDS:-3600}
	cargo test --release $(if $(sudo),$(runner)) $(as_built) --test soak -- --nocapture $(ARGS)

test-image: ## The images, and what is in them
	@$(MAKE) --no-print-directory image ARGS=
	source target/setup/image.env
	cargo test $(as_built) --test image_contents

test-kernels: ## The kernel tests in virtual machines, on Linux 5.10, 6.1, 6.12 and one without bpf(2)
	@$(call setup,kernels)
	tests/kernels/run $(ARGS)

test-node: ## Everything on a Kubernetes node: webhook, kubelet, containerd, Collector, Jaeger
	@$(MAKE) --no-print-directory image ARGS=
	$(call setup,node)
	tests/peers/build otlp k8s node
	cargo build --bins --tests
	tests/node/prepare
	cargo test $(as_built) --test k8s_node -- $(ARGS)

test-fresh: ## The README's two commands in a bare Debian 12 (needs root and mmdebstrap or debootstrap)
	@tests/fresh/run $(ARGS)

clean: ## Remove what was built here (not the caches in ~/.cache/flowcar)
	@rm -rf target
