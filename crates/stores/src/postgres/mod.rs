//! A shared arbiter in Postgres, or in an engine that speaks its protocol and SQL.
//!
//! Two small pools: reads are bounded by the server, swaps never are. A swap cancelled while it
//! waits for a synchronous replica is committed all the same, and would be reported as failed.
//! Everything works on the primary only; nothing relies on NOTIFY or advisory locks.
//! Decision: docs/adr/0007.

mod directory;
mod roots;
mod schema;
#[cfg(test)]
mod tests;
mod url;

use std::{str::FromStr, sync::Arc, time::Duration};

use fula_core::{
    StoreError,
    root::{Mark, Stamped},
};
use sqlx::{
    ConnectOptions, Executor, PgConnection, PgPool, Row,
    pool::PoolConnection,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow, Postgres},
    query::Query,
};

pub use self::{directory::PostgresDirectory, roots::PostgresRoots, schema::MarkSource};

/// Connections for each of reads and swaps.
const CONNECTIONS: u32 = 8;

/// How long to wait for a connection; nothing has been sent until there is one.
const CONNECT: Duration = Duration::from_secs(2);

/// How long to wait for the answer of a statement.
const ANSWER: Duration = Duration::from_secs(5);

/// How long an unanswered swap keeps its connection, so that it is not cancelled by us.
const SWAP_KEPT: Duration = Duration::from_mins(2);

/// How long masters go on asking at start for an arbiter that does not answer.
const START: Duration = Duration::from_secs(30);

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
    #[error("the arbiter cannot be reached")]
    Connect(#[source] sqlx::Error),
    /// Turn the setting on: a crash of the server would lose what was acknowledged.
    #[error("the arbiter runs with {0}=off and would lose acknowledged writes; turn it on")]
    NotDurable(&'static str),
    /// Point the URL at the primary.
    #[error("the arbiter is a read-only replica; FULA_DATABASE_URL must name the primary")]
    ReadOnly,
    /// Migrate with a role that may.
    #[error(
        "the arbiter's tables cannot be brought up to date; run `fula migrate` with a role that may"
    )]
    Migrate(#[source] sqlx::Error),
}

/// What a session needs to be, beside a connection.
#[derive(Clone, Copy, Debug)]
enum Session {
    Read,
    Swap,
}

/// Shared root pointers and directory.
#[derive(Clone, Debug)]
pub struct PostgresArbiter {
    /// The root pointers.
    pub roots: Arc<PostgresRoots>,
    /// The directory.
    pub directory: Arc<PostgresDirectory>,
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
        wait_for(url).await?;
        let read = pool(url, Session::Read)?;
        let swap = pool(url, Session::Swap)?;
        let mark_source = match schema::probe(&read).await? {
            Some(source) => source,
            None => schema::migrate(&swap, None).await?,
        };
        let can_wait = schema::can_wait(&swap).await;
        Ok(Self::on(read, swap, compares, mark_source, can_wait))
    }

    /// Brings the tables up to date and does nothing else.
    ///
    /// # Errors
    /// [`PostgresError`].
    pub async fn migrate(url: &str) -> Result<(), PostgresError> {
        wait_for(url).await?;
        let pool = pool(url, Session::Swap)?;
        schema::migrate(&pool, None).await?;
        schema::can_wait(&pool).await;
        Ok(())
    }

    fn on(
        read: PgPool,
        swap: PgPool,
        compares: bool,
        mark_source: MarkSource,
        can_wait: bool,
    ) -> Self {
        if mark_source == MarkSource::Counter {
            tokio::spawn(raise_counter(swap.clone()));
        }
        Self {
            roots: Arc::new(PostgresRoots::new(read.clone(), swap.clone(), compares, can_wait)),
            directory: Arc::new(PostgresDirectory::new(read, swap)),
            mark_source,
        }
    }
}

/// Raises the counter every second for as long as anyone uses the arbiter.
async fn raise_counter(pool: PgPool) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    while !pool.is_closed() {
        tick.tick().await;
        let raise = "UPDATE fula_arbiter SET counter = counter + 1 WHERE id = 1";
        if let Err(error) = pool.execute(raise).await {
            tracing::warn!(%error, "cannot raise the arbiter's counter");
        }
    }
}

fn options(url: &str) -> Result<PgConnectOptions, PostgresError> {
    url::check(url)?;
    let options = PgConnectOptions::from_str(url).map_err(|_| PostgresError::Url)?;
    Ok(options.disable_statement_logging().application_name("fula"))
}

fn pool(url: &str, session: Session) -> Result<PgPool, PostgresError> {
    let options = options(url)?;
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(CONNECT)
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            Box::pin(async move { prepare(connection, session).await.map_err(into_sqlx) })
        });
    Ok(pool.connect_lazy_with(options))
}

/// What is wrong with a session travels through the pool as a wrong configuration.
fn into_sqlx(error: PostgresError) -> sqlx::Error {
    match error {
        PostgresError::Connect(error) => error,
        refused => sqlx::Error::Configuration(Box::new(refused)),
    }
}

/// Refuses servers that would lose writes, and sets what statements rely on.
async fn prepare(connection: &mut PgConnection, session: Session) -> Result<(), PostgresError> {
    let asked = "SELECT name, setting FROM pg_settings WHERE name IN
        ('fsync', 'full_page_writes', 'synchronous_commit', 'transaction_read_only')";
    let rows = sqlx::query(asked).fetch_all(&mut *connection).await;
    let mut waits_for_more = false;
    for row in rows.map_err(PostgresError::Connect)? {
        let text = |column| row.try_get::<String, _>(column).map_err(PostgresError::Connect);
        let (name, setting) = (text("name")?, text("setting")?);
        match (name.as_str(), setting.as_str()) {
            ("fsync", "off") => return Err(PostgresError::NotDurable("fsync")),
            ("full_page_writes", "off") => {
                return Err(PostgresError::NotDurable("full_page_writes"));
            }
            ("transaction_read_only", "on") => return Err(PostgresError::ReadOnly),
            ("synchronous_commit", "remote_apply") => waits_for_more = true,
            _ => {}
        }
    }
    let mut set = vec!["SET default_transaction_isolation = 'read committed'"];
    match session {
        Session::Read => {
            set.push("SET statement_timeout = '5s'");
            // What reads write is advice.
            set.push("SET synchronous_commit = 'off'");
        }
        Session::Swap => {
            set.push("SET statement_timeout = 0");
            set.push("SET lock_timeout = '5s'");
            if !waits_for_more {
                set.push("SET synchronous_commit = 'on'");
            }
        }
    }
    for statement in set {
        connection.execute(statement).await.map_err(PostgresError::Connect)?;
    }
    Ok(())
}

/// Waits until the arbiter answers; refuses at once what waiting cannot mend.
async fn wait_for(url: &str) -> Result<(), PostgresError> {
    let options = options(url)?;
    let deadline = tokio::time::Instant::now() + START;
    loop {
        let connected = tokio::time::timeout(CONNECT, async {
            let mut connection = options.connect().await.map_err(PostgresError::Connect)?;
            prepare(&mut connection, Session::Swap).await
        });
        // The pools would try again and again, and say no more than that it took too long.
        match connected.await.unwrap_or(Err(PostgresError::Connect(sqlx::Error::PoolTimedOut))) {
            Ok(()) => return Ok(()),
            Err(PostgresError::Connect(error)) if tokio::time::Instant::now() < deadline => {
                // A wrong password or database does not mend itself.
                let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
                if code.is_some_and(|code| code.starts_with("28") || code == "3D000") {
                    return Err(PostgresError::Connect(error));
                }
                tracing::warn!(%error, "the arbiter does not answer yet");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn unavailable(action: &'static str, error: impl Into<fula_core::error::Source>) -> StoreError {
    StoreError::Unavailable { backend: "postgres", action, source: error.into() }
}

fn malformed(why: &'static str) -> StoreError {
    StoreError::Malformed { what: "row of the arbiter", why }
}

/// Runs a read on a connection of its own, within [`ANSWER`]. Connections that turn out to be dead,
/// as all are after a restart of the server, are passed over.
async fn read<'q>(
    pool: &PgPool,
    action: &'static str,
    query: impl Fn() -> Query<'q, Postgres, PgArguments> + Send,
) -> Result<Vec<PgRow>, StoreError> {
    let deadline = tokio::time::Instant::now() + ANSWER;
    let mut dead = 0;
    loop {
        let mut connection = pool.acquire().await.map_err(|error| unavailable(action, error))?;
        match tokio::time::timeout_at(deadline, query().fetch_all(&mut *connection)).await {
            Ok(Err(error)) if is_dead(&error) && dead < CONNECTIONS => {
                dead += 1;
                abandon(connection);
            }
            Ok(answer) => return answer.map_err(|error| unavailable(action, error)),
            Err(late) => {
                abandon(connection);
                return Err(unavailable(action, late));
            }
        }
    }
}

/// Says whether an error is about the connection, and not about what was asked.
fn is_dead(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
        // The server is being shut down, or starts up.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code.starts_with("57P")),
        _ => false,
    }
}

/// Closes a connection whose answer did not come, so that nobody waits for it again.
fn abandon(connection: PoolConnection<Postgres>) {
    drop(connection.detach());
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
