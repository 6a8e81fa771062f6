//! The root block, from which everything of one bucket is reachable by links.

use super::version::Versioning;
use crate::{
    block::Block,
    cbor::{Invalid, Reader, Writer},
    error::StoreError,
    id::{BucketId, BucketName, Cid, Codec, OwnerId, WriterId},
    root::TimeMs,
    tree::{Salt, Tree},
};

/// The highest format that this code writes. It can read a root with a higher number, but does not change
/// it.
pub const FORMAT: u64 = 2;

/// The format of a bucket that never kept versions. Programs that know no other leave the others alone.
const FORMAT_PLAIN: u64 = 1;

/// Largest root block in bytes.
pub const ROOT_BYTES_MAX: usize = 4096;

/// Largest number of authors in a root; the oldest ones are removed first.
pub const AUTHORS_MAX: usize = 48;

/// Number of fields of a root block. A later format may append more.
const FIELDS: usize = 16;

/// A writer, and the last commit that it made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Author {
    /// The process that commits.
    pub writer: WriterId,
    /// Version of its last commit.
    pub version: u64,
    /// Time of that commit.
    pub time: TimeMs,
}

/// The complete state of one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketRoot {
    /// Number of the format of the block; see [`FORMAT`].
    pub format: u64,
    /// Owner of the bucket.
    pub owner: OwnerId,
    /// Name of the bucket.
    pub name: BucketName,
    /// Id of this life of the name.
    pub id: BucketId,
    /// Bucket version; equals the version of the row that points to this root.
    pub version: u64,
    /// The root that this one replaced. It is stored as bytes and not as a link, so that an IPFS pin of
    /// this root does not hold all of the history.
    pub parent: Option<Cid>,
    /// Time at which this root was committed, by the arbiter's clock.
    pub time: TimeMs,
    /// Time at which the bucket was created.
    pub created: TimeMs,
    /// Time at which the bucket was deleted; only a tombstone has it.
    pub deleted: Option<TimeMs>,
    /// Salt of the boundaries of all trees; drawn at random when the bucket is created.
    pub salt: Salt,
    /// The writers that committed lately, at most [`AUTHORS_MAX`].
    pub authors: Vec<Author>,
    /// Address of the settings block; `None` when no setting was ever made.
    pub settings: Option<Cid>,
    /// key → current, visible object.
    pub objects: Tree,
    /// (key, descending seq) → noncurrent version or delete marker.
    pub versions: Tree,
    /// (key, upload id, part) → upload header or part.
    pub uploads: Tree,
    /// (key, fingerprint) → outcome of a displaced write.
    pub recent: Tree,
    /// Whether the bucket keeps versions; `None` when it never did.
    pub versioning: Option<Versioning>,
}

impl BucketRoot {
    /// Returns the root of an empty bucket at `version`.
    pub fn new(
        owner: OwnerId,
        name: BucketName,
        id: BucketId,
        salt: Salt,
        version: u64,
        time: TimeMs,
    ) -> Self {
        Self {
            format: FORMAT_PLAIN,
            owner,
            name,
            id,
            version,
            parent: None,
            time,
            created: time,
            deleted: None,
            salt,
            authors: Vec::new(),
            settings: None,
            objects: Tree::default(),
            versions: Tree::default(),
            uploads: Tree::default(),
            recent: Tree::default(),
            versioning: None,
        }
    }

    /// Sets whether the bucket keeps versions. From now on, programs that know nothing of versions leave it
    /// alone.
    pub fn set_versioning(&mut self, versioning: Versioning) {
        self.versioning = Some(versioning);
        self.format = self.format.max(FORMAT);
    }

    /// Records `writer` as the author of this root, and removes authors whose last commit is older than
    /// `kept_since`.
    pub fn sign(&mut self, writer: WriterId, kept_since: TimeMs) {
        let (version, time) = (self.version, self.time);
        self.authors.retain(|author| author.writer != writer && author.time >= kept_since);
        self.authors.sort_by_key(|author| author.version);
        let excess = (self.authors.len() + 1).saturating_sub(AUTHORS_MAX);
        self.authors.drain(..excess);
        self.authors.push(Author { writer, version, time });
    }

    /// Returns the version of the last commit of `writer` that this root includes.
    pub fn authored(&self, writer: WriterId) -> Option<u64> {
        self.authors.iter().find(|author| author.writer == writer).map(|author| author.version)
    }

    /// Encodes the root as a block.
    pub fn to_block(&self) -> Block {
        let mut out = Writer::with_capacity(1024);
        out.array(FIELDS).uint(self.format);
        out.bytes(&self.owner.0).text(self.name.as_str()).bytes(&self.id.0);
        out.uint(self.version);
        match &self.parent {
            Some(parent) => out.bytes(&parent.to_bytes()),
            None => out.null(),
        };
        out.uint(self.time);
        out.array(2).uint(self.created);
        match self.deleted {
            Some(time) => out.uint(time),
            None => out.null(),
        };
        out.bytes(&self.salt.0);
        out.array(self.authors.len());
        for author in &self.authors {
            out.array(3).bytes(&author.writer.0).uint(author.version).uint(author.time);
        }
        out.link_or_null(self.settings.as_ref());
        for tree in [&self.objects, &self.versions, &self.uploads, &self.recent] {
            tree.write(&mut out);
        }
        match self.versioning {
            Some(versioning) => out.map(1).text("versioning").uint(versioning.code()),
            None => out.map(0),
        };
        let block = Block::new(Codec::DagCbor, out.finish());
        debug_assert!(block.bytes().len() <= ROOT_BYTES_MAX, "a root stays small");
        block
    }

    /// Decodes a root of this format or a later one.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] for a block that is not a bucket root.
    pub fn from_block(block: &Block) -> Result<Self, StoreError> {
        let wrong = |invalid: Invalid| invalid.of("bucket root");
        if block.cid().codec() != Codec::DagCbor || block.bytes().len() > ROOT_BYTES_MAX {
            return Err(wrong(Invalid("wrong codec or too large")));
        }
        Self::parse(&mut Reader::new(block.bytes())).map_err(wrong)
    }

    fn parse(reader: &mut Reader<'_>) -> Result<Self, Invalid> {
        let fields = reader.array()?;
        let format = reader.uint()?;
        if fields < FIELDS || format < FORMAT_PLAIN || (format <= FORMAT && fields > FIELDS) {
            return Err(Invalid("not a root of a known format"));
        }
        let owner = OwnerId(reader.array_of()?);
        let name =
            BucketName::parse_stored(reader.text()?).map_err(|_| Invalid("bad bucket name"))?;
        let id = BucketId(reader.array_of()?);
        let version = reader.uint()?;
        let parent = if reader.null() {
            None
        } else {
            Some(Cid::from_bytes(&reader.bytes()?).map_err(|_| Invalid("bad parent"))?)
        };
        let time = reader.uint()?;
        reader.tuple(2)?;
        let created = reader.uint()?;
        let deleted = if reader.null() { None } else { Some(reader.uint()?) };
        let salt = Salt(reader.array_of()?);
        let authors = (0..reader.array()?)
            .map(|_| {
                reader.tuple(3)?;
                let writer = WriterId(reader.array_of()?);
                Ok(Author { writer, version: reader.uint()?, time: reader.uint()? })
            })
            .collect::<Result<_, Invalid>>()?;
        let settings = reader.link_or_null()?;
        let [objects, versions, uploads, recent] =
            [Tree::read(reader)?, Tree::read(reader)?, Tree::read(reader)?, Tree::read(reader)?];
        let versioning = read_versioning(reader)?;
        for _ in FIELDS..fields {
            reader.raw()?;
        }
        reader.end()?;
        Ok(Self {
            format,
            owner,
            name,
            id,
            version,
            parent,
            time,
            created,
            deleted,
            salt,
            authors,
            settings,
            objects,
            versions,
            uploads,
            recent,
            versioning,
        })
    }
}

/// Reads the extensions of a root. Those of later programs are skipped.
fn read_versioning(reader: &mut Reader<'_>) -> Result<Option<Versioning>, Invalid> {
    let mut versioning = None;
    let mut names = reader.names()?;
    for _ in 0..names.count() {
        match names.next(reader)? {
            "versioning" => versioning = Some(Versioning::of_code(reader.uint()?)?),
            _ => drop(reader.raw()?),
        }
    }
    Ok(versioning)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> BucketRoot {
        let name = BucketName::parse("photos").unwrap();
        BucketRoot::new(OwnerId([1; 16]), name, BucketId([2; 16]), Salt([3; 32]), 1, 1_000)
    }

    #[test]
    fn round_trips_and_matches_the_vector() {
        let mut root = root();
        root.sign(WriterId([4; 16]), 0);
        let block = root.to_block();
        assert_eq!(BucketRoot::from_block(&block).unwrap(), root);
        assert_eq!(
            block.cid().to_string(),
            "bafyr4ihc72b5jfyza4wsi2pr2w4q27w7hfuu3wzuvartyslczfxldym5zq"
        );
    }

    #[test]
    fn stays_small_with_every_author_it_keeps() {
        let mut root = root();
        root.name = BucketName::parse(&"n".repeat(63)).unwrap();
        for n in 0..200_u8 {
            (root.version, root.time) = (u64::MAX - 200 + u64::from(n), u64::MAX);
            root.sign(WriterId([n; 16]), 0);
        }
        root.parent = Some(Cid::of(Codec::DagCbor, b"x"));
        root.settings = root.parent;
        for tree in [&mut root.objects, &mut root.versions, &mut root.uploads, &mut root.recent] {
            *tree = Tree { root: root.parent, count: u64::MAX, bytes: u64::MAX };
        }
        assert!(root.to_block().bytes().len() <= ROOT_BYTES_MAX);
        assert_eq!(BucketRoot::from_block(&root.to_block()).unwrap(), root);
        assert_eq!(root.authors.len(), AUTHORS_MAX);
        assert_eq!(root.authored(WriterId([199; 16])), Some(u64::MAX - 1));
        assert_eq!(root.authored(WriterId([0; 16])), None);
    }

    #[test]
    fn authors_are_forgotten_with_time() {
        let mut root = root();
        root.sign(WriterId([4; 16]), 0);
        (root.version, root.time) = (2, 5_000);
        root.sign(WriterId([5; 16]), 1_001);
        assert_eq!(root.authored(WriterId([4; 16])), None);
        assert_eq!(root.authored(WriterId([5; 16])), Some(2));
    }

    #[test]
    fn a_newer_format_is_readable_as_far_as_we_know_it() {
        let mut root = root();
        root.format = FORMAT + 1;
        let mut bytes = root.to_block().bytes().to_vec();
        assert_eq!(bytes[0], 0x80 | 16);
        bytes[0] += 1;
        bytes.push(0x18);
        bytes.push(0x63);
        let newer = Block::new(Codec::DagCbor, bytes);
        assert_eq!(BucketRoot::from_block(&newer).unwrap(), root);
    }
}
