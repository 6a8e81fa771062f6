//! Settings of `fula storage-node`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{ArgAction::Set, Args};

use super::{
    AuthSettings, CidSettings, ConnectionSettings, IngestLimits, LogFormat, PsaSettings,
    sharing::OWN,
    value::{Time, above_zero, listen_address, switch},
};

/// Settings of `fula storage-node`. Each can also be set in the environment.
#[derive(Debug, Args)]
pub(crate) struct StorageNodeSettings {
    /// Address and port of the listener for blocks: IP:PORT, localhost:PORT, or :PORT for all IPv4
    /// addresses of the machine
    #[arg(
        long,
        env = "FULA_NODE_LISTEN", help_heading = OWN,
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:3601",
        value_parser = listen_address
    )]
    pub(crate) listen: SocketAddr,
    /// Address and port of the listener for `/healthz`, `/readyz` and `/metrics`. It asks for no
    /// credentials: let only your own machines reach it
    #[arg(
        long,
        env = "FULA_ADMIN_LISTEN", help_heading = OWN,
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:3602",
        value_parser = listen_address
    )]
    pub(crate) admin_listen: SocketAddr,
    /// Directory of all state of this node [default: `$STATE_DIRECTORY`, else /var/lib/fula-gateway as
    /// root, else `$XDG_DATA_HOME/fula`, else ~/.local/share/fula]
    #[arg(long, env = "FULA_DATA_DIR", help_heading = OWN, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Masters that the node works for: NAME=URL#KEY, separated by commas. The key of a master is
    /// `masterKey` in its `/fula/capabilities`; all masters of one arbiter have the same
    #[arg(long, env = "FULA_MASTERS", help_heading = OWN, value_name = "MASTERS")]
    pub(crate) masters: String,
    #[command(flatten)]
    pub(crate) limits: IngestLimits,
    #[command(flatten)]
    pub(crate) cid: CidSettings,
    #[command(flatten)]
    pub(crate) psa: PsaSettings,
    /// File with the certificate chain, in PEM; needs --tls-key too. Send SIGHUP after a renewal [default:
    /// none, plain HTTP]
    #[arg(long, env = "FULA_TLS_CERT", help_heading = OWN, value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// File with the private key of the certificate, in PEM, mode 0600 [default: none]
    #[arg(long, env = "FULA_TLS_KEY", help_heading = OWN, value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Whether a proxy terminates TLS in front of the node, and nobody else reaches the node
    #[arg(long, env = "FULA_TLS_TERMINATED", help_heading = OWN, value_name = "on|off", value_parser = switch,
        action = Set, default_value = "off")]
    pub(crate) tls_terminated: bool,
    #[command(flatten)]
    pub(crate) connections: ConnectionSettings,
    /// Longest time that requests may take to finish after SIGTERM or SIGINT
    #[arg(long, env = "FULA_SHUTDOWN_GRACE", help_heading = OWN, value_name = "TIME", value_parser = above_zero,
        default_value = "30s")]
    pub(crate) shutdown_grace: Time,
    /// Format of the log, which goes to standard error
    #[arg(long, env = "FULA_LOG", help_heading = OWN, default_value = "text")]
    pub(crate) log: LogFormat,
    /// File from which the key of the node is derived: 64 hex digits, mode 0600, made with `fula secrets
    /// keygen` [default: `secrets.key` in the data directory, made at the first start]
    #[arg(long, env = "FULA_SECRETS_KEY_FILE", help_heading = OWN, value_name = "FILE")]
    pub(crate) secrets_key_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) auth: AuthSettings,
}
