//! Administrative requests and their answers.
//!
//! A running gateway carries them out; commands send them over the socket in its data directory. While no
//! gateway runs, the command itself carries out the same requests.
//!
//! The socket takes one JSON object a line, and answers in the same form. It has mode 0600: a process that
//! can open it can read and write the data directory as well.

mod backup;
mod buckets;
mod doctor;
mod fsck;
mod join;
mod progress;
mod request;
mod restore;
mod rows;
pub(crate) mod transfer;
mod users;

use std::{path::Path, sync::Arc};

use fula_core::StoreError;
use fula_service::{Forgotten, Recovery, auth::Revoked, error::chain, history};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

pub(crate) use self::{
    progress::Step,
    request::{Request, State, Sureness},
};
use self::{
    progress::{Progress, Watched},
    rows::{all_rows, commit_json, find_row, show_roots},
};
use crate::{
    files::{self, FileError},
    gc,
    node::Node,
    space::{self, Sizes},
    state::PinsAction,
    status,
};

/// Longest request or answer line in bytes.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// Rows read at a time.
const ROWS_PAGE: usize = 1000;

/// Longest path of a Unix socket in bytes.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// An answer to a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// The result.
    Ok(Value),
    /// The reason why the request failed.
    Error(String),
    /// A report of the progress; the answer follows later.
    Progress(String),
    /// This many bytes of a file follow the line, and the answer later.
    Data(usize),
    /// The command hands over its file now.
    Hand,
    /// This many bytes more were written to the file of the command; the answer follows later.
    Written(usize),
}

/// The reason why a request was not carried out, in words for the operator.
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
            let user = users::named(node, user).await?;
            if keys.was_revoked(&id, user.as_deref()).await? {
                return Ok(json!({"revoked": id, "already": true}));
            }
            if !keys.exists(&id, user.as_deref()).await? {
                return Err(Refused(format!(
                    "there is no access key {id}; fula keys list shows all keys, and fula revoke key ends sessions"
                )));
            }
            revoke(node, Revoked::Key(id.clone())).await?;
            Ok(json!({"revoked": id}))
        }
        Request::Revoke { revoked, sureness, before_now } => {
            let revoked = if before_now { until_now(node, revoked) } else { revoked };
            let revoked = users::with_user(node, revoked).await?;
            if let Revoked::Key(id) = &revoked
                && keys.was_revoked(id, None).await?
            {
                return Ok(json!({"revoked": users::revoked_json(&revoked), "already": true}));
            }
            users::check_revocation(node, &revoked, sureness).await?;
            revoke(node, revoked.clone()).await?;
            Ok(json!({"revoked": users::revoked_json(&revoked)}))
        }
        Request::RevokeList => Ok(users::list_revocations(node)),
        Request::MastersList => Ok(json!(shared(node)?.list_masters().await?)),
        Request::MastersForget { name, force } => forget_master(node, &name, force).await,
        Request::RootsLog { bucket, user, limit } => {
            let row = find_row(node, &bucket, user.as_deref()).await?;
            let blocks = node.nodes.blocks().as_ref();
            let commits = history::log(blocks, row.pointer.root, limit).await;
            let commits = commits.map_err(|error| unreadable_root(&bucket, error))?;
            Ok(commits.iter().map(commit_json).collect())
        }
        Request::Doctor => doctor::examine(node).await,
        Request::Usage { user } => buckets::usage(node, user.as_deref()).await,
        Request::Clone { bucket, version, name, user } => {
            buckets::clone(node, (&bucket, user.as_deref()), version, &name).await
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
        Request::Pins { action, bucket } => pins(node, action, bucket.as_deref(), progress).await,
        Request::Export(_)
        | Request::Import(_)
        | Request::ExportFile(_)
        | Request::ImportFile(_) => {
            Err(Refused("a file is exported and imported as a stream".to_owned()))
        }
        Request::BackupRows { after } => backup::rows(node, after).await,
        Request::BackupFacts => backup::facts(node).await,
        Request::BackupKeys { after } => backup::keys(node, after.as_deref()).await,
        Request::PutBack(state) => backup::put_back(node, state).await,
        Request::Given { role, url } => join::given(role, url.as_deref()),
        Request::Invite { id, life_ms } => join::invite(node, &id, life_ms).await,
        Request::UseInvitation { id, takes } => join::use_invitation(node, &id, takes).await,
        Request::Reseal => {
            let (done, others) = node.reseal().await?;
            Ok(json!({
                "changed": done.changed,
                "already": done.already,
                "left": done.left,
                "other_masters": others,
            }))
        }
        Request::Leave { stops } => join::leave(node, stops).await,
        Request::Gc { now: false, .. } => look_at_space(node).await,
        Request::Gc { retention_ms, .. } => {
            let retention = retention_ms.map(std::time::Duration::from_millis);
            Ok(json!(gc::now(node, retention).await.map_err(Refused)?))
        }
    }
}

async fn pins(
    node: &Node,
    action: PinsAction,
    bucket: Option<&str>,
    progress: &Progress,
) -> Result<Value, Refused> {
    let none = "nothing is pinned: no gateway runs on this data directory with FULA_PINS";
    let pins = node.pins.get().ok_or_else(|| Refused(none.to_owned()))?;
    let done = Arc::clone(pins).carry_out(action, bucket, &|text| progress.say(text)).await;
    done.map_err(Refused)
}

/// Returns the error for a bucket whose history cannot be read.
fn unreadable_root(bucket: &str, error: StoreError) -> Refused {
    let what = chain(&error);
    match error {
        StoreError::Missing { .. } | StoreError::Damaged { .. } => Refused(format!(
            "the history of bucket {bucket} cannot be read: {what}; run fula fsck, and look at what fula fsck \
             --repair offers"
        )),
        _ => Refused(what),
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

/// Returns the sizes of the parts of the log, how much waits for the end of the retention, and why the last
/// collection deleted nothing, if it failed.
async fn look_at_space(node: &Node) -> Result<Value, Refused> {
    let mut sizes = sizes(node).await?;
    let failure = if node.owns_blocks() {
        node.collections.ledger().failure
    } else {
        gc::shared::last(node.metadata.as_ref()).await?.failure
    };
    if let Some(failure) = failure {
        sizes["failure"] = json!(failure);
    }
    Ok(sizes)
}

async fn sizes(node: &Node) -> Result<Value, Refused> {
    let retention = node.retention.current();
    let why = match space::look(node, retention).await {
        Ok(Some(outlook)) => return Ok(json!(outlook)),
        Ok(None) => {
            "of shared blocks, it is known only after a collection: see `fula gc --now`".to_owned()
        }
        Err(error) => error,
    };
    let mut sizes = json!(Sizes::of(node, None)?);
    sizes["unknown"] = json!(why);
    Ok(sizes)
}

/// Returns a revocation of everything issued before now, if `revoked` is one of everything issued before some
/// time; otherwise `revoked` as it is.
fn until_now(node: &Node, revoked: Revoked) -> Revoked {
    match revoked {
        Revoked::IssuedBefore(user, _) => Revoked::IssuedBefore(user, node.authenticator.now() + 1),
        revoked => revoked,
    }
}

/// Revokes a credential or a user. The secret of a revoked key is deleted as well. That happens last: the
/// revocation refuses the key even if an arbiter restored from a backup brings the record back, and a command
/// that failed on the way can be run again.
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
    // The socket is private from the start (`files::keep_private`).
    UnixListener::bind(&path).map_err(failed)
}

/// Answers requests on the socket, and never returns.
pub(crate) async fn serve(listener: UnixListener, node: Arc<Node>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let node = Arc::clone(&node);
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &node).await {
                        tracing::debug!(%error, "an administrative command closed its connection");
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
    let mut read = BufReader::new(read.take(LINE_BYTES_MAX));
    read.read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(Request::Export(request)) => transfer::export_to(node, &request, &mut write).await,
        Ok(Request::Import(request)) => {
            read.get_mut().set_limit(u64::MAX);
            transfer::import_from(node, &request, &mut read).await
        }
        Ok(Request::ExportFile(request)) => {
            transfer::export_to_file(node, &request, &mut write).await?
        }
        Ok(Request::ImportFile(request)) => {
            transfer::import_from_file(node, &request, &mut read, &mut write).await?
        }
        Ok(request) => {
            let wants_progress =
                matches!(
                request,
                Request::Fsck { progress: true }
                    | Request::RestoreRoots { .. }
                    | Request::Pins { action: PinsAction::Verify, .. }
            );
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

/// Starts to carry out one request.
pub(crate) fn begin(node: &Arc<Node>, request: Request) -> Watched<Answer> {
    let (progress, node) = (Progress::default(), Arc::clone(node));
    let of_work = progress.clone();
    progress.watch(async move { execute(&node, request, &of_work).await })
}

async fn send(
    write: &mut (dyn AsyncWrite + Send + Unpin),
    value: &(impl Serialize + Sync),
) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    write.write_all(&text).await
}

/// Sends a request to the gateway that runs on a data directory. Returns `None` if no gateway runs. Calls
/// `report` with each report of the progress.
///
/// # Errors
/// The reason why a running gateway did not answer, in words for the operator.
pub(crate) async fn ask(
    data_dir: &Path,
    request: &Request,
    report: impl Fn(&str),
) -> Option<Result<Answer, String>> {
    let path = files::socket_path(data_dir);
    let asked = match UnixStream::connect(&path).await {
        Ok(stream) => exchange(stream, request, report).await,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Some(Err(files::denied(data_dir).to_string()));
        }
        Err(_) => return None,
    };
    Some(asked.map_err(|error| transfer::lost(&error)))
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
