//! Measures how long a gateway takes to serve again.

use std::{io, time::Duration};

use crate::{
    compare::fill,
    report::median,
    server::{Kind, Server},
};

const OBJECT_BYTES: usize = 4 << 10;

/// Kills and starts gateways with an equal number of objects, in turns.
pub(crate) async fn run(kinds: &[Kind], rounds: usize, keys: u64) -> io::Result<()> {
    let mut servers = Vec::new();
    for kind in kinds {
        let server = Server::start(kind, &[]).await?;
        server.make_bucket("restart").await?;
        eprintln!("putting {keys} objects, {}", kind.name());
        fill(&server, "restart", OBJECT_BYTES, 0..keys).await?;
        servers.push(server);
    }
    println!(
        "| until it serves again, {keys} objects of 4 KiB | on disk | files in memory | not in memory |\n|---|---|---|---|"
    );
    let mut times = vec![[const { Vec::new() }; 2]; servers.len()];
    for round in 0..rounds {
        for turn in 0..servers.len() {
            let which = (turn + round) % servers.len();
            for (cold, times) in [true, false].into_iter().zip(&mut times[which]) {
                times.push(servers[which].restart(cold).await?);
            }
        }
    }
    let in_seconds = |times: &[Duration]| median(times.iter().map(Duration::as_secs_f64).collect());
    for (server, [cold, warm]) in servers.iter().zip(&times) {
        println!(
            "| {} | {} MiB | {:.2} s | {:.2} s |",
            server.kind.name(),
            server.disk_bytes()? >> 20,
            in_seconds(warm),
            in_seconds(cold)
        );
    }
    let [ours, theirs @ ..] = &times[..] else { return Ok(()) };
    for (server, theirs) in servers[1..].iter().zip(theirs) {
        let [cold, warm] = [0, 1].map(|n| {
            let ratios = ours[n].iter().zip(&theirs[n]);
            median(ratios.map(|(ours, theirs)| ours.as_secs_f64() / theirs.as_secs_f64()).collect())
        });
        let name = server.kind.name();
        println!("{warm:.2} and {cold:.2} of the time of {name}, median of rounds");
    }
    Ok(())
}
