//! Sessions in Redis: one script for every step, so that each is atomic, also on a cluster.
//!
//! All keys of a shard have its number as hash tag, and so one slot of a cluster:
//!
//! | key | | |
//! |---|---|---|
//! | `axum-refresh:{7}:session:ID` | hash | a session |
//! | `axum-refresh:{7}:user:USER` | sorted set | the ids of a user's sessions in the order of insertion; may name some that have ended |
//! | `axum-refresh:{7}:expiries` | sorted set | id and user of every session, by when it expires |
//! | `axum-refresh:{7}:feed` | sorted set | what was revoked, by when the server was told |
//! | `axum-refresh:{7}:due` | sorted set | the same, by its `until` |
//! | `axum-refresh:changed` | channel | a message, with nothing in it, for every step that writes to a feed |

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
use super::{Admission, Cursor, Ended, Feed, Inserted, Revoked, Seen, SessionStore, StoreError, Target};
use crate::policy::CapResponse;
use crate::session::{Reason, Revocation, Session, SessionId, Timestamp};

/// Sessions in Redis 6 or later, or Valkey. A clone is another handle on the same connection. (Feature `redis`.)
///
/// ```no_run
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// use axum_refresh::RedisStore;
///
/// let store = RedisStore::connect("redis://127.0.0.1/").await?;
/// # Ok(()) }
/// ```
///
/// A load is one command and a swap one script: one round trip each. So is a login, unless there is a cap on the
/// user's sessions and the user has some: then it is two, as listing or ending all of a user's sessions always is. A
/// node has one connection for all this, and one more that listens for revocations, so that these are felt within
/// milliseconds on every node; without it, within a second.
///
/// # The server
///
/// - `maxmemory-policy noeviction`: a server that throws keys away when it is full logs users out, and may forget what
///   was revoked.
/// - Persistence (`appendonly yes`): without it a restart logs everybody out. With `appendfsync everysec`, the default,
///   a crash loses up to a second, and so does a failover: replicas are asynchronous, and the store waits for none.
///   A lost refresh logs nobody out: a token that is newer than its row is taken for what it is. A lost login does, and
///   a lost revocation is written again by the nodes that know of it, within a minute; should all nodes go down with
///   the server, end the session once more.
/// - The primary, never a replica: a server that refuses to write is an error, at the start and later, and is connected
///   to anew, so that an address that moves to another server is followed.
/// - Keys expire by themselves, an hour after the session that they belong to, by the server's clock and however the
///   node's own is set. Nothing else may write under the prefix.
///
/// # Failures
///
/// A server that is away is an error at once, one that does not answer is an error after twice
/// [`timeout`](RedisOptions::timeout) at the most, and both are back in use as soon as they answer again. What had been
/// sent to a server that stood still may be carried out later.
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

/// How many shards there are: a session id's first four bits.
const SHARDS: u8 = 16;
/// What is read again of the feed, for servers whose clocks differ and for one that was replaced.
const OVERLAP: i64 = 10_000;
/// How long keys outlive what they are about, in milliseconds.
const SPARE: i64 = 3_600_000;
/// A hundred years: more than the server can add up is an error there.
const LONGEST: i64 = 3_155_760_000_000;
/// How often a step is tried whose user's sessions change under it. Each time somebody else's has succeeded.
const MOST_TRIES: usize = 200;
/// What a script may drop at once, so that it holds up nobody.
const PURGE_STEP: usize = 1_000;

macro_rules! scripts {
    ($($name:ident = $($file:literal)+;)+) => {
        $(static $name: LazyLock<Script> = LazyLock::new(|| Script::new(concat!($(include_str!($file)),+)));)+
    };
}

scripts! {
    INSERT = "redis/ending.lua" "redis/insert.lua";
    SWAP = "redis/ending.lua" "redis/swap.lua";
    LIST = "redis/ending.lua" "redis/list.lua";
    REVOKE = "redis/ending.lua" "redis/revoke.lua";
    REVOKE_USER = "redis/ending.lua" "redis/revoke_user.lua";
    REVOKE_TOKEN = "redis/ending.lua" "redis/revoke_token.lua";
    SEEN = "redis/seen.lua";
    FEED = "redis/feed.lua";
    SWEEP = "redis/sweep.lua";
    PURGE = "redis/purge.lua";
}

impl RedisStore {
    /// Connects to a server: `redis://[[user]:password@]host[:port][/database]`, with the feature `tls` also
    /// `rediss://`. For settings see [`options`](Self::options).
    ///
    /// # Errors
    /// The URL is none, the server is not there or refuses the password, or it is a replica.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::options().connect(url).await
    }

    /// What can be set.
    pub fn options() -> RedisOptions {
        RedisOptions::default()
    }

    /// On a connection of your own, whose timeouts hold. Revocations are polled every second, not pushed.
    pub fn new(connection: ConnectionManager) -> Self {
        Self::over(Connection::one(connection), Self::options().prefix, Push::off())
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

    fn index(&self, user: &str) -> String {
        self.key(SessionId::shard_of(user), &format!("user:{user}"))
    }

    fn feed(&self, shard: u8) -> String {
        self.key(shard, "feed")
    }

    fn due(&self, shard: u8) -> String {
        self.key(shard, "due")
    }

    fn expiries(&self, shard: u8) -> String {
        self.key(shard, "expiries")
    }

    fn channel(&self) -> String {
        options::channel(&self.0.prefix)
    }

    /// Whether the server is there, lets us in and writes.
    async fn check(&self) -> Result<(), StoreError> {
        let mut read = FEED.arg("+inf");
        self.connection().run::<Value>(read.arg(0).key(self.feed(0))).await.map(drop)
    }

    async fn revoke_session(&self, id: SessionId, revocation: Revocation) -> Result<Vec<SessionId>, StoreError> {
        let mut script = REVOKE.key(self.row(id));
        script.key(self.feed(id.shard())).key(self.due(id.shard()));
        script
            .arg(row::revocation(&revocation)?)
            .arg(revocation.at.as_millis())
            .arg(self.channel())
            .arg(id.to_string());
        script.arg(revocation.until.as_millis()).arg(spare(revocation.at, revocation.until));
        let was_live: bool = self.connection().run(&script).await?;
        Ok(Vec::from_iter(was_live.then_some(id)))
    }

    async fn revoke_user(
        &self,
        user: &str,
        except: Option<SessionId>,
        revocation: Revocation,
    ) -> Result<Vec<SessionId>, StoreError> {
        let shard = SessionId::shard_of(user);
        let mut known = Vec::new();
        for _ in 0..MOST_TRIES {
            let mut script = REVOKE_USER.key(self.index(user));
            script.key(self.feed(shard)).key(self.due(shard)).key(self.rows(&known));
            script.arg(row::revocation(&revocation)?).arg(revocation.at.as_millis()).arg(self.channel());
            script.arg(except.map(|id| id.to_string()).unwrap_or_default());
            script.arg(revocation.until.as_millis()).arg(spare(revocation.at, revocation.until)).arg(texts(&known));
            let (answer, sessions): (String, Vec<String>) = self.connection().run(&script).await?;
            let sessions = ids(&sessions)?;
            if answer == "done" {
                return Ok(sessions);
            }
            known = sessions;
        }
        Err(too_busy())
    }

    async fn revoke_token(&self, jti: &str, revocation: Revocation) -> Result<Vec<SessionId>, StoreError> {
        let shard = SessionId::shard_of(jti);
        let mut script = REVOKE_TOKEN.key(self.feed(shard));
        script.key(self.due(shard)).arg(self.channel()).arg(jti);
        script.arg(revocation.until.as_millis()).arg(spare(revocation.at, revocation.until));
        self.connection().run::<()>(&script).await?;
        Ok(Vec::new())
    }

    fn rows(&self, ids: &[SessionId]) -> Vec<String> {
        ids.iter().map(|id| self.row(*id)).collect()
    }

    /// Drops what has expired in one shard, and what is over in its feed.
    async fn purge_shard(&self, shard: u8, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let mut purged = 0;
        loop {
            let step = (limit - purged).min(PURGE_STEP);
            let mut script = SWEEP.key(self.feed(shard));
            script.key(self.due(shard)).key(self.expiries(shard)).arg(before.as_millis()).arg(step).arg(PURGE_STEP);
            let (over, expired): (usize, Vec<String>) = self.connection().run(&script).await?;
            if !expired.is_empty() {
                let mut script = PURGE.key(self.expiries(shard));
                for entry in &expired {
                    let (id, user) = entry.split_at_checked(row::ID_LENGTH).ok_or_else(|| unreadable("an expiry"))?;
                    script.key(self.key(shard, &format!("session:{id}"))).key(self.key(shard, &format!("user:{user}")));
                    script.arg(entry).arg(id);
                }
                // Not what was found: another node may have been faster.
                purged += self.connection().run::<usize>(&script).await?;
            }
            if purged >= limit || (over < PURGE_STEP && expired.len() < step) {
                return Ok(purged);
            }
        }
    }
}

#[async_trait]
impl SessionStore for RedisStore {
    async fn insert(&self, new: &Session, admission: Admission) -> Result<Inserted, StoreError> {
        let shard = new.id.shard();
        if shard != SessionId::shard_of(&new.user) {
            return Err(StoreError::new("the session's id is not one of its user's"));
        }
        let (now, expires) = (new.created_at, new.chain.expires_at);
        let fields = row::fields(new)?;
        // In another shard it is another user's.
        let replacing = admission.replacing.filter(|id| id.shard() == shard);
        let revocation = |reason| row::revocation(&Revocation { at: now, until: admission.until, reason });
        let (evicted, replaced) = (revocation(Reason::Evicted)?, revocation(Reason::Replaced)?);
        let mut known = Vec::from_iter(replacing);
        for _ in 0..MOST_TRIES {
            let mut script = INSERT.key(self.row(new.id));
            script.key(self.index(&new.user)).key(self.expiries(shard)).key(self.feed(shard)).key(self.due(shard));
            script.key(self.rows(&known));
            script.arg(new.id.to_string()).arg(&*new.user).arg(now.as_millis()).arg(expires.as_millis());
            script.arg(spare(now, expires));
            match admission.cap {
                None => script.arg("").arg(0).arg(0),
                Some(cap) => {
                    let idle = i64::try_from(cap.idle_timeout.as_millis()).unwrap_or(i64::MAX);
                    script.arg(cap.max.max(1)).arg(i32::from(cap.response == CapResponse::Refuse)).arg(idle)
                }
            };
            script.arg(replacing.map(|id| id.to_string()).unwrap_or_default()).arg(&evicted).arg(&replaced);
            script.arg(self.channel()).arg(admission.until.as_millis()).arg(spare(now, admission.until));
            script.arg(fields.len()).arg(&fields).arg(texts(&known));
            let (answer, sessions): (String, Vec<String>) = self.connection().run(&script).await?;
            let sessions = ids(&sessions)?;
            match answer.as_str() {
                "done" => return Ok(Inserted::Done(sessions)),
                "full" => return Ok(Inserted::Full),
                "again" => {
                    known =
                        replacing.into_iter().chain(sessions.into_iter().filter(|id| Some(*id) != replacing)).collect();
                }
                _ => return Err(StoreError::new("a session with this id exists")),
            }
        }
        Err(too_busy())
    }

    async fn load(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        let value = self.connection().query(cmd("HGETALL").arg(self.row(id))).await?;
        row::session(id, value)
    }

    async fn swap(&self, expected: u64, next: &Session) -> Result<bool, StoreError> {
        let shard = next.id.shard();
        let mut script = SWAP.key(self.row(next.id));
        script.key(self.feed(shard)).key(self.due(shard)).arg(expected).arg(expected.saturating_add(1));
        row::write_moving(next, &mut script);
        if let Some(revocation) = next.chain.revoked {
            script.arg(row::revocation(&revocation)?).arg(self.channel()).arg(next.id.to_string());
            script.arg(revocation.until.as_millis()).arg(spare(revocation.at, revocation.until));
        }
        self.connection().run(&script).await
    }

    async fn list(&self, user: &str) -> Result<Vec<Session>, StoreError> {
        let mut known = Vec::new();
        for _ in 0..MOST_TRIES {
            let mut script = LIST.key(self.index(user));
            script.key(self.rows(&known)).arg(texts(&known));
            let (answer, values): (String, Vec<Value>) = self.connection().run(&script).await?;
            if answer == "done" {
                return row::sessions(values);
            }
            known = ids(&redis::from_redis_value::<Vec<String>>(Value::Array(values)).map_err(StoreError::new)?)?;
        }
        Err(too_busy())
    }

    async fn revoke(&self, target: Target<'_>, revocation: Revocation) -> Result<Vec<SessionId>, StoreError> {
        match target {
            Target::Session(id) => self.revoke_session(id, revocation).await,
            Target::User { user, except } => self.revoke_user(user, except, revocation).await,
            Target::Token(jti) => self.revoke_token(jti, revocation).await,
        }
    }

    async fn seen(&self, batch: &[Seen]) -> Result<(), StoreError> {
        self.connection()
            .each(
                batch,
                |seen| seen.id.shard(),
                |batch| {
                    let mut script = SEEN.prepare_invoke();
                    for seen in batch {
                        script.key(self.row(seen.id)).arg(seen.last_seen_at.as_millis());
                        script.arg(row::acknowledged(seen.acknowledged));
                    }
                    script
                },
            )
            .await
            .map(|_: Vec<()>| ())
    }

    async fn revocations(&self, since: Cursor) -> Result<Feed, StoreError> {
        let from = if since == Cursor::START { "-inf".to_owned() } else { since.0.saturating_sub(OVERLAP).to_string() };
        let shards: Vec<u8> = (0..SHARDS).collect();
        let answers: Vec<(i64, Vec<String>)> = self
            .connection()
            .each(
                &shards,
                |shard| *shard,
                |shards| {
                    let mut script = FEED.arg(&from);
                    script.arg(since.0.max(0));
                    for shard in shards {
                        script.key(self.feed(*shard));
                    }
                    script
                },
            )
            .await?;
        let next = answers.iter().map(|(now, _)| *now).min().unwrap_or(since.0).max(since.0);
        let mut entries = Vec::new();
        for pair in answers.iter().flat_map(|(_, texts)| texts.chunks_exact(2)) {
            if let [entry, place] = pair {
                let place: f64 = place.parse().map_err(|_| unreadable("a place in the feed"))?;
                entries.push((place, revoked(entry)?));
            }
        }
        entries.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        Ok(Feed { revoked: entries.into_iter().map(|(_, revoked)| revoked).collect(), next: Cursor(next) })
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

/// How long a key has to live that is about something which lasts from `now` to `until`. A length of time and no point
/// in time: the server's clock is not ours.
fn spare(now: Timestamp, until: Timestamp) -> i64 {
    until.as_millis().saturating_sub(now.as_millis()).clamp(0, LONGEST).saturating_add(SPARE)
}

fn texts(ids: &[SessionId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

fn ids(texts: &[String]) -> Result<Vec<SessionId>, StoreError> {
    texts.iter().map(|text| text.parse().map_err(StoreError::new)).collect()
}

/// An entry of the feed: `until:s:session` or `until:t:jti`.
fn revoked(entry: &str) -> Result<Revoked, StoreError> {
    let mut parts = entry.splitn(3, ':');
    let read = || {
        let until = Timestamp::from_millis(parts.next()?.parse().ok()?);
        let what = match (parts.next()?, parts.next()?) {
            ("s", id) => Ended::Session(id.parse().ok()?),
            ("t", jti) => Ended::Token(jti.into()),
            _ => return None,
        };
        Some(Revoked { what, until })
    };
    let mut read = read;
    read().ok_or_else(|| unreadable("an entry of the feed"))
}

fn unreadable(what: &str) -> StoreError {
    StoreError::new(format!("{what} cannot be read: another version, or somebody else, wrote it"))
}

fn too_busy() -> StoreError {
    StoreError::new("the user's sessions change faster than they can be looked at")
}
