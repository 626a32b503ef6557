//! How far this clock is from that of a store or of an issuer.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::event::{Event, Events};
use crate::time::Timestamp;

/// A greater difference is reported.
const MAX_DIFFERENCE_MILLIS: u64 = 2_000;

/// By how many milliseconds this clock is ahead of the other one, as of the last answer; 0 if the other side has no clock.
#[derive(Debug, Default)]
pub(crate) struct ClockDifference(AtomicI64);

impl ClockDifference {
    pub(crate) fn millis(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Compares the clocks by a time that the other side has told some moment between these two. Reports a difference once,
    /// until it is gone or has changed much.
    pub(crate) fn compare(&self, asked_at: Timestamp, answered_at: Timestamp, told: Timestamp, events: &Events) {
        let ahead_by = if told < asked_at {
            asked_at.as_millis() - told.as_millis()
        } else {
            (answered_at.as_millis() - told.as_millis()).min(0)
        };
        let before = self.0.swap(ahead_by, Ordering::Relaxed);
        let differs = |ahead_by: i64| ahead_by.unsigned_abs() > MAX_DIFFERENCE_MILLIS;
        if differs(ahead_by) && (!differs(before) || differs(ahead_by - before)) {
            events.emit(Event::ClockDiffers { ahead_by_millis: ahead_by });
        }
    }
}
