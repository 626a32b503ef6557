//! Sessions in a SQLite file.

use std::fmt;
use std::str::FromStr as _;
use std::sync::Arc;

use sqlx::sqlite::{Sqlite, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqliteSynchronous};

use super::super::push::Push;
use super::body::sql_store;
use super::migrate::{Migrations, migrating};
use super::statement::{Dialect, Statements};
use super::{pool_options, try_out};

/// Sessions in a SQLite file: for one machine, and they survive a restart. A clone is another handle on the same pool.
/// (Feature `sqlite`.)
///
/// ```no_run
/// # async fn example() -> Result<(), axum_refresh::StoreError> {
/// use axum_refresh::SqliteStore;
///
/// let store = SqliteStore::connect("sqlite:sessions.db").await?;
/// store.migrate().await?;
/// # Ok(())
/// # }
/// ```
///
/// Several processes of one machine may share the file; a revocation by another process is felt within a second.
/// Every commit is on the disk when it is answered.
#[derive(Clone)]
pub struct SqliteStore(Arc<Inner>);

struct Inner {
    pool: SqlitePool,
    sql: Statements,
    push: Push,
}

const DIALECT: Dialect = Dialect {
    numbered: false,
    // One writer at a time, and it is known to be one from the start.
    begin: "BEGIN IMMEDIATE",
    for_update: "",
    has_locks: false,
    greatest: "MAX",
    now: "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
    seen: "UPDATE axum_refresh_sessions SET last_seen_at = MAX(axum_refresh_sessions.last_seen_at, batch.seen), \
           acknowledged = MAX(axum_refresh_sessions.acknowledged, batch.generation) \
           FROM (SELECT unhex(value ->> 0) AS id, value ->> 1 AS seen, value ->> 2 AS generation FROM json_each(?)) \
           AS batch WHERE axum_refresh_sessions.id = batch.id",
    purge: "DELETE FROM axum_refresh_sessions WHERE place IN \
            (SELECT place FROM axum_refresh_sessions WHERE expires_at < ? ORDER BY expires_at LIMIT ?)",
    purge_feed: "DELETE FROM axum_refresh_revocations WHERE place IN \
                 (SELECT place FROM axum_refresh_revocations WHERE until < ? ORDER BY until LIMIT ?)",
    reads_only: "",
    announce: "",
};

const MIGRATIONS: Migrations =
    Migrations { scripts: &[include_str!("schema/sqlite.sql")], begin: "BEGIN IMMEDIATE", prepare: "", lock: "" };

impl SqliteStore {
    /// Opens the file, or makes it: `sqlite:sessions.db`, `sqlite:///var/lib/app/sessions.db`.
    ///
    /// # Errors
    /// Where the URL is none or the file cannot be opened and written. `sqlite::memory:` is one too: each connection
    /// would have sessions of its own; there is [`MemoryStore`](crate::MemoryStore).
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let problem = |what: String| StoreError::new(format!("{url}: {what}"));
        if !url.starts_with("sqlite:") {
            return Err(problem("not the URL of a SQLite database".to_owned()));
        }
        let options = SqliteConnectOptions::from_str(url).map_err(|error| problem(error.to_string()))?;
        if url.contains(":memory:") || url.contains("mode=memory") {
            return Err(problem("sessions in memory belong into MemoryStore".to_owned()));
        }
        let options = options
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(super::PATIENCE);
        try_out(&options, url).await?;
        Ok(Self::new(pool_options().connect_lazy_with(options)))
    }

    /// Over a pool of the app's own. Its connections should use the WAL journal and a busy timeout.
    pub fn new(pool: SqlitePool) -> Self {
        Self(Arc::new(Inner { pool, sql: Statements::new(&DIALECT), push: Push::within_the_process() }))
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

sql_store!(SqliteStore, Sqlite, DIALECT);
migrating!(SqliteStore, MIGRATIONS);
