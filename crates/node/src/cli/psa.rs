//! Settings about the Pinning Service API that masters and nodes have.

use clap::Args;

use super::{
    sharing::{OWN, SHARED},
    value::{Size, Time, above_zero, from_one},
};

/// The IPFS Pinning Service API. It is off unless it has a source.
#[derive(Clone, Debug, Args)]
pub(crate) struct PsaSettings {
    /// Sources of what users pin through the IPFS Pinning Service API, in order: `kubo:URL` and
    /// `gateway:URL`, separated by commas. With it, the gateway serves that API. The path of a file with a
    /// token may follow each URL after # [default: none, the API is off]
    #[arg(long, env = "FULA_PSA", help_heading = OWN, value_name = "SOURCES", hide_env_values = true)]
    pub(crate) psa: Option<String>,
    /// Addresses to which clients may send data that they pin, separated by commas: multiaddrs that end with
    /// /p2p/PEER. Needed without a kubo among the sources [default: those that the kubo announces]
    #[arg(long, env = "FULA_PSA_DELEGATES", help_heading = OWN, value_name = "ADDRESSES")]
    pub(crate) psa_delegates: Option<String>,
    /// Most bytes of the blocks of one pin
    #[arg(long, env = "FULA_PSA_BYTES", help_heading = SHARED, value_name = "SIZE", default_value = "4G")]
    pub(crate) psa_bytes: Size,
    /// Most blocks of one pin. Each needs about 200 bytes of memory while the pin is fetched
    #[arg(long, env = "FULA_PSA_BLOCKS", help_heading = SHARED, value_name = "NUMBER", default_value = "100000",
        value_parser = from_one())]
    pub(crate) psa_blocks: u64,
    /// Time after which a pin fails if its data was not found
    #[arg(long, env = "FULA_PSA_TIME", help_heading = SHARED, value_name = "TIME", value_parser = above_zero, default_value = "1h")]
    pub(crate) psa_time: Time,
    /// Number of pins that are fetched at a time
    #[arg(long, env = "FULA_PSA_FETCHES", help_heading = OWN, value_name = "NUMBER", default_value = "4",
        value_parser = clap::builder::RangedU64ValueParser::<u64>::new().range(1..=64))]
    pub(crate) psa_fetches: u64,
    /// Most pins of one owner
    #[arg(long, env = "FULA_PSA_PINS", help_heading = SHARED, value_name = "NUMBER", default_value = "10000",
        value_parser = from_one())]
    pub(crate) psa_pins: u64,
}
