//! Options of `fula token`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Time, value::above_zero};

/// Options of `fula token`.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

/// What to do about wallet tokens. Nothing here talks to a gateway.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a wallet and write its key, encrypted, to a file that Ethereum tools read as well
    Keygen {
        /// A file that does not exist yet
        file: PathBuf,
        /// File with the password [default: asked for]
        #[arg(long, env = "FULA_WALLET_PASSWORD_FILE", value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Sign a token with the key in an encrypted file (Web3 Secret Storage, version 3)
    ///
    /// To let SDKs fetch keys with it, write it where `AWS_WEB_IDENTITY_TOKEN_FILE` points, and
    /// set `AWS_ENDPOINT_URL_STS` to the gateway and `AWS_ROLE_ARN` to
    /// `arn:aws:iam::000000000000:role/fula`.
    Mint {
        /// The encrypted key
        #[arg(long, env = "FULA_WALLET_KEY_FILE", value_name = "FILE")]
        key_file: PathBuf,
        /// File with the password [default: asked for]
        #[arg(long, env = "FULA_WALLET_PASSWORD_FILE", value_name = "FILE")]
        password_file: Option<PathBuf>,
        #[command(flatten)]
        claims: ClaimArgs,
        /// How to print it
        #[arg(long, default_value = "bearer")]
        output: TokenOutput,
    },
    /// Print typed data for a browser wallet to sign with `eth_signTypedData_v4`
    TypedData {
        /// The wallet that will sign
        #[arg(long, value_name = "ADDRESS")]
        wallet: String,
        #[command(flatten)]
        claims: ClaimArgs,
    },
    /// Make a token of typed data and the signature that a wallet made over it
    Assemble {
        /// File with the typed data, or - for standard input
        #[arg(long, value_name = "FILE")]
        typed_data: PathBuf,
        /// 0x and 130 hex digits
        #[arg(long, value_name = "HEX")]
        signature: String,
        /// How to print it
        #[arg(long, default_value = "bearer")]
        output: TokenOutput,
    },
}

/// What a token says.
#[derive(Debug, Args)]
pub(crate) struct ClaimArgs {
    /// Gateway or federation that it is meant for
    #[arg(long, default_value = "*")]
    pub(crate) audience: String,
    /// What it may be used for, e.g. read:photos/2026/; can be repeated
    #[arg(long, default_value = "admin:*")]
    pub(crate) scope: Vec<String>,
    /// How long it is good: up to 24h, e.g. 12h
    #[arg(long, default_value = "12h", value_name = "TIME", value_parser = above_zero)]
    pub(crate) lifetime: Time,
    /// Version 1: no audience, no scope, for gateways that know no other
    #[arg(long)]
    pub(crate) v1: bool,
}

/// How to print a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenOutput {
    /// The token itself, for `Authorization: Bearer` and `AWS_WEB_IDENTITY_TOKEN_FILE`
    Bearer,
    /// Lines for a shell, for tools that take nothing but an access key: as good as the token
    Env,
    /// What `credential_process` of an AWS configuration prints: as good as the token
    #[value(name = "credential_process")]
    CredentialProcess,
}
