//! Checks the settings of the Pinning Service API.

use std::time::Duration;

use super::{ConfigError, Token};
use crate::{
    cli::{Endpoint, PsaSettings},
    files::FileError,
};

/// Largest number of delegates, by the specification.
const DELEGATES_MAX: usize = 20;

/// Where blocks are fetched from.
#[derive(Clone, Debug)]
pub(crate) struct FetchSource {
    /// Whether it is the RPC of a kubo; else it is an IPFS gateway.
    pub(crate) is_kubo: bool,
    pub(crate) endpoint: Endpoint,
    pub(crate) token: Option<Token>,
}

/// How pins of users are fetched, and within which bounds.
#[derive(Clone, Debug)]
pub(crate) struct PsaConfig {
    /// Sources in the order in which they are asked.
    pub(crate) sources: Vec<FetchSource>,
    /// Addresses for clients; empty for those of the kubo.
    pub(crate) delegates: Vec<String>,
    /// Most bytes of one pin.
    pub(crate) bytes_max: u64,
    /// Most blocks of one pin.
    pub(crate) blocks_max: u64,
    /// Time after which a pin has failed.
    pub(crate) time_max: Duration,
    /// Number of pins that are fetched at a time.
    pub(crate) fetches: usize,
    /// Most pins of one owner.
    pub(crate) pins_max: u64,
}

impl PsaConfig {
    /// Checks that the settings are valid. Returns `None` if there is no source.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub(super) fn check(settings: &PsaSettings) -> Result<Option<Self>, ConfigError> {
        let mut sources = Vec::new();
        let text = settings.psa.as_deref().unwrap_or_default();
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        for (n, item) in items.enumerate() {
            let expected =
                "it is kubo:URL or gateway:URL, with a token file after # if one is needed";
            // The value is not repeated: a URL may hold a password by mistake.
            let wrong = || ConfigError::Value {
                name: "--psa",
                value: format!("entry {}", n + 1),
                expected,
            };
            let (kind, url) = item.split_once(':').ok_or_else(wrong)?;
            let is_kubo = match kind {
                "kubo" => true,
                "gateway" => false,
                _ => return Err(wrong()),
            };
            let endpoint: Endpoint = url.parse().map_err(|_| wrong())?;
            let token = endpoint.token_file.as_deref().map(Token::read).transpose();
            let token = token.map_err(FileError::of_setting("--psa (FULA_PSA)"))?;
            sources.push(FetchSource { is_kubo, endpoint, token });
        }
        if sources.is_empty() {
            return Ok(None);
        }
        let delegates = settings.psa_delegates.as_deref().unwrap_or_default();
        let delegates = delegates.split(',').map(str::trim).filter(|item| !item.is_empty());
        let delegates: Vec<String> = delegates.map(str::to_owned).collect();
        let is_address = |item: &String| item.starts_with('/') && item.contains("/p2p/");
        if delegates.len() > DELEGATES_MAX || !delegates.iter().all(is_address) {
            return Err(ConfigError::Value {
                name: "--psa-delegates",
                value: settings.psa_delegates.clone().unwrap_or_default(),
                expected: "it is a list of at most 20 multiaddrs that end with /p2p/PEER",
            });
        }
        if delegates.is_empty() && !sources.iter().any(|source| source.is_kubo) {
            let needed = "FULA_PSA_DELEGATES, or a kubo among its sources";
            return Err(ConfigError::Without("FULA_PSA", needed));
        }
        Ok(Some(Self {
            sources,
            delegates,
            bytes_max: settings.psa_bytes.0,
            blocks_max: settings.psa_blocks,
            time_max: settings.psa_time.0,
            fetches: usize::try_from(settings.psa_fetches).unwrap_or(1),
            pins_max: settings.psa_pins,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(psa: &str, delegates: &str) -> Result<Option<PsaConfig>, String> {
        let settings = PsaSettings {
            psa: Some(psa.to_owned()),
            psa_delegates: Some(delegates.to_owned()),
            psa_bytes: "1G".parse().unwrap(),
            psa_blocks: 10,
            psa_time: "1h".parse().unwrap(),
            psa_fetches: 4,
            psa_pins: 10,
        };
        PsaConfig::check(&settings).map_err(|error| error.to_string())
    }

    #[test]
    fn it_is_off_without_a_source() {
        assert!(check("", "").unwrap().is_none());
        let found = check("gateway:https://g, kubo:http://127.0.0.1:5001", "").unwrap().unwrap();
        assert_eq!(found.sources.iter().map(|s| s.is_kubo).collect::<Vec<_>>(), [false, true]);
        assert!(check("gateway:https://g", "/dns/x/tcp/1/p2p/Q").unwrap().is_some());
    }

    #[test]
    fn wrong_sources_and_delegates_are_refused() {
        for (psa, delegates, text) in [
            ("http://127.0.0.1:5001", "", "entry 1"),
            ("kubo:http://k,cluster:http://c", "", "entry 2"),
            ("kubo:ftp://secret@x", "", "kubo:URL"),
            ("kubo:http://k#/no/such/file", "", "/no/such/file"),
            ("kubo:http://k", "1.2.3.4", "multiaddrs"),
            ("gateway:https://g", "", "FULA_PSA_DELEGATES"),
        ] {
            let wrong = check(psa, delegates).unwrap_err();
            assert!(wrong.contains(text) && !wrong.contains("secret"), "{wrong}");
        }
    }
}
