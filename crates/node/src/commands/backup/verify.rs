//! `fula backup verify`. It exits with 0 if all is well, with 1 if something is damaged, and with 2 if the check was
//! not possible.

use std::{
    collections::{HashMap, HashSet},
    process::ExitCode,
};

use fula_core::Cid;
use fula_service::CarCheck;
use futures::TryStreamExt;
use serde_json::{Value, json};

use super::{super::text::text, open_place, state};
use crate::{
    backup::{Bucket, Manifest, Meter, Place, StateLine, read_volumes},
    cli::PlaceArgs,
    output::{note, say},
};

const DAMAGED: u8 = 1;
const COULD_NOT_LOOK: u8 = 2;

/// Runs `fula backup verify`.
pub(super) async fn run(
    args: &PlaceArgs,
    backup: Option<String>,
    all: bool,
    as_json: bool,
) -> ExitCode {
    let report = match verify(args, backup, all).await {
        Ok(report) => report,
        Err(why) => {
            note!("fula: {why}");
            return ExitCode::from(COULD_NOT_LOOK);
        }
    };
    if as_json {
        say!("{report:#}");
    } else {
        show(&report);
    }
    let is_well =
        report.as_array().is_some_and(|all| all.iter().all(|it| it["problems"] == json!([])));
    if is_well { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) }
}

async fn verify(args: &PlaceArgs, backup: Option<String>, all: bool) -> Result<Value, String> {
    let place = open_place(args, false).await?;
    let mut ids = place.ids().await?;
    if ids.is_empty() {
        return Err("there is no backup yet".to_owned());
    }
    match backup {
        Some(id) => ids = vec![id],
        None if !all => ids = ids.split_off(ids.len() - 1),
        None => {}
    }
    let mut verifying = Verifying {
        place: &place,
        meter: Meter::new(),
        files: HashMap::new(),
        good: HashMap::new(),
    };
    verifying.files = place.files().await?.into_iter().collect();
    let mut report = Vec::new();
    for id in ids {
        verifying.meter.say(format!("backup {id}"));
        report.push(match place.manifest(&id).await {
            Ok(manifest) => verifying.backup(&manifest).await,
            Err(why) => json!({"backup": id, "problems": [why]}),
        });
    }
    Ok(json!(report))
}

struct Verifying<'a> {
    place: &'a Place,
    meter: Meter,
    /// Lengths of the files at the place.
    files: HashMap<String, u64>,
    /// Number of blocks of the buckets that are intact, by root and last file.
    good: HashMap<(String, String), u64>,
}

impl Verifying<'_> {
    async fn backup(&mut self, manifest: &Manifest) -> Value {
        let (mut problems, mut blocks) = (Vec::new(), 0);
        if let Err(why) = self.state(manifest).await {
            problems.push(format!("access keys and revocations: {why}"));
        }
        for bucket in &manifest.buckets {
            match self.bucket(bucket).await {
                Ok(count) => blocks += count,
                Err(why) => problems.push(format!(
                    "bucket {} of owner {}, version {}: {why}",
                    bucket.name, bucket.owner, bucket.version
                )),
            }
        }
        json!({
            "backup": manifest.id,
            "time_ms": manifest.time_ms,
            "buckets": manifest.buckets.len(),
            "blocks": blocks,
            "bytes": manifest.volumes().map(|volume| volume.bytes).sum::<u64>(),
            "problems": problems,
        })
    }

    async fn state(&self, manifest: &Manifest) -> Result<(), String> {
        let mut lines = state::lines(self.place, manifest);
        let (mut keys, mut revocations) = (0, 0);
        while let Some(line) = lines.try_next().await? {
            match line {
                StateLine::Key { .. } => keys += 1,
                StateLine::Revoked(..) => revocations += 1,
                StateLine::SecretsKey(_) => {}
            }
        }
        if (keys, revocations) == (manifest.keys, manifest.revocations) {
            Ok(())
        } else {
            Err("there are fewer than were backed up".to_owned())
        }
    }

    /// Checks the files of a bucket. Returns the number of its blocks.
    async fn bucket(&mut self, bucket: &Bucket) -> Result<u64, String> {
        let last = bucket.volumes().last().map(|volume| volume.file.clone());
        let key = (bucket.root.clone(), last.unwrap_or_default());
        if let Some(blocks) = self.good.get(&key) {
            return Ok(*blocks);
        }
        // All that is missing is named at once, before anything is read.
        let missing: HashSet<&str> = bucket
            .volumes()
            .filter(|volume| !self.files.contains_key(&volume.file))
            .map(|volume| volume.file.as_str())
            .collect();
        if !missing.is_empty() {
            let mut missing: Vec<&str> = missing.into_iter().collect();
            missing.sort_unstable();
            return Err(format!("files are missing: {}", missing.join(", ")));
        }
        let mut check = CarCheck::default();
        for car in &bucket.cars {
            let in_file = |error: String| match car.volumes.first() {
                Some(volume) => format!("the file {}: {error}", volume.file),
                None => error,
            };
            let root: Cid = car.root.parse().map_err(|_| "its root is no CID".to_owned())?;
            let mut pieces = read_volumes(self.place, &car.volumes);
            while let Some(piece) = pieces.try_next().await? {
                self.meter.moved(piece.len());
                check.push(&piece).map_err(|error| in_file(error.to_string()))?;
            }
            check.end_file(root).map_err(|error| in_file(error.to_string()))?;
        }
        if bucket.cars.last().is_none_or(|car| car.root != bucket.root) {
            return Err("its last file is not that of its root".to_owned());
        }
        let blocks = check.finish(bucket.without_mapped).map_err(|error| error.to_string())?;
        self.good.insert(key, blocks);
        Ok(blocks)
    }
}

fn show(report: &Value) {
    for backup in report.as_array().into_iter().flatten() {
        let (id, problems) = (text(&backup["backup"]), backup["problems"].as_array());
        let count = problems.map_or(0, Vec::len);
        if count == 0 {
            say!("{id}: {} buckets, {} blocks, all intact", backup["buckets"], backup["blocks"]);
            continue;
        }
        say!("{id}: {count} problems");
        for problem in problems.into_iter().flatten() {
            say!("  {}", text(problem));
        }
        say!(
            "  The rest of this backup can be restored. Run `fula backup create` with --full, so that the next backup \
             needs none of these files."
        );
    }
}
