//! A machine that has run for a while has no memory that was never used.
//!
//! A virtual machine gives free memory back to its host, and pays up to 2 us a KiB to get it again: ten
//! times what copying takes. Servers that write fresh pages pay it for every byte, so that a
//! figure depends on what the machine did before. Here a file as large as the free memory is
//! read first. Its pages stay in use, and the kernel hands them on to whoever writes.

use std::{
    fs::{self, File},
    io::{self, Read},
};

/// The file that was read; its pages are given back with it.
#[derive(Debug)]
pub(crate) struct Settled {
    _file: File,
}

/// Fills the memory that is free with a file of holes, which takes no space on disk. Where temporary
/// files lie in memory, holes take none either, and nothing is filled.
pub(crate) fn settle() -> io::Result<Settled> {
    let bytes = available()?;
    eprintln!(
        "using {} MiB of free memory once, as on a machine that has run for a while",
        bytes >> 20
    );
    let mut file = tempfile::tempfile()?;
    file.set_len(bytes)?;
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer)? > 0 {}
    Ok(Settled { _file: file })
}

/// Returns the bytes that the kernel would hand out without writing anything to disk.
fn available() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| io::Error::other("no MemAvailable in /proc/meminfo"))
}
