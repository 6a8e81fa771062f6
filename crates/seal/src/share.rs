//! Links: what opens one sealed body without the keys of its vault.
//!
//! A body that is shared is sealed for its link alone, under a file id of its own. The holder of the key of a
//! file could, together with the server, also alter it; no file of the vault has that key (docs/adr/0059).

use std::fmt;

use fula_core::cbor::{Invalid, Reader, Writer};
use zeroize::Zeroizing;

use crate::{
    Entropy, SealError, draw,
    key::{BODY_KEY_BYTES, BodyKey},
    text,
};

const WHAT: &str = "the link";
const VERSION: u8 = 1;
/// Version, kind, key, time.
const HEAD_BYTES: usize = 2 + BODY_KEY_BYTES + 8;
const SUM_BYTES: usize = 4;
const NAME_BYTES_MAX: usize = 255;
/// Folder below the prefix of a vault that has everything that is shared.
pub const FOLDER: &str = "s/";
/// Most files of a folder that is shared.
pub const ENTRIES_MAX: usize = 10_000;

/// The random name of something that is shared: the last part of its S3 key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ShareId([u8; 20]);

impl ShareId {
    /// Draws a name that nobody can guess.
    ///
    /// # Errors
    /// [`SealError::NoEntropy`].
    pub fn generate(entropy: &mut dyn Entropy) -> Result<Self, SealError> {
        draw(entropy).map(Self)
    }

    /// Reads the last part of an S3 key. Returns `None` for what is no such name.
    pub fn parse(text: &str) -> Option<Self> {
        let is_small = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        text::read_base32(text).filter(|_| is_small).map(Self)
    }

    /// Returns the S3 key below the prefix of the vault.
    pub fn key(&self) -> String {
        format!("{FOLDER}{}", text::base32(&self.0))
    }
}

impl fmt::Debug for ShareId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::base32(&self.0))
    }
}

/// What a link leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// One file.
    File,
    /// A folder as it was when it was shared: the body is a [`Manifest`].
    Folder,
}

/// The secret part of a link, which stands behind its `#` and is never sent to a server.
#[derive(Clone)]
pub struct Link {
    /// What it leads to.
    pub kind: LinkKind,
    /// Name of the file or of the folder, for those who save it.
    pub name: String,
    /// Time of the last change, in nanoseconds since 1970.
    pub modified: Option<u64>,
    /// Opens the body.
    pub key: BodyKey,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({:?})", self.kind)
    }
}

impl Link {
    /// Returns the text for behind the `#` of a URL.
    ///
    /// # Errors
    /// [`SealError::TooLarge`] for a name of more than 255 bytes.
    pub fn to_text(&self) -> Result<Zeroizing<String>, SealError> {
        SealError::limit("the name in a link (bytes)", self.name.len(), NAME_BYTES_MAX)?;
        let kind = match self.kind {
            LinkKind::File => 0,
            LinkKind::Folder => 1,
        };
        let mut out = Zeroizing::new(Vec::with_capacity(HEAD_BYTES + NAME_BYTES_MAX + SUM_BYTES));
        out.extend([VERSION, kind]);
        out.extend(*self.key.to_bytes());
        out.extend(self.modified.unwrap_or_default().to_be_bytes());
        out.extend(self.name.as_bytes());
        let sum = blake3::hash(&out);
        out.extend(&sum.as_bytes()[..SUM_BYTES]);
        Ok(Zeroizing::new(text::base64url(&out)))
    }

    /// Reads what [`to_text`](Self::to_text) returned.
    ///
    /// # Errors
    /// [`SealError::Malformed`]: it was altered or cut off on its way. [`SealError::Unsupported`].
    pub fn parse(link: &str) -> Result<Self, SealError> {
        let malformed = |why| SealError::Malformed { what: WHAT, why };
        let max = HEAD_BYTES + NAME_BYTES_MAX + SUM_BYTES;
        let bytes = Zeroizing::new(text::read_base64url(WHAT, link, max)?);
        let cut = bytes.len().checked_sub(SUM_BYTES).filter(|cut| *cut >= HEAD_BYTES);
        let (body, sum) = bytes.split_at(cut.ok_or(malformed("it is cut off"))?);
        if blake3::hash(body).as_bytes()[..SUM_BYTES] != *sum {
            return Err(malformed("a part of it is missing or was altered"));
        }
        if body[0] != VERSION {
            return Err(SealError::Unsupported { what: WHAT, found: body[0].into() });
        }
        let kind = match body[1] {
            0 => LinkKind::File,
            1 => LinkKind::Folder,
            kind => return Err(SealError::Unsupported { what: WHAT, found: kind.into() }),
        };
        let (head, name) = body.split_at(HEAD_BYTES);
        let (mut key, mut modified) = (Zeroizing::new([0; BODY_KEY_BYTES]), [0; 8]);
        key.copy_from_slice(&head[2..2 + BODY_KEY_BYTES]);
        modified.copy_from_slice(&head[2 + BODY_KEY_BYTES..]);
        let name = std::str::from_utf8(name).map_err(|_| malformed("its name is not UTF-8"))?;
        Ok(Self {
            kind,
            name: name.to_owned(),
            modified: Some(u64::from_be_bytes(modified)).filter(|time| *time > 0),
            key: BodyKey::from_bytes(&key),
        })
    }
}

/// A file of a folder that is shared.
#[derive(Clone, Debug)]
pub struct SharedEntry {
    /// Path below the folder.
    pub path: Vec<u8>,
    /// Where its body is.
    pub id: ShareId,
    /// Opens its body.
    pub key: BodyKey,
    /// Size of the content in bytes.
    pub size: u64,
    /// Time of the last change, in nanoseconds since 1970.
    pub modified: Option<u64>,
}

/// The files of a folder that is shared. It is the content of the body that the link opens.
#[derive(Clone, Debug, Default)]
pub struct Manifest(pub Vec<SharedEntry>);

impl Manifest {
    /// Returns the content of the body.
    ///
    /// # Errors
    /// [`SealError::TooLarge`] for more than 10 000 files.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, SealError> {
        SealError::limit("a folder that is shared (files)", self.0.len(), ENTRIES_MAX)?;
        let mut out = Writer::with_capacity(64 + 128 * self.0.len());
        out.array(2).uint(VERSION.into()).array(self.0.len());
        for entry in &self.0 {
            out.array(5).bytes(&entry.path).bytes(&entry.id.0).bytes(&*entry.key.to_bytes());
            out.uint(entry.size).uint(entry.modified.unwrap_or_default());
        }
        Ok(Zeroizing::new(out.written().to_vec()))
    }

    /// Reads the content of a body.
    ///
    /// # Errors
    /// [`SealError::Malformed`].
    pub fn decode(content: Vec<u8>) -> Result<Self, SealError> {
        let content = content.into();
        let mut reader = Reader::new(&content);
        Self::read(&mut reader).map_err(SealError::in_cbor("the list of the shared files"))
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Invalid> {
        reader.tuple(2)?;
        if reader.uint()? != u64::from(VERSION) {
            return Err(Invalid("it is of another version"));
        }
        let count = reader.array()?;
        if count > ENTRIES_MAX {
            return Err(Invalid("it has too many files"));
        }
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            reader.tuple(5)?;
            let (path, id) = (reader.byte_slice()?.to_vec(), ShareId(reader.array_of()?));
            let key = Zeroizing::new(reader.array_of::<BODY_KEY_BYTES>()?);
            let key = BodyKey::from_bytes(&key);
            let (size, modified) = (reader.uint()?, Some(reader.uint()?).filter(|time| *time > 0));
            entries.push(SharedEntry { path, id, key, size, modified });
        }
        reader.end()?;
        Ok(Self(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        VaultPath,
        body::{FOOTER_BYTES, FileSealer, Footer, Layout, Metadata, RangeReader},
        testing::{Recorded, vault},
    };

    /// Returns a body with its key, and what another body of the same vault has.
    fn shared(content: &[u8], entropy: &mut Recorded) -> (Vec<u8>, BodyKey) {
        let keys = vault(7);
        let sealer = FileSealer::new(&keys, entropy).unwrap();
        let (segment, mut body) = sealer.seal_segment(0, content, entropy).unwrap();
        let layout = Layout::new(content.len() as u64, vec![segment]).unwrap();
        let metadata = Metadata::of(VaultPath::new(b"secret".as_slice()).unwrap());
        body.extend(sealer.finish(&layout, &metadata, entropy).unwrap().bytes);
        (body, sealer.key())
    }

    fn open(body: &[u8], key: &BodyKey) -> Result<Vec<u8>, SealError> {
        let footer = Footer::parse(body.last_chunk::<FOOTER_BYTES>().unwrap())?;
        let range = footer.trailer_range(body.len() as u64)?;
        let at = |byte: u64| usize::try_from(byte).unwrap();
        let sealed = &body[at(range.start)..at(range.end)];
        let layout = Layout::open_shared(key, &footer, sealed, body.len() as u64)?;
        let mut reader = RangeReader::shared(key, &footer, &layout, 0..layout.size())?;
        let (range, mut out) = (reader.sealed_range(), Vec::new());
        reader.push(&body[at(range.start)..at(range.end)], &mut out)?;
        reader.finish().map(|()| out)
    }

    #[test]
    fn a_link_opens_its_body_and_no_other() {
        let entropy = &mut Recorded::new(1);
        let (body, key) = shared(b"attack at dawn", entropy);
        let (other, _) = shared(b"attack at dusk", entropy);
        let link =
            Link { kind: LinkKind::File, name: "plan.txt".to_owned(), modified: Some(7), key };
        let text = link.to_text().unwrap();
        let read = Link::parse(&text).unwrap();
        assert_eq!((read.kind, &*read.name, read.modified), (LinkKind::File, "plan.txt", Some(7)));
        assert_eq!(open(&body, &read.key).unwrap(), b"attack at dawn");
        let misplaced = SealError::Misplaced { what: "the shared file" };
        assert_eq!(open(&other, &read.key).unwrap_err(), misplaced);
        let mut altered = body.clone();
        altered[60] ^= 1;
        assert_eq!(
            open(&altered, &read.key).unwrap_err(),
            SealError::Damaged { what: "the content" }
        );
        let cut = &body[1..];
        assert!(matches!(open(cut, &read.key), Err(SealError::Truncated { .. })));
        assert!(!format!("{link:?}").contains("plan"), "a log shows no secret");
    }

    #[test]
    fn a_link_that_was_altered_or_cut_off_is_refused() {
        let (_, key) = shared(b"x", &mut Recorded::new(1));
        let link = Link { kind: LinkKind::Folder, name: String::new(), modified: None, key };
        let text = link.to_text().unwrap().to_string();
        assert_eq!(Link::parse(&text).unwrap().modified, None);
        for len in 0..text.len() {
            assert!(Link::parse(&text[..len]).is_err(), "{len}");
        }
        for at in 0..text.len() - 1 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(bytes).unwrap();
            assert!(matches!(Link::parse(&altered), Err(SealError::Malformed { .. })), "{at}");
        }
        assert!(Link::parse(&"A".repeat(10_000)).is_err());
        let long = Link { name: "n".repeat(256), ..link };
        assert!(matches!(long.to_text(), Err(SealError::TooLarge { .. })));
    }

    #[test]
    fn folders_list_their_files() {
        let entropy = &mut Recorded::new(1);
        let (body, key) = shared(b"content", entropy);
        let id = ShareId::generate(entropy).unwrap();
        let entry = SharedEntry { path: b"a/b".to_vec(), id, key, size: 7, modified: None };
        let content = Manifest(vec![entry]).encode().unwrap().to_vec();
        let entry = Manifest::decode(content.clone()).unwrap().0.pop().unwrap();
        assert_eq!((&*entry.path, entry.id, entry.size), (b"a/b".as_slice(), id, 7));
        assert_eq!(open(&body, &entry.key).unwrap(), b"content");
        assert_eq!(ShareId::parse(entry.id.key().strip_prefix(FOLDER).unwrap()), Some(id));
        assert!(ShareId::parse("x").is_none() && ShareId::parse(&"A".repeat(32)).is_none());
        for len in 0..content.len() {
            assert!(Manifest::decode(content[..len].to_vec()).is_err(), "{len}");
        }
    }
}
