//! `fula`: the one binary. Roles and administrative commands are subcommands; this crate is the
//! only one that names a storage backend.

mod admin;
mod cli;
mod commands;
mod config;
mod files;
mod gauges;
mod gc;
mod jwks;
mod keystore;
mod listeners;
mod node;
mod readiness;
mod scrub;
mod space;
mod state;
mod status;

use std::process::ExitCode;

use crate::cli::{CliError, Command};

/// Rounds and requests allocate a lot of small things, on any thread (docs/adr/0018).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads that hash large bodies and wait for the disk.
const BLOCKING_THREADS: usize = 32;

fn main() -> ExitCode {
    files::keep_private();
    // They take a fifth more memory than is used, for a twentieth more speed (docs/adr/0018). Where
    // that cannot be had they stay.
    let _unchanged = rustix::thread::disable_transparent_huge_pages(true);
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(CliError::Typed(error)) => error.exit(),
        Err(error) => {
            eprintln!("fula: {error}");
            return ExitCode::FAILURE;
        }
    };
    fula_gateway::tls::install_provider();
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    // One of them may be waiting for an fsync of the log. Threads that hash and wait for the disk
    // are few: each keeps memory of its own.
    builder.worker_threads(cores + 1).max_blocking_threads(BLOCKING_THREADS);
    let runtime = builder.enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("fula: cannot start its threads: {}", fula_core::error::io_text(&error));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        match cli.command {
            Command::Gateway(args) => commands::gateway::run(args).await,
            Command::Keys(args) => commands::admin::keys(args).await,
            Command::Token(args) => commands::token::run(args),
            Command::Revoke(args) => commands::revoke::run(args).await,
            Command::Masters(args) => commands::admin::masters(args).await,
            Command::Roots(args) => commands::admin::roots(args).await,
            Command::Secrets(args) => commands::admin::secrets(args),
            Command::Migrate(args) => commands::admin::migrate(args).await,
            Command::Gc(args) => commands::admin::gc(args).await,
            Command::Fsck(args) => commands::fsck::run(args).await,
            Command::Status(args) => commands::status::run(args).await,
        }
    });
    // A blocking read of the disk that nobody waits for any more must not hold up the exit.
    runtime.shutdown_background();
    code
}
