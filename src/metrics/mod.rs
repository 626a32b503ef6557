//! Counters, histograms and gauges, if the feature `metrics` is on. Without it, every function here is empty.
//!
//! No label has anything that a client chooses, and the values of each come from a fixed set; a realm is named by the app. The
//! guide `observability` lists all of them.

#[cfg(not(feature = "metrics"))]
mod off;
#[cfg(feature = "metrics")]
mod on;
#[cfg(feature = "metrics")]
mod tally;

#[cfg(not(feature = "metrics"))]
pub(crate) use self::off::{Counted, Meter};
#[cfg(feature = "metrics")]
pub(crate) use self::on::{Counted, Meter};

/// How a call of the store or of a signer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    Error,
    Timeout,
}

impl Outcome {
    /// Records how it has ended in its span, which has the field `error.type`.
    pub(crate) fn record_in(self, span: &tracing::Span) {
        match self {
            Self::Ok => {}
            Self::Error => drop(span.record("error.type", "error")),
            Self::Timeout => drop(span.record("error.type", "timeout")),
        }
    }
}

/// What the gauges show.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "only the feature reads the fields"))]
pub(crate) struct Levels {
    pub(crate) live_sessions: usize,
    pub(crate) live_users: usize,
    pub(crate) live_tokens: usize,
    pub(crate) staleness: f64,
    /// In seconds since the Unix epoch.
    pub(crate) read_at: f64,
    /// In seconds; positive if the clock of this node is ahead.
    pub(crate) clock_difference: f64,
    pub(crate) pending_activity: usize,
    pub(crate) pending_revocations: usize,
    pub(crate) watched_sessions: usize,
}
