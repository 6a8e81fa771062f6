//! A real `PgBouncer` on loopback, which ends with the process that started it.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpStream},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::postgres::{WATCH, free_port, server_user};

/// Longest time that the pooler may take to start.
const START: Duration = Duration::from_mins(1);

/// A running `PgBouncer` in front of a server of [`crate::postgres::Postgres`].
#[derive(Debug)]
pub struct PgBouncer {
    bin: PathBuf,
    dir: TempDir,
    port: u16,
    running: Option<(Child, ChildStdin)>,
}

fn find_bin() -> io::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    let found = dirs.find_map(|dir| Some(dir.join("pgbouncer")).filter(|path| path.exists()));
    found.ok_or_else(|| io::Error::other("no PgBouncer is installed (Debian: pgbouncer)"))
}

impl PgBouncer {
    /// Starts a pooler in `mode` (`session`, `transaction` or `statement`) in front of the server at
    /// `port`, to which it keeps at most `servers` connections.
    ///
    /// # Errors
    /// An error when there is no `PgBouncer`, or it does not start.
    pub fn start(port: u16, mode: &str, servers: u32) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("fula-pgbouncer-").tempdir()?;
        let own = free_port()?;
        let users = dir.path().join("users.txt");
        fs::write(&users, "\"fula\" \"\"\n")?;
        let config = format!(
            "[databases]\n\
             * = host=127.0.0.1 port={port}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {own}\n\
             unix_socket_dir =\n\
             auth_type = trust\n\
             auth_file = {}\n\
             pool_mode = {mode}\n\
             default_pool_size = {servers}\n\
             max_client_conn = 1000\n\
             server_login_retry = 1\n",
            users.display()
        );
        fs::write(dir.path().join("pgbouncer.ini"), config)?;
        if let Some((uid, gid)) = server_user()? {
            for path in [dir.path().to_owned(), users, dir.path().join("pgbouncer.ini")] {
                let (uid, gid) =
                    (rustix::process::Uid::from_raw(uid), rustix::process::Gid::from_raw(gid));
                rustix::fs::chown(&path, Some(uid), Some(gid))?;
            }
        }
        let mut pooler = Self { bin: find_bin()?, dir, port: own, running: None };
        pooler.launch()?;
        Ok(pooler)
    }

    /// Returns the port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the URL that clients connect to.
    pub fn url(&self) -> String {
        format!("postgres://fula@127.0.0.1:{}/postgres", self.port)
    }

    /// Starts the pooler, and waits until it listens.
    ///
    /// # Errors
    /// An error when it does not start in time.
    pub fn launch(&mut self) -> io::Result<()> {
        let log = fs::File::create(self.dir.path().join("pooler.log"))?;
        let mut command = Command::new("sh");
        if let Some((uid, gid)) = server_user()? {
            command.uid(uid).gid(gid);
        }
        // TERM ends a PgBouncer at once. A shell's background process ignores QUIT, and PgBouncer inherits
        // that.
        let watch = WATCH.replace("-QUIT", "-TERM");
        command
            .args(["-c", &watch, "sh"])
            .arg(&self.bin)
            .arg(self.dir.path().join("pgbouncer.ini"));
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        let mut child = command.current_dir(self.dir.path()).spawn()?;
        let stdin = child.stdin.take().ok_or_else(|| io::Error::other("no pipe"))?;
        let deadline = Instant::now() + START;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if Instant::now() > deadline || child.try_wait()?.is_some() {
                let log = fs::read_to_string(self.dir.path().join("pooler.log"))?;
                return Err(io::Error::other(format!("PgBouncer does not start: {log}")));
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.running = Some((child, stdin));
        Ok(())
    }

    /// Kills the pooler.
    ///
    /// # Errors
    /// An error when it cannot be killed.
    pub fn kill(&mut self) -> io::Result<()> {
        let Some((mut child, stdin)) = self.running.take() else { return Ok(()) };
        // The shell that watches it is its parent.
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let children = fs::read_to_string(children)?;
        let pid = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            kill_process(pid, Signal::KILL)?;
        }
        drop(stdin);
        child.wait()?;
        Ok(())
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        if let Some((mut child, stdin)) = self.running.take() {
            drop(stdin);
            drop(child.wait());
        }
    }
}
