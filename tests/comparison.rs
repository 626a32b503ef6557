//! The ratchet compared with other schemes, on the same schedules. The other schemes are minimal implementations of their
//! published behavior; the ratchet is the function that ships.
//!
//! The guide (`src/guide/ratchet.md`) contains the table that this prints.
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

/// What a refresh answers: nothing, if it is refused; otherwise the token to go on with.
type Answer = Option<Token>;

trait Scheme {
    fn refresh(&mut self, token: Token, now: u64) -> Answer;

    /// An access token is used that came with this refresh token, at `issued`.
    fn uses(&mut self, _token: Token, _issued: u64, _now: u64) {}

    /// Nothing that anybody holds is good any more.
    fn has_ended(&self) -> bool;
}

/// Every token once; whatever comes twice ends the session.
#[derive(Default)]
struct OneTime {
    current: Token,
    ended: bool,
}

impl Scheme for OneTime {
    fn refresh(&mut self, token: Token, _: u64) -> Answer {
        self.ended |= token != self.current;
        self.current += u32::from(!self.ended);
        (!self.ended).then_some(self.current)
    }

    fn has_ended(&self) -> bool {
        self.ended
    }
}

/// A token that was used is good for a grace longer, and every use hands out a successor of its own.
#[derive(Default)]
struct Siblings {
    used_at: HashMap<Token, u64>,
    last: Token,
    ended: bool,
}

impl Scheme for Siblings {
    fn refresh(&mut self, token: Token, now: u64) -> Answer {
        let used_at = *self.used_at.entry(token).or_insert(now);
        self.ended |= now - used_at > GRACE;
        self.last += u32::from(!self.ended);
        (!self.ended).then_some(self.last)
    }

    fn has_ended(&self) -> bool {
        self.ended
    }
}

/// The last token is good until it was not used for a grace, and gets the one that took its place.
#[derive(Default)]
struct Sliding {
    current: Token,
    last_used: HashMap<Token, u64>,
    ended: bool,
}

impl Scheme for Sliding {
    fn refresh(&mut self, token: Token, now: u64) -> Answer {
        if token == self.current {
            self.current += 1;
        } else {
            let used = self.last_used.get(&token).copied().unwrap_or(0);
            self.ended |= now - used > GRACE;
        }
        self.last_used.insert(token, now);
        (!self.ended).then_some(self.current)
    }

    fn has_ended(&self) -> bool {
        self.ended
    }
}

/// A counter for the session (Supabase Auth, refresh token algorithm 2): a token one behind, or any within the reuse
/// interval of the last refresh, gets the newest; further behind ends the session.
#[derive(Default)]
struct Counter {
    counter: u32,
    refreshed_at: u64,
    ended: bool,
}

impl Scheme for Counter {
    fn refresh(&mut self, token: Token, now: u64) -> Answer {
        match self.counter - token {
            0 => self.counter += 1,
            1 => {}
            _ if now - self.refreshed_at < GRACE => {}
            _ => self.ended = true,
        }
        self.refreshed_at = now;
        (!self.ended).then_some(self.counter)
    }

    fn has_ended(&self) -> bool {
        self.ended
    }
}

/// A token may be exchanged again and again until one of its successors, or an access token that came with one, is used
/// (SuperTokens).
#[derive(Default)]
struct UntilUsed {
    confirmed: Token,
    parents: HashMap<Token, Token>,
    last: Token,
    ended: bool,
}

impl Scheme for UntilUsed {
    fn refresh(&mut self, token: Token, now: u64) -> Answer {
        self.uses(token, now, now);
        self.ended |= token != self.confirmed;
        if self.ended {
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

    fn has_ended(&self) -> bool {
        self.ended
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
                let revocation =
                    Revocation { at: time(now), expires_at: Timestamp::MAX, reason: RevocationReason::Reuse };
                self.0.revoked = Some(revocation);
            }
            None => {}
        }
        // Without a new token the client keeps the one it has.
        outcome.access.map(|_| outcome.refresh.unwrap_or(token))
    }

    fn uses(&mut self, token: Token, issued: u64, now: u64) {
        if acknowledges(time(issued), time(now), &policy()) {
            self.0.acknowledged = self.0.acknowledged.max(Some(token));
        }
    }

    fn has_ended(&self) -> bool {
        self.0.revoked.is_some()
    }
}

/// Whether somebody who holds this token is served, now and at the next refresh.
fn goes_on(scheme: &mut dyn Scheme, token: Token, now: u64) -> bool {
    let next = scheme.refresh(token, now);
    next.is_some_and(|next| scheme.refresh(next, now + HOUR).is_some())
}

/// Two tabs refresh at once. The jar ends up with whichever answer came last.
fn two_tabs(scheme: &mut dyn Scheme) -> bool {
    let (first, second) = (scheme.refresh(0, HOUR), scheme.refresh(0, HOUR));
    let (Some(first), Some(second)) = (first, second) else { return false };
    // An echo answers the old token: the client keeps the new one.
    goes_on(scheme, second.max(first), 2 * HOUR)
}

/// The answer gets lost, and the client comes back an hour later.
fn lost_answer(scheme: &mut dyn Scheme) -> bool {
    scheme.refresh(0, HOUR);
    goes_on(scheme, 0, 2 * HOUR)
}

/// A page that is rendered on the server refreshes, uses its access token at once, and its answer gets lost.
fn lost_page(scheme: &mut dyn Scheme) -> bool {
    if let Some(next) = scheme.refresh(0, HOUR) {
        scheme.uses(next, HOUR, HOUR);
    }
    goes_on(scheme, 0, 2 * HOUR)
}

/// The owner refreshes; a thief with a copy does so within the grace; then both go on, in turn. How many refreshes each
/// of them got until the session ended; none, if it never did.
fn theft(scheme: &mut dyn Scheme, within_the_grace: bool) -> Option<usize> {
    let mut owner = scheme.refresh(0, HOUR)?;
    let mut thief = 0;
    let mut now = HOUR + if within_the_grace { GRACE / 2 } else { GRACE * 2 };
    for turn in 1..=24 {
        if let Some(next) = scheme.refresh(thief, now) {
            thief = next;
        }
        if scheme.has_ended() {
            return Some(turn);
        }
        now += HOUR;
        if let Some(next) = scheme.refresh(owner, now) {
            owner = next;
        }
        if scheme.has_ended() {
            return Some(turn);
        }
        now += HOUR;
    }
    None
}

/// A thief replays a copy of an old token, every ten seconds for an hour, beginning within its grace.
fn replay(scheme: &mut dyn Scheme) -> bool {
    scheme.refresh(0, HOUR);
    (0..360).map(|n| HOUR + 10 + n * 10).any(|now| scheme.refresh(0, now).is_none())
}

type New = fn() -> Box<dyn Scheme>;

#[test]
fn the_ratchet_alone_serves_every_honest_schedule_and_finds_every_theft() {
    let schemes: [(&str, New); 6] = [
        ("one-time tokens", || Box::<OneTime>::default()),
        ("a grace that hands out siblings", || Box::<Siblings>::default()),
        ("a grace that slides", || Box::<Sliding>::default()),
        ("a counter (Supabase)", || Box::<Counter>::default()),
        ("again until used (SuperTokens)", || Box::<UntilUsed>::default()),
        ("the ratchet", || Box::<Ratchet>::default()),
    ];
    let mut table = String::from(
        "\n| scheme | two tabs at once | lost answer, an hour later | lost page that used its access token | \
         theft, used within the grace | theft, used after it |\n|---|---|---|---|---|---|\n",
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
    assert!(guide.contains(table.trim()), "the guide has another table");
}

#[test]
fn a_replay_within_the_grace_does_not_keep_the_window_open() {
    assert!(!replay(&mut Sliding::default()), "this is how a sliding window fails");
    let mut ratchet = Ratchet::default();
    // The owner refreshes on, and uses what he gets.
    let newest = ratchet.refresh(0, HOUR).unwrap();
    ratchet.uses(newest, HOUR, HOUR + GRACE + 1);
    assert!((1..360).any(|n| ratchet.refresh(0, HOUR + n * 10).is_none()));
    assert!(ratchet.has_ended());
}
