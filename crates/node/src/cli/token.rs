//! Options of `fula token`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use fula_identity::{Address, wallet::SIGNATURE_BYTES};

use super::{
    Time,
    value::{life, scope, signature, wallet},
};

/// Options of `fula token`.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

/// What to do about wallet tokens. None of these commands talks to a gateway.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a wallet, and write its key, encrypted, to a file that Ethereum tools can read too
    Keygen {
        /// File to write, which must not exist yet
        file: PathBuf,
        /// File with the password, mode 0600 [default: the command asks for it]
        #[arg(long, env = "FULA_WALLET_PASSWORD_FILE", value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Sign a token with the key in an encrypted file (Web3 Secret Storage, version 3)
    ///
    /// To let SDKs get temporary keys with the token, write it to a file, set
    /// `AWS_WEB_IDENTITY_TOKEN_FILE` to that file, `AWS_ENDPOINT_URL_STS` to the gateway, and `AWS_ROLE_ARN`
    /// to `arn:aws:iam::000000000000:role/fula`.
    Mint {
        /// File with the encrypted key of the wallet
        #[arg(long, env = "FULA_WALLET_KEY_FILE", value_name = "FILE")]
        key_file: PathBuf,
        /// File with the password, mode 0600 [default: the command asks for it]
        #[arg(long, env = "FULA_WALLET_PASSWORD_FILE", value_name = "FILE")]
        password_file: Option<PathBuf>,
        #[command(flatten)]
        claims: ClaimArgs,
        /// Form in which the token is printed
        #[arg(long, default_value = "bearer")]
        output: TokenOutput,
    },
    /// Print typed data for a browser wallet to sign with `eth_signTypedData_v4`
    TypedData {
        /// Address of the wallet that will sign
        #[arg(long, value_name = "ADDRESS", value_parser = wallet)]
        wallet: Address,
        #[command(flatten)]
        claims: ClaimArgs,
    },
    /// Make a token from typed data and the signature of a wallet over it
    Assemble {
        /// File with the typed data, or - for standard input
        #[arg(long, value_name = "FILE")]
        typed_data: PathBuf,
        /// Signature of the wallet: 0x and 130 hex digits
        #[arg(long, value_name = "HEX", value_parser = signature)]
        signature: [u8; SIGNATURE_BYTES],
        /// Form in which the token is printed
        #[arg(long, default_value = "bearer")]
        output: TokenOutput,
    },
}

/// What a token says.
#[derive(Debug, Args)]
pub(crate) struct ClaimArgs {
    /// Gateway that the token is for, as its `FULA_AUDIENCE` names it; * is every gateway
    #[arg(long, default_value = "*")]
    pub(crate) audience: String,
    /// What the token may be used for, e.g. read:photos/2026/; repeat it for more
    #[arg(long, default_value = "admin:*", value_parser = scope)]
    pub(crate) scope: Vec<String>,
    /// Time for which the token is valid, up to 24h
    #[arg(long, default_value = "12h", value_name = "TIME", value_parser = life)]
    pub(crate) lifetime: Time,
    /// Make a token of version 1, without audience and scope, for gateways that know no other
    #[arg(long)]
    pub(crate) v1: bool,
}

/// How to print a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenOutput {
    /// The token itself, for `Authorization: Bearer` and `AWS_WEB_IDENTITY_TOKEN_FILE`
    Bearer,
    /// Lines for a shell that set an access key, for tools that take nothing else; the key grants what the
    /// token grants
    Env,
    /// JSON as `credential_process` of an AWS configuration expects it; the key grants what the token grants
    #[value(name = "credential_process")]
    CredentialProcess,
}
