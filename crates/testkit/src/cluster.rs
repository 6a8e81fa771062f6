//! Several gateway processes on one Postgres, connected by links that can fail.

use std::{
    ffi::OsString,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{
    link::Link,
    postgres::Postgres,
    process::Gateway,
    s3::{Client, Credentials},
};

/// Several masters on one machine.
#[derive(Debug)]
pub struct Cluster {
    /// The arbiter.
    pub postgres: Postgres,
    /// The masters.
    pub gateways: Vec<Gateway>,
    /// Links between each master and the arbiter.
    pub arbiter_links: Vec<Link>,
    /// Links between clients and each master.
    pub client_links: Vec<Link>,
    /// Credentials of the clients.
    pub credentials: Credentials,
    dir: TempDir,
}

/// Returns the path of the `fula` binary that was built beside this program.
///
/// # Errors
/// An error when there is none.
pub fn fula_binary() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let dirs = own.ancestors().skip(1).take(2);
    let found = dirs.map(|dir| dir.join("fula")).find(|path| path.is_file());
    found.ok_or_else(|| io::Error::other("build it first: cargo build --bin fula"))
}

impl Cluster {
    /// Starts `masters` gateways with the environment `env`.
    ///
    /// # Errors
    /// The error of a part that does not start.
    pub async fn start(masters: usize, env: &[(&str, &str)]) -> io::Result<Self> {
        Self::start_beside(masters, env, None).await
    }

    /// Starts gateways, of which all but the first one run `baseline`, a program of another version, if one is given.
    /// The last one is upgraded at its next start; the others stay as they are.
    ///
    /// # Errors
    /// The error of a part that does not start.
    pub async fn start_beside(
        masters: usize,
        env: &[(&str, &str)],
        baseline: Option<&Path>,
    ) -> io::Result<Self> {
        let binary = fula_binary()?;
        let dir = tempfile::Builder::new().prefix("fula-drill-").tempdir()?;
        let postgres = Postgres::start(&["max_connections=200"])?;
        let key = dir.path().join("secrets.key");
        let made = std::process::Command::new(&binary)
            .args(["secrets", "keygen"])
            .arg(&key)
            .stderr(std::process::Stdio::null())
            .status()?;
        if !made.success() {
            return Err(io::Error::other("fula secrets keygen failed"));
        }
        let arbiter = SocketAddr::from(([127, 0, 0, 1], postgres.port()));
        let blocks = format!("file://{}", dir.path().join("blocks").display());
        let (mut gateways, mut arbiter_links, mut client_links) =
            (Vec::new(), Vec::new(), Vec::new());
        for n in 0..masters {
            let link = Link::open(arbiter).await?;
            let url = format!("postgres://fula@{}/postgres", link.address());
            let mut all: Vec<(String, OsString)> = vec![
                ("FULA_DATABASE_URL".into(), url.into()),
                ("FULA_BLOCKS".into(), blocks.clone().into()),
                ("FULA_SECRETS_KEY_FILE".into(), key.clone().into()),
                ("RUST_LOG".into(), "warn".into()),
            ];
            all.extend(env.iter().map(|(name, value)| ((*name).to_owned(), value.into())));
            let program = baseline.filter(|_| n > 0).unwrap_or(&binary);
            let mut gateway = Gateway::new(program, &dir.path().join(format!("master{n}")), all)?;
            if n + 1 == masters {
                gateway.upgrade_at_restart(&binary);
            }
            gateway.launch()?;
            client_links.push(Link::open(gateway.address()).await?);
            arbiter_links.push(link);
            gateways.push(gateway);
        }
        for gateway in &gateways {
            gateway.serving().await?;
        }
        let credentials = gateways[0].credentials()?;
        Ok(Self { postgres, gateways, arbiter_links, client_links, credentials, dir })
    }

    /// Returns a client of master `n`, over a link that may fail.
    pub fn client(&self, n: usize) -> Client {
        Client::new(self.client_links[n].address(), self.credentials.clone())
    }

    /// Returns the directory of the cluster's files, which exists as long as this value.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Keeps the files when the cluster ends, for inspection.
    pub fn keep(&mut self) -> &Path {
        self.dir.disable_cleanup(true);
        self.dir.path()
    }
}
