//! Those who wait for a session to be revoked, such as the tasks of open streams.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::{Notify, Semaphore};

use crate::session::SessionId;
use crate::token::id::TokenId;

/// How many waiters ask at the same time. A revocation of everyone makes all of them ask.
const MAX_ASKING: usize = 16;

/// Nothing has happened.
const WAITING: u8 = 0;
/// The user was revoked, and perhaps the session was spared or is newer; or revocations were missed. The store knows.
pub(super) const ASK: u8 = 1;
/// The session was revoked. This is final.
pub(super) const REVOKED: u8 = 2;

/// One who waits.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) session_id: SessionId,
    user_id: Arc<str>,
    token_id: TokenId,
    /// What has happened is kept here and not looked up when the waiter is polled: a task may be busy elsewhere for longer
    /// than revocations are kept.
    state: AtomicU8,
    pub(super) changed: Notify,
}

impl Waiter {
    pub(super) fn new(session_id: SessionId, user_id: Arc<str>, token_id: TokenId) -> Self {
        Self { session_id, user_id, token_id, state: AtomicU8::new(WAITING), changed: Notify::new() }
    }

    pub(super) fn state(&self) -> u8 {
        self.state.load(Ordering::SeqCst)
    }

    pub(super) fn raise(&self, state: u8) {
        self.state.fetch_max(state, Ordering::SeqCst);
        // Stored if nobody waits at this moment, so that no call is lost.
        self.changed.notify_one();
    }

    /// Has to ask, once it does not pause any more.
    pub(super) fn ask_again(&self) {
        self.state.fetch_max(ASK, Ordering::SeqCst);
    }

    /// Whether somebody has to be asked. They count as asked from now on.
    pub(super) fn take_ask(&self) -> bool {
        self.state.compare_exchange(ASK, WAITING, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// All who wait in this process, about 300 bytes each.
///
/// Whoever adds a revocation does so before looking for waiters here, and a waiter is added here before looking for
/// revocations. So one of them sees the other.
#[derive(Debug)]
pub(crate) struct Waiters {
    by_session: DashMap<SessionId, Vec<Arc<Waiter>>>,
    by_token: DashMap<TokenId, Vec<Arc<Waiter>>>,
    pub(super) asking: Semaphore,
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

    /// Makes those ask whose user was revoked; all, if no user is named.
    pub(crate) fn users_revoked(&self, user_id: Option<&str>) {
        for waiters in &self.by_session {
            let concerned = waiters.iter().filter(|waiter| user_id.is_none_or(|user_id| *waiter.user_id == *user_id));
            concerned.for_each(|waiter| waiter.raise(ASK));
        }
    }

    pub(super) fn add(&self, waiter: &Arc<Waiter>) {
        self.by_session.entry(waiter.session_id).or_default().push(Arc::clone(waiter));
        self.by_token.entry(waiter.token_id).or_default().push(Arc::clone(waiter));
    }

    pub(super) fn remove(&self, waiter: &Arc<Waiter>) {
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
