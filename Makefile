# Everything a developer or CI runs. `make help` lists it.

# s3s 0.17 declares Rust 1.96 but builds unchanged on 1.95; see .cargo/config.toml.
CARGO_FLAGS = --locked --ignore-rust-version
CARGO_DENY = 0.20.2
CARGO_FUZZ = 0.13.1
VENV = .venv
SUDO = $(if $(filter 0,$(shell id -u)),,sudo)

# Length of a drill, of a soak or of each fuzz target, and the seed of a drill.
SECONDS = 30
SEED =

.PHONY: help run test lint unit clients sim drill control crash fuzz bench soak tools
help: ## Lists the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

run: ## Serves S3 on 127.0.0.1:9000 from ./data
	cargo run --release $(CARGO_FLAGS) -- gateway --data-dir ./data

test: tools lint unit clients drill control crash ## Runs everything that CI runs, installing what it needs

lint: tools ## Formatting, lints, dependency rules
	cargo fmt --check
	cargo clippy --workspace --all-targets $(CARGO_FLAGS) -- -D warnings
	cargo deny check bans licenses sources

unit: tools ## Rust tests
	cargo test --workspace $(CARGO_FLAGS)

sim: ## Simulates masters and faults: SEEDS=n runs that many, SEED=n replays one with its trace
	FULA_SIM_SEEDS=$(SEEDS) FULA_SIM_SEED=$(SEED) cargo test -p fula-service --test sim $(CARGO_FLAGS) -- --nocapture $(if $(SEEDS)$(SEED),$(or $(TEST),no_seed_))

drill: tools ## Real gateways on a real Postgres under faults, clients with wallets: SECONDS=n SEED=n; leaves target/history.jsonl
	cargo build --bin fula $(CARGO_FLAGS)
	cargo run -p fula-testkit --bin drill $(CARGO_FLAGS) -- run --wallets --seconds $(SECONDS) --seed $(or $(SEED),1) --history target/history.jsonl

control: tools ## The same with the comparison of swaps off: must find lost updates
	cargo build --bin fula $(CARGO_FLAGS)
	cargo run -p fula-testkit --bin drill $(CARGO_FLAGS) -- run --cas-off --seconds 8 --history target/control.jsonl

# cargo-fuzz wants flags of a nightly compiler; the stable one takes them when told so.
fuzz: ## Fuzzes every parser of what strangers send: SECONDS=n each
	cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked --version $(CARGO_FUZZ)
	for target in $$(cd fuzz && cargo fuzz list); do \
	  (cd fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none $$target -- -max_total_time=$(SECONDS) -max_len=9000) || exit 1; \
	done

crash: ## Kills a real gateway LOOPS=n times under load, SEED=n; nothing acknowledged is lost
	cargo build --bin fula $(CARGO_FLAGS)
	cargo run -p fula-testkit --bin crash $(CARGO_FLAGS) -- --loops $(or $(LOOPS),20) --seed $(or $(SEED),1)

# Peers are installed for this alone. SeaweedFS comes as one binary; Garage takes part when it is
# there, for it takes a quarter of an hour to build: `cargo install garage --locked --root target/bench`.
# To fill a bucket of a million keys takes SeaweedFS another quarter.
BENCH_VENV = target/bench
PEERS = seaweedfs$(if $(wildcard $(BENCH_VENV)/bin/garage)$(shell command -v garage),$(comma)garage)
comma = ,
ROUNDS = 5
bench: ## The same work on Fula and on PEERS=seaweedfs,garage, in turns: ROUNDS=n
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

clients: tools ## boto3, the AWS CLI, rclone and the JavaScript SDK against real gateways
	cargo build --bin fula $(CARGO_FLAGS)
	cargo build -p fula-testkit $(CARGO_FLAGS)
	$(VENV)/bin/pytest -q -p no:cacheprovider tests/clients

# What the tests need beyond a Rust toolchain and a C compiler.
tools: $(VENV)/installed
$(VENV)/installed: tests/clients/requirements.txt tests/clients/js/package-lock.json
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && ls /usr/sbin/pgbouncer >/dev/null 2>&1 \
	  || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy postgresql pgbouncer; }
	command -v curl >/dev/null && command -v openssl >/dev/null && python3 -m venv --help >/dev/null 2>&1 && python3 -c 'import ensurepip' \
	  || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy curl openssl python3 python3-venv; }
	cargo clippy --version >/dev/null && cargo fmt --version >/dev/null || rustup component add clippy rustfmt
	cargo deny --version >/dev/null 2>&1 || cargo install cargo-deny --locked --version $(CARGO_DENY)
	rm -rf $(VENV)
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install -q --disable-pip-version-check -r tests/clients/requirements.txt
	command -v npm >/dev/null || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy nodejs npm; }
	cd tests/clients/js && npm ci --no-audit --no-fund
	touch $@
