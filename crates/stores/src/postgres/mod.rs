//! A shared arbiter in Postgres, or in an engine that speaks its protocol and SQL.
//!
//! There are two small pools of connections. The server limits the time of reads, but never that of swaps:
//! a swap that is cancelled while it waits for a synchronous replica is committed all the same, and would
//! be reported as failed. All statements go to the primary. Nothing relies on NOTIFY or advisory locks.
//! Durability does not rely on settings of a session either, because a pooler may stand in between.
//! Decisions: docs/adr/0007, docs/adr/0031.

mod drops;
mod explain;
mod generation;
mod grants;
mod metadata;
#[cfg(test)]
mod on_a_server;
mod packs;
mod roots;
mod rows;
mod schema;
mod sessions;
mod statement;
mod url;

use std::{sync::Arc, time::Duration};

use fula_core::{
    StoreError,
    root::{Mark, Stamped},
};
use sqlx::{Row, postgres::PgRow};

pub use self::{
    metadata::PostgresMetadata, packs::PostgresPacks, roots::PostgresRoots, schema::MarkSource,
    url::place_of,
};
use self::{
    sessions::{Connections, Session},
    statement::{Statement, durable},
};

/// Longest wait for the answer to a statement.
const ANSWER: Duration = Duration::from_secs(5);

/// Time for which an unanswered swap keeps its connection, so that the client does not cancel it.
const SWAP_KEPT: Duration = Duration::from_mins(2);

/// The reason why an arbiter cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// The URL is malformed. It is not repeated, because it may contain a password.
    #[error(
        "FULA_DATABASE_URL is not a Postgres URL: postgres://user:password@host:port/database; \
         characters such as / ? # @ in the password are escaped, e.g. %2F"
    )]
    Url,
    /// The URL has an unknown parameter. It is not repeated either.
    #[error(
        "FULA_DATABASE_URL has a parameter that is not known; known are sslmode, sslrootcert, sslcert, \
         sslkey, host, hostaddr, port, dbname, user, password, application_name, options and \
         statement-cache-capacity"
    )]
    Parameter,
    /// The server cannot be reached. Start it, or correct the URL.
    #[error(
        "the arbiter cannot be used: {}; check that its database runs, and that FULA_DATABASE_URL leads to it",
        explain::plain(.0)
    )]
    Connect(sqlx::Error),
    /// A setting of the server is off without which a crash would lose acknowledged writes. Turn it on.
    #[error("the arbiter runs with {0}=off and would lose acknowledged writes; turn it on")]
    NotDurable(&'static str),
    /// The server does not carry out the settings that durability needs.
    #[error(
        "the arbiter does not apply the settings that a durable write needs: synchronous_commit, \
         fsync and full_page_writes"
    )]
    SettingsNotKept,
    /// The pooler does not keep settings with their statement. Use its session mode, or connect to the
    /// server itself.
    #[error(
        "the pooler in front of the arbiter does not keep the settings of a transaction that come \
         with its statement in one message; use its session mode, or let FULA_DATABASE_URL lead to \
         the server itself{}",
        .0.as_ref().map(|error| format!(" ({})", explain::plain(error))).unwrap_or_default()
    )]
    Pooler(Option<sqlx::Error>),
    /// The server is a replica. Let the URL lead to the primary.
    #[error("the arbiter is a read-only replica; FULA_DATABASE_URL must name the primary")]
    ReadOnly,
    /// The tables are out of date and this role may not change them. Run `fula migrate` with a role that
    /// may.
    #[error(
        "the arbiter's tables cannot be brought up to date: {}; run `fula migrate` with a role that may",
        explain::plain(.0)
    )]
    Migrate(sqlx::Error),
    /// The tables are missing or out of date. Run `fula migrate` with a role that may change them, and
    /// grant this role what it needs.
    #[error(
        "the arbiter's tables are missing or out of date, and role {role} of FULA_DATABASE_URL may not \
         change that; run `fula migrate --role {role}` with a role that owns them or may create them (CREATE \
         ON SCHEMA {schema}), then the grants that it prints ({})", explain::plain(.refused)
    )]
    MayNotCreate {
        /// Name of the connected role.
        role: String,
        /// Schema in which tables are created.
        schema: String,
        /// Error of the server.
        refused: sqlx::Error,
    },
    /// The role lacks privileges. Grant them.
    #[error(
        "role {role} of FULA_DATABASE_URL lacks rights; run as the owner of the tables: {lacking}"
    )]
    NotGranted {
        /// Name of the connected role.
        role: String,
        /// Statements that grant the missing privileges.
        lacking: String,
    },
    /// No gateway was ever started on the database. Start one, which makes the tables.
    #[error(
        "no master was ever started on this arbiter: its database has no tables of Fula; start a gateway \
         first, and check that FULA_DATABASE_URL leads to the right database"
    )]
    NeverUsed,
    /// The tables are of an earlier version. Migrate them, or start a gateway of this version.
    #[error(
        "the arbiter's tables are of an earlier version; run `fula migrate`, or start a gateway of this version"
    )]
    OldTables,
    /// The role may not use any schema of its search path. Grant it one.
    #[error(
        "role {0} of FULA_DATABASE_URL may use no schema of its search path; grant it USAGE ON SCHEMA public, \
         or set its search_path"
    )]
    NoSchema(String),
}

/// A shared arbiter: root pointers and metadata in one database.
#[derive(Clone, Debug)]
pub struct PostgresArbiter {
    /// The root pointers.
    pub roots: Arc<PostgresRoots>,
    /// The metadata store.
    pub metadata: Arc<PostgresMetadata>,
    /// The list of packs.
    pub packs: Arc<PostgresPacks>,
    /// The source of the arbiter's mark.
    pub mark_source: MarkSource,
}

impl PostgresArbiter {
    /// Connects, and brings the tables up to date. With `compares` off, swaps replace any row; this is only
    /// for demonstrating what that loses.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn open(url: &str, compares: bool) -> Result<Self, PostgresError> {
        let server = sessions::wait_for(url).await?;
        let reads = Connections::new(url, Session::Read, &server)?;
        let writes = Connections::new(url, Session::Swap, &server)?;
        let mark_source = match schema::probe(&reads).await? {
            Some(source) => source,
            None => schema::migrate(&writes, None).await?,
        };
        grants::check(&reads).await?;
        schema::index_live(&writes).await;
        let can_wait = schema::can_wait(&writes).await;
        let packs = Connections::new(url, Session::Read, &server)?;
        if mark_source == MarkSource::Counter {
            tokio::spawn(raise_counter(writes.clone()));
        }
        Ok(Self::on([reads, writes, packs], compares, mark_source, can_wait))
    }

    /// Connects without creating or changing a table, for a command that only looks.
    ///
    /// # Errors
    /// [`PostgresError`]; where [`Self::open`] would change tables, [`PostgresError::NeverUsed`] or
    /// [`PostgresError::OldTables`].
    pub async fn open_existing(url: &str, compares: bool) -> Result<Self, PostgresError> {
        let server = sessions::wait_for(url).await?;
        let reads = Connections::new(url, Session::Read, &server)?;
        let writes = Connections::new(url, Session::Swap, &server)?;
        let Some(mark_source) = schema::probe(&reads).await? else {
            return Err(schema::explain_missing(&reads).await);
        };
        grants::check(&reads).await?;
        let can_wait = schema::has_wait(&writes).await;
        let packs = Connections::new(url, Session::Read, &server)?;
        // Masters raise the counter; a command does not live long enough to.
        Ok(Self::on([reads, writes, packs], compares, mark_source, can_wait))
    }

    /// Brings the tables up to date and does nothing else. Returns the statements that let each of `roles`
    /// use them.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn migrate(url: &str, roles: &[String]) -> Result<Vec<String>, PostgresError> {
        let server = sessions::wait_for(url).await?;
        let writes = Connections::new(url, Session::Swap, &server)?;
        schema::migrate(&writes, None).await?;
        schema::can_wait(&writes).await;
        let schema = grants::schema_of(&writes).await?;
        Ok(roles.iter().flat_map(|role| grants::statements(&schema, role)).collect())
    }

    /// Returns an arbiter on three sets of connections: for reads, for writes, and for the list of packs.
    fn on(
        connections: [Connections; 3],
        compares: bool,
        mark_source: MarkSource,
        can_wait: bool,
    ) -> Self {
        let [reads, writes, packs] = connections;
        let roots = PostgresRoots::new(reads.clone(), writes.clone(), compares, can_wait);
        let packs = PostgresPacks::new(reads.clone(), packs);
        let metadata = PostgresMetadata::new(reads, writes);
        let (roots, metadata, packs) = (Arc::new(roots), Arc::new(metadata), Arc::new(packs));
        Self { roots, metadata, packs, mark_source }
    }
}

/// Raises the counter, durably. If a crash lost some of it, the arbiter would seem to have gone back.
const RAISE: &str =
    concat!("UPDATE fula_arbiter SET counter = counter + 1 WHERE id = 1 AND ", durable!("$1"));

/// Raises the counter every second as long as the arbiter is in use.
async fn raise_counter(connections: Connections) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    while !connections.is_closed() {
        tick.tick().await;
        let raise = Statement::new(RAISE).text(connections.server.commit);
        if let Err(error) = connections.fetch(&raise).await {
            connections.server.notice(&error);
            let error = explain::plain(&error);
            tracing::warn!(error, "cannot raise the arbiter's counter; trying again");
        }
    }
}

fn unavailable(action: &'static str, error: impl Into<fula_core::error::Source>) -> StoreError {
    let source = explain::in_words(error.into());
    StoreError::Unavailable { backend: "postgres", action, source }
}

fn malformed(why: &'static str) -> StoreError {
    StoreError::Malformed { what: "row of the arbiter", why }
}

/// Reads the mark and the time that the answer of every statement contains.
fn stamp<T>(row: &PgRow, value: T) -> Result<Stamped<T>, StoreError> {
    let wrong = |_| malformed("no mark");
    let arbiter = row.try_get("arbiter").map_err(wrong)?;
    let position: i64 = row.try_get("position").map_err(wrong)?;
    let time: i64 = row.try_get("now_ms").map_err(wrong)?;
    let unsigned = |number: i64| u64::try_from(number).map_err(|_| malformed("negative mark"));
    let mark = Mark { arbiter, position: unsigned(position)? };
    Ok(Stamped { value, time: unsigned(time)?, mark })
}
