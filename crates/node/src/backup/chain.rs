//! The CAR files of a bucket as one: the header of the last root, and the blocks of all of them.

use bytes::{Buf, Bytes, BytesMut};
use fula_core::{Cid, car};
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    manifest::{Bucket, Volume},
    place::{Place, Read},
};

/// Returns the content of volumes, one after another.
pub(crate) fn read_volumes(place: &Place, volumes: &[Volume]) -> Read {
    let (place, volumes) = (place.clone(), volumes.to_vec());
    let read = stream::iter(volumes).then(move |volume| {
        let place = place.clone();
        async move { place.volume(&volume).await }
    });
    read.try_flatten().boxed()
}

/// Returns everything of a bucket as one CAR file.
///
/// # Errors
/// The reason why the manifest names no root.
pub(crate) fn stream_of(place: &Place, bucket: &Bucket) -> Result<Read, String> {
    let root: Cid = bucket.root.parse().map_err(|_| {
        format!(
            "the manifest of the backup is damaged: the root of bucket {} is no CID",
            bucket.name
        )
    })?;
    let begin = stream::iter([Ok(car::header(&[root]))]);
    let bodies: Vec<Read> =
        bucket.cars.iter().map(|file| without_header(read_volumes(place, &file.volumes))).collect();
    Ok(begin.chain(stream::iter(bodies).flatten()).boxed())
}

/// Leaves the header of a CAR file out.
fn without_header(file: Read) -> Read {
    let state = (file, BytesMut::new(), None::<u64>);
    let pieces = stream::try_unfold(state, |(mut file, mut begin, mut left)| async move {
        loop {
            let Some(mut piece) = file.try_next().await? else {
                return match left {
                    Some(0) => Ok(None),
                    _ => Err("a file of the backup ends within its header".to_owned()),
                };
            };
            if left.is_none() {
                begin.extend_from_slice(&piece);
                piece = Bytes::new();
                let header = car::header_bytes(&begin);
                left = header.map_err(|error| format!("a file of the backup: {error}"))?;
                if left.is_some() {
                    piece = begin.split().freeze();
                }
            }
            if let Some(header) = &mut left {
                let skipped = usize::try_from(*header).unwrap_or(usize::MAX).min(piece.len());
                piece.advance(skipped);
                *header -= skipped as u64;
                if !piece.is_empty() {
                    return Ok(Some((piece, (file, begin, left))));
                }
            }
        }
    });
    pieces.boxed()
}

#[cfg(test)]
mod tests {
    use fula_core::Codec;

    use super::*;

    #[tokio::test]
    async fn headers_are_left_out_wherever_the_pieces_end() {
        let cid = Cid::of(Codec::Raw, b"x");
        let mut file = BytesMut::from(car::header(&[cid]));
        car::put_section(&mut file, &cid, b"x");
        let body = file[car::header(&[cid]).len()..].to_vec();
        for step in [1, 2, 7, 59, 60, 200] {
            let pieces: Vec<Result<Bytes, String>> =
                file.chunks(step).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            let read: Vec<Bytes> =
                without_header(stream::iter(pieces).boxed()).try_collect().await.unwrap();
            assert_eq!(read.concat(), body, "{step}");
        }
        let cut: Vec<Result<Bytes, String>> = vec![Ok(Bytes::copy_from_slice(&file[..10]))];
        let read: Result<Vec<Bytes>, _> =
            without_header(stream::iter(cut).boxed()).try_collect().await;
        assert!(read.is_err());
    }
}
