//! Following the store's feed of revocations.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Node;
use crate::event::Event;
use crate::session::{Revocation, RevocationReason};
use crate::store::{FeedCursor, RevocationEntry, RevokeTarget, RevokedItem, StoreError};
use crate::time::Timestamp;

/// After a longer gap between two reads, the whole feed is read: what a store repeats of its feed reaches back less far.
const MAX_GAP: Duration = Duration::from_secs(5);
/// How often the whole feed is compared with what this node knows. After a failure it is compared at once.
const COMPARE_EVERY: Duration = Duration::from_secs(60);

/// Where this node has got to in the feed.
pub(super) struct FeedPosition {
    cursor: FeedCursor,
    read_at: Timestamp,
    /// When the whole feed was last compared with what this node knows; none since the last failure.
    compared_at: Option<Timestamp>,
}

impl FeedPosition {
    pub(super) const START: Self =
        Self { cursor: FeedCursor::START, read_at: Timestamp::from_millis(0), compared_at: None };
}

impl Node {
    /// Reads the feed, unless it was just read. The entries are in force when this returns.
    pub(crate) async fn catch_up(&self) -> Result<(), StoreError> {
        let read = async {
            let mut position = self.position.lock().await;
            if self.revoked.is_current(self.now()) {
                return Ok(());
            }
            self.read_feed(&mut position).await.map(|_| ())
        };
        self.within_timeout("read_revocations", read).await?
    }

    /// Reads on from `position` and returns the new entries, which are in force by then.
    async fn read_feed(&self, position: &mut FeedPosition) -> Result<Vec<RevocationEntry>, StoreError> {
        let now = self.now();
        if now < position.read_at || now.is_past(position.read_at, MAX_GAP) {
            // Either the clock was turned back, and entries may have been forgotten too early, or the gap was so long
            // that a slow transaction may have become visible behind the cursor.
            position.cursor = FeedCursor::START;
        }
        match self.call("read_revocations", self.store().read_revocations(position.cursor)).await {
            Ok(batch) => {
                let entries: Vec<_> =
                    batch.entries.into_iter().filter_map(|entry| self.realm.own_entry(entry)).collect();
                entries.iter().for_each(|entry| self.revoked.apply(entry));
                *position = FeedPosition { cursor: batch.next, read_at: now, compared_at: position.compared_at };
                self.revoked.caught_up(now);
                Ok(entries)
            }
            Err(error) => {
                // It is unknown what was missed: the next read starts from the beginning.
                position.cursor = FeedCursor::START;
                position.compared_at = None;
                Err(error)
            }
        }
    }

    /// Reads the new entries. Once a minute, and after every failure, reads the whole feed and compares it with what this
    /// node knows: a store that has lost entries (a failover to a lagging replica) gets them again, so that the other nodes
    /// learn of them too.
    pub(super) async fn follow_feed(self: &Arc<Self>) -> Result<(), StoreError> {
        let mut position = self.position.lock().await;
        let now = self.now();
        if position.compared_at.is_some_and(|at| at <= now && !now.is_past(at, COMPARE_EVERY)) {
            return self.read_feed(&mut position).await.map(|_| ());
        }
        // Collected before the read: what is revoked from now on need not be in it.
        let known = self.revoked.all();
        position.cursor = FeedCursor::START;
        let stored: HashSet<RevokedItem> =
            self.read_feed(&mut position).await?.into_iter().map(|entry| entry.item).collect();
        let lost = known.into_iter().filter(|known| known.expires_at > now && !stored.contains(&known.item));
        // What has not reached the store yet is tried again elsewhere.
        let lost: Vec<_> = lost.filter(|known| !self.unfinished.has(&known.item)).collect();
        if lost.is_empty() {
            position.compared_at = Some(now);
        } else if !self.reasserting.swap(true, Ordering::Relaxed) {
            self.events.emit(Event::RevocationsLost { count: lost.len() });
            // In a task of its own, so that the feed is followed meanwhile. The next comparison shows whether it worked.
            let node = Arc::clone(self);
            tokio::spawn(async move {
                let _ = node.reassert(lost).await;
                node.reasserting.store(false, Ordering::Relaxed);
            });
        }
        Ok(())
    }

    /// Revokes again what the store has lost.
    async fn reassert(&self, lost: Vec<RevocationEntry>) -> Result<(), StoreError> {
        let now = self.now();
        for RevocationEntry { item, expires_at } in &lost {
            if self.is_stopped() {
                break;
            }
            let stored;
            let target = match item {
                RevokedItem::Session(id) => RevokeTarget::Session(*id),
                RevokedItem::Token(jti) => {
                    stored = self.realm.stored(jti);
                    RevokeTarget::Token(&stored)
                }
            };
            let revocation = Revocation { at: now, expires_at: *expires_at, reason: RevocationReason::Other };
            self.call("revoke", self.store().revoke(target, revocation)).await?;
        }
        Ok(())
    }
}
