//! Refresh tokens that were issued and never left the server.

use std::sync::Arc;
use std::time::Duration;

use super::MAX_TRIES;
use crate::node::Node;
use crate::ratchet::{self, Rotation};
use crate::session::SessionId;
use crate::store::StoreError;

/// How long a page without its cookies waits for its rotation to be taken back.
const MAX_WAIT: Duration = Duration::from_millis(100);

/// A refresh token on its way out. If this is dropped before the token was [sent](Self::sent), because a page took too long,
/// failed, or its visitor has gone, the rotation is taken back: the client cannot have received the token, so the next
/// request with its parent is no recovery. See [`ratchet::take_back`](crate::ratchet::take_back).
pub(crate) struct Unsent {
    node: Arc<Node>,
    session_id: SessionId,
    rotation: Option<Rotation>,
}

impl Unsent {
    pub(super) const fn new(node: Arc<Node>, session_id: SessionId, rotation: Option<Rotation>) -> Self {
        Self { node, session_id, rotation }
    }

    /// The token leaves the server: if it gets lost from here on, that is a recovery.
    pub(crate) fn sent(mut self) {
        self.rotation = None;
    }

    /// The token does not leave the server. The rotation is taken back when this returns, unless the store is slow: the page
    /// does not wait for it.
    pub(crate) async fn withheld(mut self) {
        if let Some(task) = self.take_back() {
            // In a task of its own, so that it is finished even if the visitor has gone.
            let _ = tokio::time::timeout(MAX_WAIT, task).await;
        }
    }

    fn take_back(&mut self) -> Option<tokio::task::JoinHandle<()>> {
        let rotation = self.rotation.take()?;
        let (node, session_id) = (Arc::clone(&self.node), self.session_id);
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        // A failure of the store is an event already.
        Some(runtime.spawn(async move { drop(take_back(&node, session_id, &rotation).await) }))
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.take_back();
    }
}

async fn take_back(node: &Node, session_id: SessionId, rotation: &Rotation) -> Result<(), StoreError> {
    for _ in 0..MAX_TRIES {
        let Some(mut session) = node.load(session_id).await? else { break };
        let Some(state) = ratchet::take_back(&session.rotation, rotation) else { break };
        session.rotation = state;
        if node.compare_and_swap(session.version, &session).await? {
            break;
        }
    }
    Ok(())
}
