//! The bytes of a simulated file. A page that repeats one byte takes no memory, so that tests can fill
//! large disks.

/// Size of a page of the disk in bytes. Files take whole pages.
const PAGE_BYTES: usize = 4096;

#[derive(Clone, Debug)]
enum Page {
    Same(u8),
    Mixed(Box<[u8; PAGE_BYTES]>),
}

impl Page {
    fn read(&self, from: usize, buffer: &mut [u8]) {
        match self {
            Self::Same(byte) => buffer.fill(*byte),
            Self::Mixed(bytes) => buffer.copy_from_slice(&bytes[from..from + buffer.len()]),
        }
    }

    fn write(&mut self, from: usize, bytes: &[u8]) {
        let is_same = bytes.iter().all(|byte| *byte == bytes[0]);
        match self {
            _ if is_same && bytes.len() == PAGE_BYTES => *self = Self::Same(bytes[0]),
            Self::Same(byte) if is_same && *byte == bytes[0] => {}
            Self::Same(byte) => {
                let mut page = Box::new([*byte; PAGE_BYTES]);
                page[from..from + bytes.len()].copy_from_slice(bytes);
                *self = Self::Mixed(page);
            }
            Self::Mixed(page) => page[from..from + bytes.len()].copy_from_slice(bytes),
        }
    }
}

/// The content of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pages: Vec<Page>,
    len: usize,
}

impl Content {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns the space that a file of `len` bytes takes on the disk.
    pub(super) fn space(len: usize) -> u64 {
        len.next_multiple_of(PAGE_BYTES) as u64
    }

    /// Sets the length, and fills new bytes with zeros.
    pub(super) fn resize(&mut self, len: usize) {
        self.pages.resize(len.div_ceil(PAGE_BYTES), Page::Same(0));
        let rest = len % PAGE_BYTES;
        if len < self.len && rest > 0 {
            let last = self.pages.last_mut().expect("it has a page");
            last.write(rest, &[0; PAGE_BYTES][rest..]);
        }
        self.len = len;
    }

    /// Overwrites a part, which may reach beyond the end.
    pub(super) fn write(&mut self, mut offset: usize, mut bytes: &[u8]) {
        self.resize(self.len.max(offset + bytes.len()));
        while !bytes.is_empty() {
            let from = offset % PAGE_BYTES;
            let (part, rest) = bytes.split_at(bytes.len().min(PAGE_BYTES - from));
            self.pages[offset / PAGE_BYTES].write(from, part);
            offset += part.len();
            bytes = rest;
        }
    }

    /// Fills `buffer`. Returns false where the file is too short.
    pub(super) fn read(&self, mut offset: usize, mut buffer: &mut [u8]) -> bool {
        if offset + buffer.len() > self.len {
            return false;
        }
        while !buffer.is_empty() {
            let from = offset % PAGE_BYTES;
            let (part, rest) = buffer.split_at_mut(buffer.len().min(PAGE_BYTES - from));
            self.pages[offset / PAGE_BYTES].read(from, part);
            offset += part.len();
            buffer = rest;
        }
        true
    }
}
