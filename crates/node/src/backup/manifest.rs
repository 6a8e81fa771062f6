//! The manifest of a backup: everything that the backup has, and in which files.

use fula_service::{Random, auth::Revoked};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Highest format that this program reads, and the one that it writes.
pub(crate) const FORMAT: u32 = 1;

/// Largest number of CAR files of a bucket. Then a whole one is written again.
const CARS_MAX: usize = 32;

/// A part of a file: one file of the place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Volume {
    /// Name in the place.
    pub(crate) file: String,
    /// Length as it is stored, in bytes.
    pub(crate) bytes: u64,
    /// BLAKE3 hash of what is stored, in hex.
    pub(crate) blake3: String,
}

/// A CAR file in parts. The first one of a bucket has everything. Each further one has what its root links and the
/// root of the one before did not link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Car {
    pub(crate) root: String,
    pub(crate) version: u64,
    pub(crate) volumes: Vec<Volume>,
}

impl Car {
    /// Returns the length as it is stored, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.volumes.iter().map(|volume| volume.bytes).sum()
    }
}

/// A bucket, as it was when the backup was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bucket {
    pub(crate) owner: String,
    pub(crate) name: String,
    pub(crate) root: String,
    pub(crate) version: u64,
    /// Whether it held its global name.
    pub(crate) global_name: bool,
    pub(crate) objects: u64,
    /// Sum of the sizes of its objects in bytes.
    pub(crate) bytes: u64,
    /// Whether leaves of mapped objects are on storage nodes alone.
    pub(crate) without_mapped: bool,
    /// The last one has the root.
    pub(crate) cars: Vec<Car>,
}

impl Bucket {
    /// Returns whether the next backup may add to the files of this one. If not, a restore would read too many, or
    /// more than twice what the bucket needs.
    pub(crate) fn can_grow(&self) -> bool {
        let Some((first, more)) = self.cars.split_first() else { return false };
        let added: u64 = more.iter().map(Car::bytes).sum();
        self.cars.len() < CARS_MAX && added <= first.bytes()
    }

    /// Returns all parts of its files.
    pub(crate) fn volumes(&self) -> impl Iterator<Item = &Volume> {
        self.cars.iter().flat_map(|car| &car.volumes)
    }
}

/// A backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    pub(crate) id: String,
    /// Time at which it was begun, in milliseconds since 1970.
    pub(crate) time_ms: u64,
    /// Version of the program that wrote it.
    pub(crate) program: String,
    /// Fingerprint of the key that encrypts the access keys.
    pub(crate) secrets_key: String,
    /// Bytes that were written for it.
    pub(crate) written_bytes: u64,
    /// Number of access keys, and of revocations.
    pub(crate) keys: u64,
    pub(crate) revocations: u64,
    /// Whether the state has the key that encrypts the access keys.
    pub(crate) has_secrets_key: bool,
    /// The state of the arbiter apart from buckets: a [`StateLine`] a line.
    pub(crate) state: Vec<Volume>,
    pub(crate) buckets: Vec<Bucket>,
}

impl Manifest {
    /// Returns all files that the backup needs.
    pub(crate) fn volumes(&self) -> impl Iterator<Item = &Volume> {
        self.state.iter().chain(self.buckets.iter().flat_map(Bucket::volumes))
    }

    /// Returns the bucket of an owner.
    pub(crate) fn bucket(&self, owner: &str, name: &str) -> Option<&Bucket> {
        self.buckets.iter().find(|bucket| bucket.owner == owner && bucket.name == name)
    }
}

/// A line of the state of the arbiter.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StateLine {
    /// A revocation, with the time at which it was made in milliseconds since 1970.
    Revoked(Revoked, u64),
    /// The record of an access key, sealed as it is stored.
    Key {
        /// Access key id.
        id: String,
        /// The record.
        record: String,
    },
    /// The key that encrypts the access keys.
    SecretsKey(String),
}

/// Returns the id of a backup that begins now, which sorts after `newest` whatever the clock says.
pub(crate) fn fresh_id(now_ms: u64, newest: Option<&str>, random: &Random) -> String {
    let mut tail = [0; 4];
    random(&mut tail);
    let after = newest.and_then(time_in).map_or(0, |newest| newest / 1000 + 1);
    let seconds = (now_ms / 1000).max(after);
    let time = OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).unwrap_or_default());
    let text = time.ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default();
    format!("{}-{}", text.replace(['-', ':'], ""), hex::encode(tail))
}

/// Returns the time in the id of a backup in milliseconds since 1970.
pub(crate) fn time_in(id: &str) -> Option<u64> {
    let (time, _) = id.split_once('-')?;
    let digits = time.strip_suffix('Z')?;
    let part = |range: std::ops::Range<usize>| digits.get(range);
    let text = format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0..4)?,
        part(4..6)?,
        part(6..8)?,
        part(9..11)?,
        part(11..13)?,
        part(13..digits.len())?
    );
    let time = humantime::parse_rfc3339(&text).ok()?;
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_never_go_back() {
        let random = fula_service::system_random();
        let one = fresh_id(1_764_424_800_000, None, &random);
        assert!(one.starts_with("20251129T140000Z-"), "{one}");
        assert_eq!(time_in(&one), Some(1_764_424_800_000));
        let mut last = one;
        for now in [1_764_424_800_000, 1_764_424_900_000, 0] {
            let next = fresh_id(now, Some(&last), &random);
            assert!(next > last, "{next} after {last}");
            last = next;
        }
        assert_eq!(time_in("x"), None);
    }

    #[test]
    fn a_chain_of_files_stays_short() {
        let car = |bytes| Car {
            root: String::new(),
            version: 1,
            volumes: vec![Volume { file: String::new(), bytes, blake3: String::new() }],
        };
        let mut bucket = Bucket {
            owner: String::new(),
            name: String::new(),
            root: String::new(),
            version: 1,
            global_name: false,
            objects: 0,
            bytes: 0,
            without_mapped: false,
            cars: vec![car(100)],
        };
        assert!(bucket.can_grow());
        bucket.cars.extend([car(60), car(60)]);
        assert!(!bucket.can_grow(), "the changes are more than the whole");
        bucket.cars = vec![car(100); 2];
        assert!(bucket.can_grow());
        bucket.cars = [vec![car(1000)], vec![car(1); 31]].concat();
        assert!(!bucket.can_grow(), "there are too many files");
    }
}
