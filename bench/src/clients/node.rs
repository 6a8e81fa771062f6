//! A file through a storage node, and straight to the gateway, with `fula cp`.

use std::{io, path::Path, process::Command};

use fula_testkit::{cluster::fula_binary, link::Link, s3::Credentials};

use super::{
    files,
    program::{self, Ran},
};
use crate::{ingest::Site, report::median};

/// Sends the file under a new name.
async fn copy(
    site: &Site,
    endpoint: &str,
    file: &Path,
    name: &str,
    through_node: bool,
) -> io::Result<Ran> {
    let mut command = Command::new(fula_binary()?);
    command.args(["cp", "--no-progress", "--endpoint-url", endpoint]);
    command.args(through_node.then_some("--storage-nodes"));
    command.arg(file).arg(format!("s3://direct/{name}"));
    let Credentials::Key { id, secret } = site.master.credentials()? else {
        return Err(io::Error::other("the gateway has no access key"));
    };
    command.env("AWS_ACCESS_KEY_ID", id).env("AWS_SECRET_ACCESS_KEY", secret);
    let state = file.with_extension("state");
    command.env("XDG_STATE_HOME", state);
    Ok(program::run(command).await?.0)
}

/// Measures both ways in turns. The bytes that the gateway receives are counted in a run of their own.
pub(super) async fn run(rounds: usize, mib: u64, dir: &Path) -> io::Result<()> {
    let (site, file) = (Site::start().await?, dir.join("file"));
    let endpoint = format!("http://{}", site.master.address());
    let Credentials::Key { id, secret } = site.master.credentials()? else {
        return Err(io::Error::other("the gateway has no access key"));
    };
    let client = fula_client::Client::builder().endpoint(endpoint.clone());
    let client = client.credentials(fula_client::Credentials::key(id, secret)).build();
    let bucket = client.and_then(|client| client.bucket("direct")).map_err(io::Error::other)?;
    bucket.create().await.map_err(io::Error::other)?;
    let mut runs: [Vec<Ran>; 2] = Default::default();
    for round in 0..rounds {
        files::large(&file, mib, round as u64)?;
        for turn in 0..2 {
            let which = (turn + round) % 2;
            let name = format!("{which}-{round}");
            runs[which].push(copy(&site, &endpoint, &file, &name, which == 0).await?);
        }
    }
    let link = Link::open(site.master.address()).await?;
    files::large(&file, mib, rounds as u64)?;
    let counted = format!("http://{}", link.address());
    copy(&site, &counted, &file, "counted", true).await?;
    let received = link.sent();
    println!("| {mib} MiB of a file | time | peak memory of fula |\n|---|---|---|");
    for (name, runs) in ["through a storage node", "to the gateway"].iter().zip(&runs) {
        let seconds = median(runs.iter().map(|ran| ran.seconds).collect());
        let peak = runs.iter().map(|ran| ran.peak).max().unwrap_or(0) >> 20;
        println!("| {name} | {seconds:.2} s | {peak} MiB |");
    }
    let ratios = runs[0].iter().zip(&runs[1]).map(|(node, direct)| direct.seconds / node.seconds);
    println!("rate through the node to the rate without: {:.2}", median(ratios.collect()));
    println!("bytes that the gateway received for the file through the node: {received}");
    let (node, master) = site.peaks()?;
    println!("peak memory: node {node} MiB, gateway {master} MiB");
    std::fs::remove_file(&file)
}
