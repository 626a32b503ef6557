//! What a verifier reports about itself every second: the gauges of a node, as far as it has them.

use std::sync::atomic::Ordering;

use super::Issuer;
use crate::metrics::{Levels, Meter};

impl Issuer {
    /// Reports every second, until the task ends.
    pub(super) async fn keep_reporting(&self) {
        if !Meter::IS_ON {
            return;
        }
        let mut has_begun = false;
        loop {
            // The app may install its recorder at any time.
            if !has_begun {
                has_begun = self.settings.meter.begin();
            }
            self.report_levels(false);
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }

    /// `is_over` says that the last clone of the verifier was dropped: it hears nothing, and is not stale either.
    pub(super) fn report_levels(&self, is_over: bool) {
        if !Meter::IS_ON {
            return;
        }
        let (live_sessions, live_users, live_tokens) = self.revoked.numbers();
        let now = self.now();
        let read_at = self.revoked.read_at().unwrap_or_else(|| now.before(self.revoked.age()));
        // Without a feed there is nothing that could be too old.
        let follows = !is_over && self.feed.is_some();
        let if_following = |value: f64| if follows { value } else { f64::NAN };
        self.settings.meter.report(Levels {
            live_sessions,
            live_users,
            live_tokens,
            staleness: if_following(now.since(read_at).as_secs_f64()),
            read_at: if_following(read_at.as_millis() as f64 / 1000.0),
            clock_difference: if_following(self.ahead_by.load(Ordering::Relaxed) as f64),
            pending_activity: 0,
            pending_revocations: 0,
            watched_sessions: 0,
        });
    }
}
