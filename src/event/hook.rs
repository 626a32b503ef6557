//! The receivers of events.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::Event;
use super::count::count;
use crate::metrics::Meter;

type Hook = Arc<dyn Fn(&Event) + Send + Sync>;

/// The receivers of events: `tracing`, the counters, and the app's hook if there is one.
#[derive(Clone, Default)]
pub(crate) struct Events {
    hook: Option<Hook>,
    meter: Meter,
}

impl Events {
    pub(crate) fn new(hook: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self { hook: Some(Arc::new(hook)), ..Self::default() }
    }

    /// Counts the events of a realm.
    pub(crate) fn counted_by(self, meter: Meter) -> Self {
        Self { meter, ..self }
    }

    #[expect(clippy::needless_pass_by_value, reason = "every caller creates the event for this call")]
    pub(crate) fn emit(&self, event: Event) {
        match &event {
            Event::StoreFailed { call, error } => tracing::error!(target: "axum_refresh", call, error, "store failed"),
            Event::IssuerFailed { request, error } => {
                tracing::error!(target: "axum_refresh", request, error, "issuer failed");
            }
            event @ Event::ClockDiffers { .. } => tracing::warn!(
                target: "axum_refresh",
                ?event,
                "the clocks of this node and of the store, or of a verifier and the issuer, differ; synchronize both by NTP"
            ),
            event @ Event::ClaimsUnreadable { .. } => tracing::warn!(
                target: "axum_refresh",
                ?event,
                "the claims of a session cannot be read; give new fields #[serde(default)], or use a claims hook"
            ),
            event if event.is_security() => tracing::warn!(target: "axum_refresh", ?event, "security event"),
            event => tracing::debug!(target: "axum_refresh", ?event, "session event"),
        }
        count(&event, self.meter);
        if let Some(hook) = &self.hook {
            // A panic in the app's hook must not take down the request or the task that reads the feed of revocations.
            if catch_unwind(AssertUnwindSafe(|| hook(&event))).is_err() {
                tracing::error!(target: "axum_refresh", "the on_event hook panicked");
            }
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.hook.is_some() { "Events(hook)" } else { "Events" })
    }
}
