//! Options of `fula verify`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use fula_core::Cid;
use reqwest::Url;

/// Options of `fula verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(subcommand)]
    pub(crate) command: VerifyCommand,
}

/// What to fetch with a proof. The server need not be trusted, but the root.
#[derive(Debug, Subcommand)]
pub(crate) enum VerifyCommand {
    /// Fetch an object, and prove that the bucket has it, or that the bucket has no such key
    ///
    /// Exits with 0 if the object is there, with 1 if it is proved that there is none, and with 2 if nothing
    /// could be proved.
    Get {
        /// URL of the object: `http://HOST/BUCKET/KEY`
        url: Url,
        /// File to write, which appears once all of it was verified [default: standard output]
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        how: ProofArgs,
    },
    /// List keys, and prove that there are no others between them
    ///
    /// Exits with 0 if the page is proved, and with 2 otherwise.
    List {
        /// URL of the bucket: `http://HOST/BUCKET`
        url: Url,
        /// List only keys that begin with this
        #[arg(long, default_value = "")]
        prefix: String,
        /// List only keys after this one
        #[arg(long, value_name = "KEY")]
        start_after: Option<String>,
        /// Largest number of keys, up to 1000
        #[arg(long, value_name = "NUMBER", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1000))]
        max_keys: u64,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        how: ProofArgs,
    },
}

/// The root that is trusted, and who asks.
#[derive(Clone, Debug, Args)]
pub(crate) struct ProofArgs {
    /// CID of the bucket root, from somebody whom you trust: the owner gets it with `fula roots show`
    #[arg(long, value_name = "CID")]
    pub(crate) root: Cid,
    /// File with an access key, as `~/.aws/credentials`; its section `default` is used
    #[arg(long, value_name = "FILE", conflicts_with = "token_file")]
    pub(crate) credentials: Option<PathBuf>,
    /// File with a bearer token
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Region for the signature
    #[arg(long, default_value = "us-east-1")]
    pub(crate) region: String,
}
