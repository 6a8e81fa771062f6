//! Settings about pins.

use clap::Args;

use super::value::{Time, above_zero};

/// Where buckets are pinned on IPFS. Nothing is, unless it is set.
#[derive(Clone, Debug, Args)]
pub(crate) struct PinSettings {
    /// Where buckets are pinned: `kubo:URL`, `cluster:URL` and `psa:URL`, separated by commas. The path of a file
    /// with a token may follow each URL after #. A kubo on a public network gives a block to everyone who has
    /// its CID [default: none]
    #[arg(long, env = "FULA_PINS", value_name = "TARGETS", hide_env_values = true)]
    pub(crate) pins: Option<String>,
    /// Which buckets are pinned: names, USER/BUCKET, `tagged` for those that their owners have given the tag
    /// fula-pin with the value on, or * for all; separated by commas
    #[arg(long, env = "FULA_PIN_BUCKETS", value_name = "BUCKETS", default_value = "tagged")]
    pub(crate) pin_buckets: String,
    /// Least time between two changes of the pin of a bucket
    #[arg(long, env = "FULA_PIN_INTERVAL", value_name = "TIME", value_parser = above_zero, default_value = "1s")]
    pub(crate) pin_interval: Time,
}
