//! Sessions in MySQL or MariaDB.

use std::fmt;
use std::str::FromStr as _;
use std::sync::Arc;

use sqlx::mysql::{MySql, MySqlConnectOptions, MySqlPool};

use super::super::push::Push;
use super::body::sql_store;
use super::migrate::{Migrations, migrating};
use super::statement::{Dialect, Statements};
use super::{pool_options, try_out};

/// Sessions in MySQL 8 or later, or MariaDB 10.6 or later: for any number of nodes. A clone is another handle on the same
/// pool. (Feature `mysql`.)
///
/// ```no_run
/// # async fn example() -> Result<(), axum_refresh::StoreError> {
/// use axum_refresh::MySqlStore;
///
/// let store = MySqlStore::connect("mysql://app@db.example/app").await?;
/// store.migrate().await?;
/// # Ok(())
/// # }
/// ```
///
/// Revocations reach other nodes within a second; there is nothing by which this server could push them. It has to be the
/// primary: a replica that lags behind would bring back what was already superseded.
#[derive(Clone)]
pub struct MySqlStore(Arc<Inner>);

struct Inner {
    pool: MySqlPool,
    sql: Statements,
    push: Push,
}

const DIALECT: Dialect = Dialect {
    numbered: false,
    begin: "BEGIN",
    for_update: " FOR UPDATE",
    has_locks: true,
    greatest: "GREATEST",
    now: "CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)",
    seen: "UPDATE JSON_TABLE(?, '$[*]' COLUMNS (id CHAR(32) PATH '$[0]', seen BIGINT PATH '$[1]', \
           generation BIGINT PATH '$[2]')) AS batch \
           JOIN axum_refresh_sessions AS session ON session.id = UNHEX(batch.id) \
           SET session.last_seen_at = GREATEST(session.last_seen_at, batch.seen), \
           session.acknowledged = GREATEST(session.acknowledged, batch.generation)",
    purge: "DELETE FROM axum_refresh_sessions WHERE expires_at < ? ORDER BY expires_at LIMIT ?",
    purge_feed: "DELETE FROM axum_refresh_revocations WHERE until < ? ORDER BY until LIMIT ?",
    reads_only: "SELECT CAST(@@global.read_only AS SIGNED)",
    announce: "",
};

const MIGRATIONS: Migrations = Migrations {
    scripts: &[include_str!("schema/mysql.sql")],
    begin: "BEGIN",
    prepare: "",
    lock: "SELECT CAST(COALESCE(GET_LOCK('axum_refresh', 60), 0) AS SIGNED)",
};

/// Locks on rows, not on the gaps between them, and for no longer than a call waits.
const SESSION: &str =
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; SET SESSION innodb_lock_wait_timeout = 5";

impl MySqlStore {
    /// Connects with a pool of its own, of at most 10 connections.
    ///
    /// # Errors
    /// Where the URL is none, or the server cannot be reached or does not let us in.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let options = MySqlConnectOptions::from_str(url)
            .map_err(|error| StoreError::new(format!("not the URL of a MySQL database: {error}")))?;
        let name = format!("mysql://{}:{}", options.get_host(), options.get_port());
        try_out(&options, &name).await?;
        let pool = pool_options().after_connect(|connection, _| {
            Box::pin(async move { sqlx::raw_sql(SESSION).execute(connection).await.map(|_| ()) })
        });
        Ok(Self::new(pool.connect_lazy_with(options)))
    }

    /// Over a pool of the app's own. Its connections should read what is committed (`READ COMMITTED`), or logins of
    /// different users get into each other's way, and some fail.
    pub fn new(pool: MySqlPool) -> Self {
        Self(Arc::new(Inner { pool, sql: Statements::new(&DIALECT), push: Push::off() }))
    }
}

impl fmt::Debug for MySqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlStore").finish_non_exhaustive()
    }
}

sql_store!(MySqlStore, MySql, DIALECT);
migrating!(MySqlStore, MIGRATIONS);
