//! The items of a stream, in dag-cbor (docs/format.md).

use bytes::{Bytes, BytesMut};
use fula_core::{Cid, bucket::ObjectRecord, cbor::Writer};

const BEGIN: u64 = 0;
const OBJECT: u64 = 1;
const REMOVED: u64 = 2;
const END: u64 = 3;

/// An object of a stream.
pub(super) struct Line {
    pub(super) key: String,
    pub(super) record: ObjectRecord,
    /// The metadata value that was asked for.
    pub(super) meta: Option<String>,
}

/// Items that are written one after another.
pub(super) struct Items(BytesMut);

impl Items {
    pub(super) fn new() -> Self {
        Self(BytesMut::new())
    }

    fn add(&mut self, write: impl FnOnce(&mut Writer)) {
        let mut out = Writer::with_capacity(256);
        write(&mut out);
        self.0.extend_from_slice(out.written());
    }

    /// Writes the first item: `[0, version, root, since|null, {}]`.
    pub(super) fn begin(&mut self, version: u64, root: &Cid, since: Option<u64>) {
        self.add(|out| {
            out.array(5).uint(BEGIN).uint(version).link(root);
            match since {
                Some(since) => out.uint(since),
                None => out.null(),
            };
            out.map(0);
        });
    }

    /// Writes an object: `[1, key, size, ETag, time ms, [version, index], metadata value|null, {}]`.
    pub(super) fn object(&mut self, Line { key, record, meta }: &Line) {
        self.add(|out| {
            out.array(8).uint(OBJECT).text(key).uint(record.size).text(&record.etag.to_string());
            out.uint(record.time).array(2).uint(record.seq.version);
            out.uint(u64::from(record.seq.index));
            match meta {
                Some(meta) => out.text(meta),
                None => out.null(),
            };
            out.map(0);
        });
    }

    /// Writes a key whose object was removed: `[2, key, {}]`.
    pub(super) fn removed(&mut self, key: &str) {
        self.add(|out| {
            out.array(3).uint(REMOVED).text(key).map(0);
        });
    }

    /// Writes the last item: `[3, number of objects and removed keys, {}]`.
    pub(super) fn end(&mut self, count: u64) {
        self.add(|out| {
            out.array(3).uint(END).uint(count).map(0);
        });
    }

    /// Returns the bytes.
    pub(super) fn finish(self) -> Bytes {
        self.0.freeze()
    }
}
