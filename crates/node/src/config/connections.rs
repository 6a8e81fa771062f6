//! Limits of open connections, which the available file descriptors bound.

use fula_gateway::server::ConnectionLimits;

use super::ConfigError;
use crate::cli::ConnectionSettings;

/// Divisor for the default limit of one address: it may hold a quarter of all connections.
const ADDRESS_PART: usize = 4;

/// Most connections of the admin listener.
const ADMIN: usize = 64;

/// Most file descriptors that the process requests. More would only take memory of the kernel.
const DESCRIPTORS_MAX: u64 = 1 << 20;

/// The settings of connections, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionConfig(ConnectionSettings);

impl ConnectionConfig {
    pub(super) fn check(settings: ConnectionSettings) -> Result<Self, ConfigError> {
        for (name, value) in [
            ("--connections", Some(settings.connections)),
            ("--connections-per-address", settings.connections_per_address),
        ] {
            if value == Some(0) {
                let expected = "a limit of connections is a number above 0";
                return Err(ConfigError::Value { name, value: "0".to_owned(), expected });
            }
        }
        Ok(Self(settings))
    }

    /// Returns the limits of the S3 listener in a process that may open `descriptors` file descriptors. A
    /// quarter of them is reserved for the admin listener, the log, the database and the blocks.
    pub(crate) fn limits(self, descriptors: u64) -> ConnectionLimits {
        let fitting = usize::try_from(descriptors / 4 * 3).unwrap_or(usize::MAX).max(1);
        let Self(ConnectionSettings { connections: asked, connections_per_address }) = self;
        let total = asked.min(fitting);
        if asked > fitting {
            tracing::warn!(
                asked,
                total,
                descriptors,
                "too few file descriptors for FULA_CONNECTIONS, so its value is lowered; raise the \
                 limit of the process (ulimit -n, or LimitNOFILE of the service)"
            );
        }
        let per_address =
            connections_per_address.unwrap_or(total.div_ceil(ADDRESS_PART)).min(total);
        ConnectionLimits { total, per_address }
    }
}

/// Returns the limits of the admin listener.
pub(crate) fn admin_limits() -> ConnectionLimits {
    ConnectionLimits { total: ADMIN, per_address: ADMIN }
}

/// Raises the limit of file descriptors of this process to what the system allows, and returns it.
pub(crate) fn raise_descriptors() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let found = getrlimit(Resource::Nofile);
    let most = found.maximum.unwrap_or(DESCRIPTORS_MAX).min(DESCRIPTORS_MAX);
    let current = found.current.unwrap_or(DESCRIPTORS_MAX);
    if current >= most {
        return current;
    }
    let wanted = Rlimit { current: Some(most), maximum: found.maximum };
    match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => most,
        Err(error) => {
            tracing::warn!(%error, current, "cannot raise the number of file descriptors");
            current
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_the_descriptors() {
        let config = |connections, connections_per_address| {
            let settings = ConnectionSettings { connections, connections_per_address };
            ConnectionConfig::check(settings)
        };
        let limits = |total, per_address, descriptors| {
            let limits = config(total, per_address).unwrap().limits(descriptors);
            (limits.total, limits.per_address)
        };
        assert_eq!(limits(10_000, None, 1 << 20), (10_000, 2_500));
        assert_eq!(limits(10_000, None, 1024), (768, 192));
        assert_eq!(limits(5_000, None, 1024), (768, 192));
        assert_eq!(limits(100, Some(500), 1024), (100, 100));
        assert_eq!(limits(2, None, 0), (1, 1));
        assert!(config(0, None).is_err());
        assert!(config(1, Some(0)).is_err());
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        use rustix::process::{Resource, getrlimit};
        let descriptors = raise_descriptors();
        let found = getrlimit(Resource::Nofile);
        assert_eq!(found.current, Some(descriptors));
        let most = found.maximum.unwrap_or(DESCRIPTORS_MAX).min(DESCRIPTORS_MAX);
        assert!(descriptors >= most);
    }
}
