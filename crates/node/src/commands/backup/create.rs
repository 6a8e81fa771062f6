//! `fula backup create`.

use std::collections::HashMap;

use fula_service::system_random;
use fula_stores::local::system_clock;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{
        Failure,
        reach::open_source,
        text::{bytes, text},
    },
    open_place, state,
};
use crate::{
    admin::{
        Request,
        transfer::{Export, ForBackup},
    },
    backup::{Bucket, Car, Manifest, Meter, Place, Source, fresh_id, keep_newest, store},
    cli::{AdminArgs, PlaceArgs, VERSION},
    output::{note, say},
};

/// Bytes between the reader of a bucket and the writer of its file.
const PIPE_BYTES: usize = 256 << 10;

/// What kind of backup is wanted.
pub(super) struct Wanted {
    pub(super) full: bool,
    pub(super) keep: Option<usize>,
    pub(super) with_secrets_key: bool,
}

/// The row of a bucket.
#[derive(Debug, Deserialize)]
struct Row {
    owner: String,
    bucket: String,
    root: String,
    version: u64,
    global_name: bool,
    deleted: bool,
}

/// A backup that is being made.
struct Making<'a> {
    place: &'a Place,
    source: &'a Source,
    /// The last backup.
    base: Option<Manifest>,
    /// Lengths of the files at the place.
    files: HashMap<String, u64>,
    manifest: Manifest,
    problems: Vec<String>,
    changed: u64,
    full: bool,
    meter: Meter,
}

/// Makes a backup.
pub(super) async fn run(
    args: &PlaceArgs,
    wanted: &Wanted,
    common: &AdminArgs,
) -> Result<Value, Failure> {
    let secrets_key =
        if wanted.with_secrets_key { Some(state::own_secrets_key(common)?) } else { None };
    let source = open_source(common, &Request::BackupFacts).await?;
    let place = open_place(args, true).await?;
    let ids = place.ids().await?;
    let mut base = None;
    if let Some(newest) = ids.last() {
        match place.manifest(newest).await {
            Ok(manifest) => base = Some(manifest),
            Err(why) => {
                note!(
                    "fula: the last backup cannot be read, so everything is written again: {why}"
                );
            }
        }
    }
    let (now, random) = (system_clock()(), system_random());
    let manifest = Manifest {
        format: 1,
        id: fresh_id(now, ids.last().map(String::as_str), &random),
        time_ms: now,
        program: VERSION.to_owned(),
        secrets_key: String::new(),
        written_bytes: 0,
        keys: 0,
        revocations: 0,
        has_secrets_key: secrets_key.is_some(),
        state: Vec::new(),
        buckets: Vec::new(),
    };
    let mut making = Making {
        files: files(&place).await?,
        place: &place,
        source: &source,
        base,
        manifest,
        problems: Vec::new(),
        changed: 0,
        full: wanted.full,
        meter: Meter::new(),
    };
    Box::pin(making.buckets()).await?;
    // Last, so that keys and revocations that were made meanwhile are in it.
    let id = making.manifest.id.clone();
    let state = state::write(&source, &place, &id, secrets_key, &making.meter).await?;
    making.add_state(state);
    making.publish(wanted.keep).await
}

/// Returns the lengths of all files with content.
async fn files(place: &Place) -> Result<HashMap<String, u64>, String> {
    Ok(place.files().await?.into_iter().collect())
}

async fn all_rows(source: &Source) -> Result<Vec<Row>, String> {
    let mut rows: Vec<Row> = Vec::new();
    loop {
        let after = rows.last().map(|row| (row.owner.clone(), row.bucket.clone()));
        let page = source.ask(Request::BackupRows { after }).await?;
        let page: Vec<Row> = serde_json::from_value(page)
            .map_err(|_| "the gateway's answer is incomplete".to_owned())?;
        if page.is_empty() {
            rows.retain(|row| !row.deleted);
            return Ok(rows);
        }
        rows.extend(page);
    }
}

impl Making<'_> {
    async fn buckets(&mut self) -> Result<(), String> {
        let rows = all_rows(self.source).await?;
        let all = rows.len();
        for (number, row) in rows.into_iter().enumerate() {
            self.meter.say(format!("bucket {} ({} of {all})", row.bucket, number + 1));
            let base = self.usable_base(&row);
            let kept = base.clone();
            if let Some(mut same) = base.filter(|base| base.root == row.root) {
                same.global_name = row.global_name;
                self.manifest.buckets.push(same);
                continue;
            }
            match Box::pin(self.bucket(number, &row, kept.clone())).await? {
                Ok(None) => {}
                Ok(Some(bucket)) => {
                    self.changed += 1;
                    self.manifest.buckets.push(bucket);
                }
                Err(why) => {
                    let what = kept.as_ref().map_or_else(
                        || "it is not in this backup".to_owned(),
                        |kept| format!("this backup has version {} of it", kept.version),
                    );
                    self.problems.push(format!("bucket {}: {why}; {what}", row.bucket));
                    self.manifest.buckets.extend(kept);
                }
            }
        }
        Ok(())
    }

    /// Returns the bucket in the last backup, if its files are there.
    fn usable_base(&self, row: &Row) -> Option<Bucket> {
        let base = self.base.as_ref().filter(|_| !self.full)?;
        let base = base.bucket(&row.owner, &row.bucket)?;
        let is_there = base.volumes().all(|it| self.files.get(&it.file) == Some(&it.bytes));
        if !is_there {
            note!(
                "fula: files of bucket {} are missing or cut off in earlier backups, so it is written again",
                row.bucket
            );
        }
        is_there.then(|| base.clone())
    }

    /// Writes what changed of a bucket. The inner error says why the bucket cannot be read; it is `None` if the bucket
    /// was deleted meanwhile.
    async fn bucket(
        &mut self,
        number: usize,
        row: &Row,
        base: Option<Bucket>,
    ) -> Result<Result<Option<Bucket>, String>, String> {
        let base = base.filter(Bucket::can_grow);
        let older = base.as_ref().map(|base| base.root.clone());
        let request = Export {
            bucket: row.bucket.clone(),
            user: Some(row.owner.clone()),
            version: None,
            since: None,
            backup: Some(ForBackup { older }),
        };
        let (write, read) = tokio::io::duplex(PIPE_BYTES);
        let source = self.source;
        let exporting = async move {
            let mut write = write;
            source.export(request, &mut write).await
        };
        let name = format!("data/{}/{number:06}", self.manifest.id);
        let storing = store(self.place, &name, read, &self.meter);
        let (exported, stored) = tokio::join!(exporting, storing);
        let volumes = stored?;
        let told = match exported {
            Ok(told) if told["gone"] == true => return Ok(Ok(None)),
            Ok(told) => told,
            Err(why) => return Ok(Err(why)),
        };
        let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
        let count = |name: &str| told[name].as_u64().unwrap_or_default();
        let car = Car { root: text("root"), version: count("version"), volumes };
        self.manifest.written_bytes += car.bytes();
        let was_without = base.as_ref().is_some_and(|base| base.without_mapped);
        let mut cars = base.map(|base| base.cars).unwrap_or_default();
        cars.push(car);
        Ok(Ok(Some(Bucket {
            owner: row.owner.clone(),
            name: row.bucket.clone(),
            root: text("root"),
            version: count("version").max(row.version),
            global_name: row.global_name,
            objects: count("objects"),
            bytes: count("bytes"),
            without_mapped: was_without || count("left_out") > 0,
            cars,
        })))
    }

    fn add_state(&mut self, written: state::Written) {
        let manifest = &mut self.manifest;
        manifest.written_bytes += written.volumes.iter().map(|volume| volume.bytes).sum::<u64>();
        manifest.state = written.volumes;
        (manifest.keys, manifest.revocations) = (written.keys, written.revocations);
        manifest.secrets_key = written.secrets_key;
    }

    /// Writes the manifest, once all files are there that it names. Then removes old backups.
    async fn publish(mut self, keep: Option<usize>) -> Result<Value, Failure> {
        let files = files(self.place).await?;
        let lacking = self.manifest.volumes().find(|it| files.get(&it.file) != Some(&it.bytes));
        if let Some(lacking) = lacking {
            let text = format!(
                "the file {} was removed or changed meanwhile, perhaps by another backup with --keep: run the \
                 command again",
                lacking.file
            );
            return Err(text.into());
        }
        self.place.publish(&self.manifest).await?;
        // What could not be read now may be in an old backup alone.
        let keep = keep.filter(|_| self.problems.is_empty());
        let removed = keep_newest(self.place, keep, &self.manifest).await;
        let removed = match removed {
            Ok(removed) => json!(removed),
            Err(why) => {
                self.problems
                    .push(format!("the backup is made, and old ones were not removed: {why}"));
                Value::Null
            }
        };
        let manifest = &self.manifest;
        Ok(json!({
            "backup": manifest.id,
            "time_ms": manifest.time_ms,
            "sealed": self.place.is_sealed(),
            "buckets": manifest.buckets.len(),
            "changed": self.changed,
            "keys": manifest.keys,
            "revocations": manifest.revocations,
            "written_bytes": manifest.written_bytes,
            "bytes": manifest.volumes().map(|volume| volume.bytes).sum::<u64>(),
            "removed": removed,
            "problems": self.problems,
        }))
    }
}

/// Prints what was made.
pub(super) fn show(made: &Value) {
    say!(
        "Made backup {}: {} buckets, of which {} changed; {} access keys, {} revocations. {} written, {} in all{}.",
        text(&made["backup"]),
        made["buckets"],
        made["changed"],
        made["keys"],
        made["revocations"],
        bytes(&made["written_bytes"]),
        bytes(&made["bytes"]),
        if made["sealed"] == true { ", encrypted" } else { "" },
    );
    let removed = &made["removed"];
    if let Some(old) = removed["backups"].as_array().filter(|old| !old.is_empty()) {
        say!(
            "Removed {} old backups, and {} that only they needed.",
            old.len(),
            bytes(&removed["bytes"])
        );
    }
    for why in removed["unreadable"].as_array().into_iter().flatten() {
        note!(
            "fula: no files of old backups are removed, because one cannot be read: {}",
            text(why)
        );
    }
    for problem in made["problems"].as_array().into_iter().flatten() {
        note!("fula: {}", text(problem));
    }
}
