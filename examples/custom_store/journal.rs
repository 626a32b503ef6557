//! Sessions in memory, and in a file that every change is appended to: a line of JSON each, read back at the start.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum_refresh::{
    Admission, CapResponse, Cursor, Ended, Feed, Inserted, Reason, Revocation, Revoked, Seen, Session, SessionId,
    SessionStore, StoreError, Target, Timestamp,
};
use serde::{Deserialize, Serialize};

/// For one process. One lock makes every method the one atomic step that the contract wants.
#[derive(Debug)]
pub(crate) struct JournalStore(Mutex<State>);

#[derive(Debug)]
struct State {
    file: File,
    /// With the order of their insertion, by which the cap decides between two of one millisecond.
    sessions: BTreeMap<SessionId, (i64, Session)>,
    /// The feed; its key is what a [`Cursor`] counts.
    feed: BTreeMap<i64, Revoked>,
    last: i64,
}

/// A line of the file: what is so from now on.
#[derive(Serialize, Deserialize)]
enum Line {
    Session(i64, Box<Session>),
    Purged(SessionId),
    Ended(i64, SessionId, Timestamp),
    TokenEnded(i64, String, Timestamp),
    Forgotten(i64),
}

impl JournalStore {
    /// Reads the file, or makes it. A last line that was cut off by a crash was never answered, and is dropped.
    pub(crate) fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(StoreError::new)?;
        let mut state = State { file, sessions: BTreeMap::new(), feed: BTreeMap::new(), last: 0 };
        let mut whole = 0;
        let mut lines = BufReader::new(state.file.try_clone().map_err(StoreError::new)?);
        let mut text = String::new();
        while lines.read_line(&mut text).map_err(StoreError::new)? > 0 {
            if !text.ends_with('\n') {
                break;
            }
            state.apply(serde_json::from_str(&text).map_err(StoreError::new)?);
            whole += u64::try_from(text.len()).map_err(StoreError::new)?;
            text.clear();
        }
        state.file.set_len(whole).map_err(StoreError::new)?;
        Ok(Self(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// First on the disk, then in memory: what was answered is never lost, and what failed has not happened.
    fn commit(&mut self, lines: Vec<Line>) -> Result<(), StoreError> {
        let length = self.file.metadata().map_err(StoreError::new)?.len();
        let mut text = Vec::new();
        for line in &lines {
            serde_json::to_writer(&mut text, line).map_err(StoreError::new)?;
            text.push(b'\n');
        }
        if let Err(error) = self.file.write_all(&text).and_then(|()| self.file.sync_data()) {
            // A full disk, perhaps in the middle of a line.
            self.file.set_len(length).map_err(StoreError::new)?;
            return Err(StoreError::new(error));
        }
        lines.into_iter().for_each(|line| self.apply(line));
        Ok(())
    }

    fn apply(&mut self, line: Line) {
        match line {
            Line::Session(place, session) => {
                self.last = self.last.max(place);
                self.sessions.insert(session.id, (place, *session));
            }
            Line::Purged(id) => {
                self.sessions.remove(&id);
            }
            Line::Ended(place, id, until) => self.publish(place, Ended::Session(id), until),
            Line::TokenEnded(place, jti, until) => self.publish(place, Ended::Token(jti.into()), until),
            Line::Forgotten(place) => {
                self.feed.remove(&place);
            }
        }
    }

    fn publish(&mut self, place: i64, what: Ended, until: Timestamp) {
        self.last = self.last.max(place);
        self.feed.insert(place, Revoked { what, until });
    }

    /// Lines that end a session, which may have been ended before or not be there, and name it in the feed.
    fn end(&self, id: SessionId, revocation: Revocation, lines: &mut Vec<Line>) -> bool {
        let mut is_live = false;
        if let Some((place, session)) = self.sessions.get(&id).filter(|(_, session)| session.chain.revoked.is_none()) {
            let mut next = session.clone();
            is_live = revocation.at < next.chain.expires_at;
            next.chain.revoked = Some(revocation);
            // So that a swap that is under way fails.
            next.version += 1;
            lines.push(Line::Session(*place, Box::new(next)));
        }
        lines.push(Line::Ended(self.next(lines), id, revocation.until));
        is_live
    }

    /// The next place in the feed or in the order of insertions, behind those that these lines take.
    fn next(&self, lines: &[Line]) -> i64 {
        self.last + 1 + i64::try_from(lines.len()).unwrap_or(i64::MAX - self.last - 1)
    }

    fn of_user(&self, user: &str) -> Vec<&(i64, Session)> {
        let all = self.sessions.values();
        all.filter(|(_, session)| &*session.user == user && session.chain.revoked.is_none()).collect()
    }
}

#[async_trait::async_trait]
impl SessionStore for JournalStore {
    async fn insert(&self, new: &Session, admission: Admission) -> Result<Inserted, StoreError> {
        let mut state = self.lock();
        if state.sessions.contains_key(&new.id) {
            return Err(StoreError::new("a session with this id exists"));
        }
        let others = state.of_user(&new.user);
        let replaced = admission.replacing.filter(|id| others.iter().any(|(_, session)| session.id == *id));
        let mut ends: Vec<_> = replaced.map(|id| (id, Reason::Replaced)).into_iter().collect();
        if let Some(cap) = admission.cap {
            let mut live: Vec<_> = others
                .iter()
                .filter(|(_, session)| Some(session.id) != replaced)
                .filter(|(_, session)| session.chain.is_live(new.created_at, cap.idle_timeout))
                .map(|(place, session)| (session.created_at, *place, session.id))
                .collect();
            let excess = (live.len() + 1).saturating_sub(usize::try_from(cap.max).unwrap_or(usize::MAX));
            if excess > 0 && cap.response == CapResponse::Refuse {
                return Ok(Inserted::Full);
            }
            live.sort_unstable();
            ends.extend(live.into_iter().take(excess).map(|(.., id)| (id, Reason::Evicted)));
        }
        let mut lines = vec![Line::Session(state.next(&[]), Box::new(new.clone()))];
        for (id, reason) in &ends {
            let revocation = Revocation { at: new.created_at, until: admission.until, reason: *reason };
            state.end(*id, revocation, &mut lines);
        }
        state.commit(lines)?;
        Ok(Inserted::Done(ends.into_iter().map(|(id, _)| id).collect()))
    }

    async fn load(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        Ok(self.lock().sessions.get(&id).map(|(_, session)| session.clone()))
    }

    async fn swap(&self, expected: u64, next: &Session) -> Result<bool, StoreError> {
        let mut state = self.lock();
        let Some((place, old)) = state.sessions.get(&next.id) else { return Ok(false) };
        if old.version != expected {
            return Ok(false);
        }
        let mut new = Session { claims: next.claims.clone(), version: expected + 1, ..old.clone() };
        new.chain = next.chain;
        new.chain.merge_seen(old.chain.last_seen_at, old.chain.acknowledged);
        let mut lines = vec![Line::Session(*place, Box::new(new))];
        if let Some(revocation) = next.chain.revoked {
            lines.push(Line::Ended(state.next(&lines), next.id, revocation.until));
        }
        state.commit(lines).map(|()| true)
    }

    async fn list(&self, user: &str) -> Result<Vec<Session>, StoreError> {
        Ok(self.lock().of_user(user).into_iter().map(|(_, session)| session.clone()).collect())
    }

    async fn revoke(&self, target: Target<'_>, revocation: Revocation) -> Result<Vec<SessionId>, StoreError> {
        let mut state = self.lock();
        let ids: Vec<_> = match target {
            Target::Session(id) => vec![id],
            Target::User { user, except } => {
                let all = state.of_user(user).into_iter().map(|(_, session)| session.id);
                all.filter(|id| Some(*id) != except).collect()
            }
            Target::Token(jti) => {
                let line = Line::TokenEnded(state.next(&[]), jti.to_owned(), revocation.until);
                return state.commit(vec![line]).map(|()| Vec::new());
            }
        };
        let mut lines = Vec::new();
        let ended = ids.into_iter().filter(|id| state.end(*id, revocation, &mut lines)).collect();
        state.commit(lines)?;
        Ok(ended)
    }

    async fn seen(&self, batch: &[Seen]) -> Result<(), StoreError> {
        let mut state = self.lock();
        let mut changed = BTreeMap::new();
        for seen in batch {
            let Some((place, session)) = state.sessions.get(&seen.id) else { continue };
            let (_, session) = changed.entry(seen.id).or_insert_with(|| (*place, session.clone()));
            session.chain.merge_seen(seen.last_seen_at, seen.acknowledged);
        }
        state.commit(changed.into_values().map(|(place, session)| Line::Session(place, Box::new(session))).collect())
    }

    async fn revocations(&self, since: Cursor) -> Result<Feed, StoreError> {
        let state = self.lock();
        let revoked =
            state.feed.iter().filter(|(place, _)| **place > since.0).map(|(_, entry)| entry.clone()).collect();
        Ok(Feed { revoked, next: Cursor(state.last) })
    }

    async fn purge(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let mut state = self.lock();
        let expired = state.sessions.values().filter(|(_, session)| session.chain.expires_at < before);
        let mut lines: Vec<_> = expired.take(limit).map(|(_, session)| Line::Purged(session.id)).collect();
        let purged = lines.len();
        let over = state.feed.iter().filter(|(_, entry)| entry.until < before);
        lines.extend(over.map(|(place, _)| Line::Forgotten(*place)));
        state.commit(lines)?;
        Ok(purged)
    }
}
