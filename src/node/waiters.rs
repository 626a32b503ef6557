//! Those who wait for a session to be revoked, such as the tasks of open streams.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::{Notify, Semaphore};
use tokio::time::sleep;

use super::Node;
use crate::session::SessionId;
use crate::time::Timestamp;
use crate::token::id::TokenId;

/// How many waiters ask the store at the same time. A revocation of everyone makes all of them ask.
const MAX_ASKING: usize = 16;
/// How long a waiter pauses after a failed call of the store.
const PAUSE: Duration = Duration::from_secs(1);

/// Nothing has happened.
const WAITING: u8 = 0;
/// The user was revoked, and perhaps the session was spared or is newer: the store knows.
const ASK: u8 = 1;
/// The session was revoked. This is final.
const REVOKED: u8 = 2;

/// One who waits.
#[derive(Debug)]
struct Waiter {
    session_id: SessionId,
    user_id: Arc<str>,
    token_id: TokenId,
    /// What has happened is kept here and not looked up when the waiter is polled: a task may be busy elsewhere for longer
    /// than revocations are kept.
    state: AtomicU8,
    changed: Notify,
}

impl Waiter {
    fn raise(&self, state: u8) {
        self.state.fetch_max(state, Ordering::SeqCst);
        // Stored if nobody waits at this moment, so that no call is lost.
        self.changed.notify_one();
    }

    /// Whether the store has to be asked. It counts as asked from now on.
    fn take_ask(&self) -> bool {
        self.state.compare_exchange(ASK, WAITING, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// All who wait on this node, about 300 bytes each.
///
/// Whoever adds a revocation does so before looking for waiters here, and a waiter is added here before looking for
/// revocations. So one of them sees the other.
#[derive(Debug)]
pub(crate) struct Waiters {
    by_session: DashMap<SessionId, Vec<Arc<Waiter>>>,
    by_token: DashMap<TokenId, Vec<Arc<Waiter>>>,
    asking: Semaphore,
}

impl Waiters {
    pub(super) fn new() -> Self {
        Self { by_session: DashMap::new(), by_token: DashMap::new(), asking: Semaphore::new(MAX_ASKING) }
    }

    /// How many sessions somebody waits for.
    pub(super) fn sessions(&self) -> usize {
        self.by_session.len()
    }

    /// Wakes those who wait for a session that was revoked.
    pub(super) fn session_revoked(&self, id: SessionId) {
        for waiter in self.by_session.get(&id).iter().flat_map(|waiters| waiters.iter()) {
            waiter.raise(REVOKED);
        }
    }

    /// Wakes those who wait with an access token that was revoked.
    pub(super) fn token_revoked(&self, id: TokenId) {
        for waiter in self.by_token.get(&id).iter().flat_map(|waiters| waiters.iter()) {
            waiter.raise(REVOKED);
        }
    }

    /// Makes those ask the store whose user was revoked; all, if no user is named.
    pub(super) fn users_revoked(&self, user_id: Option<&str>) {
        for waiters in &self.by_session {
            let concerned = waiters.iter().filter(|waiter| user_id.is_none_or(|user_id| *waiter.user_id == *user_id));
            concerned.for_each(|waiter| waiter.raise(ASK));
        }
    }

    fn add(&self, waiter: &Arc<Waiter>) {
        self.by_session.entry(waiter.session_id).or_default().push(Arc::clone(waiter));
        self.by_token.entry(waiter.token_id).or_default().push(Arc::clone(waiter));
    }

    fn remove(&self, waiter: &Arc<Waiter>) {
        remove(&self.by_session, waiter.session_id, waiter);
        remove(&self.by_token, waiter.token_id, waiter);
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn count(&self) -> (usize, usize) {
        let count = |lengths: &mut dyn Iterator<Item = usize>| lengths.inspect(|length| assert!(*length > 0)).sum();
        let by_session = count(&mut self.by_session.iter().map(|waiters| waiters.len()));
        (by_session, count(&mut self.by_token.iter().map(|waiters| waiters.len())))
    }
}

fn remove<K: Eq + Hash>(waiters: &DashMap<K, Vec<Arc<Waiter>>>, key: K, waiter: &Arc<Waiter>) {
    if let Entry::Occupied(mut entry) = waiters.entry(key) {
        entry.get_mut().retain(|known| !Arc::ptr_eq(known, waiter));
        if entry.get().is_empty() {
            entry.remove();
        }
    }
}

/// A registered waiter. Dropping it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Waiting {
    node: Arc<Node>,
    waiter: Arc<Waiter>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.node.revoked.waiters().remove(&self.waiter);
    }
}

impl Waiting {
    /// Completes once the session is revoked, or the access token alone.
    pub(crate) async fn revoked(&self) {
        loop {
            match self.waiter.state.load(Ordering::SeqCst) {
                REVOKED => return,
                // Boxed, because it is rare and would be the greatest part of the future.
                ASK => Box::pin(self.ask()).await,
                _ => self.waiter.changed.notified().await,
            }
        }
    }

    /// Asks the store about the session. Returns early if there is news.
    async fn ask(&self) {
        let Self { node, waiter } = self;
        let _permit = tokio::select! {
            // Never closed.
            permit = node.revoked.waiters().asking.acquire() => permit,
            () = waiter.changed.notified() => return,
        };
        if !waiter.take_ask() {
            return;
        }
        match node.load(waiter.session_id).await {
            Ok(Some(session)) if session.rotation.revoked.is_none() => {}
            // Also if the store has lost or purged the session: it does not go on.
            Ok(_) => {
                node.found_revoked(waiter.session_id);
                waiter.raise(REVOKED);
            }
            Err(_) => {
                waiter.state.fetch_max(ASK, Ordering::SeqCst);
                // With the permit, so that only a few try again while the store is away.
                tokio::select! {
                    () = sleep(PAUSE) => {}
                    () = waiter.changed.notified() => {}
                }
            }
        }
    }
}

impl Node {
    /// Waits from now on for the revocation of a session, or of the access token that names it.
    pub(crate) fn wait_for_revocation(
        self: &Arc<Self>,
        session_id: SessionId,
        user_id: &Arc<str>,
        token_id: TokenId,
        expires_at: Timestamp,
    ) -> Waiting {
        let (user_id, state, changed) = (Arc::clone(user_id), AtomicU8::new(WAITING), Notify::new());
        let waiter = Arc::new(Waiter { session_id, user_id, token_id, state, changed });
        self.revoked.waiters().add(&waiter);
        if self.revoked.has_token(token_id) || self.revoked.has_session(session_id) {
            waiter.raise(REVOKED);
        } else if self.now() >= expires_at || self.revoked.may_be_revoked(session_id, &waiter.user_id) {
            // Of a token that has expired, the revocation may be forgotten by now.
            waiter.raise(ASK);
        }
        Waiting { node: Arc::clone(self), waiter }
    }
}
