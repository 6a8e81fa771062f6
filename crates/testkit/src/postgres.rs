//! A real Postgres on loopback, which ends with the process that started it.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longest time that the server may take to start.
const START: Duration = Duration::from_mins(1);

/// Script that runs the server, and ends it when standard input ends, as when the parent dies.
pub(crate) const WATCH: &str = r#"exec 3<&0; "$@" 3<&- & server=$!
{ read -r _ <&3; kill -QUIT "$server"; } 2>/dev/null & exec 3<&-; wait "$server""#;

/// A running Postgres with its own data directory.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    dir: TempDir,
    port: u16,
    settings: Vec<String>,
    running: Option<(Child, ChildStdin)>,
}

/// Returns the user that the server runs as, because it refuses root.
pub(crate) fn server_user() -> io::Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let found = users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let is_ours = fields.first() == Some(&"postgres");
        is_ours.then(|| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))?
    });
    found
        .map(Some)
        .ok_or_else(|| io::Error::other("there is no user postgres to run the server as"))
}

fn find_bin() -> io::Result<PathBuf> {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = installed.map(|version| version.path().join("bin")).collect();
    places.sort();
    places.reverse();
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path));
    let programs = ["initdb", "postgres", "pg_isready", "psql"];
    let has_all = |dir: &PathBuf| programs.iter().all(|program| dir.join(program).exists());
    let found = places.into_iter().find(has_all);
    found.ok_or_else(|| io::Error::other("no Postgres server is installed (Debian: postgresql)"))
}

/// Ports that the kernel gives to no outgoing connection (on Linux those begin at 32 768). A killed server
/// therefore finds its port free when it is started again.
const PORTS: Range<u16> = 16_384..32_768;

/// Returns a free port of loopback, a different one each time.
///
/// # Errors
/// An error when there is none.
pub fn free_port() -> io::Result<u16> {
    static DRAWN: AtomicU16 = AtomicU16::new(0);
    // Processes begin at different places. An odd step visits all ports before it repeats one.
    let [low, high, ..] = std::process::id().to_le_bytes();
    let first = u16::from_le_bytes([low, high]).wrapping_mul(40_503);
    for _ in PORTS {
        let step = DRAWN.fetch_add(1, Ordering::Relaxed).wrapping_mul(7_919);
        let port = PORTS.start + first.wrapping_add(step) % (PORTS.end - PORTS.start);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

impl Postgres {
    /// Starts a server on an empty data directory, with `settings` of the form `name=value`.
    ///
    /// # Errors
    /// An error when there is no Postgres, or it does not start.
    pub fn start(settings: &[&str]) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("fula-postgres-").tempdir()?;
        let (bin, user) = (find_bin()?, server_user()?);
        if let Some((uid, gid)) = user {
            let (uid, gid) =
                (rustix::process::Uid::from_raw(uid), rustix::process::Gid::from_raw(gid));
            rustix::fs::chown(dir.path(), Some(uid), Some(gid))?;
        }
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut server = Self { bin, dir, port: free_port()?, settings, running: None };
        let made = server
            .command("initdb")?
            .args(["--auth=trust", "--username=fula", "--encoding=UTF8", "--no-sync", "-D"])
            .arg(server.data())
            .output()?;
        if !made.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&made.stderr).into_owned()));
        }
        server.launch()?;
        Ok(server)
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, program: &str) -> io::Result<Command> {
        let mut command = Command::new(self.bin.join(program));
        if let Some((uid, gid)) = server_user()? {
            command.uid(uid).gid(gid);
        }
        command.current_dir(self.dir.path());
        Ok(command)
    }

    /// Returns the URL that clients connect to.
    pub fn url(&self) -> String {
        format!("postgres://fula@127.0.0.1:{}/postgres", self.port)
    }

    /// Returns the port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs SQL, and returns its output.
    ///
    /// # Errors
    /// The error of `psql`.
    pub fn execute(&self, sql: &str) -> io::Result<String> {
        let done = self
            .command("psql")?
            .args(["-qAt", "-v", "ON_ERROR_STOP=1", "-c", sql, &self.url()])
            .output()?;
        if done.status.success() {
            return Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned());
        }
        Err(io::Error::other(String::from_utf8_lossy(&done.stderr).into_owned()))
    }

    /// Starts the server on its data directory, and waits until it answers. Tries again while processes of
    /// a killed server are still ending.
    ///
    /// # Errors
    /// An error when it does not start in time.
    pub fn launch(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let (mut child, stdin) = self.spawn()?;
            while !self.is_ready()? {
                if Instant::now() > deadline {
                    let log = fs::read_to_string(self.dir.path().join("server.log"))?;
                    return Err(io::Error::other(format!("Postgres does not start: {log}")));
                }
                if child.try_wait()?.is_some() {
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
            if child.try_wait()?.is_none() {
                self.running = Some((child, stdin));
                return Ok(());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn spawn(&self) -> io::Result<(Child, ChildStdin)> {
        let log = fs::File::create(self.dir.path().join("server.log"))?;
        let mut command = Command::new("sh");
        if let Some((uid, gid)) = server_user()? {
            command.uid(uid).gid(gid);
        }
        command.args(["-c", WATCH, "sh"]).arg(self.bin.join("postgres")).arg("-D").arg(self.data());
        command.args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        command.args(["-c", "unix_socket_directories="]);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        let mut child = command.current_dir(self.dir.path()).spawn()?;
        let stdin = child.stdin.take().ok_or_else(|| io::Error::other("no pipe"))?;
        Ok((child, stdin))
    }

    /// Returns whether it accepts connections.
    ///
    /// # Errors
    /// An error when that cannot be determined.
    pub fn is_ready(&self) -> io::Result<bool> {
        let port = self.port.to_string();
        let asked = self
            .command("pg_isready")?
            .args(["-q", "-h", "127.0.0.1", "-p", &port, "-U", "fula"])
            .status()?;
        Ok(asked.success())
    }

    /// Ends the server at once: with `immediate` by its own emergency stop, otherwise by killing the
    /// process.
    ///
    /// # Errors
    /// An error when it is not running.
    pub fn crash(&mut self, immediate: bool) -> io::Result<()> {
        let Some((mut child, stdin)) = self.running.take() else { return Ok(()) };
        let pid = self.pid()?;
        kill_process(pid, if immediate { Signal::QUIT } else { Signal::KILL })?;
        drop(stdin);
        child.wait()?;
        Ok(())
    }

    fn pid(&self) -> io::Result<Pid> {
        let pid_file = fs::read_to_string(self.data().join("postmaster.pid"))?;
        let pid = pid_file.lines().next().and_then(|line| line.parse().ok());
        pid.and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other("postmaster.pid names no process"))
    }

    /// Stops every process of the server. Connections stay open, and nothing is answered.
    ///
    /// # Errors
    /// An error when it is not running.
    pub fn freeze(&self) -> io::Result<()> {
        self.signal_all(Signal::STOP)
    }

    /// Continues a stopped server.
    ///
    /// # Errors
    /// An error when it is not running.
    pub fn thaw(&self) -> io::Result<()> {
        self.signal_all(Signal::CONT)
    }

    /// Signals the server first, which starts no more processes while it is stopped, and then its
    /// processes.
    fn signal_all(&self, signal: Signal) -> io::Result<()> {
        let server = self.pid()?;
        kill_process(server, signal)?;
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let pid = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            let Some(pid) = pid else { continue };
            // A process that has ended in the meantime has no parent.
            let stat = fs::read_to_string(Path::new("/proc").join(&name).join("stat"));
            let parent = stat.ok().and_then(|stat| {
                let (_, rest) = stat.rsplit_once(')')?;
                rest.split_ascii_whitespace().nth(1)?.parse().ok()
            });
            if parent.and_then(Pid::from_raw) == Some(server) {
                let _gone = kill_process(pid, signal);
            }
        }
        Ok(())
    }

    /// Copies the data directory of a stopped server to `to`, for [`Self::restore`].
    ///
    /// # Errors
    /// An error when `cp` fails.
    pub fn backup(&self, to: &Path) -> io::Result<()> {
        copy(&self.data(), to)
    }

    /// Restores the copy of [`Self::backup`]. The server must be stopped.
    ///
    /// # Errors
    /// An error when `cp` fails.
    pub fn restore(&self, from: &Path) -> io::Result<()> {
        fs::remove_dir_all(self.data())?;
        copy(from, &self.data())
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    if done.success() { Ok(()) } else { Err(io::Error::other("cp failed")) }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A stopped server would not end.
        drop(self.thaw());
        if let Some((mut child, stdin)) = self.running.take() {
            drop(stdin);
            drop(child.wait());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_are_given_once_and_to_no_connection() {
        let ports: BTreeSet<u16> = (0..1000).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 1000);
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }
}
