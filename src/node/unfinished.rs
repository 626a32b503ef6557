//! Revocations that were decided and have not reached the store yet: they are tried again until they have.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::Node;
use crate::event::Event;
use crate::session::{RevocationReason, SessionId};
use crate::store::{RevokeTarget, RevokedItem, StoreError};
use crate::time::Timestamp;

const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// For how many sessions it is remembered that nothing is left to revoke. About 50 bytes each, allocated on demand.
const MAX_FINISHED: usize = 16_384;

/// What is left to revoke because a refresh token was presented that revokes its session.
#[derive(Clone, Debug)]
pub(crate) struct Unfinished {
    pub(crate) user_id: Arc<str>,
    /// The session of the refresh token.
    pub(crate) session_id: SessionId,
    pub(crate) reason: RevocationReason,
    /// When it was decided. Sessions that began later are not concerned.
    pub(crate) at: Timestamp,
    /// Whether the session itself is left.
    pub(crate) session: bool,
    /// The user's other sessions.
    pub(crate) others: Others,
}

#[derive(Clone, Debug)]
pub(crate) enum Others {
    /// None of them is left.
    Done,
    /// Nothing was tried: one call for all of them comes first.
    Untried,
    /// That call has failed, or was another node's to make. The user may have logged in again since, so the sessions to be
    /// revoked are listed, and revoked one by one.
    Unlisted,
    /// These are left.
    Listed(Vec<SessionId>),
}

impl Unfinished {
    fn is_done(&self) -> bool {
        !self.session && matches!(self.others, Others::Done)
    }
}

/// The revocations that are left, by the session of the refresh token.
pub(super) struct UnfinishedRevocations {
    left: Mutex<HashMap<SessionId, Unfinished>>,
    added: Notify,
    finished: Cache<SessionId, ()>,
}

impl UnfinishedRevocations {
    pub(super) fn new() -> Self {
        Self { left: Mutex::default(), added: Notify::new(), finished: Cache::new(MAX_FINISHED) }
    }

    fn left(&self) -> MutexGuard<'_, HashMap<SessionId, Unfinished>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, mut unfinished: Unfinished) {
        if let Others::Untried = unfinished.others {
            // Whoever takes it from here may do so much later.
            unfinished.others = Others::Unlisted;
        }
        self.left().insert(unfinished.session_id, unfinished);
    }

    /// Keeps what is left of one.
    fn update(&self, unfinished: &Unfinished) {
        let id = unfinished.session_id;
        if unfinished.is_done() {
            self.left().remove(&id);
            self.finished.insert(id, ());
        } else if let Some(left) = self.left().get_mut(&id) {
            left.clone_from(unfinished);
        }
    }

    /// Whether the store is not expected to have this revocation yet.
    pub(super) fn has(&self, item: &RevokedItem) -> bool {
        let RevokedItem::Session(id) = item else { return false };
        self.left().values().any(|unfinished| {
            let is_among_others = matches!(&unfinished.others, Others::Listed(others) if others.contains(id));
            (unfinished.session && unfinished.session_id == *id) || is_among_others
        })
    }
}

impl Node {
    /// Revokes what is left, once, and leaves the rest to the background task.
    pub(crate) async fn finish(&self, mut unfinished: Unfinished) {
        // First of all: this future may be dropped with its runtime.
        self.unfinished.add(unfinished.clone());
        if self.try_to_finish(&mut unfinished).await.is_err() {
            self.finish_later(unfinished);
        }
    }

    /// Leaves a revocation to the background task.
    pub(crate) fn finish_later(&self, unfinished: Unfinished) {
        let Unfinished { user_id, session_id, .. } = &unfinished;
        if unfinished.session {
            // In force here at once.
            self.note_revoked(&[*session_id], self.revocation(self.now(), unfinished.reason).expires_at);
        }
        self.events.emit(Event::RevocationDelayed { user_id: Arc::clone(user_id), session_id: *session_id });
        self.unfinished.add(unfinished);
        self.unfinished.added.notify_one();
    }

    /// Revokes the other sessions of a user whose session was revoked for reuse, if the node that detected it may have
    /// crashed in between: this node has not done so yet. Returns at once.
    pub(crate) fn resume(self: &Arc<Self>, user_id: &Arc<str>, session_id: SessionId, at: Timestamp) {
        let unfinished = Unfinished {
            user_id: Arc::clone(user_id),
            session_id,
            reason: RevocationReason::Reuse,
            at,
            session: false,
            others: Others::Unlisted,
        };
        if self.unfinished.finished.get(&session_id).is_some() {
            return;
        }
        match self.unfinished.left().entry(session_id) {
            Entry::Occupied(_) => return,
            Entry::Vacant(entry) => entry.insert(unfinished.clone()),
        };
        let node = Arc::clone(self);
        tokio::spawn(async move { node.finish(unfinished).await });
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
        let result = self.revoke_left(unfinished).await;
        self.unfinished.update(unfinished);
        result
    }

    async fn revoke_left(&self, unfinished: &mut Unfinished) -> Result<(), StoreError> {
        let Unfinished { session_id, reason, .. } = *unfinished;
        let expires_at = self.revocation(self.now(), reason).expires_at;
        if unfinished.session {
            self.note_revoked(&[session_id], expires_at);
            if !self.revoke(RevokeTarget::Session(session_id), reason).await?.contains(&session_id) {
                // The write has had its effect, and only its confirmation was lost.
                self.events.emit(Event::SessionRevoked { session_id, reason });
            }
            unfinished.session = false;
        }
        let mut failed = None;
        if let Others::Untried = unfinished.others {
            let target = RevokeTarget::User { user_id: &unfinished.user_id, except: Some(session_id) };
            match self.revoke(target, reason).await {
                Ok(_) => unfinished.others = Others::Done,
                Err(error) => {
                    unfinished.others = Others::Unlisted;
                    failed = Some(error);
                }
            }
        }
        if let Others::Unlisted = unfinished.others {
            let mut others = self.list(&unfinished.user_id).await?;
            others.retain(|other| other.id != session_id && other.created_at <= unfinished.at);
            unfinished.others = Others::Listed(others.into_iter().map(|other| other.id).collect());
        }
        if let Others::Listed(others) = &mut unfinished.others {
            // In force here at once.
            self.note_revoked(others, expires_at);
            if let Some(error) = failed {
                return Err(error);
            }
            while let Some(id) = others.last().copied() {
                // Not for reuse: a token of a session that was revoked for reuse revokes what began before that revocation
                // (`resume`), and by now that may be the user's next login.
                if let Err(error) = self.revoke(RevokeTarget::Session(id), RevocationReason::Other).await {
                    // One row that cannot be written does not keep the others from being revoked the next time.
                    others.rotate_right(1);
                    return Err(error);
                }
                others.pop();
            }
            unfinished.others = Others::Done;
        }
        Ok(())
    }
}
