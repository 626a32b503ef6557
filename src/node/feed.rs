//! Following the store's feed of revocations.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Node;
use super::revocations::EVERYONE;
use crate::event::Event;
use crate::session::{Revocation, RevocationReason};
use crate::store::{FeedCursor, FeedWindow, RevocationEntry, RevokeTarget, RevokedItem, Spared, StoreError};
use crate::time::Timestamp;

/// About how many entries one call reads.
const PAGE: usize = 10_000;
/// At least this much is read again, because other nodes may have a longer `store_timeout`.
const MIN_OVERLAP: Duration = Duration::from_secs(20);
/// How much more of the feed is read than this node keeps.
const MARGIN: Duration = Duration::from_secs(60);
/// How many revocations are compared with the feed once in [`COMPARE_EVERY`]. Twice as many are compared half as often.
const COMPARED_EACH_TIME: usize = 20_000;
/// How often the whole feed is compared with what this node knows. After a failure it is compared at once.
const COMPARE_EVERY: Duration = Duration::from_secs(60);

/// Where this node has got to in the feed.
pub(super) struct FeedPosition {
    cursor: FeedCursor,
    read_at: Timestamp,
    /// When the whole feed was last compared with what this node knows; none since the last failure.
    compared_at: Option<Timestamp>,
    /// Whether entries were missed because they are older than this node keeps them, and no feed was read to its end since.
    has_gap: bool,
}

impl FeedPosition {
    pub(super) const START: Self =
        Self { cursor: FeedCursor::START, read_at: Timestamp::from_millis(0), compared_at: None, has_gap: false };
}

impl Node {
    /// Reads the feed, unless it was just read. The entries are in force when this returns.
    pub(crate) async fn catch_up(&self) -> Result<(), StoreError> {
        if self.revoked.freshness().is_current(self.now()) {
            return Ok(());
        }
        self.check_outage("read_revocations")?;
        let read = async {
            let mut position = self.position.lock().await;
            if self.revoked.freshness().is_current(self.now()) {
                return Ok(());
            }
            let is_first = self.revoked.len() == 0 && position.cursor == FeedCursor::START;
            self.read_feed(&mut position).await?;
            if is_first {
                // There was nothing to compare the feed with.
                position.compared_at = Some(self.now());
            }
            Ok(())
        };
        self.within_timeout("read_revocations", read).await?
    }

    /// What is read of the feed: what is older than this node keeps it need not be, with a margin for the comparison of the
    /// feed with what is kept.
    fn window(&self) -> FeedWindow {
        let overlap = self.overlap();
        FeedWindow { max_age: self.retention() + MARGIN + overlap, overlap, limit: PAGE }
    }

    /// How late an entry can become visible in the store: a call that takes longer has failed, and the server ends its
    /// transaction soon after.
    fn overlap(&self) -> Duration {
        (2 * self.settings.store_timeout).max(MIN_OVERLAP)
    }

    /// Reads on from `position` to the end of the feed. The entries are in force by then.
    async fn read_feed(&self, position: &mut FeedPosition) -> Result<(), StoreError> {
        let now = self.now();
        // Revocations older than this node keeps them are not read. That is no harm for requests, whose access tokens have
        // expired by then, but a stream may still be open.
        position.has_gap |=
            position.read_at != FeedPosition::START.read_at && now.is_past(position.read_at, self.retention());
        if now < position.read_at || now.is_past(position.read_at, self.overlap() / 2) {
            // Either the clock was turned back, and entries may have been forgotten too early, or the gap was so long
            // that a slow transaction may have become visible behind the cursor.
            position.cursor = FeedCursor::START;
        }
        loop {
            let (asked_at, as_of) = (self.now(), Instant::now());
            // Only one at a time, so it need not be held back; and it is the first to notice that the store is back.
            let read = self.store().read_revocations(position.cursor, self.window());
            match self.attempt("read_revocations", read).await {
                Ok(batch) => {
                    if let Some(store_now) = batch.now {
                        self.clocks.compare(asked_at, self.now(), store_now, &self.events);
                    }
                    let now = self.now();
                    // What the first read finds may be old, and was missed by nobody.
                    let is_first = self.revoked.freshness().read_at().is_none();
                    for RevocationEntry { item, age } in batch.entries {
                        // A little older than this node keeps it, so that a comparison does not miss what becomes too old
                        // while it reads.
                        if age < self.retention() + MARGIN
                            && let Some(item) = self.realm.own_item(item)
                        {
                            let is_new = self.revoked.apply(&item, now.after(self.retention()).before(age), age);
                            // An older one was forgotten, and is read again for the comparison.
                            if is_new && !is_first && age < self.retention() {
                                self.meter().revocation_lagged(age);
                            }
                        }
                    }
                    (position.cursor, position.read_at) = (batch.next, asked_at);
                    if !batch.has_more {
                        self.revoked.caught_up(asked_at, as_of);
                        if std::mem::take(&mut position.has_gap) {
                            self.revoked.waiters().users_revoked(None);
                        }
                        return Ok(());
                    }
                }
                Err(error) => {
                    // It is unknown what was missed: the next read starts from the beginning.
                    position.cursor = FeedCursor::START;
                    position.compared_at = None;
                    return Err(error);
                }
            }
        }
    }

    /// Reads the new entries. Once a minute, and after every failure, reads the whole feed and compares it with what this
    /// node knows: a store that has lost entries (a failover to a lagging replica) gets them again, so that the other nodes
    /// learn of them too. A long feed is compared less often: reading it takes time.
    pub(super) async fn follow_feed(self: &Arc<Self>) -> Result<(), StoreError> {
        let mut position = self.position.lock().await;
        let now = self.now();
        let known = u32::try_from(self.revoked.len() / COMPARED_EACH_TIME).unwrap_or(u32::MAX);
        let every = COMPARE_EVERY.saturating_mul(known.max(1));
        let is_compared = position.compared_at.is_some_and(|at| at <= now && !now.is_past(at, every));
        if is_compared || self.reasserting.load(Ordering::Relaxed) {
            return self.read_feed(&mut position).await;
        }
        self.revoked.begin_comparison();
        position.cursor = FeedCursor::START;
        self.read_feed(&mut position).await?;
        let mut lost = self.revoked.missing(self.retention());
        // What has not reached the store yet is tried again elsewhere.
        lost.retain(|lost| !self.unfinished.has(lost));
        if lost.is_empty() {
            position.compared_at = Some(now);
        } else if !self.reasserting.swap(true, Ordering::Relaxed) {
            self.events.emit(Event::RevocationsLost { count: lost.len() });
            // In a task of its own, so that the feed is followed meanwhile. The next comparison shows whether it worked.
            let node = Arc::clone(self);
            tokio::spawn(async move {
                node.reassert(lost).await;
                node.reasserting.store(false, Ordering::Relaxed);
            });
        }
        Ok(())
    }

    /// Revokes again what the store has lost. One that cannot be written does not keep the others from it.
    async fn reassert(&self, lost: Vec<RevokedItem>) {
        let revocation = Revocation { at: self.now(), reason: RevocationReason::Other };
        for item in &lost {
            if self.is_stopped() {
                break;
            }
            let stored;
            let (target, at) = match item {
                RevokedItem::Session(id) => (RevokeTarget::Session(*id), revocation.at),
                RevokedItem::Token(jti) => {
                    stored = self.realm.stored(jti);
                    (RevokeTarget::Token(&stored), revocation.at)
                }
                RevokedItem::Users(users) if *users.scope == *EVERYONE => {
                    // Those who have logged in since have to do so again: a store does not search everyone's sessions.
                    stored = self.realm.everyone().into();
                    (RevokeTarget::Users { scope: &stored, except: None, created_until: None }, users.revoked_at)
                }
                RevokedItem::Users(users) => {
                    stored = self.realm.stored(&users.scope);
                    let created_until = Some(users.revoked_at);
                    let except = if let Spared::Session(id) = users.spared { Some(id) } else { None };
                    (RevokeTarget::Users { scope: &stored, except, created_until }, users.revoked_at)
                }
            };
            let revocation = Revocation { at, ..revocation };
            if let Ok(revoked) = self.call("revoke", self.store().revoke(target, revocation)).await {
                self.note(revoked);
            }
        }
    }
}
