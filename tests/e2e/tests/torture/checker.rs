//! Checks what clients observed. It knows only the guarantees of the servers, and when the test itself partitioned
//! them.

mod session;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use super::log::{Access, Exchange, Millis, Refresh, Request};

/// How often a node reads the revocation feed.
const FEED: Millis = 1000;
/// After the store is back: the driver reconnects at most a second later, and the feed is read at most a second after
/// that failed.
const RECONNECT: Millis = 2000;
/// The minimum time that a node is granted for its own work, whatever was measured.
const MIN_SLACK: Millis = 100;

/// The conditions of the test: the faults, and the settings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions {
    pub(crate) grace: Millis,
    /// How long a node relies on its state without the store.
    pub(crate) max_staleness: Millis,
    pub(crate) outages: Vec<Outage>,
    pub(crate) failovers: Vec<Failover>,
}

/// The store was unreachable or too slow.
#[derive(Clone, Debug)]
pub(crate) struct Outage {
    /// For this node; `None`: for all.
    pub(crate) node: Option<usize>,
    pub(crate) from: Millis,
    pub(crate) until: Millis,
}

/// The store may have lost the writes of this time.
#[derive(Clone, Debug)]
pub(crate) struct Failover {
    pub(crate) from: Millis,
    pub(crate) until: Millis,
}

#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// An honest client was told that its session is over, although nobody had revoked it.
    pub(crate) honest_logouts: Vec<String>,
    /// The same, but requests took longer than the grace period allows: the machine was too slow for the test.
    pub(crate) outside_the_assumptions: Vec<String>,
    /// The same refresh token was in two responses.
    pub(crate) handed_out_twice: Vec<String>,
    /// A revoked token was accepted for longer than guaranteed.
    pub(crate) accepted_after_revocation: Vec<String>,
    /// A valid access token was refused.
    pub(crate) wrong_refusals: Vec<String>,
    pub(crate) broken_invariants: Vec<String>,
    /// Responses that the contract does not have.
    pub(crate) unexpected: Vec<String>,
    /// A theft took the turns of invariant 2, and the session was not revoked.
    pub(crate) thefts_missed: Vec<String>,
    pub(crate) counts: Counts,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) requests: usize,
    pub(crate) sessions: usize,
    pub(crate) refreshes: usize,
    pub(crate) rotations: usize,
    pub(crate) recovers: usize,
    /// Granted without a new refresh token.
    pub(crate) touches_and_echoes: usize,
    pub(crate) busy: usize,
    pub(crate) unavailable: usize,
    pub(crate) broken: usize,
    pub(crate) revocations: usize,
    /// Attempts to use revoked tokens.
    pub(crate) tries_after_revocation: usize,
    pub(crate) thefts_played: usize,
    /// Thefts that took all the turns of invariant 2.
    pub(crate) thefts_owed: usize,
    pub(crate) thefts_detected: usize,
    pub(crate) slowest_answer: Millis,
    /// The longest time that a revoked token was accepted while the store was reachable.
    pub(crate) latest_acceptance: Millis,
    /// Effects that a failover may have, counted separately.
    pub(crate) lost_logins: usize,
    pub(crate) handed_out_twice_after_failover: usize,
    pub(crate) accepted_after_failover: usize,
}

impl Findings {
    pub(crate) fn violations(&self) -> Vec<(&'static str, &[String])> {
        let all: [(&str, &[String]); 7] = [
            ("honest logouts", &self.honest_logouts),
            ("refresh tokens handed out twice", &self.handed_out_twice),
            ("accepted after revocation", &self.accepted_after_revocation),
            ("wrong refusals", &self.wrong_refusals),
            ("broken invariants", &self.broken_invariants),
            ("unexpected responses", &self.unexpected),
            ("thefts missed", &self.thefts_missed),
        ];
        all.into_iter().filter(|(_, found)| !found.is_empty()).collect()
    }
}

/// All exchanges of one session, ordered by when they were sent.
#[derive(Default)]
struct Story<'a> {
    login: Option<&'a Exchange>,
    refreshes: Vec<Presented<'a>>,
    /// Logouts and revocations, with or without success.
    endings: Vec<&'a Exchange>,
    /// Uses of access tokens.
    uses: Vec<(&'a Exchange, &'a Access)>,
}

#[derive(Clone, Copy)]
struct Presented<'a> {
    exchange: &'a Exchange,
    token: &'a Refresh,
    thief: bool,
}

struct Checker<'a> {
    conditions: &'a Conditions,
    /// The attempts to revoke an access token, by its text.
    revoked_tokens: HashMap<&'a str, Vec<&'a Exchange>>,
    /// The responses of each node.
    answered: HashMap<usize, Vec<&'a Exchange>>,
    findings: Findings,
}

pub(crate) fn check(log: &[Exchange], conditions: &Conditions) -> Findings {
    let mut stories: HashMap<&str, Story<'_>> = HashMap::new();
    let mut checker =
        Checker { conditions, revoked_tokens: HashMap::new(), answered: HashMap::new(), findings: Findings::default() };
    for exchange in log {
        if exchange.answer.is_some() {
            checker.answered.entry(exchange.node).or_default().push(exchange);
        }
        if let Some(access) = used(exchange) {
            stories.entry(&access.session).or_default().uses.push((exchange, access));
        }
        match &exchange.request {
            Request::Login => {
                if let Some(token) = exchange.granted().and_then(|answer| answer.refresh.as_ref()) {
                    stories.entry(&token.session).or_default().login = Some(exchange);
                }
            }
            Request::Refresh { token, thief } => {
                let presented = Presented { exchange, token, thief: *thief };
                stories.entry(&token.session).or_default().refreshes.push(presented);
            }
            Request::Logout(token) => stories.entry(&token.session).or_default().endings.push(exchange),
            Request::End { session, .. } => stories.entry(session).or_default().endings.push(exchange),
            Request::RevokeToken { token, .. } => checker.revoked_tokens.entry(&token.text).or_default().push(exchange),
            Request::Use(_) => {}
        }
    }
    checker.findings.counts.sessions = stories.len();
    for exchange in log {
        checker.count(exchange);
        checker.answer(exchange);
    }
    checker.tokens_are_handed_out_once(log);
    for story in stories.values() {
        checker.session(story);
    }
    checker.findings
}

/// The access token of a request.
fn used(exchange: &Exchange) -> Option<&Access> {
    match &exchange.request {
        Request::Use(access) | Request::End { by: access, .. } | Request::RevokeToken { by: access, .. } => {
            Some(access)
        }
        _ => None,
    }
}

/// One line for a human reader.
fn describe(exchange: &Exchange) -> String {
    let token = |token: &Refresh| format!("{}/{}", token.session, token.generation);
    let request = match &exchange.request {
        Request::Login => "login".to_owned(),
        Request::Refresh { token: presented, thief } => {
            format!("refresh {}{}", token(presented), if *thief { " by the thief" } else { "" })
        }
        Request::Use(access) => format!("use {}/{}, valid until {}", access.session, access.generation, access.expires),
        Request::Logout(presented) => format!("logout {}", token(presented)),
        Request::End { session, .. } => format!("end {session}"),
        Request::RevokeToken { token, .. } => format!("revoke an access token of {}", token.session),
    };
    let answer = match &exchange.answer {
        None => "no answer".to_owned(),
        Some(answer) => {
            let new = answer.refresh.as_ref().map(|new| format!(", refresh token {}", token(new)));
            format!("{} {}{}", answer.status, answer.code, new.unwrap_or_default())
        }
    };
    let Exchange { client, node, start, end, .. } = exchange;
    format!("{start}..{end} client {client} at node {node}: {request}: {answer}")
}

impl Checker<'_> {
    fn count(&mut self, exchange: &Exchange) {
        let counts = &mut self.findings.counts;
        counts.requests += 1;
        match &exchange.answer {
            None => counts.broken += 1,
            Some(answer) => {
                counts.slowest_answer = counts.slowest_answer.max(exchange.end - exchange.start);
                counts.unavailable += usize::from(answer.status == 503);
                counts.busy += usize::from(answer.status == 409);
            }
        }
        let granted = exchange.granted();
        match &exchange.request {
            Request::Refresh { token, .. } => {
                counts.refreshes += 1;
                match granted.map(|answer| &answer.refresh) {
                    None => {}
                    Some(None) => counts.touches_and_echoes += 1,
                    Some(Some(new)) if new.generation == token.generation + 1 => counts.rotations += 1,
                    Some(Some(_)) => counts.recovers += 1,
                }
            }
            Request::Logout(_) | Request::End { .. } | Request::RevokeToken { .. } if granted.is_some() => {
                counts.revocations += 1;
            }
            _ => {}
        }
    }

    /// Checks that the contract has this response for this request. Whether it is correct is checked elsewhere.
    fn answer(&mut self, exchange: &Exchange) {
        let Some(answer) = &exchange.answer else { return };
        let expected: &[(u16, &str)] = match exchange.request {
            Request::Login => &[(200, "")],
            Request::Refresh { .. } => &[
                (200, ""),
                (401, "refresh_token_invalid"),
                (401, "refresh_token_reused"),
                (401, "session_revoked"),
                (409, "refresh_busy"),
            ],
            Request::Use(_) => &[(200, ""), (401, "access_token_expired"), (401, "access_token_revoked")],
            Request::Logout(_) => &[(204, "")],
            Request::End { .. } => {
                &[(204, ""), (401, "access_token_expired"), (401, "access_token_revoked"), (404, "session_not_found")]
            }
            Request::RevokeToken { .. } => &[(204, ""), (401, "access_token_expired"), (401, "access_token_revoked")],
        };
        let is_expected = (answer.status, &*answer.code) == (503, "store_unavailable")
            || expected.contains(&(answer.status, &*answer.code));
        let must_have_tokens = matches!(exchange.request, Request::Login | Request::Refresh { .. });
        let has_tokens = answer.access.is_some() && (answer.refresh.is_some() || exchange.request != Request::Login);
        if !is_expected || answer.is_success() && must_have_tokens && !has_tokens {
            self.findings.unexpected.push(describe(exchange));
        }
    }

    /// Invariant 3.
    fn tokens_are_handed_out_once(&mut self, log: &[Exchange]) {
        let mut first: HashMap<Arc<str>, &Exchange> = HashMap::new();
        for exchange in log {
            let Some(token) = exchange.granted().and_then(|answer| answer.refresh.as_ref()) else { continue };
            if let Some(first) = first.insert(Arc::clone(&token.text), exchange) {
                if self.is_after_a_failover(exchange.end) {
                    self.findings.counts.handed_out_twice_after_failover += 1;
                } else {
                    let twice = format!("{} and {}", describe(first), describe(exchange));
                    self.findings.handed_out_twice.push(twice);
                }
            }
        }
    }

    /// Whether the store may have lost writes before.
    fn is_after_a_failover(&self, at: Millis) -> bool {
        self.conditions.failovers.iter().any(|failover| failover.from <= at)
    }

    /// Whether the store may have lost the write that was confirmed at the end of this exchange.
    fn may_have_been_lost(&self, exchange: &Exchange) -> bool {
        let during = |failover: &Failover| exchange.start <= failover.until && failover.from <= exchange.end;
        self.conditions.failovers.iter().any(during)
    }

    /// Until when a node may accept a token that was revoked at `revoked_at` on another node: for a second while it can
    /// reach its store, and otherwise for as long as it relies on its state. How long a second takes is measured.
    fn last_acceptance(&self, node: usize, revoked_at: Millis, accepted: Millis) -> Millis {
        let during = |exchange: &&&Exchange| exchange.start <= accepted && revoked_at <= exchange.end;
        let there = self.answered.get(&node).into_iter().flatten();
        let slowest = there.filter(during).map(|exchange| exchange.end - exchange.start).max().unwrap_or_default();
        let slack = 2 * slowest.max(MIN_SLACK);
        let mut since = revoked_at;
        let mut outages: Vec<_> = self.conditions.outages.iter().collect();
        outages.sort_by_key(|outage| outage.from);
        for outage in outages.into_iter().filter(|outage| outage.node.is_none_or(|its| its == node)) {
            let believed = outage.from + self.conditions.max_staleness;
            let over = (outage.until + RECONNECT).min(believed);
            if outage.from <= since + FEED + slack {
                since = since.max(over);
            }
        }
        since + FEED + slack
    }
}
