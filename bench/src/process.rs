//! The resources that a process has used, as the kernel counts them.

use std::{fs, io};

/// Number of ticks per second in `/proc/PID/stat`. It is fixed in the interface to programs.
const TICKS: f64 = 100.0;

/// The resources that a process has used since it began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Processor time of all its threads in seconds.
    pub(crate) cpu: f64,
    /// Bytes that the kernel wrote to disk for it, in whole pages.
    pub(crate) written: u64,
    /// Peak memory in bytes.
    pub(crate) peak: u64,
    /// Current memory in bytes.
    pub(crate) resident: u64,
}

/// Returns the resources that a process has used so far.
pub(crate) fn usage(pid: u32) -> io::Result<Usage> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
    let stat = read("stat")?;
    // The name of the program is in parentheses, and may contain anything.
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
    /// Returns the resources used since an earlier measurement. Peak and current memory are those of this
    /// one.
    pub(crate) fn since(self, before: Self) -> Self {
        let written = self.written - before.written;
        Self { cpu: self.cpu - before.cpu, written, ..self }
    }
}
