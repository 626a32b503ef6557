//! `Arc<T>` as a store, so that a store can be shared or chosen at run time.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    Activity, ExternalId, FeedCursor, FeedWindow, InsertOptions, Inserted, Revocation, RevocationBatch, RevokeTarget,
    Revoked, SessionId, SessionRecord, SessionStore, StoreError, Timestamp,
};

// Forwards every method, `changed` included: its default would turn a store that pushes into one that is polled.
#[async_trait]
impl<T: SessionStore + ?Sized> SessionStore for Arc<T> {
    async fn insert(&self, new: &SessionRecord, options: InsertOptions) -> Result<Inserted, StoreError> {
        (**self).insert(new, options).await
    }

    async fn load(&self, id: SessionId) -> Result<Option<SessionRecord>, StoreError> {
        (**self).load(id).await
    }

    async fn compare_and_swap(&self, expected: u64, next: &SessionRecord) -> Result<bool, StoreError> {
        (**self).compare_and_swap(expected, next).await
    }

    async fn list(&self, user_id: &str, limit: usize) -> Result<Vec<SessionRecord>, StoreError> {
        (**self).list(user_id, limit).await
    }

    async fn find_external(&self, id: ExternalId) -> Result<Vec<SessionId>, StoreError> {
        (**self).find_external(id).await
    }

    async fn revoke(&self, target: RevokeTarget<'_>, revocation: Revocation) -> Result<Revoked, StoreError> {
        (**self).revoke(target, revocation).await
    }

    async fn record_activity(&self, batch: &[Activity]) -> Result<(), StoreError> {
        (**self).record_activity(batch).await
    }

    async fn read_revocations(&self, since: FeedCursor, window: FeedWindow) -> Result<RevocationBatch, StoreError> {
        (**self).read_revocations(since, window).await
    }

    async fn purge(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        (**self).purge(before, limit).await
    }

    async fn changed(&self) {
        (**self).changed().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::session::RevocationReason;
    use crate::store::MemoryStore;

    fn shared() -> Arc<dyn SessionStore> {
        Arc::new(MemoryStore::new())
    }

    mod contract {
        crate::store_conformance!(async { super::shared() });
    }

    #[tokio::test]
    async fn a_shared_store_pushes_its_changes() {
        let shared = shared();
        let changed = tokio::time::timeout(Duration::from_secs(5), SessionStore::changed(&shared));
        let revoke = async {
            tokio::task::yield_now().await;
            let at = Timestamp::from_millis(1_000);
            let revocation = Revocation { at, reason: RevocationReason::Other };
            shared.revoke(RevokeTarget::Token("some-jti"), revocation).await.unwrap();
        };
        let (changed, ()) = tokio::join!(changed, revoke);
        changed.expect("the revocation is pushed");
    }
}
