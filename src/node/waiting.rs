//! Waiting for a session to be revoked.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::SemaphorePermit;
use tokio::time::sleep;

use super::revocations::LiveRevocations;
use super::waiters::{ASK, REVOKED, Waiter};
use crate::session::SessionId;
use crate::store::StoreError;
use crate::token::id::TokenId;

/// How long a waiter pauses after a question that nobody has answered.
const PAUSE: Duration = Duration::from_secs(1);

/// A registered waiter. Dropping it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Waiting {
    revoked: Arc<LiveRevocations>,
    waiter: Arc<Waiter>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.revoked.waiters().remove(&self.waiter);
    }
}

impl Waiting {
    /// Waits for news: none if the session is revoked, or the access token alone; or else somebody has to be asked whether it
    /// is.
    pub(crate) async fn news(&self) -> Option<Question<'_>> {
        let Self { revoked, waiter } = self;
        loop {
            match waiter.state() {
                REVOKED => return None,
                ASK => {
                    let permit = tokio::select! {
                        // Never closed.
                        permit = revoked.waiters().asking.acquire() => permit.ok(),
                        () = waiter.changed.notified() => continue,
                    };
                    if waiter.take_ask() {
                        return Some(Question { waiter, _permit: permit });
                    }
                }
                _ => waiter.changed.notified().await,
            }
        }
    }
}

/// Whether a session was revoked, which is not known here. Few are asked at the same time.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    waiter: &'a Waiter,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Question<'_> {
    pub(crate) const fn session_id(&self) -> SessionId {
        self.waiter.session_id
    }

    /// Takes the answer. After a failure, the question is asked again later.
    pub(crate) async fn answered(self, is_revoked: Result<bool, StoreError>) {
        match is_revoked {
            Ok(false) => {}
            Ok(true) => self.waiter.raise(REVOKED),
            Err(_) => {
                self.waiter.ask_again();
                // With the permit, so that only a few try again while nobody answers.
                tokio::select! {
                    () = sleep(PAUSE) => {}
                    () = self.waiter.changed.notified() => {}
                }
            }
        }
    }
}

impl LiveRevocations {
    /// Waits from now on for the revocation of a session, or of the access token that names it. Of a token that has expired, the
    /// revocation may be forgotten by now.
    pub(crate) fn wait_for(
        self: &Arc<Self>,
        session_id: SessionId,
        user_id: &Arc<str>,
        token_id: TokenId,
        has_expired: bool,
    ) -> Waiting {
        let waiter = Arc::new(Waiter::new(session_id, Arc::clone(user_id), token_id));
        self.waiters().add(&waiter);
        if self.has_token(token_id) || self.has_session(session_id) {
            waiter.raise(REVOKED);
        } else if has_expired || self.may_be_revoked(session_id, user_id) {
            waiter.raise(ASK);
        }
        Waiting { revoked: Arc::clone(self), waiter }
    }
}
