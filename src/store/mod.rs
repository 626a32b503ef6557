//! Session stores: the built-in ones, and how to write your own.
//!
//! A store keeps one [`SessionRecord`] per session and a feed of revocations. It persists and compares; it makes no
//! decisions. Rotation, reuse detection, expiry and binding are decided above it, in [`ratchet`](crate::ratchet) and
//! [`Auth`](crate::Auth). The guide [`stores`](crate::guide::stores) compares the built-in stores.
//!
//! # Writing a store
//!
//! Implement the nine required methods of [`SessionStore`]. The trait uses the attribute macro of the crate
//! `async-trait`, so add that crate to your dependencies. This store wraps another one and counts how often a session
//! is loaded:
//!
//! ```
//! use std::sync::atomic::{AtomicU64, Ordering};
//!
//! use async_trait::async_trait;
//! use axum_refresh::store::{
//!     Activity, ExternalId, FeedCursor, FeedWindow, InsertOptions, Inserted, MemoryStore, Revocation, RevocationBatch,
//!     RevokeTarget, Revoked, SessionId, SessionRecord, SessionStore, StoreError, Timestamp,
//! };
//!
//! #[derive(Default)]
//! struct CountingStore {
//!     inner: MemoryStore,
//!     loads: AtomicU64,
//! }
//!
//! #[async_trait]
//! impl SessionStore for CountingStore {
//!     async fn insert(&self, new: &SessionRecord, options: InsertOptions) -> Result<Inserted, StoreError> {
//!         self.inner.insert(new, options).await
//!     }
//!     async fn load(&self, id: SessionId) -> Result<Option<SessionRecord>, StoreError> {
//!         self.loads.fetch_add(1, Ordering::Relaxed);
//!         self.inner.load(id).await
//!     }
//!     async fn compare_and_swap(&self, expected: u64, next: &SessionRecord) -> Result<bool, StoreError> {
//!         self.inner.compare_and_swap(expected, next).await
//!     }
//!     async fn list(&self, user_id: &str, limit: usize) -> Result<Vec<SessionRecord>, StoreError> {
//!         self.inner.list(user_id, limit).await
//!     }
//!     async fn find_external(&self, id: ExternalId) -> Result<Vec<SessionId>, StoreError> {
//!         self.inner.find_external(id).await
//!     }
//!     async fn revoke(&self, target: RevokeTarget<'_>, revocation: Revocation) -> Result<Revoked, StoreError> {
//!         self.inner.revoke(target, revocation).await
//!     }
//!     async fn record_activity(&self, batch: &[Activity]) -> Result<(), StoreError> {
//!         self.inner.record_activity(batch).await
//!     }
//!     async fn read_revocations(
//!         &self,
//!         since: FeedCursor,
//!         window: FeedWindow,
//!     ) -> Result<RevocationBatch, StoreError> {
//!         self.inner.read_revocations(since, window).await
//!     }
//!     async fn purge(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
//!         self.inner.purge(before, limit).await
//!     }
//!     async fn changed(&self) {
//!         self.inner.changed().await;
//!     }
//! }
//! ```
//!
//! A wrapper must forward [`changed`](SessionStore::changed) as well: its default implementation never returns, so the
//! feed would only be polled. The example `custom_store` in the repository is a complete store that appends to a file.
//!
//! # What a store must guarantee
//!
//! 1. **Atomicity.** Each call takes effect as one step, as seen from every node. This includes the entries that the
//!    call writes to the feed.
//! 2. **Freshness.** A call sees every write that finished before it started. A store over a replicated database must
//!    use the primary for reads too: a lagging replica returns rows that have been superseded.
//! 3. **Finality.** A revoked session stays revoked, with its first reason, until [`purge`](SessionStore::purge)
//!    deletes its row. A deleted row does not come back. (A session that has ended by a [cutoff](#revoking-many-sessions)
//!    may show the reason of a later one.)
//! 4. **Monotonic activity.** [`last_seen_at`](RotationState::last_seen_at) and
//!    [`acknowledged`](RotationState::acknowledged) never decrease, whichever call writes them.
//! 5. **A complete feed.** No revocation is ever missing from the feed, and an entry stays in it for
//!    [`FEED_RETENTION`]. Repeating an entry is allowed.
//! 6. **Exact user ids.** User ids are compared byte for byte: no case folding, trimming or Unicode normalization. They
//!    are at most 288 bytes long (in a realm, its name and a NUL come first) and may be empty.
//! 7. **Cancel safety.** The future of a call may be dropped at any await point. The step must then have happened
//!    entirely or not at all, and no lock may stay behind.
//! 8. **Honest errors.** A row that cannot be read is an error; it is never reported as missing. An error may leave
//!    open whether the step has happened: callers expect that.
//! 9. **Bounded waiting.** A call that takes longer than [`Settings::store_timeout`](crate::Settings::store_timeout)
//!    counts as failed.
//!
//! # Revoking many sessions
//!
//! A user may have a million sessions, and they have to end as fast as one. [`RevokeTarget::Users`] names a *scope*: a
//! user id, or [`everyone`] in a realm. A store for many sessions does not touch their rows. It keeps a *cutoff* for each
//! scope, and with each session the cutoffs of its two scopes as of the insert; the session is revoked if one of them
//! has risen since. One write revokes them all, however many there are, and names the scope in the feed
//! ([`RevokedItem::Users`]). A node that reads such an entry asks [`load`](SessionStore::load) about each session of the
//! scope, once, before it accepts its next access token. So it is the store that decides, by the order of its own writes,
//! and no clocks are compared.
//!
//! A small store may instead mark each session, and name each in the feed.
//!
//! # Sessions of an identity provider
//!
//! Some sessions belong to one at an identity provider, and have its hash in [`external`](SessionRecord::external).
//! [`find_external`](SessionStore::find_external) finds them by it, whoever their users are, so a store for many sessions
//! needs an index. It need hold only the sessions that have such a hash, and no refresh changes it.
//!
//! # Expiry
//!
//! A store may delete a session on its own after the session has expired, but should keep it for an hour:
//! [`RedisStore`] does so with key expiry.
//!
//! # Testing a store
//!
//! With the feature `conformance`, the macro `axum_refresh::store_conformance!` expands to one test for
//! each rule of the contract, races included. All built-in stores pass it. Put it in a module of its own:
//!
//! ```
//! # struct CountingStore;
//! #[cfg(test)]
//! mod contract {
//!     use super::CountingStore;
//!
//!     axum_refresh::store_conformance!(async { CountingStore::default() });
//! }
//! ```

#[cfg(any(test, feature = "conformance"))]
#[cfg_attr(docsrs, doc(cfg(feature = "conformance")))]
pub mod conformance;
#[cfg(any(feature = "_sql", feature = "redis"))]
mod encoding;
mod memory;
mod push;
#[cfg(feature = "redis")]
mod redis;
mod shared;
#[cfg(feature = "_sql")]
mod sql;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use self::memory::MemoryStore;
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use self::redis::{RedisOptions, RedisStore};
#[cfg(feature = "mysql")]
#[cfg_attr(docsrs, doc(cfg(feature = "mysql")))]
pub use self::sql::MySqlStore;
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub use self::sql::PostgresStore;
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use self::sql::SqliteStore;
pub use crate::config::{OnMaxSessions, Transport};
pub use crate::ratchet::RotationState;
pub use crate::session::{Actor, Authentication, Client, ExternalId, ParseSessionIdError, Revocation, SecretHash};
#[doc(no_inline)]
pub use crate::session::{RevocationReason, SessionId};
pub use crate::time::Timestamp;

/// Keeps sessions and the feed of revocations, for one node or many.
///
/// The [module documentation](self) lists what every method must guarantee and shows how to implement and test a store.
/// An `Arc<T>` of a store is a store too, and so is an `Arc<dyn SessionStore>`.
#[async_trait]
pub trait SessionStore: Send + Sync + 'static {
    /// Inserts a session. In the same step, enforces the session limit and revokes the session to be replaced.
    ///
    /// 1. [`options.replacing`](InsertOptions::replacing) names a session to revoke with the reason
    ///    [`Replaced`](RevocationReason::Replaced). It is ignored unless it exists, is not revoked yet and belongs to
    ///    the same user.
    /// 2. [`options.limit`](InsertOptions::limit) limits the user's live sessions, including the new one and without
    ///    the replaced one and those in which [somebody acts](SessionRecord::is_limited) for the user. A session is live if it
    ///    is not revoked, not expired and not idle for [`idle_timeout`](SessionLimit::idle_timeout) or for its
    ///    [own idle timeout](RotationState::idle_timeout), all as of `new.created_at`. If there is no room, either the
    ///    sessions with the earliest `created_at` are revoked with the reason [`Evicted`](RevocationReason::Evicted)
    ///    until there is (in the same millisecond, those inserted first), or nothing is written and the call returns
    ///    [`Inserted::LimitReached`]. [`SessionLimit::make_room`] makes this choice. The store may leave out sessions that are
    ///    older than the newest 10,000.
    /// 3. The new session is written as it is, version included.
    /// 4. The sessions revoked here get `new.created_at` as [`Revocation::at`], and enter the feed, also if they have
    ///    expired. If many have to make room, the store may raise the cutoff of the user instead, and move the sessions that
    ///    stay to the new cutoff.
    ///
    /// Concurrent inserts for one user must count each other: the limit holds at every moment. The call must not become
    /// slower with the number of sessions over the limit: a deploy may have switched the limit on.
    /// Without `limit` and `replacing`, the user's other sessions need not be read.
    ///
    /// # Errors
    ///
    /// Returns an error if a session with this id exists, even if it is revoked or expired. The existing session must
    /// not change.
    async fn insert(&self, new: &SessionRecord, options: InsertOptions) -> Result<Inserted, StoreError>;

    /// Returns the session with this id, or `None` if there is no such row.
    ///
    /// Revoked and expired sessions are returned as well, until they are purged.
    /// Read from the primary: a row from a lagging replica would bring back a superseded generation.
    ///
    /// # Errors
    ///
    /// Returns an error if the row cannot be read or decoded; never `None` in this case.
    async fn load(&self, id: SessionId) -> Result<Option<SessionRecord>, StoreError>;

    /// Writes `next` if the row with its id still has the version `expected`, and returns whether it did.
    ///
    /// On success, `claims`, `last_client` and `rotation` are replaced and the store increments the version; `next.version`
    /// is ignored. All other fields of a session never change, nor do `expires_at` and `idle_timeout` of the rotation
    /// state. `last_seen_at` and `acknowledged` become the maximum of the stored and the new value. If `next` is revoked, the
    /// revocation enters the feed in the same step.
    ///
    /// If the row does not exist, returns `false` and creates nothing. If its session was revoked by a cutoff, the call may
    /// write or not, and the session stays revoked. Of several concurrent calls with the same
    /// `expected`, exactly one succeeds.
    ///
    /// # Errors
    ///
    /// Returns an error if the store fails. A version mismatch is not an error.
    async fn compare_and_swap(&self, expected: u64, next: &SessionRecord) -> Result<bool, StoreError>;

    /// Returns the sessions of a user that are not revoked, in any order; of more than `limit` of them, those with the
    /// latest `created_at`.
    ///
    /// Expired sessions may be among them; the caller filters them out.
    /// A user without sessions gets an empty list.
    ///
    /// # Errors
    ///
    /// Returns an error if any of the rows cannot be read or decoded.
    async fn list(&self, user_id: &str, limit: usize) -> Result<Vec<SessionRecord>, StoreError>;

    /// Returns the sessions that belong to a session at an identity provider, in any order. Those that are revoked or expired
    /// may be among them or not.
    ///
    /// # Errors
    ///
    /// Returns an error if the store fails.
    async fn find_external(&self, id: ExternalId) -> Result<Vec<SessionId>, StoreError>;

    /// Revokes sessions or one access token, and returns what was revoked.
    ///
    /// - [`RevokeTarget::Session`]: the session is marked with `revocation`, unless it is marked already, and its version is
    ///   incremented, so that a concurrent [`compare_and_swap`](Self::compare_and_swap) fails. It enters the feed even if it
    ///   was revoked before or does not exist: a failover may have lost its row, while its access tokens are still in use.
    /// - [`RevokeTarget::Users`]: all sessions of the scope, except those that the target spares. Either the cutoff of the
    ///   scope rises, and the scope enters the feed; or each session that was not revoked yet is marked and enters the feed.
    ///   In both cases [`load`](Self::load) returns the sessions as revoked by `revocation`, unless they were marked before.
    ///   A session that is inserted concurrently is either among them or inserted entirely afterwards. The sessions of a
    ///   single user may not take longer the more there are.
    /// - [`RevokeTarget::Token`]: the token enters the feed. No row changes, and nothing is returned.
    ///
    /// Rows stay until they are purged.
    ///
    /// # Errors
    ///
    /// Returns an error if the store fails. Revoking again is harmless, so the caller can retry.
    async fn revoke(&self, target: RevokeTarget<'_>, revocation: Revocation) -> Result<Revoked, StoreError>;

    /// Merges the activity that a node has observed: `last_seen_at` and `acknowledged` become the maximum of the stored
    /// and the given value.
    ///
    /// Versions do not change, and revoked sessions stay revoked. Unknown sessions are skipped.
    /// A session may occur several times in a batch, and a batch may be empty.
    ///
    /// # Errors
    ///
    /// Returns an error if the store fails. The batch may then be written in part; the caller writes it again.
    async fn record_activity(&self, batch: &[Activity]) -> Result<(), StoreError>;

    /// Returns the next revocations that were written after `since`, oldest first, and the cursor for the next call.
    ///
    /// From [`FeedCursor::START`], reads everything that was written within [`max_age`](FeedWindow::max_age); older entries
    /// may be left out. Returns about [`limit`](FeedWindow::limit) entries, and whether there are
    /// [more](RevocationBatch::has_more). The returned cursor is never before `since`.
    ///
    /// An entry may be returned again by later calls, but none may be skipped. Mind transactions that commit late: an
    /// entry with a lower sequence number can become visible after one with a higher number. The SQL stores therefore
    /// return the entries of the last [`overlap`](FeedWindow::overlap) again.
    ///
    /// # Errors
    ///
    /// Returns an error if an entry cannot be decoded or the server is not the primary: a feed that may be incomplete
    /// must not pass for a complete one.
    async fn read_revocations(&self, since: FeedCursor, window: FeedWindow) -> Result<RevocationBatch, StoreError>;

    /// Deletes at most `limit` sessions that expired before `before`, and returns how many. Also deletes the feed's
    /// entries that are older than [`FEED_RETENTION`], and cutoffs that no session is left to concern.
    ///
    /// A store with a clock of its own deletes nothing that has not expired by that clock too: the clock of the caller may
    /// be wrong by days. The age of the feed's entries is counted by the store's clock alone.
    ///
    /// A result less than `limit` means that no such session is left. A session that expires at `before` exactly stays.
    /// The call must not block other calls for long: a large feed may be deleted in several calls.
    ///
    /// # Errors
    ///
    /// Returns an error if the store fails. Sessions deleted until then stay deleted.
    async fn purge(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError>;

    /// Completes when the feed may have changed since the returned future was first polled.
    ///
    /// A node polls this before it reads the feed, so no change is lost in between. Completing without a change is
    /// allowed. The default implementation never completes: the feed is polled every second in any case, and a store
    /// that pushes changes only makes them arrive sooner.
    async fn changed(&self) {
        std::future::pending().await
    }
}

/// A session as a store keeps it: one row, from login until [`purge`](SessionStore::purge).
///
/// The row contains no secret that would let somebody log in, only the hash of one. It implements serde's traits, so a
/// store may keep it as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// The id of the session. Its [`shard`](SessionId::shard) is the same for all sessions of a user.
    pub id: SessionId,
    /// The app's own id of the user, at most 288 bytes, compared byte for byte. In a [realm](crate::Settings::realm), the
    /// realm and a NUL come before it.
    pub user_id: Arc<str>,
    /// The hash of the secret that all refresh tokens of the session share.
    pub secret_hash: SecretHash,
    /// When the user logged in.
    pub created_at: Timestamp,
    /// The client that logged in. Never changes.
    pub client: Client,
    /// When and how the user was authenticated. Never changes.
    pub authentication: Authentication,
    /// Whether the cookies of this session outlive the browser; `None` if the settings decide. Never changes.
    #[serde(default)]
    pub persistent: Option<bool>,
    /// How the client got its tokens: [`Cookie`](Transport::Cookie) or [`Body`](Transport::Body). Never changes.
    pub transport: Transport,
    /// Whether the client has a refresh token. Never changes.
    pub can_refresh: bool,
    /// The session at an identity provider that this one belongs to. Never changes.
    #[serde(default)]
    pub external: Option<ExternalId>,
    /// The client of the last refresh, if it differed from the one before, and the app
    /// [judges changes](crate::AuthBuilder::risk_hook). A refresh may change it.
    #[serde(default)]
    pub last_client: Option<Client>,
    /// The app's claims as of login or of their last update, as the text of a JSON object.
    pub claims: Box<str>,
    /// The state of refresh token rotation. Every refresh changes it.
    pub rotation: RotationState,
    /// The number of writes so far, for [`compare_and_swap`](SessionStore::compare_and_swap): 0 in a new session.
    /// [`record_activity`](SessionStore::record_activity) does not count.
    pub version: u64,
}

impl SessionRecord {
    /// Whether the session counts for the [session limit](SessionLimit) and can be evicted: not if somebody acts for the
    /// user in it, because that must not end the user's own sessions.
    pub const fn is_limited(&self) -> bool {
        self.client.actor.is_none()
    }
}

/// The effects of [`insert`](SessionStore::insert) on the user's other sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InsertOptions {
    /// The session limit; `None` allows any number of sessions.
    pub limit: Option<SessionLimit>,
    /// The session that the new one replaces, if it belongs to the same user.
    pub replacing: Option<SessionId>,
}

/// The session limit: how many live sessions a user may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimit {
    /// The maximum number of live sessions, including the new one. At least 1; 0 counts as 1.
    pub max: u32,
    /// Whether an insert over the limit evicts the oldest sessions or is refused.
    pub on_max_sessions: OnMaxSessions,
    /// Sessions that have been idle for this long do not count.
    pub idle_timeout: Duration,
}

impl SessionLimit {
    /// Chooses the sessions that a new one evicts. `live` holds the user's live sessions without the new one and
    /// without the one it replaces.
    ///
    /// Returns the sessions to revoke, smallest first: an empty list if there is room, or `None` if there is no room
    /// and [`on_max_sessions`](Self::on_max_sessions) is [`Refuse`](OnMaxSessions::Refuse). Order the elements by age,
    /// for example as `(created_at, sequence number, id)`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use axum_refresh::store::{OnMaxSessions, SessionLimit};
    ///
    /// let evict = SessionLimit {
    ///     max: 2,
    ///     on_max_sessions: OnMaxSessions::EvictOldest,
    ///     idle_timeout: Duration::from_secs(3600),
    /// };
    /// assert_eq!(evict.make_room(vec![1]), Some(vec![]));
    /// assert_eq!(evict.make_room(vec![3, 1, 2]), Some(vec![1, 2]));
    ///
    /// let refuse = SessionLimit { on_max_sessions: OnMaxSessions::Refuse, ..evict };
    /// assert_eq!(refuse.make_room(vec![1, 2]), None);
    /// ```
    pub fn make_room<T: Ord>(&self, mut live: Vec<T>) -> Option<Vec<T>> {
        let room = usize::try_from(self.max.saturating_sub(1)).unwrap_or(usize::MAX);
        let excess = live.len().saturating_sub(room);
        if excess > 0 && self.on_max_sessions == OnMaxSessions::Refuse {
            return None;
        }
        live.sort_unstable();
        live.truncate(excess);
        Some(live)
    }
}

/// The result of [`insert`](SessionStore::insert).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// The session was inserted, and these other sessions of the user were revoked: evicted or replaced.
    Done(Revoked),
    /// The user has reached the session limit, and nothing was written.
    LimitReached,
}

/// What [`revoke`](SessionStore::revoke) revokes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokeTarget<'a> {
    /// One session, with all its access tokens.
    Session(SessionId),
    /// All sessions of a user, or of everyone in a realm.
    Users {
        /// The user id, as in [`SessionRecord::user_id`], or [`everyone`].
        scope: &'a str,
        /// A session that is not revoked. None if the scope is everyone.
        except: Option<SessionId>,
        /// Sessions with a later `created_at` are not revoked: for a revocation that is written late. None if the scope is
        /// everyone.
        created_until: Option<Timestamp>,
    },
    /// One access token, by its `jti` claim. Its session is not revoked.
    Token(&'a str),
}

/// What a node has observed of a session's client since its row was last written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// The id of the session.
    pub id: SessionId,
    /// When the client last used a token of the session.
    pub last_seen_at: Timestamp,
    /// The highest generation whose refresh token is known to have reached the client; `None` if none was observed.
    pub acknowledged: Option<u32>,
}

/// A position in the feed of revocations. Its number is the store's own: a sequence number or a time, for example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FeedCursor(pub i64);

impl FeedCursor {
    /// The position before the first entry.
    pub const START: Self = Self(i64::MIN);
}

/// Which part of the feed of revocations a call reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedWindow {
    /// Entries that were written longer ago may be left out: no access token that they concern is valid on the node that
    /// reads.
    pub max_age: Duration,
    /// How much later than its neighbors an entry can become visible, because its transaction was slow.
    pub overlap: Duration,
    /// About how many entries one call returns. At least 1. Those of the last [`overlap`](Self::overlap) may be more.
    pub limit: usize,
}

/// An entry of the feed of revocations.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RevocationEntry {
    /// What was revoked.
    pub item: RevokedItem,
    /// How long ago the entry was written, by the store's clock. Zero if the store does not know.
    pub age: Duration,
}

/// What an entry of the feed revokes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RevokedItem {
    /// One session, with all its access tokens.
    Session(SessionId),
    /// One access token, by its `jti` claim.
    Token(Box<str>),
    /// All sessions of a scope that the store reports as revoked.
    Users(RevokedUsers),
}

/// A revocation of all sessions of a user, or of everyone in a realm.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RevokedUsers {
    /// The user id, or [`everyone`].
    pub scope: Box<str>,
    /// The new cutoff of the scope: higher than every earlier one.
    pub cutoff: i64,
    /// The [time](Revocation::at) of the revocation.
    pub revoked_at: Timestamp,
    /// Which sessions of the scope were spared. If the store loses the revocation, a node repeats it with the same exception.
    pub spared: Spared,
}

/// Which sessions a revocation of a user has spared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Spared {
    /// None.
    #[default]
    Nothing,
    /// One session: see [`RevokeTarget::Users`].
    Session(SessionId),
    /// The newest sessions: a login has evicted the others. If the store loses it, nobody repeats it: the next login with a
    /// limit does.
    Newest,
}

/// What a call has revoked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// The sessions that were marked one by one, and were live before: neither revoked nor expired.
    pub sessions: Vec<SessionId>,
    /// The scope whose cutoff has risen.
    pub users: Option<RevokedUsers>,
    /// How many sessions were live before, those in `sessions` included. Above a thousand, it may include sessions that
    /// had ended otherwise and were not purged yet. 0 if the scope is everyone: they are not counted.
    pub count: usize,
}

impl From<Vec<SessionId>> for Revoked {
    fn from(sessions: Vec<SessionId>) -> Self {
        Self { count: sessions.len(), sessions, users: None }
    }
}

/// The result of [`read_revocations`](SessionStore::read_revocations).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationBatch {
    /// The entries, oldest first.
    pub entries: Vec<RevocationEntry>,
    /// The position from which to read next.
    pub next: FeedCursor,
    /// Whether there are more entries after `next` already.
    pub has_more: bool,
    /// The store's clock, if it has one of its own.
    pub now: Option<Timestamp>,
}

/// How long an entry stays in the feed: longer than any node can need it, whatever its settings. An access token is valid
/// for at most 24 hours, and a clock may be wrong by the longest grace period.
pub const FEED_RETENTION: Duration = Duration::from_secs(24 * 3600 + 4 * 60);

/// Separates the realm from the user id in what a store keeps. Neither contains it.
pub(crate) const SEPARATOR: char = '\0';

/// The scope of everyone in the realm of a user: the second scope of each session, beside its user.
///
/// ```
/// use axum_refresh::store::everyone;
///
/// assert_eq!(everyone("alice"), "\0\0");
/// assert_eq!(everyone("staff\0alice"), "staff\0\0");
/// ```
pub fn everyone(user_id: &str) -> String {
    let realm = user_id.split_once(SEPARATOR).map_or("", |(realm, _)| realm);
    format!("{realm}{SEPARATOR}{SEPARATOR}")
}

/// A call of the store failed. Whether it took effect may be unknown.
#[derive(Debug, thiserror::Error)]
#[error("session store: {0}")]
pub struct StoreError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl StoreError {
    /// Wraps a driver's error, or a message.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}
