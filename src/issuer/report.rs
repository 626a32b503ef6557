//! What a verifier reports about itself every second: the gauges of a node, as far as it has them.

use super::Issuer;
use crate::metrics::Meter;

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
        // Without a feed there is nothing that could be too old.
        let is_followed = !is_over && self.follows();
        self.settings.meter.report(self.revoked.levels(self.now(), &self.clocks, is_followed));
    }
}
