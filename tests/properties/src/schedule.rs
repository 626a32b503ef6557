//! Random schedules: clients, a network that delays, loses and duplicates messages, crashes, failing stores, a thief. A
//! schedule is plain data, so that proptest can shrink it: every number in it is taken modulo the number of things it
//! selects from.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::Open;
use super::oracle::{Answer, Fault, GRACE, Millis};
use super::world::{Check, Pass, Token, World};

/// The assumptions of invariant 1: the longest time a message travels, the clock skew between the nodes, and the time
/// in which a crash can lose a cookie that has arrived. Together they are all that the grace period has room for: a
/// token may be sent as late as `UNSAVED` after its successor arrived, `DELAY` after that one was issued, and travel
/// for `DELAY`.
pub(crate) const DELAY: Millis = 8_000;
pub(crate) const SKEW: Millis = 4_000;
pub(crate) const UNSAVED: Millis = 10_000;
const _: () = assert!(GRACE >= 2 * DELAY + SKEW + UNSAVED);

const CLIENTS: usize = 4;
/// Starts at one, so that shrinking leaves only the relevant actions.
const LENGTH: std::ops::RangeInclusive<usize> = 1..=120;

/// What happens to a message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Delivery {
    /// It arrives after this time.
    After(Millis),
    Lost,
}

#[derive(Clone, Debug)]
pub(crate) enum Action {
    Login {
        client: usize,
        node: usize,
        replacing: bool,
    },
    /// One of a client's tabs refreshes. `again`: the request arrives a second time, on the other node. `rendered`: the
    /// server uses the new access token itself before it responds.
    Refresh {
        client: usize,
        node: usize,
        out: Delivery,
        back: Delivery,
        again: Option<Millis>,
        rendered: bool,
    },
    /// Uses the access token that arrived this many before the newest.
    Use {
        client: usize,
        nth: usize,
        node: usize,
        out: Millis,
    },
    UpdateClaims {
        client: usize,
        nth: usize,
        node: usize,
    },
    Logout {
        client: usize,
        node: usize,
        out: Delivery,
        back: Delivery,
    },
    Revoke {
        client: usize,
        node: usize,
    },
    RevokeAll {
        client: usize,
        node: usize,
        others_only: bool,
    },
    List {
        client: usize,
        node: usize,
    },
    /// The jar returns to its content of this long ago, and the access tokens and all responses under delivery are lost.
    Crash {
        client: usize,
        unsaved: Millis,
    },
    Wait(Millis),
    Store(Fault),
    Flush(usize),
    Rest(usize),
    Restart(usize),
    /// Copies the token that the jar held this many tokens ago, and the newest access token.
    Steal {
        client: usize,
        nth: usize,
    },
    StolenRefresh {
        nth: usize,
        node: usize,
    },
    StolenUse {
        nth: usize,
        node: usize,
    },
    /// Refreshes, while the node's clock is ahead by so much.
    RefreshAhead {
        client: usize,
        node: usize,
        by: Millis,
    },
}

/// A browser, whose tabs share the jar; or a native client, which waits for a response before the next request.
#[derive(Default)]
struct Holder {
    /// The contents of the jar, and since when.
    jar: Vec<(Millis, Option<Token>)>,
    passes: Vec<Pass>,
    /// Counts crashes: responses to requests from before a crash do not arrive.
    life: u32,
    waits_until: Millis,
}

impl Holder {
    fn token(&self) -> Option<&Token> {
        self.jar.last()?.1.as_ref()
    }

    fn put(&mut self, at: Millis, token: Option<Token>) {
        self.jar.push((at, token));
    }

    fn nth_pass(&self, nth: usize) -> Option<Pass> {
        self.passes.iter().rev().cycle().nth(nth).cloned()
    }
}

enum Message {
    Refresh { client: usize, node: usize, token: Token, back: Delivery, rendered: bool, life: u32 },
    Tokens { client: usize, pass: Pass, token: Option<Token>, life: u32 },
    Use { node: usize, pass: Pass },
    Logout { client: usize, node: usize, token: Token, back: Delivery, life: u32 },
    LoggedOut { client: usize, life: u32 },
}

pub(crate) struct Run {
    pub(crate) world: World,
    honest: bool,
    holders: [Holder; CLIENTS],
    under_way: BinaryHeap<Reverse<(Millis, u32)>>,
    messages: BTreeMap<u32, Message>,
    sent: u32,
    loot: Vec<Token>,
    stolen_passes: Vec<Pass>,
}

const fn user(client: usize) -> usize {
    client % 2
}

impl Run {
    pub(crate) fn new(open: Open, skew: Millis, honest: bool) -> Self {
        Self {
            world: World::new(open, skew),
            honest,
            holders: Default::default(),
            under_way: BinaryHeap::new(),
            messages: BTreeMap::new(),
            sent: 0,
            loot: Vec::new(),
            stolen_passes: Vec::new(),
        }
    }

    fn send(&mut self, delivery: Delivery, message: Message) {
        if let Delivery::After(delay) = delivery {
            self.sent += 1;
            self.under_way.push(Reverse((self.world.now() + delay, self.sent)));
            self.messages.insert(self.sent, message);
        }
    }

    /// Lets time pass, and delivers the messages that are due.
    fn wait(&mut self, by: Millis) -> Check {
        let until = self.world.now() + by;
        while let Some(Reverse((at, number))) = self.under_way.peek().copied().filter(|due| due.0.0 <= until) {
            self.under_way.pop();
            self.world.advance(at - self.world.now());
            if let Some(message) = self.messages.remove(&number) {
                self.arrive(message)?;
            }
        }
        self.world.advance(until - self.world.now());
        Ok(())
    }

    fn arrive(&mut self, message: Message) -> Check {
        let now = self.world.now();
        match message {
            Message::Refresh { client, node, token, back, rendered, life } => {
                let (answer, pass, next) = self.world.refresh(node, &token)?;
                self.check_refusal(&token, answer)?;
                if let Some(pass) = pass {
                    if rendered {
                        self.world.authenticate(node, &pass)?;
                    }
                    self.send(back, Message::Tokens { client, pass, token: next, life });
                }
            }
            Message::Tokens { client, pass, token, life } if self.holders[client].life == life => {
                self.world.log(|| format!("client {client}: got {:?}", token.as_ref().map(|token| token.generation)));
                let holder = &mut self.holders[client];
                holder.passes.push(pass);
                if token.is_some() {
                    holder.put(now, token);
                }
            }
            Message::Use { node, pass } => drop(self.world.authenticate(node, &pass)?),
            Message::Logout { client, node, token, back, life } => {
                if self.world.logout(node, &token)? {
                    self.send(back, Message::LoggedOut { client, life });
                }
            }
            Message::LoggedOut { client, life } if self.holders[client].life == life => {
                self.holders[client].put(now, None);
            }
            Message::Tokens { .. } | Message::LoggedOut { .. } => {}
        }
        Ok(())
    }

    /// Invariant 1: if all clients are honest, none is taken for a thief, and every refusal has a known reason.
    fn check_refusal(&self, token: &Token, answer: Answer) -> Check {
        let Answer::Refused(code) = answer else { return Ok(()) };
        let asked = self.world.asked_to_revoke.contains(&token.session);
        match code {
            "refresh_token_reused" if self.honest => Err("an honest client is taken for a thief".to_owned()),
            "session_revoked" if self.honest && !asked => Err("nobody revoked this session".to_owned()),
            // The comparison with the oracle shows that these come at the right time only.
            "refresh_token_reused"
            | "session_revoked"
            | "session_expired"
            | "session_idle"
            | "refresh_busy"
            | "refresh_token_invalid"
            | "store_unavailable" => Ok(()),
            other => Err(format!("an honest token is refused as {other}")),
        }
    }

    pub(crate) fn act(&mut self, action: &Action) -> Check {
        let now = self.world.now();
        match *action {
            Action::Login { client, node, replacing } => {
                let old = self.holders[client].token().filter(|_| replacing).map(|token| token.session);
                if let Some((token, pass)) = self.world.login(node, user(client), old)? {
                    self.holders[client].put(now, Some(token));
                    self.holders[client].passes.push(pass);
                }
            }
            Action::Refresh { client, node, out, back, again, rendered } => {
                let is_native = client >= CLIENTS / 2;
                let holder = &mut self.holders[client];
                let life = holder.life;
                let Some(token) = holder.token().cloned() else { return Ok(()) };
                if is_native && now < holder.waits_until {
                    return Ok(());
                }
                holder.waits_until = now + 2 * DELAY;
                self.world.log(|| format!("client {client}: sends {}, {out:?}, {back:?}", token.generation));
                if let Some(after) = again {
                    let (token, node) = (token.clone(), 1 - node);
                    // The client waits for one response, so the other one does not arrive.
                    let message = Message::Refresh { client, node, token, back: Delivery::Lost, rendered: false, life };
                    self.send(Delivery::After(after), message);
                }
                self.send(out, Message::Refresh { client, node, token, back, rendered, life });
            }
            Action::Use { client, nth, node, out } => {
                if let Some(pass) = self.holders[client].nth_pass(nth) {
                    self.send(Delivery::After(out), Message::Use { node, pass });
                }
            }
            Action::UpdateClaims { client, nth, node } => {
                if let Some(pass) = self.holders[client].nth_pass(nth) {
                    let renewed = self.world.update_claims(node, &pass)?;
                    self.holders[client].passes.extend(renewed);
                }
            }
            Action::Logout { client, node, out, back } => {
                let life = self.holders[client].life;
                if let Some(token) = self.holders[client].token().cloned() {
                    self.send(out, Message::Logout { client, node, token, back, life });
                }
            }
            Action::Revoke { client, node } => {
                if let Some(session) = self.holders[client].token().map(|token| token.session) {
                    self.world.revoke(node, user(client), session)?;
                }
            }
            Action::RevokeAll { client, node, others_only } => {
                let mine = self.holders[client].token().map(|token| token.session);
                self.world.revoke_all(node, user(client), mine.filter(|_| others_only))?;
            }
            Action::List { client, node } => self.world.list(node, user(client))?,
            Action::Crash { client, unsaved } => {
                let holder = &mut self.holders[client];
                let saved = holder.jar.iter().rev().find(|(at, _)| *at <= now - unsaved);
                let saved = saved.and_then(|(_, token)| token.clone());
                self.world.log(|| {
                    format!("client {client}: crash, the jar now holds {:?}", saved.as_ref().map(|t| t.generation))
                });
                holder.put(now, saved);
                holder.passes.clear();
                holder.life += 1;
                holder.waits_until = now;
            }
            Action::Wait(by) => self.wait(by)?,
            Action::Store(fault) => self.world.set_fault(fault),
            Action::Flush(node) => self.world.flush(node)?,
            Action::Rest(node) => self.world.rest(node),
            Action::Restart(node) => self.world.restart(node),
            Action::Steal { client, nth } => {
                let holder = &self.holders[client];
                let held: Vec<_> = holder.jar.iter().rev().filter_map(|(_, token)| token.clone()).collect();
                if !held.is_empty() {
                    self.loot.push(held[nth % held.len()].clone());
                }
                self.stolen_passes.extend(holder.passes.last().cloned());
            }
            Action::StolenRefresh { nth, node } => {
                if let Some(token) = self.loot.iter().rev().cycle().nth(nth).cloned() {
                    let (_, pass, next) = self.world.refresh(node, &token)?;
                    self.stolen_passes.extend(pass);
                    self.loot.extend(next);
                }
            }
            Action::StolenUse { nth, node } => {
                if let Some(pass) = self.stolen_passes.iter().rev().cycle().nth(nth).cloned() {
                    self.world.authenticate(node, &pass)?;
                }
            }
            Action::RefreshAhead { client, node, by } => {
                if let Some(token) = self.holders[client].token().cloned() {
                    let (answer, pass, next) = self.world.refresh_ahead(node, &token, by)?;
                    self.check_refusal(&token, answer)?;
                    self.holders[client].passes.extend(pass);
                    if next.is_some() {
                        self.holders[client].put(now, next);
                    }
                }
            }
        }
        Ok(())
    }

    /// After all faults are over, every honest client still has its session, or receives the reason why not.
    fn settle(&mut self) -> Check {
        self.world.set_fault(Fault::None);
        self.wait(200_000)?;
        for round in 0..2 {
            for client in 0..CLIENTS {
                let Some(token) = self.holders[client].token().cloned() else { continue };
                let (answer, pass, next) = self.world.refresh(round, &token)?;
                self.check_refusal(&token, answer)?;
                if self.honest && answer == Answer::Refused("refresh_busy") {
                    return Err(format!("client {client} gets refresh_busy without a concurrent refresh"));
                }
                let now = self.world.now();
                self.holders[client].passes.extend(pass);
                if next.is_some() {
                    self.holders[client].put(now, next);
                }
            }
            // By now no client is refused because another one with the same session has just refreshed.
            self.wait(GRACE + SKEW + 1)?;
        }
        for (node, user) in [(0, 0), (1, 1), (0, 1), (1, 0)] {
            self.world.rest(node);
            self.world.list(node, user)?;
        }
        Ok(())
    }
}

pub(crate) fn fail(world: &World, error: &str) -> TestCaseError {
    TestCaseError::fail(format!("{error}\n{}", world.trace()))
}

pub(crate) fn run(open: Open, skew: Millis, honest: bool, actions: &[Action]) -> Result<(), TestCaseError> {
    let mut run = Run::new(open, skew, honest);
    // Every client starts with a session, or most actions would have no effect.
    let logins = (0..CLIENTS).map(|client| Action::Login { client, node: client % 2, replacing: false });
    let logins: Vec<_> = logins.collect();
    let done = logins.iter().chain(actions).try_for_each(|action| run.act(action)).and_then(|()| run.settle());
    done.map_err(|error| fail(&run.world, &error))
}

fn client() -> impl Strategy<Value = usize> {
    // The first client has the most actions, so that races and rotations meet on one session.
    prop_oneof![5 => Just(0_usize), 1 => 1..CLIENTS]
}

fn node() -> impl Strategy<Value = usize> {
    0..2_usize
}

/// Mostly short, and often enough the longest.
fn delay(longest: Millis) -> impl Strategy<Value = Millis> + Clone {
    prop_oneof![4 => Just(0_i64), 4 => 0..=500_i64.min(longest), 3 => 0..=longest, 1 => Just(longest)]
}

fn delivery(longest: Millis) -> impl Strategy<Value = Delivery> + Clone {
    prop_oneof![5 => delay(longest).prop_map(Delivery::After), 1 => Just(Delivery::Lost)]
}

fn pause() -> impl Strategy<Value = Millis> {
    prop_oneof![
        4 => 0..2_000_i64,
        4 => 0..=GRACE,
        4 => GRACE - SKEW..=GRACE + SKEW + 1,
        2 => GRACE..=GRACE + 1,
        3 => GRACE..4 * GRACE,
        1 => 0..20 * 60_000_i64,
        1 => 50 * 60_000..3 * 60 * 60_000_i64,
    ]
}

/// Actions of honest clients, on a network that delivers within `delay` or not at all, and faults of the nodes.
fn honest_action(longest: Millis, unsaved: Millis) -> impl Strategy<Value = Action> {
    let refresh =
        (client(), node(), delivery(longest), delivery(longest), proptest::option::weighted(0.15, delay(longest)))
            .prop_flat_map(|(client, node, out, back, again)| {
                any::<bool>().prop_map(move |rendered| Action::Refresh { client, node, out, back, again, rendered })
            });
    let usage = (client(), 0..4_usize, node(), delay(longest));
    let logout = (client(), node(), delivery(longest), delivery(longest));
    let fault = prop_oneof![3 => Just(Fault::None), 1 => Just(Fault::Fails), 2 => Just(Fault::LosesReplies)];
    prop_oneof![
        30 => refresh,
        24 => pause().prop_map(Action::Wait),
        12 => usage.prop_map(|(client, nth, node, out)| Action::Use { client, nth, node, out }),
        2 => (client(), 0..4_usize, node()).prop_map(|(client, nth, node)| Action::UpdateClaims { client, nth, node }),
        4 => (client(), 0..=unsaved).prop_map(|(client, unsaved)| Action::Crash { client, unsaved }),
        4 => (client(), node(), any::<bool>())
            .prop_map(|(client, node, replacing)| Action::Login { client, node, replacing }),
        1 => logout.prop_map(|(client, node, out, back)| Action::Logout { client, node, out, back }),
        1 => (client(), node()).prop_map(|(client, node)| Action::Revoke { client, node }),
        1 => (client(), node(), any::<bool>())
            .prop_map(|(client, node, others_only)| Action::RevokeAll { client, node, others_only }),
        2 => (client(), node()).prop_map(|(client, node)| Action::List { client, node }),
        3 => fault.prop_map(Action::Store),
        2 => node().prop_map(Action::Flush),
        2 => node().prop_map(Action::Rest),
        1 => node().prop_map(Action::Restart),
    ]
}

pub(crate) fn honest(longest: Millis, unsaved: Millis) -> impl Strategy<Value = Vec<Action>> {
    proptest::collection::vec(honest_action(longest, unsaved), LENGTH)
}

/// How far a clock may be ahead: a little more than clock skew explains, or up to nearly the idle timeout.
pub(crate) fn leap() -> impl Strategy<Value = Millis> {
    prop_oneof![1 => GRACE..=GRACE + 2, 1 => GRACE..5 * GRACE, 2 => 5 * GRACE..55 * 60_000_i64]
}

/// The same on a network and a disk without any limits, with clocks that are far ahead at times, and with a thief.
pub(crate) fn anything() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        16 => honest_action(100_000, 100_000),
        2 => (client(), 0..4_usize).prop_map(|(client, nth)| Action::Steal { client, nth }),
        4 => (0..6_usize, node()).prop_map(|(nth, node)| Action::StolenRefresh { nth, node }),
        2 => (0..3_usize, node()).prop_map(|(nth, node)| Action::StolenUse { nth, node }),
        1 => (client(), node(), leap()).prop_map(|(client, node, by)| Action::RefreshAhead { client, node, by }),
    ];
    proptest::collection::vec(action, LENGTH)
}
