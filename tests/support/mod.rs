//! Shared by the in-process tests: a manual clock, a store that counts calls and fails on request, and an `Auth` on
//! both.
#![allow(dead_code, reason = "each test crate uses a part of this")]

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use axum_refresh::store::{
    Activity, ExternalId, FeedCursor, FeedWindow, InsertOptions, Inserted, Revocation, RevocationBatch, RevokeTarget,
    Revoked, RevokedUsers, SessionRecord, Spared, StoreError, Timestamp,
};
use axum_refresh::{
    Auth, AuthBuilder, ClientInfo, Error, Event, Login, MemoryStore, Policy, Refreshed, RevocationReason, Secret,
    SessionId, SessionStore,
};
use serde::{Deserialize, Serialize};

pub(crate) const SECRET: &str = "k4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6rA";
pub(crate) const GRACE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) role: String,
}

pub(crate) fn claims(role: &str) -> Claims {
    Claims { role: role.to_owned() }
}

/// A clock that stands still until a test moves it.
#[derive(Clone)]
pub(crate) struct Clock(Arc<AtomicI64>);

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicI64::new(1_800_000_000_000)))
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }

    pub(crate) fn advance(&self, duration: Duration) {
        self.0.fetch_add(i64::try_from(duration.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub(crate) fn turn_back(&self, duration: Duration) {
        self.0.fetch_sub(i64::try_from(duration.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub(crate) fn reader(&self) -> impl Fn() -> SystemTime + Send + Sync + 'static {
        let clock = self.clone();
        move || clock.now().into()
    }
}

/// How a store handles calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No fault.
    #[default]
    None,
    /// Every call is an error without effect.
    Fails,
    /// Every write has its effect and returns an error: the reply is lost.
    LosesReplies,
    /// No call ever returns.
    Hangs,
    /// Every swap reports a conflict, without effect.
    NeverSwaps,
    /// Every swap reports success, without effect.
    PretendsToSwap,
    /// Every load returns another session than the requested one.
    LoadsWrongSession,
    /// All sessions of the user are revoked before the next insert.
    RevokesBeforeInsert,
    /// A concurrent write sets the role to `user` before the next swap.
    ChangesRoleBeforeSwap,
    /// Loading a session takes 200 ms, at the end of which it may be out of date.
    SlowLoad,
    /// Reading the revocation feed takes 200 ms.
    SlowFeed,
    /// Every revocation reports success, without effect.
    PretendsToRevoke,
    /// Revoking a single session works; revoking all sessions of a user fails.
    FailsForUsers,
    /// Revoking a single access token fails; everything else works.
    FailsForTokens,
    /// Every revocation fails; loads, lists and swaps work.
    FailsToRevoke,
    /// Every swap fails without effect; everything else works.
    FailsToSwap,
    /// Every listing fails; everything else works.
    FailsToList,
    /// A swap takes 200 ms, and then has its effect.
    SlowSwap,
    /// Loading and revoking this session fails.
    FailsFor(SessionId),
    /// The feed has a page that is not the last one, then fails, and works from then on.
    FailsAfterPage,
}

/// A memory store that counts calls and fails on request.
#[derive(Clone, Default)]
pub(crate) struct FaultyStore {
    pub(crate) inner: MemoryStore,
    fault: Arc<Mutex<Fault>>,
    /// The store's own clock, if it has one.
    clock: Arc<Mutex<Option<i64>>>,
    /// How much older the entries of the feed are than they are.
    older_by: Arc<Mutex<Duration>>,
    loads: Arc<AtomicUsize>,
    swaps: Arc<AtomicUsize>,
    others: Arc<AtomicUsize>,
    /// How often the feed was read from its start.
    pub(crate) reads_from_start: Arc<AtomicUsize>,
}

/// The number of calls of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Calls {
    pub(crate) loads: usize,
    pub(crate) swaps: usize,
    pub(crate) others: usize,
}

impl FaultyStore {
    /// A store without a fault, on existing sessions.
    pub(crate) fn over(inner: MemoryStore) -> Self {
        Self { inner, ..Self::default() }
    }

    /// The acknowledged generation in the store, regardless of the fault.
    pub(crate) fn acknowledged(&self, session: SessionId) -> Option<u32> {
        let load = std::pin::pin!(self.inner.load(session));
        match load.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(Ok(Some(session))) => session.rotation.acknowledged,
            other => panic!("the memory store never waits: {other:?}"),
        }
    }

    pub(crate) fn set_clock(&self, millis: Option<i64>) {
        *self.clock.lock().unwrap() = millis;
    }

    /// Makes all entries of the feed older, as if so much time had passed since they were written.
    pub(crate) fn age_feed(&self, by: Duration) {
        *self.older_by.lock().unwrap() += by;
    }

    pub(crate) fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// The calls since the last call of this method. Reading the feed, purging and write-behind are not counted.
    pub(crate) fn calls(&self) -> Calls {
        let take = |counter: &AtomicUsize| counter.swap(0, Ordering::SeqCst);
        Calls { loads: take(&self.loads), swaps: take(&self.swaps), others: take(&self.others) }
    }

    async fn with<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let fault = *self.fault.lock().unwrap();
        match fault {
            Fault::Fails => Err(StoreError::new("connection refused")),
            Fault::LosesReplies => {
                work.await?;
                Err(StoreError::new("connection reset"))
            }
            Fault::Hangs => std::future::pending().await,
            _ => work.await,
        }
    }
}

#[async_trait]
impl SessionStore for FaultyStore {
    async fn insert(&self, new: &SessionRecord, options: InsertOptions) -> Result<Inserted, StoreError> {
        self.others.fetch_add(1, Ordering::SeqCst);
        if *self.fault.lock().unwrap() == Fault::RevokesBeforeInsert {
            let target = RevokeTarget::Users { scope: &new.user_id, except: None, created_until: None };
            let revocation = Revocation { at: new.created_at, reason: RevocationReason::Other };
            self.inner.revoke(target, revocation).await?;
        }
        self.with(self.inner.insert(new, options)).await
    }

    async fn load(&self, id: SessionId) -> Result<Option<SessionRecord>, StoreError> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        // This fault affects writes only.
        let fault = *self.fault.lock().unwrap();
        let load = self.inner.load(id);
        if fault == Fault::FailsFor(id) {
            return Err(StoreError::new("the row is damaged"));
        }
        let mut session = if fault == Fault::LosesReplies { load.await? } else { self.with(load).await? };
        if let (Fault::LoadsWrongSession, Some(session)) = (*self.fault.lock().unwrap(), &mut session) {
            session.id = SessionId::from_bytes([9; 16]);
        }
        if fault == Fault::SlowLoad {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(session)
    }

    async fn compare_and_swap(&self, expected: u64, next: &SessionRecord) -> Result<bool, StoreError> {
        self.swaps.fetch_add(1, Ordering::SeqCst);
        let fault = *self.fault.lock().unwrap();
        if fault == Fault::ChangesRoleBeforeSwap {
            self.set(Fault::None);
            let mut row = self.inner.load(next.id).await?.expect("the session exists");
            row.claims = r#"{"role":"user"}"#.into();
            assert!(self.inner.compare_and_swap(row.version, &row).await?);
        }
        match fault {
            Fault::NeverSwaps => Ok(false),
            Fault::PretendsToSwap => Ok(true),
            Fault::FailsToSwap => Err(StoreError::new("connection refused")),
            Fault::SlowSwap => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                self.inner.compare_and_swap(expected, next).await
            }
            _ => self.with(self.inner.compare_and_swap(expected, next)).await,
        }
    }

    async fn list(&self, user: &str, limit: usize) -> Result<Vec<SessionRecord>, StoreError> {
        self.others.fetch_add(1, Ordering::SeqCst);
        if *self.fault.lock().unwrap() == Fault::FailsToList {
            return Err(StoreError::new("connection refused"));
        }
        self.with(self.inner.list(user, limit)).await
    }

    async fn find_external(&self, id: ExternalId) -> Result<Vec<SessionId>, StoreError> {
        self.others.fetch_add(1, Ordering::SeqCst);
        self.with(self.inner.find_external(id)).await
    }

    async fn revoke(&self, target: RevokeTarget<'_>, revocation: Revocation) -> Result<Revoked, StoreError> {
        self.others.fetch_add(1, Ordering::SeqCst);
        let fault = *self.fault.lock().unwrap();
        match (fault, target) {
            (Fault::FailsForUsers, RevokeTarget::Users { .. })
            | (Fault::FailsForTokens, RevokeTarget::Token(_))
            | (Fault::FailsToRevoke, _) => Err(StoreError::new("connection refused")),
            (Fault::FailsFor(id), RevokeTarget::Session(target)) if id == target => {
                Err(StoreError::new("the row is damaged"))
            }
            (Fault::PretendsToRevoke, RevokeTarget::Session(id)) => Ok(vec![id].into()),
            (Fault::PretendsToRevoke, RevokeTarget::Users { scope, except, .. }) => {
                let (scope, spared) = (scope.into(), except.map_or(Spared::Nothing, Spared::Session));
                let users = RevokedUsers { scope, cutoff: 1, revoked_at: revocation.at, spared };
                Ok(Revoked { users: Some(users), ..Revoked::default() })
            }
            (Fault::PretendsToRevoke, RevokeTarget::Token(_)) => Ok(Revoked::default()),
            _ => self.with(self.inner.revoke(target, revocation)).await,
        }
    }

    async fn record_activity(&self, batch: &[Activity]) -> Result<(), StoreError> {
        self.with(self.inner.record_activity(batch)).await
    }

    async fn read_revocations(&self, since: FeedCursor, window: FeedWindow) -> Result<RevocationBatch, StoreError> {
        if since == FeedCursor::START {
            self.reads_from_start.fetch_add(1, Ordering::SeqCst);
        }
        if *self.fault.lock().unwrap() == Fault::FailsAfterPage {
            if since != FeedCursor::START {
                self.set(Fault::None);
                return Err(StoreError::new("connection reset"));
            }
            let mut page = self.inner.read_revocations(since, window).await?;
            page.entries.clear();
            page.has_more = true;
            return Ok(page);
        }
        let mut feed = self.with(self.inner.read_revocations(since, window)).await;
        if let Ok(feed) = &mut feed {
            feed.now = self.clock.lock().unwrap().map(Timestamp::from_millis);
            let older_by = *self.older_by.lock().unwrap();
            feed.entries.iter_mut().for_each(|entry| entry.age += older_by);
            feed.entries.retain(|entry| entry.age < window.max_age);
        }
        if *self.fault.lock().unwrap() == Fault::SlowFeed {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        feed
    }

    async fn purge(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.with(self.inner.purge(before, limit)).await
    }

    async fn changed(&self) {
        self.inner.changed().await;
    }
}

/// One node with its clock, its store and its events.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) auth: Auth<Claims>,
    pub(crate) clock: Clock,
    pub(crate) store: FaultyStore,
    pub(crate) events: Arc<Mutex<Vec<Event>>>,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::with(|builder| builder)
    }

    pub(crate) fn with_policy(policy: Policy) -> Self {
        Self::with(|builder| builder.configure(|settings| settings.policy = policy))
    }

    pub(crate) fn with(change: impl FnOnce(AuthBuilder<Claims>) -> AuthBuilder<Claims>) -> Self {
        Self::on(FaultyStore::default(), Clock::new(), change)
    }

    pub(crate) fn on(
        store: FaultyStore,
        clock: Clock,
        change: impl FnOnce(AuthBuilder<Claims>) -> AuthBuilder<Claims>,
    ) -> Self {
        Self::signing_with(SECRET, store, clock, change)
    }

    pub(crate) fn signing_with(
        secret: &str,
        store: FaultyStore,
        clock: Clock,
        change: impl FnOnce(AuthBuilder<Claims>) -> AuthBuilder<Claims>,
    ) -> Self {
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        let log = Arc::clone(&events);
        let builder = Auth::<Claims>::builder(Secret::new(secret), store.clone())
            .clock(clock.reader())
            .on_event(move |event| log.lock().unwrap().push(event.clone()));
        Self { auth: change(builder).build().unwrap(), clock, store, events }
    }

    pub(crate) async fn login(&self, user: &str) -> Login {
        self.auth.login(user, claims("user")).client(client()).await.unwrap()
    }

    /// The refresh token of a new login.
    pub(crate) async fn refresh_token(&self, user: &str) -> String {
        self.login(user).await.tokens.refresh_token.unwrap()
    }

    pub(crate) async fn refresh(&self, token: &str) -> Result<Refreshed, Error> {
        self.auth.refresh(token, client()).await
    }

    /// The next refresh token.
    pub(crate) async fn rotate(&self, token: &str) -> String {
        self.refresh(token).await.unwrap().tokens.refresh_token.expect("the refresh rotates")
    }

    /// Moves the clock past the grace period of the last rotation.
    pub(crate) fn after_grace(&self) {
        self.clock.advance(GRACE + Duration::from_millis(1));
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().unwrap())
    }

    pub(crate) fn has_event(&self, is_it: impl Fn(&Event) -> bool) -> bool {
        self.events.lock().unwrap().iter().any(is_it)
    }
}

pub(crate) fn client() -> ClientInfo {
    ClientInfo::new().ip("203.0.113.7".parse().unwrap()).user_agent("curl/8.5.0")
}

/// The code of a refusal.
pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> &'static str {
    result.expect_err("it is refused").code()
}

/// The Ed25519 key with this seed, in DER.
pub(crate) fn seeded_der(seed: u8) -> Vec<u8> {
    let prefix = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    [&prefix[..], &[seed; 32]].concat()
}

/// The same as a key that signs.
#[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
pub(crate) fn seeded(seed: u8) -> axum_refresh::keys::SigningKey {
    use base64::Engine as _;
    let der = base64::engine::general_purpose::STANDARD.encode(seeded_der(seed));
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{der}\n-----END PRIVATE KEY-----\n");
    axum_refresh::keys::SigningKey::from_pem(pem.as_bytes()).unwrap()
}
