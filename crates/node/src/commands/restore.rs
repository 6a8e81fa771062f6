//! `fula restore`: buckets out of a backup, or one from its root CID.

use std::{collections::HashMap, process::ExitCode};

use fula_core::{BucketName, Cid};
use futures::StreamExt;
use serde_json::{Value, json};

use super::{
    Failure, WRONG_USAGE,
    admin::finish,
    backup::{Part, put_back},
    car::{import_from, show_imported},
    reach::open_source,
    text::text,
};
use crate::{
    admin::{
        Request,
        transfer::{Import, Input},
    },
    backup::{Bucket, Manifest, Meter, Place, Source, stream_of, time_in},
    cli::{AdminArgs, BlockSource, CasMode, RestoreArgs},
    config::Backends,
    files::{self, DataDir},
    output::{note, say},
    user::owner_id,
};

/// Longest name of a bucket in bytes.
const NAME_BYTES_MAX: usize = 63;

/// Most versions in the error for one that no backup has.
const VERSIONS_NAMED: usize = 20;

/// Runs `fula restore`.
pub(crate) async fn run(args: RestoreArgs) -> ExitCode {
    let json = args.common.json;
    if let BlockSource::Backup(place) = &args.from {
        let place = place.clone();
        let restored = from_backup(&args, &place).await;
        let is_whole = restored.as_ref().is_ok_and(|done| done["failed"] == json!([]));
        let shown = finish(json, restored, show);
        return if is_whole { shown } else { ExitCode::FAILURE };
    }
    let root = match root_of(&args) {
        Ok(root) => root,
        Err(text) => return Failure { text, status: WRONG_USAGE }.report(),
    };
    let restored = import_from(&args.common, args.target, Some(root), args.from).await;
    finish(json, restored, show_imported)
}

fn root_of(args: &RestoreArgs) -> Result<Cid, String> {
    if args.all || args.at.is_some() {
        return Err("--all and --at are for backups: name one with --from backup:PLACE".to_owned());
    }
    let what = args.what.as_deref().unwrap_or_default();
    what.parse().map_err(|_| {
        format!("{what} is no CID of a bucket root; to restore a bucket by name, name a backup with --from backup:PLACE")
    })
}

async fn from_backup(args: &RestoreArgs, place: &str) -> Result<Value, Failure> {
    let place = Place::open(place, args.key_file.as_deref(), false).await?;
    let manifest = choose(&place, args).await?;
    let buckets = match &args.what {
        Some(name) => vec![find(&manifest, name, args.target.user.as_deref())?.clone()],
        None => all_of(&manifest, args.target.user.as_deref()),
    };
    let with_keys = args.all && !args.buckets_only;
    if with_keys && manifest.keys > 0 {
        check_data_dir(&args.common, &manifest)?;
    }
    let source = open_source(&args.common, &Request::Import(Import::default())).await?;
    if with_keys && manifest.keys > 0 {
        check_secrets_key(&source, &manifest).await?;
    }
    let mut restoring = Restoring {
        place: &place,
        source: &source,
        live: live(&source).await?,
        meter: Meter::new(),
        done: Vec::new(),
        failed: Vec::new(),
    };
    let mut state = Told::default();
    if args.all {
        put_back(&source, &place, &manifest, Part::Revocations, |told| state.add(told)).await?;
    }
    for bucket in &buckets {
        restoring.bucket(bucket, args.target.bucket.as_deref()).await;
    }
    if with_keys {
        put_back(&source, &place, &manifest, Part::Keys, |told| state.add(told)).await?;
    }
    Ok(json!({
        "backup": manifest.id,
        "time_ms": manifest.time_ms,
        "buckets": restoring.done,
        "failed": restoring.failed,
        "state": args.all.then(|| state.json()),
    }))
}

/// Finds the backup that is meant.
async fn choose(place: &Place, args: &RestoreArgs) -> Result<Manifest, String> {
    let ids = place.ids().await?;
    let newest = ids.last().ok_or_else(|| "there is no backup yet".to_owned())?;
    let Some(at) = args.at.as_deref() else { return place.manifest(newest).await };
    if ids.iter().any(|id| id == at) {
        return place.manifest(at).await;
    }
    if at.len() < 14 && at.bytes().all(|byte| byte.is_ascii_digit()) {
        let version = at.parse().map_err(|_| format!("{at} is no version"))?;
        return with_version(place, &ids, args, version).await;
    }
    let time = humantime::parse_rfc3339_weak(at).map_err(|_| {
        format!(
            "{at} is neither a backup nor a version nor a time such as 2026-11-30T12:00:00Z; `fula backup list` lists \
             the backups"
        )
    })?;
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let before = ids.iter().rfind(|id| time_in(id).is_some_and(|made| made <= millis));
    match before {
        Some(id) => place.manifest(id).await,
        None => Err(format!("there is no backup from {at} or before; the oldest is {}", ids[0])),
    }
}

/// Finds the newest backup with a version of a bucket.
async fn with_version(
    place: &Place,
    ids: &[String],
    args: &RestoreArgs,
    version: u64,
) -> Result<Manifest, String> {
    let Some(name) = args.what.as_deref() else {
        return Err("a version is one of a bucket: name the bucket, or give a time".to_owned());
    };
    let mut versions = Vec::new();
    for id in ids.iter().rev() {
        let manifest = place.manifest(id).await?;
        let Ok(bucket) = find(&manifest, name, args.target.user.as_deref()) else { continue };
        if bucket.version == version {
            return Ok(manifest);
        }
        versions.push(bucket.version.to_string());
    }
    versions.dedup();
    versions.truncate(VERSIONS_NAMED);
    match versions.len() {
        0 => Err(format!("no backup has a bucket {name}")),
        _ => Err(format!(
            "no backup has version {version} of bucket {name}; they have: {}",
            versions.join(", ")
        )),
    }
}

/// Finds a bucket of a backup by its name.
fn find<'a>(manifest: &'a Manifest, name: &str, user: Option<&str>) -> Result<&'a Bucket, String> {
    let owner = user.map(|user| owner_id(user).to_string());
    let mut found = manifest.buckets.iter().filter(|bucket| {
        bucket.name == name && owner.as_ref().is_none_or(|owner| bucket.owner == *owner)
    });
    match (found.next(), found.next()) {
        (Some(bucket), None) => Ok(bucket),
        (Some(_), Some(_)) => {
            Err(format!("several users have a bucket {name}: name one with --user"))
        }
        (None, _) => {
            let whose = user.map(|user| format!(" of {user}")).unwrap_or_default();
            let id = &manifest.id;
            Err(format!(
                "backup {id} has no bucket {name}{whose}; `fula backup list PLACE {id}` lists its buckets"
            ))
        }
    }
}

/// Returns all buckets of a backup, or those of a user. Those that held their global name come first.
fn all_of(manifest: &Manifest, user: Option<&str>) -> Vec<Bucket> {
    let owner = user.map(|user| owner_id(user).to_string());
    let mut all = manifest.buckets.clone();
    all.retain(|bucket| owner.as_ref().is_none_or(|owner| bucket.owner == *owner));
    all.sort_by_key(|bucket| !bucket.global_name);
    all
}

/// Refuses to begin a data directory without the key that encrypts the access keys of the backup: a fresh key
/// would be made.
fn check_data_dir(args: &AdminArgs, manifest: &Manifest) -> Result<(), Failure> {
    let key_file = args.secrets_key_file.clone();
    let backends = Backends::check(&args.data, args.shared.clone(), key_file, CasMode::Auto)?;
    if backends.secrets_key_file.is_some() {
        return Ok(());
    }
    let found = files::look_at(&backends.data_dir).map_err(|error| error.to_string())?;
    if !matches!(found, DataDir::Missing | DataDir::Empty) {
        return Ok(());
    }
    let file = files::own_sealing_key(&backends.data_dir);
    let how = if manifest.has_secrets_key {
        format!("write it with `fula backup secrets-key PLACE {}`", file.display())
    } else {
        format!("copy it to {}", file.display())
    };
    Err(format!(
        "the access keys of the backup are encrypted with a secrets.key that the data directory lacks: {how}, or leave \
         access keys out with --buckets-only"
    )
    .into())
}

async fn check_secrets_key(source: &Source, manifest: &Manifest) -> Result<(), String> {
    let facts = source.ask(Request::BackupFacts).await?;
    let is_it = |line: &Value| *line == manifest.secrets_key.as_str();
    if facts["secrets_keys"].as_array().is_some_and(|lines| lines.iter().any(is_it)) {
        return Ok(());
    }
    Err("the access keys of the backup are encrypted with another secrets.key than the one in use here: use that one, \
         add its lines, or leave access keys out with --buckets-only"
        .to_owned())
}

/// Returns the roots of the buckets that exist, by owner and name.
async fn live(source: &Source) -> Result<HashMap<(String, String), String>, String> {
    let mut found = HashMap::new();
    let mut after = None;
    loop {
        let page = source.ask(Request::BackupRows { after }).await?;
        let rows = page.as_array().cloned().unwrap_or_default();
        let address =
            |row: &Value| (text(&row["owner"]).to_owned(), text(&row["bucket"]).to_owned());
        let Some(last) = rows.last() else { return Ok(found) };
        after = Some(address(last));
        for row in rows.iter().filter(|row| row["deleted"] != true) {
            found.insert(address(row), text(&row["root"]).to_owned());
        }
    }
}

/// Returns the name of a bucket that stands beside another one.
fn beside(name: &str, version: u64) -> String {
    let end = format!("-{version}");
    let length = name.len().min(NAME_BYTES_MAX - end.len());
    format!("{}{end}", name[..length].trim_end_matches(['-', '.']))
}

struct Restoring<'a> {
    place: &'a Place,
    source: &'a Source,
    live: HashMap<(String, String), String>,
    meter: Meter,
    done: Vec<Value>,
    failed: Vec<Value>,
}

impl Restoring<'_> {
    /// Restores a bucket, and notes what became of it.
    async fn bucket(&mut self, bucket: &Bucket, name: Option<&str>) {
        let there = self.live.get(&(bucket.owner.clone(), bucket.name.clone()));
        let name = match (name, there) {
            (Some(name), _) => name.to_owned(),
            (None, Some(root)) if *root != bucket.root => beside(&bucket.name, bucket.version),
            (None, _) => bucket.name.clone(),
        };
        self.meter.say(format!("bucket {name}"));
        match self.import(bucket, &name).await {
            Ok(mut done) => {
                done["from"] = json!(bucket.name);
                done["backup_version"] = json!(bucket.version);
                self.done.push(done);
            }
            Err(why) => {
                self.failed.push(json!({"bucket": bucket.name, "owner": bucket.owner, "why": why}));
            }
        }
    }

    async fn import(&self, bucket: &Bucket, name: &str) -> Result<Value, String> {
        BucketName::parse_stored(name).map_err(|error| format!("{name}: {error}"))?;
        let request = Import {
            bucket: Some(name.to_owned()),
            user: Some(bucket.owner.clone()),
            root: Some(bucket.root.clone()),
            without_mapped: bucket.without_mapped,
        };
        let pieces = stream_of(self.place, bucket)?;
        let meter = self.meter.clone();
        let counted = pieces.inspect(move |piece| {
            if let Ok(piece) = piece {
                meter.moved(piece.len());
            }
        });
        self.source.import(request, Input::Stream(counted.boxed())).await
    }
}

/// What became of access keys and revocations.
#[derive(Default)]
struct Told {
    revocations: u64,
    keys: u64,
    already: u64,
    differ: Vec<Value>,
}

impl Told {
    fn add(&mut self, answer: &Value) {
        let count = |name: &str| answer[name].as_u64().unwrap_or_default();
        self.revocations += count("revocations");
        self.keys += count("keys");
        self.already += count("already");
        self.differ.extend(answer["differ"].as_array().cloned().unwrap_or_default());
    }

    fn json(self) -> Value {
        json!({
            "revocations": self.revocations,
            "keys": self.keys,
            "already": self.already,
            "differ": self.differ,
        })
    }
}

fn show(done: &Value) {
    for bucket in done["buckets"].as_array().into_iter().flatten() {
        show_imported(bucket);
        if bucket["bucket"] != bucket["from"] {
            say!(
                "It is {} as of version {}. The bucket that has that name now is unchanged.",
                text(&bucket["from"]),
                bucket["backup_version"]
            );
        }
    }
    let state = &done["state"];
    if state.is_object() {
        say!(
            "Put back {} access keys and {} revocations. {} access keys were there already.",
            state["keys"],
            state["revocations"],
            state["already"]
        );
        for id in state["differ"].as_array().into_iter().flatten() {
            note!(
                "fula: access key {} is another one here than in the backup, and stays",
                text(id)
            );
        }
    }
    for failed in done["failed"].as_array().into_iter().flatten() {
        note!(
            "fula: bucket {} was not restored: {}",
            text(&failed["bucket"]),
            text(&failed["why"])
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_beside_another_one_is_a_name() {
        assert_eq!(beside("photos", 12), "photos-12");
        let long = "a".repeat(63);
        assert_eq!(beside(&long, 12).len(), 63);
        let cut = format!("{}.{}", "a".repeat(58), "b".repeat(4));
        assert_eq!(beside(&cut, 1234), format!("{}-1234", "a".repeat(58)));
        BucketName::parse(&beside(&long, u64::MAX)).unwrap();
    }
}
