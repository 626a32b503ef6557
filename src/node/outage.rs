//! Failing at once while the store does not respond: otherwise every request would wait for a whole timeout, and the
//! waiting ones would pile up.

use std::sync::atomic::{AtomicBool, Ordering};
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
}

impl Outage {
    pub(super) fn new() -> Self {
        Self { is_on: AtomicBool::new(false), probed_at: Mutex::new(Instant::now()) }
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

    /// A call has timed out.
    pub(super) fn begin(&self) {
        if !self.is_on.swap(true, Ordering::Relaxed) {
            *self.probed_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }

    /// The store has responded.
    pub(super) fn end(&self) {
        self.is_on.store(false, Ordering::Relaxed);
    }
}
