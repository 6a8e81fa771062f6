//! Reads any bytes as a CAR file, in pieces. What is read depends on the bytes alone, and not on the pieces.
#![no_main]

use bytes::BytesMut;
use fula_core::{
    Cid, Codec,
    car::{self, CarError, CarReader},
};
use libfuzzer_sys::fuzz_target;

/// Returns a file of two blocks.
fn samples() -> [Vec<u8>; 1] {
    let blocks = [b"one".as_slice(), &[7; 300]];
    let mut file = BytesMut::from(&car::header(&[Cid::of(Codec::Raw, blocks[0])])[..]);
    for bytes in blocks {
        car::put_section(&mut file, &Cid::of(Codec::Raw, bytes), bytes);
    }
    [file.to_vec()]
}

/// Returns the blocks, the end, and the offset of the last section.
fn read(file: &[u8], step: usize) -> (Vec<(Cid, usize)>, Result<(), CarError>, u64) {
    let (mut reader, mut found) = (CarReader::default(), Vec::new());
    for piece in file.chunks(step) {
        reader.push(piece);
        loop {
            match reader.next_block() {
                Ok(Some((cid, bytes))) => found.push((cid, bytes.len())),
                Ok(None) => break,
                Err(error) => return (found, Err(error), reader.offset()),
            }
        }
    }
    let end = reader.end();
    (found, end, reader.offset())
}

fuzz_target!(|data: &[u8]| {
    let file = fula_fuzz::input(data, &samples());
    let whole = read(&file, file.len().max(1));
    assert!(whole.2 <= file.len() as u64, "an offset lies in the file");
    assert_eq!(read(&file, 1).0, whole.0);
    assert_eq!(read(&file, 7).1, whole.1);
});
