//! What a client has seen of a vault, on its disk: the last keyring as it was stored, and the highest clock of each
//! file. The server has all of it, too. Nobody else can read it, and it has no path, no content and no key.

use std::{
    collections::HashMap,
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use fula_seal::{SealedKey, keyring::SealedKeyring};

use super::Place;
use crate::error::{Error, Result};

const KEYRING: &str = "keyring";
const CLOCKS: &str = "clocks";
/// The process that holds the lock of this file writes the others.
const LOCK: &str = "lock";
/// Bytes of a record of a clock: the key, and the clock.
const RECORD: usize = 40;
/// Key of the record of the version of the bucket. No file has it.
const BUCKET: [u8; 32] = [b'-'; 32];

/// The directory of one vault.
pub(super) struct State {
    directory: PathBuf,
    clocks: HashMap<[u8; 32], u64>,
    /// Records in the file. It is written anew when most of them are out of date.
    records: usize,
    /// Whether records were written that a crash of the machine may forget.
    is_unsynced: bool,
}

impl State {
    /// Opens the directory for a place below `root`, and makes it, mode 0700.
    pub(super) fn open(root: &Path, place: &Place) -> Result<Self> {
        let name = format!("{}\n{}", place.bucket.client().endpoint(), place.shown());
        let name = blake3::derive_key("fula 2026 place of a vault", name.as_bytes());
        let directory = root.join(hex::encode(&name[..16]));
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.map_err(Error::io(directory.display().to_string()))?;
        let mut state = Self { directory, clocks: HashMap::new(), records: 0, is_unsynced: false };
        state.load()?;
        Ok(state)
    }

    /// Adds what the file says, which other processes write to, too.
    fn load(&mut self) -> Result<()> {
        let bytes = read(&self.directory.join(CLOCKS))?.unwrap_or_default();
        // A record that a crash cut off is left out.
        let records = bytes.chunks_exact(RECORD);
        self.records = records.len();
        for record in records {
            let (key, clock) = record.split_at(32);
            let key = key.try_into().expect("32 bytes");
            let clock = u64::from_be_bytes(clock.try_into().expect("8 bytes"));
            let highest = self.clocks.entry(key).or_insert(clock);
            *highest = clock.max(*highest);
        }
        Ok(())
    }

    /// Waits until no other process writes, and keeps others waiting until the file is dropped.
    fn lock(&self) -> Result<fs::File> {
        let path = self.directory.join(LOCK);
        let mut how = fs::OpenOptions::new();
        let file = how.create(true).truncate(false).write(true).mode(0o600).open(&path);
        let locked = file.and_then(|file| file.lock().map(|()| file));
        locked.map_err(Error::io(path.display().to_string()))
    }

    /// Returns the keyring that was accepted last.
    pub(super) fn seen(&self) -> Result<Option<SealedKeyring>> {
        let bytes = read(&self.directory.join(KEYRING))?;
        bytes.map(|bytes| SealedKeyring::parse(&bytes)).transpose().map_err(Error::from)
    }

    pub(super) fn remember_keyring(&self, keyring: &SealedKeyring) -> Result<()> {
        let _lock = self.lock()?;
        let seen = self.seen()?;
        // Another process may have seen a newer one.
        if seen.is_some_and(|seen| {
            seen.generation() > keyring.generation() || seen.as_bytes() == keyring.as_bytes()
        }) {
            return Ok(());
        }
        self.replace(KEYRING, keyring.as_bytes())
    }

    /// Returns the file for notes about an upload.
    pub(super) fn note(&self, key: SealedKey) -> PathBuf {
        self.directory.join(format!("upload-{}", key.as_str()))
    }

    /// Returns the highest clock that was seen of a file.
    pub(super) fn clock(&self, key: SealedKey) -> u64 {
        self.get(&bytes_of(key))
    }

    /// Remembers clocks of files.
    pub(super) fn remember(&mut self, clocks: &[(SealedKey, u64)]) -> Result<()> {
        let clocks: Vec<_> = clocks.iter().map(|(key, clock)| (bytes_of(*key), *clock)).collect();
        self.set(&clocks)
    }

    /// Returns the highest version of the bucket that was seen.
    pub(super) fn version(&self) -> u64 {
        self.get(&BUCKET)
    }

    pub(super) fn remember_version(&mut self, version: u64) -> Result<()> {
        self.set(&[(BUCKET, version)])
    }

    fn get(&self, key: &[u8; 32]) -> u64 {
        self.clocks.get(key).copied().unwrap_or_default()
    }

    fn set(&mut self, clocks: &[([u8; 32], u64)]) -> Result<()> {
        let mut records = Vec::new();
        for (key, clock) in clocks {
            if self.get(key) < *clock {
                self.clocks.insert(*key, *clock);
                records.extend(record((key, clock)));
            }
        }
        if records.is_empty() {
            return Ok(());
        }
        let _lock = self.lock()?;
        self.records += records.len() / RECORD;
        if self.records > 2 * self.clocks.len() + 1000 {
            self.load()?;
            let records = self.clocks.iter().map(record).collect::<Vec<_>>().concat();
            self.records = self.clocks.len();
            return self.replace(CLOCKS, &records);
        }
        let path = self.directory.join(CLOCKS);
        let append = || -> io::Result<()> {
            let mut how = fs::OpenOptions::new();
            let mut file = how.append(true).create(true).mode(0o600).open(&path)?;
            // A record that a crash cut off would shift all that follow.
            let rest = file.metadata()?.len() % RECORD as u64;
            file.set_len(file.metadata()?.len() - rest)?;
            file.write_all(&records)
        };
        append().map_err(Error::io(path.display().to_string()))?;
        self.is_unsynced = true;
        Ok(())
    }

    /// Returns what makes all records durable that were written since the last call; `None` if there are none.
    pub(super) fn unsynced(&mut self) -> Option<impl FnOnce() -> Result<()> + Send + use<>> {
        if !std::mem::take(&mut self.is_unsynced) {
            return None;
        }
        let directory = self.directory.clone();
        Some(move || {
            let path = directory.join(CLOCKS);
            let sync = || -> io::Result<()> {
                fs::File::open(&path)?.sync_data()?;
                fs::File::open(&directory)?.sync_all()
            };
            sync().map_err(Error::io(path.display().to_string()))
        })
    }

    /// Writes a file in place of the one before, mode 0600.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.directory.join(name);
        let new = self.directory.join(format!("{name}.{}.new", std::process::id()));
        let put = || -> io::Result<()> {
            drop(fs::remove_file(&new));
            let mut file =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            fs::File::open(&self.directory)?.sync_all()
        };
        put().map_err(Error::io(path.display().to_string()))
    }
}

fn bytes_of(key: SealedKey) -> [u8; 32] {
    key.as_str().as_bytes().try_into().expect("a key of 32 characters")
}

fn record((key, clock): (&[u8; 32], &u64)) -> [u8; RECORD] {
    let mut out = [0; RECORD];
    out[..32].copy_from_slice(key);
    out[32..].copy_from_slice(&clock.to_be_bytes());
    out
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path.display().to_string())(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client::Client, credentials::Credentials};

    fn place() -> Place {
        let credentials = Credentials::key("id", "secret");
        let client = Client::builder().endpoint("http://127.0.0.1:1").credentials(credentials);
        Place::new(client.build().unwrap().bucket("bucket").unwrap(), "").unwrap()
    }

    fn key(n: u8) -> SealedKey {
        SealedKey::parse(&char::from(b'a' + n).to_string().repeat(32)).unwrap()
    }

    #[test]
    fn clocks_of_an_operation_are_made_durable_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut state = State::open(directory.path(), &place()).unwrap();
        assert!(state.unsynced().is_none());
        for clock in 1..=3 {
            state.remember(&[(key(0), clock)]).unwrap();
        }
        state.unsynced().unwrap()().unwrap();
        assert!(state.unsynced().is_none(), "nothing is new");
        state.remember(&[(key(0), 2)]).unwrap();
        assert!(state.unsynced().is_none(), "an older clock is nothing new");
    }

    #[test]
    fn processes_that_write_at_once_forget_nothing_and_a_torn_record_harms_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let open = || State::open(directory.path(), &place()).unwrap();
        let (mut one, mut two) = (open(), open());
        two.remember(&[(key(1), 7)]).unwrap();
        // The first one writes the file anew, without having read what the second one wrote.
        for clock in 1..=1100 {
            one.remember(&[(key(0), clock)]).unwrap();
        }
        let path = one.directory.join(CLOCKS);
        assert!(fs::metadata(&path).unwrap().len() < 1000 * RECORD as u64);
        let file = fs::OpenOptions::new().append(true).open(&path);
        file.unwrap().write_all(&[b'x'; 17]).unwrap();
        two.remember(&[(key(2), 9)]).unwrap();
        let third = open();
        assert_eq!([0, 1, 2].map(|n| third.clock(key(n))), [1100, 7, 9]);
    }
}
