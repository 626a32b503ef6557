//! What this process knows and does for its sessions: the clock, the calls of the store, the live revocations, the activity
//! that is not written yet, and the background task that keeps them up to date.

pub(crate) mod announcements;
pub(crate) mod background;
mod calls;
pub(crate) mod clocks;
mod feed;
mod freshness;
mod log;
#[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
mod once;
mod outage;
pub(crate) mod realm;
mod report;
pub(crate) mod revocations;
mod tasks;
pub(crate) mod unfinished;
mod waiters;
pub(crate) mod waiting;
pub(crate) mod write_behind;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::{Mutex, watch};

use self::background::Background;
use self::clocks::ClockDifference;
use self::feed::FeedPosition;
use self::outage::Outage;
use self::realm::Realm;
use self::revocations::{EVERYONE, Known, LiveRevocations};
use self::unfinished::UnfinishedRevocations;
use self::write_behind::WriteBehind;
use crate::config::{MAX_LEEWAY, ResolvedSettings, Settings};
use crate::event::{Event, Events};
use crate::metrics::Meter;
use crate::session::{Actor, Client, ExternalId, Revocation, RevocationReason, SessionId};
use crate::store::{
    Activity, InsertOptions, Inserted, RevokeTarget, Revoked, RevokedItem, SessionRecord, SessionStore, StoreError,
};
use crate::time::{Clock, Timestamp};

/// How many sessions one write of recorded activity covers.
const BATCH: usize = 500;
/// How many sessions of a user are listed. A list of more is of no use to anybody.
const MAX_LISTED: usize = 1_000;
const PURGE_STEP: usize = 1_000;
/// How long a node keeps a revocation at least, however short its access tokens live: for longer than a logout token can be
/// used, wherever the clocks of nodes and providers stand.
pub(crate) const MIN_RETENTION: Duration = Duration::from_secs(10 * 60);
/// Ends a purge even if the store always reports more.
const MAX_PURGE_STEPS: usize = 100_000;

/// Why something is revoked, and what its event says about that.
#[derive(Clone, Debug)]
pub(crate) struct Cause {
    reason: RevocationReason,
    /// The user of the session. None if the target names the user, or if the user is not known.
    user_id: Option<Arc<str>>,
    /// The client whose request it is, if it is known.
    client: Option<Client>,
}

impl Cause {
    /// The same for a session of this user.
    pub(crate) fn of(self, user_id: &Arc<str>) -> Self {
        Self { user_id: Some(Arc::clone(user_id)), ..self }
    }

    /// The same in a request that somebody has sent who acts for the user.
    pub(crate) fn acting(mut self, actor: Option<&Arc<Actor>>) -> Self {
        if let (Some(client), Some(actor)) = (&mut self.client, actor) {
            client.actor = Some(Arc::clone(actor));
        }
        self
    }

    /// The same in a request of this client.
    pub(crate) fn by(self, client: Option<Client>) -> Self {
        Self { client, ..self }
    }
}

impl From<RevocationReason> for Cause {
    fn from(reason: RevocationReason) -> Self {
        Self { reason, user_id: None, client: None }
    }
}

/// See [`Node::retention`].
pub(crate) fn retention(settings: &Settings) -> Duration {
    let policy = &settings.policy;
    (policy.access_ttl + policy.grace + settings.leeway).max(MIN_RETENTION)
}

pub(crate) struct Node {
    pub(crate) settings: Arc<ResolvedSettings>,
    pub(crate) events: Events,
    pub(crate) write_behind: WriteBehind,
    pub(crate) revoked: Arc<LiveRevocations>,
    unfinished: UnfinishedRevocations,
    realm: Realm,
    outage: Outage,
    store: Arc<dyn SessionStore>,
    clock: Clock,
    /// Locked while the feed is read, so that many requests that need it cause one read.
    position: Mutex<FeedPosition>,
    /// Closed when the last `Auth` of this node is dropped.
    stop: watch::Receiver<()>,
    background: Background,
    #[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
    turns: once::Turns,
    /// Whether lost revocations are being written to the store again.
    reasserting: AtomicBool,
    clocks: ClockDifference,
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
            revoked: Arc::new(LiveRevocations::new(settings.max_staleness)),
            realm: Realm::new(settings.realm.as_deref()),
            events: events.counted_by(settings.meter),
            settings,
            write_behind: WriteBehind::new(),
            unfinished: UnfinishedRevocations::new(),
            outage: Outage::new(),
            store,
            clock,
            position: Mutex::new(FeedPosition::START),
            stop: receiver,
            background: Background::default(),
            #[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
            turns: once::Turns::new(),
            reasserting: AtomicBool::new(false),
            clocks: ClockDifference::default(),
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

    fn meter(&self) -> Meter {
        self.settings.meter
    }

    /// Whether the last `Auth` of this node was dropped.
    fn is_stopped(&self) -> bool {
        self.stop.has_changed().is_err()
    }

    /// How long after a revocation this node may still meet an access token from before, whichever node has issued it: no
    /// access token is accepted here for longer than the `access_ttl` of this node, and clocks differ by no more than
    /// `grace` allows for. At least [`MIN_RETENTION`].
    pub(crate) fn retention(&self) -> Duration {
        // A verifier may have a longer leeway.
        let leeway = if self.revoked.is_announced() { MAX_LEEWAY } else { Duration::ZERO };
        retention(&self.settings) + leeway
    }

    /// Until when this node keeps a revocation of just now.
    fn kept_until(&self) -> Timestamp {
        self.now().after(self.retention())
    }

    /// Whether this node's clock and the store's differ by more than the grace period: nothing is deleted by such a clock.
    fn clock_is_wrong(&self) -> bool {
        u128::from(self.clocks.millis().unsigned_abs()) > self.settings.policy.grace.as_millis()
    }

    pub(crate) async fn insert(&self, new: &SessionRecord, options: InsertOptions) -> Result<Inserted, StoreError> {
        let new = self.realm.record(new);
        let inserted = self.call("insert", self.store().insert(&new, options)).await?;
        Ok(match inserted {
            Inserted::Done(revoked) => Inserted::Done(self.note(revoked)),
            Inserted::LimitReached => Inserted::LimitReached,
        })
    }

    /// A new session id for a user.
    pub(crate) fn new_session_id(&self, user_id: &str) -> Result<SessionId, getrandom::Error> {
        SessionId::generate(&self.realm.stored(user_id))
    }

    /// The session as stored, with the activity and revocations that this node knows and the store does not yet.
    pub(crate) async fn load(&self, id: SessionId) -> Result<Option<SessionRecord>, StoreError> {
        Ok(self.load_with_end(id).await?.map(|(session, _)| session))
    }

    /// [`load`](Self::load), and when the session ends if nobody uses a token until then.
    pub(crate) async fn load_with_end(&self, id: SessionId) -> Result<Option<(SessionRecord, Timestamp)>, StoreError> {
        let Some(mut session) = self.load_with_local(id).await? else { return Ok(None) };
        let actors_end = self.overlay_actor(&mut session).await?;
        let ends_at = session.rotation.ends_at(self.settings.policy.idle_timeout);
        Ok(Some((session, actors_end.map_or(ends_at, |actors_end| actors_end.min(ends_at)))))
    }

    /// A session in which somebody acts for the user ends with the session of whoever acts. Returns when that one ends, if it
    /// is live.
    async fn overlay_actor(&self, session: &mut SessionRecord) -> Result<Option<Timestamp>, StoreError> {
        let Some(actor) = &session.client.actor else { return Ok(None) };
        let actors = self.load_with_local(actor.session_id).await?;
        let idle_timeout = self.settings.policy.idle_timeout;
        let live = actors.filter(|actors| actors.rotation.is_live(self.now(), idle_timeout));
        if live.is_none() {
            let revocation = Revocation { at: self.now(), reason: RevocationReason::ActorEnded };
            session.rotation.revoked.get_or_insert(revocation);
        }
        Ok(live.map(|actors| actors.rotation.ends_at(idle_timeout)))
    }

    /// The session as stored, without anything that only this node knows.
    pub(crate) async fn load_as_stored(&self, id: SessionId) -> Result<Option<SessionRecord>, StoreError> {
        let Some(session) = self.call("load", self.store().load(id)).await? else { return Ok(None) };
        if session.id != id {
            let error = StoreError::new("load returned a session with another id");
            self.events.emit(Event::StoreFailed { call: "load", error: error.to_string() });
            return Err(error);
        }
        Ok(self.realm.own(session))
    }

    /// The session as stored, with what only this node knows of it.
    async fn load_with_local(&self, id: SessionId) -> Result<Option<SessionRecord>, StoreError> {
        // Also from before: what is written while the store is read is in neither.
        let before = self.write_behind.of(id);
        let Some(mut session) = self.load_as_stored(id).await? else { return Ok(None) };
        if let Some(Activity { last_seen_at, acknowledged, .. }) = before {
            session.rotation.merge_activity(last_seen_at, acknowledged);
        }
        self.overlay_local(&mut session);
        Ok(Some(session))
    }

    fn overlay_local(&self, session: &mut SessionRecord) {
        self.write_behind.add_to(session.id, &mut session.rotation);
        let is_revoked = || self.revoked.has_session(session.id) || self.unfinished.concerns(session);
        if session.rotation.revoked.is_none() && is_revoked() {
            // The store has lost the revocation, or has not written it yet; this node knows it.
            session.rotation.revoked = Some(Revocation { at: self.now(), reason: RevocationReason::Other });
        }
    }

    pub(crate) async fn list(&self, user_id: &str) -> Result<Vec<SessionRecord>, StoreError> {
        let stored = self.realm.stored(user_id);
        let mut sessions = self.call("list", self.store().list(&stored, MAX_LISTED)).await?;
        sessions = sessions.into_iter().filter_map(|session| self.realm.own(session)).collect();
        for session in &mut sessions {
            self.overlay_local(session);
            self.overlay_actor(session).await?;
        }
        Ok(sessions)
    }

    pub(crate) async fn find_external(&self, id: ExternalId) -> Result<Vec<SessionId>, StoreError> {
        self.call("find_external", self.store().find_external(id)).await
    }

    pub(crate) async fn compare_and_swap(&self, expected: u64, next: &SessionRecord) -> Result<bool, StoreError> {
        let stored = self.realm.record(next);
        let swapped = self.call("compare_and_swap", self.store().compare_and_swap(expected, &stored)).await?;
        if swapped && next.rotation.revoked.is_some() {
            self.note_revoked(&[next.id]);
        }
        Ok(swapped)
    }

    /// Revokes, and returns what was revoked. The scope of a target is a user id, or [`everyone`](crate::store::everyone)
    /// of no realm.
    pub(crate) async fn revoke(
        &self,
        target: RevokeTarget<'_>,
        cause: impl Into<Cause>,
    ) -> Result<Revoked, StoreError> {
        let mut cause = cause.into();
        let revocation = Revocation { at: self.now(), reason: cause.reason };
        let stored;
        let in_store = match target {
            RevokeTarget::Users { scope, except, created_until } => {
                if scope == EVERYONE {
                    stored = Cow::Owned(self.realm.everyone());
                } else if Realm::has_user(scope) {
                    stored = self.realm.stored(scope);
                } else {
                    // Not a user of ours: no session has such an id.
                    return Ok(Revoked::default());
                }
                RevokeTarget::Users { scope: &stored, except, created_until }
            }
            RevokeTarget::Token(jti) => {
                stored = self.realm.stored(jti);
                RevokeTarget::Token(&stored)
            }
            RevokeTarget::Session(_) => target,
        };
        let revoked = self.note(self.call("revoke", self.store().revoke(in_store, revocation)).await?);
        match target {
            RevokeTarget::Session(id) => self.note_revoked(&[id]),
            RevokeTarget::Token(jti) => {
                self.revoked.apply(&RevokedItem::Token(jti.into()), self.kept_until(), Duration::ZERO);
            }
            RevokeTarget::Users { scope: EVERYONE, .. } => {
                // Also if the store has marked one session after the other: their users are not known here.
                let Cause { reason, client, .. } = cause;
                self.events.emit(Event::EveryoneRevoked { reason, client });
                return Ok(revoked);
            }
            RevokeTarget::Users { scope, .. } => cause.user_id = Some(scope.into()),
        }
        self.report_revoked(&revoked, &cause);
        Ok(revoked)
    }

    /// Reports what was revoked of one user.
    pub(crate) fn report_revoked(&self, revoked: &Revoked, cause: &Cause) {
        for session_id in &revoked.sessions {
            self.report_session(*session_id, cause.clone());
        }
        if let Some(users) = &revoked.users {
            let (user_id, sessions, client) = ((&*users.scope).into(), revoked.count, cause.client.clone());
            self.events.emit(Event::UserRevoked { user_id, sessions, reason: cause.reason, client });
        }
    }

    /// Reports that a session was revoked.
    pub(crate) fn report_session(&self, session_id: SessionId, cause: impl Into<Cause>) {
        let Cause { reason, user_id, client } = cause.into();
        self.events.emit(Event::SessionRevoked { user_id, session_id, reason, client });
    }

    /// What the store has revoked is in force here from now on. Returns it with the ids as the app knows them.
    fn note(&self, mut revoked: Revoked) -> Revoked {
        self.note_revoked(&revoked.sessions);
        revoked.users = revoked.users.and_then(|users| match self.realm.own_item(RevokedItem::Users(users))? {
            RevokedItem::Users(users) => Some(users),
            _ => None,
        });
        if let Some(users) = &revoked.users {
            self.revoked.revoke_users(users, self.kept_until());
        }
        revoked
    }

    pub(crate) fn note_revoked(&self, revoked: &[SessionId]) {
        for id in revoked {
            self.revoked.revoke_session(*id, self.kept_until());
        }
    }

    /// A session was found to be revoked, by whatever and however long ago.
    pub(crate) fn found_revoked(&self, id: SessionId) {
        self.revoked.found_revoked(id, self.kept_until());
    }

    /// Whether a session was revoked, by the store. One that the store has lost does not go on.
    pub(crate) async fn is_session_revoked(&self, id: SessionId) -> Result<bool, StoreError> {
        Ok(self.load(id).await?.is_none_or(|session| session.rotation.revoked.is_some()))
    }

    /// Asks the store whether a session was revoked, and remembers that it was.
    pub(crate) async fn find_whether_revoked(&self, id: SessionId) -> Result<bool, StoreError> {
        let is_revoked = self.is_session_revoked(id).await?;
        if is_revoked {
            self.found_revoked(id);
        }
        Ok(is_revoked)
    }

    /// Asks the store whether a session of a revoked user is one of those that go on, unless it is known by now.
    pub(crate) async fn ask_about(&self, id: SessionId, user_id: &str) -> Result<(), StoreError> {
        let Known::Unknown(standing) = self.revoked.known(id, user_id) else { return Ok(()) };
        if !self.find_whether_revoked(id).await? {
            self.revoked.spare(id, standing);
        }
        Ok(())
    }

    /// Writes all recorded activity that is not written yet, and the revocations that the store has refused so far.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        // The revocations count for more.
        let finished = self.finish_all().await;
        let written = self.write(self.write_behind.all()).await;
        self.report();
        written?;
        finished
    }

    async fn write(&self, mut activity: Vec<Activity>) -> Result<(), StoreError> {
        // What a clock far ahead has recorded would keep sessions from becoming idle, also if it is right again by now.
        let store_now = self.now().as_millis().saturating_sub(self.clocks.millis());
        let latest = Timestamp::from_millis(store_now).after(self.settings.policy.grace);
        activity.iter_mut().for_each(|activity| activity.last_seen_at = activity.last_seen_at.min(latest));
        let mut result = Ok(());
        for batch in activity.chunks(BATCH) {
            if result.is_ok() {
                result = self.call("record_activity", self.store().record_activity(batch)).await;
            }
            if result.is_ok() {
                self.write_behind.written(batch, latest);
            } else {
                self.write_behind.not_written(batch);
            }
        }
        result
    }

    pub(crate) async fn purge(&self) -> Result<usize, StoreError> {
        // A client that returns a little late still gets `session_expired` rather than `refresh_token_invalid`.
        let before = self.now().before(self.settings.policy.grace);
        if self.clock_is_wrong() {
            return Ok(0);
        }
        let mut purged = 0;
        for _ in 0..MAX_PURGE_STEPS {
            let step = self.call("purge", self.store().purge(before, PURGE_STEP)).await?;
            purged += step;
            self.meter().purged(step);
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
