//! Sessions in MySQL or MariaDB.

use std::fmt;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex};

use sqlx::Connection as _;
use sqlx::mysql::{MySql, MySqlConnectOptions, MySqlPool};

use super::super::push::Push;
use super::migrate::{Migrations, migrating};
use super::statements::{Dialect, Statements};
use super::store::sql_store;
use super::{pool_options, test_connection};

/// Keeps sessions in MySQL 8 or later, or MariaDB 10.6 or later, for any number of nodes. Requires the feature `mysql`.
///
/// A clone is another handle to the same pool.
///
/// ```no_run
/// # async fn example() -> Result<(), axum_refresh::store::StoreError> {
/// use axum_refresh::MySqlStore;
///
/// let store = MySqlStore::connect("mysql://app@db.example/app").await?;
/// store.migrate().await?;
/// # Ok(())
/// # }
/// ```
///
/// Revocations reach other nodes within a second: the feed is polled, because the server cannot push. Connect to the
/// primary: a lagging replica would return rows that have been superseded.
#[derive(Clone)]
pub struct MySqlStore(Arc<Inner>);

struct Inner {
    pool: MySqlPool,
    sql: Statements,
    push: Push,
    /// The scope from which the next call purges cutoffs.
    purge_from: Mutex<Vec<u8>>,
}

const DIALECT: Dialect = Dialect {
    numbered: false,
    begin: "BEGIN",
    for_update: " FOR UPDATE",
    has_locks: true,
    greatest: "GREATEST",
    now: "CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)",
    record_activity: "UPDATE JSON_TABLE(?, '$[*]' COLUMNS (id CHAR(32) PATH '$[0]', \
                      last_seen_at BIGINT PATH '$[1]', acknowledged BIGINT PATH '$[2]')) AS batch \
                      JOIN axum_refresh_sessions AS session ON session.id = UNHEX(batch.id) \
                      SET session.last_seen_at = GREATEST(session.last_seen_at, batch.last_seen_at), \
                      session.acknowledged = GREATEST(session.acknowledged, batch.acknowledged)",
    revoke_all: "UPDATE JSON_TABLE(?, '$[*]' COLUMNS (id CHAR(32) PATH '$')) AS batch \
                 JOIN axum_refresh_sessions AS session ON session.id = UNHEX(batch.id) \
                 SET session.revoked_at = ?, session.revoked_reason = ?, session.user_cutoff = -1, \
                 session.version = session.version + 1 WHERE session.revoked_at IS NULL",
    publish_all: "SELECT UNHEX(entry.id) AS id FROM JSON_TABLE(?, '$[*]' COLUMNS (id CHAR(32) PATH '$')) AS entry",
    on_conflict: "ON DUPLICATE KEY UPDATE cutoff = GREATEST(cutoff + 1, VALUES(cutoff)), \
                  revoked_at = VALUES(revoked_at), revoked_reason = VALUES(revoked_reason)",
    purge: "DELETE FROM axum_refresh_sessions WHERE expires_at < ? ORDER BY expires_at LIMIT ?",
    purge_feed: "DELETE FROM axum_refresh_revocations WHERE written_at < ? ORDER BY written_at LIMIT ?",
    is_read_only: "SELECT CAST(@@global.read_only AS SIGNED)",
    has_clock: true,
    notify: "",
};

const MIGRATIONS: Migrations = Migrations {
    scripts: &[include_str!("schema/mysql.sql")],
    begin: "BEGIN",
    prepare: "",
    lock: "SELECT CAST(COALESCE(GET_LOCK('axum_refresh', 60), 0) AS SIGNED)",
};

/// Locks rows only, not the gaps between them, and waits at most 5 seconds for a lock.
const SESSION: &str =
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; SET SESSION innodb_lock_wait_timeout = 5";

impl MySqlStore {
    /// Connects with a pool of its own, of at most 10 connections. The URL is `mysql://user:password@host/database`.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL is invalid, or if the server is unreachable or refuses the login.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let options = MySqlConnectOptions::from_str(url)
            .map_err(|error| StoreError::new(format!("invalid MySQL URL: {error}")))?;
        let name = format!("mysql://{}:{}", options.get_host(), options.get_port());
        test_connection(&options, &name).await?.close().await.map_err(StoreError::new)?;
        let pool = pool_options().after_connect(|connection, _| {
            Box::pin(async move { sqlx::raw_sql(SESSION).execute(connection).await.map(|_| ()) })
        });
        Ok(Self::new(pool.connect_lazy_with(options)))
    }

    /// Uses a pool of the app's own; requires sqlx 0.9. Its connections should use the isolation level
    /// `READ COMMITTED`; with a stricter one, concurrent logins of different users block each other, and some fail.
    pub fn new(pool: MySqlPool) -> Self {
        Self(Arc::new(Inner {
            pool,
            sql: Statements::new(&DIALECT),
            push: Push::disabled(),
            purge_from: Mutex::default(),
        }))
    }
}

impl fmt::Debug for MySqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlStore").finish_non_exhaustive()
    }
}

sql_store!(MySqlStore, MySql, DIALECT);
migrating!(MySqlStore, MIGRATIONS);
