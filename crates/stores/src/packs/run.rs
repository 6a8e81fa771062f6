//! Index runs: where many blocks lie, as one object that is read a page at a time.
//!
//! ```text
//! page = records u32 | checksum u32 | records | zeros to 4096 bytes
//! record = tag 16 | pack 16 | offset u32 | length u32        (little endian, by tag)
//! ```
//! The checksum is CRC-32C over the name of the run, the number of the page (u64) and the records, so that
//! neither zeros nor another page pass for a page.
//!
//! A tag says which page it is on ([`Tag::page`]), so that a look-up reads one page, and nothing of a run is
//! kept in memory. Pages follow one another by tag, and so do the records of a page: a run is sorted, and
//! runs are merged from beginning to end with a page of each at a time.

use bytes::{Bytes, BytesMut};
use fula_core::{
    StoreError,
    cbor::{Invalid, Reader, Writer},
};
use object_store::{buffered::BufWriter, path::Path};
use tokio::io::AsyncWriteExt;

use super::place::{Located, Place, Tag, u32_at};
use crate::{
    log::crc32c,
    objects::{Objects, WRITTEN},
};

/// Length of a page.
const PAGE_BYTES: usize = 4096;

/// Bytes of a page before its records.
const HEAD_BYTES: usize = 8;

/// Most records of a page.
const RECORDS_MAX: usize = (PAGE_BYTES - HEAD_BYTES) / Located::BYTES;

/// Records of a page on average. The number of records of a page varies by about its root; a run in which a
/// page would overflow is written again with more pages.
const RECORDS_MEAN: u64 = 64;

/// Times a run is written with more pages before the merge fails.
const TRIES: usize = 20;

/// Pages that a merge reads at a time.
const READ_PAGES: u64 = 256;

/// An index run, as the manifest names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Its name: 16 random bytes.
    pub(super) id: [u8; 16],
    /// Number of its pages.
    pub(super) pages: u64,
    /// Number of its records.
    pub(super) records: u64,
}

impl Run {
    /// Returns the path of the object.
    pub(super) fn path(&self) -> Path {
        path_of(&self.id)
    }

    pub(super) fn write(&self, out: &mut Writer) {
        out.array(3).bytes(&self.id).uint(self.pages).uint(self.records);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Invalid> {
        reader.tuple(3)?;
        Ok(Self { id: reader.array_of()?, pages: reader.uint()?, records: reader.uint()? })
    }

    /// Reads one page.
    ///
    /// # Errors
    /// [`StoreError`], also where the run is gone.
    pub(super) async fn page(&self, objects: &Objects, page: u64) -> Result<Page, StoreError> {
        let mut pages = self.pages(objects, page, 1).await?;
        pages.pop().ok_or_else(|| self.missing())
    }

    /// Reads the whole run, and returns whether all of it is there and intact.
    ///
    /// # Errors
    /// [`StoreError`] where that cannot be told.
    pub(super) async fn is_whole(&self, objects: &Objects) -> Result<bool, StoreError> {
        if objects.size(&self.path()).await? != Some(self.pages * PAGE_BYTES as u64) {
            return Ok(false);
        }
        let mut records = Records::new(objects, *self);
        loop {
            match records.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(true),
                Err(StoreError::Malformed { .. }) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    async fn pages(
        &self,
        objects: &Objects,
        from: u64,
        count: u64,
    ) -> Result<Vec<Page>, StoreError> {
        let range = from * PAGE_BYTES as u64..(from + count) * PAGE_BYTES as u64;
        let len = range.end - range.start;
        let bytes = objects.get_range(&self.path(), range).await?.ok_or_else(|| self.missing())?;
        if bytes.len() as u64 != len {
            return Err(malformed("it is cut off"));
        }
        (0..bytes.len())
            .step_by(PAGE_BYTES)
            .zip(from..)
            .map(|(at, page)| self.parse(page, &bytes.slice(at..at + PAGE_BYTES)))
            .collect()
    }

    fn parse(&self, page: u64, bytes: &Bytes) -> Result<Page, StoreError> {
        let count = u32_at(bytes, 0) as usize;
        if count > RECORDS_MAX {
            return Err(malformed("a page has too many records"));
        }
        let records = bytes.slice(HEAD_BYTES..HEAD_BYTES + count * Located::BYTES);
        if checksum(&self.id, page, &records) != u32_at(bytes, 4) {
            return Err(malformed("the checksum of a page is wrong"));
        }
        Ok(Page { records })
    }

    fn missing(&self) -> StoreError {
        let source = format!(
            "the index run {} is missing from the block store; run `fula fsck --repair` to index the packs again",
            self.path()
        );
        StoreError::Unavailable { backend: "block store", action: "look up", source: source.into() }
    }
}

/// Where runs lie.
pub(super) const INDEX: &str = "index";

/// Returns where the run of this name lies.
pub(super) fn path_of(id: &[u8; 16]) -> Path {
    Path::from(format!("{INDEX}/{}", hex::encode(id)))
}

fn checksum(run: &[u8; 16], page: u64, records: &[u8]) -> u32 {
    crc32c(&[&run[..], &page.to_le_bytes(), records].concat())
}

fn malformed(why: &'static str) -> StoreError {
    StoreError::Malformed { what: "index run", why }
}

/// A page of a run whose checksum is right.
#[derive(Clone, Debug)]
pub(super) struct Page {
    records: Bytes,
}

impl Page {
    fn records(&self) -> &[[u8; Located::BYTES]] {
        self.records.as_chunks().0
    }

    /// Returns where a block lies, if the page knows it.
    pub(super) fn find(&self, tag: &Tag) -> Option<Place> {
        let records = self.records();
        let at = records.binary_search_by(|record| record[..16].cmp(&tag.0)).ok()?;
        Some(Located::read(&records[at]).place)
    }

    /// Returns the length in bytes, for the cache.
    pub(super) fn weight(&self) -> u64 {
        (self.records.len() + 64) as u64
    }
}

/// The records of a run, one after another.
pub(super) struct Records<'a> {
    objects: &'a Objects,
    run: Run,
    next_page: u64,
    pages: std::vec::IntoIter<Page>,
    page: Option<Page>,
    at: usize,
    /// Number of records so far.
    count: u64,
}

impl<'a> Records<'a> {
    pub(super) fn new(objects: &'a Objects, run: Run) -> Self {
        let pages = Vec::new().into_iter();
        Self { objects, run, next_page: 0, pages, page: None, at: 0, count: 0 }
    }

    /// Returns the next record by tag.
    ///
    /// # Errors
    /// [`StoreError`] of the store; [`StoreError::Malformed`].
    pub(super) async fn next(&mut self) -> Result<Option<Located>, StoreError> {
        loop {
            if let Some(page) = &self.page
                && let Some(record) = page.records().get(self.at)
            {
                (self.at, self.count) = (self.at + 1, self.count + 1);
                return Ok(Some(Located::read(record)));
            }
            self.page = self.pages.next();
            self.at = 0;
            if self.page.is_some() {
                continue;
            }
            let count = READ_PAGES.min(self.run.pages - self.next_page);
            if count == 0 && self.count != self.run.records {
                return Err(malformed("it has not as many records as the manifest says"));
            }
            if count == 0 {
                return Ok(None);
            }
            self.pages = self.run.pages(self.objects, self.next_page, count).await?.into_iter();
            self.next_page += count;
        }
    }
}

/// Writes a run page by page.
pub(super) struct RunWriter {
    id: [u8; 16],
    out: BufWriter,
    pages: u64,
    /// The page that `records` belong to.
    page: u64,
    records: BytesMut,
    count: u64,
}

/// Why a run was not written.
pub(super) enum Failed {
    /// Too many records belong to one page.
    Overflow,
    /// The store failed, or what is merged.
    Store(StoreError),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl RunWriter {
    fn new(objects: &Objects, id: [u8; 16], pages: u64) -> Self {
        let out = objects.writer(path_of(&id));
        Self { id, out, pages, page: 0, records: BytesMut::new(), count: 0 }
    }

    /// Adds a record. Each has a higher tag than the one before.
    pub(super) async fn push(&mut self, located: &Located) -> Result<(), Failed> {
        let page = located.tag.page(self.pages);
        while self.page < page {
            self.end_page().await?;
        }
        if self.records.len() == RECORDS_MAX * Located::BYTES {
            return Err(Failed::Overflow);
        }
        located.write(&mut self.records);
        self.count += 1;
        Ok(())
    }

    async fn end_page(&mut self) -> Result<(), Failed> {
        let records = self.records.split();
        let count = u32::try_from(records.len() / Located::BYTES).unwrap_or(u32::MAX);
        let mut page = BytesMut::with_capacity(PAGE_BYTES);
        page.extend_from_slice(&count.to_le_bytes());
        let check = checksum(&self.id, self.page, &records);
        page.extend_from_slice(&check.to_le_bytes());
        page.extend_from_slice(&records);
        page.resize(PAGE_BYTES, 0);
        self.page += 1;
        in_time(self.out.write_all(&page)).await.map_err(Failed::Store)
    }

    async fn finish(&mut self) -> Result<Run, Failed> {
        while self.page < self.pages {
            self.end_page().await?;
        }
        in_time(self.out.shutdown()).await?;
        Ok(Run { id: self.id, pages: self.pages, records: self.count })
    }
}

/// The attempts to write one run: it is written again where too many records belong to one page.
pub(super) struct Attempts<'a> {
    objects: &'a Objects,
    pages: u64,
    left: usize,
}

impl<'a> Attempts<'a> {
    /// Prepares a run of about so many records.
    pub(super) fn new(objects: &'a Objects, records: u64) -> Self {
        Self { objects, pages: records.div_ceil(RECORDS_MEAN).max(1), left: TRIES }
    }

    /// Begins the next attempt.
    pub(super) fn begin(&self, id: [u8; 16]) -> RunWriter {
        RunWriter::new(self.objects, id, self.pages)
    }

    /// Ends an attempt. Returns the run; `None` where the next attempt is to be begun.
    ///
    /// # Errors
    /// [`StoreError`]; part of an object may be left that no manifest names.
    pub(super) async fn end(
        &mut self,
        mut out: RunWriter,
        filled: Result<(), Failed>,
    ) -> Result<Option<Run>, StoreError> {
        let written = match filled {
            Ok(()) => out.finish().await,
            Err(failed) => Err(failed),
        };
        let failed = match written {
            Ok(run) => return Ok(Some(run)),
            Err(failed) => failed,
        };
        drop(out.out.abort().await);
        match failed {
            Failed::Store(error) => return Err(error),
            Failed::Overflow => self.pages += self.pages.div_ceil(4),
        }
        self.left -= 1;
        if self.left == 0 { Err(malformed("its tags are not spread evenly")) } else { Ok(None) }
    }
}

/// Waits for a write as long as a store may take that does not hang.
async fn in_time(write: impl Future<Output = std::io::Result<()>>) -> Result<(), StoreError> {
    match tokio::time::timeout(WRITTEN, write).await {
        Ok(written) => written.map_err(unwritten),
        Err(late) => Err(unwritten(std::io::Error::new(std::io::ErrorKind::TimedOut, late))),
    }
}

fn unwritten(error: std::io::Error) -> StoreError {
    if error.kind() == std::io::ErrorKind::StorageFull {
        return StoreError::Full { backend: "object store" };
    }
    StoreError::Unavailable { backend: "object store", action: "put", source: error.into() }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use fula_core::{Cid, Codec, packs::PackId};
    use object_store::memory::InMemory;

    use super::{
        super::{merge::merge, place::TagKey},
        *,
    };

    fn objects() -> Objects {
        Objects::on(Arc::new(InMemory::new()))
    }

    fn located(n: u32, pack: u8) -> Located {
        let cid = Cid::of(Codec::Raw, &n.to_le_bytes());
        let tag = Tag::new(&TagKey::of_store("a store"), &cid);
        Located { tag, place: Place { pack: PackId([pack; 16]), offset: n, len: 1 } }
    }

    fn sorted(numbers: impl Iterator<Item = u32>, pack: u8) -> Vec<Located> {
        let mut records: Vec<_> = numbers.map(|n| located(n, pack)).collect();
        records.sort_by_key(|record| record.tag);
        records
    }

    fn ids() -> impl FnMut() -> [u8; 16] {
        let mut n = 0;
        move || {
            n += 1;
            [n; 16]
        }
    }

    async fn find(objects: &Objects, run: Run, tag: &Tag) -> Option<Place> {
        run.page(objects, tag.page(run.pages)).await.unwrap().find(tag)
    }

    #[tokio::test]
    async fn merged_runs_hold_the_newest_place_of_every_block() {
        let objects = objects();
        let mut ids = ids();
        let mut expected = BTreeMap::new();
        let (mut runs, mut made) = (Vec::new(), 0);
        for (pack, numbers) in [(1, 0..5000), (2, 2500..2600), (3, 90..20_000)] {
            let newest = sorted(numbers, pack);
            expected.extend(newest.iter().map(|record| (record.tag, record.place)));
            let run = merge(&objects, &newest, &runs, &mut ids).await.unwrap();
            made += 1;
            // The first two stay apart, and the last merge takes both.
            if made == 1 {
                let apart = sorted(4990..5010, 9);
                expected.extend(apart.iter().map(|record| (record.tag, record.place)));
                let apart = merge(&objects, &apart, &[], &mut ids).await.unwrap();
                runs = vec![apart, run];
            } else {
                runs = vec![run];
            }
        }
        assert_eq!(runs[0].records, expected.len() as u64);
        for (tag, place) in &expected {
            assert_eq!(find(&objects, runs[0], tag).await, Some(*place));
        }
        assert_eq!(find(&objects, runs[0], &located(30_000, 0).tag).await, None);
    }

    #[tokio::test]
    async fn a_run_whose_pages_overflow_gets_more_of_them() {
        let objects = objects();
        // Tags that are not spread evenly: all are in the first twentieth.
        let records: Vec<_> = (0..200_u32)
            .map(|n| {
                let mut tag = [0; 16];
                tag[..2].copy_from_slice(&u16::try_from(16 * n).unwrap().to_be_bytes());
                Located { tag: Tag(tag), ..located(n, 1) }
            })
            .collect();
        let run = merge(&objects, &records, &[], ids()).await.unwrap();
        assert!(run.pages > 4, "{run:?}");
        for record in &records {
            assert_eq!(find(&objects, run, &record.tag).await, Some(record.place));
        }
    }

    #[tokio::test]
    async fn what_was_changed_in_a_run_is_not_believed() {
        let objects = objects();
        let records = sorted(0..10, 1);
        let run = merge(&objects, &records, &[], ids()).await.unwrap();
        let whole = objects.get_range(&run.path(), 0..PAGE_BYTES as u64).await.unwrap().unwrap();
        for at in [0, 4, HEAD_BYTES, HEAD_BYTES + 10 * Located::BYTES - 1] {
            let mut changed = whole.to_vec();
            changed[at] ^= 0xff;
            assert!(run.parse(0, &changed.into()).is_err(), "byte {at}");
        }
        // Neither zeros, nor another page, nor that of another run.
        assert!(run.parse(0, &Bytes::from(vec![0; PAGE_BYTES])).is_err());
        assert!(run.parse(0, &whole).is_ok() && run.parse(1, &whole).is_err());
        assert!(Run { id: [98; 16], ..run }.parse(0, &whole).is_err());
        // Nor a run that lacks records.
        assert!(run.is_whole(&objects).await.unwrap());
        assert!(!Run { records: 11, ..run }.is_whole(&objects).await.unwrap());
        let other = Run { id: [99; 16], ..run };
        let missing = other.page(&objects, 0).await.unwrap_err();
        assert!(matches!(missing, StoreError::Unavailable { .. }), "{missing}");
    }

    #[tokio::test]
    async fn an_empty_run_is_one_empty_page() {
        let objects = objects();
        let run = merge(&objects, &[], &[], ids()).await.unwrap();
        assert_eq!((run.pages, run.records), (1, 0));
        assert_eq!(find(&objects, run, &located(1, 1).tag).await, None);
    }
}
