//! A machine that has run for a while has no memory that was never used.
//!
//! A virtual machine gives free memory back to its host, and pays up to 2 us a KiB to get it again: ten
//! times what copying takes. Servers that write fresh pages pay it for every byte, so that a
//! figure depends on what the machine did before. Here free memory is used once, and all but a page in
//! every [`HOLE_BYTES`] freed again: hosts take back no pieces that small (2 MiB with Linux).

use std::{fs, io};

/// Bytes between two pages that stay in use.
const HOLE_BYTES: usize = 1 << 20;

/// Bytes of a page that stays in use.
const PAGE_BYTES: usize = 4096;

/// Bytes left alone, for whatever needs large pieces.
const LEFT_BYTES: u64 = 512 << 20;

/// The pages that stay in use.
#[derive(Debug)]
pub(crate) struct Settled {
    _pages: Vec<Box<[u8]>>,
}

/// Uses the memory that is free once.
pub(crate) fn settle() -> io::Result<Settled> {
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
    Ok(Settled { _pages: pages })
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
