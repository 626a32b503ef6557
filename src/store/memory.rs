//! Sessions in this process's memory: for one node, for development, for tests. Gone with the process.

mod row;

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use dashmap::mapref::entry::Entry;
use dashmap::{DashMap, DashSet};
use tokio::sync::Notify;

use super::{Admission, Cap, Cursor, Ended, Feed, Inserted, Revoked, Seen, SessionStore, StoreError, Target};
use crate::session::{Reason, Revocation, Session, SessionId, Timestamp};

use self::row::Row;

/// Sessions in memory. A clone is another handle on the same sessions.
///
/// Takes at most 400 bytes a session, for short user ids and no claims. No call waits for more than one small part of
/// the table.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Tables>);

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("sessions", &self.0.rows.len()).finish_non_exhaustive()
    }
}

/// Many small parts, so that purging holds up nobody: at a million sessions each has four thousand.
const SHARDS: usize = 256;

/// Lock order: a user's entry, then a row, then the feed. Nobody who holds a row asks for a user.
struct Tables {
    rows: DashMap<SessionId, Box<Row>>,
    /// The sessions of each user that are not revoked. May name one that has just been revoked or purged.
    users: DashMap<Arc<str>, Ids>,
    user_agents: DashSet<Arc<str>>,
    inserted: AtomicU32,
    feed: Mutex<Log>,
    changed: Notify,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            rows: DashMap::with_shard_amount(SHARDS),
            users: DashMap::with_shard_amount(SHARDS),
            user_agents: DashSet::default(),
            inserted: AtomicU32::new(0),
            feed: Mutex::default(),
            changed: Notify::new(),
        }
    }
}

/// Nearly every user has one session, so that one costs no allocation.
enum Ids {
    One(SessionId),
    #[expect(clippy::box_collection, reason = "three words less in every entry, for the few users with several")]
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

    /// Answers whether that was the last one.
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
struct Log {
    last: i64,
    entries: VecDeque<(i64, Revoked)>,
}

impl Tables {
    fn log(&self) -> MutexGuard<'_, Log> {
        // Nothing in there can be left half done.
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, ended: impl IntoIterator<Item = Ended>, until: Timestamp) {
        let mut log = self.log();
        for what in ended {
            log.last += 1;
            let entry = (log.last, Revoked { what, until });
            log.entries.push_back(entry);
        }
        drop(log);
        self.changed.notify_waiters();
    }

    fn intern(&self, user_agent: &Arc<str>) -> Arc<str> {
        if let Some(known) = self.user_agents.get(user_agent) {
            return Arc::clone(&known);
        }
        self.user_agents.insert(Arc::clone(user_agent));
        Arc::clone(user_agent)
    }

    fn insert(&self, new: &Session, admission: Admission) -> Result<Inserted, StoreError> {
        if self.rows.contains_key(&new.id) {
            return Err(StoreError::new("a session with this id exists"));
        }
        // Held until the end, so that two logins of one user count each other.
        let user = self.users.entry(Arc::clone(&new.user));
        let (key, others) = match &user {
            Entry::Occupied(entry) => (Arc::clone(entry.key()), entry.get().to_vec()),
            Entry::Vacant(entry) => (Arc::clone(entry.key()), Vec::new()),
        };
        let replaced = admission.replacing.filter(|id| others.contains(id));
        let evicted = match admission.cap {
            None => Vec::new(),
            Some(cap) => match self.make_room(cap, new.created_at, others, replaced) {
                Some(evicted) => evicted,
                None => return Ok(Inserted::Full),
            },
        };
        let user_agent = new.client.user_agent.as_ref().map(|user_agent| self.intern(user_agent));
        let place = self.inserted.fetch_add(1, Ordering::Relaxed);
        self.rows.insert(new.id, Box::new(Row::new(new, key, user_agent, place)));
        let mut ids = match user {
            Entry::Occupied(entry) => {
                let mut ids = entry.into_ref();
                ids.insert(new.id);
                ids
            }
            Entry::Vacant(entry) => entry.insert(Ids::One(new.id)),
        };
        let ends = evicted.into_iter().map(|id| (id, Reason::Evicted));
        let ends = ends.chain(replaced.map(|id| (id, Reason::Replaced)));
        let mut ended = Vec::new();
        for (id, reason) in ends {
            let revocation = Revocation { at: new.created_at, until: admission.until, reason };
            if self.rows.get_mut(&id).is_some_and(|mut row| row.revoke(revocation)) {
                ended.push(id);
            }
            ids.remove(id);
        }
        drop(ids);
        if !ended.is_empty() {
            self.publish(ended.iter().copied().map(Ended::Session), admission.until);
        }
        Ok(Inserted::Done(ended))
    }

    /// Which sessions have to go; none where one would have to and may not.
    fn make_room(
        &self,
        cap: Cap,
        now: Timestamp,
        others: Vec<SessionId>,
        replaced: Option<SessionId>,
    ) -> Option<Vec<SessionId>> {
        let stays = others.into_iter().filter(|id| Some(*id) != replaced);
        let live = stays.filter_map(|id| {
            let row = self.rows.get(&id)?;
            row.chain().is_live(now, cap.idle_timeout).then_some((row.created_at, row.place, id))
        });
        Some(cap.make_room(live.collect())?.into_iter().map(|(.., id)| id).collect())
    }

    fn swap(&self, expected: u64, next: &Session) -> bool {
        let Some(mut row) = self.rows.get_mut(&next.id) else { return false };
        if row.version != expected {
            return false;
        }
        row.write(next);
        row.version += 1;
        let user = Arc::clone(&row.user);
        drop(row);
        if let Some(revocation) = next.chain.revoked {
            self.forget(&user, next.id);
            self.publish([Ended::Session(next.id)], revocation.until);
        }
        true
    }

    /// Takes a session out of its user's.
    fn forget(&self, user: &str, id: SessionId) {
        self.users.remove_if_mut(user, |_, ids| ids.remove(id));
    }

    fn of_user(&self, user: &str) -> Vec<SessionId> {
        self.users.get(user).map(|ids| ids.to_vec()).unwrap_or_default()
    }

    fn list(&self, user: &str) -> Vec<Session> {
        let sessions = self.of_user(user).into_iter();
        let sessions = sessions.filter_map(|id| Some(self.rows.get(&id)?.session(id)));
        sessions.filter(|session| session.chain.revoked.is_none()).collect()
    }

    fn revoke(&self, target: Target<'_>, revocation: Revocation) -> Vec<SessionId> {
        let revoke = |id| {
            let mut row = self.rows.get_mut(&id)?;
            Some((row.revoke(revocation), Arc::clone(&row.user)))
        };
        let (ended, named) = match target {
            Target::Token(id) => (Vec::new(), vec![Ended::Token(id.into())]),
            Target::Session(id) => match revoke(id) {
                None => (Vec::new(), vec![Ended::Session(id)]),
                Some((was_live, user)) => {
                    self.forget(&user, id);
                    (Vec::from_iter(was_live.then_some(id)), vec![Ended::Session(id)])
                }
            },
            Target::User { user, except } => {
                let mut ended = Vec::new();
                let mut named = Vec::new();
                // Under the user's entry, so that a login under way is wholly before or wholly after.
                self.users.remove_if_mut(user, |_, ids| {
                    let mut last = false;
                    for id in ids.to_vec().into_iter().filter(|id| Some(*id) != except) {
                        if let Some((was_live, _)) = revoke(id) {
                            named.push(Ended::Session(id));
                            ended.extend(was_live.then_some(id));
                        }
                        last = ids.remove(id);
                    }
                    last
                });
                (ended, named)
            }
        };
        if !named.is_empty() {
            self.publish(named, revocation.until);
        }
        ended
    }

    fn revocations(&self, since: Cursor) -> Feed {
        let log = self.log();
        let start = log.entries.partition_point(|(place, _)| *place <= since.0);
        let revoked = log.entries.range(start..).map(|(_, revoked)| revoked.clone()).collect();
        Feed { revoked, next: Cursor(log.last) }
    }

    fn purge(&self, before: Timestamp, limit: usize) -> usize {
        let expired: Vec<_> =
            self.rows.iter().filter(|row| row.expires_at < before).map(|row| *row.key()).take(limit).collect();
        for id in &expired {
            if let Some((_, row)) = self.rows.remove(id) {
                self.forget(&row.user, *id);
            }
        }
        if expired.len() < limit {
            self.user_agents.retain(|user_agent| Arc::strong_count(user_agent) > 1);
            self.log().entries.retain(|(_, revoked)| revoked.until >= before);
        }
        expired.len()
    }
}

#[async_trait]
impl SessionStore for MemoryStore {
    async fn insert(&self, new: &Session, admission: Admission) -> Result<Inserted, StoreError> {
        self.0.insert(new, admission)
    }

    async fn load(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        Ok(self.0.rows.get(&id).map(|row| row.session(id)))
    }

    async fn swap(&self, expected: u64, next: &Session) -> Result<bool, StoreError> {
        Ok(self.0.swap(expected, next))
    }

    async fn list(&self, user: &str) -> Result<Vec<Session>, StoreError> {
        Ok(self.0.list(user))
    }

    async fn revoke(&self, target: Target<'_>, revocation: Revocation) -> Result<Vec<SessionId>, StoreError> {
        Ok(self.0.revoke(target, revocation))
    }

    async fn seen(&self, batch: &[Seen]) -> Result<(), StoreError> {
        for seen in batch {
            if let Some(mut row) = self.0.rows.get_mut(&seen.id) {
                row.see(seen.last_seen_at, seen.acknowledged);
            }
        }
        Ok(())
    }

    async fn revocations(&self, since: Cursor) -> Result<Feed, StoreError> {
        Ok(self.0.revocations(since))
    }

    async fn purge(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        // Looks at every session, so it must not hold up a thread that serves requests.
        let tables = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || tables.purge(before, limit)).await.map_err(StoreError::new)
    }

    async fn changed(&self) {
        self.0.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::store_conformance!(async { MemoryStore::new() });

    #[tokio::test]
    async fn a_user_agent_that_many_sessions_share_is_kept_once_and_dropped_with_the_last() {
        let store = MemoryStore::new();
        let now = Timestamp::from_millis(1_000);
        let admission = Admission { cap: None, replacing: None, until: now };
        for n in 0..3 {
            let mut session = super::super::conformance::session(&format!("user{n}"), now, 10_000);
            session.client.user_agent = Some(Arc::from("curl/8"));
            store.insert(&session, admission).await.unwrap();
        }
        assert_eq!(store.0.user_agents.len(), 1);
        store.purge(Timestamp::MAX, 100).await.unwrap();
        assert_eq!((store.0.user_agents.len(), store.0.rows.len(), store.0.users.len()), (0, 0, 0));
    }
}
