//! A shared arbiter in Postgres, or in an engine that speaks its protocol and SQL.
//!
//! Two small pools: reads are bounded by the server, swaps never are. A swap cancelled while it
//! waits for a synchronous replica is committed all the same, and would be reported as failed.
//! Everything works on the primary only; nothing relies on NOTIFY or advisory locks. What is to be
//! durable relies on no setting of a session either: a pooler may stand in between.
//! Decisions: docs/adr/0007, docs/adr/0031.

mod explain;
mod grants;
mod metadata;
#[cfg(test)]
mod on_a_server;
mod roots;
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
    metadata::PostgresMetadata, roots::PostgresRoots, schema::MarkSource, url::place_of,
};
use self::{
    sessions::{Connections, Session},
    statement::{Statement, durable},
};

/// How long to wait for the answer of a statement.
const ANSWER: Duration = Duration::from_secs(5);

/// How long an unanswered swap keeps its connection, so that it is not cancelled by us.
const SWAP_KEPT: Duration = Duration::from_mins(2);

/// An arbiter that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// Mend the URL; it is not repeated here, it may hold a password.
    #[error(
        "FULA_DATABASE_URL is not a Postgres URL: postgres://user:password@host:port/database; \
         characters such as / ? # @ in the password are escaped, e.g. %2F"
    )]
    Url,
    /// Leave the parameter out; it is not repeated here either.
    #[error(
        "FULA_DATABASE_URL has a parameter that is not known; known are sslmode, sslrootcert, sslcert, \
         sslkey, host, hostaddr, port, dbname, user, password, application_name, options and \
         statement-cache-capacity"
    )]
    Parameter,
    /// Start the server, or mend the URL.
    #[error(
        "the arbiter cannot be used: {}; check that its database runs, and that FULA_DATABASE_URL leads to it",
        explain::plain(.0)
    )]
    Connect(sqlx::Error),
    /// Turn the setting on: a crash of the server would lose what was acknowledged.
    #[error("the arbiter runs with {0}=off and would lose acknowledged writes; turn it on")]
    NotDurable(&'static str),
    /// Turn the settings on that are named: what was sent is not carried out without them.
    #[error(
        "the arbiter does not keep the settings that a durable write needs: synchronous_commit, \
         fsync and full_page_writes"
    )]
    SettingsNotKept,
    /// Use the pooler in session mode, or connect to the server itself.
    #[error(
        "the pooler in front of the arbiter does not keep the settings of a transaction that come \
         with its statement in one message; use its session mode, or let FULA_DATABASE_URL lead to \
         the server itself{}",
        .0.as_ref().map(|error| format!(" ({})", explain::plain(error))).unwrap_or_default()
    )]
    Pooler(Option<sqlx::Error>),
    /// Point the URL at the primary.
    #[error("the arbiter is a read-only replica; FULA_DATABASE_URL must name the primary")]
    ReadOnly,
    /// Migrate with a role that may.
    #[error(
        "the arbiter's tables cannot be brought up to date: {}; run `fula migrate` with a role that may",
        explain::plain(.0)
    )]
    Migrate(sqlx::Error),
    /// Migrate with a role that may, and grant this one what it needs.
    #[error(
        "the arbiter's tables are missing or out of date, and role {role} of FULA_DATABASE_URL may not \
         change that; run `fula migrate --role {role}` with a role that owns them or may create them (CREATE \
         ON SCHEMA {schema}), then the grants that it prints ({})", explain::plain(.refused)
    )]
    MayNotCreate {
        /// Who is connected.
        role: String,
        /// Where tables are made.
        schema: String,
        /// What the server said.
        refused: sqlx::Error,
    },
    /// Grant what is missing.
    #[error(
        "role {role} of FULA_DATABASE_URL lacks rights; run as the owner of the tables: {lacking}"
    )]
    NotGranted {
        /// Who is connected.
        role: String,
        /// Statements that grant what is missing.
        lacking: String,
    },
    /// Start a gateway, which makes the tables.
    #[error(
        "no master was ever started on this arbiter: its database has no tables of Fula; start a gateway \
         first, and check that FULA_DATABASE_URL leads to the right database"
    )]
    NeverUsed,
    /// Migrate, or start a gateway of this version, which does so.
    #[error(
        "the arbiter's tables are of an earlier version; run `fula migrate`, or start a gateway of this version"
    )]
    OldTables,
    /// Let the role use a schema.
    #[error(
        "role {0} of FULA_DATABASE_URL may use no schema of its search path; grant it USAGE ON SCHEMA public, \
         or set its search_path"
    )]
    NoSchema(String),
}

/// Shared root pointers and directory.
#[derive(Clone, Debug)]
pub struct PostgresArbiter {
    /// The root pointers.
    pub roots: Arc<PostgresRoots>,
    /// The metadata store.
    pub metadata: Arc<PostgresMetadata>,
    /// How it tells its place in time.
    pub mark_source: MarkSource,
}

impl PostgresArbiter {
    /// Connects, and brings the tables up to date when they are not. With `compares` off, swaps
    /// replace whatever is there: only ever for showing what that loses.
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
        Ok(Self::on(reads, writes, compares, mark_source, can_wait))
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
        // Masters raise the counter; a command does not live long enough to.
        let roots = PostgresRoots::new(reads.clone(), writes.clone(), compares, can_wait);
        let metadata = PostgresMetadata::new(reads, writes);
        Ok(Self { roots: Arc::new(roots), metadata: Arc::new(metadata), mark_source })
    }

    /// Brings the tables up to date and does nothing else. Returns the statements that let each of `roles`
    /// work on them.
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

    fn on(
        reads: Connections,
        writes: Connections,
        compares: bool,
        mark_source: MarkSource,
        can_wait: bool,
    ) -> Self {
        if mark_source == MarkSource::Counter {
            tokio::spawn(raise_counter(writes.clone()));
        }
        let roots = PostgresRoots::new(reads.clone(), writes.clone(), compares, can_wait);
        let metadata = PostgresMetadata::new(reads, writes);
        Self { roots: Arc::new(roots), metadata: Arc::new(metadata), mark_source }
    }
}

/// Raises the counter, durably: what forgot some of it in a crash would seem to have gone back.
const RAISE: &str =
    concat!("UPDATE fula_arbiter SET counter = counter + 1 WHERE id = 1 AND ", durable!("$1"));

/// Raises the counter every second for as long as anyone uses the arbiter.
async fn raise_counter(connections: Connections) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    while !connections.is_closed() {
        tick.tick().await;
        let raise = Statement::new(RAISE).text(connections.server.commit);
        if let Err(error) = connections.fetch(&raise).await {
            connections.server.notice(&error);
            let error = explain::plain(&error);
            tracing::warn!(error, "cannot raise the arbiter's counter");
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

/// Reads the mark and the time that every statement answers with.
fn stamp<T>(row: &PgRow, value: T) -> Result<Stamped<T>, StoreError> {
    let wrong = |_| malformed("no mark");
    let arbiter = row.try_get("arbiter").map_err(wrong)?;
    let position: i64 = row.try_get("position").map_err(wrong)?;
    let time: i64 = row.try_get("now_ms").map_err(wrong)?;
    let unsigned = |number: i64| u64::try_from(number).map_err(|_| malformed("negative mark"));
    let mark = Mark { arbiter, position: unsigned(position)? };
    Ok(Stamped { value, time: unsigned(time)?, mark })
}
