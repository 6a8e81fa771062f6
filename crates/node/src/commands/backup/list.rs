//! `fula backup list`.

use serde_json::{Value, json};

use super::{
    super::{
        Failure,
        text::{bytes, number, text, when},
    },
    open_place,
};
use crate::{
    backup::{Bucket, Manifest},
    cli::PlaceArgs,
    output::say,
};

/// Returns all backups, or the buckets of one.
pub(super) async fn run(args: &PlaceArgs, backup: Option<String>) -> Result<Value, Failure> {
    let place = open_place(args, false).await?;
    if let Some(id) = backup {
        let manifest = place.manifest(&id).await?;
        return Ok(manifest.buckets.iter().map(bucket_json).collect());
    }
    let mut found = Vec::new();
    for id in place.ids().await? {
        found.push(match place.manifest(&id).await {
            Ok(manifest) => manifest_json(&manifest),
            Err(why) => json!({"backup": id, "problem": why}),
        });
    }
    Ok(json!(found))
}

fn manifest_json(manifest: &Manifest) -> Value {
    json!({
        "backup": manifest.id,
        "time_ms": manifest.time_ms,
        "program": manifest.program,
        "buckets": manifest.buckets.len(),
        "objects": manifest.buckets.iter().map(|bucket| bucket.objects).sum::<u64>(),
        "keys": manifest.keys,
        "revocations": manifest.revocations,
        "has_secrets_key": manifest.has_secrets_key,
        "written_bytes": manifest.written_bytes,
        "bytes": manifest.volumes().map(|volume| volume.bytes).sum::<u64>(),
    })
}

fn bucket_json(bucket: &Bucket) -> Value {
    json!({
        "owner": bucket.owner,
        "bucket": bucket.name,
        "version": bucket.version,
        "root": bucket.root,
        "objects": bucket.objects,
        "bytes": bucket.bytes,
        "stored_bytes": bucket.volumes().map(|volume| volume.bytes).sum::<u64>(),
        "without_mapped": bucket.without_mapped,
    })
}

/// Prints backups, one a line.
pub(super) fn show(found: &Value) {
    say!(
        "{:<26} {:<21} {:>8} {:>10} {:>6} {:>11} {:>11}",
        "BACKUP",
        "MADE",
        "BUCKETS",
        "OBJECTS",
        "KEYS",
        "WRITTEN",
        "IN ALL"
    );
    for backup in found.as_array().into_iter().flatten() {
        let id = text(&backup["backup"]);
        if let Some(problem) = backup["problem"].as_str() {
            say!("{id:<26} cannot be read: {problem}");
            continue;
        }
        say!(
            "{id:<26} {:<21} {:>8} {:>10} {:>6} {:>11} {:>11}",
            when(&backup["time_ms"]),
            number(&backup["buckets"]),
            number(&backup["objects"]),
            number(&backup["keys"]),
            bytes(&backup["written_bytes"]),
            bytes(&backup["bytes"]),
        );
    }
}

/// Prints the buckets of a backup, one a line.
pub(super) fn show_buckets(found: &Value) {
    say!(
        "{:<32} {:>8} {:>10} {:>11} {:>11} BUCKET",
        "OWNER",
        "VERSION",
        "OBJECTS",
        "SIZE",
        "STORED"
    );
    for bucket in found.as_array().into_iter().flatten() {
        let note =
            if bucket["without_mapped"] == true { "  (leaves on storage nodes)" } else { "" };
        say!(
            "{:<32} {:>8} {:>10} {:>11} {:>11} {}{note}",
            text(&bucket["owner"]),
            number(&bucket["version"]),
            number(&bucket["objects"]),
            bytes(&bucket["bytes"]),
            bytes(&bucket["stored_bytes"]),
            text(&bucket["bucket"]),
        );
    }
}
