//! Sessions in PostgreSQL.

use std::fmt;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, Postgres};
use tokio::sync::Notify;

use super::super::push::Push;
use super::migrate::{Migrations, migrating};
use super::statements::{Dialect, Statements};
use super::store::sql_store;
use super::{pool_options, test_connection};

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
const SESSION: &str = "SET statement_timeout = '5s'; SET idle_in_transaction_session_timeout = '10s'; \
                       SET enable_bitmapscan = off";

/// The pause before listening again after the connection was lost.
const LISTEN_PAUSE: Duration = Duration::from_secs(1);

impl PostgresStore {
    /// Connects with a pool of its own, of at most 10 connections and with a statement timeout of 5 seconds. The URL is
    /// `postgres://user:password@host/database`.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL is invalid, or if the server is unreachable or refuses the login.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|error| StoreError::new(format!("invalid PostgreSQL URL: {error}")))?;
        let name = format!("postgres://{}:{}", options.get_host(), options.get_port());
        test_connection(&options, &name).await?;
        let pool = pool_options().after_connect(|connection, _| {
            Box::pin(async move { sqlx::raw_sql(SESSION).execute(connection).await.map(|_| ()) })
        });
        Ok(Self::new(pool.connect_lazy_with(options)))
    }

    /// Uses a pool of the app's own; requires sqlx 0.9. Its connections should have a `statement_timeout`, and
    /// [`push`](Self::push) needs one connection more. If a user may have thousands of sessions, also
    /// `SET enable_bitmapscan = off`, so that the newest are read without the others.
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
    /// Takes one connection of the pool for `LISTEN`, so it does not work through a pooler that shares connections.
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
migrating!(PostgresStore, MIGRATIONS);
