//! Sessions in Redis. Each call that writes is one script, so it is atomic, on a cluster too.
//!
//! All keys of a shard have its number as their hash tag, so they lie in one slot of a cluster:
//!
//! | key | type | content |
//! |---|---|---|
//! | `axum-refresh:{7}:session:ID` | hash | a session |
//! | `axum-refresh:{7}:user:USER` | sorted set | a user's session ids in order of insertion; some may be revoked |
//! | `axum-refresh:{7}:expiries` | sorted set | the id and user of every session, by its `expires_at` |
//! | `axum-refresh:{7}:feed` | sorted set | the entries of the feed, by the server's time of writing |
//! | `axum-refresh:{7}:feed-expiries` | sorted set | the same entries, by their `expires_at` |
//! | `axum-refresh:changed` | channel | an empty message for every write to a feed |

mod connection;
mod options;
mod push;
mod row;
#[cfg(feature = "tls")]
mod tls;

use std::fmt;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use redis::aio::ConnectionManager;
use redis::{Script, Value, cmd};

use self::connection::Connection;
pub use self::options::RedisOptions;
use super::push::Push;
use super::{
    Activity, FeedCursor, InsertOptions, Inserted, RevocationBatch, RevocationEntry, RevokeTarget, RevokedItem,
    SessionRecord, SessionStore, StoreError,
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
/// Loading a session is one command and a compare-and-swap one script: one round trip each. A login also takes one
/// round trip, or two if there is a session limit and the user has other sessions. Listing or revoking all sessions of
/// a user takes two. A node has one connection for all calls and a second one that listens for revocations, so that
/// they reach every node within milliseconds; without it, within a second.
///
/// # Server configuration
///
/// - Set `maxmemory-policy noeviction`. A server that evicts keys when it is full logs users out and may lose
///   revocations.
/// - Enable persistence (`appendonly yes`). Without it, a restart of the server logs everybody out. With the default
///   `appendfsync everysec`, a crash loses up to a second of writes. So does a failover: replication is asynchronous,
///   and the store does not wait for replicas. A lost refresh logs nobody out, because a token that is newer than its
///   row is accepted. A lost login logs that user out. A lost revocation is written again within a minute by the nodes
///   that know of it; if all nodes go down together with the server, revoke the session again.
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
/// A hundred years, in milliseconds. A time to live that overflows the server's clock would be an error.
const MAX_TTL: i64 = 3_155_760_000_000;
/// How often a call is tried while the user's sessions change concurrently. Each failed try means that another call has
/// succeeded.
const MAX_TRIES: usize = 200;
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
    LIST = "scripts/common.lua" "scripts/list.lua";
    REVOKE = "scripts/common.lua" "scripts/revoke.lua";
    REVOKE_USER = "scripts/common.lua" "scripts/revoke_user.lua";
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

    fn key(&self, shard: u8, name: &str) -> String {
        format!("{}:{{{shard:x}}}:{name}", self.0.prefix)
    }

    fn row(&self, id: SessionId) -> String {
        self.key(id.shard(), &format!("session:{id}"))
    }

    fn index(&self, user_id: &str) -> String {
        self.key(SessionId::shard_of(user_id), &format!("user:{user_id}"))
    }

    fn feed(&self, shard: u8) -> String {
        self.key(shard, "feed")
    }

    fn feed_expiries(&self, shard: u8) -> String {
        self.key(shard, "feed-expiries")
    }

    fn expiries(&self, shard: u8) -> String {
        self.key(shard, "expiries")
    }

    fn channel(&self) -> String {
        options::channel(&self.0.prefix)
    }

    /// Checks that the server is reachable, accepts the password and accepts writes.
    async fn check(&self) -> Result<(), StoreError> {
        let mut read = READ_REVOCATIONS.arg("+inf");
        self.connection().run::<Value>(read.arg(0).key(self.feed(0))).await.map(drop)
    }

    async fn revoke_session(&self, id: SessionId, revocation: Revocation) -> Result<Vec<SessionId>, StoreError> {
        let mut script = REVOKE.key(self.row(id));
        script.key(self.feed(id.shard())).key(self.feed_expiries(id.shard()));
        script
            .arg(row::revocation(&revocation)?)
            .arg(revocation.at.as_millis())
            .arg(self.channel())
            .arg(id.to_string());
        script.arg(revocation.expires_at.as_millis()).arg(ttl(revocation.at, revocation.expires_at));
        let was_live: bool = self.connection().run(&script).await?;
        Ok(Vec::from_iter(was_live.then_some(id)))
    }

    async fn revoke_user(
        &self,
        user_id: &str,
        except: Option<SessionId>,
        revocation: Revocation,
    ) -> Result<Vec<SessionId>, StoreError> {
        let shard = SessionId::shard_of(user_id);
        let mut known = Vec::new();
        for _ in 0..MAX_TRIES {
            let mut script = REVOKE_USER.key(self.index(user_id));
            script.key(self.feed(shard)).key(self.feed_expiries(shard)).key(self.rows(&known));
            script.arg(row::revocation(&revocation)?).arg(revocation.at.as_millis()).arg(self.channel());
            script.arg(except.map(|id| id.to_string()).unwrap_or_default());
            script
                .arg(revocation.expires_at.as_millis())
                .arg(ttl(revocation.at, revocation.expires_at))
                .arg(texts(&known));
            let (status, sessions): (String, Vec<String>) = self.connection().run(&script).await?;
            let sessions = ids(&sessions)?;
            if status == "done" {
                return Ok(sessions);
            }
            known = sessions;
        }
        Err(too_busy())
    }

    async fn revoke_token(&self, jti: &str, revocation: Revocation) -> Result<Vec<SessionId>, StoreError> {
        let shard = SessionId::shard_of(jti);
        let mut script = REVOKE_TOKEN.key(self.feed(shard));
        script.key(self.feed_expiries(shard)).arg(self.channel()).arg(jti);
        script.arg(revocation.expires_at.as_millis()).arg(ttl(revocation.at, revocation.expires_at));
        self.connection().run::<()>(&script).await?;
        Ok(Vec::new())
    }

    fn rows(&self, ids: &[SessionId]) -> Vec<String> {
        ids.iter().map(|id| self.row(*id)).collect()
    }

    /// Deletes the expired sessions of one shard and the expired entries of its feed.
    async fn purge_shard(&self, shard: u8, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let mut purged = 0;
        loop {
            let step = (limit - purged).min(PURGE_STEP);
            let mut script = PURGE_FEED.key(self.feed(shard));
            script
                .key(self.feed_expiries(shard))
                .key(self.expiries(shard))
                .arg(before.as_millis())
                .arg(step)
                .arg(PURGE_STEP);
            let (entries, expired): (usize, Vec<String>) = self.connection().run(&script).await?;
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
            if purged >= limit || (entries < PURGE_STEP && expired.len() < step) {
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
        let expires_at = options.revocation_expires_at;
        let revocation = |reason| row::revocation(&Revocation { at: now, expires_at, reason });
        let (evicted, replaced) = (revocation(RevocationReason::Evicted)?, revocation(RevocationReason::Replaced)?);
        let mut known = Vec::from_iter(replacing);
        for _ in 0..MAX_TRIES {
            let mut script = INSERT.key(self.row(new.id));
            script
                .key(self.index(&new.user_id))
                .key(self.expiries(shard))
                .key(self.feed(shard))
                .key(self.feed_expiries(shard));
            script.key(self.rows(&known));
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
            script.arg(replacing.map(|id| id.to_string()).unwrap_or_default()).arg(&evicted).arg(&replaced);
            script.arg(self.channel()).arg(expires_at.as_millis()).arg(ttl(now, expires_at));
            script.arg(fields.len()).arg(&fields).arg(texts(&known));
            let (status, sessions): (String, Vec<String>) = self.connection().run(&script).await?;
            let sessions = ids(&sessions)?;
            match status.as_str() {
                "done" => return Ok(Inserted::Done(sessions)),
                "limit_reached" => return Ok(Inserted::LimitReached),
                "retry" => {
                    known =
                        replacing.into_iter().chain(sessions.into_iter().filter(|id| Some(*id) != replacing)).collect();
                }
                _ => return Err(StoreError::new("insert: a session with this id already exists")),
            }
        }
        Err(too_busy())
    }

    async fn load(&self, id: SessionId) -> Result<Option<SessionRecord>, StoreError> {
        let value = self.connection().query(cmd("HGETALL").arg(self.row(id))).await?;
        row::session(id, value)
    }

    async fn compare_and_swap(&self, expected: u64, next: &SessionRecord) -> Result<bool, StoreError> {
        let shard = next.id.shard();
        let mut script = COMPARE_AND_SWAP.key(self.row(next.id));
        script.key(self.feed(shard)).key(self.feed_expiries(shard)).arg(expected).arg(expected.saturating_add(1));
        row::add_changing_fields(next, &mut script);
        if let Some(revocation) = next.rotation.revoked {
            script.arg(row::revocation(&revocation)?).arg(self.channel()).arg(next.id.to_string());
            script.arg(revocation.expires_at.as_millis()).arg(ttl(revocation.at, revocation.expires_at));
        }
        self.connection().run(&script).await
    }

    async fn list(&self, user_id: &str) -> Result<Vec<SessionRecord>, StoreError> {
        let mut known = Vec::new();
        for _ in 0..MAX_TRIES {
            let mut script = LIST.key(self.index(user_id));
            script.key(self.rows(&known)).arg(texts(&known));
            let (status, values): (String, Vec<Value>) = self.connection().run(&script).await?;
            if status == "done" {
                return row::sessions(values);
            }
            known = ids(&redis::from_redis_value::<Vec<String>>(Value::Array(values)).map_err(StoreError::new)?)?;
        }
        Err(too_busy())
    }

    async fn revoke(&self, target: RevokeTarget<'_>, revocation: Revocation) -> Result<Vec<SessionId>, StoreError> {
        match target {
            RevokeTarget::Session(id) => self.revoke_session(id, revocation).await,
            RevokeTarget::User { user_id, except } => self.revoke_user(user_id, except, revocation).await,
            RevokeTarget::Token(jti) => self.revoke_token(jti, revocation).await,
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

    async fn read_revocations(&self, since: FeedCursor) -> Result<RevocationBatch, StoreError> {
        let from = if since == FeedCursor::START {
            "-inf".to_owned()
        } else {
            since.0.saturating_sub(OVERLAP_MILLIS).to_string()
        };
        let shards: Vec<u8> = (0..SHARDS).collect();
        let replies: Vec<(i64, Vec<String>)> = self
            .connection()
            .run_sharded(
                &shards,
                |shard| *shard,
                |shards| {
                    let mut script = READ_REVOCATIONS.arg(&from);
                    script.arg(since.0.max(0));
                    for shard in shards {
                        script.key(self.feed(*shard));
                    }
                    script
                },
            )
            .await?;
        let next = replies.iter().map(|(now, _)| *now).min().unwrap_or(since.0).max(since.0);
        let mut entries = Vec::new();
        for pair in replies.iter().flat_map(|(_, texts)| texts.chunks_exact(2)) {
            if let [entry, written_at] = pair {
                let written_at: f64 = written_at.parse().map_err(|_| unreadable("a score in the feed"))?;
                entries.push((written_at, feed_entry(entry)?));
            }
        }
        entries.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        Ok(RevocationBatch { entries: entries.into_iter().map(|(_, entry)| entry).collect(), next: FeedCursor(next) })
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

fn texts(ids: &[SessionId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

fn ids(texts: &[String]) -> Result<Vec<SessionId>, StoreError> {
    texts.iter().map(|text| text.parse().map_err(StoreError::new)).collect()
}

/// Decodes an entry of the feed: `expires_at:s:session_id` or `expires_at:t:jti`.
fn feed_entry(entry: &str) -> Result<RevocationEntry, StoreError> {
    let mut parts = entry.splitn(3, ':');
    let mut read = || {
        let expires_at = Timestamp::from_millis(parts.next()?.parse().ok()?);
        let item = match (parts.next()?, parts.next()?) {
            ("s", id) => RevokedItem::Session(id.parse().ok()?),
            ("t", jti) => RevokedItem::Token(jti.into()),
            _ => return None,
        };
        Some(RevocationEntry { item, expires_at })
    };
    read().ok_or_else(|| unreadable("an entry of the feed"))
}

fn unreadable(subject: &str) -> StoreError {
    StoreError::new(format!(
        "{subject} cannot be decoded: it was written by a later version of axum-refresh or by another program"
    ))
}

fn too_busy() -> StoreError {
    StoreError::new(format!("the user's sessions changed concurrently; gave up after {MAX_TRIES} tries"))
}
