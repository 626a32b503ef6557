//! Failing at once while the store does not respond: otherwise every request would wait for a whole timeout, and the
//! waiting ones would pile up.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How often a call is let through, to find out whether the store responds again.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Whether the store has left a call without a response, and none has been answered since.
///
/// An error is a response: it takes no time, and may concern one row only.
#[derive(Debug)]
pub(super) struct Outage {
    is_on: AtomicBool,
    probed_at: Mutex<Instant>,
    created_at: Instant,
    /// When the store last responded, in milliseconds since `created_at`.
    answered_at: AtomicU64,
}

impl Outage {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            is_on: AtomicBool::new(false),
            probed_at: Mutex::new(now),
            created_at: now,
            answered_at: AtomicU64::new(0),
        }
    }

    /// Lets a call through, or not: during an outage one in a second.
    pub(super) fn let_through(&self) -> bool {
        if !self.is_on.load(Ordering::Relaxed) {
            return true;
        }
        let mut probed_at = self.probed_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = probed_at.elapsed() >= PROBE_EVERY;
        if is_due {
            *probed_at = Instant::now();
        }
        is_due
    }

    /// A call that began at this time got no response. If another one did since, the store responds.
    pub(super) fn begin(&self, call_began: Instant) {
        let has_answered_since = self.answered_at.load(Ordering::Relaxed) > self.millis(call_began);
        if !has_answered_since && !self.is_on.swap(true, Ordering::Relaxed) {
            *self.probed_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }

    /// The store has responded.
    pub(super) fn end(&self) {
        self.answered_at.store(self.millis(Instant::now()), Ordering::Relaxed);
        self.is_on.store(false, Ordering::Relaxed);
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.created_at).as_millis()).unwrap_or(u64::MAX)
    }
}
