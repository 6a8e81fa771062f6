//! Administrative requests: the same ones whether a gateway carries them out, asked over the
//! socket in its data directory, or the command does itself while no gateway runs.
//!
//! One JSON object a line each way. Whoever can open the socket (mode 0600) owns the data anyway.

mod users;

use std::{collections::HashSet, path::Path, sync::Arc};

use fula_core::{OwnerId, root::RootRow};
use fula_service::{Recovery, auth::Revoked, error::chain, fsck, history};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

pub(crate) use self::users::user_id;
use crate::{
    files::{self, FileError},
    gc,
    node::Node,
};

/// Longest request or answer line in bytes.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// Longest path of a Unix socket in bytes.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Rows read at a time.
const ROWS_PAGE: usize = 1000;

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
        /// Whether a user is revoked of whom nothing was ever seen.
        is_certain: bool,
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
    /// Check everything.
    Fsck,
    /// Give space back, or only say how much is in use.
    Gc {
        /// Collect.
        now: bool,
        /// In milliseconds, what was replaced within that time stays; the gateway's own if none.
        retention_ms: Option<u64>,
    },
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// The result.
    Ok(Value),
    /// Why there is none.
    Error(String),
}

/// Why a request was not carried out, for whoever asked.
struct Refused(String);

impl<E: std::error::Error> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(chain(&error))
    }
}

/// Carries out one request.
pub(crate) async fn execute(node: &Arc<Node>, request: Request) -> Answer {
    match carry_out(node, request).await {
        Ok(value) => Answer::Ok(value),
        Err(Refused(text)) => Answer::Error(text),
    }
}

async fn carry_out(node: &Arc<Node>, request: Request) -> Result<Value, Refused> {
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
        Request::Revoke { revoked, is_certain, before_now } => {
            let revoked = if before_now { until_now(node, revoked) } else { revoked };
            if !is_certain {
                users::check_seen(node, &revoked).await?;
            }
            revoke(node, revoked.clone()).await?;
            Ok(json!({"revoked": revoked}))
        }
        Request::RevokeList => Ok(json!(node.authenticator.revocations().all())),
        Request::MastersList => Ok(shared(node)?.status().await?.masters.into_keys().collect()),
        Request::MastersForget { name } => {
            if !shared(node)?.forget_master(&name).await? {
                let text = format!("there is no master {name}; see fula masters list");
                return Err(Refused(text));
            }
            Ok(json!({"forgotten": name}))
        }
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
        Request::Fsck => check(node).await,
        Request::Gc { now: false, .. } => {
            let (log_bytes, live_bytes) = node.store.sizes()?;
            Ok(json!({"log_bytes": log_bytes, "live_bytes": live_bytes}))
        }
        Request::Gc { retention_ms, .. } => {
            let own = node.service.committer().limits().retention;
            let retention = retention_ms.map_or(own, std::time::Duration::from_millis);
            Ok(json!(gc::now(node, retention).await.map_err(Refused)?))
        }
    }
}

/// Returns pointers, of one bucket name if given, and the recovery.
async fn show_roots(node: &Node, bucket: Option<&str>) -> Result<Value, Refused> {
    let rows = all_rows(node).await?;
    let named =
        rows.iter().filter(|row| bucket.is_none_or(|name| row.address.name.as_str() == name));
    let buckets: Vec<Value> = named.map(row_json).collect();
    let status = match &node.recovery {
        Some(recovery) => Some(recovery.status().await?),
        None => None,
    };
    Ok(json!({"buckets": buckets, "recovery": status}))
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

fn row_json(row: &RootRow) -> Value {
    json!({
        "owner": row.address.owner.to_string(),
        "bucket": row.address.name.as_str(),
        "root": row.pointer.root.to_string(),
        "version": row.pointer.version,
        "generation": row.pointer.generation,
        "created_ms": row.created,
        "deleted_ms": row.deleted,
        "global_name": row.global_name,
    })
}

fn commit_json(commit: &history::Commit) -> Value {
    json!({
        "root": commit.root.to_string(),
        "version": commit.version,
        "time_ms": commit.time,
        "writer": commit.writer.map(|writer| writer.to_string()),
        "objects": commit.objects,
        "bytes": commit.bytes,
        "deleted": commit.deleted,
    })
}

/// Returns every row of the arbiter.
async fn all_rows(node: &Node) -> Result<Vec<RootRow>, Refused> {
    let mut rows: Vec<RootRow> = Vec::new();
    loop {
        let after = rows.last().map(|row| row.address.clone());
        let page = node.roots().scan_roots(after.as_ref(), ROWS_PAGE).await;
        let page = page?.value;
        if page.is_empty() {
            return Ok(rows);
        }
        rows.extend(page);
    }
}

async fn find_row(node: &Node, bucket: &str, user: Option<&str>) -> Result<RootRow, Refused> {
    let owner: Option<OwnerId> = user.map(|user| OwnerId::of_user(&user_id(user)));
    let mut rows: Vec<RootRow> = all_rows(node)
        .await?
        .into_iter()
        .filter(|row| row.address.name.as_str() == bucket)
        .filter(|row| owner.is_none_or(|owner| row.address.owner == owner))
        .collect();
    match (rows.pop(), rows.is_empty()) {
        (Some(row), true) => Ok(row),
        (Some(_), false) => {
            Err(Refused(format!("several users have a bucket {bucket}: say whose, --user")))
        }
        (None, _) => Err(Refused(format!("there is no bucket {bucket}"))),
    }
}

/// Reads every byte of the log and everything reachable from the roots.
async fn check(node: &Node) -> Result<Value, Refused> {
    let damaged = tokio::task::block_in_place(|| node.store.verify());
    let damaged = damaged.map_err(|error| Refused(format!("cannot read the log: {error}")))?;
    let mut seen = HashSet::new();
    let mut buckets = Vec::new();
    let is_unrepaired = node.store.recovery.is_unrepaired;
    let mut problems = damaged.len() + usize::from(is_unrepaired);
    for row in all_rows(node).await? {
        // The row may move on while we look: check the newest.
        let newest = node.roots().get_roots(std::slice::from_ref(&row.address)).await?;
        let row = newest.value.into_iter().next().flatten().unwrap_or(row);
        // Held, so that nothing of it is collected while we look.
        let held = node.service.arbiter().current(&row.address).await.ok().flatten();
        let row = held.as_ref().map_or(row, |head| head.row.clone());
        let report = fsck::check_bucket(&node.nodes, &row, &mut seen).await?;
        drop(held);
        problems += report.problems.len();
        buckets.push(json!({
            "owner": report.bucket.owner.to_string(),
            "bucket": report.bucket.name.as_str(),
            "blocks": report.blocks,
            "problems": report.problems.iter().map(problem_text).collect::<Vec<_>>(),
        }));
    }
    let places: Vec<Value> = damaged
        .iter()
        .map(|damage| {
            json!({
                "segment": damage.segment,
                "offset": damage.offset,
                "bytes": damage.bytes,
                "cid": damage.cid.map(|cid| cid.to_string()),
            })
        })
        .collect();
    let cut: u64 = node.store.recovery.truncated.iter().map(|cut| cut.bytes).sum();
    Ok(json!({
        "problems": problems,
        "damaged": places,
        "buckets": buckets,
        "unfinished_bytes_cut": cut,
        "unfinished_repair": is_unrepaired,
    }))
}

fn problem_text(problem: &fsck::Problem) -> String {
    match problem {
        fsck::Problem::Missing(cid) => format!("block {cid} is missing"),
        fsck::Problem::Damaged(cid) => format!("block {cid} is damaged"),
        fsck::Problem::Malformed(cid, why) => format!("block {cid} is malformed: {why}"),
        fsck::Problem::RowDisagrees => "root block and root pointer disagree".to_owned(),
        fsck::Problem::Counters { tree, said, found } => {
            let ((said, said_bytes), (found, found_bytes)) = (said, found);
            format!(
                "tree {tree} says {said} entries of {said_bytes} bytes and has {found} of \
                 {found_bytes}"
            )
        }
    }
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
        Ok(request) => execute(node, request).await,
        Err(error) => Answer::Error(format!("not a request: {error}")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    write.write_all(&text).await
}

/// Asks the gateway that runs on a data directory; `None` when none does.
pub(crate) async fn ask(data_dir: &Path, request: &Request) -> Option<std::io::Result<Answer>> {
    let stream = UnixStream::connect(files::socket_path(data_dir)).await.ok()?;
    Some(exchange(stream, request).await)
}

async fn exchange(stream: UnixStream, request: &Request) -> std::io::Result<Answer> {
    let (read, mut write) = stream.into_split();
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    write.write_all(&text).await?;
    let mut line = String::new();
    BufReader::new(read.take(LINE_BYTES_MAX)).read_line(&mut line).await?;
    Ok(serde_json::from_str(&line)?)
}
