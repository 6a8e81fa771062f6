//! The rows of the log, which are root pointers and metadata records, and their encoding.

use std::io;

use bytes::Bytes;
use fula_core::{
    BucketAddress, BucketId, BucketName, OwnerId, RootPointer,
    cbor::{Invalid, Reader, Writer},
    in_memory::{Records, RowSet},
    metadata::{Entry, Table},
    root::RootRow,
};

use crate::log::{Damage, Kind, Log, LogPlace, Recovery, is_lost};

/// The rows of the log in memory.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) roots: RootsState,
    pub(super) records: Records,
}

#[derive(Debug, Default)]
pub(super) struct RootsState {
    pub(super) rows: RowSet,
    pub(super) position: u64,
    /// Root pointers before this place are void.
    void_before: LogPlace,
}

impl RootsState {
    pub(super) fn apply(&mut self, row: RootRow) {
        self.rows.apply(row);
    }
}

impl Rows {
    pub(super) fn load(log: &Log, recovery: &mut Recovery) -> io::Result<Self> {
        let mut loaded = Self::default();
        // The floor is loaded first: it tells which root pointers count.
        loaded.load_kind(log, recovery, |kind| kind == Kind::Floor)?;
        log.forget_roots_before(loaded.roots.void_before);
        loaded.load_kind(log, recovery, |kind| kind != Kind::Floor)?;
        Ok(loaded)
    }

    fn load_kind(
        &mut self,
        log: &Log,
        recovery: &mut Recovery,
        is_wanted: impl Fn(Kind) -> bool,
    ) -> io::Result<()> {
        let slots: Vec<_> =
            log.index().rows.iter().map(|((kind, _), slot)| (*kind, *slot)).collect();
        for (kind, slot) in slots.into_iter().filter(|(kind, _)| is_wanted(*kind)) {
            let value = match log.read_intact(&slot) {
                Err(error) if is_lost(&error) => None,
                read => read?,
            };
            let value = value.ok_or(Invalid("checksum"));
            let read = value.and_then(|value| self.read(kind, &value));
            if read.is_err() {
                recovery.damaged.push(Damage {
                    segment: format!("commit-{:08}.log", slot.segment),
                    offset: u64::from(slot.offset),
                    bytes: u64::from(slot.bytes()),
                    cid: None,
                });
            }
        }
        Ok(())
    }

    fn read(&mut self, kind: Kind, value: &Bytes) -> Result<(), Invalid> {
        let mut reader = Reader::new(value);
        match kind {
            Kind::Root => {
                let (position, row) = read_row(&mut reader)?;
                self.roots.rows.apply(row);
                self.roots.position = self.roots.position.max(position);
            }
            Kind::Metadata => {
                let (table, name, entry) = read_entry(&mut reader)?;
                self.records.apply(table, &name, entry);
            }
            Kind::Floor => {
                let floor = read_floor(&mut reader)?;
                self.roots.rows.raise_floor(floor.version);
                self.roots.position = self.roots.position.max(floor.position);
                self.roots.void_before = floor.void_before;
            }
            Kind::Block | Kind::Mark | Kind::Footer => return Err(Invalid("not a row")),
        }
        reader.end()
    }
}

pub(super) fn write_row(position: u64, row: &RootRow) -> Bytes {
    let mut out = Writer::with_capacity(256);
    out.array(10).uint(position).bytes(&row.address.owner.0).text(row.address.name.as_str());
    out.link(&row.pointer.root).uint(row.pointer.version).uint(row.pointer.generation);
    out.bytes(&row.bucket_id.0).uint(row.created);
    match row.deleted {
        Some(time) => out.uint(time),
        None => out.null(),
    };
    out.uint(u64::from(row.global_name));
    out.finish()
}

pub(super) fn read_row(reader: &mut Reader<'_>) -> Result<(u64, RootRow), Invalid> {
    reader.tuple(10)?;
    let position = reader.uint()?;
    let owner = OwnerId(reader.array_of()?);
    let name = BucketName::parse_stored(reader.text()?).map_err(|_| Invalid("bad bucket name"))?;
    let address = BucketAddress::new(owner, name);
    let pointer =
        RootPointer { root: reader.link()?, version: reader.uint()?, generation: reader.uint()? };
    let bucket_id = BucketId(reader.array_of()?);
    let created = reader.uint()?;
    let deleted = if reader.null() { None } else { Some(reader.uint()?) };
    let global_name = reader.uint()? == 1;
    let claim = None;
    let row = RootRow { address, pointer, bucket_id, created, deleted, global_name, claim };
    Ok((position, row))
}

/// The record that a drop of root pointers leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Floor {
    /// Position, with the meaning that it has in a row.
    pub(super) position: u64,
    /// Version floor: the version of a name without a row begins above it.
    pub(super) version: u64,
    /// Root pointers before this place are void.
    pub(super) void_before: LogPlace,
}

pub(super) fn write_floor(floor: &Floor) -> Bytes {
    let mut out = Writer::with_capacity(64);
    let LogPlace { segment, offset } = floor.void_before;
    out.array(4).uint(floor.position).uint(floor.version);
    out.uint(u64::from(segment)).uint(u64::from(offset));
    out.finish()
}

pub(super) fn read_floor(reader: &mut Reader<'_>) -> Result<Floor, Invalid> {
    reader.tuple(4)?;
    let (position, version) = (reader.uint()?, reader.uint()?);
    let mut part = || u32::try_from(reader.uint()?).map_err(|_| Invalid("bad place in the log"));
    let void_before = LogPlace { segment: part()?, offset: part()? };
    Ok(Floor { position, version, void_before })
}

pub(super) fn write_entry(table: Table, name: &str, entry: &Entry) -> Bytes {
    let mut out = Writer::with_capacity(name.len() + 64);
    out.array(4).text(table.name()).text(name).uint(entry.version);
    match &entry.value {
        Some(value) => out.bytes(value),
        None => out.null(),
    };
    out.finish()
}

pub(super) fn read_entry(reader: &mut Reader<'_>) -> Result<(Table, String, Entry), Invalid> {
    reader.tuple(4)?;
    let table = reader.text()?;
    let table = Table::ALL.into_iter().find(|known| known.name() == table);
    let name = reader.text()?.to_owned();
    let version = reader.uint()?;
    let value = if reader.null() { None } else { Some(reader.bytes()?) };
    Ok((table.ok_or(Invalid("unknown table"))?, name, Entry { version, value }))
}
