//! Where the blocks of pins come from: the RPC of a kubo, or an IPFS gateway. Neither is believed.

use std::time::Duration;

use bytes::Bytes;
use fula_core::foreign::{FOREIGN_BYTES_MAX, ForeignCid};
use reqwest::Method;

use crate::{
    config::FetchSource,
    pins::http::{Client, PATIENCE},
};

/// Longest time for one block. A kubo looks for it in the network meanwhile.
const BLOCK: Duration = Duration::from_secs(30);

/// Longest time for one connection to a peer that a client named.
const CONNECT: Duration = Duration::from_secs(5);

/// A source, as this process uses it.
#[derive(Clone, Debug)]
pub(super) struct Source {
    client: Client,
    is_kubo: bool,
}

impl Source {
    pub(super) fn new(source: &FetchSource) -> Result<Self, String> {
        let client = Client::new(&source.endpoint, source.token.as_ref())?;
        Ok(Self { client, is_kubo: source.is_kubo })
    }

    /// Returns a block that matches its CID, within the time that is left.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn block(&self, cid: ForeignCid, left: Duration) -> Result<Bytes, String> {
        let patience = left.min(BLOCK);
        let text = cid.to_string();
        let request = if self.is_kubo {
            let timeout = format!("{}ms", patience.as_millis());
            let query = [("arg", text.as_str()), ("timeout", timeout.as_str())];
            self.client.request(Method::POST, "api/v0/block/get", &query)
        } else {
            let path = format!("ipfs/{text}");
            let request = self.client.request(Method::GET, &path, &[("format", "raw")]);
            request.header("accept", "application/vnd.ipld.raw")
        };
        let bytes = self.client.fetch(request, patience, FOREIGN_BYTES_MAX).await;
        let bytes = bytes.map_err(|why| format!("{text}: {why}"))?;
        let checked = tokio::task::spawn_blocking(move || cid.matches(&bytes).then_some(bytes));
        match checked.await {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(format!("{text}: its bytes do not match this CID")),
            Err(_) => Err(format!("{text}: it could not be checked")),
        }
    }

    /// Connects the kubo with a peer that a client named, if it is one and can be reached.
    pub(super) async fn connect(&self, address: &str) {
        if self.is_kubo {
            let request =
                self.client.request(Method::POST, "api/v0/swarm/connect", &[("arg", address)]);
            drop(self.client.send(request, CONNECT).await);
        }
    }

    /// Returns the addresses at which other nodes reach the kubo; `None` for a gateway.
    ///
    /// # Errors
    /// Why it does not answer.
    pub(super) async fn addresses(&self) -> Result<Option<Vec<String>>, String> {
        if !self.is_kubo {
            return Ok(None);
        }
        let request = self.client.request(Method::POST, "api/v0/id", &[]);
        let found = self.client.send(request, PATIENCE).await?.success()?.json();
        let addresses = found["Addresses"].as_array().into_iter().flatten();
        let mut addresses: Vec<String> =
            addresses.filter_map(|address| address.as_str().map(str::to_owned)).collect();
        addresses.sort_by_key(|address| is_local(address));
        addresses.dedup();
        addresses.truncate(20);
        Ok(Some(addresses))
    }
}

/// Returns whether an address is of the machine itself. Those come last.
fn is_local(address: &str) -> bool {
    address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/")
}
