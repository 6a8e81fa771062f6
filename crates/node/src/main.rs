//! The binary `fula`. The gateway and the administrative commands are its subcommands. This crate is the only
//! one that names a storage backend.

mod admin;
mod backup;
mod cli;
mod commands;
mod config;
mod files;
mod gauges;
mod gc;
mod ingest;
mod join;
mod jwks;
mod keystore;
mod lifecycle;
mod listeners;
mod node;
mod output;
mod pins;
mod psa;
mod public;
mod readiness;
mod reload;
mod scrub;
mod space;
mod state;
mod status;
mod turn;
mod user;

use std::process::ExitCode;

use crate::{
    cli::{CliError, Command},
    commands::WRONG_USAGE,
    output::note,
};

/// The allocator, chosen because requests and commits allocate many small objects on all threads
/// (docs/adr/0018).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Most threads that hash large bodies and wait for the disk.
const BLOCKING_THREADS: usize = 32;

/// The same of a storage node, where each of them may keep the buffer of a block.
const STORAGE_NODE_THREADS: usize = 8;

fn main() -> ExitCode {
    // Transparent huge pages take a fifth more memory, for a twentieth more speed (docs/adr/0018). Where the
    // system cannot turn them off, they stay on.
    let _unchanged = rustix::thread::disable_transparent_huge_pages(true);
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(CliError::Typed(error)) => error.exit(),
        Err(error) => {
            note!("fula: {error}");
            let status = if error.is_wrong_usage() { WRONG_USAGE } else { 1 };
            return ExitCode::from(status);
        }
    };
    if !cli.command.is_about_files() {
        files::keep_private();
    }
    fula_gateway::tls::install_provider();
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    // One worker thread may be waiting for an fsync of the log, and on a disk that hangs another one for an
    // append; a third one answers. More threads than cores and one make requests slower. Threads that hash and
    // wait for the disk are few, because each of them keeps its own memory.
    let is_storage_node = matches!(cli.command, Command::StorageNode(_));
    let blocking = if is_storage_node { STORAGE_NODE_THREADS } else { BLOCKING_THREADS };
    builder.worker_threads((cores + 1).max(3)).max_blocking_threads(blocking);
    let runtime = builder.enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            note!("fula: cannot start its threads: {}", fula_core::error::io_text(&error));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        match cli.command {
            Command::Gateway(args) => commands::gateway::run(args).await,
            Command::StorageNode(args) => commands::storage_node::run(args).await,
            Command::Cp(args) => commands::files::copy(args).await,
            Command::Mv(args) => commands::files::rename(args).await,
            Command::Sync(args) => commands::files::sync(args).await,
            Command::Ls(args) => commands::files::ls(args).await,
            Command::Du(args) => commands::files::du(args).await,
            Command::Stat(args) => commands::files::stat(args).await,
            Command::Cat(args) => commands::files::cat(args).await,
            Command::Put(args) => commands::files::put(args).await,
            Command::Rm(args) => commands::files::rm(args).await,
            Command::Vault(args) => Box::pin(commands::vault::run(args)).await,
            Command::Usage(args) => commands::buckets::usage(args).await,
            Command::Clone(args) => commands::buckets::clone(args).await,
            Command::Config(args) => commands::config::run(args).await,
            Command::Keys(args) => commands::admin::keys(args).await,
            Command::Token(args) => commands::token::run(args),
            Command::Revoke(args) => commands::revoke::run(args).await,
            Command::Masters(args) => commands::admin::masters(args).await,
            Command::Join(args) => commands::join::join(args).await,
            Command::Invite(args) => commands::join::invite(args).await,
            Command::Leave(args) => commands::join::leave(args).await,
            Command::Roots(args) => commands::admin::roots(args).await,
            Command::Secrets(args) => commands::secrets::secrets(args).await,
            Command::Migrate(args) => commands::secrets::migrate(args).await,
            Command::Export(args) => commands::car::export(args).await,
            Command::Import(args) => commands::car::import(args).await,
            Command::Backup(args) => commands::backup::run(args).await,
            Command::Restore(args) => Box::pin(commands::restore::run(args)).await,
            Command::Verify(args) => commands::verify::run(args).await,
            Command::Pins(args) => commands::pins::run(args).await,
            Command::Completion(args) => commands::manual::completion(args),
            Command::Man(args) => commands::manual::man(args),
            Command::Gc(args) => commands::admin::gc(args).await,
            Command::Fsck(args) => commands::fsck::run(args).await,
            Command::Status(args) => commands::status::run(args).await,
            Command::Doctor(args) => commands::doctor::run(args).await,
            Command::Health(args) => commands::health::run(args).await,
        }
    });
    // A blocking read of the disk whose result nobody needs must not delay the exit.
    runtime.shutdown_background();
    code
}
