//! What a service without the store learns from the issuer of its access tokens: the keys that verify them, and the sessions
//! that were revoked.

mod feed;
mod keys;
mod report;
mod request;

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Url};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::Instant;
use tracing::Instrument as _;

use self::feed::{Marks, Position};
use self::keys::Fetched;
use crate::config::{Notice, ResolvedSettings};
use crate::event::{Event, Events};
use crate::metrics::Outcome;
use crate::node::background::Background;
use crate::node::clocks::ClockDifference;
use crate::node::revocations::{Known, LiveRevocations};
use crate::session::SessionId;
use crate::store::StoreError;
use crate::time::{Clock, Throttle, Timestamp};
use crate::token::access::AccessKeys;

/// How often revocations that no token outlives are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// How many sessions are asked about at the same time. A revocation of everyone makes all requests ask.
const MAX_ASKING: usize = 32;
/// How often it is reported that the issuer does not answer about sessions.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Where the issuer publishes its revocations.
pub(crate) struct FeedSource {
    pub(crate) url: Url,
    /// The header that shows the verifier's token.
    pub(crate) token: http::HeaderValue,
}

/// What is known of an issuer, and the background task that keeps it up to date.
pub(crate) struct Issuer {
    settings: Arc<ResolvedSettings>,
    events: Events,
    clock: Clock,
    keys: Arc<AccessKeys>,
    revoked: Arc<LiveRevocations>,
    marks: Marks,
    client: Client,
    /// None if the keys are given.
    jwks: Option<Url>,
    /// None if revocations are not followed.
    feed: Option<FeedSource>,
    /// Locked while the feed is followed. It outlives the background task, which may be started again after a long time.
    position: Mutex<Position>,
    /// Locked while the keys are fetched, so that many requests that need them cause one fetch.
    fetched: Mutex<Fetched>,
    /// How often the keys were fetched.
    fetches: watch::Sender<u64>,
    /// Whether the last connection to the feed has failed. Marked as changed by whatever is heard of it.
    is_failing: watch::Sender<bool>,
    asking: Semaphore,
    /// The reports that the issuer does not answer about sessions.
    asking_reports: Throttle,
    /// Closed when the last clone of the verifier is dropped.
    stop: watch::Receiver<()>,
    background: Background,
    clocks: ClockDifference,
}

impl Issuer {
    /// Returns what is known and the handle that keeps the background task alive: dropping the handle stops the task.
    #[expect(clippy::too_many_arguments, reason = "each is needed, and there is one caller")]
    pub(crate) fn new(
        settings: Arc<ResolvedSettings>,
        events: Events,
        clock: Clock,
        keys: Arc<AccessKeys>,
        revoked: Arc<LiveRevocations>,
        client: Client,
        jwks: Option<Url>,
        feed: Option<FeedSource>,
    ) -> (Arc<Self>, watch::Sender<()>) {
        let (sender, receiver) = watch::channel(());
        let issuer = Self {
            events: events.counted_by(settings.meter),
            settings,
            clock,
            keys,
            revoked,
            marks: Marks::default(),
            client,
            jwks,
            feed,
            position: Mutex::default(),
            fetched: Mutex::default(),
            fetches: watch::Sender::new(0),
            is_failing: watch::Sender::new(false),
            asking: Semaphore::new(MAX_ASKING),
            asking_reports: Throttle::new(),
            stop: receiver,
            background: Background::default(),
            clocks: ClockDifference::default(),
        };
        (Arc::new(issuer), sender)
    }

    /// Whether revocations are followed.
    pub(crate) const fn follows(&self) -> bool {
        self.feed.is_some()
    }

    pub(crate) fn has_keys(&self) -> bool {
        !self.keys.ring.is_empty()
    }

    fn now(&self) -> Timestamp {
        (self.clock)().into()
    }

    /// Starts the background task, if it is not running and there is a runtime to run it on.
    pub(crate) fn start(self: &Arc<Self>) {
        self.background.start(|| {
            let issuer = Arc::clone(self);
            async move {
                let mut stop = issuer.stop.clone();
                let loops = async {
                    tokio::join!(
                        issuer.keep_keys(),
                        issuer.keep_following(),
                        issuer.keep_forgetting(),
                        issuer.keep_checking_age(),
                        issuer.keep_reporting()
                    )
                };
                tokio::select! {
                    _ = stop.changed() => {}
                    _ = loops => {}
                }
                issuer.report_levels(true);
            }
        });
    }

    async fn keep_checking_age(&self) {
        // Without a feed there is nothing that could be too old.
        if self.follows() {
            self.revoked.freshness().keep_checking_age().await;
        }
    }

    async fn keep_forgetting(&self) {
        loop {
            tokio::time::sleep(FORGET_EVERY).await;
            self.revoked.forget(self.now());
            self.marks.forget(&self.revoked);
        }
    }

    /// Waits until the revocations are known as of just now.
    pub(crate) async fn catch_up(self: &Arc<Self>) -> Result<(), StoreError> {
        self.start();
        let mut heard = self.is_failing.subscribe();
        let wait = async {
            while !self.revoked.freshness().is_current(self.now()) {
                if *heard.borrow_and_update() {
                    return Err(StoreError::new("the issuer's revocations are not known, because its feed fails"));
                }
                heard.changed().await.map_err(StoreError::new)?;
            }
            Ok(())
        };
        self.within_timeout(wait, "the issuer's revocations were not received in time").await?
    }

    /// Asks whether a session of a revoked user is one of those that go on, unless it is known by now.
    pub(crate) async fn ask_about(&self, id: SessionId, user_id: &str) -> Result<(), StoreError> {
        let Known::Unknown(standing) = self.revoked.known(id, user_id) else { return Ok(()) };
        // Another request may have asked meanwhile.
        let is_open = || self.revoked.known(id, user_id) == Known::Unknown(standing);
        if self.ask(id, is_open).await? == Some(false) {
            self.revoked.spare(id, standing);
        }
        Ok(())
    }

    /// Asks whether a session was revoked, and remembers that it was.
    pub(crate) async fn find_whether_revoked(&self, id: SessionId) -> Result<bool, StoreError> {
        Ok(self.ask(id, || true).await? == Some(true))
    }

    /// Asks whether a session was revoked, if that is still open once it is its turn, and remembers that it was.
    async fn ask(&self, id: SessionId, is_open: impl Fn() -> bool) -> Result<Option<bool>, StoreError> {
        if *self.is_failing.borrow() {
            return Err(StoreError::new("the issuer is not asked about a session, because its feed fails"));
        }
        let ask = async {
            let _turn = self.asking.acquire().await.map_err(StoreError::new)?;
            if is_open() { self.is_revoked(id).await.map(Some) } else { Ok(None) }
        };
        let timed = self.settings.meter.store_call("ask_about_session");
        // Without the id of the session, which is for `trace_users` to show.
        let span = request::span(self.feed.as_ref().map(|feed| &feed.url));
        let asked = self.within_timeout(ask, "the issuer did not answer in time").instrument(span.clone()).await;
        let outcome = outcome(&asked);
        timed.end(outcome);
        outcome.record_in(&span);
        let asked = asked.and_then(|asked| asked).inspect_err(|error| self.report_asking(error))?;
        if asked == Some(true) {
            self.revoked.found_revoked(id, self.kept_until());
        }
        Ok(asked)
    }

    /// Until when a revocation of just now is kept: no access token from before is accepted here any longer.
    fn kept_until(&self) -> Timestamp {
        self.now().after(crate::node::retention(&self.settings))
    }

    async fn within_timeout<T>(&self, work: impl Future<Output = T>, otherwise: &'static str) -> Result<T, StoreError> {
        tokio::time::timeout(self.settings.store_timeout, work).await.map_err(|_| StoreError::new(otherwise))
    }

    /// At most once a second: requests and open streams ask again and again.
    fn report_asking(&self, error: &StoreError) {
        if self.asking_reports.lets_through(REPORT_EVERY) {
            self.report("ask_about_session", error);
        }
    }

    fn report(&self, request: &'static str, error: &StoreError) {
        // Without "session store".
        let error = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
        self.events.emit(Event::IssuerFailed { request, error });
    }

    /// Reports tokens that are refused here before they expire, because their issuer has another setting.
    pub(crate) fn check_life(&self, life: Duration) {
        let access_ttl = self.settings.policy.access_ttl;
        if life > access_ttl && self.settings.notices.is_first(Notice::LongTokens) {
            tracing::warn!(
                target: "axum_refresh",
                "the issuer's access tokens live for {}, and are refused here after {}; set `policy.access_ttl` as at the issuer",
                humantime::format_duration(life),
                humantime::format_duration(access_ttl)
            );
        }
    }

    /// The revocations are known as of this moment, by a clock that nobody sets.
    fn complete_as_of(&self, as_of: Instant) {
        // Another node of the issuer may be behind: what was known stays known.
        let as_of = self.revoked.freshness().read_as_of().map_or(as_of, |before| before.max(as_of)).min(Instant::now());
        self.revoked.caught_up(self.now().before(as_of.elapsed()), as_of);
        self.is_failing.send_replace(false);
    }
}

/// How a request has ended; the outer error is that of its time limit.
const fn outcome<T>(result: &Result<Result<T, StoreError>, StoreError>) -> Outcome {
    match result {
        Ok(Ok(_)) => Outcome::Ok,
        Ok(Err(_)) => Outcome::Error,
        Err(_) => Outcome::Timeout,
    }
}
