//! Sessions in the memory of this process.

mod row;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use dashmap::mapref::entry::Entry;
use dashmap::{DashMap, DashSet};

use self::row::{Ids, Realm, Row, User};
use super::push::Push;
use super::{
    Activity, ExternalId, FEED_RETENTION, FeedCursor, FeedWindow, InsertOptions, Inserted, RevocationBatch,
    RevocationEntry, RevokeTarget, Revoked, RevokedItem, RevokedUsers, SEPARATOR, SessionLimit, SessionRecord,
    SessionStore, Spared, StoreError, everyone,
};
use crate::session::{Revocation, RevocationReason, SessionId};
use crate::time::Timestamp;

/// Keeps sessions in the memory of this process: for a single node, for development and for tests. They are lost when
/// the process ends.
///
/// A clone is another handle to the same sessions. A session takes 400 to 450 bytes with a short user id and no claims. A call
/// locks one small part of the table at a time, and revocations are pushed within the process.
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

/// Above this number, the sessions of a revoked user are not looked at one by one to be counted.
const MAX_COUNTED: usize = 1_000;

/// Lock order: a user's entry, then a row or the ids of the user, then the feed. A row must not be locked while its user's entry is being
/// acquired.
struct Tables {
    rows: DashMap<SessionId, Box<Row>>,
    /// The users with sessions that are not revoked, and, after a revocation of everyone, those who have not logged in since.
    users: DashMap<Arc<str>, Arc<User>>,
    /// By the scope of everyone in them.
    realms: DashMap<Box<str>, Arc<Realm>>,
    /// The sessions that belong to one at an identity provider. May contain sessions that were revoked, until they are purged.
    external: DashMap<ExternalId, Ids>,
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
            realms: DashMap::new(),
            external: DashMap::new(),
            user_agents: DashSet::default(),
            next_seq: AtomicU32::new(0),
            feed: Mutex::default(),
            push: Push::in_process(),
        }
    }
}

impl Feed {
    fn push(&mut self, item: impl FnOnce(i64) -> RevokedItem) {
        self.last_seq += 1;
        let seq = self.last_seq;
        self.entries.push_back(FeedEntry { seq, written_at: Instant::now(), item: item(seq) });
    }
}

#[derive(Default)]
struct Feed {
    last_seq: i64,
    entries: VecDeque<FeedEntry>,
}

struct FeedEntry {
    seq: i64,
    /// By the clock of this process. The times of the calls are the caller's, and may be those of a test.
    written_at: Instant,
    item: RevokedItem,
}

impl Tables {
    fn feed(&self) -> MutexGuard<'_, Feed> {
        // A panic cannot leave the feed half written, so poisoning is ignored.
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, items: impl IntoIterator<Item = RevokedItem>) {
        let mut feed = self.feed();
        for item in items {
            feed.push(|_| item);
        }
        drop(feed);
        self.push.notify();
    }

    /// Adds the revocation of a scope to the feed.
    fn publish_users(&self, scope: &str, revoked_at: Timestamp, spared: Spared) -> RevokedUsers {
        let mut feed = self.feed();
        let mut users = RevokedUsers { scope: scope.into(), cutoff: 0, revoked_at, spared };
        feed.push(|seq| {
            users.cutoff = seq;
            RevokedItem::Users(users.clone())
        });
        drop(feed);
        self.push.notify();
        users
    }

    /// The user as of now: `known`, unless its sessions were revoked with everyone's.
    fn user(&self, id: &Arc<str>, known: Option<&Arc<User>>) -> Arc<User> {
        match known {
            Some(known) if known.revoked().is_none() => Arc::clone(known),
            _ => {
                let scope = everyone(id);
                let realm = self.realms.get(&*scope).map(|realm| Arc::clone(&realm));
                let realm = realm.unwrap_or_else(|| Arc::clone(&*self.realms.entry(scope.into()).or_default()));
                User::new(Arc::clone(id), realm)
            }
        }
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
        let entry = self.users.entry(Arc::clone(&new.user_id));
        let (user, others) = match &entry {
            Entry::Occupied(entry) => {
                let user = self.user(entry.key(), Some(entry.get()));
                let others = user.ids().to_vec();
                (user, others)
            }
            Entry::Vacant(entry) => (self.user(entry.key(), None), Vec::new()),
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
        self.rows.insert(new.id, Box::new(Row::new(new, Arc::clone(&user), user_agent, seq)));
        user.ids().insert(new.id);
        if let Some(external) = new.external {
            self.external.entry(external).or_default().insert(new.id);
        }
        let user = entry.insert(user);
        let evicted = evicted.into_iter().map(|id| (id, RevocationReason::Evicted));
        let to_revoke = evicted.chain(replaced.map(|id| (id, RevocationReason::Replaced)));
        let mut revoked = Vec::new();
        let mut published = Vec::new();
        for (id, reason) in to_revoke {
            let revocation = Revocation { at: new.created_at, reason };
            if self.rows.get_mut(&id).is_some_and(|mut row| row.revoke(revocation)) {
                revoked.push(id);
            }
            // Also if it has expired: a node with a leeway may still accept its access tokens.
            published.push(RevokedItem::Session(id));
            user.ids().remove(id);
        }
        drop(user);
        if !published.is_empty() {
            self.publish(published);
        }
        Ok(Inserted::Done(revoked.into()))
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
            let counts = row.is_limited() && row.rotation().is_live(now, limit.idle_timeout);
            counts.then_some((row.created_at, row.seq, id))
        });
        Some(limit.make_room(live.collect())?.into_iter().map(|(.., id)| id).collect())
    }

    fn compare_and_swap(&self, expected: u64, next: &SessionRecord) -> bool {
        let Some(mut row) = self.rows.get_mut(&next.id) else { return false };
        if row.version != expected || row.user.revoked().is_some() {
            return false;
        }
        row.write(next);
        row.version += 1;
        let user = Arc::clone(&row.user);
        drop(row);
        if next.rotation.revoked.is_some() {
            self.unlink(&user.id, next.id);
            self.publish([RevokedItem::Session(next.id)]);
        }
        true
    }

    /// Removes a session from its user's entry.
    fn unlink(&self, user_id: &str, id: SessionId) {
        self.users.remove_if(user_id, |_, user| user.ids().remove(id));
    }

    fn list(&self, user_id: &str, limit: usize) -> Vec<SessionRecord> {
        let ids = self.users.get(user_id).map(|user| user.ids().to_vec()).unwrap_or_default();
        let rows = ids.into_iter().filter_map(|id| {
            let row = self.rows.get(&id)?;
            row.revoked().is_none().then_some((row.created_at, row.seq, id))
        });
        let mut newest: Vec<_> = rows.collect();
        if newest.len() > limit {
            newest.sort_unstable_by(|a, b| b.cmp(a));
            newest.truncate(limit);
        }
        let sessions = newest.into_iter().filter_map(|(.., id)| Some(self.rows.get(&id)?.record(id)));
        sessions.filter(|session| session.rotation.revoked.is_none()).collect()
    }

    fn revoke(&self, target: RevokeTarget<'_>, revocation: Revocation) -> Revoked {
        match target {
            RevokeTarget::Token(id) => {
                self.publish([RevokedItem::Token(id.into())]);
                Revoked::default()
            }
            RevokeTarget::Session(id) => {
                let row = self.rows.get_mut(&id).map(|mut row| (row.revoke(revocation), Arc::clone(&row.user)));
                let was_live = row.is_some_and(|(was_live, user)| {
                    self.unlink(&user.id, id);
                    was_live
                });
                // Also if the row is missing: access tokens of the session may still be in use.
                self.publish([RevokedItem::Session(id)]);
                Vec::from_iter(was_live.then_some(id)).into()
            }
            RevokeTarget::Users { scope, .. } if scope.ends_with(SEPARATOR) => {
                if let Some(mut realm) = self.realms.get_mut(scope) {
                    std::mem::take(&mut *realm).revoke(revocation);
                }
                let users = Some(self.publish_users(scope, revocation.at, Spared::Nothing));
                Revoked { users, ..Revoked::default() }
            }
            RevokeTarget::Users { scope, except, created_until } => {
                self.revoke_user(scope, except, created_until, revocation)
            }
        }
    }

    fn revoke_user(
        &self,
        user_id: &str,
        except: Option<SessionId>,
        created_until: Option<Timestamp>,
        revocation: Revocation,
    ) -> Revoked {
        let mut count = 0;
        let mut is_known = false;
        // The user's entry stays locked, so that a concurrent login is entirely before or entirely after this.
        self.users.remove_if_mut(user_id, |_, user| {
            is_known = true;
            let ids = user.ids();
            let mut spared = Vec::from_iter(except.filter(|except| ids.contains(*except)));
            if let Some(until) = created_until {
                let others = ids.to_vec().into_iter().filter(|id| Some(*id) != except);
                spared.extend(others.filter(|id| self.rows.get(id).is_some_and(|row| row.created_at > until)));
            }
            count = ids.len() - spared.len();
            if count <= MAX_COUNTED {
                let others = ids.to_vec().into_iter().filter(|id| !spared.contains(id));
                let is_live = |id: &SessionId| {
                    self.rows.get(id).is_some_and(|row| row.revoked().is_none() && revocation.at < row.expires_at)
                };
                count = others.filter(is_live).count();
            }
            drop(ids);
            let renewed = user.renewed();
            for id in &spared {
                if let Some(mut row) = self.rows.get_mut(id) {
                    row.user = Arc::clone(&renewed);
                }
                renewed.ids().insert(*id);
            }
            std::mem::replace(user, renewed).revoke(revocation);
            spared.is_empty()
        });
        if !is_known {
            return Revoked::default();
        }
        let spared = except.map_or(Spared::Nothing, Spared::Session);
        let users = Some(self.publish_users(user_id, revocation.at, spared));
        Revoked { users, count, sessions: Vec::new() }
    }

    fn read_revocations(&self, since: FeedCursor, window: FeedWindow) -> RevocationBatch {
        let feed = self.feed();
        let start = feed.entries.partition_point(|entry| entry.seq <= since.0);
        let now = Instant::now();
        let read = feed.entries.range(start..).take(window.limit);
        let entries: Vec<_> = read
            .map(|entry| RevocationEntry {
                item: entry.item.clone(),
                age: now.saturating_duration_since(entry.written_at),
            })
            .collect();
        let has_more = feed.entries.len() - start > entries.len();
        let last = if has_more { feed.entries.get(start + entries.len() - 1) } else { None };
        let next = last.map_or(feed.last_seq, |last| last.seq);
        RevocationBatch { entries, next: FeedCursor(next), has_more, now: None }
    }

    fn purge(&self, before: Timestamp, limit: usize) -> usize {
        let expired: Vec<_> =
            self.rows.iter().filter(|row| row.expires_at < before).map(|row| *row.key()).take(limit).collect();
        for id in &expired {
            if let Some((_, row)) = self.rows.remove(id) {
                self.unlink(&row.user.id, *id);
                if let Some(external) = row.external() {
                    self.external.remove_if_mut(&external, |_, ids| ids.remove(*id));
                }
            }
        }
        if expired.len() < limit {
            self.user_agents.retain(|user_agent| Arc::strong_count(user_agent) > 1);
            let now = Instant::now();
            let is_old = |entry: &FeedEntry| now.saturating_duration_since(entry.written_at) > FEED_RETENTION;
            let mut feed = self.feed();
            while feed.entries.front().is_some_and(is_old) {
                feed.entries.pop_front();
            }
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

    async fn list(&self, user_id: &str, limit: usize) -> Result<Vec<SessionRecord>, StoreError> {
        Ok(self.0.list(user_id, limit))
    }

    async fn find_external(&self, id: ExternalId) -> Result<Vec<SessionId>, StoreError> {
        Ok(self.0.external.get(&id).map(|ids| ids.to_vec()).unwrap_or_default())
    }

    async fn revoke(&self, target: RevokeTarget<'_>, revocation: Revocation) -> Result<Revoked, StoreError> {
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

    async fn read_revocations(&self, since: FeedCursor, window: FeedWindow) -> Result<RevocationBatch, StoreError> {
        Ok(self.0.read_revocations(since, window))
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
        let options = InsertOptions::default();
        for n in 0..3 {
            let mut session = super::super::conformance::session(&format!("user{n}"), now, 10_000);
            session.client.user_agent = Some(Arc::from("curl/8"));
            store.insert(&session, options).await.unwrap();
        }
        assert_eq!(store.0.user_agents.len(), 1);
        store.purge(Timestamp::MAX, 100).await.unwrap();
        assert_eq!((store.0.user_agents.len(), store.0.rows.len(), store.0.users.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn a_session_at_an_identity_provider_is_dropped_with_the_last_session_that_belongs_to_it() {
        let store = MemoryStore::new();
        let now = Timestamp::from_millis(1_000);
        let external = ExternalId::from_bytes([7; 32]);
        for lifetime in [10_000, 20_000, 30_000] {
            let session = super::super::conformance::session("alice", now, lifetime);
            let session = SessionRecord { external: Some(external), ..session };
            store.insert(&session, InsertOptions::default()).await.unwrap();
        }
        for (before, left) in [(15_000, 2), (25_000, 1), (35_000, 0)] {
            store.purge(Timestamp::from_millis(before), 100).await.unwrap();
            assert_eq!(store.find_external(external).await.unwrap().len(), left);
        }
        assert!(store.0.external.is_empty());
    }
}
