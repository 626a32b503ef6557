//! Sessions in the memory of this process.

mod row;

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use dashmap::mapref::entry::Entry;
use dashmap::{DashMap, DashSet};

use self::row::Row;
use super::push::Push;
use super::{
    Activity, FeedCursor, InsertOptions, Inserted, RevocationBatch, RevocationEntry, RevokeTarget, RevokedItem,
    SessionLimit, SessionRecord, SessionStore, StoreError,
};
use crate::session::{Revocation, RevocationReason, SessionId};
use crate::time::Timestamp;

/// Keeps sessions in the memory of this process: for a single node, for development and for tests. They are lost when
/// the process ends.
///
/// A clone is another handle to the same sessions. A session takes at most 400 bytes with a short user id and no
/// claims. A call locks one small part of the table at a time, and revocations are pushed within the process.
///
/// ```
/// use axum_refresh::{Auth, MemoryStore, Secret};
///
/// let auth: Auth = Auth::builder(Secret::random()?, MemoryStore::new()).build()?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Tables>);

impl MemoryStore {
    /// Creates an empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("sessions", &self.0.rows.len()).finish_non_exhaustive()
    }
}

/// The maps have many shards, so that a purge does not block other calls for long: with a million sessions, each shard
/// holds four thousand.
const SHARDS: usize = 256;

/// Lock order: a user's entry, then a row, then the feed. A row must not be locked while its user's entry is being
/// acquired.
struct Tables {
    rows: DashMap<SessionId, Box<Row>>,
    /// The sessions of each user that are not revoked. May contain sessions that were just revoked or purged.
    users: DashMap<Arc<str>, Ids>,
    user_agents: DashSet<Arc<str>>,
    next_seq: AtomicU32,
    feed: Mutex<Feed>,
    push: Push,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            rows: DashMap::with_shard_amount(SHARDS),
            users: DashMap::with_shard_amount(SHARDS),
            user_agents: DashSet::default(),
            next_seq: AtomicU32::new(0),
            feed: Mutex::default(),
            push: Push::in_process(),
        }
    }
}

/// The session ids of a user. Nearly every user has one session, so one needs no allocation.
enum Ids {
    One(SessionId),
    #[expect(clippy::box_collection, reason = "saves three words in every entry; few users have several sessions")]
    Many(Box<HashSet<SessionId>>),
}

impl Ids {
    fn insert(&mut self, id: SessionId) {
        match self {
            Self::One(one) => *self = Self::Many(Box::new(HashSet::from([*one, id]))),
            Self::Many(many) => {
                many.insert(id);
            }
        }
    }

    /// Returns whether that was the last one.
    fn remove(&mut self, id: SessionId) -> bool {
        match self {
            Self::One(one) => *one == id,
            Self::Many(many) => {
                many.remove(&id);
                match many.len() {
                    0 => return true,
                    1 => many.iter().copied().next().into_iter().for_each(|last| *self = Self::One(last)),
                    _ => {}
                }
                false
            }
        }
    }

    fn to_vec(&self) -> Vec<SessionId> {
        match self {
            Self::One(one) => vec![*one],
            Self::Many(many) => many.iter().copied().collect(),
        }
    }
}

#[derive(Default)]
struct Feed {
    last_seq: i64,
    entries: VecDeque<(i64, RevocationEntry)>,
}

impl Tables {
    fn feed(&self) -> MutexGuard<'_, Feed> {
        // A panic cannot leave the feed half written, so poisoning is ignored.
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, items: impl IntoIterator<Item = RevokedItem>, expires_at: Timestamp) {
        let mut feed = self.feed();
        for item in items {
            feed.last_seq += 1;
            let entry = (feed.last_seq, RevocationEntry { item, expires_at });
            feed.entries.push_back(entry);
        }
        drop(feed);
        self.push.notify();
    }

    /// Clients share a few User-Agent headers, so each is kept once.
    fn intern(&self, user_agent: &Arc<str>) -> Arc<str> {
        if let Some(known) = self.user_agents.get(user_agent) {
            return Arc::clone(&known);
        }
        self.user_agents.insert(Arc::clone(user_agent));
        Arc::clone(user_agent)
    }

    fn insert(&self, new: &SessionRecord, options: InsertOptions) -> Result<Inserted, StoreError> {
        if self.rows.contains_key(&new.id) {
            return Err(StoreError::new("insert: a session with this id already exists"));
        }
        // Locked until the end, so that concurrent logins of a user count each other.
        let user = self.users.entry(Arc::clone(&new.user_id));
        let (key, others) = match &user {
            Entry::Occupied(entry) => (Arc::clone(entry.key()), entry.get().to_vec()),
            Entry::Vacant(entry) => (Arc::clone(entry.key()), Vec::new()),
        };
        let replaced = options.replacing.filter(|id| others.contains(id));
        let evicted = match options.limit {
            None => Vec::new(),
            Some(limit) => match self.make_room(limit, new.created_at, others, replaced) {
                Some(evicted) => evicted,
                None => return Ok(Inserted::LimitReached),
            },
        };
        let user_agent = new.client.user_agent.as_ref().map(|user_agent| self.intern(user_agent));
        let seq = self.next_seq.fetch_add(1, Ordering::Relaxed);
        self.rows.insert(new.id, Box::new(Row::new(new, key, user_agent, seq)));
        let mut ids = match user {
            Entry::Occupied(entry) => {
                let mut ids = entry.into_ref();
                ids.insert(new.id);
                ids
            }
            Entry::Vacant(entry) => entry.insert(Ids::One(new.id)),
        };
        let evicted = evicted.into_iter().map(|id| (id, RevocationReason::Evicted));
        let to_revoke = evicted.chain(replaced.map(|id| (id, RevocationReason::Replaced)));
        let mut revoked = Vec::new();
        for (id, reason) in to_revoke {
            let revocation = Revocation { at: new.created_at, expires_at: options.revocation_expires_at, reason };
            if self.rows.get_mut(&id).is_some_and(|mut row| row.revoke(revocation)) {
                revoked.push(id);
            }
            ids.remove(id);
        }
        drop(ids);
        if !revoked.is_empty() {
            self.publish(revoked.iter().copied().map(RevokedItem::Session), options.revocation_expires_at);
        }
        Ok(Inserted::Done(revoked))
    }

    /// Returns the sessions to evict, or `None` if the limit is reached and the policy refuses the login.
    fn make_room(
        &self,
        limit: SessionLimit,
        now: Timestamp,
        others: Vec<SessionId>,
        replaced: Option<SessionId>,
    ) -> Option<Vec<SessionId>> {
        let remaining = others.into_iter().filter(|id| Some(*id) != replaced);
        let live = remaining.filter_map(|id| {
            let row = self.rows.get(&id)?;
            row.rotation().is_live(now, limit.idle_timeout).then_some((row.created_at, row.seq, id))
        });
        Some(limit.make_room(live.collect())?.into_iter().map(|(.., id)| id).collect())
    }

    fn compare_and_swap(&self, expected: u64, next: &SessionRecord) -> bool {
        let Some(mut row) = self.rows.get_mut(&next.id) else { return false };
        if row.version != expected {
            return false;
        }
        row.write(next);
        row.version += 1;
        let user = Arc::clone(&row.user_id);
        drop(row);
        if let Some(revocation) = next.rotation.revoked {
            self.unlink(&user, next.id);
            self.publish([RevokedItem::Session(next.id)], revocation.expires_at);
        }
        true
    }

    /// Removes a session from its user's entry.
    fn unlink(&self, user_id: &str, id: SessionId) {
        self.users.remove_if_mut(user_id, |_, ids| ids.remove(id));
    }

    fn session_ids(&self, user_id: &str) -> Vec<SessionId> {
        self.users.get(user_id).map(|ids| ids.to_vec()).unwrap_or_default()
    }

    fn list(&self, user_id: &str) -> Vec<SessionRecord> {
        let sessions = self.session_ids(user_id).into_iter();
        let sessions = sessions.filter_map(|id| Some(self.rows.get(&id)?.record(id)));
        sessions.filter(|session| session.rotation.revoked.is_none()).collect()
    }

    fn revoke(&self, target: RevokeTarget<'_>, revocation: Revocation) -> Vec<SessionId> {
        let revoke = |id| {
            let mut row = self.rows.get_mut(&id)?;
            Some((row.revoke(revocation), Arc::clone(&row.user_id)))
        };
        let (revoked, published) = match target {
            RevokeTarget::Token(id) => (Vec::new(), vec![RevokedItem::Token(id.into())]),
            RevokeTarget::Session(id) => match revoke(id) {
                // The row is missing, but access tokens of the session may still be in use.
                None => (Vec::new(), vec![RevokedItem::Session(id)]),
                Some((was_live, user)) => {
                    self.unlink(&user, id);
                    (Vec::from_iter(was_live.then_some(id)), vec![RevokedItem::Session(id)])
                }
            },
            RevokeTarget::User { user_id, except } => {
                let mut revoked = Vec::new();
                let mut published = Vec::new();
                // The user's entry stays locked, so that a concurrent login is entirely before or entirely after this.
                self.users.remove_if_mut(user_id, |_, ids| {
                    let mut is_empty = false;
                    for id in ids.to_vec().into_iter().filter(|id| Some(*id) != except) {
                        if let Some((was_live, _)) = revoke(id) {
                            published.push(RevokedItem::Session(id));
                            revoked.extend(was_live.then_some(id));
                        }
                        is_empty = ids.remove(id);
                    }
                    is_empty
                });
                (revoked, published)
            }
        };
        if !published.is_empty() {
            self.publish(published, revocation.expires_at);
        }
        revoked
    }

    fn read_revocations(&self, since: FeedCursor) -> RevocationBatch {
        let feed = self.feed();
        let start = feed.entries.partition_point(|(seq, _)| *seq <= since.0);
        let entries = feed.entries.range(start..).map(|(_, entry)| entry.clone()).collect();
        RevocationBatch { entries, next: FeedCursor(feed.last_seq) }
    }

    fn purge(&self, before: Timestamp, limit: usize) -> usize {
        let expired: Vec<_> =
            self.rows.iter().filter(|row| row.expires_at < before).map(|row| *row.key()).take(limit).collect();
        for id in &expired {
            if let Some((_, row)) = self.rows.remove(id) {
                self.unlink(&row.user_id, *id);
            }
        }
        if expired.len() < limit {
            self.user_agents.retain(|user_agent| Arc::strong_count(user_agent) > 1);
            self.feed().entries.retain(|(_, entry)| entry.expires_at >= before);
        }
        expired.len()
    }
}

#[async_trait]
impl SessionStore for MemoryStore {
    async fn insert(&self, new: &SessionRecord, options: InsertOptions) -> Result<Inserted, StoreError> {
        self.0.insert(new, options)
    }

    async fn load(&self, id: SessionId) -> Result<Option<SessionRecord>, StoreError> {
        Ok(self.0.rows.get(&id).map(|row| row.record(id)))
    }

    async fn compare_and_swap(&self, expected: u64, next: &SessionRecord) -> Result<bool, StoreError> {
        Ok(self.0.compare_and_swap(expected, next))
    }

    async fn list(&self, user_id: &str) -> Result<Vec<SessionRecord>, StoreError> {
        Ok(self.0.list(user_id))
    }

    async fn revoke(&self, target: RevokeTarget<'_>, revocation: Revocation) -> Result<Vec<SessionId>, StoreError> {
        Ok(self.0.revoke(target, revocation))
    }

    async fn record_activity(&self, batch: &[Activity]) -> Result<(), StoreError> {
        for activity in batch {
            if let Some(mut row) = self.0.rows.get_mut(&activity.id) {
                row.merge_activity(activity.last_seen_at, activity.acknowledged);
            }
        }
        Ok(())
    }

    async fn read_revocations(&self, since: FeedCursor) -> Result<RevocationBatch, StoreError> {
        Ok(self.0.read_revocations(since))
    }

    async fn purge(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        // Scans all sessions, so it must not block a thread that serves requests.
        let tables = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || tables.purge(before, limit)).await.map_err(StoreError::new)
    }

    async fn changed(&self) {
        self.0.push.changed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::store_conformance!(async { MemoryStore::new() });

    #[tokio::test]
    async fn a_user_agent_that_many_sessions_share_is_kept_once_and_dropped_with_the_last_of_them() {
        let store = MemoryStore::new();
        let now = Timestamp::from_millis(1_000);
        let options = InsertOptions { limit: None, replacing: None, revocation_expires_at: now };
        for n in 0..3 {
            let mut session = super::super::conformance::session(&format!("user{n}"), now, 10_000);
            session.client.user_agent = Some(Arc::from("curl/8"));
            store.insert(&session, options).await.unwrap();
        }
        assert_eq!(store.0.user_agents.len(), 1);
        store.purge(Timestamp::MAX, 100).await.unwrap();
        assert_eq!((store.0.user_agents.len(), store.0.rows.len(), store.0.users.len()), (0, 0, 0));
    }
}
