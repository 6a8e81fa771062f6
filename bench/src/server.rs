//! The servers that are measured: Fula, and installed peers.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use fula_testkit::{
    cluster::fula_binary,
    process::Gateway,
    s3::{Call, Client, Credentials},
};
use http::Method;
use tempfile::TempDir;

use crate::{
    peers::{self, Peer, START, Theirs},
    process::{Usage, usage},
};

/// The kind of a server.
#[derive(Clone, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Fula with default settings.
    Fula,
    /// Another build of Fula.
    #[value(skip)]
    Baseline(PathBuf),
    /// SeaweedFS in one process, configured to sync every write.
    Seaweedfs,
    /// Garage in one process, configured to sync every write.
    Garage,
}

impl Kind {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Fula => "fula",
            Self::Baseline(_) => "baseline",
            Self::Seaweedfs => "seaweedfs",
            Self::Garage => "garage",
        }
    }
}

/// A running server with its own directory. Both end when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    pub(crate) credentials: Credentials,
    process: Process,
    dir: TempDir,
}

#[derive(Debug)]
enum Process {
    Ours(Gateway),
    Theirs(Theirs),
}

impl Server {
    /// Starts a server on an empty directory.
    pub(crate) async fn start(kind: &Kind, settings: &[(&str, &str)]) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("fula-bench-").tempdir()?;
        let server = match kind {
            Kind::Fula => ours(kind, &fula_binary()?, dir, settings).await?,
            Kind::Baseline(binary) => ours(kind, binary, dir, settings).await?,
            Kind::Seaweedfs => theirs(kind, dir, peers::seaweedfs)?,
            Kind::Garage => theirs(kind, dir, peers::garage)?,
        };
        server.serving().await?;
        Ok(server)
    }

    /// Returns a client of the server.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.address, self.credentials.clone())
    }

    /// Returns the resources that its process has used so far.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        usage(self.pid()?)
    }

    /// Returns a factory of an administrative command of Fula.
    pub(crate) fn command(&self, args: &[&str]) -> io::Result<impl Fn() -> Command + use<>> {
        match &self.process {
            Process::Ours(gateway) => Ok(gateway.command(args)),
            Process::Theirs(_) => Err(io::Error::other("not a Fula gateway")),
        }
    }

    /// Runs an administrative command of Fula, and returns its output as JSON.
    pub(crate) fn fula(&self, args: &[&str]) -> io::Result<serde_json::Value> {
        let Process::Ours(gateway) = &self.process else {
            return Err(io::Error::other("not a Fula gateway"));
        };
        Ok(serde_json::from_str(&gateway.fula(args)?)?)
    }

    /// Returns the sum of a metric of Fula over its labels.
    pub(crate) async fn metric(&self, name: &str) -> io::Result<f64> {
        match &self.process {
            Process::Ours(gateway) => gateway.metric(name).await,
            Process::Theirs(_) => Err(io::Error::other("not a Fula gateway")),
        }
    }

    /// Kills a gateway with SIGKILL. [`Self::launch`] starts it again.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.gateway()?.kill()
    }

    /// Starts a killed gateway again. Returns the time until it serves.
    pub(crate) async fn launch(&mut self) -> io::Result<Duration> {
        let gateway = self.gateway()?;
        let begun = Instant::now();
        gateway.launch()?;
        gateway.serving().await?;
        Ok(begun.elapsed())
    }

    fn gateway(&mut self) -> io::Result<&mut Gateway> {
        match &mut self.process {
            Process::Ours(gateway) => Ok(gateway),
            Process::Theirs(_) => Err(io::Error::other("not a Fula gateway")),
        }
    }

    /// Kills the server, and with `cold` drops its files from the cache of the kernel. Returns the time
    /// from its start until it serves.
    pub(crate) async fn restart(&mut self, cold: bool) -> io::Result<Duration> {
        self.kill()?;
        for path in files(self.dir.path())?.into_iter().filter(|_| cold) {
            let file = fs::File::open(path)?;
            file.sync_all()?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        self.launch().await
    }

    /// Returns its directory.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the bytes of all its files.
    pub(crate) fn disk_bytes(&self) -> io::Result<u64> {
        let mut bytes = 0;
        for path in files(self.dir.path())? {
            match fs::metadata(path) {
                Ok(metadata) => bytes += metadata.len(),
                // Compaction removes segments while they are counted.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }

    pub(crate) fn pid(&self) -> io::Result<u32> {
        let pid = match &self.process {
            Process::Ours(gateway) => gateway.pid(),
            Process::Theirs(Theirs(child)) => Some(child.id()),
        };
        pid.ok_or_else(|| io::Error::other("the server is not running"))
    }

    /// Creates a bucket.
    pub(crate) async fn make_bucket(&self, name: &str) -> io::Result<()> {
        let call = Call::new(Method::PUT, format!("/{name}"));
        let reply = self.client().send(&call, START).await?;
        if reply.status.is_success() {
            return Ok(());
        }
        Err(io::Error::other(format!("{}: {:?}", reply.status, reply.body)))
    }

    /// Waits until it answers requests successfully.
    async fn serving(&self) -> io::Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let asked = self.make_bucket("warm-up").await;
            match asked {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    let text = format!("{} does not serve: {error}", self.kind.name());
                    return Err(io::Error::other(text));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }
}

/// Returns all files under a directory.
pub(crate) fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            match entry.file_type()? {
                found if found.is_dir() => dirs.push(entry.path()),
                found if found.is_file() => files.push(entry.path()),
                _ => {} // The socket of administrative commands.
            }
        }
    }
    Ok(files)
}

/// Returns the bytes that all files under a directory take up on disk.
pub(crate) fn allocated(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for path in files(dir)? {
        match fs::metadata(path) {
            // Blocks of 512 bytes, whatever the file system uses.
            Ok(metadata) => bytes += metadata.blocks() * 512,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

async fn ours(
    kind: &Kind,
    binary: &Path,
    dir: TempDir,
    settings: &[(&str, &str)],
) -> io::Result<Server> {
    let env = [("RUST_LOG", "warn")].iter().chain(settings);
    let env = env.map(|(name, value)| ((*name).to_owned(), value.into())).collect();
    let mut gateway = Gateway::new(binary, &dir.path().join("data"), env)?;
    gateway.launch()?;
    gateway.serving().await?;
    let (address, credentials) = (gateway.address(), gateway.credentials()?);
    let process = Process::Ours(gateway);
    Ok(Server { kind: kind.clone(), address, credentials, process, dir })
}

fn theirs(
    kind: &Kind,
    dir: TempDir,
    start: impl Fn(&Path) -> io::Result<Peer>,
) -> io::Result<Server> {
    let Peer { address, credentials, process } = start(dir.path())?;
    let process = Process::Theirs(process);
    Ok(Server { kind: kind.clone(), address, credentials, process, dir })
}
