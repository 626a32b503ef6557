//! A [`SessionStore`] that keeps sessions in memory and appends every change to a file, one line of JSON each. When the
//! store is opened, it reads the file back.
//!
//! The crate's documentation of `SessionStore` has the rules of each method. One lock makes every method atomic, which
//! is the rule for all of them.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum_refresh::store::{
    Activity, FeedCursor, InsertOptions, Inserted, Revocation, RevocationBatch, RevocationEntry, RevokeTarget,
    RevokedItem, SessionRecord, StoreError, Timestamp,
};
use axum_refresh::{RevocationReason, SessionId, SessionStore};
use serde::{Deserialize, Serialize};

/// A store for a single process: nothing keeps another process from writing to the file.
#[derive(Debug)]
pub(crate) struct JournalStore(Mutex<State>);

#[derive(Debug)]
struct State {
    file: File,
    /// Each with its sequence number: if the session limit has to choose between two sessions created in the same
    /// millisecond, it revokes the one inserted first.
    sessions: BTreeMap<SessionId, (i64, SessionRecord)>,
    /// The revocation feed by sequence number, which is what a [`FeedCursor`] holds.
    feed: BTreeMap<i64, RevocationEntry>,
    /// The last sequence number in use.
    last_seq: i64,
}

/// A line of the file: one change.
#[derive(Serialize, Deserialize)]
enum Line {
    /// A session was inserted or changed.
    Session(i64, Box<SessionRecord>),
    /// An expired session was deleted.
    SessionPurged(SessionId),
    /// A session was added to the feed; nodes need the entry until the given time.
    SessionRevoked(i64, SessionId, Timestamp),
    /// An access token was added to the feed, by its `jti`.
    TokenRevoked(i64, String, Timestamp),
    /// An expired entry of the feed was deleted.
    EntryPurged(i64),
}

impl JournalStore {
    /// Reads the file, or creates it.
    ///
    /// A crash may have cut off the last line. The call that wrote it never returned, so the line is dropped.
    pub(crate) fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(StoreError::new)?;
        let mut state = State { file, sessions: BTreeMap::new(), feed: BTreeMap::new(), last_seq: 0 };
        let mut complete = 0;
        let mut lines = BufReader::new(state.file.try_clone().map_err(StoreError::new)?);
        let mut text = String::new();
        while lines.read_line(&mut text).map_err(StoreError::new)? > 0 {
            if !text.ends_with('\n') {
                break;
            }
            state.apply(serde_json::from_str(&text).map_err(StoreError::new)?);
            complete += u64::try_from(text.len()).map_err(StoreError::new)?;
            text.clear();
        }
        state.file.set_len(complete).map_err(StoreError::new)?;
        Ok(Self(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Writes the lines to the disk and then applies them in memory, so that a call that returned `Ok` is never lost and
    /// a call that failed has changed nothing.
    fn commit(&mut self, lines: Vec<Line>) -> Result<(), StoreError> {
        let length = self.file.metadata().map_err(StoreError::new)?.len();
        let mut text = Vec::new();
        for line in &lines {
            serde_json::to_writer(&mut text, line).map_err(StoreError::new)?;
            text.push(b'\n');
        }
        if let Err(error) = self.file.write_all(&text).and_then(|()| self.file.sync_data()) {
            // A full disk, for example, may have left a part of a line.
            self.file.set_len(length).map_err(StoreError::new)?;
            return Err(StoreError::new(error));
        }
        lines.into_iter().for_each(|line| self.apply(line));
        Ok(())
    }

    fn apply(&mut self, line: Line) {
        match line {
            Line::Session(seq, session) => {
                self.last_seq = self.last_seq.max(seq);
                self.sessions.insert(session.id, (seq, *session));
            }
            Line::SessionPurged(id) => {
                self.sessions.remove(&id);
            }
            Line::SessionRevoked(seq, id, expires_at) => self.publish(seq, RevokedItem::Session(id), expires_at),
            Line::TokenRevoked(seq, jti, expires_at) => self.publish(seq, RevokedItem::Token(jti.into()), expires_at),
            Line::EntryPurged(seq) => {
                self.feed.remove(&seq);
            }
        }
    }

    fn publish(&mut self, seq: i64, item: RevokedItem, expires_at: Timestamp) {
        self.last_seq = self.last_seq.max(seq);
        self.feed.insert(seq, RevocationEntry { item, expires_at });
    }

    /// Adds the lines that revoke a session and publish it in the feed. Returns whether the session was live.
    ///
    /// A session that is already revoked, or missing, is published all the same.
    fn revoke(&self, id: SessionId, revocation: Revocation, lines: &mut Vec<Line>) -> bool {
        let mut was_live = false;
        let found = self.sessions.get(&id).filter(|(_, session)| session.rotation.revoked.is_none());
        if let Some((seq, session)) = found {
            let mut next = session.clone();
            was_live = revocation.at < next.rotation.expires_at;
            next.rotation.revoked = Some(revocation);
            // Makes a compare-and-swap that is in flight fail.
            next.version += 1;
            lines.push(Line::Session(*seq, Box::new(next)));
        }
        lines.push(Line::SessionRevoked(self.next_seq(lines), id, revocation.expires_at));
        was_live
    }

    /// A sequence number after those of `lines`, which take at most one each.
    fn next_seq(&self, lines: &[Line]) -> i64 {
        self.last_seq + 1 + i64::try_from(lines.len()).unwrap_or(i64::MAX - self.last_seq - 1)
    }

    /// The user's sessions that are not revoked.
    fn of_user(&self, user_id: &str) -> Vec<&(i64, SessionRecord)> {
        let all = self.sessions.values();
        all.filter(|(_, session)| &*session.user_id == user_id && session.rotation.revoked.is_none()).collect()
    }
}

#[async_trait::async_trait]
impl SessionStore for JournalStore {
    async fn insert(&self, new: &SessionRecord, options: InsertOptions) -> Result<Inserted, StoreError> {
        let mut state = self.lock();
        if state.sessions.contains_key(&new.id) {
            return Err(StoreError::new("a session with this id exists"));
        }
        let others = state.of_user(&new.user_id);
        let replaced = options.replacing.filter(|id| others.iter().any(|(_, session)| session.id == *id));
        let mut revoked: Vec<_> = replaced.map(|id| (id, RevocationReason::Replaced)).into_iter().collect();
        if let Some(limit) = options.limit {
            let live = others
                .iter()
                .filter(|(_, session)| Some(session.id) != replaced)
                .filter(|(_, session)| session.rotation.is_live(new.created_at, limit.idle_timeout))
                .map(|(seq, session)| (session.created_at, *seq, session.id))
                .collect();
            let Some(evicted) = limit.make_room(live) else { return Ok(Inserted::LimitReached) };
            revoked.extend(evicted.into_iter().map(|(.., id)| (id, RevocationReason::Evicted)));
        }
        let mut lines = vec![Line::Session(state.next_seq(&[]), Box::new(new.clone()))];
        for (id, reason) in &revoked {
            let revocation =
                Revocation { at: new.created_at, expires_at: options.revocation_expires_at, reason: *reason };
            state.revoke(*id, revocation, &mut lines);
        }
        state.commit(lines)?;
        Ok(Inserted::Done(revoked.into_iter().map(|(id, _)| id).collect()))
    }

    async fn load(&self, id: SessionId) -> Result<Option<SessionRecord>, StoreError> {
        Ok(self.lock().sessions.get(&id).map(|(_, session)| session.clone()))
    }

    async fn compare_and_swap(&self, expected: u64, next: &SessionRecord) -> Result<bool, StoreError> {
        let mut state = self.lock();
        let Some((seq, old)) = state.sessions.get(&next.id) else { return Ok(false) };
        if old.version != expected {
            return Ok(false);
        }
        let mut new = SessionRecord { claims: next.claims.clone(), version: expected + 1, ..old.clone() };
        new.rotation = next.rotation;
        new.rotation.merge_activity(old.rotation.last_seen_at, old.rotation.acknowledged);
        let mut lines = vec![Line::Session(*seq, Box::new(new))];
        if let Some(revocation) = next.rotation.revoked {
            lines.push(Line::SessionRevoked(state.next_seq(&lines), next.id, revocation.expires_at));
        }
        state.commit(lines).map(|()| true)
    }

    async fn list(&self, user_id: &str) -> Result<Vec<SessionRecord>, StoreError> {
        Ok(self.lock().of_user(user_id).into_iter().map(|(_, session)| session.clone()).collect())
    }

    async fn revoke(&self, target: RevokeTarget<'_>, revocation: Revocation) -> Result<Vec<SessionId>, StoreError> {
        let mut state = self.lock();
        let ids: Vec<_> = match target {
            RevokeTarget::Session(id) => vec![id],
            RevokeTarget::User { user_id, except } => {
                let all = state.of_user(user_id).into_iter().map(|(_, session)| session.id);
                all.filter(|id| Some(*id) != except).collect()
            }
            RevokeTarget::Token(jti) => {
                let line = Line::TokenRevoked(state.next_seq(&[]), jti.to_owned(), revocation.expires_at);
                return state.commit(vec![line]).map(|()| Vec::new());
            }
        };
        let mut lines = Vec::new();
        let revoked = ids.into_iter().filter(|id| state.revoke(*id, revocation, &mut lines)).collect();
        state.commit(lines)?;
        Ok(revoked)
    }

    async fn record_activity(&self, batch: &[Activity]) -> Result<(), StoreError> {
        let mut state = self.lock();
        let mut changed = BTreeMap::new();
        for activity in batch {
            let Some((seq, session)) = state.sessions.get(&activity.id) else { continue };
            let (_, session) = changed.entry(activity.id).or_insert_with(|| (*seq, session.clone()));
            session.rotation.merge_activity(activity.last_seen_at, activity.acknowledged);
        }
        state.commit(changed.into_values().map(|(seq, session)| Line::Session(seq, Box::new(session))).collect())
    }

    async fn read_revocations(&self, since: FeedCursor) -> Result<RevocationBatch, StoreError> {
        let state = self.lock();
        let newer = state.feed.iter().filter(|(seq, _)| **seq > since.0);
        let entries = newer.map(|(_, entry)| entry.clone()).collect();
        Ok(RevocationBatch { entries, next: FeedCursor(state.last_seq) })
    }

    async fn purge(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let mut state = self.lock();
        let expired = state.sessions.values().filter(|(_, session)| session.rotation.expires_at < before);
        let mut lines: Vec<_> = expired.take(limit).map(|(_, session)| Line::SessionPurged(session.id)).collect();
        let purged = lines.len();
        let unneeded = state.feed.iter().filter(|(_, entry)| entry.expires_at < before);
        lines.extend(unneeded.map(|(seq, _)| Line::EntryPurged(*seq)));
        state.commit(lines)?;
        Ok(purged)
    }
}
