//! The guarantees for every session.

use std::collections::HashSet;

use super::{Checker, Millis, Presented, Story, describe};
use crate::log::{Access, Exchange, Refresh};

/// The tolerance between a clock and the log.
const ROUNDING: Millis = 20;
/// `exp` is in whole seconds, rounded down; a token with a short life is valid for the rest of that second too.
const REST_OF_A_SECOND: Millis = 1000;

/// A refresh that handed out a refresh token.
#[derive(Clone, Copy)]
struct HandedOut<'a> {
    exchange: &'a Exchange,
    presented: &'a Refresh,
    new: &'a Refresh,
}

impl<'a> Story<'a> {
    /// Whether the session may have been revoked by then, by its client, who requested it, or because of a thief.
    fn may_be_over(&self, by: Millis) -> bool {
        self.has_thief(by) || self.endings.iter().any(|exchange| exchange.start <= by)
    }

    fn has_thief(&self, by: Millis) -> bool {
        self.refreshes.iter().any(|presented| presented.thief && presented.exchange.start <= by)
    }

    fn handed_out(&self) -> Vec<HandedOut<'a>> {
        let handed_out = |presented: &Presented<'a>| {
            let new = presented.exchange.granted()?.refresh.as_ref()?;
            Some(HandedOut { exchange: presented.exchange, presented: presented.token, new })
        };
        self.refreshes.iter().filter_map(handed_out).collect()
    }

    /// How many nodes refused the session's access token as revoked after this time, and how many that or its refresh token.
    pub(super) fn refusing_nodes(&self, after: Millis) -> (usize, usize) {
        let is_refusal = |exchange: &Exchange, code: &str| {
            exchange.start > after && exchange.answer.as_ref().is_some_and(|answer| answer.code == code)
        };
        let uses = self.uses.iter().map(|(exchange, _)| *exchange);
        let mut nodes: HashSet<_> = uses
            .filter(|exchange| is_refusal(exchange, "access_token_revoked"))
            .map(|exchange| exchange.node)
            .collect();
        let by_access_token = nodes.len();
        let refreshes = self.refreshes.iter().map(|presented| presented.exchange);
        nodes
            .extend(refreshes.filter(|exchange| is_refusal(exchange, "session_revoked")).map(|exchange| exchange.node));
        (by_access_token, nodes.len())
    }

    /// Exchanges whose client was told that the session is over.
    fn ends(&self) -> impl Iterator<Item = &'a Exchange> {
        let reused = |presented: &Presented<'a>| {
            let answer = presented.exchange.answer.as_ref()?;
            (answer.status == 401 && answer.code == "refresh_token_reused").then_some(presented.exchange)
        };
        let asked_for = self.endings.iter().copied().filter(|exchange| exchange.granted().is_some());
        asked_for.chain(self.refreshes.iter().filter_map(reused))
    }
}

impl Checker<'_> {
    pub(super) fn session(&mut self, story: &Story<'_>) {
        self.honest_clients_stay_logged_in(story);
        self.good_access_tokens_are_accepted(story);
        self.revoked_tokens_are_refused(story);
        self.nothing_outlives_its_end(story);
        self.thefts_are_detected(story);
        self.generations_are_in_order(story);
    }

    /// Whether the store may have lost the session itself.
    fn is_lost(&self, story: &Story<'_>) -> bool {
        story.login.is_some_and(|login| self.may_have_been_lost(login))
    }

    /// Invariant 1.
    fn honest_clients_stay_logged_in(&mut self, story: &Story<'_>) {
        for presented in story.refreshes.iter().filter(|presented| !presented.thief) {
            let Some(answer) = presented.exchange.answer.as_ref().filter(|answer| answer.status == 401) else {
                continue;
            };
            if story.may_be_over(presented.exchange.end) {
                continue;
            }
            // To a node whose clock is far ahead, a session from elsewhere has reached its end. It has to go on elsewhere.
            let is_from_elsewhere =
                story.login.is_none_or(|login| self.clock(login.node) < self.clock(presented.exchange.node));
            if is_from_elsewhere && self.is_due_to_clocks(presented.exchange) {
                self.findings.counts.refused_by_clock += 1;
                let mut later = story.refreshes.iter().filter(|later| later.exchange.start > presented.exchange.start);
                let is_restored = |later: &Presented<'_>| {
                    later.token == presented.token && self.clock(later.exchange.node) == 0 && later.exchange.is(200)
                };
                self.findings.counts.restored += usize::from(later.any(is_restored));
                continue;
            }
            if answer.code == "refresh_token_invalid" && self.is_lost(story) {
                self.findings.counts.lost_logins += 1;
                return;
            }
            let mut lines = vec![describe(presented.exchange)];
            let before = story.refreshes.iter().filter(|other| other.exchange.start < presented.exchange.start);
            lines.extend(before.rev().take(12).map(|other| describe(other.exchange)));
            let lines = lines.join("\n      after ");
            let was_late = self.was_late(story, presented.exchange.end);
            let list =
                if was_late { &mut self.findings.outside_the_assumptions } else { &mut self.findings.honest_logouts };
            // The following logouts have the same cause.
            return list.push(lines);
        }
    }

    /// Whether an honest request was under way for so long after its token had been replaced that the grace period was
    /// over. From the moment the successor was requested until the late request was answered, that is at most the delay
    /// of the one on its way back and of the other on its way there: `2D`.
    fn was_late(&self, story: &Story<'_>, by: Millis) -> bool {
        let grace = self.conditions.grace;
        story.handed_out().iter().any(|replaced| {
            story.refreshes.iter().filter(|late| late.exchange.start <= by).any(|late| {
                // A server may continue for a moment after its client has disconnected.
                let end = late.exchange.end + if late.exchange.answer.is_some() { 0 } else { 1000 };
                late.token.generation < replaced.new.generation
                    && late.exchange.start <= replaced.exchange.end
                    && end - replaced.exchange.start > grace
            })
        })
    }

    fn good_access_tokens_are_accepted(&mut self, story: &Story<'_>) {
        for (exchange, access) in &story.uses {
            let Some(answer) = &exchange.answer else { continue };
            if access.clock != self.clock(exchange.node) {
                self.findings.counts.across_clocks += 1;
                self.findings.counts.refused_by_clock += usize::from(self.is_due_to_clocks(exchange));
                if answer.is_success() {
                    self.broken("an access token from a node whose clock differs was accepted", &[exchange]);
                }
                continue;
            }
            let is_right = match (answer.status, &*answer.code) {
                (401, "access_token_expired") => exchange.end + ROUNDING >= self.earliest_end(exchange, access),
                (401, "access_token_revoked") => {
                    let attempts = self.revoked_tokens.get(&*access.text).into_iter().flatten();
                    let mut before = attempts.filter(|attempt| attempt.start <= exchange.end);
                    story.may_be_over(exchange.end) || before.next().is_some() || self.is_lost(story)
                }
                _ => true,
            };
            if !is_right {
                self.findings.wrong_refusals.push(describe(exchange));
            }
        }
        for ending in story.endings.iter().filter(|ending| ending.is(404)) {
            let mut others = story.endings.iter().filter(|other| **other != *ending && other.start <= ending.end);
            if others.next().is_none() && !story.has_thief(ending.end) && !self.is_lost(story) {
                self.findings.wrong_refusals.push(describe(ending));
            }
        }
    }

    /// Invariant 7, and the second within which every node knows of a revocation.
    fn revoked_tokens_are_refused(&mut self, story: &Story<'_>) {
        for end in story.ends() {
            for (accepted, _) in &story.uses {
                self.accepted_after(end, accepted);
            }
            // A refresh reads the store, so no node may be late.
            for refresh in story.refreshes.iter().map(|presented| presented.exchange) {
                if refresh.start <= end.end {
                    continue;
                }
                self.findings.counts.tries_after_revocation += 1;
                if refresh.granted().is_some() {
                    self.accepted_too_late(end, refresh);
                }
            }
        }
        for (accepted, access) in &story.uses {
            let ends: Vec<_> = self.revoked_tokens.get(&*access.text).into_iter().flatten().copied().collect();
            for end in ends.into_iter().filter(|end| end.is(204)) {
                self.accepted_after(end, accepted);
            }
        }
    }

    fn accepted_after(&mut self, end: &Exchange, accepted: &Exchange) {
        if accepted.start <= end.end || accepted.answer.is_none() {
            return;
        }
        self.findings.counts.tries_after_revocation += 1;
        if accepted.granted().is_none() {
            return;
        }
        // The node that revoked it knows at once.
        let last = if accepted.node == end.node {
            end.end
        } else {
            self.last_acceptance(accepted.node, end.end, accepted.start)
        };
        if accepted.start > last {
            self.accepted_too_late(end, accepted);
        } else {
            let counts = &mut self.findings.counts;
            counts.latest_acceptance = counts.latest_acceptance.max(accepted.start - end.end);
        }
    }

    /// A revocation that the store has lost is written again at the next read of the feed, and then the other nodes
    /// read it.
    fn accepted_too_late(&mut self, end: &Exchange, accepted: &Exchange) {
        let lost = self.conditions.failovers.iter().find(|lost| end.start <= lost.until && lost.from <= end.end);
        let told_again = lost.map(|lost| self.last_acceptance(accepted.node, lost.until, accepted.start) + super::FEED);
        if told_again.is_some_and(|told_again| accepted.start <= told_again) {
            self.findings.counts.accepted_after_failover += 1;
        } else {
            let late = format!("{}\n      after {}", describe(accepted), describe(end));
            self.findings.accepted_after_revocation.push(late);
        }
    }

    /// Invariant 4.
    fn nothing_outlives_its_end(&mut self, story: &Story<'_>) {
        for (exchange, access) in &story.uses {
            if exchange.granted().is_some()
                && exchange.start > self.latest_end(exchange, access) + REST_OF_A_SECOND + ROUNDING
            {
                self.broken("an access token was accepted after its end", &[exchange]);
            }
        }
        // Every cookie contains the remaining lifetime of the session in whole seconds: all must mean the same expiry.
        let all = story.login.into_iter().chain(story.refreshes.iter().map(|presented| presented.exchange));
        let mut ends: Option<(Millis, Millis)> = None;
        for exchange in all {
            let Some(answer) = exchange.granted() else { continue };
            if let Some(seconds) = answer.max_age {
                let (earliest, latest) = ends.unwrap_or((Millis::MIN, Millis::MAX));
                let earliest = earliest.max(exchange.start + seconds * 1000);
                let latest = latest.min(exchange.end + (seconds + 1) * 1000);
                if earliest > latest + ROUNDING {
                    self.broken("the end of a session has moved", &[exchange]);
                    return;
                }
                ends = Some((earliest, latest));
            }
            if let (Some(access), Some((_, latest))) = (&answer.access, ends)
                && access.expires > latest + ROUNDING
            {
                self.broken("an access token outlives its session", &[exchange]);
            }
        }
    }

    /// Invariant 2.
    fn thefts_are_detected(&mut self, story: &Story<'_>) {
        if !story.has_thief(Millis::MAX) {
            return;
        }
        self.findings.counts.thefts_played += 1;
        // How many turns were taken in a row, and by whom and until when the last one.
        let (mut turns, mut last) = (0, None);
        for Presented { exchange, thief, .. } in &story.refreshes {
            let Some(answer) = exchange.answer.as_ref().filter(|answer| answer.status != 503) else {
                // It is unknown whether this was a turn.
                (turns, last) = (0, None);
                continue;
            };
            if answer.status == 409 {
                continue;
            }
            let grace = self.conditions.longest_grace;
            let is_in_turn = last.is_some_and(|(by, end)| by != *thief && exchange.start > end + grace);
            turns = if is_in_turn { turns + 1 } else { 1 };
            last = Some((*thief, exchange.end));
            if turns == 4 {
                self.findings.counts.thefts_owed += 1;
            }
            if answer.status == 401 {
                if answer.code != "refresh_token_invalid" {
                    self.findings.counts.thefts_detected += 1;
                }
                return;
            }
            if turns == 4 {
                let lines: Vec<_> = story.refreshes.iter().map(|presented| describe(presented.exchange)).collect();
                self.findings.thefts_missed.push(lines.join("\n      "));
                return;
            }
        }
    }

    /// What is visible from outside of the order of generations.
    fn generations_are_in_order(&mut self, story: &Story<'_>) {
        if let Some(token) = story.login.and_then(|login| login.granted()).and_then(|answer| answer.refresh.as_ref())
            && token.generation != 0
        {
            self.broken("a login begins with another generation than the first", &[story.login.unwrap()]);
        }
        for Presented { exchange, token, .. } in &story.refreshes {
            let Some(answer) = exchange.granted() else { continue };
            let new = answer.refresh.as_ref();
            if new.is_some_and(|new| {
                new.generation <= token.generation || new.session != token.session || new.secret != token.secret
            }) {
                self.broken("what was handed out is no successor of what was presented", &[exchange]);
            }
            let generation = new.map_or(token.generation, |new| new.generation);
            let is_of_it = |access: &Access| access.generation == generation && access.session == token.session;
            if !answer.access.as_ref().is_some_and(is_of_it) {
                self.broken("an access token of another generation", &[exchange]);
            }
        }
        let mut all = story.login.into_iter().chain(story.refreshes.iter().map(|presented| presented.exchange));
        let mut clocks = all.by_ref().map(|exchange| self.clock(exchange.node));
        if clocks.next().is_some_and(|first| clocks.any(|clock| clock != first)) {
            // Clocks that differ by more than the grace period rotate at once.
            return;
        }
        let grace = self.conditions.grace;
        // A store that has lost writes hands out the same generations again.
        let handed_out: Vec<_> =
            story.handed_out().into_iter().filter(|it| !self.is_after_a_failover(it.exchange.end)).collect();
        for (index, one) in handed_out.iter().enumerate() {
            for other in &handed_out[index + 1..] {
                let (one_at, other_at) = (one.exchange, other.exchange);
                let apart = (one_at.end - other_at.start).max(other_at.end - one_at.start);
                if apart < grace {
                    self.broken("two refresh tokens within one grace", &[one_at, other_at]);
                }
                if one_at.end < other_at.start && one.new.generation >= other.new.generation {
                    self.broken("a later refresh token of an earlier generation", &[one_at, other_at]);
                }
            }
            // From then on the presented token is the parent or newer.
            for late in &story.refreshes {
                let is_granted = late.exchange.granted().is_some() && !self.is_after_a_failover(late.exchange.end);
                if is_granted
                    && late.exchange.start > one.exchange.end
                    && late.token.generation < one.presented.generation
                {
                    self.broken("a token two behind was taken", &[one.exchange, late.exchange]);
                }
            }
        }
    }

    fn broken(&mut self, what: &str, exchanges: &[&Exchange]) {
        let lines: Vec<_> = exchanges.iter().map(|exchange| describe(exchange)).collect();
        self.findings.broken_invariants.push(format!("{what}: {}", lines.join(" and ")));
    }
}
