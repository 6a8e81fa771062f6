//! The blocks of a file, verified as they come, and its root.

use fula_core::{Block, Cid, car::CarReader};

use super::fault::ImportError;

/// A file that is being read.
#[derive(Debug, Default)]
pub(super) struct VerifiedCar(CarReader);

impl VerifiedCar {
    /// Takes in the next bytes of the file.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.0.push(bytes);
    }

    /// Returns the next block, which matches its address, and its offset; `None` until more bytes arrive.
    ///
    /// # Errors
    /// [`ImportError::File`], [`ImportError::WrongHash`]. No later call succeeds.
    pub(super) fn next_block(&mut self) -> Result<Option<(u64, Block)>, ImportError> {
        let next = self.0.next_block();
        let offset = self.0.offset();
        let Some((cid, bytes)) = next.map_err(|error| ImportError::File { offset, error })? else {
            return Ok(None);
        };
        let block = Block::verify(cid, bytes);
        let block = block.map_err(|_| ImportError::WrongHash { offset, cid })?;
        Ok(Some((offset, block)))
    }

    /// Returns whether the header was read.
    pub(super) fn has_begun(&self) -> bool {
        self.0.roots().is_some()
    }

    /// Returns the root that the header names, which must be `wanted` if that is given.
    ///
    /// # Errors
    /// [`ImportError::Roots`], [`ImportError::OtherRoot`].
    pub(super) fn root(&self, wanted: Option<Cid>) -> Result<Cid, ImportError> {
        let found = match self.0.roots() {
            Some([root]) => *root,
            roots => return Err(ImportError::Roots(roots.map_or(0, <[Cid]>::len))),
        };
        match wanted {
            Some(wanted) if wanted != found => Err(ImportError::OtherRoot { found, wanted }),
            _ => Ok(found),
        }
    }

    /// Checks that the file ends here. Returns its root.
    ///
    /// # Errors
    /// [`ImportError::File`], and those of [`Self::root`].
    pub(super) fn end(&self, wanted: Option<Cid>) -> Result<Cid, ImportError> {
        let offset = self.0.offset();
        self.0.end().map_err(|error| ImportError::File { offset, error })?;
        self.root(wanted)
    }
}
