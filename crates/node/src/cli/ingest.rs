//! Settings about storage nodes that masters and nodes have.

use std::net::SocketAddr;

use clap::{ArgAction::Set, Args};

use super::{
    sharing::{OWN, SHARED},
    value::{Size, Time, above_zero, from_one, listen_address, switch},
};

/// Reads of public objects by CID. They are off unless there is a listener.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct CidSettings {
    /// Address and port of a listener for public objects by CID, which is an IPFS trustless gateway. It asks for
    /// no credentials, and serves only what anyone may read [default: none]
    #[arg(long, env = "FULA_CID_LISTEN", help_heading = OWN, value_name = "ADDR:PORT", value_parser = listen_address)]
    pub(crate) cid_listen: Option<SocketAddr>,
}

/// What a master does with storage nodes. Everything is off unless it is set.
#[derive(Clone, Debug, Args)]
pub(crate) struct IngestSettings {
    /// Storage nodes that clients may send blocks to: NAME=URL#KEY, separated by commas. The node prints
    /// its key at the start [default: none]
    #[arg(long, env = "FULA_STORAGE_NODES", help_heading = SHARED, value_name = "NODES")]
    pub(crate) storage_nodes: Option<String>,
    /// Whether a PUT with an empty body may map a key to content that storage nodes hold; needs
    /// --storage-nodes or --ingest
    #[arg(long, env = "FULA_REMOTE_CID_PUT", help_heading = SHARED, value_name = "on|off", value_parser = switch,
        action = Set, default_value = "off")]
    pub(crate) remote_cid_put: bool,
    /// Whether the content of a mapping is copied into the block store of the master before it is
    /// committed. Reads then need no storage node
    #[arg(long, env = "FULA_INGEST_COPY", help_heading = SHARED, value_name = "on|off", value_parser = switch,
        action = Set, default_value = "off")]
    pub(crate) ingest_copy: bool,
    /// Whether this gateway takes blocks itself, at `/v0/` of its S3 listener. It needs the block store in
    /// the data directory
    #[arg(long, env = "FULA_INGEST", help_heading = OWN, value_name = "on|off", value_parser = switch,
        action = Set, default_value = "off")]
    pub(crate) ingest: bool,
    #[command(flatten)]
    pub(crate) limits: IngestLimits,
    #[command(flatten)]
    pub(crate) cid: CidSettings,
    /// Memory for the index of public objects with --cid-listen: about 40 bytes for a block and 300 for an
    /// object. Objects that do not fit cannot be read by CID
    #[arg(long, env = "FULA_CID_INDEX", help_heading = OWN, value_name = "SIZE", default_value = "128M")]
    pub(crate) cid_index: Size,
}

/// How much clients may send to `/v0/`.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct IngestLimits {
    /// Most bytes of blocks of one owner that were sent to `/v0/` and are not mapped yet; more are answered
    /// 402
    #[arg(
        id = "ingest_quota",
        long = "ingest-quota",
        env = "FULA_INGEST_QUOTA", help_heading = OWN,
        value_name = "SIZE",
        default_value = "64G"
    )]
    pub(crate) quota: Size,
    /// Largest number of uploads to `/v0/` at a time. Others wait for 10 s and are then answered 503.
    /// Their bodies share 4 MiB of memory
    #[arg(id = "ingest_uploads", long = "ingest-uploads", env = "FULA_INGEST_UPLOADS", help_heading = OWN, value_name = "NUMBER", value_parser = from_one(),
        default_value_t = 32)]
    pub(crate) uploads: u64,
    /// Time, at least 2h, for which a block that was sent to `/v0/` is kept without being mapped
    #[arg(id = "ingest_lease", long = "ingest-lease", env = "FULA_INGEST_LEASE", help_heading = OWN, value_name = "TIME", value_parser = above_zero,
        default_value = "1d")]
    pub(crate) lease: Time,
}
