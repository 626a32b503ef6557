//! Sessions in Redis. Each call that writes is one script, so it is atomic, on a cluster too.
//!
//! All keys of a shard have its number as their hash tag, so they lie in one slot of a cluster:
//!
//! | key | type | content |
//! |---|---|---|
//! | `axum-refresh:{7}:session:ID` | hash | a session |
//! | `axum-refresh:{7}:user:USER` | sorted set | a user's session ids in order of insertion; some may be revoked |
//! | `axum-refresh:{7}:external:HASH` | set | the ids of the sessions of one at an identity provider; some may be gone |
//! | `axum-refresh:{7}:expiries` | sorted set | the id and user of every session, by its `expires_at` |
//! | `axum-refresh:{7}:feed` | sorted set | the entries of the feed, by the server's time of writing |
//! | `axum-refresh:{7}:cutoffs` | hash | for each scope that was revoked: its cutoff and revocation, as `CUTOFF:JSON` |
//! | `axum-refresh:{7}:cutoff-expiries` | sorted set | the same scopes, by when no row is left that the cutoff concerns |
//! | `axum-refresh:changed` | channel | an empty message for every write to a feed |
//!
//! A row has the cutoffs of its user and of everyone as of the insert (`uc` and `ec`, 0 if there was none). The session is
//! revoked if the row has a revocation of its own, or if one of these cutoffs has risen since.

mod connection;
mod feed;
mod keys;
mod options;
mod push;
mod revoke;
mod row;
#[cfg(feature = "tls")]
mod tls;

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use redis::aio::ConnectionManager;
use redis::{Script, Value};

use self::connection::Connection;
pub use self::options::RedisOptions;
use super::push::Push;
use super::{
    Activity, ExternalId, FEED_RETENTION, FeedCursor, FeedWindow, InsertOptions, Inserted, RevocationBatch,
    RevokeTarget, Revoked, SEPARATOR, SessionRecord, SessionStore, Spared, StoreError,
};
use crate::config::OnMaxSessions;
use crate::session::{Revocation, RevocationReason, SessionId};
use crate::time::Timestamp;

/// Keeps sessions in Redis 6 or later, or Valkey, for any number of nodes. Requires the feature `redis`.
///
/// A clone is another handle to the same connection.
///
/// ```no_run
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// use axum_refresh::RedisStore;
///
/// let store = RedisStore::connect("redis://127.0.0.1/").await?;
/// # Ok(()) }
/// ```
///
/// Loading a session and a compare-and-swap are one script and one round trip each. A login also takes one round trip, or
/// two if there is a session limit and the user has other sessions. Listing the sessions of a user, revoking all of them or
/// finding those that belong to a session at an identity provider takes two, and revoking everyone's three; what a
/// revocation writes does not depend on the number of sessions.
///
/// A node has one connection for all calls and a second one that listens for revocations, so that they reach every node
/// within milliseconds; without it, within a second.
///
/// # Server configuration
///
/// - Set `maxmemory-policy noeviction`. A server that evicts keys when it is full logs users out and may lose
///   revocations.
/// - Enable persistence (`appendonly yes`). Without it, a restart of the server logs everybody out. With the default
///   `appendfsync everysec`, a crash loses up to a second of writes. So does a failover: replication is asynchronous,
///   and the store does not wait for replicas. A lost refresh logs nobody out, because a token that is newer than its
///   row is accepted. A lost login logs that user out. A lost revocation is written again within a minute by the nodes
///   that know of it; if all nodes go down together with the server, revoke the session again. So does a failover of one
///   shard of a cluster just after everyone was revoked ([`Auth::revoke_all`](crate::Auth::revoke_all)): repeat the call.
/// - Connect to the primary, never to a replica. A server that refuses writes is an error, when connecting and later.
///   The store then reconnects, so it follows an address that moves to another server.
/// - Keys expire on their own, an hour after the session that they belong to. This uses the server's clock only, so it
///   does not depend on a node's clock. Nothing else may write keys with the prefix.
///
/// # Failures
///
/// An unreachable server is an error at once. A server that does not reply is an error after at most twice
/// [`timeout`](RedisOptions::timeout). Both are used again as soon as they reply. A command that was sent to an
/// unresponsive server may still be carried out later.
#[derive(Clone)]
pub struct RedisStore(Arc<Shared>);

struct Shared {
    connection: Connection,
    prefix: String,
    push: Push,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("prefix", &self.0.prefix).finish_non_exhaustive()
    }
}

/// The number of shards: a shard is the first four bits of a session id.
const SHARDS: u8 = 16;
/// How far back from its cursor the feed is read again, in milliseconds: the clocks of a cluster's nodes, or of a
/// server and its successor, may differ.
const OVERLAP_MILLIS: i64 = 10_000;
/// How long a key outlives the session or entry that it belongs to, in milliseconds.
const TTL_MARGIN: i64 = 3_600_000;
/// How long an entry stays in the feed, and how long the feed lives after the last one, in milliseconds.
const FEED_MILLIS: i64 = FEED_RETENTION.as_secs() as i64 * 1_000;
const FEED_TTL: i64 = FEED_MILLIS + TTL_MARGIN;
/// How many sessions of a user one call reads at most.
const MAX_WINDOW: usize = 1_000_000;
/// A hundred years, in milliseconds. A time to live that overflows the server's clock would be an error.
const MAX_TTL: i64 = 3_155_760_000_000;
/// How often a call is tried while the user's sessions change concurrently. Each failed try means that another call has
/// succeeded.
const MAX_TRIES: usize = 200;
/// How many sessions of a user are counted one by one when they are revoked.
const MAX_COUNTED: usize = 1_000;
/// How many sessions a login evicts one by one; more are revoked by a cutoff.
const MAX_MARKED: usize = 200;
/// How many sessions of a user a login with a session limit reads, the newest. If they reach the limit, it evicts what is
/// further back.
const MAX_EXAMINED: usize = 10_000;
/// How many of the newest sessions in a user's index a login reads at least.
const MIN_WINDOW: usize = 1_200;
/// How many sessions are read beyond those that are needed: the index is in the order of insertion, and logins that are
/// concurrent may be inserted in another order than that of their times.
const WINDOW_MARGIN: usize = 400;
/// How many items one script deletes, so that it does not block other clients for long.
const PURGE_STEP: usize = 1_000;

macro_rules! scripts {
    ($($name:ident = $($file:literal)+;)+) => {
        $(static $name: LazyLock<Script> = LazyLock::new(|| Script::new(concat!($(include_str!($file)),+)));)+
    };
}

scripts! {
    INSERT = "scripts/common.lua" "scripts/insert.lua";
    COMPARE_AND_SWAP = "scripts/common.lua" "scripts/compare_and_swap.lua";
    LOAD = "scripts/load.lua";
    LIST = "scripts/common.lua" "scripts/list.lua";
    EXTERNAL_MEMBERS = "scripts/external_members.lua";
    EXTERNAL_ROWS = "scripts/external_rows.lua";
    REVOKE = "scripts/common.lua" "scripts/revoke.lua";
    REVOKE_USER = "scripts/common.lua" "scripts/revoke_user.lua";
    REVOKE_EVERYONE = "scripts/common.lua" "scripts/revoke_everyone.lua";
    REVOKE_TOKEN = "scripts/common.lua" "scripts/revoke_token.lua";
    RECORD_ACTIVITY = "scripts/record_activity.lua";
    READ_REVOCATIONS = "scripts/read_revocations.lua";
    PURGE_FEED = "scripts/purge_feed.lua";
    PURGE_SESSIONS = "scripts/purge_sessions.lua";
}

impl RedisStore {
    /// Connects to a server with the default options. The URL is `redis://[[user]:password@]host[:port][/database]`, or
    /// with the feature `tls` also `rediss://…`.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL is invalid, or if the server is unreachable, refuses the password or is a replica.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::options().connect(url).await
    }

    /// Returns the default options, to be changed before connecting.
    pub fn options() -> RedisOptions {
        RedisOptions::default()
    }

    /// Uses a connection of the app's own, with that connection's timeouts. Revocations by other nodes are polled every
    /// second, not pushed. The server is not contacted here.
    pub fn new(connection: ConnectionManager) -> Self {
        Self::over(Connection::single(connection), Self::options().prefix, Push::disabled())
    }

    fn over(connection: Connection, prefix: String, push: Push) -> Self {
        Self(Arc::new(Shared { connection, prefix, push }))
    }

    fn connection(&self) -> &Connection {
        &self.0.connection
    }

    /// Checks that the server is reachable, accepts the password and accepts writes.
    async fn check(&self) -> Result<(), StoreError> {
        let mut read = READ_REVOCATIONS.key(self.feed(0));
        self.connection().run::<Value>(read.arg("").arg(0).arg(1).arg(0).arg(1)).await.map(drop)
    }

    /// Deletes the expired sessions of one shard, the old entries of its feed and the cutoffs that concern no session.
    async fn purge_shard(&self, shard: u8, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let mut purged = 0;
        loop {
            let step = (limit - purged).min(PURGE_STEP);
            let mut script = PURGE_FEED.key(self.feed(shard));
            script
                .key(self.expiries(shard))
                .key(self.cutoffs(shard))
                .key(self.cutoff_expiries(shard))
                .arg(before.as_millis())
                .arg(step)
                .arg(PURGE_STEP)
                .arg(FEED_MILLIS);
            let (others, expired): (usize, Vec<String>) = self.connection().run(&script).await?;
            if !expired.is_empty() {
                let mut script = PURGE_SESSIONS.key(self.expiries(shard));
                for entry in &expired {
                    let (id, user) = entry
                        .split_at_checked(row::ID_LENGTH)
                        .ok_or_else(|| unreadable("an entry of the session expiries"))?;
                    script.key(self.key(shard, &format!("session:{id}"))).key(self.key(shard, &format!("user:{user}")));
                    script.arg(entry).arg(id);
                }
                // Another node may have purged some of them meanwhile, so only the deleted ones count.
                purged += self.connection().run::<usize>(&script).await?;
            }
            if purged >= limit || (others < PURGE_STEP && expired.len() < step) {
                return Ok(purged);
            }
        }
    }
}

#[async_trait]
impl SessionStore for RedisStore {
    async fn insert(&self, new: &SessionRecord, options: InsertOptions) -> Result<Inserted, StoreError> {
        let shard = new.id.shard();
        if shard != SessionId::shard_of(&new.user_id) {
            return Err(StoreError::new("insert: the shard of the session's id is not the shard of its user"));
        }
        let (now, expires) = (new.created_at, new.rotation.expires_at);
        let fields = row::fields(new)?;
        // A session in another shard belongs to another user.
        let replacing = options.replacing.filter(|id| id.shard() == shard);
        let revocation = |reason| row::revocation(&Revocation { at: now, reason });
        let (evicted, replaced) = (revocation(RevocationReason::Evicted)?, revocation(RevocationReason::Replaced)?);
        let needed = options.limit.map_or(0, |limit| usize::try_from(limit.max).unwrap_or(usize::MAX));
        let mut window = needed.saturating_add(WINDOW_MARGIN).clamp(MIN_WINDOW, MAX_WINDOW);
        let max_window = window.max(MAX_EXAMINED);
        let mut known = Vec::from_iter(replacing);
        for _ in 0..MAX_TRIES {
            let mut script = INSERT.key(self.row(new.id));
            script
                .key(self.index(&new.user_id))
                .key(self.expiries(shard))
                .key(self.feed(shard))
                .key(self.cutoffs(shard))
                .key(self.cutoff_expiries(shard));
            script.key(self.rows(&known)).key(new.external.map(|external| self.external(shard, external)));
            script.arg(new.id.to_string()).arg(&*new.user_id).arg(now.as_millis()).arg(expires.as_millis());
            script.arg(ttl(now, expires));
            match options.limit {
                None => script.arg("").arg(0).arg(0),
                Some(limit) => {
                    let idle = i64::try_from(limit.idle_timeout.as_millis()).unwrap_or(i64::MAX);
                    script
                        .arg(limit.max.max(1))
                        .arg(i32::from(limit.on_max_sessions == OnMaxSessions::Refuse))
                        .arg(idle)
                }
            };
            script.arg(window);
            script.arg(replacing.map(|id| id.to_string()).unwrap_or_default()).arg(&evicted).arg(&replaced);
            script.arg(self.channel()).arg(FEED_TTL).arg(MAX_MARKED).arg(max_window);
            script.arg(i32::from(new.external.is_some()));
            script.arg(fields.len()).arg(&fields).arg(texts(&known));
            let (status, sessions, cutoff, count): (String, Vec<String>, String, usize) =
                self.connection().run(&script).await?;
            match status.as_str() {
                "done" => {
                    let users = match cutoff.as_str() {
                        "" => None,
                        cutoff => Some(feed::revoked_users(&new.user_id, cutoff, now, Spared::Newest)?),
                    };
                    return Ok(Inserted::Done(Revoked { sessions: ids(&sessions)?, users, count }));
                }
                "limit_reached" => return Ok(Inserted::LimitReached),
                "wider" => window = window.saturating_mul(2).min(max_window),
                "retry" => known = first_known(replacing, &sessions)?,
                _ => return Err(StoreError::new("insert: a session with this id already exists")),
            }
        }
        Err(too_busy())
    }

    async fn load(&self, id: SessionId) -> Result<Option<SessionRecord>, StoreError> {
        let mut script = LOAD.key(self.row(id));
        script.key(self.cutoffs(id.shard()));
        let (row, user, everyone): (Value, Option<Vec<u8>>, Option<Vec<u8>>) = self.connection().run(&script).await?;
        row::session(id, row, [user, everyone])
    }

    async fn compare_and_swap(&self, expected: u64, next: &SessionRecord) -> Result<bool, StoreError> {
        let shard = next.id.shard();
        let mut script = COMPARE_AND_SWAP.key(self.row(next.id));
        script.key(self.feed(shard)).key(self.cutoffs(shard)).arg(expected).arg(expected.saturating_add(1));
        row::add_changing_fields(next, &mut script)?;
        if let Some(revocation) = next.rotation.revoked {
            script.arg(row::revocation(&revocation)?).arg(self.channel()).arg(next.id.to_string()).arg(FEED_TTL);
        }
        self.connection().run(&script).await
    }

    async fn list(&self, user_id: &str, limit: usize) -> Result<Vec<SessionRecord>, StoreError> {
        let limit = limit.min(MAX_WINDOW);
        let mut known = Vec::new();
        for _ in 0..MAX_TRIES {
            let mut script = LIST.key(self.index(user_id));
            script.key(self.cutoffs(SessionId::shard_of(user_id))).key(self.rows(&known));
            script.arg(user_id).arg(limit).arg(limit + WINDOW_MARGIN).arg(texts(&known));
            let (status, values): (String, Vec<Value>) = self.connection().run(&script).await?;
            if status == "done" {
                return row::sessions(values);
            }
            known = ids(&redis::from_redis_value::<Vec<String>>(Value::Array(values)).map_err(StoreError::new)?)?;
        }
        Err(too_busy())
    }

    async fn find_external(&self, id: ExternalId) -> Result<Vec<SessionId>, StoreError> {
        let shards: Vec<u8> = (0..SHARDS).collect();
        let members = |shards: &[u8]| {
            let mut script = EXTERNAL_MEMBERS.prepare_invoke();
            script.key(shards.iter().map(|shard| self.external(*shard, id)).collect::<Vec<_>>());
            script
        };
        let members: Vec<Vec<String>> = self.connection().run_sharded(&shards, |shard| *shard, members).await?;
        let members = ids(&members.concat())?;
        let with_row = |members: &[SessionId]| {
            let mut script = EXTERNAL_ROWS.prepare_invoke();
            for member in members {
                script.key(self.external(member.shard(), id)).key(self.row(*member)).arg(member.to_string());
            }
            script
        };
        let found: Vec<Vec<String>> =
            self.connection().run_sharded(&members, |member| member.shard(), with_row).await?;
        ids(&found.concat())
    }

    async fn revoke(&self, target: RevokeTarget<'_>, revocation: Revocation) -> Result<Revoked, StoreError> {
        match target {
            RevokeTarget::Session(id) => self.revoke_session(id, revocation).await,
            RevokeTarget::Users { scope, .. } if scope.ends_with(SEPARATOR) => {
                self.revoke_everyone(scope, revocation).await
            }
            RevokeTarget::Users { scope, except, created_until } => {
                self.revoke_user(scope, except, created_until, revocation).await
            }
            RevokeTarget::Token(jti) => self.revoke_token(jti).await,
        }
    }

    async fn record_activity(&self, batch: &[Activity]) -> Result<(), StoreError> {
        self.connection()
            .run_sharded(
                batch,
                |activity| activity.id.shard(),
                |batch| {
                    let mut script = RECORD_ACTIVITY.prepare_invoke();
                    for activity in batch {
                        script.key(self.row(activity.id)).arg(activity.last_seen_at.as_millis());
                        script.arg(row::acknowledged(activity.acknowledged));
                    }
                    script
                },
            )
            .await
            .map(|_: Vec<()>| ())
    }

    async fn read_revocations(&self, since: FeedCursor, window: FeedWindow) -> Result<RevocationBatch, StoreError> {
        let overlap = millis(window.overlap).max(OVERLAP_MILLIS);
        let (cursor, is_inside) = feed::cursor_time(since);
        let from = match since {
            FeedCursor::START => String::new(),
            _ if is_inside => cursor.to_string(),
            _ => cursor.saturating_sub(overlap).to_string(),
        };
        let shards: Vec<u8> = (0..SHARDS).collect();
        let limit = (window.limit / shards.len()).max(1);
        let replies: Vec<feed::Reply> = self
            .connection()
            .run_sharded(
                &shards,
                |shard| *shard,
                |shards| {
                    let mut script = READ_REVOCATIONS.arg(&from);
                    script.arg(cursor.max(0)).arg(millis(window.max_age)).arg(overlap).arg(limit);
                    for shard in shards {
                        script.key(self.feed(*shard));
                    }
                    script
                },
            )
            .await?;
        feed::batch(since, &replies)
    }

    async fn purge(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let mut purged = 0;
        for shard in 0..SHARDS {
            purged += self.purge_shard(shard, before, limit - purged).await?;
        }
        Ok(purged)
    }

    async fn changed(&self) {
        self.0.push.changed().await;
    }
}

/// The time to live of a key whose session or entry expires at `expires_at`. A duration, because the server's clock may
/// differ from the node's.
fn ttl(now: Timestamp, expires_at: Timestamp) -> i64 {
    expires_at.as_millis().saturating_sub(now.as_millis()).clamp(0, MAX_TTL).saturating_add(TTL_MARGIN)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).min(MAX_TTL)
}

/// The rows to pass to a script that has asked for these sessions, and expects this one first.
fn first_known(first: Option<SessionId>, asked: &[String]) -> Result<Vec<SessionId>, StoreError> {
    let others = ids(asked)?.into_iter().filter(|id| Some(*id) != first);
    Ok(first.into_iter().chain(others).collect())
}

fn texts(ids: &[SessionId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

fn ids(texts: &[String]) -> Result<Vec<SessionId>, StoreError> {
    texts.iter().map(|text| text.parse().map_err(StoreError::new)).collect()
}

fn unreadable(subject: &str) -> StoreError {
    StoreError::new(format!(
        "{subject} cannot be decoded: it was written by a later version of axum-refresh or by another program"
    ))
}

fn too_busy() -> StoreError {
    StoreError::new(format!("the user's sessions changed concurrently; gave up after {MAX_TRIES} tries"))
}
