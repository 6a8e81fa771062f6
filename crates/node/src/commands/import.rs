//! `fula roots import`: moves the buckets, keys and revocations of a single master into a shared arbiter.

use fula_core::{
    block::{Placement, Position, require},
    root::{CasOutcome, GlobalName, NewRoot, RootPointer, RootRow},
};
use fula_service::{Limits, error::chain, system_random};
use serde::Serialize;
use serde_json::{Value, json};

use super::Failure;
use crate::{
    cli::{CasMode, DataDirArgs, ImportArgs, SharedArgs},
    config::Backends,
    files::{self, DataDir, ScratchDir},
    node::{Node, NodeError, Purpose},
    output::note,
};

/// Most rows and blocks that are read at a time.
const PAGE: usize = 256;

/// Runs `fula roots import`. It can be run again: buckets and keys that are already in the arbiter stay as
/// they are.
pub(crate) async fn run(args: &ImportArgs) -> Result<Value, Failure> {
    let text = |error: &(dyn std::error::Error + 'static)| chain(error);
    let key_file = args.secrets_key_file.clone();
    let shared = Backends::check(&args.data, args.shared.clone(), key_file, CasMode::Auto);
    let mut shared = shared?;
    if shared.shared.is_none() {
        return Err("set FULA_DATABASE_URL: the arbiter to import into".to_owned().into());
    }
    let data = DataDirArgs { data_dir: Some(shared.data_dir.clone()) };
    let source = SharedArgs { blocks: args.source_blocks.clone(), ..SharedArgs::default() };
    let key_file = args.source_secrets_key_file.clone();
    let own = Backends::check(&data, source, key_file, CasMode::Auto);
    let own = own?;
    let dir = own.data_dir.display();
    if files::look_at(&own.data_dir).map_err(|error| text(&error))? != DataDir::Used {
        let text = format!(
            "no gateway was ever started on the data directory {dir}: nothing can be imported from it"
        );
        return Err(text.into());
    }
    if own.secrets_key_file.is_none() && !own.data_dir.join("secrets.key").exists() {
        return Err("the data directory has no secrets.key: name the key file that its gateway \
                    used with --source-secrets-key-file"
            .to_owned()
            .into());
    }
    // The arbiter is opened with a temporary data directory.
    let scratch = ScratchDir::make(&system_random()).map_err(|error| text(&error))?;
    scratch.path().clone_into(&mut shared.data_dir);
    let open = async |backends, purpose| {
        let opened = Node::open(backends, Limits::default(), purpose, false).await;
        opened.map_err(|error| match error {
            NodeError::OfSharedArbiter(dir) => format!(
                "the data directory {} is that of a master which shares an arbiter already: its buckets are in \
                 that arbiter; name the directory of a single master with --data-dir",
                dir.display()
            ),
            error => text(&error),
        })
    };
    let from = open(&own, Purpose::Read).await?;
    let to = open(&shared, Purpose::MoveIn).await?;
    let mut report = import(&from, &to).await?;
    report.not_brought.extend(unfinished(&from));
    drop(to);
    Ok(json!(report))
}

/// The result of an import.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// Buckets that are in the arbiter now.
    imported: Vec<String>,
    /// Buckets that an earlier import has already imported in the same state.
    already: Vec<String>,
    /// Buckets that the arbiter holds in another state. They were not imported.
    taken: Vec<String>,
    /// Ids of the imported access keys.
    key: Vec<String>,
    /// Writes that are not in the arbiter, each with the reason.
    not_brought: Vec<String>,
}

/// Describes unfinished writes at the end of the log. No client got an answer of success for them.
fn unfinished(from: &Node) -> Vec<String> {
    let cut = from.store.recovery.truncated.iter();
    let text = |cut: &fula_stores::Damage| {
        format!("{} bytes of unfinished writes at the end of {}", cut.bytes, cut.segment)
    };
    cut.map(text).collect()
}

async fn import(from: &Node, to: &Node) -> Result<Report, String> {
    // What is copied is put under this generation: should a collection begin meanwhile, no bucket is published.
    let generation = to.roots().generation().await.map_err(|error| chain(&error))?.value;
    to.nodes.blocks().observe_generation(generation);
    copy_blocks(from, to).await?;
    let mut report = Report::default();
    let mut after = None;
    loop {
        let page = from.roots().scan_roots(after.as_ref(), PAGE).await;
        let page = page.map_err(|error| chain(&error))?.value;
        let Some(last) = page.last() else { break };
        after = Some(last.address.clone());
        for row in page {
            let pointer = RootPointer { generation, ..row.pointer };
            import_row(to, RootRow { pointer, ..row }, &mut report).await?;
        }
    }
    // A key that was revoked by itself must not be accepted in between.
    import_revocations(from, to).await?;
    report.key = import_keys(from, to).await?;
    Ok(report)
}

async fn import_row(to: &Node, row: RootRow, report: &mut Report) -> Result<(), String> {
    let (name, pointer) = (row.address.name.to_string(), row.pointer);
    let root = require(to.nodes.blocks().as_ref(), &pointer.root).await;
    root.map_err(|error| {
        let error = chain(&error);
        format!("bucket {name}: {error}; name the store of its blocks with --source-blocks")
    })?;
    match publish(to, row).await? {
        None => report.imported.push(name),
        Some(current) if is_same(&current.pointer, &pointer) => report.already.push(name),
        Some(current) => {
            report.not_brought.push(format!(
                "bucket {name} as it is here, at version {}: the arbiter has another state of it, at version \
                 {}; delete or rename one of them",
                pointer.version, current.pointer.version
            ));
            report.taken.push(name);
        }
    }
    Ok(())
}

/// Returns whether two pointers name the same state: a collection may have raised the generation since.
fn is_same(one: &RootPointer, other: &RootPointer) -> bool {
    (one.root, one.version) == (other.root, other.version)
}

async fn import_keys(from: &Node, to: &Node) -> Result<Vec<String>, String> {
    let mut keys = from.authenticator.keys().list(None).await.map_err(|error| chain(&error))?;
    keys.retain(|key| !key.is_revoked);
    for key in &keys {
        let found = from.authenticator.keys().find(&key.id).await.map_err(|error| chain(&error))?;
        let Some(found) = found else { continue };
        let name = key.user.strip_prefix("key:").unwrap_or(&key.user);
        let copied =
            to.authenticator.keys().import(name, &key.id, &found.secret, key.created).await;
        copied.map_err(|error| format!("access key {}: {}", key.id, chain(&error)))?;
    }
    Ok(keys.into_iter().map(|key| key.id).collect())
}

/// Copies the revocations that the arbiter does not have yet.
async fn import_revocations(from: &Node, to: &Node) -> Result<(), String> {
    let known = to.authenticator.revocations().all();
    let known: Vec<_> = known.iter().map(|found| &found.revoked).collect();
    for revocation in from.authenticator.revocations().all() {
        if known.contains(&&revocation.revoked) {
            continue;
        }
        let copied = to.authenticator.revocations().revoke(revocation.revoked, revocation.at).await;
        copied.map_err(|error| chain(&error))?;
    }
    Ok(())
}

/// Copies every block. The copies are durable before a root pointer needs them.
async fn copy_blocks(from: &Node, to: &Node) -> Result<(), String> {
    let (source, target) = (from.nodes.blocks(), to.nodes.blocks());
    let (mut copied, mut from) = (0, Some(Position::default()));
    while let Some(position) = from {
        let listed = source.list(position).await.map_err(|error| chain(&error))?;
        from = listed.next;
        for page in listed.blocks.chunks(PAGE) {
            let mut blocks = Vec::with_capacity(page.len());
            for (cid, _) in page {
                blocks.push(require(source.as_ref(), cid).await.map_err(|error| chain(&error))?);
            }
            let put = async {
                let mark = target.put(&blocks, Placement::Bulk).await?;
                target.sync(mark).await
            };
            put.await.map_err(|error| chain(&error))?;
            copied += page.len();
            note!("copied {copied} blocks");
        }
    }
    Ok(())
}

/// Publishes a row if the arbiter has none for the bucket. Otherwise returns the arbiter's row.
async fn publish(to: &Node, row: RootRow) -> Result<Option<RootRow>, String> {
    let global_name = if row.deleted.is_some() {
        GlobalName::Keep
    } else {
        let blocks = to.nodes.blocks().as_ref();
        let wanted = to.names.of_pointer(blocks, &row.pointer.root).await;
        wanted.map_err(|error| format!("bucket {}: {}", row.address.name, chain(&error)))?
    };
    let new = NewRoot {
        pointer: row.pointer,
        bucket_id: row.bucket_id,
        created: row.created,
        deleted: row.deleted,
        global_name,
        lease: None,
    };
    let swapped = to.roots().cas_root(&row.address, None, &new).await;
    match swapped.map_err(|error| chain(&error))?.value {
        CasOutcome::Won => Ok(None),
        CasOutcome::Conflict { current } => Ok(current),
        CasOutcome::NameTaken => Err(format!("the name {} is taken", row.address.name)),
        CasOutcome::BelowGeneration | CasOutcome::LeaseBroken => Err(
            "a collection of garbage has begun meanwhile, so some of the blocks may be gone again: run the \
             command once more"
                .to_owned(),
        ),
        CasOutcome::BelowFloor { floor } => Err(format!(
            "the arbiter has dropped rows of deleted buckets up to version {floor}: bucket {} cannot be \
             imported into it at version {}",
            row.address.name, row.pointer.version
        )),
    }
}
