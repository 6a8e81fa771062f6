# Everything a developer or CI runs. `make help` lists it.

# s3s 0.17 declares Rust 1.96 but builds unchanged on 1.95; see .cargo/config.toml.
CARGO_FLAGS = --locked --ignore-rust-version

.PHONY: help run test
help: ## Lists the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

run: ## Serves S3 on 127.0.0.1:9000 from ./data
	cargo run --release $(CARGO_FLAGS) -- gateway --data-dir ./data

test: ## Runs every test, as CI does
	cargo test --workspace $(CARGO_FLAGS)
