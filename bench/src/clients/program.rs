//! Programs whose time and memory are measured.

use std::{
    fs, io,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// What a program took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ran {
    pub(super) seconds: f64,
    /// Peak memory in bytes.
    pub(super) peak: u64,
}

/// Time between two looks at a program. The clock stops with the look that finds it ended.
const LOOK: Duration = Duration::from_millis(2);

/// Returns the peak memory of a running process in bytes; `None` once it ended.
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

/// Runs a program to its end, and returns what it took, and what it printed.
///
/// # Errors
/// An error with the last lines that it printed if it fails.
pub(super) async fn run(command: Command) -> io::Result<(Ran, String)> {
    let out = tempfile::NamedTempFile::new()?;
    let ran = run_into(command, out.reopen()?.into()).await?;
    Ok((ran, fs::read_to_string(out.path())?))
}

/// Runs a program to its end, and returns what it took. What it prints goes to `out`.
///
/// # Errors
/// As for [`run`].
pub(super) async fn run_into(mut command: Command, out: Stdio) -> io::Result<Ran> {
    let errors = tempfile::NamedTempFile::new()?;
    command.stdin(Stdio::null()).stdout(out).stderr(errors.reopen()?);
    let began = Instant::now();
    let mut child = command.spawn()?;
    let mut highest = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        highest = highest.max(peak(child.id()).unwrap_or(0));
        tokio::time::sleep(LOOK).await;
    };
    let ran = Ran { seconds: began.elapsed().as_secs_f64(), peak: highest };
    if status.success() {
        return Ok(ran);
    }
    let said = fs::read_to_string(errors.path())?;
    let last: Vec<&str> = said.lines().rev().take(5).collect();
    let program = command.get_program().to_string_lossy().into_owned();
    Err(io::Error::other(format!("{program}: {status}: {}", last.join("; "))))
}
