//! Finds the commit that the program is built from, for `fula --version`. The first of these that is there
//! counts: the environment variable `FULA_COMMIT`, the file that `git archive` writes, the repository around
//! this folder. Without any of them the version names no commit, and the build goes on.

use std::{path::Path, process::Command};

/// Digits of a commit that are shown.
const DIGITS: usize = 12;

/// File in which `git archive` replaces a placeholder by the commit (`.gitattributes`).
const ARCHIVED: &str = "archived-commit.txt";

fn main() {
    println!("cargo::rerun-if-env-changed=FULA_COMMIT");
    println!("cargo::rerun-if-changed={ARCHIVED}");
    println!("cargo::rerun-if-changed=build.rs");
    let version = env!("CARGO_PKG_VERSION");
    let version = match commit() {
        Some(commit) => format!("{version} ({commit})"),
        None => version.to_owned(),
    };
    println!("cargo::rustc-env=FULA_VERSION={version}");
}

/// Returns the commit that the sources are of, as far as it can be found out.
fn commit() -> Option<String> {
    named().or_else(archived).or_else(checked_out)
}

/// Returns the commit that the environment names.
#[expect(
    clippy::disallowed_methods,
    reason = "no setting of the program: it is read while it is built"
)]
fn named() -> Option<String> {
    std::env::var("FULA_COMMIT").ok().and_then(|name| short(&name))
}

/// Returns the commit that `git archive` wrote down.
fn archived() -> Option<String> {
    std::fs::read_to_string(ARCHIVED).ok().and_then(|text| short(&text))
}

/// Returns the commit that is checked out, and whether files differ from it. A repository that does not track
/// this folder is another one, in which the sources were unpacked.
fn checked_out() -> Option<String> {
    git(&["ls-files", "--error-unmatch", "Cargo.toml"])?;
    let root = git(&["rev-parse", "--show-toplevel"])?;
    for watched in ["HEAD", "logs/HEAD", "index"] {
        let path = git(&["rev-parse", "--git-path", watched])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let sources = ["crates", "Cargo.toml", "Cargo.lock"].map(|name| format!("{root}/{name}"));
    for path in &sources {
        println!("cargo::rerun-if-changed={path}");
    }
    let commit = short(&git(&["rev-parse", "HEAD"])?)?;
    let line = ["status", "--porcelain", "--untracked-files=no", "--"].map(str::to_owned);
    let line: Vec<String> = line.into_iter().chain(sources).collect();
    let changed = git(&line.iter().map(String::as_str).collect::<Vec<_>>())?;
    Some(if changed.is_empty() { commit } else { format!("{commit}, changed") })
}

/// Runs git, and returns what it prints. Returns `None` if it fails or is not there.
fn git(line: &[&str]) -> Option<String> {
    // Without the lock, a build does not disturb another git command.
    let output = Command::new("git").arg("--no-optional-locks").args(line).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Returns the first digits of the name of a commit. Returns `None` for anything else, such as the placeholder.
fn short(name: &str) -> Option<String> {
    let name = name.trim();
    let is_commit = name.len() >= DIGITS && name.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_commit.then(|| name[..DIGITS].to_owned())
}
