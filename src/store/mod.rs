//! Where sessions are kept.
//!
//! A store persists and compares; it decides nothing. All rules live above it, in [`ratchet`](crate::ratchet) and
//! [`Auth`](crate::Auth). So a store of your own is eight short methods, and [`conformance`](crate::store_conformance)
//! (feature `conformance`) tests all of them, races included.

#[cfg(any(test, feature = "conformance"))]
#[doc(hidden)]
pub mod conformance;
mod memory;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "_sql")]
mod sql;

use std::time::Duration;

use async_trait::async_trait;

pub use self::memory::MemoryStore;
#[cfg(feature = "redis")]
pub use self::redis::{RedisOptions, RedisStore};
#[cfg(feature = "mysql")]
pub use self::sql::MySqlStore;
#[cfg(feature = "postgres")]
pub use self::sql::PostgresStore;
#[cfg(feature = "sqlite")]
pub use self::sql::SqliteStore;
use crate::policy::CapResponse;
use crate::session::{Revocation, Session, SessionId, Timestamp};

/// Keeps sessions, on one machine or many.
///
/// Every method is one atomic step for whoever looks on, from any node. None of them may wait for long: a call that
/// takes longer than [`Settings::store_timeout`](crate::Settings::store_timeout) counts as failed.
#[async_trait]
pub trait SessionStore: Send + Sync + 'static {
    /// Adds a session, makes room for it where the user has too many, and ends the one that it replaces: one step.
    ///
    /// A session is live here when it is not revoked, not expired, and not idle for `cap.idle_timeout`, all as of
    /// `new.created_at`. Where the cap is reached, either the sessions that were created first (of those created in the
    /// same millisecond, inserted first) are revoked (reason `Evicted`) until there is room, or nothing at all is done and the answer is [`Inserted::Full`]. A session to be
    /// replaced is revoked (reason `Replaced`) only if it is the same user's, and takes up no room.
    ///
    /// # Errors
    /// Also where a session with this id exists: it is not overwritten.
    async fn insert(&self, new: &Session, admission: Admission) -> Result<Inserted, StoreError>;

    /// The session, revoked or not; none where there is no such row. From the primary: a replica that lags behind
    /// would bring back what was already superseded.
    async fn load(&self, id: SessionId) -> Result<Option<Session>, StoreError>;

    /// Writes `next` if, and only if, the row with its id still has version `expected`; answers whether it did.
    ///
    /// What changes is `claims` and `chain`; the version is counted up by the store. `last_seen_at` and `acknowledged`
    /// never go back. A row that is gone stays gone. Where `next` is revoked, the revocation enters the feed in the
    /// same step.
    async fn swap(&self, expected: u64, next: &Session) -> Result<bool, StoreError>;

    /// The sessions of a user that are not revoked, in any order; expired ones may be among them.
    async fn list(&self, user: &str) -> Result<Vec<Session>, StoreError>;

    /// Ends sessions, or one access token. Answers the sessions that were neither revoked nor expired before.
    ///
    /// Whatever it names enters the feed in the same step, also a session that was revoked already, or that the store
    /// does not have (any more): access tokens of it may be out. A revoked row is kept until it is purged, and counts up
    /// its version, so that a swap under way fails.
    async fn revoke(&self, target: Target<'_>, revocation: Revocation) -> Result<Vec<SessionId>, StoreError>;

    /// Takes over what nodes have seen of clients. Each value is a maximum, versions do not move, and sessions that
    /// are revoked or gone stay so.
    async fn seen(&self, batch: &[Seen]) -> Result<(), StoreError>;

    /// What was revoked after `since`, oldest first. [`Cursor::START`] asks for everything that is not past its
    /// `until`. An entry may come twice; none may be left out, also none whose transaction was slow to commit.
    async fn revocations(&self, since: Cursor) -> Result<Feed, StoreError>;

    /// Drops at most `limit` sessions that expired before `before`, and what is past its `until` in the feed. Answers
    /// how many sessions; fewer than `limit` means that none is left.
    async fn purge(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError>;

    /// Returns when there may be something new in the feed. A store that cannot push leaves this as it is: the feed is
    /// polled every second anyway.
    async fn changed(&self) {
        std::future::pending().await
    }
}

/// What a new session does to the user's others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// How many live sessions the user may have; none: any number.
    pub cap: Option<Cap>,
    /// The session that this one takes the place of.
    pub replacing: Option<SessionId>,
    /// For how long nodes have to remember the sessions that end by this: the `until` of their revocations.
    pub until: Timestamp,
}

/// How many live sessions a user may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cap {
    /// The most, with the new one. At least 1.
    pub max: u32,
    /// What happens when there is no room.
    pub response: CapResponse,
    /// Sessions that were idle for this long take up no room.
    pub idle_timeout: Duration,
}

impl Cap {
    /// Which of these live sessions have to go for a new one, first those that sort first; none where one would have to
    /// and may not.
    pub(crate) fn make_room<T: Ord>(&self, mut live: Vec<T>) -> Option<Vec<T>> {
        let room = usize::try_from(self.max.saturating_sub(1)).unwrap_or(usize::MAX);
        let excess = live.len().saturating_sub(room);
        if excess > 0 && self.response == CapResponse::Refuse {
            return None;
        }
        live.sort_unstable();
        live.truncate(excess);
        Some(live)
    }
}

/// What came of an insertion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// The session is in; these others were ended for it.
    Done(Vec<SessionId>),
    /// The user has too many sessions, and nothing was done.
    Full,
}

/// What is to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// One session.
    Session(SessionId),
    /// All sessions of a user.
    User {
        /// Whose.
        user: &'a str,
        /// All but this one.
        except: Option<SessionId>,
    },
    /// One access token, by its `jti`; its session lives on.
    Token(&'a str),
}

/// What a node has seen of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The client's session.
    pub id: SessionId,
    /// When it was last heard of.
    pub last_seen_at: Timestamp,
    /// The highest generation that it is known to have received.
    pub acknowledged: Option<u32>,
}

/// A place in the feed of revocations, in whatever way the store counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(pub i64);

impl Cursor {
    /// Before the first entry.
    pub const START: Self = Self(i64::MIN);
}

/// One entry of the feed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Revoked {
    /// What has ended.
    pub what: Ended,
    /// How long nodes have to remember it.
    pub until: Timestamp,
}

/// What has ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    /// A session, with all its access tokens.
    Session(SessionId),
    /// One access token, by its `jti`.
    Token(Box<str>),
}

/// A stretch of the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feed {
    /// The entries.
    pub revoked: Vec<Revoked>,
    /// Where to go on from.
    pub next: Cursor,
}

/// The store could not do what it was asked to, or it is not known whether it did.
#[derive(Debug, thiserror::Error)]
#[error("session store: {0}")]
pub struct StoreError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl StoreError {
    /// From a driver's error, or from a text.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}
