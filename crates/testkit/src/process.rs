//! Real gateway processes.

use std::{
    ffi::OsString,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use rustix::process::{Pid, Signal, kill_process};

use crate::{postgres::free_port, s3::Credentials};

/// Longest time that a gateway may take to start.
const START: Duration = Duration::from_mins(1);

/// A gateway with a data directory and a port, which can be killed and started again.
#[derive(Debug)]
pub struct Gateway {
    binary: PathBuf,
    /// Binary that the next start but one uses.
    upgrade: Option<PathBuf>,
    data_dir: PathBuf,
    env: Vec<(String, OsString)>,
    address: SocketAddr,
    admin: SocketAddr,
    child: Option<Child>,
}

impl Gateway {
    /// Chooses a port. [`Self::launch`] starts the process.
    ///
    /// # Errors
    /// An error when no port is free.
    pub fn new(binary: &Path, data_dir: &Path, env: Vec<(String, OsString)>) -> io::Result<Self> {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (address, admin) = (local(free_port()?), local(free_port()?));
        Ok(Self {
            binary: binary.to_owned(),
            upgrade: None,
            data_dir: data_dir.to_owned(),
            env,
            address,
            admin,
            child: None,
        })
    }

    /// Has every start after the first one use another binary.
    pub fn upgrade_at_restart(&mut self, binary: &Path) {
        self.upgrade = Some(binary.to_owned());
    }

    /// Returns the address at which it serves S3.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Returns the access key that it made at its first start.
    ///
    /// # Errors
    /// An error when it has not started yet.
    pub fn credentials(&self) -> io::Result<Credentials> {
        let text = fs::read_to_string(self.data_dir.join("credentials"))?;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let value = line.and_then(|rest| rest.trim().strip_prefix('='));
            value.map(|value| value.trim().to_owned())
        };
        let found = value("aws_access_key_id").zip(value("aws_secret_access_key"));
        let (id, secret) = found.ok_or_else(|| io::Error::other("no credentials"))?;
        Ok(Credentials::Key { id, secret })
    }

    /// Starts the process, without waiting until it serves.
    ///
    /// # Errors
    /// An error when it cannot be started.
    pub fn launch(&mut self) -> io::Result<()> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.data_dir.with_extension("log"))?;
        let child = Command::new(&self.binary)
            .arg("gateway")
            .arg("--admin-listen")
            .arg(self.admin.to_string())
            .arg("--listen")
            .arg(self.address.to_string())
            .arg("--data-dir")
            .arg(&self.data_dir)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        if let Some(binary) = self.upgrade.take() {
            self.binary = binary;
        }
        Ok(())
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// An error when it does not serve in time.
    pub async fn serving(&self) -> io::Result<()> {
        let deadline = Instant::now() + START;
        while tokio::net::TcpStream::connect(self.address).await.is_err() {
            if Instant::now() > deadline {
                let log = fs::read_to_string(self.data_dir.with_extension("log"))?;
                let end: Vec<_> = log.lines().rev().take(5).collect();
                return Err(io::Error::other(format!(
                    "no gateway; its log, newest first: {end:?}"
                )));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Returns the sum of a metric over its labels.
    ///
    /// # Errors
    /// An error when it does not answer.
    pub async fn metric(&self, name: &str) -> io::Result<f64> {
        let mut stream = tokio::net::TcpStream::connect(self.admin).await?;
        let request = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with([' ', '{']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        });
        // The sum of no values is -0.
        Ok(values.fold(0.0, |sum, value| sum + value))
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let Some(child) = &self.child else { return Ok(()) };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("not a process id"))?;
        Ok(kill_process(pid, signal)?)
    }

    /// Returns whether it runs, and did not end by itself.
    ///
    /// # Errors
    /// An error when that cannot be determined.
    pub fn is_running(&mut self) -> io::Result<bool> {
        let Some(child) = &mut self.child else { return Ok(false) };
        Ok(child.try_wait()?.is_none())
    }

    /// Returns the last line of its log.
    ///
    /// # Errors
    /// An error when the log cannot be read.
    pub fn last_words(&self) -> io::Result<String> {
        let log = fs::read_to_string(self.data_dir.with_extension("log"))?;
        Ok(log.lines().next_back().unwrap_or_default().to_owned())
    }

    /// Kills it.
    ///
    /// # Errors
    /// An error when it is not running.
    pub fn kill(&mut self) -> io::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Stops the process, so that it can continue later.
    ///
    /// # Errors
    /// An error when it is not running.
    pub fn pause(&self) -> io::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Continues a stopped process.
    ///
    /// # Errors
    /// An error when it is not running.
    pub fn resume(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Returns a factory of an administrative command on its data directory.
    pub fn command(&self, args: &[&str]) -> impl Fn() -> Command + use<> {
        let (binary, data_dir, env) =
            (self.binary.clone(), self.data_dir.clone(), self.env.clone());
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        move || {
            let mut command = Command::new(&binary);
            command.args(&args).arg("--data-dir").arg(&data_dir);
            command.envs(env.iter().map(|(name, value)| (name, value)));
            command
        }
    }

    /// Runs an administrative command on its data directory, and returns its output.
    ///
    /// # Errors
    /// An error with the output of a command that fails.
    pub fn fula(&self, args: &[&str]) -> io::Result<String> {
        let done = self.command(args)().output()?;
        if done.status.success() {
            return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
        }
        let said = [done.stderr, done.stdout].concat();
        Err(io::Error::other(String::from_utf8_lossy(&said).into_owned()))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.kill());
    }
}
