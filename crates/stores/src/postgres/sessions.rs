//! Connections, what their sessions are set to, and whether those are shared.

use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fula_core::StoreError;
use sqlx::{
    AssertSqlSafe, ConnectOptions, PgConnection, PgPool, Row,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions, PgRow, Postgres},
};
use tokio::time::Instant;

use super::{ANSWER, PostgresError, explain::plain, statement::Statement, unavailable, url};

/// Connections for each of reads and swaps.
const CONNECTIONS: u32 = 8;

/// How long to wait for a connection; nothing has been sent until there is one.
const CONNECT: Duration = Duration::from_secs(2);

/// How long masters go on asking at start for an arbiter that does not answer.
const START: Duration = Duration::from_secs(30);

/// In which order two connections are asked who answers them, to find out whether sessions are shared:
/// no pooler that hands out sessions in turn, or the last one first, gives each of the two its own.
const ASKED: [usize; 8] = [0, 0, 1, 1, 0, 1, 0, 0];

/// What a statement is for, and so what its session must be set to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Session {
    /// Bounded by the server, too.
    Read,
    /// Never cancelled by the server: a swap that waits for a synchronous replica is committed.
    Swap,
}

impl Session {
    /// Settings of a session of our own.
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

    /// The same for one transaction in a session that others use as well.
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

/// What was found out about the arbiter at the start.
#[derive(Clone, Debug)]
pub(super) struct Server {
    /// What `synchronous_commit` must be for whatever is to be durable.
    pub(super) commit: &'static str,
    /// Whether a pooler lets others use a session between two of our statements.
    is_shared: Arc<AtomicBool>,
}

impl Server {
    pub(super) fn is_shared(&self) -> bool {
        self.is_shared.load(Ordering::Relaxed)
    }

    /// Notices from an error of a statement that the session is not the one in which the statement was
    /// prepared, as after the mode of a pooler was changed. Nothing was carried out then.
    pub(super) fn notice(&self, error: &sqlx::Error) -> bool {
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        // No such prepared statement; one of that name.
        if !code.is_some_and(|code| ["26000", "42P05"].contains(&code.as_ref())) {
            return false;
        }
        if !self.is_shared.swap(true, Ordering::Relaxed) {
            tracing::warn!("a pooler has begun to share the arbiter's sessions");
        }
        true
    }
}

/// Connections whose statements are of one kind.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    pool: PgPool,
    session: Session,
    pub(super) server: Server,
}

impl Connections {
    pub(super) fn new(url: &str, session: Session, server: &Server) -> Result<Self, PostgresError> {
        let options = options(url)?;
        let prepared_for = server.clone();
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(CONNECT)
            .test_before_acquire(false)
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

    /// Returns the settings that statements must carry along, if any.
    pub(super) fn settings(&self) -> Option<&'static str> {
        self.server.is_shared().then(|| self.session.of_transaction())
    }

    /// Sends one statement on any connection.
    pub(super) async fn fetch(&self, statement: &Statement) -> Result<Vec<PgRow>, sqlx::Error> {
        let mut connection = self.acquire().await?;
        statement.fetch(&mut connection, self.settings()).await
    }

    /// Changes tables, durably, under the settings of one transaction wherever that runs.
    pub(super) async fn change(&self, statement: &str) -> Result<(), sqlx::Error> {
        let settings = self.session.of_transaction();
        let commit = self.server.commit;
        let text = format!("{settings} SET LOCAL synchronous_commit = '{commit}'; {statement}");
        let mut connection = self.acquire().await?;
        sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *connection).await.map(drop)
    }

    /// Runs a read on a connection of its own, within [`ANSWER`]. Connections that turn out to be dead,
    /// as all are after a restart of the server, are passed over.
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

/// Says whether an error is about the connection, and not about what was asked.
fn is_dead(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
        // The server is being shut down, or starts up; a pooler lost it.
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| code.starts_with("57P") || code.starts_with("08"))
        }
        _ => false,
    }
}

/// Closes a connection whose answer did not come, so that nobody waits for it again.
pub(super) fn abandon(connection: PoolConnection<Postgres>) {
    drop(connection.detach());
}

fn options(url: &str) -> Result<PgConnectOptions, PostgresError> {
    url::check(url)?;
    let options = PgConnectOptions::from_str(url).map_err(|_| PostgresError::Url)?;
    // Poolers refuse parameters that they do not know, and no number here has a fraction.
    let options = options.extra_float_digits(None);
    Ok(options.disable_statement_logging().application_name("fula"))
}

/// What is wrong with a session travels through the pool as a wrong configuration.
pub(super) fn into_sqlx(error: PostgresError) -> sqlx::Error {
    match error {
        PostgresError::Connect(error) => error,
        refused => sqlx::Error::Configuration(Box::new(refused)),
    }
}

/// Refuses servers that would lose writes; returns what `synchronous_commit` must be.
async fn check(connection: &mut PgConnection) -> Result<&'static str, PostgresError> {
    // What the session was given, whatever it was set to since by whoever shares it.
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

/// Returns whether sessions are shared between connections, as behind a pooler in transaction or
/// statement mode.
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

/// Makes sure that settings travel with a statement where sessions are shared.
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
        tracing::info!("a pooler shares the arbiter's sessions: settings go with every statement");
    }
    Ok(Server { commit, is_shared: Arc::new(AtomicBool::new(is_shared)) })
}

/// Waits until the arbiter answers; refuses at once what waiting cannot mend.
pub(super) async fn wait_for(url: &str) -> Result<Server, PostgresError> {
    let options = options(url)?;
    let address = url::place_of(url).unwrap_or_default();
    let deadline = Instant::now() + START;
    // Each reason is told once: nobody reads sixty equal lines.
    let mut told = String::new();
    loop {
        let looked = tokio::time::timeout(CONNECT + ANSWER, look(&options)).await;
        // The pools would try again and again, and say no more than that it took too long.
        match looked.unwrap_or(Err(PostgresError::Connect(sqlx::Error::PoolTimedOut))) {
            Err(PostgresError::Connect(error)) if Instant::now() < deadline => {
                // A wrong password or database does not mend itself.
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
