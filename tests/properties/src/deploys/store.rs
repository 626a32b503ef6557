//! The store below the nodes: it counts the age of the feed's entries by the clock of the schedule, records which node has
//! read the feed, and has a flaw if a test asks for one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use axum_refresh::store::{
    Activity, ExternalId, FEED_RETENTION, FeedCursor, FeedWindow, InsertOptions, Inserted, Revocation, RevocationBatch,
    RevocationEntry, RevokeTarget, Revoked, RevokedItem, SessionRecord, StoreError, Timestamp,
};
use axum_refresh::{SessionId, SessionStore};

use super::settings::{STAFF, duration};
use crate::Clock;
use crate::oracle::Millis;

/// What a store must not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// Sessions that were revoked one by one do not enter the feed.
    OmitsSessions,
    /// Users do not enter the feed.
    OmitsUsers,
    /// The feed's entries pass for a day older than they are.
    WrongAges,
    /// An entry stays in the feed for as long as the settings of the node that wrote it require, and no longer.
    ForgetsByWriter,
    /// Rows do not tell that their user was revoked.
    IgnoresCutoffs,
    /// A revocation of a user counts in the other realm too.
    IgnoresRealms,
}

/// A complete read of the feed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read {
    pub(super) event: u64,
    pub(super) at: Millis,
}

#[derive(Default)]
struct State {
    /// Orders reads of the feed and revocations.
    events: u64,
    /// The node whose turn it is, and how long its settings keep a revocation.
    node: usize,
    retention: Millis,
    /// When each entry of the feed was last written, and how long its writer's settings keep it.
    written: HashMap<RevokedItem, (Millis, Millis)>,
    reads: [Option<Read>; 2],
}

#[derive(Clone)]
pub(super) struct FeedStore {
    inner: Arc<dyn SessionStore>,
    clock: Clock,
    flaw: Option<Flaw>,
    state: Arc<Mutex<State>>,
}

impl FeedStore {
    pub(super) fn over(inner: Arc<dyn SessionStore>, clock: Clock, flaw: Option<Flaw>) -> Self {
        Self { inner, clock, flaw, state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn now(&self) -> Millis {
        self.clock.now().as_millis()
    }

    /// The next calls are this node's.
    pub(super) fn serve(&self, node: usize, retention: Millis) {
        let mut state = self.state();
        (state.node, state.retention) = (node, retention);
    }

    pub(super) fn next_event(&self) -> u64 {
        let mut state = self.state();
        state.events += 1;
        state.events
    }

    /// The last complete read by this node since it has started.
    pub(super) fn read_by(&self, node: usize) -> Option<Read> {
        self.state().reads[node]
    }

    pub(super) fn restarted(&self, node: usize) {
        self.state().reads[node] = None;
    }

    /// The row as it is, whatever the flaw.
    pub(super) fn row(&self, id: SessionId) -> Option<SessionRecord> {
        let load = std::pin::pin!(self.inner.load(id));
        match load.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(row) => row.unwrap(),
            std::task::Poll::Pending => panic!("a store for schedules never waits"),
        }
    }

    fn wrote(&self, item: RevokedItem) {
        let now = self.now();
        let mut state = self.state();
        let retention = state.retention;
        state.written.insert(item, (now, retention));
    }

    fn wrote_all(&self, revoked: &Revoked) {
        revoked.sessions.iter().for_each(|id| self.wrote(RevokedItem::Session(*id)));
        revoked.users.iter().for_each(|users| self.wrote(RevokedItem::Users(users.clone())));
    }

    /// An entry with its age, unless it is missing from the feed.
    fn entry(&self, mut entry: RevocationEntry, oldest: Option<std::time::Duration>) -> Option<RevocationEntry> {
        let written = self.state().written.get(&entry.item).copied();
        let (written, retention) = written.unwrap_or_else(|| panic!("nobody has revoked {:?}", entry.item));
        let age = self.now() - written;
        entry.age = duration(age);
        let is_missing = match self.flaw {
            Some(Flaw::OmitsSessions) => matches!(entry.item, RevokedItem::Session(_)),
            Some(Flaw::OmitsUsers) => matches!(entry.item, RevokedItem::Users(_)),
            Some(Flaw::ForgetsByWriter) => age > retention,
            _ => false,
        };
        if self.flaw == Some(Flaw::WrongAges) {
            entry.age += std::time::Duration::from_secs(24 * 3600);
        }
        // A second more, because the paused clocks of the nodes may be a little ahead.
        let is_kept = age <= (FEED_RETENTION.as_millis() + 1_000).try_into().unwrap();
        let is_asked_for = oldest.is_none_or(|oldest| entry.age <= oldest);
        (!is_missing && is_kept && is_asked_for).then_some(entry)
    }
}

#[async_trait]
impl SessionStore for FeedStore {
    async fn insert(&self, new: &SessionRecord, options: InsertOptions) -> Result<Inserted, StoreError> {
        let inserted = self.inner.insert(new, options).await?;
        if let Inserted::Done(revoked) = &inserted {
            self.wrote_all(revoked);
            options.replacing.into_iter().for_each(|id| self.wrote(RevokedItem::Session(id)));
        }
        Ok(inserted)
    }

    async fn load(&self, id: SessionId) -> Result<Option<SessionRecord>, StoreError> {
        let mut row = self.inner.load(id).await?;
        let is_marked = self.state().written.contains_key(&RevokedItem::Session(id));
        if let (Some(Flaw::IgnoresCutoffs), false, Some(row)) = (self.flaw, is_marked, &mut row) {
            row.rotation.revoked = None;
        }
        Ok(row)
    }

    async fn compare_and_swap(&self, expected: u64, next: &SessionRecord) -> Result<bool, StoreError> {
        let swapped = self.inner.compare_and_swap(expected, next).await?;
        if swapped && next.rotation.revoked.is_some() {
            self.wrote(RevokedItem::Session(next.id));
        }
        Ok(swapped)
    }

    async fn list(&self, user: &str, limit: usize) -> Result<Vec<SessionRecord>, StoreError> {
        self.inner.list(user, limit).await
    }

    async fn find_external(&self, id: ExternalId) -> Result<Vec<SessionId>, StoreError> {
        self.inner.find_external(id).await
    }

    async fn revoke(&self, target: RevokeTarget<'_>, revocation: Revocation) -> Result<Revoked, StoreError> {
        if let (Some(Flaw::IgnoresRealms), RevokeTarget::Users { scope, except, created_until }) = (self.flaw, target) {
            let staff = format!("{STAFF}\0{scope}");
            let scope = scope.strip_prefix(&format!("{STAFF}\0")).unwrap_or(&staff);
            let target = RevokeTarget::Users { scope, except, created_until };
            self.wrote_all(&self.inner.revoke(target, revocation).await?);
        }
        let revoked = self.inner.revoke(target, revocation).await?;
        self.wrote_all(&revoked);
        match target {
            RevokeTarget::Session(id) => self.wrote(RevokedItem::Session(id)),
            RevokeTarget::Token(jti) => self.wrote(RevokedItem::Token(jti.into())),
            RevokeTarget::Users { .. } => {}
        }
        Ok(revoked)
    }

    async fn record_activity(&self, batch: &[Activity]) -> Result<(), StoreError> {
        self.inner.record_activity(batch).await
    }

    /// Leaves out all that a store may leave out.
    async fn read_revocations(&self, since: FeedCursor, window: FeedWindow) -> Result<RevocationBatch, StoreError> {
        let mut batch = self.inner.read_revocations(since, window).await?;
        let oldest = (since == FeedCursor::START).then_some(window.max_age);
        batch.entries = batch.entries.into_iter().filter_map(|entry| self.entry(entry, oldest)).collect();
        if !batch.has_more {
            let (event, at) = (self.next_event(), self.now());
            let mut state = self.state();
            let node = state.node;
            state.reads[node] = Some(Read { event, at });
        }
        Ok(batch)
    }

    async fn purge(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.inner.purge(before, limit).await
    }

    /// Never: a node reads the feed when the schedule says so.
    async fn changed(&self) {
        std::future::pending().await
    }
}
