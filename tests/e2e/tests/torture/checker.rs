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
    /// The shortest grace period of any node.
    pub(crate) grace: Millis,
    pub(crate) longest_grace: Millis,
    /// How long a node relies on its state without the store.
    pub(crate) max_staleness: Millis,
    pub(crate) outages: Vec<Outage>,
    pub(crate) failovers: Vec<Failover>,
    /// The settings of the nodes over time. Those of a node that is not listed allow everything.
    pub(crate) deployed: Vec<Deployed>,
    /// By how much the clock of each node is ahead. Those that are not listed are right.
    pub(crate) clocks: Vec<Millis>,
    /// When a user with very many sessions was revoked.
    pub(crate) crowded: Option<Crowded>,
}

/// The settings of a node, from when the previous ones began to end until the next ones are in force.
#[derive(Clone, Debug)]
pub(crate) struct Deployed {
    pub(crate) node: usize,
    pub(crate) from: Millis,
    pub(crate) until: Millis,
    pub(crate) access_ttl: Millis,
    pub(crate) leeway: Millis,
}

#[derive(Clone, Debug)]
pub(crate) struct Crowded {
    pub(crate) from: Millis,
    pub(crate) until: Millis,
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
    /// Sessions of the user with very many, times the nodes that refused their tokens as revoked, and for how many of them
    /// that was an access token.
    pub(crate) crowd_refused: usize,
    pub(crate) crowd_refused_by_access_token: usize,
    pub(crate) crowd_sessions: u64,
    /// The medians of the response times while that user was revoked, and otherwise.
    pub(crate) median_then: Millis,
    pub(crate) median_otherwise: Millis,
    /// Access tokens that met a node whose clock differs from that of their issuer.
    pub(crate) across_clocks: usize,
    /// What a node refused because of its clock, or of that of the issuer, as documented.
    pub(crate) refused_by_clock: usize,
    /// Refresh tokens that a node with the right time accepted after one whose clock is wrong had refused them.
    pub(crate) restored: usize,
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
            // Below, when all logins are known.
            Request::EndUser { .. } => {}
            Request::End { session, .. } => stories.entry(session).or_default().endings.push(exchange),
            Request::RevokeToken { token, .. } => checker.revoked_tokens.entry(&token.text).or_default().push(exchange),
            Request::Use(_) => {}
        }
    }
    for exchange in log {
        let Request::EndUser { client, .. } = &exchange.request else { continue };
        for story in stories.values_mut() {
            if story.login.is_some_and(|login| login.client == *client && login.end <= exchange.start) {
                story.endings.push(exchange);
                let (by_access_token, all) = story.refusing_nodes(exchange.start);
                checker.findings.counts.crowd_refused += all;
                checker.findings.counts.crowd_refused_by_access_token += by_access_token;
            }
        }
    }
    checker.compare_response_times(log);
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
        Request::Use(access)
        | Request::End { by: access, .. }
        | Request::EndUser { by: access, .. }
        | Request::RevokeToken { by: access, .. } => Some(access),
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
        Request::EndUser { user, .. } => format!("end all sessions of {user}"),
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
            Request::EndUser { .. } => {
                counts.revocations += usize::from(granted.is_some());
                let revoked = granted.and_then(|answer| answer.revoked).unwrap_or_default();
                counts.crowd_sessions = counts.crowd_sessions.max(revoked);
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
            Request::EndUser { .. } => &[(200, "")],
            Request::RevokeToken { .. } => &[(204, ""), (401, "access_token_expired"), (401, "access_token_revoked")],
        };
        let is_expected = (answer.status, &*answer.code) == (503, "store_unavailable")
            || expected.contains(&(answer.status, &*answer.code))
            || self.is_due_to_clocks(exchange);
        let must_have_tokens = matches!(exchange.request, Request::Login | Request::Refresh { .. });
        let has_tokens = answer.access.is_some() && (answer.refresh.is_some() || exchange.request != Request::Login);
        if !is_expected || answer.is_success() && must_have_tokens && !has_tokens {
            self.findings.unexpected.push(describe(exchange));
        }
    }

    /// By how much the clock of a node is ahead.
    fn clock(&self, node: usize) -> Millis {
        self.conditions.clocks.get(node).copied().unwrap_or_default()
    }

    /// Whether this is a refusal that the guide documents for clocks that differ by more than the grace period. Whether the
    /// token really crossed from one clock to another is part of it for access tokens; for refresh tokens the session tells.
    fn is_due_to_clocks(&self, exchange: &Exchange) -> bool {
        let Some(answer) = exchange.answer.as_ref().filter(|answer| answer.status == 401) else { return false };
        let clock = self.clock(exchange.node);
        match &exchange.request {
            Request::Use(access) if access.clock > clock => answer.code == "access_token_invalid",
            Request::Use(access) if access.clock < clock => answer.code == "access_token_expired",
            Request::Refresh { .. } if clock > 0 => ["session_expired", "session_idle"].contains(&&*answer.code),
            _ => false,
        }
    }

    /// The settings that may have been in force at the node of this exchange.
    fn settings_at(&self, exchange: &Exchange) -> impl Iterator<Item = &Deployed> {
        let is_in_force = |deployed: &&Deployed| {
            deployed.node == exchange.node && deployed.from <= exchange.end && exchange.start <= deployed.until
        };
        self.conditions.deployed.iter().filter(is_in_force)
    }

    /// When this access token expires at this node at the earliest: no node accepts it for longer than it would accept one
    /// of its own.
    fn earliest_end(&self, exchange: &Exchange, access: &Access) -> Millis {
        let ends = self.settings_at(exchange).map(|settings| access.issued + settings.access_ttl + settings.leeway);
        let latest = self.settings_at(exchange).map(|settings| settings.leeway).min().unwrap_or_default();
        ends.min().unwrap_or(Millis::MAX).min(access.expires + latest)
    }

    /// The same at the latest. The fraction of a second is missing.
    fn latest_end(&self, exchange: &Exchange, access: &Access) -> Millis {
        let ends = self.settings_at(exchange).map(|settings| access.issued + settings.access_ttl + settings.leeway);
        let latest = self.settings_at(exchange).map(|settings| settings.leeway).max().unwrap_or_default();
        ends.max().unwrap_or(Millis::MAX).min(access.expires + latest)
    }

    /// Compares the response times of all other clients while the user with very many sessions was revoked, and in the
    /// second after, with those at other times.
    fn compare_response_times(&mut self, log: &[Exchange]) {
        let Some(Crowded { from, until }) = self.conditions.crowded else { return };
        let clients: Vec<_> = log
            .iter()
            .filter_map(|exchange| match exchange.request {
                Request::EndUser { client, .. } => Some([client, exchange.client]),
                _ => None,
            })
            .flatten()
            .collect();
        let others = log.iter().filter(|exchange| exchange.answer.is_some() && !clients.contains(&exchange.client));
        let (then, otherwise): (Vec<_>, Vec<_>) =
            others.partition(|exchange| from <= exchange.start && exchange.start <= until + 1000);
        let median = |exchanges: Vec<&Exchange>| {
            let mut times: Vec<_> = exchanges.iter().map(|exchange| exchange.end - exchange.start).collect();
            times.sort_unstable();
            times.get(times.len() / 2).copied().unwrap_or_default()
        };
        (self.findings.counts.median_then, self.findings.counts.median_otherwise) = (median(then), median(otherwise));
    }

    /// Invariant 3.
    fn tokens_are_handed_out_once(&mut self, log: &[Exchange]) {
        // Not its text: two secrets sign the same token differently.
        let mut first: HashMap<(Arc<str>, u32), &Exchange> = HashMap::new();
        for exchange in log {
            let Some(token) = exchange.granted().and_then(|answer| answer.refresh.as_ref()) else { continue };
            if let Some(first) = first.insert((Arc::clone(&token.session), token.generation), exchange) {
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
