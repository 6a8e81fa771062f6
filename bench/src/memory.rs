//! A machine that has run for a while has no memory that was never used.
//!
//! A virtual machine gives free memory back to its host, and pays up to 2 us a KiB to get it again: ten
//! times what copying takes. Servers that write fresh pages pay it for every byte, so that a
//! figure depends on what the machine did before. Here free memory is used once, and all but a page in
//! every [`HOLE_BYTES`] freed again: hosts take back no pieces that small (2 MiB with Linux).

use std::{
    fs,
    io::{self, BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
};

/// Bytes between two pages that stay in use.
const HOLE_BYTES: usize = 1 << 20;

/// Bytes of a page that stays in use.
const PAGE_BYTES: usize = 4096;

/// Bytes left alone, for whatever needs large pieces.
const LEFT_BYTES: u64 = 512 << 20;

/// The process whose pages stay in use; it ends with this.
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

/// Uses the memory that is free once.
pub(crate) fn settle() -> io::Result<Settled> {
    // In a process of its own: with it, all of the memory goes back.
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

/// Uses the free memory, says so, and keeps some of it until standard input ends.
pub(crate) fn hold() -> io::Result<()> {
    let bytes = available()?.saturating_sub(LEFT_BYTES);
    eprintln!(
        "using {} MiB of free memory once, as on a machine that has run for a while",
        bytes >> 20
    );
    // One page, then a hole: what is touched in turns lies side by side.
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

/// Returns the bytes that the kernel would hand out without writing anything to disk.
fn available() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let free = kib.ok_or_else(|| io::Error::other("no MemAvailable in /proc/meminfo"))? << 10;
    // A container may be allowed less.
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max");
    let limit = limit.ok().and_then(|text| text.trim().parse().ok());
    Ok(limit.map_or(free, |limit: u64| free.min(limit)))
}
