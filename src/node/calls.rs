//! Calls of the store: each with a time limit, counted and traced, and none while the store does not respond.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use super::Node;
use crate::event::Event;
use crate::metrics::Outcome;
use crate::store::StoreError;

/// An error that takes longer than this is no response.
const MAX_ERROR_DELAY: Duration = Duration::from_secs(1);

impl Node {
    /// Awaits a call of the store, unless the store is not responding. A failure is an event.
    pub(super) async fn call<T>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.check_outage(call)?;
        self.attempt(call, work).await
    }

    /// Fails while the store is not responding, except for one call in a second. No event: each of those is one.
    pub(super) fn check_outage(&self, call: &'static str) -> Result<(), StoreError> {
        let failed = || StoreError::new(format!("{call}: not called, because the store is not responding"));
        self.outage.let_through().then_some(()).ok_or_else(failed)
    }

    /// Awaits a call of the store, also if the store is not responding.
    pub(super) async fn attempt<T>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let (call_began, timed) = (Instant::now(), self.meter().store_call(call));
        let span = span(call);
        let result = self.within_timeout(call, work).instrument(span.clone()).await;
        // A driver may have a timeout of its own, and report it as an error.
        let (is_response, outcome) = match &result {
            Ok(Ok(_)) => (true, Outcome::Ok),
            Ok(Err(_)) => (call_began.elapsed() < self.settings.store_timeout.min(MAX_ERROR_DELAY), Outcome::Error),
            Err(_) => (false, Outcome::Timeout),
        };
        timed.end(outcome);
        if is_response {
            self.outage.end();
        } else {
            self.outage.begin(call_began);
        }
        let result = result.and_then(|result| result);
        outcome.record_in(&span);
        if let Err(error) = &result {
            self.events.emit(Event::StoreFailed { call, error: error.to_string() });
        }
        result
    }

    /// Awaits work that waits for the store, directly or behind others, for at most the store timeout.
    pub(crate) async fn within_timeout<T>(
        &self,
        call: &'static str,
        work: impl Future<Output = T>,
    ) -> Result<T, StoreError> {
        let timeout = self.settings.store_timeout;
        let late = || StoreError::new(format!("{call}: no answer within {}", humantime::format_duration(timeout)));
        tokio::time::timeout(timeout, work).await.map_err(|_| late())
    }
}

/// The span of a call of the store, within the span of a request. What the background task does is in none.
fn span(call: &'static str) -> Span {
    if Span::current().is_none() {
        return Span::none();
    }
    tracing::debug_span!(target: "axum_refresh", "store_call", db.operation.name = call, error.type = Empty)
}
