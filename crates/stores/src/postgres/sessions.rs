//! Connections to the arbiter, the settings of their sessions, and whether these are shared.

use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fula_core::StoreError;
use parking_lot::Mutex;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool, Row,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions, PgRow, Postgres},
};
use tokio::time::Instant;

use super::{ANSWER, PostgresError, explain::plain, statement::Statement, unavailable, url};

/// Number of connections of each of the two pools.
const CONNECTIONS: u32 = 8;

/// Longest wait for a connection. Nothing has been sent until there is one.
const CONNECT: Duration = Duration::from_secs(2);

/// Time without use after which a connection is tried before a statement is sent on it.
const IDLE: Duration = Duration::from_secs(1);

/// Time for which a starting master waits for an arbiter that does not answer.
const START: Duration = Duration::from_secs(30);

/// Order in which two connections are asked for the id of their session, to find out whether sessions are
/// shared. No pooler that hands out sessions in turn, or the last one first, gives each connection its own.
const ASKED: [usize; 8] = [0, 0, 1, 1, 0, 1, 0, 0];

/// The purpose of a statement, which decides the settings of its session.
#[derive(Clone, Copy, Debug)]
pub(super) enum Session {
    /// A statement whose time the server limits too.
    Read,
    /// A statement that the server never cancels: a swap that waits for a synchronous replica is committed.
    Swap,
}

impl Session {
    /// Returns the settings of a session that this process alone uses.
    fn of_session(self) -> &'static str {
        match self {
            Self::Read => {
                "SET default_transaction_isolation = 'read committed'; SET statement_timeout = '5s';"
            }
            Self::Swap => {
                "SET default_transaction_isolation = 'read committed'; SET statement_timeout = 0; \
                 SET lock_timeout = '5s';"
            }
        }
    }

    /// Returns the same settings for one transaction in a session that others use as well.
    pub(super) fn of_transaction(self) -> &'static str {
        match self {
            Self::Read => {
                "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = '5s';"
            }
            Self::Swap => {
                "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = 0; \
                 SET LOCAL lock_timeout = '5s';"
            }
        }
    }
}

/// The facts about the arbiter that were found out at the start.
#[derive(Clone, Debug)]
pub(super) struct Server {
    /// Value of `synchronous_commit` that durable statements need.
    pub(super) commit: &'static str,
    /// Whether a pooler lets others use a session between two statements of this process.
    is_shared: Arc<AtomicBool>,
    /// Time at which a connection was last found dead, as after a restart of the server.
    died: Arc<Mutex<Option<Instant>>>,
}

impl Server {
    /// Records that a connection was found dead: all that were not used since are probably dead as well.
    fn note_dead(&self) {
        *self.died.lock() = Some(Instant::now());
    }

    /// Returns whether a connection that was not used for `idle` must be tried before something is sent on
    /// it. A write that is sent on a dead connection has no known outcome.
    fn may_be_dead(&self, idle: Duration) -> bool {
        let died = *self.died.lock();
        idle >= IDLE || died.is_some_and(|died| died.elapsed() <= idle)
    }

    pub(super) fn is_shared(&self) -> bool {
        self.is_shared.load(Ordering::Relaxed)
    }

    /// Detects from an error that the session is not the one in which the statement was prepared, as after
    /// a change of a pooler's mode. The statement was not carried out then.
    pub(super) fn notice(&self, error: &sqlx::Error) -> bool {
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        // These mean that no such prepared statement exists, or that one of this name does.
        if !code.is_some_and(|code| ["26000", "42P05"].contains(&code.as_ref())) {
            return false;
        }
        if !self.is_shared.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "a pooler now shares the arbiter's sessions: statements carry their settings"
            );
        }
        true
    }
}

/// A pool of connections for statements of one kind.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    pool: PgPool,
    session: Session,
    pub(super) server: Server,
}

impl Connections {
    pub(super) fn new(url: &str, session: Session, server: &Server) -> Result<Self, PostgresError> {
        let options = options(url)?;
        let (prepared_for, asked) = (server.clone(), server.clone());
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(CONNECT)
            .test_before_acquire(false)
            .before_acquire(move |connection, used| {
                let may_be_dead = asked.may_be_dead(used.idle_for);
                // A dead connection is closed, and another one is taken or made.
                Box::pin(async move {
                    if may_be_dead {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .after_connect(move |connection, _| {
                let server = prepared_for.clone();
                Box::pin(async move {
                    check(connection).await.map_err(into_sqlx)?;
                    if server.is_shared() {
                        return Ok(());
                    }
                    sqlx::raw_sql(session.of_session()).execute(connection).await.map(drop)
                })
            });
        let pool = pool.connect_lazy_with(options);
        Ok(Self { pool, session, server: server.clone() })
    }

    pub(super) async fn acquire(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        self.pool.acquire().await
    }

    pub(super) fn is_closed(&self) -> bool {
        self.pool.is_closed()
    }

    /// Returns the settings that statements must carry, if any.
    pub(super) fn settings(&self) -> Option<&'static str> {
        self.server.is_shared().then(|| self.session.of_transaction())
    }

    /// Sends one statement on any connection.
    pub(super) async fn fetch(&self, statement: &Statement) -> Result<Vec<PgRow>, sqlx::Error> {
        let mut connection = self.acquire().await?;
        statement.fetch(&mut connection, self.settings()).await
    }

    /// Changes tables, durably, with the settings of one transaction, whatever session it reaches.
    pub(super) async fn change(&self, statement: &str) -> Result<(), sqlx::Error> {
        let settings = self.session.of_transaction();
        let commit = self.server.commit;
        let text = format!("{settings} SET LOCAL synchronous_commit = '{commit}'; {statement}");
        let mut connection = self.acquire().await?;
        sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *connection).await.map(drop)
    }

    /// Runs a read on one connection, within [`ANSWER`]. Dead connections, as after a restart of the
    /// server, are skipped.
    pub(super) async fn read(
        &self,
        action: &'static str,
        statement: &Statement,
    ) -> Result<Vec<PgRow>, StoreError> {
        let deadline = Instant::now() + ANSWER;
        let mut dead = 0;
        loop {
            let acquired = self.acquire().await;
            let mut connection = acquired.map_err(|error| unavailable(action, error))?;
            let fetched = statement.fetch(&mut connection, self.settings());
            match tokio::time::timeout_at(deadline, fetched).await {
                Ok(Err(error))
                    if dead < CONNECTIONS && (is_dead(&error) || self.server.notice(&error)) =>
                {
                    dead += 1;
                    self.server.note_dead();
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
}

/// Returns whether an error is about the connection and not about the statement.
fn is_dead(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
        // The server shuts down or starts up, or a pooler has lost it.
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| code.starts_with("57P") || code.starts_with("08"))
        }
        _ => false,
    }
}

/// Closes a connection whose answer did not come, so that no other statement waits for it.
pub(super) fn abandon(connection: PoolConnection<Postgres>) {
    drop(connection.detach());
}

fn options(url: &str) -> Result<PgConnectOptions, PostgresError> {
    url::check(url)?;
    let options = PgConnectOptions::from_str(url).map_err(|_| PostgresError::Url)?;
    // Poolers refuse unknown parameters, and no number here has a fraction.
    let options = options.extra_float_digits(None);
    Ok(options.disable_statement_logging().application_name("fula"))
}

/// Wraps the reason why a session cannot be used as a configuration error, which the pool passes on.
pub(super) fn into_sqlx(error: PostgresError) -> sqlx::Error {
    match error {
        PostgresError::Connect(error) => error,
        refused => sqlx::Error::Configuration(Box::new(refused)),
    }
}

/// Refuses servers that would lose writes. Returns the value of `synchronous_commit` that is needed.
async fn check(connection: &mut PgConnection) -> Result<&'static str, PostgresError> {
    // The reset value counts: another client may have changed the setting of a shared session.
    let asked = "SELECT name, setting, reset_val FROM pg_settings WHERE name IN
        ('fsync', 'full_page_writes', 'synchronous_commit', 'transaction_read_only')";
    let rows = sqlx::raw_sql(asked).fetch_all(connection).await;
    let mut commit = "on";
    for row in rows.map_err(PostgresError::Connect)? {
        let text = |column| row.try_get::<String, _>(column).map_err(PostgresError::Connect);
        let (name, setting, given) = (text("name")?, text("setting")?, text("reset_val")?);
        match (name.as_str(), setting.as_str()) {
            ("fsync", "off") => return Err(PostgresError::NotDurable("fsync")),
            ("full_page_writes", "off") => {
                return Err(PostgresError::NotDurable("full_page_writes"));
            }
            ("transaction_read_only", "on") => return Err(PostgresError::ReadOnly),
            ("synchronous_commit", _) if given == "remote_apply" => commit = "remote_apply",
            _ => {}
        }
    }
    Ok(commit)
}

/// Returns whether connections share sessions, as behind a pooler in transaction or statement mode.
async fn shares_sessions(options: &PgConnectOptions) -> Result<bool, sqlx::Error> {
    let mut connections = [options.connect().await?, options.connect().await?];
    let mut heard: [Option<i32>; 2] = [None, None];
    let mut is_shared = false;
    for n in ASKED {
        let asked = sqlx::raw_sql("SELECT pg_backend_pid() AS pid");
        let pid: i32 = asked.fetch_one(&mut connections[n]).await?.try_get("pid")?;
        is_shared |= heard[n].is_some_and(|before| before != pid) || heard[1 - n] == Some(pid);
        heard[n] = Some(pid);
    }
    Ok(is_shared)
}

/// Checks that the settings of a statement reach the server with it where sessions are shared.
async fn check_pooler(connection: &mut PgConnection) -> Result<(), PostgresError> {
    let pooler = |error| PostgresError::Pooler(Some(error));
    let text = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '4321ms';
        SELECT current_setting('lock_timeout') AS timeout,
            set_config('synchronous_commit', 'on', true) AS commit";
    let row = sqlx::raw_sql(text).fetch_one(connection).await.map_err(pooler)?;
    let column = |name| row.try_get::<String, _>(name).map_err(pooler);
    match (column("timeout")?.as_str(), column("commit")?.as_str()) {
        ("4321ms", "on") => Ok(()),
        _ => Err(PostgresError::Pooler(None)),
    }
}

async fn look(options: &PgConnectOptions) -> Result<Server, PostgresError> {
    let mut connection = options.connect().await.map_err(PostgresError::Connect)?;
    let commit = check(&mut connection).await?;
    let is_shared = shares_sessions(options).await.map_err(PostgresError::Connect)?;
    if is_shared {
        check_pooler(&mut connection).await?;
        tracing::info!(
            "a pooler shares the arbiter's sessions between clients: statements carry their settings"
        );
    }
    let is_shared = Arc::new(AtomicBool::new(is_shared));
    Ok(Server { commit, is_shared, died: Arc::default() })
}

/// Waits until the arbiter answers. Refuses at once when waiting cannot help.
pub(super) async fn wait_for(url: &str) -> Result<Server, PostgresError> {
    let options = options(url)?;
    let address = url::place_of(url).unwrap_or_default();
    let deadline = Instant::now() + START;
    // Each reason is logged once: nobody reads sixty equal lines.
    let mut told = String::new();
    loop {
        let looked = tokio::time::timeout(CONNECT + ANSWER, look(&options)).await;
        // The pools would retry, and report only that it took too long.
        match looked.unwrap_or(Err(PostgresError::Connect(sqlx::Error::PoolTimedOut))) {
            Err(PostgresError::Connect(error)) if Instant::now() < deadline => {
                // A wrong password or database does not correct itself.
                let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
                if code.is_some_and(|code| code.starts_with("28") || code == "3D000") {
                    return Err(PostgresError::Connect(error));
                }
                let error = plain(&error);
                if error != told {
                    let seconds = deadline.saturating_duration_since(Instant::now()).as_secs() + 1;
                    tracing::warn!(
                        address,
                        error,
                        "the arbiter does not answer: it is asked again for up to {seconds} s"
                    );
                    told = error;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            ended => {
                if ended.is_ok() && !told.is_empty() {
                    tracing::info!(address, "the arbiter answers");
                }
                return ended;
            }
        }
    }
}
