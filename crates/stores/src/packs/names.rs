//! Names of the objects of a store of packs.

use fula_core::{Cid, Codec, packs::PackId};
use object_store::path::Path;

/// Bytes 9 to 11 of names that contain a generation. Names of earlier builds are random.
const MARKER: [u8; 3] = *b"gen";

/// Returns a new name of a pack: nine random bytes, [`MARKER`], and the lower half of its generation. A
/// collector need not read a pack to learn its generation then.
pub(super) fn new_id(random: [u8; 16], generation: u64) -> PackId {
    let mut id = random;
    id[9..12].copy_from_slice(&MARKER);
    id[12..].copy_from_slice(&generation.to_be_bytes()[4..]);
    PackId(id)
}

/// Returns the generation in the name of a pack. It is 0 for packs of earlier builds: all of them are of
/// generation 0.
pub(super) fn told_generation(id: &PackId) -> u64 {
    let [.., a, b, c, d] = id.0;
    if id.0[9..12] == MARKER { u64::from(u32::from_be_bytes([a, b, c, d])) } else { 0 }
}

/// Returns where a pack lies.
pub(super) fn path_of(id: &PackId) -> Path {
    let name = id.to_string();
    Path::from(format!("packs/{}/{}", &name[..2], &name[2..]))
}

pub(super) fn shard_path(shard: u8) -> Path {
    Path::from(format!("packs/{shard:02x}"))
}

/// Reads the name of a pack back from where it lies.
pub(super) fn id_at(shard: u8, path: &Path) -> Option<PackId> {
    let mut id = [shard; 16];
    hex::decode_to_slice(path.filename()?, &mut id[1..]).ok()?;
    Some(PackId(id))
}

/// The codecs by which blocks are listed that are objects of their own.
pub(super) const CODECS: [Codec; 3] = [Codec::Raw, Codec::DagPb, Codec::DagCbor];

/// Returns where a block lies that is an object of its own.
pub(super) fn single_path(cid: &Cid) -> Path {
    let digest = hex::encode(cid.digest());
    Path::from(format!("blocks/{:02x}/{}/{}", cid.codec() as u8, &digest[..2], &digest[2..]))
}

/// Reads an address back from where such a block lies.
pub(super) fn single_at(codec: Codec, shard: u8, path: &Path) -> Option<Cid> {
    let mut digest = [shard; 32];
    hex::decode_to_slice(path.filename()?, &mut digest[1..]).ok()?;
    Some(Cid::from_digest(codec, digest))
}
