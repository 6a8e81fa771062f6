//! Makes a machine behave like one that has run for a while, whose memory was all used before.
//!
//! A virtual machine returns free memory to its host, and pays up to 2 us a KiB to get it back, which is
//! ten times the cost of copying. Servers that write fresh pages pay that for every byte, so a figure
//! depends on what the machine did before. Here free memory is used once, and freed again except one page
//! in every [`HOLE_BYTES`], because hosts do not take back such small pieces (2 MiB with Linux).

use std::{
    fs,
    io::{self, BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
};

/// Number of bytes between two pages that stay in use.
const HOLE_BYTES: usize = 1 << 20;

/// Length of a page that stays in use, in bytes.
const PAGE_BYTES: usize = 4096;

/// Number of bytes that are left alone, for programs that need large pieces.
const LEFT_BYTES: u64 = 512 << 20;

/// The process whose pages stay in use. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Settled {
    holder: Child,
}

impl Drop for Settled {
    fn drop(&mut self) {
        // It may have ended before.
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

/// Uses the free memory once.
pub(crate) fn settle() -> io::Result<Settled> {
    // It is a process of its own, so that all of the memory is freed with it.
    let mut command = Command::new(std::env::current_exe()?);
    let command = command.arg("hold-memory");
    let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let said = holder.stdout.take().map(BufReader::new).and_then(|out| out.lines().next());
    let settled = Settled { holder };
    match said {
        Some(Ok(_)) => Ok(settled),
        _ => Err(io::Error::other("free memory could not be used: --unsettled leaves that out")),
    }
}

/// Uses the free memory, prints a line, and keeps some of it until standard input ends.
pub(crate) fn hold() -> io::Result<()> {
    let bytes = available()?.saturating_sub(LEFT_BYTES);
    eprintln!(
        "using {} MiB of free memory once, as on a machine that has run for a while",
        bytes >> 20
    );
    // One page follows on one hole, so that memory is used in the order in which it lies.
    let steps = bytes / (HOLE_BYTES + PAGE_BYTES) as u64;
    let used = |bytes: usize| vec![1_u8; bytes].into_boxed_slice();
    let (pages, holes): (Vec<_>, Vec<_>) =
        (0..steps).map(|_| (used(PAGE_BYTES), used(HOLE_BYTES))).unzip();
    drop(holes);
    println!("held");
    io::stdin().read_to_end(&mut Vec::new())?;
    drop(pages);
    Ok(())
}

/// Returns the number of bytes that the kernel would give out without writing anything to disk.
fn available() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let free = kib.ok_or_else(|| io::Error::other("no MemAvailable in /proc/meminfo"))? << 10;
    // A container may have a lower limit.
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max");
    let limit = limit.ok().and_then(|text| text.trim().parse().ok());
    Ok(limit.map_or(free, |limit: u64| free.min(limit)))
}
