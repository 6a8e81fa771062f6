//! Files and folders that clients send.

use std::{
    fs,
    io::{self, BufWriter, Read, Write},
    path::Path,
};

/// Length in bytes of files of which the names count.
pub(super) const TINY: u64 = 64;

/// Number of files in each folder, where there are many.
pub(super) const IN_A_FOLDER: usize = 1000;

/// Returns the length of file number `n` of mixed ones: 26 750 bytes on average, so 2 000 have 53.5 MB.
pub(super) fn mixed(n: u64) -> u64 {
    [1_000, 5_000, 20_000, 81_000][usize::try_from(n % 4).unwrap_or(0)]
}

#[expect(clippy::cast_precision_loss, reason = "a figure to print")]
pub(super) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Bytes that do not repeat, so that nothing is stored once for many.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, out: &mut [u8]) {
        for piece in out.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            piece.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes()[..piece.len()]);
        }
    }
}

/// Makes a file of `mib` MiB. Each `seed` makes another one.
pub(super) fn large(path: &Path, mib: u64, seed: u64) -> io::Result<()> {
    let (mut out, mut noise) = (BufWriter::new(fs::File::create(path)?), Noise(seed << 40));
    let mut piece = vec![0; 1 << 20];
    for _ in 0..mib {
        noise.fill(&mut piece);
        out.write_all(&piece)?;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// Makes a folder of files with these lengths, `each` of them in a folder of its own. Returns all bytes.
pub(super) fn folder(path: &Path, sizes: &[u64], each: Option<usize>) -> io::Result<u64> {
    let mut noise = Noise(2);
    for (n, size) in sizes.iter().enumerate() {
        let within = each.map_or(path.to_owned(), |each| path.join(format!("d{:04}", n / each)));
        if n == 0 || each.is_some_and(|each| n % each == 0) {
            fs::create_dir_all(&within)?;
        }
        let mut bytes = vec![0; usize::try_from(*size).map_err(io::Error::other)?];
        noise.fill(&mut bytes);
        fs::write(within.join(format!("file {n:06}.bin")), bytes)?;
    }
    Ok(sizes.iter().sum())
}

/// Copies a folder.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, to) = (entry?, to.to_owned());
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

/// Checks that two files are the same.
pub(super) fn compare(one: &Path, two: &Path) -> io::Result<()> {
    let (mut left, mut right) = (fs::File::open(one)?, fs::File::open(two)?);
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let lengths = (left.metadata()?.len(), right.metadata()?.len());
    let mut rest = lengths.0;
    let mut is_same = lengths.0 == lengths.1;
    while is_same && rest > 0 {
        let len = usize::try_from(rest).unwrap_or(a.len()).min(a.len());
        left.read_exact(&mut a[..len])?;
        right.read_exact(&mut b[..len])?;
        is_same = a[..len] == b[..len];
        rest -= len as u64;
    }
    if is_same { Ok(()) } else { Err(io::Error::other("what came down is not what went up")) }
}
