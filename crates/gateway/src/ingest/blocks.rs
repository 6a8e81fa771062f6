//! Blocks in and out: one at a time, and many as a CAR file.

use std::sync::Arc;

use bytes::Bytes;
use fula_core::{
    Block, Cid, OwnerId, StoreError,
    block::SyncMark,
    car::{CarError, CarReader},
};
use fula_ingest::{
    Ticket,
    holds::{BATCH_BLOCKS_MAX, Hold, charge_of},
    intake::{Intake, Put},
    node::{Reservation, Stored},
};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use s3s::Body;
use tokio::task::JoinHandle;

use super::{
    Client, IngestRoutes, Sender, Turn,
    answer::{Answer, Refused, json, json_with_blocks, listed},
    body, cid_of, not_signed,
};
use crate::request::query_value;

/// Header with the receipt.
const RECEIPT: HeaderName = HeaderName::from_static("x-fula-receipt");

/// Header with the time at which the lease ends, in milliseconds since 1970.
const LEASE: HeaderName = HeaderName::from_static("x-fula-lease");

/// Largest CAR file in bytes.
pub(super) const CAR_BYTES_MAX: u64 = 64 << 20;

/// Bytes of blocks of a CAR file that are put together.
const GROUP_BYTES: usize = 512 << 10;

/// Memory of a CAR file on its way, in bytes: a group that arrives, one that is written, and a section.
const CAR_MEMORY: usize = 2 << 20;

/// Media type of a CAR file.
const CAR: &str = "application/vnd.ipld.car";

/// Media type of a single block.
const RAW: &str = "application/vnd.ipld.raw";

/// Bytes that are charged until this is dropped, unless they are kept.
pub(super) struct Charged<'a> {
    routes: &'a IngestRoutes,
    ticket: Option<Arc<Ticket>>,
    bytes: u64,
    /// The reservation ends when the hold has taken its place.
    _reserved: Reservation,
}

impl Charged<'_> {
    /// Leaves the bytes charged to the ticket.
    pub(super) fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Charged<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = &self.ticket {
            self.routes.0.tickets.give_back(ticket, self.bytes);
        }
    }
}

impl IngestRoutes {
    /// Charges blocks of these lengths to the quota of the owner and to the ticket. The quota charges a short
    /// block as much as its hold costs.
    pub(super) fn charge(
        &self,
        client: &Client,
        sizes: impl Iterator<Item = usize> + Clone,
    ) -> Result<Charged<'_>, Refused> {
        let charge = |size| charge_of(u32::try_from(size).unwrap_or(u32::MAX));
        let bytes = sizes.map(charge).sum();
        let reserved = self.0.node.reserve(client.owner, bytes)?;
        let fits = client
            .ticket
            .as_ref()
            .is_none_or(|ticket| self.0.tickets.charge(ticket, bytes, self.0.node.now()));
        if !fits {
            let text = "the ticket is used up; get another one from a master";
            return Err(Refused::new(StatusCode::PAYMENT_REQUIRED, text));
        }
        Ok(Charged { routes: self, ticket: client.ticket.clone(), bytes, _reserved: reserved })
    }

    /// Returns the client that sends blocks.
    fn sender_of(&self, request: &Request<Body>) -> Result<Client, Refused> {
        let client = self.client(request)?;
        if client.may_send {
            return Ok(client);
        }
        let text = "the scope of the token does not allow to write";
        Err(Refused::new(StatusCode::FORBIDDEN, text))
    }

    /// Answers `PUT /v0/block?cid=`.
    pub(super) async fn put_block(&self, request: Request<Body>) -> Answer {
        let client = self.sender_of(&request)?;
        let cid = cid_of(&request)?;
        let length = body::block_length(request.headers())?;
        let charged = self.charge(&client, std::iter::once(length))?;
        let turn = self.turn(length).await?;
        let block = body::block(request.into_body(), cid, length).await?;
        let mut intake = self.0.node.intake(client.owner);
        intake.add(vec![block]).await?;
        // The body is not needed while the disk is waited for.
        drop(turn.memory);
        let stored = intake.finish().await?;
        charged.keep();
        let mut answer = self.stored(&stored);
        answer["cid"] = cid.to_string().into();
        answer["size"] = length.into();
        let mut response = json(StatusCode::OK, &answer);
        if let Ok(receipt) = HeaderValue::from_str(&stored.receipt) {
            response.headers_mut().insert(RECEIPT, receipt);
        }
        Ok(response)
    }

    /// Returns the fields that tell of a receipt.
    pub(super) fn stored(&self, stored: &Stored) -> serde_json::Value {
        serde_json::json!({
            "lease": stored.until,
            "node": self.0.node.id().to_string(),
            "disk": self.0.node.disk().to_string(),
            "receipt": stored.receipt,
        })
    }

    /// Answers `GET /v0/block?cid=` and `HEAD`. A client reads what it holds; a master reads what the owner holds
    /// whose record places the block here.
    pub(super) async fn get_block(&self, request: Request<Body>) -> Answer {
        let sender = match self.master(&request)? {
            // The request has no body, so its hash is that of nothing.
            Some(master) => master.sent(b"").map(|_| Sender::Master).map_err(not_signed)?,
            None => Sender::Client(self.client(&request)?),
        };
        let cid = cid_of(&request)?;
        let (owner, is_master) = match sender {
            Sender::Master => (owner_of(&request)?, true),
            Sender::Client(client) if client.may_read => (client.owner, false),
            Sender::Client(Client { ticket: Some(_), .. }) => {
                let text = "a ticket sends blocks and reads none; read the object at a master";
                return Err(Refused::new(StatusCode::FORBIDDEN, text));
            }
            Sender::Client(_) => {
                let text = "a token reads blocks only if it may read all of the account";
                return Err(Refused::new(StatusCode::FORBIDDEN, text));
            }
        };
        // The holds decide before the store is asked.
        let absent = || Refused::new(StatusCode::NOT_FOUND, "you hold no such block here");
        let hold = self.0.node.hold(owner, &cid).ok_or_else(absent)?;
        let mut response =
            if is_master { Response::new(Body::empty()) } else { self.head(owner, cid, hold) };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(RAW));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(hold.size));
        if request.method() != Method::HEAD {
            let block = self.0.node.get(owner, &cid).await;
            let block = block.map_err(|error| Refused::from_store(&error))?.ok_or_else(absent)?;
            *response.body_mut() = Body::from(block.bytes().clone());
        }
        Ok(response)
    }

    /// Returns the headers that tell an owner of its hold.
    fn head(&self, owner: OwnerId, cid: Cid, hold: Hold) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(RAW));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(hold.size));
        headers.insert(LEASE, HeaderValue::from(hold.until));
        if let Some(stored) = self.0.node.have(owner, &[cid])
            && let Ok(receipt) = HeaderValue::from_str(&stored.receipt)
        {
            headers.insert(RECEIPT, receipt);
        }
        response
    }

    /// Answers `POST /v0/blocks`.
    pub(super) async fn put_blocks(&self, request: Request<Body>) -> Answer {
        let client = self.sender_of(&request)?;
        let kind = request.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or(CAR);
        if kind.split(';').next().map(str::trim) != Some(CAR) {
            let text = format!("send a CAR file of version 1 as {CAR}");
            return Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, &text));
        }
        if body::length_of(request.headers()).is_some_and(|length| length > CAR_BYTES_MAX) {
            return Err(car_too_large());
        }
        let turn = self.turn(CAR_MEMORY).await?;
        let mut upload = CarUpload {
            routes: self,
            turn,
            writing: None,
            intake: self.0.node.intake(client.owner),
            client,
            charged: Vec::new(),
            group: Vec::new(),
            group_bytes: 0,
            bad: None,
        };
        let read = upload.read(request.into_body()).await;
        upload.finish(read).await
    }
}

fn car_too_large() -> Refused {
    let text = format!("a CAR file has at most 64 MiB and {BATCH_BLOCKS_MAX} blocks");
    Refused::new(StatusCode::PAYLOAD_TOO_LARGE, &text)
}

/// Returns the owner on whose behalf a master reads.
fn owner_of(request: &Request<Body>) -> Result<OwnerId, Refused> {
    let owner = query_value(request.uri(), "owner").and_then(|owner| owner.parse().ok());
    let text = "a master names the owner that holds the block: &owner= and 32 hex digits";
    owner.ok_or_else(|| Refused::new(StatusCode::BAD_REQUEST, text))
}

/// A CAR file on its way in. It holds one group of blocks and one section in memory.
struct CarUpload<'a> {
    routes: &'a IngestRoutes,
    turn: Turn,
    /// The group before, which is written while this one arrives.
    writing: Option<(Put, JoinHandle<Result<SyncMark, StoreError>>)>,
    intake: Intake,
    client: Client,
    charged: Vec<Charged<'a>>,
    group: Vec<Block>,
    group_bytes: usize,
    /// The block that does not match its CID.
    bad: Option<Cid>,
}

impl CarUpload<'_> {
    async fn read(&mut self, mut body: Body) -> Result<(), Refused> {
        let (mut reader, mut received) = (CarReader::default(), 0_u64);
        while let Some(bytes) = body::next(&mut body).await? {
            received += bytes.len() as u64;
            if received > CAR_BYTES_MAX {
                return Err(car_too_large());
            }
            reader.push(&bytes);
            while let Some((cid, bytes)) = reader.next_block().map_err(car_refused)? {
                self.take(cid, bytes).await?;
            }
        }
        reader.end().map_err(car_refused)
    }

    async fn take(&mut self, cid: Cid, bytes: Bytes) -> Result<(), Refused> {
        if cid.codec() == fula_core::Codec::DagCbor {
            return Err(car_refused(CarError::Section));
        }
        if self.intake.count() + self.group.len() >= BATCH_BLOCKS_MAX {
            return Err(car_too_large());
        }
        self.group_bytes += bytes.len();
        let block = body::verify(cid, bytes).inspect_err(|_| self.bad = Some(cid))?;
        self.group.push(block);
        if self.group_bytes >= GROUP_BYTES { self.put().await } else { Ok(()) }
    }

    /// Begins to write the blocks of the group, once the group before is written.
    async fn put(&mut self) -> Result<(), Refused> {
        self.written().await?;
        let group = std::mem::take(&mut self.group);
        let sizes = group.iter().map(|block| block.bytes().len());
        self.group_bytes = 0;
        if group.is_empty() {
            return Ok(());
        }
        self.charged.push(self.routes.charge(&self.client, sizes)?);
        let (put, writing) = self.intake.start(group)?;
        self.writing = Some((put, tokio::spawn(writing)));
        Ok(())
    }

    /// Waits until the group before is written.
    async fn written(&mut self) -> Result<(), Refused> {
        let Some((put, writing)) = self.writing.take() else { return Ok(()) };
        let mark = writing.await.map_err(|_| Refused::busy("the node is stopping"))?;
        self.intake.note(put, mark.map_err(|error| Refused::from_store(&error))?);
        Ok(())
    }

    /// Makes durable what came before the end or the fault, and answers which blocks that are.
    async fn finish(mut self, read: Result<(), Refused>) -> Answer {
        let put = match self.put().await {
            Ok(()) => self.written().await,
            Err(refused) => Err(refused),
        };
        let read = match (put, read) {
            (Err(refused), Ok(())) => Err(refused),
            (_, read) => read,
        };
        // The blocks are not needed while the disk is waited for.
        drop(self.turn.memory);
        let (mut answer, mut blocks) = (serde_json::json!({}), Vec::new());
        if !self.intake.blocks().is_empty() {
            let stored = self.intake.finish().await?;
            self.charged.into_iter().for_each(Charged::keep);
            answer = self.routes.stored(&stored);
            blocks = stored.blocks;
        }
        match read {
            Ok(()) => Ok(json_with_blocks(&answer, &blocks)),
            Err(refused) => {
                answer["stored"] = listed(&blocks);
                answer["bad"] = self.bad.map(|cid| cid.to_string()).into();
                Err(refused.with(answer))
            }
        }
    }
}

fn car_refused(error: CarError) -> Refused {
    let status = match error {
        CarError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        CarError::Header | CarError::Section | CarError::CutOff => StatusCode::BAD_REQUEST,
    };
    Refused::new(status, &error.to_string())
}
