//! Who carries out a command about buckets: the gateway that runs on the data directory, or this process.

use std::sync::Arc;

use fula_service::{Limits, error::chain};

use super::{
    Failure,
    admin::{say_if_slow, scratch_for},
};
use crate::{
    admin::{Request, transfer},
    backup::Source,
    cli::{AdminArgs, CasMode},
    config::Backends,
    node::{Node, Purpose},
};

/// Reaches the gateway that runs on the data directory, or opens the stores. `request` decides whether an empty data
/// directory may be used.
///
/// # Errors
/// The reason why neither is possible.
pub(super) async fn open_source(args: &AdminArgs, request: &Request) -> Result<Source, Failure> {
    let key_file = args.secrets_key_file.clone();
    let backends = Backends::check(&args.data, args.shared.clone(), key_file, CasMode::Auto);
    let mut backends = backends?;
    let dir = backends.data_dir.clone();
    let scratch = scratch_for(&mut backends, request)?;
    if let Some(stream) = transfer::connect(&dir).await {
        stream?;
        return Ok(Source::Gateway(dir));
    }
    let opening = Node::open(&backends, Limits::default(), Purpose::Administer, false);
    let node = say_if_slow(opening, &backends).await.map_err(|error| chain(&error))?;
    Ok(Source::Here(Arc::new(node), scratch))
}
