//! The settings block, which links the block of each setting of a bucket.
//!
//! Each setting has a block of its own. Changing one leaves the others, and the size of the root, alone.

use std::collections::BTreeMap;

use super::object::{Attached, TextMap, write_map};
use crate::{
    block::{Block, BlockStore, require},
    cbor::{Invalid, Reader, Writer},
    error::StoreError,
    id::{Cid, Codec},
};

/// Settings of a bucket by name, e.g. `policy`. Each is a dag-cbor block of its own form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Address of the block of each setting, by name.
    pub blocks: BTreeMap<String, Cid>,
}

impl Settings {
    /// Encodes the settings as a block: `{name: link, …}`.
    pub fn to_block(&self) -> Block {
        let mut pairs: Vec<_> = self.blocks.iter().collect();
        pairs.sort_by_key(|(name, _)| (name.len(), name.as_bytes()));
        let mut out = Writer::with_capacity(64 * pairs.len() + 8);
        out.map(pairs.len());
        for (name, cid) in pairs {
            out.text(name).link(cid);
        }
        Block::new(Codec::DagCbor, out.finish())
    }

    /// Decodes a settings block.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] for anything else.
    pub fn from_block(block: &Block) -> Result<Self, StoreError> {
        let mut reader = Reader::new(block.bytes());
        let mut read = || {
            let mut names = reader.names()?;
            let blocks = (0..names.count())
                .map(|_| Ok((names.next(&mut reader)?.to_owned(), reader.link()?)))
                .collect::<Result<_, Invalid>>()?;
            reader.end()?;
            Ok(Self { blocks })
        };
        read().map_err(|invalid: Invalid| invalid.of("settings block"))
    }
}

/// Returns the block of a setting whose value is text.
pub fn text_block(text: &str) -> Block {
    let mut out = Writer::with_capacity(text.len() + 8);
    out.text(text);
    Block::new(Codec::DagCbor, out.finish())
}

/// Reads the setting `name`, whose value is text, of a bucket whose root links `settings`.
///
/// # Errors
/// [`StoreError`] when a block cannot be read; [`StoreError::Malformed`] when the value is not text.
pub async fn read_text(
    blocks: &dyn BlockStore,
    settings: Option<&Cid>,
    name: &'static str,
) -> Result<Option<String>, StoreError> {
    let Some(block) = read_block(blocks, settings, name).await? else { return Ok(None) };
    text_of(&block, name).map(Some)
}

/// Returns the text in the block of the setting `name`.
///
/// # Errors
/// [`StoreError::Malformed`] when the value is not text.
pub fn text_of(block: &Block, name: &'static str) -> Result<String, StoreError> {
    let mut reader = Reader::new(block.bytes());
    let mut read = || {
        let text = reader.text()?.to_owned();
        reader.end()?;
        Ok(text)
    };
    read().map_err(|invalid: Invalid| invalid.of(name))
}

/// Returns the block of a setting whose value is a map of texts.
pub fn map_block(map: &TextMap) -> Block {
    let mut out = Writer::with_capacity(256);
    write_map(map, &mut out);
    Block::new(Codec::DagCbor, out.finish())
}

/// Reads the setting `name`, whose value is a map of texts, of a bucket whose root links `settings`.
///
/// # Errors
/// [`StoreError`] when a block cannot be read; [`StoreError::Malformed`] when the value is no such map.
pub async fn read_map(
    blocks: &dyn BlockStore,
    settings: Option<&Cid>,
    name: &str,
) -> Result<Option<TextMap>, StoreError> {
    let Some(block) = read_block(blocks, settings, name).await? else { return Ok(None) };
    Attached::read_block(&block).map(Some)
}

/// Reads the block of a setting.
async fn read_block(
    blocks: &dyn BlockStore,
    settings: Option<&Cid>,
    name: &str,
) -> Result<Option<Block>, StoreError> {
    let Some(cid) = settings else { return Ok(None) };
    let settings = Settings::from_block(&require(blocks, cid).await?)?;
    let Some(cid) = settings.blocks.get(name) else { return Ok(None) };
    require(blocks, cid).await.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_round_trip_and_match_the_vector() {
        let link = |text: &str| Cid::of(Codec::DagCbor, text.as_bytes());
        let blocks = [("policy", "p"), ("cors", "c"), ("lifecycle", "l")];
        let blocks = blocks.map(|(name, text)| (name.to_owned(), link(text))).into();
        let settings = Settings { blocks };
        let block = settings.to_block();
        assert_eq!(Settings::from_block(&block).unwrap(), settings);
        assert_eq!(
            block.cid().to_string(),
            "bafyr4ibruw2oucsyxvtjf5ixrm2chtaw4upp47cxmhepgkkc77lqs6oyne"
        );
        assert_eq!(Settings::default().to_block().bytes().as_ref(), [0xa0]);
    }

    #[test]
    fn a_map_of_texts_round_trips_and_matches_the_vector() {
        let map = [("b", "2"), ("long", ""), ("a", "1")];
        let map: TextMap = map.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let block = map_block(&map);
        assert_eq!(Attached::read_block(&block).unwrap(), map);
        assert_eq!(hex::encode(block.bytes()), "a3616161316162613264 6c6f6e6760".replace(' ', ""));
    }

    #[test]
    fn anything_else_is_refused() {
        for bytes in [&[0x80][..], &[0xa1, 0x61, b'a', 0x01], &[0xa0, 0x00], &[]] {
            let block = Block::new(Codec::DagCbor, bytes.to_vec());
            assert!(Settings::from_block(&block).is_err(), "{bytes:?}");
        }
    }
}
