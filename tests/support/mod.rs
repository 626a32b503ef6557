//! What the tests of the library share: a clock that is set by hand, a store that counts and fails on demand, and an
//! `Auth` on both.
#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use axum_refresh::{
    Admission, Auth, AuthBuilder, ClientInfo, Cursor, Error, Event, Feed, Inserted, Login, MemoryStore, Policy,
    Refreshed, Revocation, Secret, Seen, Session, SessionId, SessionStore, StoreError, Target, Timestamp,
};
use serde::{Deserialize, Serialize};

pub const SECRET: &str = "k4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6rA";
pub const GRACE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub role: String,
}

pub fn claims(role: &str) -> Claims {
    Claims { role: role.to_owned() }
}

/// Stands still until it is moved.
#[derive(Clone)]
pub struct Clock(Arc<AtomicI64>);

impl Clock {
    pub fn new() -> Self {
        Self(Arc::new(AtomicI64::new(1_800_000_000_000)))
    }

    pub fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }

    pub fn advance(&self, duration: Duration) {
        self.0.fetch_add(i64::try_from(duration.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub fn turn_back(&self, duration: Duration) {
        self.0.fetch_sub(i64::try_from(duration.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub fn reader(&self) -> impl Fn() -> SystemTime + Send + Sync + 'static {
        let clock = self.clone();
        move || clock.now().into()
    }
}

/// What a store does with a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Works,
    /// An error, and nothing was done.
    Fails,
    /// Done, and then an error: the reply got lost.
    LosesReplies,
    /// No answer, ever.
    Hangs,
    /// Says of every swap that somebody else was faster, and does nothing.
    NeverSwaps,
    /// Says of every swap that it was done, and does nothing.
    PretendsToSwap,
    /// Answers somebody else's session.
    MixesUp,
    /// Before the next swap, somebody else gives the session the role `user`.
    Demotes,
    /// Takes 200 ms to tell what is in the feed.
    TellsSlowly,
    /// Says of every revocation that it was done, and loses it.
    ForgetsToRevoke,
    /// Ends single sessions, and fails to end all of a user's.
    FailsForUsers,
}

/// A memory store that counts its calls and has moods.
#[derive(Clone, Default)]
pub struct Moody {
    pub inner: MemoryStore,
    mood: Arc<Mutex<Mood>>,
    loads: Arc<AtomicUsize>,
    swaps: Arc<AtomicUsize>,
    others: Arc<AtomicUsize>,
}

/// How many calls there were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calls {
    pub loads: usize,
    pub swaps: usize,
    pub others: usize,
}

impl Moody {
    /// In a good mood, on sessions that are there already.
    pub fn over(inner: MemoryStore) -> Self {
        Self { inner, ..Self::default() }
    }

    /// What the store knows to be acknowledged, whatever its mood.
    pub fn acknowledged(&self, session: SessionId) -> Option<u32> {
        let load = std::pin::pin!(self.inner.load(session));
        match load.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(Ok(Some(session))) => session.chain.acknowledged,
            other => panic!("memory answers at once: {other:?}"),
        }
    }

    pub fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// The calls since the last time this was asked; reading the feed, purging and writing behind do not count.
    pub fn calls(&self) -> Calls {
        let take = |counter: &AtomicUsize| counter.swap(0, Ordering::SeqCst);
        Calls { loads: take(&self.loads), swaps: take(&self.swaps), others: take(&self.others) }
    }

    async fn with<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Fails => Err(StoreError::new("connection refused")),
            Mood::LosesReplies => {
                work.await?;
                Err(StoreError::new("connection reset"))
            }
            Mood::Hangs => std::future::pending().await,
            _ => work.await,
        }
    }
}

#[async_trait]
impl SessionStore for Moody {
    async fn insert(&self, new: &Session, admission: Admission) -> Result<Inserted, StoreError> {
        self.others.fetch_add(1, Ordering::SeqCst);
        self.with(self.inner.insert(new, admission)).await
    }

    async fn load(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        // A lost reply to a read is a failure; this mood is about writes.
        let mood = *self.mood.lock().unwrap();
        let load = self.inner.load(id);
        let mut session = if mood == Mood::LosesReplies { load.await? } else { self.with(load).await? };
        if let (Mood::MixesUp, Some(session)) = (*self.mood.lock().unwrap(), &mut session) {
            session.id = SessionId::from_bytes([9; 16]);
        }
        Ok(session)
    }

    async fn swap(&self, expected: u64, next: &Session) -> Result<bool, StoreError> {
        self.swaps.fetch_add(1, Ordering::SeqCst);
        let mood = *self.mood.lock().unwrap();
        if mood == Mood::Demotes {
            self.set(Mood::Works);
            let mut row = self.inner.load(next.id).await?.expect("the session is there");
            row.claims = r#"{"role":"user"}"#.into();
            assert!(self.inner.swap(row.version, &row).await?);
        }
        match mood {
            Mood::NeverSwaps => Ok(false),
            Mood::PretendsToSwap => Ok(true),
            _ => self.with(self.inner.swap(expected, next)).await,
        }
    }

    async fn list(&self, user: &str) -> Result<Vec<Session>, StoreError> {
        self.others.fetch_add(1, Ordering::SeqCst);
        self.with(self.inner.list(user)).await
    }

    async fn revoke(&self, target: Target<'_>, revocation: Revocation) -> Result<Vec<SessionId>, StoreError> {
        self.others.fetch_add(1, Ordering::SeqCst);
        let mood = *self.mood.lock().unwrap();
        match (mood, target) {
            (Mood::FailsForUsers, Target::User { .. }) => Err(StoreError::new("connection refused")),
            (Mood::ForgetsToRevoke, Target::Session(id)) => Ok(vec![id]),
            (Mood::ForgetsToRevoke, _) => Ok(Vec::new()),
            _ => self.with(self.inner.revoke(target, revocation)).await,
        }
    }

    async fn seen(&self, batch: &[Seen]) -> Result<(), StoreError> {
        self.with(self.inner.seen(batch)).await
    }

    async fn revocations(&self, since: Cursor) -> Result<Feed, StoreError> {
        let feed = self.with(self.inner.revocations(since)).await;
        if *self.mood.lock().unwrap() == Mood::TellsSlowly {
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

/// One node, its clock, its store, and what it has reported.
#[derive(Clone)]
pub struct Node {
    pub auth: Auth<Claims>,
    pub clock: Clock,
    pub store: Moody,
    pub events: Arc<Mutex<Vec<Event>>>,
}

impl Node {
    pub fn new() -> Self {
        Self::with(|builder| builder)
    }

    pub fn with_policy(policy: Policy) -> Self {
        Self::with(|builder| builder.policy(policy))
    }

    pub fn with(change: impl FnOnce(AuthBuilder<Claims>) -> AuthBuilder<Claims>) -> Self {
        Self::on(Moody::default(), Clock::new(), change)
    }

    pub fn on(store: Moody, clock: Clock, change: impl FnOnce(AuthBuilder<Claims>) -> AuthBuilder<Claims>) -> Self {
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        let log = Arc::clone(&events);
        let builder = Auth::<Claims>::builder()
            .secret(Secret::new(SECRET))
            .store(store.clone())
            .clock(clock.reader())
            .on_event(move |event| log.lock().unwrap().push(event.clone()));
        Self { auth: change(builder).build().unwrap(), clock, store, events }
    }

    pub async fn login(&self, user: &str) -> Login {
        self.auth.login(user, claims("user")).client(client()).await.unwrap()
    }

    /// The refresh token of a new login.
    pub async fn refresh_token(&self, user: &str) -> String {
        self.login(user).await.tokens.refresh_token.unwrap()
    }

    pub async fn refresh(&self, token: &str) -> Result<Refreshed, Error> {
        self.auth.refresh(token, client()).await
    }

    /// The next refresh token.
    pub async fn rotate(&self, token: &str) -> String {
        self.refresh(token).await.unwrap().tokens.refresh_token.expect("it rotates")
    }

    /// So much later that the last rotation is not fresh any more.
    pub fn after_grace(&self) {
        self.clock.advance(GRACE + Duration::from_millis(1));
    }

    pub fn events(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().unwrap())
    }

    pub fn has_event(&self, is_it: impl Fn(&Event) -> bool) -> bool {
        self.events.lock().unwrap().iter().any(is_it)
    }
}

pub fn client() -> ClientInfo {
    ClientInfo::new().ip("203.0.113.7".parse().unwrap()).user_agent("curl/8.5.0")
}

/// The code that a refusal has.
pub fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> &'static str {
    result.expect_err("it is refused").code()
}
