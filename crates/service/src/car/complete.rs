//! Checks the files of a bucket without storing them: every block matches its address, and every link leads to a
//! block of the files.

use std::collections::{HashMap, HashSet};

use fula_core::{Cid, Codec};

use super::{blocks::VerifiedCar, check::part_of, fault::ImportError};
use crate::admin::fsck::links;

/// A link whose block has not come yet.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    cid: Cid,
    parent: Cid,
    /// Offset of the parent in its file.
    offset: u64,
}

/// Files of one bucket that are being checked. It needs some 20 bytes of memory for each block.
#[derive(Debug, Default)]
pub struct CarCheck {
    reader: VerifiedCar,
    present: HashSet<[u8; 16]>,
    wanted: HashMap<[u8; 16], Wanted>,
}

impl CarCheck {
    /// Takes in the next bytes of a file.
    ///
    /// # Errors
    /// [`ImportError`]: the file is damaged.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ImportError> {
        self.reader.push(bytes);
        while let Some((offset, block)) = self.reader.next_block()? {
            let cid = block.cid();
            self.wanted.remove(&part_of(&cid));
            if !self.present.insert(part_of(&cid)) {
                continue;
            }
            let linked = links(&cid, &block);
            for to in linked.map_err(|why| ImportError::Malformed { offset, cid, why })? {
                if !self.present.contains(&part_of(&to)) {
                    let wanted = Wanted { cid: to, parent: cid, offset };
                    self.wanted.entry(part_of(&to)).or_insert(wanted);
                }
            }
        }
        Ok(())
    }

    /// Ends a file, whose root must be this one. Its block may be in an earlier file.
    ///
    /// # Errors
    /// [`ImportError`].
    pub fn end_file(&mut self, root: Cid) -> Result<(), ImportError> {
        std::mem::take(&mut self.reader).end(Some(root))?;
        if self.present.contains(&part_of(&root)) { Ok(()) } else { Err(ImportError::NoRoot(root)) }
    }

    /// Ends the check. Returns the number of blocks. With `without_mapped`, leaves may be missing, because storage
    /// nodes hold them.
    ///
    /// # Errors
    /// [`ImportError::Lacks`].
    pub fn finish(self, without_mapped: bool) -> Result<u64, ImportError> {
        let may_lack = |cid: &Cid| without_mapped && cid.codec() == Codec::Raw;
        let lacking = self.wanted.values().filter(|wanted| !may_lack(&wanted.cid));
        match lacking.min_by_key(|wanted| wanted.offset) {
            Some(&Wanted { cid, parent, offset }) => {
                Err(ImportError::Lacks { offset, cid, parent })
            }
            None => Ok(self.present.len() as u64),
        }
    }
}
