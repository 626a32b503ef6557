//! What a node reports about itself every second.

use super::Node;
use super::clocks::ClockDifference;
use super::revocations::LiveRevocations;
use super::tasks::ticks;
use crate::metrics::{Levels, Meter};
use crate::time::Timestamp;

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
        // A node that has stopped reads nothing, and is not stale either.
        let levels = self.revoked.levels(self.now(), &self.clocks, !self.is_stopped());
        self.meter().report(Levels {
            pending_activity: self.write_behind.len(),
            pending_revocations: self.unfinished.len(),
            ..levels
        });
    }
}

impl LiveRevocations {
    /// The gauges of what is known. How recent it is they show only if it is followed.
    pub(crate) fn levels(&self, now: Timestamp, clocks: &ClockDifference, is_followed: bool) -> Levels {
        let (live_sessions, live_users, live_tokens) = self.numbers();
        let read_at = self.freshness().read_at().unwrap_or_else(|| now.before(self.freshness().age()));
        let if_followed = |value: f64| if is_followed { value } else { f64::NAN };
        Levels {
            live_sessions,
            live_users,
            live_tokens,
            watched_sessions: self.waiters().sessions(),
            staleness: if_followed(now.since(read_at).as_secs_f64()),
            read_at: if_followed(seconds(read_at.as_millis())),
            clock_difference: if_followed(seconds(clocks.millis())),
            ..Levels::default()
        }
    }
}

fn seconds(millis: i64) -> f64 {
    millis as f64 / 1000.0
}
