//! Administrative requests: the same ones whether a gateway carries them out, asked over the
//! socket in its data directory, or the command does itself while no gateway runs.
//!
//! One JSON object a line each way. Whoever can open the socket (mode 0600) owns the data anyway.

mod fsck;
mod progress;
mod restore;
mod rows;
mod users;

use std::{path::Path, sync::Arc};

use fula_service::{Forgotten, Recovery, auth::Revoked, error::chain, history};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
};

pub(crate) use self::{progress::Step, users::user_id};
use self::{
    progress::{Progress, Watched},
    rows::{all_rows, commit_json, find_row, show_roots},
};
use crate::{
    files::{self, FileError},
    gc,
    node::Node,
    space::{self, Sizes},
    status,
};

/// Longest request or answer line in bytes.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// Rows read at a time.
const ROWS_PAGE: usize = 1000;

/// Longest path of a Unix socket in bytes.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Make an access key.
    KeysCreate {
        /// User name.
        user: String,
        /// Most keys of one user, where no gateway runs: a gateway does not hear of it.
        #[serde(skip)]
        keys_per_user: Option<usize>,
    },
    /// List access keys.
    KeysList {
        /// Only this user's.
        user: Option<String>,
    },
    /// Revoke an access key.
    KeysRevoke {
        /// Access key id.
        id: String,
        /// Only if it is this user's.
        user: Option<String>,
    },
    /// Revoke something on every master.
    Revoke {
        /// What.
        revoked: Revoked,
        /// How sure the operator is.
        sureness: Sureness,
        /// Whether what was issued before now is meant, by the clock that credentials are judged by.
        before_now: bool,
    },
    /// List what was revoked.
    RevokeList,
    /// List the masters that recoveries wait for.
    MastersList,
    /// Strike a master off that list.
    MastersForget {
        /// Its name.
        name: String,
        /// Also one that was just seen.
        #[serde(default)]
        force: bool,
    },
    /// Show a bucket's history.
    RootsLog {
        /// Its name.
        bucket: String,
        /// Whose.
        user: Option<String>,
        /// Most commits.
        limit: usize,
    },
    /// Show pointers and the recovery.
    RootsShow {
        /// Only this bucket.
        bucket: Option<String>,
    },
    /// Show the recovery, or force it.
    RootsHeal {
        /// Go on without masters that do not answer.
        force: bool,
    },
    /// Merge a fork.
    RootsMerge {
        /// Its name.
        bucket: String,
        /// Whose.
        user: Option<String>,
        /// Not only say what would be done.
        apply: bool,
    },
    /// Say how everything is.
    Status,
    /// Check everything.
    Fsck {
        /// Whether whoever asked wants to hear how far it has come.
        #[serde(default)]
        progress: bool,
    },
    /// Offer buckets whose root cannot be read the newest one that can.
    RestoreRoots {
        /// Have them go back to it, not only say so.
        apply: bool,
    },
    /// Give space back, or only say how much is in use.
    Gc {
        /// Collect.
        now: bool,
        /// In milliseconds, what was replaced within that time stays; the gateway's own if none.
        retention_ms: Option<u64>,
    },
}

/// How sure an operator is of a revocation, which cannot be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Sureness {
    /// What is revoked must be known here, and must not be a user with live keys or buckets.
    Unsure,
    /// It may be unknown here, but must not be a user with live keys or buckets.
    Known,
    /// The operator said yes.
    Certain,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// The result.
    Ok(Value),
    /// Why there is none.
    Error(String),
    /// How far the work has come; an answer follows.
    Progress(String),
}

/// Why a request was not carried out, for whoever asked.
struct Refused(String);

impl<E: std::error::Error + 'static> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(chain(&error))
    }
}

/// Carries out one request.
async fn execute(node: &Arc<Node>, request: Request, progress: &Progress) -> Answer {
    match carry_out(node, request, progress).await {
        Ok(value) => Answer::Ok(value),
        Err(Refused(text)) => Answer::Error(text),
    }
}

async fn carry_out(
    node: &Arc<Node>,
    request: Request,
    progress: &Progress,
) -> Result<Value, Refused> {
    let keys = node.authenticator.keys();
    match request {
        Request::KeysCreate { user, keys_per_user } => {
            if let Some(max) = keys_per_user {
                keys.set_keys_max(max);
            }
            users::create_key(node, &user).await
        }
        Request::KeysList { user } => users::list_keys(node, user.as_deref()).await,
        Request::KeysRevoke { id, user } => {
            if !keys.exists(&id, user.as_deref()).await? {
                return Err(Refused(format!("there is no access key {id}")));
            }
            revoke(node, Revoked::Key(id.clone())).await?;
            Ok(json!({"revoked": id}))
        }
        Request::Revoke { revoked, sureness, before_now } => {
            let revoked = if before_now { until_now(node, revoked) } else { revoked };
            users::check_revocation(node, &revoked, sureness).await?;
            revoke(node, revoked.clone()).await?;
            Ok(json!({"revoked": revoked}))
        }
        Request::RevokeList => Ok(json!(node.authenticator.revocations().all())),
        Request::MastersList => Ok(json!(shared(node)?.list_masters().await?)),
        Request::MastersForget { name, force } => forget_master(node, &name, force).await,
        Request::RootsLog { bucket, user, limit } => {
            let row = find_row(node, &bucket, user.as_deref()).await?;
            let blocks = node.nodes.blocks().as_ref();
            let commits = history::log(blocks, row.pointer.root, limit).await?;
            Ok(commits.iter().map(commit_json).collect())
        }
        Request::RootsShow { bucket } => show_roots(node, bucket.as_deref()).await,
        Request::RootsHeal { force } => {
            let recovery = shared(node)?;
            if force {
                recovery.force().await?;
            } else {
                recovery.tick().await?;
            }
            Ok(json!(recovery.status().await?))
        }
        Request::RootsMerge { bucket, user, apply } => {
            let row = find_row(node, &bucket, user.as_deref()).await?;
            let merged = shared(node)?.merge(&row.address, !apply).await;
            Ok(json!(merged?))
        }
        Request::Status => Ok(json!(status::page(node).await)),
        Request::Fsck { .. } => fsck::check(node, progress).await,
        Request::RestoreRoots { apply } => restore::roots(node, apply, progress).await,
        Request::Gc { now: false, .. } => look_at_space(node).await,
        Request::Gc { retention_ms, .. } => {
            let own = node.service.committer().limits().retention;
            let retention = retention_ms.map_or(own, std::time::Duration::from_millis);
            Ok(json!(gc::now(node, retention).await.map_err(Refused)?))
        }
    }
}

async fn forget_master(node: &Node, name: &str, force: bool) -> Result<Value, Refused> {
    match shared(node)?.forget_master(name, force).await? {
        Forgotten::Done => Ok(json!({"forgotten": name})),
        Forgotten::Unknown => {
            Err(Refused(format!("there is no master {name}; see fula masters list")))
        }
        Forgotten::Alive(age_ms) => Err(Refused(format!(
            "master {name} was seen {} s ago, and would be on the list again: stop it first, or add --force",
            age_ms / 1000
        ))),
    }
}

/// Returns what the bytes of the log are for, and what waits for the retention.
async fn look_at_space(node: &Node) -> Result<Value, Refused> {
    let retention = node.service.committer().limits().retention;
    let why = match space::look(node, retention).await {
        Ok(Some(outlook)) => return Ok(json!(outlook)),
        Ok(None) => "where arbiter or blocks are shared, nothing is collected".to_owned(),
        Err(error) => error,
    };
    let mut sizes = json!(Sizes::of(node, None)?);
    sizes["unknown"] = json!(why);
    Ok(sizes)
}

/// Has a revocation of what was issued before a time be about all that was issued before now.
fn until_now(node: &Node, revoked: Revoked) -> Revoked {
    match revoked {
        Revoked::IssuedBefore(user, _) => Revoked::IssuedBefore(user, node.authenticator.now() + 1),
        revoked => revoked,
    }
}

/// Revokes something. Of a key the record is deleted as well, last: an arbiter restored from a
/// backup would bring it back, and what fails on the way can be tried again.
async fn revoke(node: &Node, revoked: Revoked) -> Result<(), Refused> {
    let key = match &revoked {
        Revoked::Key(id) => Some(id.clone()),
        _ => None,
    };
    node.authenticator.revoke(revoked).await?;
    if let Some(id) = key {
        node.authenticator.keys().revoke(&id, None).await?;
    }
    Ok(())
}

fn shared(node: &Node) -> Result<&Recovery, Refused> {
    let none = "this master's arbiter is its own: there are no other masters (FULA_DATABASE_URL names the \
                database of masters that share one)";
    node.recovery.as_ref().ok_or_else(|| Refused(none.to_owned()))
}

/// Opens the socket of a data directory whose lock is held.
pub(crate) fn listen(data_dir: &Path) -> Result<UnixListener, FileError> {
    let path = files::socket_path(data_dir);
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        return Err(FileError::TooLong(path));
    }
    let failed = |error| FileError::Io(path.clone(), error);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // It is the owner's alone from the start (`files::keep_private`).
    UnixListener::bind(&path).map_err(failed)
}

/// Answers requests on the socket for ever.
pub(crate) async fn serve(listener: UnixListener, node: Arc<Node>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let node = Arc::clone(&node);
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &node).await {
                        tracing::debug!(%error, "an administrative command went away");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an administrative command");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, node: &Arc<Node>) -> std::io::Result<()> {
    let mut line = String::new();
    let (read, mut write) = stream.into_split();
    BufReader::new(read.take(LINE_BYTES_MAX)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => {
            let wants_progress =
                matches!(request, Request::Fsck { progress: true } | Request::RestoreRoots { .. });
            let mut work = begin(node, request);
            loop {
                match work.next().await {
                    Step::Report(text) if wants_progress => {
                        send(&mut write, &Answer::Progress(text)).await?;
                    }
                    Step::Report(_) => {}
                    Step::Done(answer) => break answer,
                }
            }
        }
        Err(_) => Answer::Error(
            "the gateway does not know this command: it runs another version of fula; use the fula of its \
             version"
                .to_owned(),
        ),
    };
    send(&mut write, &answer).await
}

/// Begins to carry out one request.
pub(crate) fn begin(node: &Arc<Node>, request: Request) -> Watched<Answer> {
    let (progress, node) = (Progress::default(), Arc::clone(node));
    let of_work = progress.clone();
    progress.watch(async move { execute(&node, request, &of_work).await })
}

async fn send(write: &mut OwnedWriteHalf, value: &impl Serialize) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    write.write_all(&text).await
}

/// Asks the gateway that runs on a data directory; `None` when none does. Calls `report` with how far it
/// has come.
///
/// # Errors
/// Why a gateway that runs did not answer, for a person.
pub(crate) async fn ask(
    data_dir: &Path,
    request: &Request,
    report: impl Fn(&str),
) -> Option<Result<Answer, String>> {
    let path = files::socket_path(data_dir);
    let asked = match UnixStream::connect(&path).await {
        Ok(stream) => exchange(stream, request, report).await,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Some(Err(FileError::Io(path, error).to_string()));
        }
        Err(_) => return None,
    };
    Some(asked.map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => {
            "the gateway answers what this fula does not understand: use the fula of the gateway's version"
                .to_owned()
        }
        _ => "the gateway ended before it had answered: look at its log, and run the command again".to_owned(),
    }))
}

async fn exchange(
    stream: UnixStream,
    request: &Request,
    report: impl Fn(&str),
) -> std::io::Result<Answer> {
    let (read, mut write) = stream.into_split();
    send(&mut write, request).await?;
    let mut read = BufReader::new(read.take(LINE_BYTES_MAX));
    loop {
        let mut line = String::new();
        if read.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let answer = serde_json::from_str(&line);
        match answer.map_err(|_| std::io::ErrorKind::InvalidData)? {
            Answer::Progress(text) => report(&text),
            answer => return Ok(answer),
        }
    }
}
