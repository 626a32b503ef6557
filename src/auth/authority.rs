//! Who knows what is not known here about access tokens: the keys that sign them, and the sessions that have ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

#[cfg(feature = "verifier")]
use crate::issuer::Issuer;
use crate::node::Node;
use crate::session::SessionId;
use crate::store::StoreError;

/// Who is asked.
pub(super) enum Authority {
    /// This app, which has a store.
    Node {
        node: Arc<Node>,
        /// Dropped with the last clone of the [`Authenticator`](super::verify::Authenticator), which stops the background task.
        _running: watch::Sender<()>,
    },
    /// Another app, which publishes its keys and its revocations.
    #[cfg(feature = "verifier")]
    Issuer {
        issuer: Arc<Issuer>,
        /// The same.
        _running: watch::Sender<()>,
    },
}

impl Authority {
    /// The node, if uses of tokens are recorded.
    pub(super) const fn node(&self) -> Option<&Arc<Node>> {
        match self {
            Self::Node { node, .. } => Some(node),
            #[cfg(feature = "verifier")]
            Self::Issuer { .. } => None,
        }
    }

    /// Starts the background task, if it is not running and there is a runtime to run it on.
    pub(super) fn start(&self) {
        match self {
            Self::Node { node, .. } => node.start(),
            #[cfg(feature = "verifier")]
            Self::Issuer { issuer, .. } => issuer.start(),
        }
    }

    /// Whether asking for the keys may help with a token that none of the known keys verifies.
    pub(super) fn may_have_key_of(&self, token: &[u8]) -> bool {
        let _ = token;
        match self {
            Self::Node { .. } => false,
            #[cfg(feature = "verifier")]
            Self::Issuer { issuer, .. } => issuer.may_have_key_of(token),
        }
    }

    /// Reports tokens that live for longer than they are accepted.
    pub(super) fn check_life(&self, life: Duration) {
        let _ = life;
        match self {
            // Others may be left from before a deployment that has shortened them.
            Self::Node { .. } => {}
            #[cfg(feature = "verifier")]
            Self::Issuer { issuer, .. } => issuer.check_life(life),
        }
    }

    /// Asks for the keys. They are known here when this returns.
    pub(super) async fn learn_keys(&self) -> Result<(), StoreError> {
        match self {
            Self::Node { .. } => Ok(()),
            #[cfg(feature = "verifier")]
            Self::Issuer { issuer, .. } => issuer.learn_keys().await,
        }
    }

    /// Asks for the revocations, unless they are known as of just now.
    pub(super) async fn catch_up(&self) -> Result<(), StoreError> {
        match self {
            Self::Node { node, .. } => {
                node.start();
                node.catch_up().await
            }
            #[cfg(feature = "verifier")]
            Self::Issuer { issuer, .. } => issuer.catch_up().await,
        }
    }

    /// Asks whether a session of a revoked user is one of those that go on, unless it is known by now.
    pub(super) async fn ask_about(&self, id: SessionId, user_id: &str) -> Result<(), StoreError> {
        match self {
            Self::Node { node, .. } => node.ask_about(id, user_id).await,
            #[cfg(feature = "verifier")]
            Self::Issuer { issuer, .. } => issuer.ask_about(id, user_id).await,
        }
    }

    /// Asks whether a session was revoked, whatever is known here.
    pub(super) async fn is_revoked(&self, id: SessionId) -> Result<bool, StoreError> {
        match self {
            Self::Node { node, .. } => node.find_whether_revoked(id).await,
            #[cfg(feature = "verifier")]
            Self::Issuer { issuer, .. } => issuer.find_whether_revoked(id).await,
        }
    }
}
