//! The tools that are compared, and their commands.

use std::{
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use fula_testkit::{cluster::fula_binary, s3::Credentials};

use super::{
    files,
    program::{self, Ran},
};
use crate::server::{Kind, Server};

/// Bucket in which a tool works.
const BUCKET: &str = "sealed";

/// Name of the vault.
const VAULT: &str = "bench";

/// Number of files that are transferred at a time.
const TRANSFERS: usize = 16;

/// A tool that seals files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    Fula,
    Rclone,
}

/// What a tool does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Job<'a> {
    /// Sends a file.
    Up(&'a Path),
    /// Fetches that file.
    Down(&'a Path),
    /// Prints that file to `/dev/null`.
    Read,
    /// Sends a folder.
    Copy(&'a Path),
    /// Sends what changed in a folder.
    Sync(&'a Path),
    /// Prints all names, a line each.
    Names,
}

impl Tool {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fula => "fula",
            Self::Rclone => "rclone",
        }
    }

    /// Returns the version that the program prints.
    pub(super) async fn version(self, rclone: &Path) -> io::Result<String> {
        let mut command = match self {
            Self::Fula => Command::new(fula_binary()?),
            Self::Rclone => Command::new(rclone),
        };
        command.arg(if self == Self::Fula { "--version" } else { "version" });
        let (_, text) = program::run(command).await?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }
}

/// A tool on a gateway of its own.
pub(super) struct Turn {
    pub(super) tool: Tool,
    pub(super) server: Server,
    rclone: PathBuf,
    /// Password of rclone in the form that its configuration has.
    password: String,
    dir: tempfile::TempDir,
}

impl Turn {
    /// Starts a gateway, and makes what the tool needs in it.
    pub(super) async fn start(tool: Tool, rclone: &Path) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("fula-bench-").tempdir()?;
        let server = Server::start(&Kind::Fula, &[]).await?;
        server.make_bucket(BUCKET).await?;
        let password = match tool {
            Tool::Fula => String::new(),
            Tool::Rclone => {
                let mut obscure = Command::new(rclone);
                obscure.args(["obscure", "a password of a benchmark"]);
                program::run(obscure).await?.1.trim().to_owned()
            }
        };
        let turn = Self { tool, server, rclone: rclone.to_owned(), password, dir };
        if tool == Tool::Fula {
            program::run(turn.fula(&["vault", "create", VAULT, BUCKET], "device")?).await?;
            // What a device has that made the vault, and has seen nothing else of it.
            files::copy(&turn.dir.path().join("device"), &turn.dir.path().join("fresh"))?;
        }
        Ok(turn)
    }

    /// Returns a command of Fula, with what a device has in this directory.
    fn fula(&self, args: &[&str], device: &str) -> io::Result<Command> {
        let Credentials::Key { id, secret } = &self.server.credentials else {
            return Err(io::Error::other("the gateway has no access key"));
        };
        let mut command = Command::new(fula_binary()?);
        command.args(args).env("AWS_ENDPOINT_URL", format!("http://{}", self.server.address));
        command.env("AWS_ACCESS_KEY_ID", id).env("AWS_SECRET_ACCESS_KEY", secret);
        for name in ["XDG_CONFIG_HOME", "XDG_STATE_HOME", "HOME"] {
            command.env(name, self.dir.path().join(device));
        }
        Ok(command)
    }

    fn rclone(&self, args: &[&str]) -> io::Result<Command> {
        let Credentials::Key { id, secret } = &self.server.credentials else {
            return Err(io::Error::other("the gateway has no access key"));
        };
        let mut command = Command::new(&self.rclone);
        command.args(args);
        let settings = [
            ("S3_TYPE", "s3"),
            ("S3_PROVIDER", "Other"),
            ("S3_ENDPOINT", &*format!("http://{}", self.server.address)),
            ("S3_ACCESS_KEY_ID", id),
            ("S3_SECRET_ACCESS_KEY", secret),
            ("CRYPT_TYPE", "crypt"),
            ("CRYPT_REMOTE", &*format!("s3:{BUCKET}")),
            ("CRYPT_PASSWORD", &self.password),
        ];
        for (name, value) in settings {
            command.env(format!("RCLONE_CONFIG_{name}"), value);
        }
        command.env("RCLONE_CONFIG", self.dir.path().join("rclone.conf"));
        command.env("RCLONE_CACHE_DIR", self.dir.path().join("cache"));
        Ok(command)
    }

    fn command(&self, job: Job<'_>) -> io::Result<Command> {
        let transfers = TRANSFERS.to_string();
        let many = ["--transfers", &transfers, "--checkers", &transfers];
        let (file_there, tree_there) = match self.tool {
            Tool::Fula => (Path::new("vault:bench/large"), Path::new("vault:bench/tree/")),
            Tool::Rclone => (Path::new("crypt:large"), Path::new("crypt:tree")),
        };
        let fula = |args: &[&str]| {
            let mut command = self.fula(args, "device")?;
            command.args(["--no-progress", "--transfers", &transfers]);
            Ok::<_, io::Error>(command)
        };
        let (mut command, paths): (_, [Option<&Path>; 2]) = match (self.tool, job) {
            (Tool::Fula, Job::Up(file)) => (fula(&["cp"])?, [Some(file), Some(file_there)]),
            (Tool::Fula, Job::Down(file)) => (fula(&["cp"])?, [Some(file_there), Some(file)]),
            (Tool::Fula, Job::Read) => (self.fula(&["cat"], "device")?, [Some(file_there), None]),
            (Tool::Fula, Job::Copy(dir)) => (fula(&["cp", "-r"])?, [Some(dir), Some(tree_there)]),
            (Tool::Fula, Job::Sync(dir)) => (fula(&["sync"])?, [Some(dir), Some(tree_there)]),
            (Tool::Fula, Job::Names) => {
                (self.fula(&["ls", "--recursive"], "cold")?, [Some(tree_there), None])
            }
            (Tool::Rclone, Job::Up(file)) => {
                (self.rclone(&["copyto"])?, [Some(file), Some(file_there)])
            }
            (Tool::Rclone, Job::Down(file)) => {
                (self.rclone(&["copyto"])?, [Some(file_there), Some(file)])
            }
            (Tool::Rclone, Job::Read) => (self.rclone(&["cat"])?, [Some(file_there), None]),
            (Tool::Rclone, Job::Copy(dir)) => {
                (self.rclone(&["copy"])?, [Some(dir), Some(tree_there)])
            }
            (Tool::Rclone, Job::Sync(dir)) => {
                (self.rclone(&["sync"])?, [Some(dir), Some(tree_there)])
            }
            (Tool::Rclone, Job::Names) => {
                let args = ["lsf", "--recursive", "--files-only", "--fast-list"];
                (self.rclone(&args)?, [Some(tree_there), None])
            }
        };
        command.args(paths.into_iter().flatten());
        if self.tool == Tool::Rclone {
            command.args(many);
        }
        Ok(command)
    }

    /// Lets the tool do a job in a process of its own. Returns what it took, and what it printed.
    pub(super) async fn run(&self, job: Job<'_>) -> io::Result<(Ran, String)> {
        if self.tool == Tool::Fula && matches!(job, Job::Names) {
            let cold = self.dir.path().join("cold");
            drop(std::fs::remove_dir_all(&cold));
            files::copy(&self.dir.path().join("fresh"), &cold)?;
        }
        if matches!(job, Job::Read) {
            let ran = program::run_into(self.command(job)?, Stdio::null()).await?;
            return Ok((ran, String::new()));
        }
        program::run(self.command(job)?).await
    }

    /// Checks that the tool finds `count` files.
    pub(super) async fn check_count(&self, count: usize) -> io::Result<()> {
        let (_, text) = self.run(Job::Names).await?;
        self.check_names(&text, count)
    }

    /// Checks that a list has `count` names.
    pub(super) fn check_names(&self, text: &str, count: usize) -> io::Result<()> {
        let found = text.lines().count();
        if found == count {
            return Ok(());
        }
        let name = self.tool.name();
        Err(io::Error::other(format!("{name} lists {found} files, and {count} were sent")))
    }
}
