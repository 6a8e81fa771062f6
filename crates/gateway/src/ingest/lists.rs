//! Requests about lists of blocks, in JSON: presence, leases and pins; and the facts about a node.

use std::collections::HashSet;

use bytes::Bytes;
use fula_core::{Cid, OwnerId, block::BLOCK_BYTES_MAX};
use fula_ingest::{Receipt, holds::BATCH_BLOCKS_MAX, node::Stored, receipt::Subject};
use http::{Request, Response, StatusCode};
use s3s::Body;
use serde::Deserialize;

use super::{
    Client, IngestRoutes,
    answer::{Answer, Refused, json, json_with_blocks},
    blocks::CAR_BYTES_MAX,
    body, not_signed, parse_cid,
};

/// The body of a request about blocks.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// The blocks.
    #[serde(default)]
    cids: Vec<String>,
    /// Receipts of blocks.
    #[serde(default)]
    receipts: Vec<Shown>,
    /// The owner that a master asks for.
    owner: Option<String>,
}

/// A receipt of one block, or a receipt of several with the list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Shown {
    One(String),
    Many { receipt: String, blocks: Vec<(String, u32)> },
}

/// A request about blocks of an owner.
struct BlocksAsked {
    owner: OwnerId,
    cids: Vec<Cid>,
    is_master: bool,
    /// Whether the sender may begin and prolong holds.
    may_send: bool,
}

fn bad(text: &str) -> Refused {
    Refused::new(StatusCode::BAD_REQUEST, text)
}

impl IngestRoutes {
    /// Reads a request about blocks, which clients send for themselves and masters for an owner.
    async fn asked(&self, request: Request<Body>) -> Result<BlocksAsked, Refused> {
        let master = self.master(&request)?;
        let client = if master.is_some() { None } else { Some(self.client(&request)?) };
        let length = body::length_of(request.headers()).map_or(body::JSON_BYTES_MAX, |length| {
            usize::try_from(length).unwrap_or(usize::MAX).min(body::JSON_BYTES_MAX)
        });
        let _turn = self.turn(length).await?;
        let body = body::short(request.into_body()).await?;
        if let Some(master) = master {
            master.sent(&body).map_err(not_signed)?;
        }
        self.parse(client.as_ref(), &body)
    }

    /// Parses a request of a client, or of a master.
    fn parse(&self, client: Option<&Client>, body: &Bytes) -> Result<BlocksAsked, Refused> {
        let asked: Asked = serde_json::from_slice(body)
            .map_err(|error| bad(&format!("the body is malformed: {error}")))?;
        let owner = match (client, asked.owner) {
            (Some(client), None) => client.owner,
            (None, Some(owner)) => owner.parse().map_err(|_| bad("owner has 32 hex digits"))?,
            (Some(_), Some(_)) => return Err(bad("only a master names an owner")),
            (None, None) => return Err(bad("a master names an owner")),
        };
        if client.is_some_and(|client| !client.may_ask) && !asked.cids.is_empty() {
            let text =
                "this credential is for a part of the account: show the receipts of the blocks";
            return Err(Refused::new(StatusCode::FORBIDDEN, text));
        }
        let cid = |text: &String| {
            parse_cid(text).ok_or_else(|| bad(&format!("{text} is no CID of a block")))
        };
        let mut cids: Vec<Cid> = asked.cids.iter().map(cid).collect::<Result<_, _>>()?;
        for shown in &asked.receipts {
            cids.extend(self.blocks_of(shown, owner)?);
        }
        if cids.is_empty() || cids.len() > BATCH_BLOCKS_MAX {
            return Err(bad(&format!("name 1 to {BATCH_BLOCKS_MAX} blocks")));
        }
        let may_send = client.is_none_or(|client| client.may_send);
        Ok(BlocksAsked { owner, cids, is_master: client.is_none(), may_send })
    }

    /// Returns the blocks of a receipt of this node for `owner`.
    fn blocks_of(&self, shown: &Shown, owner: OwnerId) -> Result<Vec<Cid>, Refused> {
        let node = &self.0.node;
        let (Shown::One(text) | Shown::Many { receipt: text, .. }) = shown;
        let key = node.key().public();
        let receipt = Receipt::verify(text, |id| (id == node.id()).then_some(key));
        let receipt =
            receipt.map_err(|error| bad(&format!("a receipt is not accepted: {error}")))?;
        if receipt.owner != owner || receipt.disk != node.disk() {
            return Err(bad("a receipt is for another owner or another disk"));
        }
        match (shown, &receipt.subject) {
            (Shown::One(_), Subject::Block(cid)) => Ok(vec![*cid]),
            (Shown::One(_), Subject::List(_)) => {
                Err(bad("a receipt of several blocks needs their list"))
            }
            (Shown::Many { blocks, .. }, _) => {
                let blocks: Option<Vec<_>> =
                    blocks.iter().map(|(cid, size)| Some((parse_cid(cid)?, *size))).collect();
                let blocks = blocks.filter(|blocks| receipt.is_about(blocks));
                let blocks =
                    blocks.ok_or_else(|| bad("a receipt is not about the blocks of its list"))?;
                Ok(blocks.into_iter().map(|(cid, _)| cid).collect())
            }
        }
    }

    /// Returns an answer about the blocks that are there. `bitmap` has a digit for each block that was asked
    /// about. The blocks are listed if `is_listed`.
    fn found(&self, asked: &BlocksAsked, found: Option<Stored>, is_listed: bool) -> Response<Body> {
        let blocks = found.as_ref().map_or(&[][..], |found| &found.blocks);
        let there: HashSet<Cid> = blocks.iter().map(|(cid, _)| *cid).collect();
        let digit = |cid| if there.contains(cid) { '1' } else { '0' };
        let bitmap: String = asked.cids.iter().map(digit).collect();
        let stored = found.as_ref().map(|found| self.stored(found));
        let mut answer = stored.unwrap_or_else(|| serde_json::json!({}));
        answer["bitmap"] = bitmap.into();
        if is_listed { json_with_blocks(&answer, blocks) } else { json(StatusCode::OK, &answer) }
    }

    /// Answers `POST /v0/have`.
    pub(super) async fn have(&self, request: Request<Body>) -> Answer {
        let asked = self.asked(request).await?;
        Ok(self.found(&asked, self.0.node.have(asked.owner, &asked.cids), true))
    }

    /// Answers `POST /v0/lease`.
    pub(super) async fn lease(&self, request: Request<Body>) -> Answer {
        let asked = self.asked(request).await?;
        if !asked.may_send {
            let text = "the scope of the token does not allow to write";
            return Err(Refused::new(StatusCode::FORBIDDEN, text));
        }
        let prolonged = self.0.node.prolong(asked.owner, &asked.cids).await?;
        Ok(self.found(&asked, prolonged, true))
    }

    /// Answers `POST /v0/pin`.
    pub(super) async fn pin(&self, request: Request<Body>) -> Answer {
        let asked = self.asked(request).await?;
        if !asked.is_master {
            return Err(Refused::new(StatusCode::FORBIDDEN, "only masters pin"));
        }
        let pinned = self.0.node.pin(asked.owner, &asked.cids).await?;
        // A master knows the blocks that it has named.
        Ok(self.found(&asked, pinned, false))
    }

    /// Answers `GET /v0/info`.
    pub(super) fn info(&self) -> Response<Body> {
        let node = &self.0.node;
        json(
            StatusCode::OK,
            &serde_json::json!({
                "node": node.id().to_string(),
                "key": node.key().public().to_string(),
                "disk": node.disk().to_string(),
                "version": env!("CARGO_PKG_VERSION"),
                "leaseMs": node.limits().lease_ms,
                "blockBytesMax": BLOCK_BYTES_MAX,
                "carBytesMax": CAR_BYTES_MAX,
                "blocksMax": BATCH_BLOCKS_MAX,
            }),
        )
    }
}
