//! The state of a pin, and how it is kept as an object.

use std::collections::BTreeMap;

use fula_core::{
    Block, Cid, ObjectKey, StoreError,
    bucket::{Attached, ETag, ObjectRecord, TextMap},
    foreign::ForeignCid,
    root::TimeMs,
};
use serde::{Deserialize, Serialize};

use crate::{
    commit::empty_block,
    error::ServiceError,
    objects::record::{Maps, bare_record},
};

/// Name of the metadata that holds the state.
const STATE: &str = "pin";

/// Largest time that the key of a pin can tell, in milliseconds since 1970: 48 bits.
const TIME_MAX: TimeMs = (1 << 48) - 1;

/// Number of hex digits of a time, and of the random part of a request id.
const TIME_DIGITS: usize = 12;
const RANDOM_DIGITS: usize = 20;

/// Status of a pin, as the Pinning Service API names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PinStatus {
    /// It waits to be fetched, for the first time or again.
    #[default]
    Queued,
    /// It is being fetched.
    Pinning,
    /// All of it is here.
    Pinned,
    /// It is not fetched any more.
    Failed,
}

/// The state of a pin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PinState {
    /// Id of the request.
    pub id: String,
    /// The CID as the client wrote it.
    pub cid: String,
    /// Name that the client gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Addresses of peers that have the data.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<String>,
    /// Metadata of the client.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
    /// Addresses that were given to the client.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub delegates: Vec<String>,
    /// Time of the request, by the arbiter's clock. No two pins of an owner have the same.
    pub created_ms: TimeMs,
    /// Where it stands.
    pub status: PinStatus,
    /// Name of the master that fetches it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// Time at which that master last said so, by the arbiter's clock.
    pub touched_ms: TimeMs,
    /// Number of attempts that were begun.
    pub attempts: u32,
    /// Time before which nothing is tried, by the arbiter's clock.
    pub not_before_ms: TimeMs,
    /// Number of blocks that were fetched.
    pub blocks: u64,
    /// Their length in bytes.
    pub bytes: u64,
    /// Length of the index behind the blocks of the content, in bytes; 0 if there is no content.
    pub index_bytes: u64,
    /// What went wrong last.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
}

impl PinState {
    /// Returns the CID.
    ///
    /// # Errors
    /// [`ServiceError::Damaged`]: the state was not written by Fula.
    pub fn root(&self) -> Result<ForeignCid, ServiceError> {
        self.cid.parse().map_err(|_| malformed("its CID is none").into())
    }
}

fn malformed(why: &'static str) -> StoreError {
    StoreError::Malformed { what: "pin", why }
}

/// Returns the key of the pin that was made at a time. Newer pins have smaller keys.
pub(super) fn key_of_time(time: TimeMs) -> String {
    format!("{:0TIME_DIGITS$x}", TIME_MAX - time.min(TIME_MAX))
}

/// Returns the id of a pin that is made at a time.
pub(super) fn id_of(time: TimeMs, random: [u8; RANDOM_DIGITS / 2]) -> String {
    format!("{}{}", key_of_time(time), hex::encode(random))
}

/// Returns the key of the pin with an id; `None` for a text that is no id.
pub(super) fn key_of(id: &str) -> Option<ObjectKey> {
    let is_hex = id.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
    let is_id = id.len() == TIME_DIGITS + RANDOM_DIGITS && is_hex;
    is_id.then(|| ObjectKey::parse(id[..TIME_DIGITS].to_owned()).ok())?
}

/// Makes the record of a pin with this content and its length. Without content, it has none yet. Returns blocks that
/// are stored with the commit.
pub(super) fn record_of(
    state: &PinState,
    content: Option<(Cid, u64)>,
) -> Result<(ObjectRecord, Vec<Block>), ServiceError> {
    let json = serde_json::to_string(state).map_err(ServiceError::bug)?;
    // The tag of the object changes with its state, so that a change can name the state that it is made from.
    let [etag @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] =
        *blake3::hash(json.as_bytes()).as_bytes();
    let (metadata, linked) = Attached::new(TextMap::from([(STATE.to_owned(), json)]));
    let mut blocks = Vec::from_iter(linked);
    let (cid, size) = content.unwrap_or_else(|| {
        let empty = empty_block();
        let cid = empty.cid();
        blocks.push(empty);
        (cid, 0)
    });
    let maps = Maps { metadata, ..Maps::default() };
    let (etag, content) = (ETag::Md5(etag), Some(cid));
    Ok((ObjectRecord { size, etag, content, ..bare_record(maps, None) }, blocks))
}

/// Reads the state out of the metadata of an object.
pub(super) fn state_of(metadata: &TextMap) -> Result<PinState, ServiceError> {
    let json = metadata.get(STATE).ok_or_else(|| malformed("it has no state"))?;
    Ok(serde_json::from_str(json).map_err(|_| malformed("its state cannot be read"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_pins_sort_first_and_ids_name_their_key() {
        let ids = [1_u64, 999, 1_700_000_000_000, TIME_MAX].map(|time| id_of(time, [7; 10]));
        assert!(ids.windows(2).all(|pair| pair[0] > pair[1]), "{ids:?}");
        assert_eq!(key_of(&ids[1]).unwrap().as_str(), key_of_time(999));
        for bad in
            ["", "x", &ids[0][1..], &ids[0].to_uppercase().replace('0', "G"), &"é".repeat(16)]
        {
            assert!(key_of(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_state_reads_back_and_other_states_have_other_tags() {
        let state = PinState {
            id: id_of(5, [1; 10]),
            cid: "QmZULkCELmmk5XNfCgTnCyFgAVxBRBXyDHGGMVoLFLiXEN".to_owned(),
            meta: [("k".to_owned(), "v".repeat(2000))].into(),
            ..PinState::default()
        };
        let (record, blocks) = record_of(&state, None).unwrap();
        assert_eq!(
            (record.size, blocks.len()),
            (0, 2),
            "a block for the long state, and an empty one"
        );
        let Attached::Linked(_) = record.metadata else { panic!("it is long") };
        assert_eq!(state_of(&Attached::read_block(&blocks[0]).unwrap()).unwrap(), state);
        let other = PinState { attempts: 1, ..state.clone() };
        assert_ne!(record_of(&other, None).unwrap().0.etag, record.etag);
        assert!(state.root().is_ok() && state_of(&TextMap::new()).is_err());
    }
}
