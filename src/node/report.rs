//! What a node reports about itself every second.

use std::sync::atomic::Ordering;

use super::Node;
use super::tasks::ticks;
use crate::metrics::{Levels, Meter};

impl Node {
    /// Reports every second, in a loop of its own: the others wait for the store.
    pub(super) async fn keep_reporting(&self) {
        if !Meter::IS_ON {
            return;
        }
        let mut stop = self.stop.clone();
        let mut tick = ticks();
        let mut has_begun = false;
        loop {
            tokio::select! {
                _ = stop.changed() => break,
                _ = tick.tick() => {}
            }
            // The app may install its recorder at any time.
            if !has_begun {
                has_begun = self.meter().begin();
            }
            self.report();
        }
        // That it has stopped.
        self.report();
    }

    pub(super) fn report(&self) {
        if !Meter::IS_ON {
            return;
        }
        let (live_sessions, live_users, live_tokens) = self.revoked.numbers();
        let now = self.now();
        let read_at = self.revoked.read_at().unwrap_or_else(|| now.before(self.revoked.age()));
        // A node that has stopped reads nothing, and is not stale either.
        let unless_stopped = |value: f64| if self.is_stopped() { f64::NAN } else { value };
        self.meter().report(Levels {
            live_sessions,
            live_users,
            live_tokens,
            staleness: unless_stopped(now.since(read_at).as_secs_f64()),
            read_at: unless_stopped(seconds(read_at.as_millis())),
            clock_difference: unless_stopped(seconds(self.ahead_by.load(Ordering::Relaxed))),
            pending_activity: self.write_behind.len(),
            pending_revocations: self.unfinished.len(),
            watched_sessions: self.revoked.waiters().sessions(),
        });
    }
}

fn seconds(millis: i64) -> f64 {
    millis as f64 / 1000.0
}
