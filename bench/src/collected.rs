//! What overwrites leave in a shared block store while its masters collect garbage.

use std::{io, time::Duration};

use fula_testkit::s3::Payload;
use futures::future::try_join_all;
use tokio::time::{Instant, sleep};

use crate::{
    load::{self, Limit, Load, Operation},
    process::usage,
    server::Kind,
    shared::{BYTES, Federation, stored},
};

/// What is measured.
pub(crate) struct Plan {
    /// One has the embedded arbiter, several share a Postgres.
    pub(crate) masters: usize,
    /// Number of PUTs of all masters together.
    pub(crate) overwrites: u64,
    /// Number of keys that they overwrite.
    pub(crate) keys: u64,
    /// Number of lines of the table while the masters write.
    pub(crate) lines: u64,
}

/// Connections of all masters together.
const CONNECTIONS: usize = 16;

/// Longest time after the last PUT for which the store is watched.
const WATCHED: Duration = Duration::from_mins(2);

/// Interval between two looks at the store after the last PUT.
const LOOK: Duration = Duration::from_secs(10);

/// Overwrites keys without any retention, and prints what is on disk meanwhile and afterwards.
pub(crate) async fn run(plan: &Plan) -> io::Result<()> {
    let settings = [("FULA_RETENTION", "0s")];
    let federation = Federation::start_with(plan.masters, &Kind::Fula, None, &settings).await?;
    println!(
        "{} PUTs of 4 KiB to {} keys through {} master(s), retention 0, blocks in a directory",
        plan.overwrites, plan.keys, plan.masters
    );
    println!("| PUTs so far | seconds | files | MiB on disk | MiB resident, all masters |");
    println!("|---|---|---|---|---|");
    let begun = Instant::now();
    let tell = |puts: u64| {
        let (files, bytes) = stored(&federation.store_dir)?;
        let resident: u64 = federation
            .gateways
            .iter()
            .filter_map(|gateway| Some(usage(gateway.pid()?).ok()?.resident))
            .sum();
        let seconds = begun.elapsed().as_secs();
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        println!("| {puts} | {seconds} | {files} | {} | {} |", mib(bytes), mib(resident));
        io::Result::Ok(())
    };
    let passes = plan.overwrites.div_ceil(plan.keys).max(1);
    let masters = federation.gateways.len() as u64;
    let each = plan.keys.div_ceil(masters);
    for pass in 0..passes {
        // Each master writes other keys in each pass, so that all of them write every key.
        let loads = federation.gateways.iter().zip(0..).map(|(gateway, n)| {
            let load = Load {
                operation: Operation::Put,
                bucket: "bucket".to_owned(),
                bytes: BYTES,
                connections: CONNECTIONS.div_ceil(federation.gateways.len()),
                limit: Limit::Requests(each),
                payload: Payload::Unsigned,
                first: ((n + pass) % masters) * each,
            };
            let credentials = &federation.credentials;
            async move { load::run(gateway.address(), credentials, &load).await }
        });
        try_join_all(loads).await?;
        if (pass + 1) % passes.div_ceil(plan.lines).max(1) == 0 {
            tell((pass + 1) * plan.keys)?;
        }
    }
    let last = Instant::now();
    while last.elapsed() < WATCHED {
        sleep(LOOK).await;
        tell(passes * plan.keys)?;
    }
    Ok(())
}
