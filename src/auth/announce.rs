//! Telling services without the store what was revoked.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

use super::{Auth, Claims};
use crate::error::Error;
use crate::node::announcements::Follower;
use crate::session::SessionId;
use crate::store::StoreError;
use crate::token::keys::Secret;

/// What the verifiers of an app show. Hashed, so that a comparison takes as long for every text.
pub(super) struct VerifierTokens(Vec<[u8; 32]>);

impl VerifierTokens {
    pub(super) fn new(tokens: &[Secret]) -> Self {
        Self(tokens.iter().map(|token| hash(token.as_bytes())).collect())
    }

    fn has(&self, token: &[u8]) -> bool {
        let hash = hash(token);
        self.0.iter().fold(false, |found, known| found | bool::from(known.ct_eq(&hash)))
    }
}

fn hash(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// # Other services
impl<C> Auth<C> {
    /// Ends the responses of `GET /revocations`, which otherwise last for about ten minutes; new ones are 503. Call it when the
    /// server begins to shut down: a server waits for its responses. The verifiers connect to another node, or again.
    ///
    /// Bound the wait too, because a client that does not read its response keeps it open:
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use axum_refresh::Auth;
    /// # async fn signal() { let _ = tokio::signal::ctrl_c().await; }
    /// # async fn serve(auth: Auth, app: axum::Router, listener: tokio::net::TcpListener) -> std::io::Result<()> {
    /// let ending = auth.clone();
    /// let stop = async move {
    ///     signal().await;
    ///     ending.end_feeds();
    /// };
    /// tokio::select! {
    ///     served = async { axum::serve(listener, app).with_graceful_shutdown(stop).await } => served,
    ///     () = async { signal().await; tokio::time::sleep(Duration::from_secs(10)).await } => Ok(()),
    /// }
    /// # }
    /// ```
    pub fn end_feeds(&self) {
        self.inner.node.revoked.end_announcements();
    }

    /// Whether services without the store may follow the revocations.
    pub(crate) fn has_verifiers(&self) -> bool {
        !self.inner.verifier_tokens.0.is_empty()
    }

    /// Whether this is what a verifier of the app's shows.
    pub(crate) fn is_verifier(&self, token: &[u8]) -> bool {
        self.inner.verifier_tokens.has(token)
    }
}

impl<C: Claims> Auth<C> {
    /// The revocations from now on, or from the message with the id `resume` on. Those in force come first.
    pub(crate) async fn follow(&self, resume: Option<&str>) -> Result<Follower, Error> {
        let began = Instant::now();
        let node = &self.inner.node;
        if node.revoked.has_ended_announcements() {
            return Err(StoreError::new("the revocations are not announced any more: the server shuts down").into());
        }
        node.start();
        node.catch_up().await?;
        Ok(Follower::new(Arc::clone(node), resume, began))
    }

    /// Whether a session was revoked, by the store.
    pub(crate) async fn is_session_revoked(&self, id: SessionId) -> Result<bool, Error> {
        Ok(self.inner.node.is_session_revoked(id).await?)
    }
}
