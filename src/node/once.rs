//! What may be done only once, such as what a logout token asks for.

use tokio::sync::Mutex;

use super::Node;
use crate::session::RevocationReason;
use crate::store::{RevokeTarget, StoreError};
use crate::token::id::TokenId;

/// Two that have to wait for each other by chance are no harm.
const TURNS: usize = 64;

/// Lets those who would do the same wait for each other.
pub(super) struct Turns([Mutex<()>; TURNS]);

impl Turns {
    pub(super) fn new() -> Self {
        Self([const { Mutex::const_new(()) }; TURNS])
    }

    fn of(&self, id: TokenId) -> &Mutex<()> {
        let [first, others @ ..] = &self.0;
        id.shard(TURNS).checked_sub(1).and_then(|index| others.get(index)).unwrap_or(first)
    }
}

impl Node {
    /// Does the work, and marks it as done in the feed of revocations. Returns none if it was done before: on this node, or
    /// on another one whose mark this node has read.
    ///
    /// The mark comes last. If the work fails, or nobody waits for it any longer, it can be done again.
    pub(crate) async fn once<T, E: From<StoreError>>(
        &self,
        id: TokenId,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<Option<T>, E> {
        let _turn = self.within_timeout("revoke", self.turns.of(id).lock()).await?;
        self.catch_up().await?;
        if self.revoked.has_token(id) {
            return Ok(None);
        }
        let done = work.await?;
        self.revoke(RevokeTarget::Token(&id.to_string()), RevocationReason::IdentityProvider).await?;
        Ok(Some(done))
    }
}
