//! What a process used, as the kernel counts it.

use std::{fs, io};

/// Ticks of a second in `/proc/PID/stat`; fixed in the interface to programs.
const TICKS: f64 = 100.0;

/// What a process used since it began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Seconds of all its threads.
    pub(crate) cpu: f64,
    /// Bytes it made the kernel write to disk, in whole pages.
    pub(crate) written: u64,
    /// Most memory it ever had, in bytes.
    pub(crate) peak: u64,
    /// Memory that it has, in bytes.
    pub(crate) resident: u64,
}

/// Returns what a process used so far.
pub(crate) fn usage(pid: u32) -> io::Result<Usage> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
    let stat = read("stat")?;
    // The name of the program, in parentheses, may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<f64>().ok());
    let number = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    Ok(Usage {
        cpu: ticks.sum::<f64>() / TICKS,
        written: number(&read("io")?, "write_bytes:"),
        peak: number(&read("status")?, "VmHWM:") * 1024,
        resident: number(&read("status")?, "VmRSS:") * 1024,
    })
}

impl Usage {
    /// Returns what was used since an earlier look; the peak is that of all times, and what is resident
    /// that of now.
    pub(crate) fn since(self, before: Self) -> Self {
        let written = self.written - before.written;
        Self { cpu: self.cpu - before.cpu, written, ..self }
    }
}
