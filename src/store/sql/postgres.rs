//! Sessions in PostgreSQL.

use std::fmt;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, Postgres};
use tokio::sync::Notify;

use super::super::push::Push;
use super::body::sql_store;
use super::migrate::{Migrations, migrating};
use super::statement::{Dialect, Statements};
use super::{pool_options, try_out};

/// Sessions in PostgreSQL 12 or later: for any number of nodes. A clone is another handle on the same pool. (Feature
/// `postgres`.)
///
/// ```no_run
/// # async fn example() -> Result<(), axum_refresh::StoreError> {
/// use axum_refresh::PostgresStore;
///
/// let store = PostgresStore::connect("postgres://app@db.example/app").await?.push();
/// store.migrate().await?;
/// # Ok(())
/// # }
/// ```
///
/// It has to be the primary: a replica that lags behind would bring back what was already superseded. Where a failover
/// loses what was committed last, a revocation of the last moment is lost with it, unless a node that knows of it is
/// still there; so a synchronous replica is worth its price.
#[derive(Clone)]
pub struct PostgresStore(Arc<Inner>);

struct Inner {
    pool: PgPool,
    sql: Statements,
    push: Push,
}

const DIALECT: Dialect = Dialect {
    numbered: true,
    // Whatever the database's default is: what was committed while we waited for a lock has to be seen.
    begin: "BEGIN ISOLATION LEVEL READ COMMITTED",
    for_update: " FOR UPDATE",
    has_locks: true,
    greatest: "GREATEST",
    now: "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
    seen: "UPDATE axum_refresh_sessions AS session \
           SET last_seen_at = GREATEST(session.last_seen_at, batch.seen), \
           acknowledged = GREATEST(session.acknowledged, batch.generation) \
           FROM (SELECT decode(entry ->> 0, 'hex') AS id, CAST(entry ->> 1 AS BIGINT) AS seen, \
           CAST(entry ->> 2 AS BIGINT) AS generation FROM json_array_elements(CAST(? AS JSON)) AS entry) AS batch \
           WHERE session.id = batch.id",
    // An array, because a subquery behind IN may be joined to the whole table.
    purge: "DELETE FROM axum_refresh_sessions WHERE id = ANY (ARRAY (SELECT id FROM axum_refresh_sessions \
            WHERE expires_at < ? ORDER BY expires_at LIMIT ?))",
    purge_feed: "DELETE FROM axum_refresh_revocations WHERE place = ANY (ARRAY (SELECT place FROM axum_refresh_revocations \
                 WHERE until < ? ORDER BY until LIMIT ?))",
    reads_only: "SELECT CAST(CAST(pg_is_in_recovery() AS INTEGER) AS BIGINT)",
    announce: "SELECT pg_notify('axum_refresh', '')",
};

const CHANNEL: &str = "axum_refresh";

const MIGRATIONS: Migrations = Migrations {
    scripts: &[include_str!("schema/postgres.sql")],
    begin: "BEGIN ISOLATION LEVEL READ COMMITTED",
    prepare: "SET LOCAL statement_timeout = '60s'",
    lock: "SELECT CAST(1 AS BIGINT) FROM pg_advisory_xact_lock(7021790216)",
};

/// A server that nobody talks to any more gives up what is under way, and lets go of what is locked.
const SESSION: &str = "SET statement_timeout = '5s'; SET idle_in_transaction_session_timeout = '10s'";

/// How long to wait before listening again after the connection was lost.
const PAUSE: Duration = Duration::from_secs(1);

impl PostgresStore {
    /// Connects with a pool of its own: at most 10 connections, at most 5 seconds for a statement.
    ///
    /// # Errors
    /// Where the URL is none, or the server cannot be reached or does not let us in.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|error| StoreError::new(format!("not the URL of a Postgres database: {error}")))?;
        let name = format!("postgres://{}:{}", options.get_host(), options.get_port());
        try_out(&options, &name).await?;
        let pool = pool_options().after_connect(|connection, _| {
            Box::pin(async move { sqlx::raw_sql(SESSION).execute(connection).await.map(|_| ()) })
        });
        Ok(Self::new(pool.connect_lazy_with(options)))
    }

    /// Over a pool of the app's own. It should have a `statement_timeout`, and room for one connection more where the
    /// store is to [`push`](Self::push).
    pub fn new(pool: PgPool) -> Self {
        Self(Arc::new(Inner { pool, sql: Statements::new(&DIALECT), push: Push::off() }))
    }

    /// Has revocations pushed, so that other nodes feel them in milliseconds and not within a second. Takes one
    /// connection for itself (`LISTEN`), so it does not work through a pooler that shares connections.
    ///
    /// Without it they are polled, every second. Has to be called on a tokio runtime.
    #[must_use]
    pub fn push(self) -> Self {
        let pool = self.0.pool.clone();
        let push = Push::listening(|changed| listen(pool.clone(), changed));
        Self(Arc::new(Inner { pool, sql: Statements::new(&DIALECT), push }))
    }
}

/// Listens for as long as the pool is open, and says so too when it could not listen for a while.
async fn listen(pool: PgPool, changed: Arc<Notify>) {
    while !pool.is_closed() {
        if let Ok(mut listener) = PgListener::connect_with(&pool).await
            && listener.listen(CHANNEL).await.is_ok()
        {
            changed.notify_waiters();
            // None is said where the connection was lost and is there again, an error where it is not.
            while listener.try_recv().await.is_ok() {
                changed.notify_waiters();
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").finish_non_exhaustive()
    }
}

sql_store!(PostgresStore, Postgres, DIALECT);
migrating!(PostgresStore, MIGRATIONS);
