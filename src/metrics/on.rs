//! With the feature `metrics`.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{Label, SharedString, Unit, counter, gauge, histogram};
use tokio::time::Instant;

use super::tally::Tally;
use super::{Levels, Outcome};

const LOGINS: &str = "axum_refresh_logins_total";
const REAUTHENTICATIONS: &str = "axum_refresh_reauthentications_total";
const REFRESHES: &str = "axum_refresh_refreshes_total";
const REFUSALS: &str = "axum_refresh_refusals_total";
const REVOCATIONS: &str = "axum_refresh_revocations_total";
const SECURITY_EVENTS: &str = "axum_refresh_security_events_total";
const PURGED: &str = "axum_refresh_purged_sessions_total";
const TOKEN_CACHE: &str = "axum_refresh_token_cache_requests_total";
const STORE_CALLS: &str = "axum_refresh_store_call_duration_seconds";
#[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
const SIGNER_CALLS: &str = "axum_refresh_signer_call_duration_seconds";
const LAG: &str = "axum_refresh_revocation_lag_seconds";
const LIVE: &str = "axum_refresh_live_revocations";
const STALENESS: &str = "axum_refresh_revocations_staleness_seconds";
const READ_AT: &str = "axum_refresh_revocations_read_timestamp_seconds";
const CLOCK: &str = "axum_refresh_clock_difference_seconds";
const PENDING_ACTIVITY: &str = "axum_refresh_pending_activity_sessions";
const PENDING_REVOCATIONS: &str = "axum_refresh_pending_revocations";
const WATCHED: &str = "axum_refresh_watched_sessions";

/// The labels that are there from the start, with 0: otherwise the first event of its kind would be no increase.
const VERDICTS: [&str; 12] = [
    "ahead", "busy", "echo", "expired", "forged", "idle", "mismatch", "recover", "reuse", "revoked", "rotate", "touch",
];
const SECURITY: [&str; 7] =
    ["ahead", "client_mismatch", "forged", "many_recoveries", "reuse", "revocation_delayed", "revocations_lost"];
/// The codes of the refusals of this crate.
const CODES: [&str; 24] = [
    "access_token_expired",
    "access_token_invalid",
    "access_token_missing",
    "access_token_revoked",
    "acting",
    "body_too_large",
    "client_mismatch",
    "cross_origin",
    "insufficient_user_authentication",
    "internal",
    "malformed_body",
    "refresh_busy",
    "refresh_token_invalid",
    "refresh_token_missing",
    "refresh_token_reused",
    "session_expired",
    "session_idle",
    "session_limit",
    "session_not_found",
    "session_outdated",
    "session_revoked",
    "store_unavailable",
    "unsupported_media_type",
    "user_refused",
];

/// Counts for all the [`Auth`](crate::Auth)s of one realm.
///
/// Nearly everything looks its counter up each time, so that a recorder may be installed at any time: nothing of that is
/// frequent enough to matter. The token cache is counted here, and published every second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter(&'static OfRealm);

#[derive(Debug)]
struct OfRealm {
    realm: Option<Box<str>>,
    cache_hits: Tally,
    cache_misses: Tally,
}

/// Never removed: realms are few, and named by the app.
static REALMS: Mutex<Vec<&'static OfRealm>> = Mutex::new(Vec::new());

/// Whether a refusal was counted. Does not count for equality.
#[derive(Clone, Debug, Eq)]
pub(crate) struct Counted(bool);

impl PartialEq for Counted {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Counted {
    pub(crate) const NOT_YET: Self = Self(false);
    /// As if it was counted already.
    pub(crate) const NEVER: Self = Self(true);

    /// Returns whether it was not counted so far. From now on it was.
    pub(crate) const fn is_first(&mut self) -> bool {
        !std::mem::replace(&mut self.0, true)
    }
}

/// A call that is being timed. If it is dropped before its end, that is recorded too.
#[derive(Debug)]
pub(crate) struct Call {
    meter: Meter,
    histogram: &'static str,
    operation: Option<&'static str>,
    began: Instant,
    /// None until its end.
    outcome: Option<Outcome>,
}

impl Call {
    fn new(meter: Meter, histogram: &'static str, operation: Option<&'static str>) -> Self {
        Self { meter, histogram, operation, began: Instant::now(), outcome: None }
    }

    pub(crate) fn end(mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let outcome = match self.outcome {
            Some(Outcome::Ok) => "ok",
            Some(Outcome::Error) => "error",
            Some(Outcome::Timeout) => "timeout",
            // Nobody waits for it any more.
            None => "cancelled",
        };
        let labels = match self.operation {
            Some(operation) => self.meter.labels([("operation", operation), ("outcome", outcome)]),
            None => self.meter.labels([("outcome", outcome)]),
        };
        histogram!(self.histogram, labels).record(self.began.elapsed());
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Meter {
    pub(crate) const IS_ON: bool = true;

    pub(crate) fn new(realm: Option<&str>) -> Self {
        let mut realms = REALMS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = realms.iter().find(|known| known.realm.as_deref() == realm) {
            return Self(known);
        }
        let (realm, cache_hits, cache_misses) = (realm.map(Box::from), Tally::default(), Tally::default());
        let new = Box::leak(Box::new(OfRealm { realm, cache_hits, cache_misses }));
        realms.push(new);
        Self(new)
    }

    fn labels<const N: usize>(self, labels: [(&'static str, &'static str); N]) -> Vec<Label> {
        let mut all = Vec::with_capacity(N + 1);
        all.extend(labels.map(|(key, value)| Label::from_static_parts(key, value)));
        all.extend(self.0.realm.as_deref().map(|realm| Label::from_static_parts("realm", realm)));
        all
    }

    fn count<const N: usize>(self, name: &'static str, labels: [(&'static str, &'static str); N], n: u64) {
        counter!(name, self.labels(labels)).increment(n);
    }

    fn set<const N: usize>(self, name: &'static str, labels: [(&'static str, &'static str); N], value: f64) {
        gauge!(name, self.labels(labels)).set(value);
    }

    pub(crate) fn logged_in(self) {
        self.count(LOGINS, [], 1);
    }

    pub(crate) fn reauthenticated(self) {
        self.count(REAUTHENTICATIONS, [], 1);
    }

    pub(crate) fn refreshed(self, verdict: &'static str) {
        self.count(REFRESHES, [("verdict", verdict)], 1);
    }

    pub(crate) fn revoked(self, target: &'static str, reason: &'static str) {
        self.count(REVOCATIONS, [("target", target), ("reason", reason)], 1);
    }

    pub(crate) fn security_event(self, event: &'static str) {
        self.count(SECURITY_EVENTS, [("event", event)], 1);
    }

    pub(crate) fn refused(self, code: &'static str) {
        self.count(REFUSALS, [("code", code)], 1);
    }

    pub(crate) fn purged(self, sessions: usize) {
        self.count(PURGED, [], sessions as u64);
    }

    pub(crate) fn token_cache_hit(self) {
        self.0.cache_hits.add_one();
    }

    pub(crate) fn token_cache_miss(self) {
        self.0.cache_misses.add_one();
    }

    pub(crate) fn store_call(self, operation: &'static str) -> Call {
        Call::new(self, STORE_CALLS, Some(operation))
    }

    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    pub(crate) fn signer_call(self) -> Call {
        Call::new(self, SIGNER_CALLS, None)
    }

    pub(crate) fn revocation_lagged(self, age: Duration) {
        histogram!(LAG, self.labels([])).record(age);
    }

    /// Describes the metrics, and creates those that should be there from the start. Returns whether there is a recorder.
    pub(crate) fn begin(self) -> bool {
        // What stands in for a recorder that is not installed has no fields.
        if !metrics::with_recorder(|recorder| size_of_val(recorder) > 0) {
            return false;
        }
        describe();
        for name in [LOGINS, REAUTHENTICATIONS, PURGED] {
            self.count(name, [], 0);
        }
        for (name, label, values) in
            [(REFRESHES, "verdict", &VERDICTS[..]), (REFUSALS, "code", &CODES), (SECURITY_EVENTS, "event", &SECURITY)]
        {
            values.iter().for_each(|value| self.count(name, [(label, value)], 0));
        }
        true
    }

    /// Sets the gauges, and publishes what was counted here.
    pub(crate) fn report(self, levels: Levels) {
        self.count(TOKEN_CACHE, [("result", "hit")], self.0.cache_hits.take());
        self.count(TOKEN_CACHE, [("result", "miss")], self.0.cache_misses.take());
        let live = [("session", levels.live_sessions), ("user", levels.live_users), ("token", levels.live_tokens)];
        for (target, number) in live {
            self.set(LIVE, [("target", target)], number as f64);
        }
        self.set(STALENESS, [], levels.staleness);
        self.set(READ_AT, [], levels.read_at);
        self.set(CLOCK, [], levels.clock_difference);
        self.set(PENDING_ACTIVITY, [], levels.pending_activity as f64);
        self.set(PENDING_REVOCATIONS, [], levels.pending_revocations as f64);
        self.set(WATCHED, [], levels.watched_sessions as f64);
    }
}

fn describe() {
    let counters = [
        (LOGINS, "Logins: sessions that began, without reauthentications."),
        (REAUTHENTICATIONS, "Users who were authenticated again."),
        (REFRESHES, "Refresh tokens that were presented, by verdict."),
        (REFUSALS, "Requests that were refused, by code."),
        (REVOCATIONS, "Revocations made by this node, by target and reason."),
        (SECURITY_EVENTS, "Events that call for attention, by name."),
        (PURGED, "Expired sessions that this node has deleted from the store."),
        (TOKEN_CACHE, "Access tokens looked up among those verified before, by result."),
    ];
    let histograms: &[(&'static str, &'static str)] = &[
        (STORE_CALLS, "How long calls of the session store took, by operation and outcome."),
        #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
        (SIGNER_CALLS, "How long calls of the signer of access tokens took, by outcome."),
        (LAG, "How old revocations by other nodes were when this node learned of them."),
    ];
    let gauges = [
        (LIVE, Unit::Count, "Revocations that are in force on this node, by target."),
        (STALENESS, Unit::Seconds, "How long ago this node has read the revocations from the store."),
        (READ_AT, Unit::Seconds, "When this node has last read the revocations from the store, or else has started."),
        (CLOCK, Unit::Seconds, "By how much the clock of this node is ahead of the store's."),
        (PENDING_ACTIVITY, Unit::Count, "Sessions with activity that is not written to the store yet."),
        (PENDING_REVOCATIONS, Unit::Count, "Sessions whose revocation the store has not confirmed yet."),
        (WATCHED, Unit::Count, "Sessions that open streams are waiting on, to end with them."),
    ];
    metrics::with_recorder(|recorder| {
        let text = SharedString::const_str;
        for (name, help) in counters {
            recorder.describe_counter(name.into(), Some(Unit::Count), text(help));
        }
        for (name, help) in histograms {
            recorder.describe_histogram((*name).into(), Some(Unit::Seconds), text(help));
        }
        for (name, unit, help) in gauges {
            recorder.describe_gauge(name.into(), Some(unit), text(help));
        }
    });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_realm_has_one_meter() {
        let same = |a: Meter, b: Meter| std::ptr::eq(a.0, b.0);
        let meter = Meter::new(Some("meter-test"));
        assert!(same(meter, Meter::new(Some("meter-test"))));
        assert!(!same(meter, Meter::new(Some("meter-test-2"))));
        assert!(!same(meter, Meter::new(None)));
    }

    #[test]
    fn a_refusal_counts_once_and_equals_one_that_was_not_counted() {
        let mut counted = Counted::NOT_YET;
        assert!(counted.is_first());
        assert!(!counted.is_first());
        assert!(!counted.clone().is_first());
        assert_eq!(counted, Counted::NOT_YET);
    }

    /// All string literals in a part of a source file.
    fn words(source: &str) -> impl Iterator<Item = &str> {
        source.split('"').skip(1).step_by(2)
    }

    /// A source file without its comments and its tests.
    fn code_of(source: &str) -> String {
        let lines = source.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
        let is_code = |line: &&str| !["//", "#["].iter().any(|start| line.trim_start().starts_with(start));
        lines.filter(is_code).collect::<Vec<_>>().join("\n")
    }

    /// The codes of errors, and those of problems that are no errors, as the sources have them.
    #[test]
    fn every_code_of_a_refusal_is_there_from_the_start_and_in_the_guide() {
        let error = code_of(include_str!("../error.rs"));
        let (_, body) = error.split_once("pub const fn code(&self) -> &'static str {").unwrap();
        let (body, _) = body.split_once("\n    }\n").unwrap();
        let mut found: BTreeSet<String> = words(body).map(str::to_owned).collect();
        assert!(found.len() > 15, "{found:?}");
        let problem = code_of(include_str!("../http/problem.rs"));
        let calls: Vec<&str> = problem.split("Self::ours(StatusCode::").skip(1).collect();
        assert!(calls.len() > 3, "{calls:?}");
        found.extend(calls.iter().flat_map(|call| words(call.split(')').next().unwrap())).map(str::to_owned));
        let found: Vec<&str> = found.iter().map(String::as_str).collect();
        assert_eq!(CODES.as_slice(), found);
        // The guide lists the same.
        let guide = include_str!("../guide/http.md");
        let rows = guide.lines().skip_while(|line| *line != "| status | code | when |").skip(2);
        let rows = rows.take_while(|line| line.starts_with('|'));
        let listed: BTreeSet<&str> =
            rows.flat_map(|row| row.split('|').nth(2).unwrap().split('`').skip(1).step_by(2)).collect();
        assert_eq!(listed.into_iter().collect::<Vec<_>>(), found);
    }

    #[test]
    fn every_verdict_and_every_security_event_is_there_from_the_start() {
        let count = code_of(include_str!("../event/count.rs"));
        let (_, body) = count.split_once("const fn verdict_name").unwrap();
        let (body, _) = body.split_once("\n}\n").unwrap();
        let found: BTreeSet<&str> = words(body).collect();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), VERDICTS);
        let event = include_str!("../event/mod.rs");
        let (_, body) = event.split_once("pub const fn is_security").unwrap();
        let (body, _) = body.split_once("\n    }\n").unwrap();
        let variants: BTreeSet<&str> = body.split("Self::").skip(1).map(|it| it.split(' ').next().unwrap()).collect();
        let (_, names) = event.split_once("pub const fn name").unwrap();
        let name = |variant: &str| words(names.split_once(&format!("Self::{variant} ")).unwrap().1).next().unwrap();
        let mut found: Vec<&str> = variants.into_iter().map(name).collect();
        found.sort_unstable();
        assert_eq!(found, SECURITY);
    }
}
