//! A circuit breaker: while the store does not respond, requests fail at once instead of waiting for the timeout.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How often an open breaker lets an attempt through, and so how much longer than an outage it may stay open.
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// Opens after several failures in a row. While it is open, it lets through one attempt per [`RETRY_EVERY`]. The first
/// success closes it.
#[derive(Debug)]
pub(super) struct Breaker {
    /// How many failures in a row open it.
    limit: u32,
    /// For how long a success keeps it closed.
    trust: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The failures since the last success.
    failures: u32,
    succeeded_at: Option<Instant>,
    /// When it last let an attempt through although it was open.
    retried_at: Option<Instant>,
}

impl Breaker {
    pub(super) fn new(limit: u32, trust: Duration) -> Self {
        Self { limit, trust, state: Mutex::default() }
    }

    /// Returns whether an attempt may be made now.
    pub(super) fn admits(&self) -> bool {
        let mut state = self.state();
        let is_recent = |at: Option<Instant>, duration| at.is_some_and(|at| at.elapsed() < duration);
        if state.failures < self.limit || is_recent(state.succeeded_at, self.trust) {
            return true;
        }
        let admits = !is_recent(state.retried_at, RETRY_EVERY);
        if admits {
            state.retried_at = Some(Instant::now());
        }
        admits
    }

    /// Returns whether the last attempt failed.
    pub(super) fn is_failing(&self) -> bool {
        self.state().failures > 0
    }

    pub(super) fn succeeded(&self) {
        *self.state() = State { succeeded_at: Some(Instant::now()), ..State::default() };
    }

    pub(super) fn failed(&self) {
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
    }

    /// Begins an attempt that counts as failed if it takes `slow` or longer and does not succeed. A quick failure keeps
    /// nobody waiting.
    pub(super) fn attempt(&self, slow: Duration) -> Attempt<'_> {
        Attempt { breaker: self, slow, began_at: Instant::now(), succeeded: false }
    }

    /// Begins an attempt that never counts as failed.
    pub(super) fn unlimited_attempt(&self) -> Attempt<'_> {
        self.attempt(Duration::MAX)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt in progress. It ends when it is dropped, also if its request is given up by the client.
pub(super) struct Attempt<'a> {
    breaker: &'a Breaker,
    slow: Duration,
    began_at: Instant,
    succeeded: bool,
}

impl Attempt<'_> {
    pub(super) fn succeed(mut self) {
        self.succeeded = true;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.succeeded {
            self.breaker.succeeded();
        } else if self.began_at.elapsed() >= self.slow {
            self.breaker.failed();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MILLISECOND: Duration = Duration::from_millis(1);

    fn open() -> Breaker {
        let breaker = Breaker::new(3, 2 * SECOND);
        (0..3).for_each(|_| breaker.failed());
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_as_many_failures_in_a_row_as_its_limit() {
        let breaker = Breaker::new(3, Duration::ZERO);
        for _ in 0..10 {
            breaker.failed();
            breaker.failed();
            assert!(breaker.admits() && breaker.admits());
            breaker.succeeded();
        }
        (0..3).for_each(|_| breaker.failed());
        assert!(breaker.admits());
        assert!(!breaker.admits());
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_one_admits_one_attempt_every_half_second() {
        let breaker = open();
        for _ in 0..5 {
            assert!(breaker.admits());
            assert!(!breaker.admits());
            advance(RETRY_EVERY - MILLISECOND).await;
            assert!(!breaker.admits());
            advance(MILLISECOND).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_success_closes_it() {
        let breaker = open();
        breaker.succeeded();
        assert!(!breaker.is_failing());
        assert!((0..100).all(|_| breaker.admits()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_recent_success_keeps_it_closed_whatever_fails() {
        let breaker = Breaker::new(3, 2 * SECOND);
        breaker.succeeded();
        (0..100).for_each(|_| breaker.failed());
        advance(2 * SECOND - MILLISECOND).await;
        assert!((0..100).all(|_| breaker.admits()));
        advance(MILLISECOND).await;
        assert!(breaker.admits());
        assert!(!breaker.admits());
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_ends_without_success_counts_only_if_it_was_slow() {
        let breaker = Breaker::new(3, Duration::ZERO);
        let attempt = breaker.attempt(SECOND);
        advance(SECOND - MILLISECOND).await;
        drop(attempt);
        assert!(!breaker.is_failing());
        let attempt = breaker.attempt(SECOND);
        advance(SECOND).await;
        drop(attempt);
        assert!(breaker.is_failing());
        breaker.attempt(SECOND).succeed();
        assert!(!breaker.is_failing());
    }
}
