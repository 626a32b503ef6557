//! Revocations that were decided and have not reached the store yet: they are tried again until they have.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::{Cause, Node};
use crate::event::Event;
use crate::session::{Client, RevocationReason, SessionId};
use crate::store::{RevokeTarget, RevokedItem, RevokedUsers, SessionRecord, Spared, StoreError};
use crate::time::Timestamp;

/// The cutoff of a user whose sessions the store has not revoked yet: lower than any that it gives.
const NOT_WRITTEN: i64 = i64::MIN;
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// For how many sessions it is remembered that nothing is left to revoke. About 50 bytes each, allocated on demand.
const MAX_FINISHED: usize = 16_384;

/// What is left to revoke because a refresh token was presented that revokes its session, or a login has replaced one.
#[derive(Clone, Debug)]
pub(crate) struct Unfinished {
    pub(crate) user_id: Arc<str>,
    /// The session of the refresh token, or the replaced one.
    pub(crate) session_id: SessionId,
    pub(crate) reason: RevocationReason,
    /// When it was decided. Sessions that began later are not concerned.
    pub(crate) at: Timestamp,
    /// Whether the session itself is left.
    pub(crate) session: bool,
    /// Whether the user's other sessions are left.
    pub(crate) others: bool,
    /// The client that presented the refresh token, or that logged in.
    pub(crate) client: Client,
}

impl Unfinished {
    fn is_done(&self) -> bool {
        !self.session && !self.others
    }

    /// Adds what another revocation of the same session has left.
    fn merge(&mut self, other: Self) {
        let session = self.session || other.session;
        if other.others {
            // The other sessions go by the later decision, and are reported with its reason and client.
            let at = if self.others { self.at.max(other.at) } else { other.at };
            *self = Self { at, ..other };
        }
        self.session = session;
    }
}

/// The revocations that are left, by the session of the refresh token.
pub(super) struct UnfinishedRevocations {
    left: Mutex<HashMap<SessionId, Unfinished>>,
    /// Whether `left` is empty, as nearly always: then no session has to be looked for in it.
    is_empty: AtomicBool,
    added: Notify,
    finished: Cache<SessionId, ()>,
}

impl UnfinishedRevocations {
    pub(super) fn new() -> Self {
        Self {
            left: Mutex::default(),
            is_empty: AtomicBool::new(true),
            added: Notify::new(),
            finished: Cache::new(MAX_FINISHED),
        }
    }

    fn left(&self) -> MutexGuard<'_, HashMap<SessionId, Unfinished>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, unfinished: Unfinished) {
        self.add_to(&mut self.left(), unfinished);
    }

    fn add_to(&self, left: &mut HashMap<SessionId, Unfinished>, unfinished: Unfinished) {
        match left.entry(unfinished.session_id) {
            Entry::Occupied(mut entry) => entry.get_mut().merge(unfinished),
            Entry::Vacant(entry) => {
                entry.insert(unfinished);
            }
        }
        self.is_empty.store(false, Ordering::Release);
    }

    /// Adds the revocation of a user's other sessions, unless it is known already, done or not. Returns whether it was added.
    fn add_new(&self, unfinished: &Unfinished) -> bool {
        let id = unfinished.session_id;
        let mut left = self.left();
        // Both are changed under this lock only, so of several callers one adds it.
        if left.get(&id).is_some_and(|left| left.others) || self.finished.get(&id).is_some() {
            return false;
        }
        self.add_to(&mut left, unfinished.clone());
        true
    }

    /// Removes what is no longer left of one that was tried. More may have been added to it meanwhile.
    fn update(&self, tried: &Unfinished, now: &Unfinished) {
        let id = tried.session_id;
        let mut left = self.left();
        let did_others = tried.others && !now.others;
        if did_others {
            self.finished.insert(id, ());
        }
        if let Some(entry) = left.get_mut(&id) {
            if tried.session && !now.session {
                entry.session = false;
            }
            // A later decision concerns sessions that this one did not.
            if did_others && entry.at <= tried.at {
                entry.others = false;
            }
            if entry.is_done() {
                left.remove(&id);
            }
        }
        self.is_empty.store(left.is_empty(), Ordering::Release);
    }

    /// Of how many sessions something is left.
    pub(super) fn len(&self) -> usize {
        self.left().len()
    }

    /// Whether the store is not expected to have this revocation yet.
    pub(super) fn has(&self, item: &RevokedItem) -> bool {
        match item {
            RevokedItem::Session(id) => self.left().get(id).is_some_and(|unfinished| unfinished.session),
            RevokedItem::Users(users) => users.cutoff == NOT_WRITTEN,
            RevokedItem::Token(_) => false,
        }
    }

    /// Whether a session is to be revoked with the others of its user.
    pub(super) fn concerns(&self, session: &SessionRecord) -> bool {
        !self.is_empty.load(Ordering::Acquire)
            && self.left().values().any(|unfinished| {
                unfinished.others
                    && unfinished.user_id == session.user_id
                    && unfinished.session_id != session.id
                    && session.created_at <= unfinished.at
            })
    }
}

impl Node {
    /// Revokes what is left, once, and leaves the rest to the background task.
    pub(crate) async fn finish(&self, mut unfinished: Unfinished) {
        // First of all: this future may be dropped with its runtime.
        self.unfinished.add(unfinished.clone());
        if self.try_to_finish(&mut unfinished).await.is_err() {
            self.finish_later(&unfinished);
        }
    }

    /// Leaves a revocation to the background task.
    pub(crate) fn finish_later(&self, unfinished: &Unfinished) {
        let Unfinished { user_id, session_id, at, client, .. } = unfinished;
        let event =
            Event::RevocationDelayed { user_id: Arc::clone(user_id), session_id: *session_id, client: client.clone() };
        // First: what is revoked here is looked up once, and found in the list.
        self.unfinished.add(unfinished.clone());
        // In force here at once.
        if unfinished.session {
            self.note_revoked(&[*session_id]);
        }
        if unfinished.others {
            // Each of the user's sessions is now looked up once (`ask_about`), and found in what is left here.
            let (scope, spared) = ((&**user_id).into(), Spared::Nothing);
            let users = RevokedUsers { scope, cutoff: NOT_WRITTEN, revoked_at: *at, spared };
            self.revoked.revoke_users(&users, self.kept_until());
        }
        self.events.emit(event);
        self.unfinished.added.notify_one();
    }

    /// Revokes the other sessions of a user whose session was revoked for reuse, if the node that detected it may have
    /// crashed in between: this node has not done so yet. Returns at once.
    pub(crate) fn resume(self: &Arc<Self>, user_id: &Arc<str>, session_id: SessionId, at: Timestamp, client: &Client) {
        let unfinished = Unfinished {
            user_id: Arc::clone(user_id),
            session_id,
            reason: RevocationReason::Reuse,
            at,
            session: false,
            others: true,
            client: client.clone(),
        };
        if self.unfinished.add_new(&unfinished) {
            let node = Arc::clone(self);
            tokio::spawn(async move { node.finish(unfinished).await });
        }
    }

    /// Tries all that is left, and returns the last error.
    pub(super) async fn finish_all(&self) -> Result<(), StoreError> {
        let left: Vec<_> = self.unfinished.left().keys().copied().collect();
        let mut result = Ok(());
        for id in left {
            let unfinished = self.unfinished.left().get(&id).cloned();
            if let Some(mut unfinished) = unfinished
                && let Err(error) = self.try_to_finish(&mut unfinished).await
            {
                result = Err(error);
            }
        }
        result
    }

    /// Tries again what is left, after pauses that become longer, until nothing is.
    pub(super) async fn keep_finishing(&self) {
        let mut stop = self.stop.clone();
        let mut pause = MIN_PAUSE;
        loop {
            let is_idle = self.unfinished.left().is_empty();
            tokio::select! {
                biased;
                _ = stop.changed() => return,
                () = self.unfinished.added.notified() => pause = MIN_PAUSE,
                () = sleep(pause), if !is_idle => {
                    pause = match self.finish_all().await {
                        Ok(()) => MIN_PAUSE,
                        Err(_) => (pause * 2).min(MAX_PAUSE),
                    };
                }
            }
        }
    }

    async fn try_to_finish(&self, unfinished: &mut Unfinished) -> Result<(), StoreError> {
        let tried = unfinished.clone();
        let result = self.revoke_left(unfinished).await;
        self.unfinished.update(&tried, unfinished);
        result
    }

    async fn revoke_left(&self, unfinished: &mut Unfinished) -> Result<(), StoreError> {
        let Unfinished { session_id, reason, .. } = *unfinished;
        let cause =
            |reason: RevocationReason| Cause::from(reason).of(&unfinished.user_id).by(Some(unfinished.client.clone()));
        if unfinished.session {
            self.note_revoked(&[session_id]);
            let revoked = self.revoke(RevokeTarget::Session(session_id), cause(reason)).await?;
            if !revoked.sessions.contains(&session_id) {
                // The write has had its effect, and only its confirmation was lost.
                self.report_session(session_id, cause(reason));
            }
            unfinished.session = false;
        }
        if unfinished.others {
            let target = RevokeTarget::Users {
                scope: &unfinished.user_id,
                except: Some(session_id),
                // The user may have logged in again since.
                created_until: Some(unfinished.at),
            };
            // Not for reuse: a token of a session that was revoked for reuse makes a node do this again (`resume`).
            self.revoke(target, cause(RevocationReason::Other)).await?;
            unfinished.others = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that is left after a theft.
    fn of_alice() -> Unfinished {
        Unfinished {
            user_id: "alice".into(),
            session_id: SessionId::from_bytes([7; 16]),
            reason: RevocationReason::Reuse,
            at: Timestamp::from_millis(1_000_000),
            session: true,
            others: true,
            client: Client::default(),
        }
    }

    #[test]
    fn a_revocation_is_resumed_once_however_many_refreshes_ask_for_it() {
        let revocations = UnfinishedRevocations::new();
        let unfinished = Unfinished { session: false, ..of_alice() };
        let add_at_once = || {
            std::thread::scope(|scope| {
                let adding: Vec<_> = (0..4).map(|_| scope.spawn(|| revocations.add_new(&unfinished))).collect();
                adding.into_iter().map(|adding| adding.join().unwrap()).filter(|added| *added).count()
            })
        };
        assert_eq!(add_at_once(), 1);
        revocations.update(&unfinished, &Unfinished { others: false, ..unfinished.clone() });
        assert_eq!(add_at_once(), 0);
    }

    #[test]
    fn what_two_revocations_of_a_session_have_left_is_left_until_each_is_done() {
        let revocations = UnfinishedRevocations::new();
        let stolen = of_alice();
        let replaced = Unfinished {
            reason: RevocationReason::Replaced,
            at: Timestamp::from_millis(2_000_000),
            others: false,
            ..stolen.clone()
        };
        for orders in [[&stolen, &replaced], [&replaced, &stolen]] {
            for unfinished in orders {
                revocations.add(unfinished.clone());
            }
            revocations.update(&replaced, &Unfinished { session: false, ..replaced.clone() });
            let left = revocations.left().get(&stolen.session_id).cloned().unwrap();
            assert_eq!((left.session, left.others, left.reason, left.at), (false, true, stolen.reason, stolen.at));
            revocations.update(&stolen, &Unfinished { session: false, others: false, ..stolen.clone() });
            assert!(revocations.left().is_empty());
        }
    }
}
