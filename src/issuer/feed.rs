//! Following the issuer's feed of revocations.

use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use http::HeaderName;
use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, DATE};
use tokio::time::{Instant, sleep, timeout};

use super::Issuer;
use super::request::{check_status, describe, send};
use crate::feed::Announcement;
use crate::feed::lines::{Lines, Received};
use crate::node::MIN_RETENTION;
use crate::node::revocations::{EVERYONE, LiveRevocations};
use crate::store::{RevokedItem, RevokedUsers, Spared, StoreError};
use crate::time::{Timestamp, jitter};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// The issuer says something at least every second. After a silence of this long, the connection is dead.
const MAX_SILENCE: Duration = Duration::from_secs(3);
/// How far the clock may move away from one that nobody sets, between two messages.
const MAX_JUMP_MILLIS: u64 = 2_000;
/// How far ahead the feed may be, because the two clocks differ in speed.
const MAX_AHEAD: Duration = Duration::from_secs(1);
/// How much longer than usual a revocation is kept at most, because the issuer says so.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// The bounds of the pause after a connection that has failed.
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// The marks of the revocations of users, so that one that is announced again is not taken for a new one.
#[derive(Debug, Default)]
pub(super) struct Marks(DashMap<Box<str>, Box<str>>);

impl Marks {
    /// Returns whether this revocation of a user is new here.
    fn is_new(&self, scope: &str, mark: Box<str>) -> bool {
        match self.0.entry(scope.into()) {
            Entry::Occupied(known) if *known.get() == mark => false,
            entry => {
                entry.insert(mark);
                true
            }
        }
    }

    /// Drops the marks of those who are not revoked any more.
    pub(super) fn forget(&self, revoked: &LiveRevocations) {
        self.0.retain(|scope, _| revoked.users_mark(scope).is_some());
    }
}

/// Where this verifier has got to in the feed.
#[derive(Debug, Default)]
pub(super) struct Position {
    /// What the feed goes on from.
    resume: Option<String>,
    /// As of when it was last complete, by both clocks: one stands still while the machine is suspended, and the other is set.
    complete_as_of: Option<(Instant, Timestamp)>,
}

impl Position {
    /// The feed is complete as of a later time. After a long gap, revocations may have been missed that are not announced again,
    /// because no token outlives them. A stream that waits for one may be open still.
    fn progressed(&mut self, issuer: &Issuer) {
        let Some(as_of) = issuer.revoked.freshness().read_as_of() else { return };
        let now = issuer.now().before(as_of.elapsed());
        let before = self.complete_as_of.replace((as_of, now));
        let has_gap =
            |(instant, clock)| as_of.duration_since(instant) >= MIN_RETENTION || now.is_past(clock, MIN_RETENTION);
        if before.is_some_and(has_gap) {
            issuer.revoked.waiters().users_revoked(None);
        }
    }
}

impl Issuer {
    /// Follows the feed, and connects again whenever a connection ends.
    pub(super) async fn keep_following(&self) {
        if self.feed.is_none() {
            return;
        }
        let mut position = self.position.lock().await;
        let mut pause = MIN_PAUSE;
        loop {
            let before = self.revoked.freshness().read_as_of();
            match self.follow(&mut position).await {
                // The issuer ends its responses now and then.
                Ok(()) => sleep(MIN_PAUSE.mul_f64(jitter())).await,
                Err(error) => {
                    self.report("follow_revocations", &error);
                    self.is_failing.send_replace(true);
                    if self.revoked.freshness().read_as_of() != before {
                        pause = MIN_PAUSE;
                    }
                    sleep(pause.mul_f64(0.5 + 0.5 * jitter())).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
    }

    /// Follows one response to its end.
    async fn follow(&self, position: &mut Position) -> Result<(), StoreError> {
        let feed = self.feed.as_ref().ok_or_else(|| StoreError::new("no feed of revocations"))?;
        let mut request = self
            .client
            .get(feed.url.clone())
            .header(AUTHORIZATION, feed.token.clone())
            .header(ACCEPT, "text/event-stream")
            .header(CACHE_CONTROL, "no-cache");
        if let Some(id) = position.resume.as_deref() {
            request = request.header(LAST_EVENT_ID, id);
        }
        // All that the response says is as of some time after this.
        let (began, asked_at) = (Instant::now(), self.now());
        let mut response = self.within_timeout(send(request), "the feed did not answer in time").await??;
        check_status(&response)?;
        let date = response.headers().get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        if let Some(date) = date {
            // It has whole seconds.
            let whole = |time: Timestamp| Timestamp::from_millis(time.as_secs().saturating_mul(1000));
            self.clocks.compare(whole(asked_at), whole(self.now()), whole(date.into()), &self.events);
        }
        let kind = response.headers().get(CONTENT_TYPE).map_or(b"".as_slice(), |kind| kind.as_bytes());
        if !kind.to_ascii_lowercase().starts_with(b"text/event-stream") {
            return Err(StoreError::new(format!("{} is no feed of revocations", feed.url)));
        }
        let (mut lines, mut received) = (Lines::default(), Vec::new());
        let (mut progressed_at, mut is_complete) = (began, false);
        let mut clocks = (Instant::now(), self.now());
        loop {
            let piece = timeout(MAX_SILENCE, response.chunk()).await;
            let piece = piece.map_err(|_| StoreError::new(format!("the feed was silent for {MAX_SILENCE:?}")))?;
            let Some(piece) = piece.map_err(|error| describe(&error))? else {
                return is_complete.then_some(()).ok_or_else(|| StoreError::new("the feed has ended at once"));
            };
            if self.was_set(&mut clocks) {
                // What has been forgotten by a clock that was wrong is announced again, and what was said before the machine
                // was suspended is no news.
                position.resume = None;
                return Ok(());
            }
            let read = lines.read(&piece, &mut received);
            for received in received.drain(..) {
                match received {
                    Received::Revoked(announcement) => self.revoke(announcement),
                    Received::Position(id) => position.resume = Some(id),
                    Received::Complete(millis) => {
                        let before = self.revoked.freshness().read_as_of();
                        self.complete(began, millis)?;
                        is_complete = true;
                        if self.revoked.freshness().read_as_of() > before {
                            progressed_at = Instant::now();
                            position.progressed(self);
                        }
                    }
                }
            }
            if let Err(error) = read {
                // Everything is announced again.
                position.resume = None;
                return Err(StoreError::new(error));
            }
            if progressed_at.elapsed() > self.settings.max_staleness / 2 {
                return Err(StoreError::new("the issuer's node says nothing new, because it cannot read its store"));
            }
        }
    }

    /// Whether the clock was set, or the machine suspended, since the last call.
    fn was_set(&self, (steady, clock): &mut (Instant, Timestamp)) -> bool {
        let (steady_before, clock_before) = (*steady, *clock);
        (*steady, *clock) = (Instant::now(), self.now());
        let by_clock = clock.as_millis().saturating_sub(clock_before.as_millis());
        by_clock.saturating_sub(crate::time::millis(steady.duration_since(steady_before))).unsigned_abs()
            > MAX_JUMP_MILLIS
    }

    /// All is announced up to so many milliseconds after the request began.
    fn complete(&self, began: Instant, millis: i64) -> Result<(), StoreError> {
        let distance = Duration::from_millis(millis.unsigned_abs());
        let as_of = if millis < 0 { began.checked_sub(distance) } else { began.checked_add(distance) };
        // Nothing was known before this machine has started.
        let Some(as_of) = as_of else { return Ok(()) };
        if as_of > Instant::now() + MAX_AHEAD {
            return Err(StoreError::new("the feed says what is going to be revoked"));
        }
        self.complete_as_of(as_of);
        Ok(())
    }

    fn revoke(&self, announcement: Announcement) {
        let Announcement { sid, jti, sub, everyone, mark, until } = announcement;
        // Until no token from before is accepted by this clock, however wrong it is: their `exp` is no later than this.
        let kept_until = self.kept_until();
        let last = Timestamp::from_millis(until.saturating_mul(1000)).after(self.settings.leeway);
        let kept_until = kept_until.max(last.min(kept_until.after(LONGEST)));
        let scope = if everyone { Some(Box::from(EVERYONE)) } else { sub };
        let item = match (sid, jti, scope) {
            (Some(id), ..) => RevokedItem::Session(id),
            (None, Some(jti), _) => RevokedItem::Token(jti),
            (None, None, Some(scope)) => {
                let is_new = self.marks.is_new(&scope, mark.unwrap_or_default());
                let users = RevokedUsers { scope, cutoff: 0, revoked_at: self.now(), spared: Spared::Nothing };
                if is_new {
                    self.revoked.revoke_users(&users, kept_until);
                    return;
                }
                RevokedItem::Users(users)
            }
            (None, None, None) => return,
        };
        self.revoked.apply(&item, kept_until, Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use tokio::sync::watch;

    use super::*;
    use crate::config::{ResolvedSettings, Settings};
    use crate::event::Events;
    use crate::session::SessionId;
    use crate::token::access::AccessKeys;
    use crate::token::id::TokenId;

    const HOUR: i64 = 3_600_000;
    const ID: SessionId = SessionId::from_bytes([7; 16]);

    /// An issuer whose clock is this far from the right one, in milliseconds.
    fn issuer() -> (Arc<Issuer>, Arc<AtomicI64>, watch::Sender<()>) {
        let settings = Arc::new(ResolvedSettings::new(Settings::default()).unwrap());
        let clock = Arc::new(AtomicI64::new(1_800_000_000_000));
        let now = Arc::clone(&clock);
        let (issuer, running) = Issuer::new(
            Arc::clone(&settings),
            Events::default(),
            Arc::new(move || Timestamp::from_millis(now.load(Ordering::SeqCst)).into()),
            Arc::new(AccessKeys::verifying(&settings)),
            Arc::new(LiveRevocations::new(settings.max_staleness)),
            reqwest::Client::new(),
            None,
            None,
        );
        (issuer, clock, running)
    }

    fn announce(issuer: &Issuer, until: i64) {
        issuer.revoke(Announcement { sid: Some(ID), until: until / 1000, ..Announcement::default() });
    }

    #[test]
    fn a_revocation_is_kept_until_no_token_is_accepted_by_a_clock_that_is_behind() {
        let (issuer, clock, _running) = issuer();
        let right = clock.load(Ordering::SeqCst);
        clock.store(right - HOUR, Ordering::SeqCst);
        // A token that was issued just before expires a quarter of an hour later, by the right clock.
        let expires_at = right + 900_000;
        announce(&issuer, expires_at + 30_000);
        while clock.fetch_add(60_000, Ordering::SeqCst) < expires_at {
            issuer.revoked.forget(issuer.now());
            assert!(issuer.revoked.has_session(ID));
        }
        // Whatever the feed says, nothing is kept forever.
        announce(&issuer, i64::MAX);
        clock.fetch_add(48 * HOUR, Ordering::SeqCst);
        issuer.revoked.forget(issuer.now());
        assert!(!issuer.revoked.has_session(ID));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_and_a_machine_that_was_suspended_are_noticed() {
        let (issuer, clock, _running) = issuer();
        let mut clocks = (Instant::now(), issuer.now());
        let mut was_set = |by_clock: i64, really: u64| {
            clock.fetch_add(by_clock, Ordering::SeqCst);
            let elapsed = Duration::from_millis(really);
            clocks.0 = clocks.0.checked_sub(elapsed).unwrap();
            issuer.was_set(&mut clocks)
        };
        assert!(!was_set(0, 0) && !was_set(1_000, 1_000) && !was_set(900, 2_500) && !was_set(2_900, 1_000));
        assert!(was_set(HOUR, 1_000));
        assert!(was_set(-HOUR, 1_000));
        assert!(!was_set(1_000, 1_000));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_said_of_the_future_is_an_error_and_what_is_old_is_no_news() {
        let (issuer, _, _running) = issuer();
        let began = Instant::now();
        assert!(issuer.complete(began, 60_000).is_err());
        assert!(!issuer.revoked.freshness().is_current(issuer.now()));
        issuer.complete(began, 0).unwrap();
        assert!(issuer.revoked.freshness().is_current(issuer.now()));
        tokio::time::advance(Duration::from_secs(31)).await;
        issuer.complete(began, 900).unwrap();
        assert!(!issuer.revoked.freshness().is_current(issuer.now()));
        // Another node of the issuer may be behind: it takes nothing back.
        issuer.complete(began, 30_000).unwrap();
        issuer.complete(began, -5_000).unwrap();
        assert!(issuer.revoked.freshness().is_current(issuer.now()));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_asks_after_an_outage_that_was_longer_than_revocations_are_announced() {
        let (issuer, clock, _running) = issuer();
        let waiting = issuer.revoked.wait_for(ID, &"alice".into(), TokenId::parse(&"A".repeat(24)).unwrap(), false);
        let mut position = Position::default();
        let mut asks = async |by_clock: i64, really: u64| {
            clock.fetch_add(by_clock * 1000, Ordering::SeqCst);
            tokio::time::advance(Duration::from_secs(really)).await;
            issuer.complete(Instant::now(), 0).unwrap();
            position.progressed(&issuer);
            let asked = AtomicUsize::new(0);
            let ask = |_| {
                asked.fetch_add(1, Ordering::SeqCst);
                async { Ok(false) }
            };
            assert!(timeout(Duration::from_millis(1), waiting.revoked(ask)).await.is_err());
            asked.load(Ordering::SeqCst) > 0
        };
        assert!(!asks(3600, 3600).await, "nothing was known before");
        assert!(!asks(599, 599).await);
        assert!(asks(601, 601).await);
        assert!(!asks(1, 1).await);
        assert!(asks(601, 1).await, "the machine was suspended");
        assert!(asks(1, 601).await, "the clock was set back");
        assert!(!asks(-601, 1).await);
    }

    #[test]
    fn a_mark_that_comes_again_is_no_new_revocation_and_another_one_is() {
        let (issuer, _, _running) = issuer();
        let known = Mutex::new(None);
        let revoke = |mark: &str| {
            let announcement =
                Announcement { sub: Some("alice".into()), mark: Some(mark.into()), ..Announcement::default() };
            issuer.revoke(announcement);
            let now = issuer.revoked.known(ID, "alice");
            known.lock().unwrap().replace(now) != Some(now)
        };
        assert!(revoke("1"));
        assert!(!revoke("1"));
        assert!(revoke("2"));
        assert!(revoke("1"));
    }
}
