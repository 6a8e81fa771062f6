//! Bodies: one block, hashed while it arrives, and short bodies in JSON.

use bytes::{Bytes, BytesMut};
use fula_core::{Block, Cid, StoreError, block::BLOCK_BYTES_MAX};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use s3s::Body;

use super::answer::Refused;

/// Largest body in JSON: 1024 receipts with the block that each is about.
pub(super) const JSON_BYTES_MAX: usize = 1 << 20;

/// Returns the announced length of a body, if there is one.
pub(super) fn length_of(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Returns the announced length of a block.
pub(super) fn block_length(headers: &HeaderMap) -> Result<usize, Refused> {
    let text = "send the length of the block in Content-Length";
    let length =
        length_of(headers).ok_or_else(|| Refused::new(StatusCode::LENGTH_REQUIRED, text))?;
    match usize::try_from(length) {
        Ok(0) => Err(Refused::new(StatusCode::BAD_REQUEST, "the body is empty")),
        Ok(length) if length <= BLOCK_BYTES_MAX => Ok(length),
        _ => Err(too_large()),
    }
}

pub(super) fn too_large() -> Refused {
    Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "a block has at most 1 MiB")
}

/// Returns the refusal of a body that ended early, or whose sender went away.
pub(super) fn cut_off() -> Refused {
    Refused::new(StatusCode::BAD_REQUEST, "the body is cut off, or arrived too slowly")
}

/// Returns the next bytes of a body; `None` at its end.
pub(super) async fn next(body: &mut Body) -> Result<Option<Bytes>, Refused> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
            Some(Err(_)) => return Err(cut_off()),
        }
    }
}

/// Reads a block of `length` bytes, and checks that it is the one that `cid` names.
pub(super) async fn block(mut body: Body, cid: Cid, length: usize) -> Result<Block, Refused> {
    let mut bytes = BytesMut::with_capacity(length);
    while let Some(more) = next(&mut body).await? {
        if bytes.len() + more.len() > length {
            return Err(too_large());
        }
        bytes.extend_from_slice(&more);
    }
    if bytes.len() != length {
        return Err(cut_off());
    }
    verify(cid, bytes.freeze())
}

/// Checks that the bytes are those that `cid` names.
pub(super) fn verify(cid: Cid, bytes: Bytes) -> Result<Block, Refused> {
    Block::verify(cid, bytes).map_err(|error| match error {
        StoreError::Damaged { .. } => {
            let text = format!("the bytes do not hash to {cid}; nothing was stored");
            Refused::new(StatusCode::UNPROCESSABLE_ENTITY, &text)
        }
        other => Refused::from_store(&other),
    })
}

/// Reads a short body.
pub(super) async fn short(mut body: Body) -> Result<Bytes, Refused> {
    let mut bytes = BytesMut::new();
    while let Some(more) = next(&mut body).await? {
        if bytes.len() + more.len() > JSON_BYTES_MAX {
            return Err(Refused::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body is longer than 1 MiB",
            ));
        }
        bytes.extend_from_slice(&more);
    }
    Ok(bytes.freeze())
}
