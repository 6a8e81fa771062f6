//! What errors of the driver mean, in words about the arbiter's database.

use std::io::ErrorKind;

use fula_core::error::{Source, io_text};
use sqlx::postgres::PgDatabaseError;

use super::PostgresError;

/// Returns what happened to a statement or a connection.
pub(super) fn plain(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::PoolTimedOut => "no answer: no connection in time".to_owned(),
        sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
            "its connections are closed".to_owned()
        }
        sqlx::Error::Io(error) if error.kind() == ErrorKind::UnexpectedEof => {
            "the database closed the connection".to_owned()
        }
        sqlx::Error::Io(error) => io_text(error),
        // With the place in the server's source, the driver's own text says less to a person.
        sqlx::Error::Database(error) => match error.try_downcast_ref::<PgDatabaseError>() {
            Some(error) => format!("the database says: {} ({})", error.message(), error.code()),
            None => format!("the database says: {}", error.message()),
        },
        sqlx::Error::Configuration(error) => match error.downcast_ref::<PostgresError>() {
            Some(refused) => refused.to_string(),
            None => error.to_string(),
        },
        sqlx::Error::Tls(error) => format!("the connection cannot be encrypted: {error}"),
        sqlx::Error::Protocol(_) => {
            "it answers what no Postgres answers; look whether the address is that of the database"
                .to_owned()
        }
        other => other.to_string(),
    }
}

/// Returns an error of the driver or a deadline as words, and any other as it is.
pub(super) fn in_words(error: Source) -> Source {
    if let Some(error) = error.downcast_ref::<sqlx::Error>() {
        return plain(error).into();
    }
    if error.is::<tokio::time::error::Elapsed>() {
        return "no answer in time".into();
    }
    error
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn no_part_of_the_driver_is_named() {
        let eof = io::Error::new(ErrorKind::UnexpectedEof, "expected to read 5 bytes, got 0");
        let refused = io::Error::from(ErrorKind::ConnectionRefused);
        let read_only = sqlx::Error::Configuration(Box::new(PostgresError::ReadOnly));
        for (error, expected) in [
            (sqlx::Error::PoolTimedOut, "no answer"),
            (sqlx::Error::Io(eof), "closed the connection"),
            (sqlx::Error::Io(refused), "connection refused"),
            (sqlx::Error::Protocol("unexpected 0x48".to_owned()), "no Postgres"),
            (read_only, "read-only replica"),
        ] {
            let text = plain(&error);
            assert!(text.contains(expected), "{text}");
            for raw in ["pool", "expected to read", "os error", "unexpected", "configuration"] {
                assert!(!text.contains(raw), "{text}");
            }
        }
    }
}
