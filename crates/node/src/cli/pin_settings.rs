//! Settings about pins.

use clap::Args;

use super::{
    sharing::{OWN, SHARED},
    value::{Time, above_zero},
};

/// Where buckets are pinned on IPFS. Nothing is, unless it is set.
#[derive(Clone, Debug, Args)]
pub(crate) struct PinSettings {
    /// Where buckets are pinned: `kubo:URL`, `cluster:URL` and `psa:URL`, separated by commas. The path of a file
    /// with a token may follow each URL after #. A kubo on a public network gives a block to everyone who has
    /// its CID [default: none]
    #[arg(long, env = "FULA_PINS", help_heading = OWN, value_name = "TARGETS", hide_env_values = true)]
    pub(crate) pins: Option<String>,
    /// Buckets that are pinned, separated by commas: BUCKET, USER/BUCKET, `tagged` for those to which their owners
    /// gave the tag fula-pin=on, or * for all
    #[arg(long, env = "FULA_PIN_BUCKETS", help_heading = SHARED, value_name = "BUCKETS", default_value = "tagged")]
    pub(crate) pin_buckets: String,
    /// Shortest time between two changes of the pin of a bucket, and from a write to the change that follows it
    #[arg(long, env = "FULA_PIN_INTERVAL", help_heading = SHARED, value_name = "TIME", value_parser = above_zero, default_value = "1s")]
    pub(crate) pin_interval: Time,
}
