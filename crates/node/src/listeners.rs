//! Binds the addresses that a gateway serves on.
//!
//! The addresses are bound before anything is created or opened, so that a start which fails because an
//! address is in use leaves nothing behind. The gateway accepts connections later. Until then the operating
//! system refuses clients, so that they do not wait.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use fula_core::error::io_text;
use tokio::net::{TcpListener, TcpSocket};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// An address that cannot be bound or listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {reason}; {cure} ({setting})", reason = io_text(error))]
pub(crate) struct ListenError {
    address: SocketAddr,
    /// Flag and environment variable that name the address.
    setting: &'static str,
    /// What the operator does about it.
    cure: &'static str,
    error: io::Error,
}

/// An address that is bound, and not listened on yet.
#[derive(Debug)]
pub(crate) struct Taken {
    socket: TcpSocket,
    address: SocketAddr,
    setting: &'static str,
}

impl Taken {
    /// Binds an address. `setting` is the flag and the variable that name it.
    ///
    /// # Errors
    /// [`ListenError`]: the address is in use, not allowed, or not one of this machine.
    pub(crate) fn take(address: SocketAddr, setting: &'static str) -> Result<Self, ListenError> {
        let take = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // Old connections of an earlier process must not block the address.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        };
        let socket = take().map_err(|error| refused(address, setting, error))?;
        Ok(Self { socket, address, setting })
    }

    /// Starts to accept connections.
    ///
    /// # Errors
    /// [`ListenError`]: another process took the address at the same moment.
    pub(crate) fn listen(self) -> Result<TcpListener, ListenError> {
        let Self { socket, address, setting } = self;
        socket.listen(BACKLOG).map_err(|error| refused(address, setting, error))
    }
}

fn refused(address: SocketAddr, setting: &'static str, error: io::Error) -> ListenError {
    let cure = match error.kind() {
        ErrorKind::AddrInUse => "end the process that uses it, or choose another address",
        ErrorKind::PermissionDenied => {
            "ports below 1024 need root or the capability CAP_NET_BIND_SERVICE; choose another port"
        }
        _ => "choose another address",
    };
    ListenError { address, setting, cure, error }
}

/// Returns an address at which a client on this machine reaches a listener: the loopback address for one that
/// listens on all addresses.
pub(crate) fn usable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_use_the_address_that_means_all() {
        for (listen, expected) in [
            ("0.0.0.0:9000", "127.0.0.1:9000"),
            ("[::]:9000", "[::1]:9000"),
            ("192.0.2.7:80", "192.0.2.7:80"),
        ] {
            assert_eq!(usable(listen.parse().unwrap()).to_string(), expected);
        }
    }

    #[tokio::test]
    async fn an_address_in_use_is_named_with_its_setting_and_the_cure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let text = Taken::take(address, "--listen (FULA_LISTEN)").unwrap_err().to_string();
        for part in [&address.to_string(), "in use", "end the process", "--listen (FULA_LISTEN)"] {
            assert!(text.contains(part), "{text}");
        }
        // An address that no interface has.
        let text = Taken::take("192.0.2.7:0".parse().unwrap(), "--listen").unwrap_err().to_string();
        assert!(text.contains("no network interface") && !text.contains("os error"), "{text}");
    }
}
