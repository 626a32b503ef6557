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
use std::time::SystemTime;

use axum_refresh::store::{
    Activity, ExternalId, FEED_RETENTION, FeedCursor, FeedWindow, InsertOptions, Inserted, Revocation, RevocationBatch,
    RevocationEntry, RevokeTarget, Revoked, RevokedItem, SessionRecord, StoreError, Timestamp, everyone,
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
    /// The revocation feed by sequence number, which is what a [`FeedCursor`] holds: what was revoked, and when it was
    /// written by the clock of this process.
    feed: BTreeMap<i64, (RevokedItem, Timestamp)>,
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
    /// A session was added to the feed at the given time.
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
            Line::SessionRevoked(seq, id, written_at) => self.publish(seq, RevokedItem::Session(id), written_at),
            Line::TokenRevoked(seq, jti, written_at) => self.publish(seq, RevokedItem::Token(jti.into()), written_at),
            Line::EntryPurged(seq) => {
                self.feed.remove(&seq);
            }
        }
    }

    fn publish(&mut self, seq: i64, item: RevokedItem, written_at: Timestamp) {
        self.last_seq = self.last_seq.max(seq);
        self.feed.insert(seq, (item, written_at));
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
        lines.push(Line::SessionRevoked(self.next_seq(lines), id, now()));
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

fn now() -> Timestamp {
    SystemTime::now().into()
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
                .filter(|(_, session)| Some(session.id) != replaced && session.is_limited())
                .filter(|(_, session)| session.rotation.is_live(new.created_at, limit.idle_timeout))
                .map(|(seq, session)| (session.created_at, *seq, session.id))
                .collect();
            let Some(evicted) = limit.make_room(live) else { return Ok(Inserted::LimitReached) };
            revoked.extend(evicted.into_iter().map(|(.., id)| (id, RevocationReason::Evicted)));
        }
        let mut lines = vec![Line::Session(state.next_seq(&[]), Box::new(new.clone()))];
        for (id, reason) in &revoked {
            let revocation = Revocation { at: new.created_at, reason: *reason };
            state.revoke(*id, revocation, &mut lines);
        }
        state.commit(lines)?;
        let revoked: Vec<_> = revoked.into_iter().map(|(id, _)| id).collect();
        Ok(Inserted::Done(revoked.into()))
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
        let (claims, last_client) = (next.claims.clone(), next.last_client.clone());
        let mut new = SessionRecord { claims, last_client, version: expected + 1, ..old.clone() };
        new.rotation = next.rotation;
        new.rotation.merge_activity(old.rotation.last_seen_at, old.rotation.acknowledged);
        let mut lines = vec![Line::Session(*seq, Box::new(new))];
        if next.rotation.revoked.is_some() {
            lines.push(Line::SessionRevoked(state.next_seq(&lines), next.id, now()));
        }
        state.commit(lines).map(|()| true)
    }

    async fn list(&self, user_id: &str, limit: usize) -> Result<Vec<SessionRecord>, StoreError> {
        let state = self.lock();
        let mut sessions = state.of_user(user_id);
        sessions.sort_by_key(|(seq, session)| std::cmp::Reverse((session.created_at, *seq)));
        Ok(sessions.into_iter().take(limit).map(|(_, session)| session.clone()).collect())
    }

    async fn find_external(&self, id: ExternalId) -> Result<Vec<SessionId>, StoreError> {
        let state = self.lock();
        let all = state.sessions.values().map(|(_, session)| session);
        Ok(all.filter(|session| session.external == Some(id)).map(|session| session.id).collect())
    }

    async fn revoke(&self, target: RevokeTarget<'_>, revocation: Revocation) -> Result<Revoked, StoreError> {
        let mut state = self.lock();
        let ids: Vec<_> = match target {
            RevokeTarget::Session(id) => vec![id],
            // One by one: this store is not made for users with many sessions.
            RevokeTarget::Users { scope, except, created_until } => {
                let all = state.sessions.values().map(|(_, session)| session);
                let of_scope = all.filter(|session| *session.user_id == *scope || everyone(&session.user_id) == scope);
                let revoked = of_scope.filter(|session| session.rotation.revoked.is_none());
                let revoked = revoked.filter(|session| created_until.is_none_or(|until| session.created_at <= until));
                revoked.map(|session| session.id).filter(|id| Some(*id) != except).collect()
            }
            RevokeTarget::Token(jti) => {
                let line = Line::TokenRevoked(state.next_seq(&[]), jti.to_owned(), now());
                return state.commit(vec![line]).map(|()| Revoked::default());
            }
        };
        let mut lines = Vec::new();
        let revoked: Vec<_> = ids.into_iter().filter(|id| state.revoke(*id, revocation, &mut lines)).collect();
        state.commit(lines)?;
        Ok(revoked.into())
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

    async fn read_revocations(&self, since: FeedCursor, window: FeedWindow) -> Result<RevocationBatch, StoreError> {
        let (state, now) = (self.lock(), now());
        let mut newer = state.feed.iter().filter(|(seq, _)| **seq > since.0);
        let mut next = FeedCursor(state.last_seq);
        let mut entries = Vec::new();
        for (seq, (item, written_at)) in newer.by_ref().take(window.limit) {
            entries.push(RevocationEntry { item: item.clone(), age: now.since(*written_at) });
            next = FeedCursor(*seq);
        }
        let has_more = newer.next().is_some();
        // The clock of this process is also that of its node, so there is nothing to compare.
        Ok(RevocationBatch { entries, next, has_more, now: None })
    }

    async fn purge(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let mut state = self.lock();
        let expired = state.sessions.values().filter(|(_, session)| session.rotation.expires_at < before);
        let mut lines: Vec<_> = expired.take(limit).map(|(_, session)| Line::SessionPurged(session.id)).collect();
        let purged = lines.len();
        let oldest = now().before(FEED_RETENTION);
        let unneeded = state.feed.iter().filter(|(_, (_, written_at))| *written_at < oldest);
        lines.extend(unneeded.map(|(seq, _)| Line::EntryPurged(*seq)));
        state.commit(lines)?;
        Ok(purged)
    }
}
