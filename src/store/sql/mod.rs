//! Sessions in a SQL database: one body for three of them.

mod body;
mod migrate;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
mod row;
#[cfg(feature = "sqlite")]
mod sqlite;
mod statement;

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use sqlx::pool::{PoolConnection, PoolOptions};
use sqlx::{Connection as _, Database};

#[cfg(feature = "mysql")]
pub use self::mysql::MySqlStore;
#[cfg(feature = "postgres")]
pub use self::postgres::PostgresStore;
#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteStore;
use super::StoreError;

/// No call, and no part of one, waits for the database longer than this.
const PATIENCE: Duration = Duration::from_secs(5);
/// A connection that nobody used for this long is tried before it is used: the server may have gone meanwhile.
const IDLE: Duration = Duration::from_secs(1);
/// How often a transaction is tried that lost to another one.
const TRIES: u32 = 10;
/// How much of the feed one statement drops, and how many such statements there are at most in one call.
const FEED_STEP: i64 = 5_000;
const FEED_STEPS: u32 = 10;
/// How long to wait, and once more every time, before a transaction is tried again.
const PAUSE: Duration = Duration::from_millis(3);
/// How many sessions one statement names.
const CHUNK: usize = 500;
/// As many as the migrations make.
const STRIPES: u16 = 1024;

/// Which of the locks keeps the logins of a user apart. Others share it, and wait a little.
fn stripe(user: &[u8]) -> i64 {
    let digest: [u8; 32] = Sha256::digest(user).into();
    let [high, low, ..] = digest;
    i64::from(u16::from_be_bytes([high, low]) % STRIPES)
}

fn failed(error: sqlx::Error) -> StoreError {
    StoreError::new(error)
}

/// Whether the database gave up one of two transactions that were in each other's way (SQLSTATE 40001 and 40P01).
fn is_conflict(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == "40001" || code == "40P01")
}

/// Awaits a call, and again where it lost to another transaction.
macro_rules! again {
    ($call:expr) => {{
        let mut tries = 1;
        loop {
            match $call.await {
                Err(error) if tries < $crate::store::sql::TRIES && $crate::store::sql::is_conflict(&error) => {
                    tokio::time::sleep($crate::store::sql::PAUSE * tries).await;
                    tries += 1;
                }
                result => break result.map_err($crate::store::sql::failed),
            }
        }
    }};
}
use again;

/// A connection for one call. Where the call fails, or its caller stops waiting, it is closed: who knows in what state
/// it is, and whether the server ever answers.
struct Lease<DB: Database> {
    connection: PoolConnection<DB>,
    is_done: bool,
}

impl<DB: Database> Lease<DB> {
    fn new(connection: PoolConnection<DB>) -> Self {
        Self { connection, is_done: false }
    }

    fn done(mut self) {
        self.is_done = true;
    }
}

impl<DB: Database> Drop for Lease<DB> {
    fn drop(&mut self) {
        if !self.is_done {
            self.connection.close_on_drop();
        }
    }
}

/// The settings of our own pools. Every connection is tried where it was idle, which costs a busy one nothing.
fn pool_options<DB: Database>() -> PoolOptions<DB> {
    PoolOptions::new().acquire_timeout(PATIENCE).test_before_acquire(false).before_acquire(
        |connection: &mut DB::Connection, about| {
            Box::pin(async move {
                if about.idle_for > IDLE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        },
    )
}

/// Connects once, so that what is wrong is said at the start and in the server's own words, and not that a pool timed out.
async fn try_out<O: sqlx::ConnectOptions<Connection: Sized>>(options: &O, where_to: &str) -> Result<(), StoreError> {
    let problem = |what: String| StoreError::new(format!("{where_to}: {what}"));
    let connected = tokio::time::timeout(PATIENCE, options.connect()).await;
    let connection = connected
        .map_err(|_| problem(format!("no answer within {} seconds", PATIENCE.as_secs())))?
        .map_err(|error| problem(error.to_string()))?;
    connection.close().await.map_err(|error| problem(error.to_string()))
}
