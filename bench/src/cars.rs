//! Measures export and import of a bucket as a CAR file, beside a check that reads the same blocks.

use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    compare::fill,
    process::usage,
    report::median,
    server::{Kind, Server},
};

const OBJECT_BYTES: usize = 8 << 20;

/// The measured commands, in the order of the table.
const WORKS: [&str; 6] = [
    "fula fsck",
    "fula export to /dev/null, over the socket",
    "fula export to standard output, a file",
    "fula export to a file, with fsync",
    "a copy of the file, with fsync",
    "fula import",
];

/// A command that has ended: its duration, and the peak memory of its process in bytes.
#[derive(Clone, Copy, Debug)]
struct Done {
    length: Duration,
    peak: u64,
}

/// Runs the commands in turns, each round with a new gateway to import into.
pub(crate) async fn run(rounds: usize, mib: u64) -> io::Result<()> {
    let mut server = Server::start(&Kind::Fula, &[]).await?;
    server.make_bucket("cars").await?;
    fill(&server, "cars", OBJECT_BYTES, 0..(mib << 20).div_ceil(OBJECT_BYTES as u64)).await?;
    // Started anew, its peak memory is that of what follows.
    server.restart(false).await?;
    let dir = tempfile::Builder::new().prefix("fula-bench-").tempdir()?;
    let file = dir.path().join("cars.car");
    let file_name = file.display().to_string();
    let mut rows = WORKS.map(|_| Vec::new());
    let (mut peak_of_source, mut peak_of_target) = (0, 0);
    for _ in 0..rounds {
        let target = Server::start(&Kind::Fula, &[]).await?;
        let done = [
            timed(server.command(&["fsck"])?(), Stdio::null())?,
            timed(server.command(&["export", "cars"])?(), Stdio::null())?,
            timed(server.command(&["export", "cars"])?(), fs::File::create(&file)?.into())?,
            timed(server.command(&["export", "cars", "--output", &file_name])?(), Stdio::null())?,
            copied(&file, &dir.path().join("copy.car"))?,
            timed(target.command(&["import", &file_name, "--user", "admin"])?(), Stdio::null())?,
        ];
        for (rows, done) in rows.iter_mut().zip(done) {
            rows.push(done);
        }
        peak_of_source = server.usage()?.peak.max(peak_of_source);
        peak_of_target = target.usage()?.peak.max(peak_of_target);
    }
    let bytes = fs::metadata(&file)?.len();
    println!("a file of {} MiB, in the memory of the system", bytes >> 20);
    print(bytes, &rows);
    println!(
        "peak memory of the gateways: exported from {} MiB, imported into {} MiB",
        peak_of_source >> 20,
        peak_of_target >> 20
    );
    Ok(())
}

/// Runs a command to its end.
fn timed(mut command: Command, output: Stdio) -> io::Result<Done> {
    let begun = Instant::now();
    let mut child = command.stdout(output).stderr(Stdio::null()).spawn()?;
    let mut peak = 0;
    loop {
        // Once it has ended, nothing is known of its memory.
        peak = usage(child.id()).map_or(0, |used| used.peak).max(peak);
        if let Some(status) = child.try_wait()? {
            let length = begun.elapsed();
            return if status.success() {
                Ok(Done { length, peak })
            } else {
                Err(io::Error::other(format!("{command:?} failed: {status}")))
            };
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Copies a file with the kernel's own means.
fn copied(from: &Path, to: &Path) -> io::Result<Done> {
    let begun = Instant::now();
    fs::copy(from, to)?;
    fs::File::open(to)?.sync_all()?;
    let length = begun.elapsed();
    fs::remove_file(to)?;
    Ok(Done { length, peak: 0 })
}

#[expect(clippy::cast_precision_loss, reason = "figures to look at")]
fn print(bytes: u64, rows: &[Vec<Done>]) {
    println!(
        "| work | rate, median | to the rate of fsck, median of rounds | peak memory of the command |"
    );
    println!("|---|---|---|---|");
    let checks = &rows[0];
    for (work, rows) in WORKS.iter().zip(rows) {
        let seconds = median(rows.iter().map(|done| done.length.as_secs_f64()).collect());
        let ratios = checks.iter().zip(rows);
        let ratio = median(
            ratios.map(|(c, done)| c.length.as_secs_f64() / done.length.as_secs_f64()).collect(),
        );
        let peak = rows.iter().map(|done| done.peak).max().unwrap_or_default() >> 20;
        let rate = bytes as f64 / seconds / f64::from(1 << 20);
        println!("| {work} | {rate:.0} MiB/s | {ratio:.2} | {peak} MiB |");
    }
}
