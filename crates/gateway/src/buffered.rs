//! Buffered bodies: request bodies and answers that are held in memory as a whole. Their memory is counted,
//! so that clients which do not send or read them cannot use all of it (docs/adr/0021, docs/adr/0034).

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use fula_service::{ConnectionCloser, MemoryBudget, MemoryPermit, Service};
use http::{Extensions, Response, request::Parts};
use http_body::Body as _;
use http_body_util::BodyExt;
use parking_lot::{Mutex, MutexGuard};
use s3s::{Body, S3Result, s3_error};

use crate::{
    error::{busy, respond, s3_error, too_large},
    guard,
    limit::network,
    query::Kind,
    request::Peer,
    request_body::Lent,
    signature::chunks::is_forged,
};

/// Memory that is reserved for a page of names before it is made, in bytes. A thousand names need a third
/// of it, unless they are long.
const PAGE_BYTES: usize = 1 << 20;

/// One address may use the memory for unauthenticated bodies divided by this.
const ADDRESS_PART: usize = 16;

/// Counts buffered bodies. Clones share one state.
#[derive(Clone, Debug)]
pub(crate) struct BufferedBodies {
    /// Budget for requests whose sender is authenticated.
    bodies: MemoryBudget,
    /// Budget for requests whose body is read before the sender is authenticated.
    unauthenticated: MemoryBudget,
    addresses: Arc<AddressShares>,
    /// Longest time that receiving a body may take in all.
    timeout: Duration,
}

impl BufferedBodies {
    pub(crate) fn new(service: &Service, timeout: Duration) -> Self {
        let (bodies, unauthenticated) =
            (service.body_budget().clone(), service.unauthenticated_budget().clone());
        let bytes_max = unauthenticated.bytes() / ADDRESS_PART;
        let addresses = Arc::new(AddressShares { held: Mutex::default(), bytes_max });
        Self { bodies, unauthenticated, addresses, timeout }
    }

    /// Reads the whole body of an authenticated sender, and checks it against the digests in its headers.
    /// Its memory is counted until the request is answered.
    pub(crate) async fn checked(
        &self,
        parts: &Parts,
        body: Body,
        kind: Kind,
        bytes_max: usize,
        lent: &Lent,
    ) -> S3Result<Bytes> {
        if body.is_end_stream() {
            guard::check_hash(&parts.headers, &Bytes::new())?;
            return Ok(Bytes::new());
        }
        let closer = parts.extensions.get::<ConnectionCloser>();
        let read = collect(&self.bodies, body, bytes_max, closer, self.timeout);
        let (bytes, share) = read.await?;
        guard::check_whole(&parts.headers, &bytes, kind, parts.extensions.get())?;
        lent.keep(share);
        Ok(bytes)
    }

    /// Reads a whole body of up to `bytes_max` bytes whose sender is not authenticated yet. All such bodies
    /// share a budget, of which each address may use a part.
    pub(crate) async fn unauthenticated(
        &self,
        parts: &Parts,
        body: Body,
        bytes_max: usize,
    ) -> S3Result<(Bytes, MemoryPermit, AddressShare)> {
        let address = parts.extensions.get::<Peer>().map(|peer| network(peer.address));
        let share = AddressShares::take(&self.addresses, address, bytes_max);
        let share = share.ok_or_else(|| busy(fula_service::Applied::None))?;
        let closer = parts.extensions.get::<ConnectionCloser>();
        let read = collect(&self.unauthenticated, body, bytes_max, closer, self.timeout);
        let (bytes, memory) = read.await?;
        Ok((bytes, memory, share))
    }

    /// Reserves memory for a page of names.
    pub(crate) async fn page(&self, extensions: &Extensions) -> S3Result<MemoryPermit> {
        let share = self.bodies.take(PAGE_BYTES, extensions.get::<ConnectionCloser>()).await;
        let share = share.map_err(s3_error)?;
        share.pause_stall_timer();
        Ok(share)
    }
}

/// Reads a whole body, and reserves memory as the bytes arrive.
async fn collect(
    memory: &MemoryBudget,
    mut body: Body,
    bytes_max: usize,
    closer: Option<&ConnectionCloser>,
    timeout: Duration,
) -> S3Result<(Bytes, MemoryPermit)> {
    let read = async {
        let mut share = memory.take(0, closer).await.map_err(s3_error)?;
        let mut all = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                let is_forged = is_forged(&error);
                if is_forged { s3_error!(SignatureDoesNotMatch) } else { s3_error!(IncompleteBody) }
            })?;
            let Ok(data) = frame.into_data() else { continue };
            let length = all.len() + data.len();
            if length > bytes_max {
                return Err(too_large(bytes_max));
            }
            if length > all.capacity() {
                let capacity = length.next_power_of_two().min(bytes_max);
                memory.grow(&mut share, capacity, closer).await.map_err(s3_error)?;
                all.reserve_exact(capacity - all.len());
            }
            share.moved(data.len());
            all.extend_from_slice(&data);
        }
        share.pause_stall_timer();
        Ok((Bytes::from(all), share))
    };
    let read = tokio::time::timeout(timeout, read).await;
    read.unwrap_or_else(|_| Err(s3_error!(RequestTimeout)))
}

/// The memory that each address uses of the budget for unauthenticated bodies.
#[derive(Debug)]
struct AddressShares {
    held: Mutex<HashMap<IpAddr, usize>>,
    bytes_max: usize,
}

impl AddressShares {
    fn held(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.held.lock()
    }

    /// Returns a share of `bytes` bytes; `None` when the address uses too much already.
    fn take(shares: &Arc<Self>, address: Option<IpAddr>, bytes: usize) -> Option<AddressShare> {
        let Some(address) = address else { return Some(AddressShare(None)) };
        let mut held = shares.held();
        let of_address = held.entry(address).or_default();
        // The first one always fits.
        if *of_address > 0 && *of_address + bytes > shares.bytes_max {
            return None;
        }
        *of_address += bytes;
        Some(AddressShare(Some((Arc::clone(shares), address, bytes))))
    }
}

/// The share of one request of an address. It is released when this is dropped.
#[derive(Debug)]
pub(crate) struct AddressShare(Option<(Arc<AddressShares>, IpAddr, usize)>);

impl Drop for AddressShare {
    fn drop(&mut self) {
        let Some((shares, address, bytes)) = self.0.take() else { return };
        let mut held = shares.held();
        if let Some(of_address) = held.get_mut(&address) {
            *of_address -= bytes;
            if *of_address == 0 {
                held.remove(&address);
            }
        }
    }
}

/// Counts a buffered answer until it is sent. One that needs too much memory is replaced by an error,
/// unless it reports what a change has done.
pub(crate) fn send(
    mut response: Response<Body>,
    share: MemoryPermit,
    is_change: bool,
) -> Response<Body> {
    if let Some(bytes) = response.body().bytes() {
        match share.send(bytes.clone()) {
            Ok(counted) => *response.body_mut() = Body::from(counted),
            Err(_) if is_change => {}
            Err(error) => return respond(s3_error(error)),
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_a_part_of_the_memory_for_unauthenticated_bodies() {
        let shares = Arc::new(AddressShares { held: Mutex::default(), bytes_max: 100 });
        let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let take = |from, bytes| AddressShares::take(&shares, from, bytes);
        let first = take(address("192.0.2.1"), 60).unwrap();
        assert!(take(address("192.0.2.1"), 60).is_none());
        let _second = take(address("192.0.2.1"), 40).unwrap();
        let large = take(address("192.0.2.2"), 600).unwrap();
        assert!(take(address("192.0.2.2"), 1).is_none());
        drop((first, large));
        assert!(take(address("192.0.2.1"), 60).is_some());
        assert_eq!(
            shares.held().keys().copied().collect::<Vec<_>>(),
            [address("192.0.2.1").unwrap()]
        );
    }
}
