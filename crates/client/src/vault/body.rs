//! Bodies: planned as a whole, then sealed segment by segment while they are sent.

use std::{io, sync::Arc, vec};

use bytes::Bytes;
use fula_seal::{
    BodyKey, FileId, JournalHasher,
    body::{
        EndingSigner, FileSealer, Layout, Metadata, PlannedSegment, Segment, SegmentSealer,
        segment_bytes,
    },
};
use futures::stream;

use super::{Current, Vault, entropy::System, note::Note};
use crate::{
    error::{Error, Result},
    source::Reader,
};

/// Bytes of a file that are read and sealed at a time.
const PIECE: usize = 1 << 20;

/// Padding.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A body that is ready to be sent: everything but its content is sealed.
pub(super) struct Body {
    /// Its device signs the content when all of it was sealed.
    vault: Vault,
    segments: Vec<PlannedSegment>,
    /// What the trailer says of the segments.
    pub(super) listed: Vec<Segment>,
    pub(super) epoch: u32,
    pub(super) file: FileId,
    pub(super) ending: EndingSigner,
    /// What a link to the body has.
    pub(super) key: BodyKey,
    pub(super) sealed_bytes: u64,
    /// Length of a part of the upload: that of a sealed segment.
    pub(super) part_bytes: usize,
    lengths: Lengths,
}

/// Lengths of the segments of a file.
#[derive(Clone, Copy)]
pub(super) struct Lengths {
    /// Bytes of the file.
    size: u64,
    /// Bytes of the file and its padding, which may be longer than a segment.
    padded: u64,
    /// Bytes of every segment but the last.
    each: u64,
    pub(super) count: u64,
}

impl Lengths {
    pub(super) fn new(current: &Current, size: u64) -> Self {
        let padded = current.keyring.padding().padded(size);
        let each = segment_bytes(padded);
        Self { size, padded, each, count: padded.div_ceil(each).max(1) }
    }

    /// Returns how many bytes a segment has, without and with its padding.
    pub(super) fn of(&self, ordinal: u64) -> (usize, usize) {
        let within = |end: u64| {
            let bytes = end.saturating_sub(ordinal * self.each).min(self.each);
            usize::try_from(bytes).unwrap_or(usize::MAX)
        };
        (within(self.size), within(self.padded))
    }
}

impl Vault {
    /// Seals everything of a body of `size` bytes but its content.
    pub(super) fn plan_body(
        &self,
        current: &Current,
        size: u64,
        metadata: &Metadata,
    ) -> Result<Body> {
        let lengths = Lengths::new(current, size);
        let sealer = FileSealer::new(current.keyring.keys(), &mut System)?;
        let (mut listed, mut segments) = (Vec::new(), Vec::new());
        for ordinal in 0..lengths.count {
            let (_, padded) = lengths.of(ordinal);
            let (segment, planned) = sealer.plan_segment(ordinal, padded as u64, &mut System)?;
            listed.push(segment);
            segments.push(planned);
        }
        let layout = Layout::new(size, listed.clone())?;
        let ending = sealer.plan_end(&layout, metadata, &mut System)?;
        let sealed_bytes = layout.sealed_bytes() + ending.sealed_bytes() as u64;
        // A segment is a part, and a body of one segment is sent in one request.
        let is_one = lengths.count == 1;
        let part_bytes = if is_one { sealed_bytes } else { layout.segments()[0].sealed_bytes() };
        Ok(Body {
            vault: self.clone(),
            segments,
            listed,
            epoch: sealer.epoch(),
            file: sealer.file(),
            ending,
            key: sealer.key(),
            sealed_bytes,
            part_bytes: usize::try_from(part_bytes).unwrap_or(usize::MAX),
            lengths,
        })
    }
}

/// Returns the error of a file that has fewer bytes than when it was opened.
pub(super) fn shorter() -> Error {
    Error::Invalid("the file became shorter while it was read; send it again".to_owned())
}

/// Seals a body of one segment in memory.
pub(super) fn seal_whole(body: Body, content: Bytes) -> Result<Vec<u8>> {
    let Body { vault, segments, mut ending, lengths, .. } = body;
    let mut out = Vec::new();
    let padding = lengths.of(0).1.saturating_sub(content.len());
    for planned in segments {
        let mut sealer = planned.begin(ending.sealed_bytes());
        sealer.push(&content)?;
        pad(&mut sealer, padding)?;
        out = sealer.finish()?;
        ending.update(&out);
    }
    out.extend(ending.sign(vault.0.identity.signing_key())?);
    Ok(out)
}

/// Seals zeros.
fn pad(sealer: &mut SegmentSealer, mut bytes: usize) -> Result<()> {
    while bytes > 0 {
        let piece = bytes.min(ZEROS.len());
        sealer.push(&ZEROS[..piece])?;
        bytes -= piece;
    }
    Ok(())
}

/// Returns a sealed body as a stream: a segment at a time, the last one with the end. Only the segment that is being
/// sealed is in memory. `first` is content that was read already, and `note` gets the hashes of what is sealed.
pub(super) fn sealed(
    body: Body,
    reader: Reader,
    (first, note): (Option<Bytes>, Option<Arc<Note>>),
) -> impl futures::Stream<Item = io::Result<Bytes>> + Send + 'static {
    let Body { vault, segments, ending, lengths, .. } = body;
    let (segments, ending) = (segments.into_iter(), Some(ending));
    let sealing = Sealing { vault, segments, at: 0, ending, lengths, reader, first, note };
    stream::try_unfold(sealing, move |mut sealing| async move {
        let sealed = sealing.next().await.map_err(io::Error::other)?;
        Ok(sealed.map(|sealed| (Bytes::from(sealed), sealing)))
    })
}

/// A body that is being sealed.
struct Sealing {
    vault: Vault,
    segments: vec::IntoIter<PlannedSegment>,
    /// Ordinal of the next segment.
    at: u64,
    /// Hashes what was sealed, until it signs it.
    ending: Option<EndingSigner>,
    lengths: Lengths,
    reader: Reader,
    /// Content that was read already.
    first: Option<Bytes>,
    note: Option<Arc<Note>>,
}

impl Sealing {
    /// Seals the next segment, or returns `None` at the end.
    async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let (Some(planned), Some(mut ending)) = (self.segments.next(), self.ending.take()) else {
            return Ok(None);
        };
        let (ordinal, is_last) = (self.at, self.segments.len() == 0);
        self.at += 1;
        let room = if is_last { ending.sealed_bytes() } else { 0 };
        let hasher = self.note.as_ref().and_then(|note| note.hasher(ordinal));
        let lengths = self.lengths.of(ordinal);
        let source = (&mut self.reader, self.first.take());
        let (sealed, content) = seal_segment((planned, room), source, lengths, hasher).await?;
        let (mut sealed, ending) = blocking(move || {
            ending.update(&sealed);
            Ok((sealed, ending))
        })
        .await?;
        if let Some((note, content)) = self.note.as_ref().zip(content) {
            note.sealed(ordinal, content, hash_of(&ending, ordinal));
        }
        if !is_last {
            self.ending = Some(ending);
            return Ok(Some(sealed));
        }
        // The end is signed only if the whole content was the one that was planned.
        self.reader.check_unchanged().await?;
        sealed.extend(ending.sign(self.vault.0.identity.signing_key())?);
        Ok(Some(sealed))
    }
}

/// Returns the hash of a sealed segment; zeros for one that is padding alone, which has none.
pub(super) fn hash_of(ending: &EndingSigner, ordinal: u64) -> [u8; 32] {
    let segment = usize::try_from(ordinal).unwrap_or(usize::MAX);
    ending.hash(segment).unwrap_or_default()
}

/// Reads and seals a segment, of so many bytes without and with padding, and with `room` behind it. Returns the keyed
/// hash of its content, too, if there is a hasher.
pub(super) async fn seal_segment(
    (planned, room): (PlannedSegment, usize),
    (reader, mut first): (&mut Reader, Option<Bytes>),
    (wanted, padded): (usize, usize),
    mut hasher: Option<JournalHasher>,
) -> Result<(Vec<u8>, Option<[u8; 32]>)> {
    let (mut sealer, mut left) = (planned.begin(room), wanted);
    while left > 0 {
        let plain = match first.take() {
            Some(first) => first,
            None => reader.read(left.min(PIECE)).await?,
        };
        left = match left.checked_sub(plain.len()) {
            Some(left) if !plain.is_empty() => left,
            _ => return Err(shorter()),
        };
        (sealer, hasher) = blocking(move || {
            if let Some(hasher) = &mut hasher {
                hasher.update(&plain);
            }
            sealer.push(&plain)?;
            Ok((sealer, hasher))
        })
        .await?;
    }
    blocking(move || {
        pad(&mut sealer, padded - wanted)?;
        Ok((sealer.finish()?, hasher.map(JournalHasher::finish)))
    })
    .await
}

/// Runs what takes the processor for long beside the tasks of the network.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::io("sealing")(io::Error::other(error)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_may_be_longer_than_a_segment() {
        let (each, size) = (1 << 24, (1 << 30) + 1);
        // Padmé makes it a multiple of 32 MiB.
        let padded = size + (32 << 20) - 1;
        let lengths = Lengths { size, padded, each, count: padded.div_ceil(each) };
        let all: Vec<_> = (0..lengths.count).map(|ordinal| lengths.of(ordinal)).collect();
        let sum = |of: fn(&(usize, usize)) -> usize| all.iter().map(of).sum::<usize>() as u64;
        assert_eq!((sum(|of| of.0), sum(|of| of.1)), (size, padded));
        assert_eq!(all[all.len() - 2..], [(1, 1 << 24), (0, 1 << 24)]);
        assert!(all.iter().all(|(content, padded)| content <= padded));
    }
}
