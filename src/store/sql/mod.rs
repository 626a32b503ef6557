//! Sessions in SQL databases: one implementation for three of them.

mod migrate;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
mod row;
#[cfg(feature = "sqlite")]
mod sqlite;
mod statements;
mod store;

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

/// The longest wait for a connection or for a lock.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that was idle for longer than this is pinged before use: the server may have closed it.
const PING_AFTER: Duration = Duration::from_secs(1);
/// How often a transaction is tried that conflicts with others.
const MAX_TRIES: u32 = 10;
/// How many entries of the feed one statement deletes.
const FEED_PURGE_STEP: i64 = 5_000;
/// How many such statements one call executes at most.
const MAX_FEED_PURGE_STEPS: u32 = 10;
/// How many cutoffs one call looks at, to delete those of users without sessions.
const CUTOFF_PURGE_STEP: i64 = 1_000;
/// How long a cutoff stays at least. Longer than a call can take, and than clocks differ.
const CUTOFF_RETENTION: Duration = Duration::from_secs(24 * 3600);
/// An insert that evicts more sessions raises the cutoff of the user, and does not mark them one by one.
const MAX_MARKED: i64 = 200;
/// How many sessions of a user a login with a session limit examines, the newest. If they reach the limit, it evicts what is
/// further back.
const MAX_EXAMINED: i64 = 10_000;
/// Up to this number, the sessions that a new cutoff revokes are counted exactly.
const MAX_EXACTLY_COUNTED: i64 = 1_000;
/// The highest number that is counted at all.
const MAX_COUNTED: i64 = 100_000;
/// The pause before the first retry of a transaction. Each further one is longer by as much.
const RETRY_PAUSE: Duration = Duration::from_millis(3);
/// How many sessions one statement updates at most.
const CHUNK: usize = 500;
/// The number of rows that the migrations insert into `axum_refresh_locks`.
const STRIPES: u16 = 1024;

/// The lock that serializes the logins of a user. Other users may share it.
fn stripe(user_id: &[u8]) -> i64 {
    let digest: [u8; 32] = Sha256::digest(user_id).into();
    let [high, low, ..] = digest;
    i64::from(u16::from_be_bytes([high, low]) % STRIPES)
}

fn failed(error: sqlx::Error) -> StoreError {
    StoreError::new(error)
}

/// Whether the database aborted the transaction because of a conflict: a serialization failure (SQLSTATE 40001) or a
/// deadlock (40P01).
fn is_conflict(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == "40001" || code == "40P01")
}

/// Awaits a call, and retries it while it conflicts with other transactions.
macro_rules! retry_conflicts {
    ($call:expr) => {{
        let mut tries = 1;
        loop {
            match $call.await {
                Err(error) if tries < $crate::store::sql::MAX_TRIES && $crate::store::sql::is_conflict(&error) => {
                    tokio::time::sleep($crate::store::sql::RETRY_PAUSE * tries).await;
                    tries += 1;
                }
                result => break result.map_err($crate::store::sql::failed),
            }
        }
    }};
}
use retry_conflicts;

/// A connection for one call. If the call fails or is cancelled, the connection is closed: its state is unknown, and
/// the server may never reply.
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

/// The options of the pools that the stores create. Only connections that were idle are pinged before use.
fn pool_options<DB: Database>() -> PoolOptions<DB> {
    PoolOptions::new().acquire_timeout(TIMEOUT).test_before_acquire(false).before_acquire(
        |connection: &mut DB::Connection, about| {
            Box::pin(async move {
                if about.idle_for > PING_AFTER {
                    connection.ping().await?;
                }
                Ok(true)
            })
        },
    )
}

/// Connects once, so that a problem is reported at start-up and with the server's own message, not as a pool timeout.
async fn test_connection<O: sqlx::ConnectOptions<Connection: Sized>>(
    options: &O,
    server: &str,
) -> Result<O::Connection, StoreError> {
    let failed = |problem: String| StoreError::new(format!("{server}: {problem}"));
    let connected = tokio::time::timeout(TIMEOUT, options.connect()).await;
    connected
        .map_err(|_| {
            failed(format!("no reply within {} seconds; check the address and the firewall", TIMEOUT.as_secs()))
        })?
        .map_err(|error| failed(error.to_string()))
}
