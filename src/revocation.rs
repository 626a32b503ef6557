//! Who is revoked right now: a set in memory, fed by the store, asked on every request.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use dashmap::DashMap;

use crate::session::{SessionId, Timestamp};
use crate::store::{Ended, Revoked};
use crate::token::access::TokenId;

/// Everything that was revoked and could still be in somebody's hands.
#[derive(Debug)]
pub(crate) struct LiveRevocations {
    sessions: DashMap<SessionId, Timestamp>,
    tokens: DashMap<TokenId, Timestamp>,
    /// When the store's feed was last read, in milliseconds.
    caught_up_at: AtomicI64,
    max_staleness: Duration,
}

impl LiveRevocations {
    pub(crate) fn new(max_staleness: Duration) -> Self {
        Self { sessions: DashMap::new(), tokens: DashMap::new(), caught_up_at: AtomicI64::new(i64::MIN), max_staleness }
    }

    /// Applying an entry twice is the same as once.
    pub(crate) fn apply(&self, revoked: &Revoked) {
        match &revoked.what {
            Ended::Session(id) => self.end_session(*id, revoked.until),
            Ended::Token(jti) => {
                if let Some(id) = TokenId::parse(jti) {
                    self.end_token(id, revoked.until);
                }
            }
        }
    }

    pub(crate) fn end_session(&self, id: SessionId, until: Timestamp) {
        self.sessions.entry(id).and_modify(|known| *known = until.max(*known)).or_insert(until);
    }

    pub(crate) fn end_token(&self, id: TokenId, until: Timestamp) {
        self.tokens.entry(id).and_modify(|known| *known = until.max(*known)).or_insert(until);
    }

    pub(crate) fn has_session(&self, id: SessionId) -> bool {
        self.sessions.contains_key(&id)
    }

    pub(crate) fn has_token(&self, id: TokenId) -> bool {
        self.tokens.contains_key(&id)
    }

    /// Everything in it.
    pub(crate) fn all(&self) -> Vec<Revoked> {
        let sessions = self.sessions.iter().map(|entry| (Ended::Session(*entry.key()), *entry.value()));
        let tokens = self.tokens.iter().map(|entry| (Ended::Token(entry.key().to_string().into()), *entry.value()));
        sessions.chain(tokens).map(|(what, until)| Revoked { what, until }).collect()
    }

    /// The feed was read at `now`.
    pub(crate) fn caught_up(&self, now: Timestamp) {
        self.caught_up_at.store(now.as_millis(), Ordering::Relaxed);
    }

    /// Whether the feed was read lately enough to rely on. If it was read in the future, the clock was turned back, and
    /// nobody knows how long ago it was.
    pub(crate) fn is_current(&self, now: Timestamp) -> bool {
        let caught_up_at = Timestamp::from_millis(self.caught_up_at.load(Ordering::Relaxed));
        !now.is_past(caught_up_at, self.max_staleness) && !caught_up_at.is_past(now, self.max_staleness)
    }

    /// Drops what has expired by itself.
    pub(crate) fn forget(&self, now: Timestamp) {
        self.sessions.retain(|_, until| *until >= now);
        self.tokens.retain(|_, until| *until >= now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);
    const ID: SessionId = SessionId::from_bytes([7; 16]);

    fn set() -> LiveRevocations {
        LiveRevocations::new(Duration::from_secs(30))
    }

    #[test]
    fn what_was_applied_is_revoked_until_it_is_forgotten() {
        let set = set();
        let jti = "A".repeat(24);
        let token = TokenId::parse(&jti).unwrap();
        assert!(!set.has_session(ID) && !set.has_token(token));
        set.apply(&Revoked { what: Ended::Session(ID), until: NOW });
        set.apply(&Revoked { what: Ended::Token(jti.as_str().into()), until: NOW });
        set.apply(&Revoked { what: Ended::Token("never one of ours".into()), until: NOW });
        set.forget(NOW);
        assert!(set.has_session(ID) && set.has_token(token));
        set.forget(NOW.after(Duration::from_millis(1)));
        assert!(!set.has_session(ID) && !set.has_token(token));
    }

    #[test]
    fn an_entry_that_comes_again_never_shortens_what_is_known() {
        let set = set();
        let (late, token) = (NOW.after(Duration::from_secs(9)), TokenId::parse(&"A".repeat(24)).unwrap());
        for until in [late, NOW] {
            set.end_session(ID, until);
            set.end_token(token, until);
        }
        set.forget(late);
        assert!(set.has_session(ID) && set.has_token(token));
    }

    #[test]
    fn a_feed_that_was_never_read_is_not_current() {
        assert!(!set().is_current(NOW));
    }

    #[test]
    fn a_feed_is_current_until_it_was_silent_for_too_long() {
        let set = set();
        set.caught_up(NOW);
        assert!(set.is_current(NOW.after(Duration::from_millis(29_999))));
        assert!(!set.is_current(NOW.after(Duration::from_secs(30))));
    }

    #[test]
    fn a_feed_that_was_read_in_the_future_is_not_current() {
        let set = set();
        set.caught_up(NOW);
        assert!(set.is_current(NOW.before(Duration::from_millis(29_999))));
        assert!(!set.is_current(NOW.before(Duration::from_secs(30))));
        set.caught_up(NOW.before(Duration::from_secs(3600)));
        assert!(set.is_current(NOW.before(Duration::from_secs(3600))));
    }
}
