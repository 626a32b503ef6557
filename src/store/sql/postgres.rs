//! Sessions in PostgreSQL.

use std::fmt;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPool, Postgres};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use tokio::sync::Notify;

use super::super::push::Push;
use super::migrate::{Migrations, migrating};
use super::statements::{Dialect, Statements};
use super::store::sql_store;
use super::{failed, pool_options, test_connection};

/// Keeps sessions in PostgreSQL 12 or later, for any number of nodes. Requires the feature `postgres`.
///
/// A clone is another handle to the same pool.
///
/// ```no_run
/// # async fn example() -> Result<(), axum_refresh::store::StoreError> {
/// use axum_refresh::PostgresStore;
///
/// let store = PostgresStore::connect("postgres://app@db.example/app").await?.push();
/// store.migrate().await?;
/// # Ok(())
/// # }
/// ```
///
/// Connect to the primary: a lagging replica would return rows that have been superseded. A failover to an asynchronous
/// replica loses the last commits. A revocation among them is lost too, unless a node that knows of it is still
/// running; a synchronous replica prevents this.
///
/// A connection pooler such as PgBouncer has to be in session mode: see
/// [the guide](crate::guide::stores#poolers).
#[derive(Clone)]
pub struct PostgresStore(Arc<Inner>);

struct Inner {
    pool: PgPool,
    sql: Statements,
    push: Push,
    /// The scope from which the next call purges cutoffs.
    purge_from: Mutex<Vec<u8>>,
}

const DIALECT: Dialect = Dialect {
    numbered: true,
    // Regardless of the database's default: rows committed while waiting for a lock must be visible.
    begin: "BEGIN ISOLATION LEVEL READ COMMITTED",
    for_update: " FOR UPDATE",
    has_locks: true,
    greatest: "GREATEST",
    now: "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
    record_activity: "UPDATE axum_refresh_sessions AS session \
                      SET last_seen_at = GREATEST(session.last_seen_at, batch.last_seen_at), \
                      acknowledged = GREATEST(session.acknowledged, batch.acknowledged) \
                      FROM (SELECT decode(entry ->> 0, 'hex') AS id, CAST(entry ->> 1 AS BIGINT) AS last_seen_at, \
                      CAST(entry ->> 2 AS BIGINT) AS acknowledged \
                      FROM json_array_elements(CAST(? AS JSON)) AS entry) AS batch WHERE session.id = batch.id",
    revoke_all: "WITH batch AS (SELECT decode(entry, 'hex') AS id \
                 FROM json_array_elements_text(CAST(? AS JSON)) AS entry) \
                 UPDATE axum_refresh_sessions AS session \
                 SET revoked_at = ?, revoked_reason = ?, user_cutoff = -1, version = version + 1 \
                 FROM batch WHERE session.id = batch.id AND session.revoked_at IS NULL",
    publish_all: "SELECT decode(entry, 'hex') AS id FROM json_array_elements_text(CAST(? AS JSON)) AS entry",
    on_conflict: "ON CONFLICT (scope) DO UPDATE SET \
                  cutoff = GREATEST(axum_refresh_cutoffs.cutoff + 1, excluded.cutoff), \
                  revoked_at = excluded.revoked_at, revoked_reason = excluded.revoked_reason",
    // An array, because the planner may join a subquery in IN to the whole table.
    purge: "DELETE FROM axum_refresh_sessions WHERE id = ANY (ARRAY (SELECT id FROM axum_refresh_sessions \
            WHERE expires_at < ? ORDER BY expires_at LIMIT ?))",
    purge_feed: "DELETE FROM axum_refresh_revocations WHERE seq = ANY (ARRAY (SELECT seq FROM axum_refresh_revocations \
                 WHERE written_at < ? ORDER BY written_at LIMIT ?))",
    is_read_only: "SELECT CAST(CAST(pg_is_in_recovery() AS INTEGER) AS BIGINT)",
    has_clock: true,
    notify: "SELECT pg_notify('axum_refresh', '')",
};

const CHANNEL: &str = "axum_refresh";

const MIGRATIONS: Migrations = Migrations {
    scripts: &[include_str!("schema/postgres.sql")],
    begin: "BEGIN ISOLATION LEVEL READ COMMITTED",
    prepare: "SET LOCAL statement_timeout = '60s'",
    lock: "SELECT CAST(1 AS BIGINT) FROM pg_advisory_xact_lock(7021790216)",
};

/// The server aborts the transactions of a client that has vanished, which releases their locks. Without bitmap scans,
/// the newest sessions of a user are always read in the order of the index: the planner does not know how many they are,
/// and might read and sort a million of them.
///
/// They are sent in the startup packet, and not with `SET`: through a pooler, `SET` would change a connection to the
/// server that other applications use afterwards.
const SETTINGS: [(&str, &str); 3] =
    [("statement_timeout", "5s"), ("idle_in_transaction_session_timeout", "10s"), ("enable_bitmapscan", "off")];

/// The identity of a connection to the server. The process ids of two servers may be equal, but hardly their start too.
const BACKEND: &str = "SELECT concat(pg_backend_pid(), ' ', \
                       CAST(EXTRACT(EPOCH FROM pg_postmaster_start_time()) * 1000000 AS BIGINT))";
/// How often the connections to the server are compared. Other clients of the pooler may get one in between.
const COMPARISONS: u32 = 5;
/// How long they are compared at most: in session mode, the second one may have to wait until the first one is closed.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause before listening again after the connection was lost.
const LISTEN_PAUSE: Duration = Duration::from_secs(1);

impl PostgresStore {
    /// Connects with a pool of its own, of at most 10 connections and with a statement timeout of 5 seconds. The URL is
    /// `postgres://user:password@host/database`.
    ///
    /// The connections have the settings `statement_timeout = 5s`, `idle_in_transaction_session_timeout = 10s` and
    /// `enable_bitmapscan = off`, unless the URL sets them: `?options[statement_timeout]=2s`.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL is invalid, or if the server is unreachable or refuses the login. Also if it is a
    /// connection pooler that refuses these settings or is in transaction mode: see
    /// [the guide](crate::guide::stores#poolers).
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|error| StoreError::new(format!("invalid PostgreSQL URL: {error}")))?;
        let options = with_settings(options);
        let mut connection = test_connection(&options, &name(&options)).await.map_err(explain_refused_settings)?;
        if shares_backends(&mut connection, &options).await == Some(true) {
            return Err(transaction_mode(&options));
        }
        // An error does not matter: the pool has connections of its own.
        connection.close().await.ok();
        Ok(Self::new(pool_options().connect_lazy_with(options)))
    }

    /// Uses a pool of the app's own; requires sqlx 0.9. Its connections should have a `statement_timeout`, and
    /// [`push`](Self::push) needs one connection more. If a user may have thousands of sessions, also set
    /// `enable_bitmapscan = off`, so that the newest are read without the others. Set both with
    /// [`PgConnectOptions::options`], or for the role: through a pooler, `SET` may change the connections of other
    /// applications.
    ///
    /// A connection pooler has to be in session mode. [`migrate`](Self::migrate) and [`check`](Self::check) find out
    /// if it is not: see [the guide](crate::guide::stores#poolers).
    pub fn new(pool: PgPool) -> Self {
        Self(Arc::new(Inner {
            pool,
            sql: Statements::new(&DIALECT),
            push: Push::disabled(),
            purge_from: Mutex::default(),
        }))
    }

    /// Listens for revocations by other nodes, so that they arrive within milliseconds. Without this, the feed is
    /// polled every second.
    ///
    /// Takes one connection of the pool for `LISTEN`. Through a connection pooler, this works in session mode, where it
    /// also keeps one connection to the server. In transaction mode, `LISTEN` would stay on a connection that others use.
    ///
    /// # Panics
    ///
    /// Panics if called outside a tokio runtime.
    #[must_use]
    pub fn push(self) -> Self {
        let pool = self.0.pool.clone();
        let push = Push::listening(|changed| listen(pool.clone(), changed));
        Self(Arc::new(Inner { pool, sql: Statements::new(&DIALECT), push, purge_from: Mutex::default() }))
    }
}

/// Adds [`SETTINGS`]. What the URL or the environment sets takes precedence.
fn with_settings(options: PgConnectOptions) -> PgConnectOptions {
    let theirs = options.get_options().unwrap_or_default().to_ascii_lowercase().replace('-', "_");
    let ours = SETTINGS.into_iter().filter(|(name, _)| !theirs.contains(name));
    // sqlx also sends `extra_float_digits`, which poolers refuse. The store has no floats.
    options.options(ours).extra_float_digits(None)
}

fn name(options: &PgConnectOptions) -> String {
    format!("postgres://{}:{}", options.get_host(), options.get_port())
}

/// Adds what to do if a pooler refuses [`SETTINGS`]. A server accepts all of them.
fn explain_refused_settings(error: StoreError) -> StoreError {
    if !error.to_string().contains("unsupported startup parameter") {
        return error;
    }
    StoreError::new(format!(
        "{}; a connection pooler refuses session settings: connect to the server directly, or to a pooler in \
         session mode with \"ignore_startup_parameters = options\"",
        error.0
    ))
}

fn transaction_mode(options: &PgConnectOptions) -> StoreError {
    StoreError::new(format!(
        "{}: a connection pooler in transaction mode, where prepared statements and LISTEN do not work; connect to the \
         server directly, or to a pooler in session mode",
        name(options)
    ))
}

/// Returns an error if the pool is connected to a pooler in transaction mode.
async fn refuse_transaction_mode(pool: &PgPool) -> Result<(), StoreError> {
    let options = pool.connect_options();
    let mut lease = Lease::<Postgres>::new(pool.acquire().await.map_err(failed)?);
    match shares_backends(&mut lease.connection, &options).await {
        Some(true) => return Err(transaction_mode(&options)),
        Some(false) => lease.done(),
        // The connection may still wait for a reply.
        None => {}
    }
    Ok(())
}

/// Whether a pooler assigns connections to the server for each transaction or statement. `None` if that cannot be found
/// out: a second connection may be one too many for the server, or have to wait for the first one in session mode.
///
/// The second connection is not one of the pool, which may have only one.
async fn shares_backends(first: &mut PgConnection, options: &PgConnectOptions) -> Option<bool> {
    let compare = async {
        let mut second = options.connect().await?;
        let backend = backend(first).await?;
        let mut is_shared = false;
        for _ in 0..COMPARISONS {
            // Usually a pooler assigns the connection that it has used last. If it assigns them in turn, or if others use
            // it, then the first client gets another one than before.
            is_shared |= self::backend(&mut second).await? == backend || self::backend(first).await? != backend;
        }
        second.close().await?;
        Ok::<_, sqlx::Error>(is_shared)
    };
    tokio::time::timeout(COMPARE_TIMEOUT, compare).await.ok()?.ok()
}

/// Does not use a prepared statement, which would stay on the connection to the server.
async fn backend(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    sqlx::raw_sql(BACKEND).fetch_one(connection).await?.try_get(0)
}

/// Listens as long as the pool is open. Also notifies after each reconnect, since notifications may have been missed.
async fn listen(pool: PgPool, changed: Arc<Notify>) {
    while !pool.is_closed() {
        if let Ok(mut listener) = PgListener::connect_with(&pool).await
            && listener.listen(CHANNEL).await.is_ok()
        {
            changed.notify_waiters();
            // `Ok(None)` means that the connection was lost and restored, an error that it could not be restored.
            while listener.try_recv().await.is_ok() {
                changed.notify_waiters();
            }
        }
        tokio::time::sleep(LISTEN_PAUSE).await;
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").finish_non_exhaustive()
    }
}

sql_store!(PostgresStore, Postgres, DIALECT);
migrating!(PostgresStore, MIGRATIONS, refuse_transaction_mode);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_the_url_take_precedence_over_those_of_the_store() {
        let settings = |url: &str| with_settings(url.parse().unwrap()).get_options().unwrap_or_default().to_owned();
        let ours = "-c statement_timeout=5s -c idle_in_transaction_session_timeout=10s -c enable_bitmapscan=off";
        assert_eq!(settings("postgres://app@db/app"), ours);
        let schema = settings("postgres://app@db/app?options[search_path]=auth");
        assert_eq!(schema, format!("-c search_path=auth {ours}"));
        let without_timeout = "-c idle_in_transaction_session_timeout=10s -c enable_bitmapscan=off";
        let theirs = settings("postgres://app@db/app?options[statement_timeout]=2s");
        assert_eq!(theirs, format!("-c statement_timeout=2s {without_timeout}"));
        let theirs = settings("postgres://app@db/app?options=--Statement-Timeout%3D2s");
        assert_eq!(theirs, format!("--Statement-Timeout=2s {without_timeout}"));
    }
}
