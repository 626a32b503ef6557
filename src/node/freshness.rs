//! How recent the revocations are that a node or a verifier knows: by the system's clock, which may be set, and by a monotonic
//! one.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::time::{Timestamp, millis};

/// How often the age is checked by the monotonic clock.
const CHECK_EVERY: Duration = Duration::from_millis(250);

/// When the feed of revocations was last read.
#[derive(Debug)]
pub(crate) struct Freshness {
    created_at: Instant,
    /// In milliseconds since the Unix epoch; `i64::MIN` before the first read.
    read_at: AtomicI64,
    /// The same, for as long as that is recent enough by the monotonic clock.
    caught_up_at: AtomicI64,
    max_staleness_millis: u64,
    /// By the monotonic clock, in milliseconds since `created_at`; `u64::MAX` before the first read.
    read_as_of: AtomicU64,
}

impl Freshness {
    pub(super) fn new(max_staleness: Duration) -> Self {
        Self {
            created_at: Instant::now(),
            read_at: AtomicI64::new(i64::MIN),
            caught_up_at: AtomicI64::new(i64::MIN),
            // Saturated, it is the distance from a feed that was never read, which is not current.
            max_staleness_millis: millis(max_staleness).unsigned_abs(),
            read_as_of: AtomicU64::new(u64::MAX),
        }
    }

    /// Always current.
    #[cfg(feature = "verifier")]
    pub(super) fn unlimited() -> Self {
        Self { max_staleness_millis: u64::MAX, ..Self::new(Duration::ZERO) }
    }

    /// Records that the feed was read as of `now`, by both clocks.
    pub(super) fn caught_up(&self, now: Timestamp, as_of: Instant) {
        let as_of = as_of.saturating_duration_since(self.created_at).as_millis();
        self.read_as_of.store(u64::try_from(as_of).unwrap_or(u64::MAX), Ordering::Release);
        self.read_at.store(now.as_millis(), Ordering::Release);
        // Whoever sees this sees what was read before.
        self.caught_up_at.store(now.as_millis(), Ordering::Release);
    }

    /// Returns whether the feed was read recently enough to rely on. A read in the future means that the clock was set
    /// back: a read further in the future than `max_staleness` is not recent.
    pub(crate) fn is_current(&self, now: Timestamp) -> bool {
        let distance = now.as_millis().saturating_sub(self.caught_up_at.load(Ordering::Acquire));
        distance.unsigned_abs() < self.max_staleness_millis
    }

    /// When the feed was last read, if it ever was.
    pub(super) fn read_at(&self) -> Option<Timestamp> {
        let millis = self.read_at.load(Ordering::Acquire);
        (millis != i64::MIN).then(|| Timestamp::from_millis(millis))
    }

    /// How long ago this was created.
    pub(super) fn age(&self) -> Duration {
        self.created_at.elapsed()
    }

    /// As of when the feed was last read, if it ever was.
    pub(crate) fn read_as_of(&self) -> Option<Instant> {
        let millis = self.read_as_of.load(Ordering::Acquire);
        (millis != u64::MAX).then(|| self.created_at + Duration::from_millis(millis))
    }

    /// Checks by the monotonic clock whether the feed was read recently enough: the other one may be set back. Does not return.
    pub(crate) async fn keep_checking_age(&self) {
        let mut tick = tokio::time::interval(CHECK_EVERY);
        loop {
            tick.tick().await;
            let Some(as_of) = self.read_as_of() else { continue };
            if millis(as_of.elapsed()).unsigned_abs() < self.max_staleness_millis {
                continue;
            }
            let caught_up_at = self.caught_up_at.load(Ordering::Acquire);
            // Unless it was read meanwhile.
            if self.read_as_of() == Some(as_of) {
                let never = i64::MIN;
                let _ = self.caught_up_at.compare_exchange(caught_up_at, never, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn freshness() -> Freshness {
        Freshness::new(Duration::from_secs(30))
    }

    #[test]
    fn a_feed_that_was_never_read_is_not_current() {
        assert!(!freshness().is_current(NOW));
    }

    #[test]
    fn a_feed_is_current_until_max_staleness_has_passed() {
        let freshness = freshness();
        freshness.caught_up(NOW, Instant::now());
        assert!(freshness.is_current(NOW.after(Duration::from_millis(29_999))));
        assert!(!freshness.is_current(NOW.after(Duration::from_secs(30))));
    }

    #[test]
    fn a_feed_that_was_read_too_far_in_the_future_is_not_current() {
        let freshness = freshness();
        freshness.caught_up(NOW, Instant::now());
        assert!(freshness.is_current(NOW.before(Duration::from_millis(29_999))));
        assert!(!freshness.is_current(NOW.before(Duration::from_secs(30))));
        freshness.caught_up(NOW.before(Duration::from_secs(3600)), Instant::now());
        assert!(freshness.is_current(NOW.before(Duration::from_secs(3600))));
    }
}
