//! Waiting for a session to be revoked.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
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
    /// Completes once the session is revoked, or the access token alone. `ask` asks whether the session is, where that is not
    /// known here.
    pub(crate) async fn revoked<F>(&self, ask: impl Fn(SessionId) -> F)
    where
        F: Future<Output = Result<bool, StoreError>> + Send + 'static,
    {
        loop {
            match self.waiter.state() {
                REVOKED => return,
                // Boxed, because it is rare and would be the greatest part of the future.
                ASK => Box::pin(self.ask(ask(self.waiter.session_id))).await,
                _ => self.waiter.changed.notified().await,
            }
        }
    }

    /// Asks in a task of its own, which ends with this future: a stream is not polled while its client does not read, and must
    /// not keep others from asking until then.
    async fn ask(&self, ask: impl Future<Output = Result<bool, StoreError>> + Send + 'static) {
        let mut asking = JoinSet::new();
        asking.spawn(take_turn(Arc::clone(&self.revoked), Arc::clone(&self.waiter), ask));
        if asking.join_next().await.is_some_and(|asked| asked.is_err()) {
            // It has panicked, or its runtime has ended, perhaps before the answer.
            self.waiter.ask_again();
            sleep(PAUSE).await;
        }
    }
}

/// Asks whether a session was revoked, once it is its turn. Few are asked about at the same time. Returns early if there is
/// news. After a failure, the question is asked again later.
async fn take_turn(
    revoked: Arc<LiveRevocations>,
    waiter: Arc<Waiter>,
    ask: impl Future<Output = Result<bool, StoreError>>,
) {
    let _permit = tokio::select! {
        // Never closed.
        permit = revoked.waiters().asking.acquire() => permit,
        () = waiter.changed.notified() => return,
    };
    if !waiter.take_ask() {
        return;
    }
    match ask.await {
        Ok(false) => {}
        Ok(true) => waiter.raise(REVOKED),
        Err(_) => {
            waiter.ask_again();
            // With the permit, so that only a few try again while nobody answers.
            tokio::select! {
                () = sleep(PAUSE) => {}
                () = waiter.changed.notified() => {}
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
