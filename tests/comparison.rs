//! The ratchet compared with other schemes, on the same schedules. The other schemes are minimal implementations of
//! their published behavior; the ratchet is the function that ships.
//!
//! The guide (`src/guide/ratchet.md`) contains the table that this test prints.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::io::Write as _;
use std::time::Duration;

use axum_refresh::ratchet::{BindingVerdict, Next, Presented, acknowledges, present};
use axum_refresh::store::{Revocation, RotationState, Timestamp};
use axum_refresh::{Policy, RevocationReason};

const GRACE: u64 = 30;
const HOUR: u64 = 3_600;

/// A refresh token; the one from login is 0.
type Token = u32;

/// The result of a refresh: the token to continue with, or `None` if it was refused.
type Answer = Option<Token>;

trait Scheme {
    fn refresh(&mut self, token: Token, now: u64) -> Answer;

    /// An access token is used that was issued at `issued`, together with this refresh token.
    fn uses(&mut self, _token: Token, _issued: u64, _now: u64) {}

    /// Whether the session is revoked, so that no token is valid any more.
    fn is_revoked(&self) -> bool;
}

/// Every token is valid once; a second use revokes the session.
#[derive(Default)]
struct OneTime {
    current: Token,
    revoked: bool,
}

impl Scheme for OneTime {
    fn refresh(&mut self, token: Token, _: u64) -> Answer {
        self.revoked |= token != self.current;
        self.current += u32::from(!self.revoked);
        (!self.revoked).then_some(self.current)
    }

    fn is_revoked(&self) -> bool {
        self.revoked
    }
}

/// A used token stays valid for a grace period, and every use hands out a new successor.
#[derive(Default)]
struct Siblings {
    used_at: HashMap<Token, u64>,
    last: Token,
    revoked: bool,
}

impl Scheme for Siblings {
    fn refresh(&mut self, token: Token, now: u64) -> Answer {
        let used_at = *self.used_at.entry(token).or_insert(now);
        self.revoked |= now - used_at > GRACE;
        self.last += u32::from(!self.revoked);
        (!self.revoked).then_some(self.last)
    }

    fn is_revoked(&self) -> bool {
        self.revoked
    }
}

/// The previous token stays valid until it was not used for a grace period, and is exchanged for the current one.
#[derive(Default)]
struct Sliding {
    current: Token,
    last_used: HashMap<Token, u64>,
    revoked: bool,
}

impl Scheme for Sliding {
    fn refresh(&mut self, token: Token, now: u64) -> Answer {
        if token == self.current {
            self.current += 1;
        } else {
            let used = self.last_used.get(&token).copied().unwrap_or(0);
            self.revoked |= now - used > GRACE;
        }
        self.last_used.insert(token, now);
        (!self.revoked).then_some(self.current)
    }

    fn is_revoked(&self) -> bool {
        self.revoked
    }
}

/// A counter per session (Supabase Auth, refresh token algorithm 2): a token one behind, or any token within the reuse
/// interval of the last refresh, is exchanged for the newest; a token further behind revokes the session.
#[derive(Default)]
struct Counter {
    counter: u32,
    refreshed_at: u64,
    revoked: bool,
}

impl Scheme for Counter {
    fn refresh(&mut self, token: Token, now: u64) -> Answer {
        match self.counter - token {
            0 => self.counter += 1,
            1 => {}
            _ if now - self.refreshed_at < GRACE => {}
            _ => self.revoked = true,
        }
        self.refreshed_at = now;
        (!self.revoked).then_some(self.counter)
    }

    fn is_revoked(&self) -> bool {
        self.revoked
    }
}

/// A token can be exchanged repeatedly until one of its successors, or an access token issued with one, is used
/// (SuperTokens).
#[derive(Default)]
struct UntilUsed {
    confirmed: Token,
    parents: HashMap<Token, Token>,
    last: Token,
    revoked: bool,
}

impl Scheme for UntilUsed {
    fn refresh(&mut self, token: Token, now: u64) -> Answer {
        self.uses(token, now, now);
        self.revoked |= token != self.confirmed;
        if self.revoked {
            return None;
        }
        self.last += 1;
        self.parents.insert(self.last, token);
        Some(self.last)
    }

    fn uses(&mut self, token: Token, _: u64, _: u64) {
        if self.parents.get(&token) == Some(&self.confirmed) {
            self.confirmed = token;
        }
    }

    fn is_revoked(&self) -> bool {
        self.revoked
    }
}

/// The function that ships. A token is its generation.
struct Ratchet(RotationState);

impl Default for Ratchet {
    fn default() -> Self {
        Self(RotationState::new(time(0), Timestamp::MAX))
    }
}

fn time(seconds: u64) -> Timestamp {
    Timestamp::from_millis(i64::try_from(seconds * 1_000).unwrap())
}

fn policy() -> Policy {
    Policy { grace: Duration::from_secs(GRACE), idle_timeout: Duration::from_secs(1_000 * HOUR), ..Policy::default() }
}

impl Scheme for Ratchet {
    fn refresh(&mut self, token: Token, now: u64) -> Answer {
        let presented = Presented { generation: token, secret_matches: true, binding: BindingVerdict::Holds };
        let outcome = present(&self.0, presented, time(now), &policy());
        match outcome.next {
            Some(Next::State(rotation)) => self.0 = rotation,
            Some(Next::Revoke) => {
                let revocation = Revocation { at: time(now), reason: RevocationReason::Reuse };
                self.0.revoked = Some(revocation);
            }
            None => {}
        }
        // Without a new token the client keeps its current one.
        outcome.access.map(|_| outcome.refresh.unwrap_or(token))
    }

    fn uses(&mut self, token: Token, issued: u64, now: u64) {
        if acknowledges(time(issued), time(now), &policy()) {
            self.0.acknowledged = self.0.acknowledged.max(Some(token));
        }
    }

    fn is_revoked(&self) -> bool {
        self.0.revoked.is_some()
    }
}

/// Whether the holder of this token is served, now and at the next refresh.
fn is_served_twice(scheme: &mut dyn Scheme, token: Token, now: u64) -> bool {
    let next = scheme.refresh(token, now);
    next.is_some_and(|next| scheme.refresh(next, now + HOUR).is_some())
}

/// Two tabs refresh at once. The jar keeps the token of the last response.
fn two_tabs(scheme: &mut dyn Scheme) -> bool {
    let (first, second) = (scheme.refresh(0, HOUR), scheme.refresh(0, HOUR));
    let (Some(first), Some(second)) = (first, second) else { return false };
    // An echo returns the old token: the client keeps the new one.
    is_served_twice(scheme, second.max(first), 2 * HOUR)
}

/// The response is lost, and the client retries an hour later.
fn lost_answer(scheme: &mut dyn Scheme) -> bool {
    scheme.refresh(0, HOUR);
    is_served_twice(scheme, 0, 2 * HOUR)
}

/// A server-rendered page refreshes and uses its access token at once, and its response is lost.
fn lost_page(scheme: &mut dyn Scheme) -> bool {
    if let Some(next) = scheme.refresh(0, HOUR) {
        scheme.uses(next, HOUR, HOUR);
    }
    is_served_twice(scheme, 0, 2 * HOUR)
}

/// The owner refreshes; a thief with a copy does so within or after the grace period; then both continue in turn.
/// Returns how many refreshes each of them made until the session was revoked, or `None` if it never was.
fn theft(scheme: &mut dyn Scheme, within_the_grace: bool) -> Option<usize> {
    let mut owner = scheme.refresh(0, HOUR)?;
    let mut thief = 0;
    let mut now = HOUR + if within_the_grace { GRACE / 2 } else { GRACE * 2 };
    for turn in 1..=24 {
        if let Some(next) = scheme.refresh(thief, now) {
            thief = next;
        }
        if scheme.is_revoked() {
            return Some(turn);
        }
        now += HOUR;
        if let Some(next) = scheme.refresh(owner, now) {
            owner = next;
        }
        if scheme.is_revoked() {
            return Some(turn);
        }
        now += HOUR;
    }
    None
}

/// A thief replays a copy of an old token every ten seconds for an hour, starting within the grace period. Returns
/// whether a replay is refused.
fn replay(scheme: &mut dyn Scheme) -> bool {
    scheme.refresh(0, HOUR);
    (0..360).map(|n| HOUR + 10 + n * 10).any(|now| scheme.refresh(0, now).is_none())
}

type New = fn() -> Box<dyn Scheme>;

#[test]
fn only_the_ratchet_serves_every_honest_schedule_and_detects_every_theft() {
    let schemes: [(&str, New); 6] = [
        ("one-time tokens", || Box::<OneTime>::default()),
        ("grace period with sibling tokens", || Box::<Siblings>::default()),
        ("sliding grace period", || Box::<Sliding>::default()),
        ("a counter (Supabase)", || Box::<Counter>::default()),
        ("reusable until used (SuperTokens)", || Box::<UntilUsed>::default()),
        ("the ratchet", || Box::<Ratchet>::default()),
    ];
    let mut table = String::from(
        "\n| scheme | two tabs at once | lost response, retry after an hour | lost page that used its access token | \
         theft, used within the grace period | theft, used after it |\n|---|---|---|---|---|---|\n",
    );
    let honest = |served: bool| if served { "served" } else { "**logged out**" };
    let found = |turns: Option<usize>| match turns {
        Some(turns) => format!("found, turn {turns}"),
        None => "**never found**".to_owned(),
    };
    let mut perfect = Vec::new();
    for (name, new) in schemes {
        let served = [two_tabs, lost_answer, lost_page].map(|schedule| schedule(&mut *new()));
        let thefts = [true, false].map(|within| theft(&mut *new(), within));
        let [a, b, c] = served.map(honest);
        let [d, e] = thefts.map(found);
        table += &format!("| {name} | {a} | {b} | {c} | {d} | {e} |\n");
        if served.iter().all(|served| *served) && thefts.iter().all(Option::is_some) {
            perfect.push(name);
        }
    }
    let _ = writeln!(std::io::stdout(), "{table}");
    assert_eq!(perfect, ["the ratchet"]);
    let guide = include_str!("../src/guide/ratchet.md");
    assert!(guide.contains(table.trim()), "the guide contains a different table");
}

#[test]
fn a_replay_within_the_grace_period_does_not_extend_it() {
    assert!(!replay(&mut Sliding::default()), "a sliding window never closes");
    let mut ratchet = Ratchet::default();
    // The owner continues to refresh, and uses the new tokens.
    let newest = ratchet.refresh(0, HOUR).unwrap();
    ratchet.uses(newest, HOUR, HOUR + GRACE + 1);
    assert!((1..360).any(|n| ratchet.refresh(0, HOUR + n * 10).is_none()));
    assert!(ratchet.is_revoked());
}
