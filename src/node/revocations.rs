//! The revocations in force: a set in memory, filled from the store's feed, and checked on every request.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use dashmap::DashMap;

use crate::session::SessionId;
use crate::store::{RevocationEntry, RevokedItem};
use crate::time::Timestamp;
use crate::token::id::TokenId;

/// The revoked sessions and access tokens whose access tokens may not have expired yet.
#[derive(Debug)]
pub(crate) struct LiveRevocations {
    sessions: DashMap<SessionId, Timestamp>,
    tokens: DashMap<TokenId, Timestamp>,
    /// When the store's feed was last read, in milliseconds since the Unix epoch; `i64::MIN` before the first read.
    caught_up_at: AtomicI64,
    max_staleness: Duration,
}

impl LiveRevocations {
    pub(crate) fn new(max_staleness: Duration) -> Self {
        Self { sessions: DashMap::new(), tokens: DashMap::new(), caught_up_at: AtomicI64::new(i64::MIN), max_staleness }
    }

    /// Adds an entry of the feed. Adding it again changes nothing.
    pub(crate) fn apply(&self, revoked: &RevocationEntry) {
        match &revoked.item {
            RevokedItem::Session(id) => self.revoke_session(*id, revoked.expires_at),
            RevokedItem::Token(jti) => {
                if let Some(id) = TokenId::parse(jti) {
                    self.revoke_token(id, revoked.expires_at);
                }
            }
        }
    }

    pub(crate) fn revoke_session(&self, id: SessionId, expires_at: Timestamp) {
        self.sessions.entry(id).and_modify(|known| *known = expires_at.max(*known)).or_insert(expires_at);
    }

    pub(crate) fn revoke_token(&self, id: TokenId, expires_at: Timestamp) {
        self.tokens.entry(id).and_modify(|known| *known = expires_at.max(*known)).or_insert(expires_at);
    }

    pub(crate) fn has_session(&self, id: SessionId) -> bool {
        self.sessions.contains_key(&id)
    }

    pub(crate) fn has_token(&self, id: TokenId) -> bool {
        self.tokens.contains_key(&id)
    }

    /// Returns all entries.
    pub(crate) fn all(&self) -> Vec<RevocationEntry> {
        let sessions = self.sessions.iter().map(|entry| (RevokedItem::Session(*entry.key()), *entry.value()));
        let tokens =
            self.tokens.iter().map(|entry| (RevokedItem::Token(entry.key().to_string().into()), *entry.value()));
        sessions.chain(tokens).map(|(item, expires_at)| RevocationEntry { item, expires_at }).collect()
    }

    /// Records that the feed was read at `now`.
    pub(crate) fn caught_up(&self, now: Timestamp) {
        self.caught_up_at.store(now.as_millis(), Ordering::Relaxed);
    }

    /// Returns whether the feed was read recently enough to rely on. A read in the future means that the clock was set
    /// back: a read further in the future than `max_staleness` is not recent.
    pub(crate) fn is_current(&self, now: Timestamp) -> bool {
        let caught_up_at = Timestamp::from_millis(self.caught_up_at.load(Ordering::Relaxed));
        !now.is_past(caught_up_at, self.max_staleness) && !caught_up_at.is_past(now, self.max_staleness)
    }

    /// Drops the entries that expired before `now`.
    pub(crate) fn forget(&self, now: Timestamp) {
        self.sessions.retain(|_, expires_at| *expires_at >= now);
        self.tokens.retain(|_, expires_at| *expires_at >= now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);
    const ID: SessionId = SessionId::from_bytes([7; 16]);

    fn revocations() -> LiveRevocations {
        LiveRevocations::new(Duration::from_secs(30))
    }

    #[test]
    fn an_entry_is_in_force_until_it_is_forgotten() {
        let revocations = revocations();
        let jti = "A".repeat(24);
        let token = TokenId::parse(&jti).unwrap();
        assert!(!revocations.has_session(ID) && !revocations.has_token(token));
        revocations.apply(&RevocationEntry { item: RevokedItem::Session(ID), expires_at: NOW });
        revocations.apply(&RevocationEntry { item: RevokedItem::Token(jti.as_str().into()), expires_at: NOW });
        revocations.apply(&RevocationEntry { item: RevokedItem::Token("not a token id".into()), expires_at: NOW });
        revocations.forget(NOW);
        assert!(revocations.has_session(ID) && revocations.has_token(token));
        revocations.forget(NOW.after(Duration::from_millis(1)));
        assert!(!revocations.has_session(ID) && !revocations.has_token(token));
    }

    #[test]
    fn applying_an_entry_again_never_shortens_it() {
        let revocations = revocations();
        let (late, token) = (NOW.after(Duration::from_secs(9)), TokenId::parse(&"A".repeat(24)).unwrap());
        for expires_at in [late, NOW] {
            revocations.revoke_session(ID, expires_at);
            revocations.revoke_token(token, expires_at);
        }
        revocations.forget(late);
        assert!(revocations.has_session(ID) && revocations.has_token(token));
    }

    #[test]
    fn a_feed_that_was_never_read_is_not_current() {
        assert!(!revocations().is_current(NOW));
    }

    #[test]
    fn a_feed_is_current_until_max_staleness_has_passed() {
        let revocations = revocations();
        revocations.caught_up(NOW);
        assert!(revocations.is_current(NOW.after(Duration::from_millis(29_999))));
        assert!(!revocations.is_current(NOW.after(Duration::from_secs(30))));
    }

    #[test]
    fn a_feed_that_was_read_too_far_in_the_future_is_not_current() {
        let revocations = revocations();
        revocations.caught_up(NOW);
        assert!(revocations.is_current(NOW.before(Duration::from_millis(29_999))));
        assert!(!revocations.is_current(NOW.before(Duration::from_secs(30))));
        revocations.caught_up(NOW.before(Duration::from_secs(3600)));
        assert!(revocations.is_current(NOW.before(Duration::from_secs(3600))));
    }
}
