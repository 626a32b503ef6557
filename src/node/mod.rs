//! What this process knows and does for its sessions: the clock, the calls of the store, the live revocations, the activity
//! that is not written yet, and the background task that keeps them up to date.

mod feed;
pub(crate) mod realm;
pub(crate) mod revocations;
mod tasks;
pub(crate) mod unfinished;
pub(crate) mod write_behind;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::{Mutex, watch};

use self::feed::FeedPosition;
use self::realm::Realm;
use self::revocations::LiveRevocations;
use self::unfinished::UnfinishedRevocations;
use self::write_behind::WriteBehind;
use crate::config::ResolvedSettings;
use crate::event::{Event, Events};
use crate::session::{Revocation, RevocationReason, SessionId};
use crate::store::{
    Activity, InsertOptions, Inserted, RevocationEntry, RevokeTarget, RevokedItem, SessionRecord, SessionStore,
    StoreError,
};
use crate::time::{Clock, Timestamp};

/// How many sessions one write of recorded activity covers.
const BATCH: usize = 500;
const PURGE_STEP: usize = 1_000;
/// Ends a purge even if the store always reports more.
const MAX_PURGE_STEPS: usize = 100_000;

pub(crate) struct Node {
    pub(crate) settings: Arc<ResolvedSettings>,
    pub(crate) events: Events,
    pub(crate) write_behind: WriteBehind,
    pub(crate) revoked: LiveRevocations,
    unfinished: UnfinishedRevocations,
    realm: Realm,
    store: Arc<dyn SessionStore>,
    clock: Clock,
    /// Locked while the feed is read, so that many requests that need it cause one read.
    position: Mutex<FeedPosition>,
    /// Closed when the last `Auth` of this node is dropped.
    stop: watch::Receiver<()>,
    /// Whether the background task is running. It stops with its runtime, and is started again on another.
    running: AtomicBool,
    /// Whether lost revocations are being written to the store again.
    reasserting: AtomicBool,
}

impl Node {
    /// Returns the node and the handle that keeps its background task alive: dropping the handle stops the task.
    pub(crate) fn new(
        settings: Arc<ResolvedSettings>,
        store: Arc<dyn SessionStore>,
        clock: Clock,
        events: Events,
    ) -> (Arc<Self>, watch::Sender<()>) {
        let (sender, receiver) = watch::channel(());
        let node = Self {
            revoked: LiveRevocations::new(settings.max_staleness),
            realm: Realm::new(settings.realm.as_deref()),
            settings,
            events,
            write_behind: WriteBehind::new(),
            unfinished: UnfinishedRevocations::new(),
            store,
            clock,
            position: Mutex::new(FeedPosition::START),
            stop: receiver,
            running: AtomicBool::new(false),
            reasserting: AtomicBool::new(false),
        };
        (Arc::new(node), sender)
    }

    /// The store itself: a call by way of the `Arc`, which is a store too, would box its future twice.
    fn store(&self) -> &dyn SessionStore {
        &*self.store
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)().into()
    }

    /// Whether the last `Auth` of this node was dropped.
    fn is_stopped(&self) -> bool {
        self.stop.has_changed().is_err()
    }

    /// A revocation made at `at`. It expires after the last access token that it can concern has expired, on a node whose
    /// clock is behind by as much as `grace` allows for.
    pub(crate) fn revocation(&self, at: Timestamp, reason: RevocationReason) -> Revocation {
        let policy = &self.settings.policy;
        let expires_at = at.after(policy.access_ttl).after(policy.grace).after(self.settings.leeway);
        Revocation { at, expires_at, reason }
    }

    /// Awaits a call of the store. A failure is an event.
    async fn call<T>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let result = self.within_timeout(call, work).await.and_then(|result| result);
        if let Err(error) = &result {
            self.events.emit(Event::StoreFailed { call, error: error.to_string() });
        }
        result
    }

    /// Awaits work that waits for the store, directly or behind others, for at most the store timeout.
    pub(crate) async fn within_timeout<T>(
        &self,
        call: &'static str,
        work: impl Future<Output = T>,
    ) -> Result<T, StoreError> {
        let timeout = self.settings.store_timeout;
        let late = || StoreError::new(format!("{call}: no answer within {}", humantime::format_duration(timeout)));
        tokio::time::timeout(timeout, work).await.map_err(|_| late())
    }

    pub(crate) async fn insert(&self, new: &SessionRecord, options: InsertOptions) -> Result<Inserted, StoreError> {
        let new = self.realm.record(new);
        let inserted = self.call("insert", self.store().insert(&new, options)).await?;
        if let Inserted::Done(revoked) = &inserted {
            self.note_revoked(revoked, options.revocation_expires_at);
        }
        Ok(inserted)
    }

    /// A new session id for a user.
    pub(crate) fn new_session_id(&self, user_id: &str) -> Result<SessionId, getrandom::Error> {
        SessionId::generate(&self.realm.stored(user_id))
    }

    /// The session as stored, with the activity and revocations that this node knows and the store does not yet.
    pub(crate) async fn load(&self, id: SessionId) -> Result<Option<SessionRecord>, StoreError> {
        let Some(session) = self.call("load", self.store().load(id)).await? else { return Ok(None) };
        if session.id != id {
            let error = StoreError::new("load returned a session with another id");
            self.events.emit(Event::StoreFailed { call: "load", error: error.to_string() });
            return Err(error);
        }
        Ok(self.realm.own(session).map(|mut session| {
            self.overlay_local(&mut session);
            session
        }))
    }

    fn overlay_local(&self, session: &mut SessionRecord) {
        self.write_behind.add_to(session.id, &mut session.rotation);
        if session.rotation.revoked.is_none() && self.revoked.has_session(session.id) {
            // The store has lost the revocation; this node has not.
            session.rotation.revoked = Some(self.revocation(self.now(), RevocationReason::Other));
        }
    }

    pub(crate) async fn list(&self, user_id: &str) -> Result<Vec<SessionRecord>, StoreError> {
        let stored = self.realm.stored(user_id);
        let mut sessions = self.call("list", self.store().list(&stored)).await?;
        sessions = sessions.into_iter().filter_map(|session| self.realm.own(session)).collect();
        sessions.iter_mut().for_each(|session| self.overlay_local(session));
        Ok(sessions)
    }

    pub(crate) async fn compare_and_swap(&self, expected: u64, next: &SessionRecord) -> Result<bool, StoreError> {
        let stored = self.realm.record(next);
        let swapped = self.call("compare_and_swap", self.store().compare_and_swap(expected, &stored)).await?;
        if let (true, Some(revocation)) = (swapped, next.rotation.revoked) {
            self.note_revoked(&[next.id], revocation.expires_at);
        }
        Ok(swapped)
    }

    pub(crate) async fn revoke(
        &self,
        target: RevokeTarget<'_>,
        reason: RevocationReason,
    ) -> Result<Vec<SessionId>, StoreError> {
        let revocation = self.revocation(self.now(), reason);
        let stored;
        let in_store = match target {
            // Not a user of ours: no session has such an id.
            RevokeTarget::User { user_id, .. } if !Realm::allows(user_id) => return Ok(Vec::new()),
            RevokeTarget::User { user_id, except } => {
                stored = self.realm.stored(user_id);
                RevokeTarget::User { user_id: &stored, except }
            }
            RevokeTarget::Token(jti) => {
                stored = self.realm.stored(jti);
                RevokeTarget::Token(&stored)
            }
            RevokeTarget::Session(_) => target,
        };
        let revoked = self.call("revoke", self.store().revoke(in_store, revocation)).await?;
        self.note_revoked(&revoked, revocation.expires_at);
        match target {
            RevokeTarget::Session(id) => self.revoked.revoke_session(id, revocation.expires_at),
            RevokeTarget::Token(jti) => {
                self.revoked.apply(&RevocationEntry {
                    item: RevokedItem::Token(jti.into()),
                    expires_at: revocation.expires_at,
                });
                self.events.emit(Event::TokenRevoked { jti: jti.into() });
            }
            RevokeTarget::User { .. } => {}
        }
        for session_id in &revoked {
            self.events.emit(Event::SessionRevoked { session_id: *session_id, reason });
        }
        Ok(revoked)
    }

    fn note_revoked(&self, revoked: &[SessionId], expires_at: Timestamp) {
        for id in revoked {
            self.revoked.revoke_session(*id, expires_at);
        }
    }

    /// Writes all recorded activity that is not written yet, and the revocations that the store has refused so far.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        // The revocations count for more.
        let finished = self.finish_all().await;
        self.write(self.write_behind.all()).await?;
        finished
    }

    async fn write(&self, activity: Vec<Activity>) -> Result<(), StoreError> {
        let mut result = Ok(());
        for batch in activity.chunks(BATCH) {
            if result.is_ok() {
                result = self.call("record_activity", self.store().record_activity(batch)).await;
            }
            if result.is_ok() {
                self.write_behind.written(batch);
            } else {
                self.write_behind.not_written(batch);
            }
        }
        result
    }

    pub(crate) async fn purge(&self) -> Result<usize, StoreError> {
        // A client that returns a little late still gets `session_expired` rather than `refresh_token_invalid`.
        let before = self.now().before(self.settings.policy.grace);
        let mut purged = 0;
        for _ in 0..MAX_PURGE_STEPS {
            let step = self.call("purge", self.store().purge(before, PURGE_STEP)).await?;
            purged += step;
            if step < PURGE_STEP {
                break;
            }
            tokio::task::yield_now().await;
        }
        Ok(purged)
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("settings", &self.settings).finish_non_exhaustive()
    }
}
