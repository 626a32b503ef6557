//! Sessions in a SQLite file.

use std::fmt;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex};

use sqlx::Connection as _;
use sqlx::sqlite::{Sqlite, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqliteSynchronous};

use super::super::push::Push;
use super::migrate::{Migrations, migrating};
use super::statements::{Dialect, Statements};
use super::store::sql_store;
use super::{pool_options, test_connection};

/// Keeps sessions in a SQLite file, for the processes of one machine. Requires the feature `sqlite`.
///
/// A clone is another handle to the same pool.
///
/// ```no_run
/// # async fn example() -> Result<(), axum_refresh::store::StoreError> {
/// use axum_refresh::SqliteStore;
///
/// let store = SqliteStore::connect("sqlite:sessions.db").await?;
/// store.migrate().await?;
/// # Ok(())
/// # }
/// ```
///
/// Several processes may share the file; a revocation reaches the other processes within a second. Every call that
/// writes returns after its commit was synced to disk.
#[derive(Clone)]
pub struct SqliteStore(Arc<Inner>);

struct Inner {
    pool: SqlitePool,
    sql: Statements,
    push: Push,
    /// The scope from which the next call purges cutoffs.
    purge_from: Mutex<Vec<u8>>,
}

const DIALECT: Dialect = Dialect {
    numbered: false,
    // Takes the write lock first: a transaction that starts as a reader may fail when it writes.
    begin: "BEGIN IMMEDIATE",
    for_update: "",
    has_locks: false,
    greatest: "MAX",
    now: "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
    record_activity: "UPDATE axum_refresh_sessions \
                      SET last_seen_at = MAX(axum_refresh_sessions.last_seen_at, batch.last_seen_at), \
                      acknowledged = MAX(axum_refresh_sessions.acknowledged, batch.acknowledged) \
                      FROM (SELECT unhex(value ->> 0) AS id, value ->> 1 AS last_seen_at, value ->> 2 AS acknowledged \
                      FROM json_each(?)) AS batch WHERE axum_refresh_sessions.id = batch.id",
    revoke_all: "WITH batch AS (SELECT unhex(value) AS id FROM json_each(?)) \
                 UPDATE axum_refresh_sessions \
                 SET revoked_at = ?, revoked_reason = ?, user_cutoff = -1, version = version + 1 \
                 FROM batch WHERE axum_refresh_sessions.id = batch.id AND revoked_at IS NULL",
    publish_all: "SELECT unhex(value) AS id FROM json_each(?)",
    on_conflict: "ON CONFLICT (scope) DO UPDATE SET cutoff = MAX(axum_refresh_cutoffs.cutoff + 1, excluded.cutoff), \
                  revoked_at = excluded.revoked_at, revoked_reason = excluded.revoked_reason",
    purge: "DELETE FROM axum_refresh_sessions WHERE seq IN \
            (SELECT seq FROM axum_refresh_sessions WHERE expires_at < ? ORDER BY expires_at LIMIT ?)",
    purge_feed: "DELETE FROM axum_refresh_revocations WHERE seq IN \
                 (SELECT seq FROM axum_refresh_revocations WHERE written_at < ? ORDER BY written_at LIMIT ?)",
    is_read_only: "SELECT 0",
    // The clock of this machine, like the caller's.
    has_clock: false,
    notify: "",
};

const MIGRATIONS: Migrations =
    Migrations { scripts: &[include_str!("schema/sqlite.sql")], begin: "BEGIN IMMEDIATE", prepare: "", lock: "" };

impl SqliteStore {
    /// Opens the file, or creates it, with a pool of at most 10 connections. The URL is `sqlite:sessions.db` or
    /// `sqlite:///var/lib/app/sessions.db`.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL is invalid or the file cannot be opened and written. `sqlite::memory:` is refused,
    /// because each connection of the pool would have sessions of its own; use [`MemoryStore`](crate::MemoryStore).
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let failed = |problem: String| StoreError::new(format!("{url}: {problem}"));
        if !url.starts_with("sqlite:") {
            return Err(failed("not a SQLite URL; expected `sqlite:FILE`".to_owned()));
        }
        let options = SqliteConnectOptions::from_str(url).map_err(|error| failed(error.to_string()))?;
        if url.contains(":memory:") || url.contains("mode=memory") {
            return Err(failed("in-memory databases are not supported; use MemoryStore".to_owned()));
        }
        let options = options
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(super::TIMEOUT);
        test_connection(&options, url).await?.close().await.map_err(StoreError::new)?;
        Ok(Self::new(pool_options().connect_lazy_with(options)))
    }

    /// Uses a pool of the app's own; requires sqlx 0.9. Its connections should use the WAL journal mode and a busy
    /// timeout: the [guide](crate::guide::stores#sqlite-with-the-apps-own-pool) has an example.
    pub fn new(pool: SqlitePool) -> Self {
        Self(Arc::new(Inner {
            pool,
            sql: Statements::new(&DIALECT),
            push: Push::in_process(),
            purge_from: Mutex::default(),
        }))
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

sql_store!(SqliteStore, Sqlite, DIALECT);
migrating!(SqliteStore, MIGRATIONS);
