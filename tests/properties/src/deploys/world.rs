//! Two nodes with settings of their own on one store, and what is promised whatever these settings are.
//!
//! Three kinds of rules are checked after each step:
//!
//! - The promises, which know nothing of rows and verdicts: nothing that was revoked is accepted, an honest client is
//!   refused only for a reason that it is told, realms are apart.
//! - The protocol: each refresh gets the response that the protocol's table has for the row in the store and the settings of
//!   the node, and changes the row in that way.
//! - The rows: no session is revoked, lost or changed unless the step explains it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum_refresh::config::OnReuse;
use axum_refresh::store::{OnMaxSessions, SessionRecord};
use axum_refresh::{Event, SessionId, Tokens};

use super::server::{Server, Version, start};
use super::settings::{NodeSettings, STAFF, duration};
use super::store::{FeedStore, Flaw};
use crate::oracle::{Answer, Fault, Millis, Row, UNAVAILABLE};
use crate::world::{Check, FaultyStore, code, generation_of, name};
use crate::{Clock, Open};

pub(super) const CLIENTS: usize = 4;
/// The shortest time between two reads of the feed.
const TICK: Millis = 1_000;

/// A promise that is not made, to show that it would not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overpromise {
    /// A revocation is in force on the other node before that has read the feed.
    RevokedEverywhereAtOnce,
    /// An access token is accepted for as long as the node that has issued it says.
    TtlOfTheIssuer,
    /// A session may be idle for as long as the node says on which it began.
    IdleTimeoutOfTheLogin,
}

#[derive(Clone, Debug)]
struct Revoked {
    /// Orders it with the reads of the feed.
    event: u64,
    at: Millis,
    why: &'static str,
    /// The nodes that have confirmed it, by their place and their number there.
    known_to: BTreeSet<(usize, u32)>,
}

#[derive(Clone, Debug)]
struct Token {
    text: Arc<str>,
    generation: u32,
    secret: usize,
}

#[derive(Clone, Debug)]
struct Pass {
    text: Arc<str>,
    generation: u32,
    issued: Millis,
    expires: Millis,
    secret: usize,
    claims: Version,
    role: u32,
    /// Whether its response has reached the client.
    arrived: bool,
    revoked: Option<Revoked>,
}

struct Session {
    id: SessionId,
    client: usize,
    user: usize,
    realm: Option<&'static str>,
    created: Millis,
    expires: Millis,
    idle_timeout_of_login: Millis,
    /// What its claims are, and which version has written them.
    role: u32,
    claims: Version,
    tokens: Vec<Token>,
    passes: Vec<Pass>,
    /// When each generation got a successor.
    superseded: BTreeMap<u32, Millis>,
    /// A thief may have a token, or has used one.
    is_contested: bool,
    /// The user's sessions are being revoked because a token of another one was presented again.
    is_doomed: bool,
    reused_at: Option<Millis>,
    revoked: Option<Revoked>,
    /// The last use that is in the store for sure, and the last use at all.
    stored_use: Millis,
    last_use: Millis,
    /// As of the last step.
    row: Option<SessionRecord>,
}

impl Session {
    fn has_ended(&self, now: Millis) -> bool {
        self.revoked.is_some() || self.is_doomed || now >= self.expires
    }
}

struct Node {
    server: Box<dyn Server>,
    settings: NodeSettings,
    /// Those before the last deploy.
    before: NodeSettings,
    /// How many nodes were at this place before.
    number: u32,
    /// By session: when it was last used here, and the generation that is known here to have arrived.
    uses: BTreeMap<usize, (Millis, Option<u32>)>,
    /// Until when its background task has run.
    rested_at: Millis,
}

#[derive(Clone, Default)]
struct Client {
    session: Option<usize>,
    token: Option<Token>,
}

/// What a step may do to the rows.
#[derive(Default)]
struct Effects {
    /// The sessions that it may revoke, and why.
    revoked: BTreeMap<usize, &'static str>,
    /// The session whose rotation changes, and the row as the protocol has it afterwards.
    rotated: Option<(usize, Row)>,
    /// Whether the node has confirmed what it did.
    is_confirmed: bool,
}

pub(super) struct World {
    clock: Clock,
    start: Millis,
    store: FaultyStore,
    feed: FeedStore,
    fault: Fault,
    nodes: Vec<Node>,
    sessions: Vec<Session>,
    clients: [Client; CLIENTS],
    last_role: u32,
    handed_out: BTreeSet<(usize, u32)>,
    overpromise: Option<Overpromise>,
    lost: Arc<AtomicUsize>,
    trace: Vec<String>,
}

const fn user(client: usize) -> usize {
    client % 2
}

/// The user as a store keeps it.
fn stored_user(user: usize, realm: Option<&str>) -> String {
    realm.map_or_else(|| name(user).to_owned(), |realm| format!("{realm}\0{}", name(user)))
}

fn row_of(record: &SessionRecord, user: usize) -> Row {
    let state = &record.rotation;
    Row {
        user,
        generation: state.generation,
        parent: state.parent,
        rotated_at: state.rotated_at.map(|at| at.as_millis()),
        acknowledged: state.acknowledged,
        seen: state.last_seen_at.as_millis(),
        expires: state.expires_at.as_millis(),
        revoked: state.revoked.is_some(),
        claims: 0,
        cutoff: 0,
    }
}

const fn rotation(row: &Row) -> (u32, Option<u32>, Option<Millis>) {
    (row.generation, row.parent, row.rotated_at)
}

impl World {
    pub(super) fn new(
        open: Open,
        settings: [&NodeSettings; 2],
        flaw: Option<Flaw>,
        overpromise: Option<Overpromise>,
    ) -> Self {
        let clock = Clock::new();
        let feed = FeedStore::over(open(), clock.clone(), flaw);
        let store = FaultyStore::over(Arc::new(feed.clone()));
        let lost = Arc::default();
        let now = clock.now().as_millis();
        let nodes = settings.map(|settings| Node {
            server: start(&store, clock.clone(), settings, count_lost(&lost)),
            settings: settings.clone(),
            before: settings.clone(),
            number: 0,
            uses: BTreeMap::new(),
            rested_at: now,
        });
        let mut world = Self {
            start: now,
            clock,
            store,
            feed,
            fault: Fault::None,
            nodes: nodes.into(),
            sessions: Vec::new(),
            clients: Default::default(),
            last_role: 0,
            handed_out: BTreeSet::new(),
            overpromise,
            lost,
            trace: Vec::new(),
        };
        for (node, settings) in settings.into_iter().enumerate() {
            world.log(|| format!("node {node}: {settings:?}"));
        }
        world
    }

    fn now(&self) -> Millis {
        self.clock.now().as_millis()
    }

    fn log(&mut self, what: impl FnOnce() -> String) {
        let at = self.now() - self.start;
        self.trace.push(format!("{:>9}.{:03} s  {}", at / 1000, at % 1000, what()));
    }

    pub(super) fn trace(&self) -> String {
        self.trace.join("\n")
    }

    fn client(&self, client: usize) -> Client {
        self.clients[client].clone()
    }

    fn server(&self, node: usize) -> &dyn Server {
        let Node { server, settings, .. } = &self.nodes[node];
        self.feed.serve(node, settings.retention());
        &**server
    }

    /// Whether the node must know a revocation: it has made it, or has read the feed since, or has to read it now.
    fn must_know(&self, node: usize, revoked: &Revoked) -> bool {
        let Node { number, settings, .. } = &self.nodes[node];
        self.overpromise == Some(Overpromise::RevokedEverywhereAtOnce)
            || revoked.known_to.contains(&(node, *number))
            || self
                .feed
                .read_by(node)
                .is_none_or(|read| read.event > revoked.event || self.now() - read.at >= settings.max_staleness)
    }

    fn revocation(&self, node: Option<usize>, why: &'static str) -> Revoked {
        let known_to = node.map(|node| (node, self.nodes[node].number)).into_iter().collect();
        Revoked { event: self.feed.next_event(), at: self.now(), why, known_to }
    }

    /// The sessions of a user, or of everyone, in the realm of a node.
    fn scope(&self, node: usize, user: Option<usize>) -> Vec<usize> {
        let realm = self.nodes[node].settings.realm;
        let all = self.sessions.iter().enumerate();
        let in_scope = all.filter(|(_, s)| s.realm == realm && user.is_none_or(|user| s.user == user));
        in_scope.map(|(number, _)| number).collect()
    }

    /// The row with what the node knows of it and the store does not yet.
    fn row(&self, node: usize, session: usize) -> Option<Row> {
        let found = &self.sessions[session];
        let mut row = row_of(found.row.as_ref()?, found.user);
        if let Some((seen, acknowledged)) = self.nodes[node].uses.get(&session) {
            row.seen = row.seen.max(*seen);
            row.acknowledged = row.acknowledged.max(*acknowledged);
        }
        Some(row)
    }

    fn used(&mut self, node: usize, session: usize, acknowledged: Option<u32>) {
        let now = self.now();
        self.sessions[session].last_use = now;
        let used = self.nodes[node].uses.entry(session).or_insert((now, None));
        *used = (now, used.1.max(acknowledged));
    }

    /// Compares the rows with those before the step.
    fn observe(&mut self, node: usize, effects: &Effects) -> Check {
        let now = self.now();
        for number in 0..self.sessions.len() {
            let session = &self.sessions[number];
            let Some(before) = &session.row else { continue };
            let Some(after) = self.feed.row(session.id) else {
                if now < session.expires {
                    return Err(format!("the row of session {number} is gone before it has expired"));
                }
                self.sessions[number].row = None;
                continue;
            };
            let (old, new) = (row_of(before, session.user), row_of(&after, session.user));
            if new.expires != session.expires || *after.user_id != *stored_user(session.user, session.realm) {
                return Err(format!("session {number} has another expiry or user"));
            }
            if new.seen < old.seen || new.acknowledged < old.acknowledged || new.seen > session.last_use {
                return Err(format!("the activity of session {number} is wrong: {old:?} became {new:?}"));
            }
            if new.seen < session.stored_use {
                return Err(format!("activity of session {number} was lost"));
            }
            let claims: serde_json::Value = serde_json::from_str(&after.claims).map_err(|error| error.to_string())?;
            if claims["role"].as_str() != Some(&*session.role.to_string()) {
                return Err(format!("session {number} has the claims {claims}, and not {}", session.role));
            }
            let rotated = effects.rotated.filter(|(rotated, _)| *rotated == number).map_or(old, |(_, row)| row);
            if rotation(&new) != rotation(&rotated) {
                return Err(format!("the row of session {number} is {new:?}, but the protocol requires {rotated:?}"));
            }
            let mut revoked = None;
            if new.revoked && session.revoked.is_none() {
                let doomed = session.is_doomed.then_some("with its user's other sessions, for reuse");
                let Some(why) = effects.revoked.get(&number).copied().or(doomed) else {
                    return Err(format!("session {number} was revoked, and nothing explains it"));
                };
                revoked = Some(why);
            }
            if !new.revoked && session.revoked.as_ref().is_some_and(|revoked| !revoked.known_to.is_empty()) {
                return Err(format!("the revocation of session {number} was confirmed, and its row is not revoked"));
            }
            if let Some(why) = revoked {
                self.log(|| format!("      session {number} is revoked: {why}"));
                self.sessions[number].revoked = Some(self.revocation(effects.is_confirmed.then_some(node), why));
            }
            self.sessions[number].row = Some(after);
        }
        if self.lost.swap(0, Ordering::Relaxed) > 0 {
            return Err("a node reports lost revocations, and the store has lost none".to_owned());
        }
        Ok(())
    }

    /// A code that no settings explain.
    fn check_code(&self, what: &str, refused: &str) -> Check {
        match refused {
            UNAVAILABLE if self.fault == Fault::None => Err(format!("{what}: {refused}, and the store has no fault")),
            "internal" => Err(format!("{what}: {refused}")),
            _ => Ok(()),
        }
    }

    /// Records the tokens of a response.
    fn take(
        &mut self,
        node: usize,
        number: usize,
        tokens: &Tokens,
        generation: u32,
        arrived: bool,
    ) -> Check<Option<Token>> {
        let now = self.now();
        let millis = |duration: std::time::Duration| i64::try_from(duration.as_millis()).unwrap();
        let settings = &self.nodes[node].settings;
        let session = &mut self.sessions[number];
        let expires = now + millis(tokens.expires_in);
        if tokens.session_id != session.id || now + millis(tokens.session_expires_in) != session.expires {
            return Err(format!("a response for session {number} has another session or expiry"));
        }
        if expires > session.expires.min(now + settings.access_ttl) {
            return Err(format!("an access token of session {number} lives too long"));
        }
        session.passes.push(Pass {
            text: tokens.access_token.as_str().into(),
            generation,
            issued: now,
            expires,
            secret: settings.secret,
            claims: session.claims,
            role: session.role,
            arrived,
            revoked: None,
        });
        let Some(text) = &tokens.refresh_token else { return Ok(None) };
        let generation = generation_of(text)?;
        if !self.handed_out.insert((number, generation)) {
            return Err(format!("refresh token {generation} of session {number} was handed out twice"));
        }
        for older in 0..generation {
            session.superseded.entry(older).or_insert(now);
        }
        let token = Token { text: text.as_str().into(), generation, secret: settings.secret };
        session.tokens.push(token.clone());
        Ok(Some(token))
    }

    pub(super) fn login(&mut self, client: usize, node: usize, replacing: bool) -> Check {
        let now = self.now();
        let settings = self.nodes[node].settings.clone();
        let rules = settings.rules();
        let old = self.clients[client].session.filter(|_| replacing);
        let is_live = |session: &usize| {
            let session = &self.sessions[*session];
            session.row.as_ref().is_some_and(|row| row_of(row, session.user).is_live_by(now, rules))
        };
        let scope = self.scope(node, Some(user(client)));
        let replaced = old.filter(|old| {
            let row = self.sessions[*old].row.as_ref();
            scope.contains(old) && row.is_some_and(|row| row.rotation.revoked.is_none())
        });
        // Sessions are numbered in the order of their logins.
        let others: Vec<_> = scope.into_iter().filter(|other| Some(*other) != replaced).filter(is_live).collect();
        let excess =
            settings.max_sessions.map_or(0, |max| (others.len() + 1).saturating_sub(usize::try_from(max).unwrap()));
        let is_full = excess > 0 && settings.on_max_sessions == OnMaxSessions::Refuse;
        let mut effects = Effects::default();
        if !is_full {
            effects.revoked.extend(others.iter().take(excess).map(|other| (*other, "evicted by the session limit")));
            effects.revoked.extend(replaced.map(|old| (old, "replaced by a login")));
        }
        let expected = match self.fault {
            Fault::None if is_full => Err("session_limit"),
            Fault::None => Ok(()),
            Fault::Fails | Fault::LosesReplies => Err(UNAVAILABLE),
        };
        let number = self.sessions.len();
        let role = self.last_role + 1;
        let inserted = self.store.inserted().len();
        let old = old.map(|old| self.sessions[old].id);
        let response = code(self.server(node).login(name(user(client)), role, old));
        let what = format!("node {node}: {} opens session {number}, replacing {replaced:?}", name(user(client)));
        let result = response.as_ref().map(drop).map_err(|code| *code);
        self.log(|| format!("{what}: {result:?}"));
        if result != expected {
            return Err(format!("{what}: {result:?}, but the settings require {expected:?}"));
        }
        let row = self.store.inserted().get(inserted).and_then(|id| Some((*id, self.feed.row(*id)?)));
        if let Some((id, row)) = row {
            self.last_role = role;
            // In one millisecond, a later login cannot be told from an earlier one.
            let is_doomed =
                self.scope(node, Some(user(client))).iter().any(|s| self.sessions[*s].reused_at == Some(now));
            self.sessions.push(Session {
                id,
                client,
                user: user(client),
                realm: settings.realm,
                created: now,
                expires: now + settings.lifetime,
                idle_timeout_of_login: settings.idle_timeout,
                role,
                claims: settings.claims,
                tokens: Vec::new(),
                passes: Vec::new(),
                superseded: BTreeMap::new(),
                is_contested: false,
                is_doomed,
                reused_at: None,
                revoked: None,
                stored_use: now,
                last_use: now,
                row: Some(row),
            });
        }
        effects.is_confirmed = response.is_ok();
        self.observe(node, &effects)?;
        if self.sessions.len() > number
            && let Some(spared) = effects.revoked.keys().find(|session| self.sessions[**session].revoked.is_none())
        {
            return Err(format!("{what}: session {spared} goes on beyond the session limit, or is not replaced"));
        }
        if let Ok(tokens) = response {
            self.used(node, number, None);
            let token = self.take(node, number, &tokens, 0, true)?;
            // A login is no use of a token.
            self.nodes[node].uses.remove(&number);
            self.clients[client] = Client { session: Some(number), token };
        }
        Ok(())
    }

    /// A client refreshes with its newest token. If the response is lost, it presents the same one again later. If it learns
    /// that its session has ended, it logs in again.
    pub(super) fn refresh(&mut self, client: usize, node: usize, arrives: bool) -> Check {
        let Client { session: Some(session), token: Some(token) } = self.client(client) else {
            return self.login(client, node, false);
        };
        let (answer, next) = self.present(node, session, &token, arrives, true)?;
        if !arrives {
            return Ok(());
        }
        if next.is_some() {
            self.clients[client].token = next;
        }
        let is_over = ["session_revoked", "session_expired", "session_idle", "refresh_token_reused"];
        match answer {
            Answer::Refused(code) if is_over.contains(&code) => self.login(client, node, false),
            _ => Ok(()),
        }
    }

    /// Somebody presents one of the tokens that a client's sessions ever had: a thief, or a network that delivers a request
    /// twice.
    pub(super) fn present_any(&mut self, client: usize, nth: usize, node: usize) -> Check {
        let now = self.now();
        let own = self.sessions.iter().enumerate().filter(|(_, session)| session.client == client);
        let tokens =
            own.rev().flat_map(|(number, session)| session.tokens.iter().rev().map(move |token| (number, token)));
        let Some((number, token)) = tokens.cycle().nth(nth).map(|(number, token)| (number, token.clone())) else {
            return Ok(());
        };
        let session = &mut self.sessions[number];
        let age = session.superseded.get(&token.generation).map(|at| now - at);
        let is_late_duplicate = age.is_some_and(|age| age <= self.nodes[node].settings.grace);
        session.is_contested |= !is_late_duplicate;
        self.present(node, number, &token, false, false).map(drop)
    }

    fn present(
        &mut self,
        node: usize,
        number: usize,
        token: &Token,
        arrives: bool,
        is_owner: bool,
    ) -> Check<(Answer, Option<Token>)> {
        let now = self.now();
        if self.decide(node, number, token).0 == Answer::Refused("refresh_token_reused") {
            // The node revokes in a task of its own, beside which its background task runs.
            self.run_background(node);
            self.observe(node, &Effects::default())?;
        }
        let settings = self.nodes[node].settings.clone();
        let session = &self.sessions[number];
        let last_use = session.last_use;
        let mut effects = Effects { is_confirmed: true, ..Effects::default() };
        let (decided, next) = self.decide(node, number, token);
        let is_reply_lost = next.is_some() && self.fault == Fault::LosesReplies;
        let expected = if is_reply_lost { Answer::Refused(UNAVAILABLE) } else { decided };
        let doomed: Vec<_> = match decided {
            _ if settings.on_reuse != OnReuse::User => Vec::new(),
            Answer::Refused("refresh_token_reused") => self.began_until(node, number, now),
            // The node that has found the reuse may have crashed before it had revoked the others.
            Answer::Refused("session_revoked") => {
                session.reused_at.map_or_else(Vec::new, |at| self.began_until(node, number, at))
            }
            _ => Vec::new(),
        };
        if let Some(row) = next {
            effects.rotated = Some((number, row));
        }
        if matches!(decided, Answer::Granted(..)) {
            self.sessions[number].last_use = now;
        }
        if decided == Answer::Refused("refresh_token_reused") {
            effects.revoked.insert(number, "a superseded token was presented");
            effects.is_confirmed = !is_reply_lost;
            self.sessions[number].reused_at = Some(now);
        }
        for other in doomed.iter().copied() {
            self.sessions[other].is_doomed = true;
        }
        let response = self.server(node).refresh(&token.text);
        let answer = match &response {
            Ok(refreshed) => {
                let rule = format!("{:?}", refreshed.verdict);
                let rules = ["Touch", "Rotate", "Ahead", "Echo", "Recover"];
                let rule = rules.into_iter().find(|known| **known == rule).ok_or("granted by a rule that refuses")?;
                let next = refreshed.tokens.refresh_token.as_deref().map(generation_of).transpose()?;
                Answer::Granted(rule, next.unwrap_or(token.generation), next)
            }
            Err(error) => Answer::Refused(error.code()),
        };
        let who = if is_owner { "the owner" } else { "somebody" };
        let what = format!("node {node}: {who} refreshes with token {} of session {number}", token.generation);
        self.log(|| format!("{what}: {answer:?}"));

        let session = &self.sessions[number];
        match answer {
            Answer::Granted(..) => {
                if let Some(revoked) = &session.revoked {
                    return Err(format!("{what}: accepted, and it was revoked ({})", revoked.why));
                }
                if settings.realm != session.realm {
                    return Err(format!("{what}: a token of another realm is accepted"));
                }
                if now >= session.expires || now - last_use >= settings.idle_timeout {
                    return Err(format!("{what}: accepted, and it has expired or is idle"));
                }
            }
            Answer::Refused(refused) => {
                self.check_code(&what, refused)?;
                if !session.is_contested && (is_owner || refused == "refresh_token_reused") {
                    self.check_refusal(node, number, token, refused).map_err(|error| format!("{what}: {error}"))?;
                }
            }
        }
        if answer == Answer::Refused("session_outdated") && self.feed.row(session.id) != session.row {
            return Err(format!("{what}: {answer:?}, and the row has changed"));
        }
        // The node may be about to revoke it.
        let is_refused_early = session.is_doomed && answer == Answer::Refused("session_revoked") && answer != expected;
        if is_refused_early {
            effects.rotated = None;
        } else if answer != expected {
            return Err(format!("{what}: {answer:?}, but the protocol requires {expected:?}"));
        } else if matches!(decided, Answer::Granted(..)) && next.is_some() {
            self.sessions[number].stored_use = now;
        }
        self.observe(node, &effects)?;
        if self.fault == Fault::None
            && answer == Answer::Refused("refresh_token_reused")
            && let Some(other) = doomed
                .iter()
                .find(|other| self.sessions[**other].row.as_ref().is_some_and(|row| row.rotation.revoked.is_none()))
        {
            return Err(format!("{what}: the user's session {other} goes on"));
        }
        let (Ok(refreshed), Answer::Granted(_, generation, _)) = (response, answer) else { return Ok((answer, None)) };
        self.used(node, number, None);
        Ok((answer, self.take(node, number, &refreshed.tokens, generation, arrives)?))
    }

    /// The response that the settings and the row require, and the row afterwards if it changes.
    fn decide(&self, node: usize, number: usize, token: &Token) -> (Answer, Option<Row>) {
        let (settings, session) = (&self.nodes[node].settings, &self.sessions[number]);
        match self.row(node, number) {
            _ if !settings.has_key(token.secret, session.realm) => (Answer::Refused("refresh_token_invalid"), None),
            _ if self.fault == Fault::Fails => (Answer::Refused(UNAVAILABLE), None),
            None => (Answer::Refused("refresh_token_invalid"), None),
            Some(row) => match row.present_by(token.generation, self.now(), settings.rules()) {
                (Answer::Granted(..), _) if !settings.claims.reads(session.claims) => {
                    (Answer::Refused("session_outdated"), None)
                }
                decided => decided,
            },
        }
    }

    /// The other sessions of the user that began until then.
    fn began_until(&self, node: usize, session: usize, at: Millis) -> Vec<usize> {
        let scope = self.scope(node, Some(self.sessions[session].user));
        scope.into_iter().filter(|other| *other != session && self.sessions[*other].created <= at).collect()
    }

    /// Why an honest client may be refused. Nobody else has used its session.
    fn check_refusal(&self, node: usize, number: usize, token: &Token, refused: &str) -> Check {
        let (now, settings, session) = (self.now(), &self.nodes[node].settings, &self.sessions[number]);
        let used_here = self.nodes[node].uses.get(&number).map_or(session.stored_use, |(seen, _)| *seen);
        let idle_timeout = match self.overpromise {
            Some(Overpromise::IdleTimeoutOfTheLogin) => session.idle_timeout_of_login,
            _ => settings.idle_timeout,
        };
        let is_explained = match refused {
            "session_revoked" => session.revoked.is_some() || session.is_doomed,
            "session_expired" => now >= session.expires,
            "session_idle" => now - used_here.max(session.stored_use) >= idle_timeout,
            "session_outdated" => !settings.claims.reads(session.claims),
            "refresh_token_invalid" => !settings.has_key(token.secret, session.realm) || now >= session.expires,
            UNAVAILABLE => self.fault != Fault::None,
            _ => false,
        };
        if is_explained { Ok(()) } else { Err(format!("{refused}, and neither a step nor the settings explain it")) }
    }

    /// A client uses an access token that it has received, or a thief any one.
    pub(super) fn authenticate(&mut self, client: usize, nth: usize, node: usize, is_owner: bool) -> Check {
        let Some((session, pass)) = self.nth_pass(client, nth, is_owner) else { return Ok(()) };
        self.check_pass(node, session, pass).map(drop)
    }

    /// Of all that the client's sessions ever had, newest first.
    fn nth_pass(&self, client: usize, nth: usize, is_owner: bool) -> Option<(usize, usize)> {
        let own = self.sessions.iter().enumerate().rev().filter(|(_, session)| session.client == client);
        let passes = own.flat_map(|(number, session)| {
            session.passes.iter().enumerate().rev().map(move |(pass, what)| (number, pass, what))
        });
        let passes = passes.filter(|(_, _, pass)| pass.arrived || !is_owner);
        passes.cycle().nth(nth).map(|(number, pass, _)| (number, pass))
    }

    fn check_pass(&mut self, node: usize, number: usize, pass: usize) -> Check<bool> {
        let now = self.now();
        let settings = self.nodes[node].settings.clone();
        let session = &self.sessions[number];
        let Pass { text, generation, issued, expires, secret, claims, role, arrived, .. } =
            session.passes[pass].clone();
        let revoked: Vec<_> = session.revoked.iter().chain(&session.passes[pass].revoked).cloned().collect();
        let known = revoked.iter().find(|revoked| self.must_know(node, revoked));
        let is_valid = settings.has_key(secret, session.realm) && settings.claims.reads(claims);
        let is_over = match self.overpromise {
            Some(Overpromise::TtlOfTheIssuer) => now - settings.leeway >= expires,
            _ => now - settings.leeway >= expires.min(issued + settings.access_ttl),
        };
        let response = code(self.server(node).authenticate(&text));
        let what = format!("node {node}: access token {pass} of session {number}");
        self.log(|| format!("{what}: {response:?}"));
        let session = &self.sessions[number];
        if response.is_ok() {
            if let Some(revoked) = known {
                return Err(format!("{what}: accepted, and the node must know that it was revoked ({})", revoked.why));
            }
            if settings.realm != session.realm {
                return Err(format!("{what}: a token of another realm is accepted"));
            }
        }
        let is_explained = match &response {
            Ok(read) => is_valid && !is_over && *read == role.to_string(),
            Err(refused) => {
                self.check_code(&what, refused)?;
                match *refused {
                    "access_token_invalid" => !is_valid,
                    "access_token_expired" => is_valid && is_over,
                    "access_token_revoked" => !revoked.is_empty() || session.has_ended(now),
                    UNAVAILABLE => self.fault == Fault::Fails,
                    _ => false,
                }
            }
        };
        if !is_explained {
            return Err(format!("{what}: {response:?}, and neither a step nor the settings explain it"));
        }
        if response.is_ok() {
            self.used(node, number, (now - issued > settings.grace).then_some(generation));
            self.sessions[number].is_contested |= !arrived;
        }
        self.observe(node, &Effects::default())?;
        Ok(response.is_ok())
    }

    pub(super) fn update_claims(&mut self, client: usize, node: usize) -> Check {
        let Some((number, pass)) = self.nth_pass(client, 0, true) else { return Ok(()) };
        if !self.check_pass(node, number, pass)? {
            return Ok(());
        }
        let now = self.now();
        let rules = self.nodes[node].settings.rules();
        let is_live = self.row(node, number).is_some_and(|row| row.is_live_by(now, rules));
        let expected = match self.fault {
            Fault::Fails => Err(UNAVAILABLE),
            _ if !is_live => Err("session_not_found"),
            Fault::LosesReplies => Err(UNAVAILABLE),
            Fault::None => Ok(()),
        };
        let role = self.last_role + 1;
        let Pass { text, generation, .. } = self.sessions[number].passes[pass].clone();
        let response = code(self.server(node).update_claims(&text, role));
        let what = format!("node {node}: session {number} gets the claims {role}");
        let result = response.as_ref().map(drop).map_err(|code| *code);
        self.log(|| format!("{what}: {result:?}"));
        let is_doomed = self.sessions[number].is_doomed && result == Err("session_not_found");
        if result != expected && !is_doomed {
            return Err(format!("{what}: {result:?}, but the settings require {expected:?}"));
        }
        if is_live && self.fault != Fault::Fails && !is_doomed {
            self.last_role = role;
            let claims = self.nodes[node].settings.claims;
            let session = &mut self.sessions[number];
            (session.role, session.claims, session.stored_use, session.last_use) = (role, claims, now, now);
        }
        self.observe(node, &Effects::default())?;
        if let Ok(tokens) = response {
            self.take(node, number, &tokens, generation, true)?;
        }
        Ok(())
    }

    pub(super) fn logout(&mut self, client: usize, node: usize) -> Check {
        let Client { session: Some(number), token: Some(token) } = self.client(client) else { return Ok(()) };
        let session = &self.sessions[number];
        let has_key = self.nodes[node].settings.has_key(token.secret, session.realm);
        let was_revoked = session.revoked.is_some() || session.is_doomed;
        let response = code(self.server(node).logout(&token.text));
        let what = format!("node {node}: logout of session {number}");
        self.log(|| format!("{what}: {response:?}"));
        let mut effects = Effects { is_confirmed: response.is_ok(), ..Effects::default() };
        if has_key {
            effects.revoked.insert(number, "logged out");
        }
        if let Err(refused) = response {
            self.check_code(&what, refused)?;
            if refused != UNAVAILABLE || !has_key {
                return Err(format!("{what}: {refused}"));
            }
        } else if has_key && self.fault != Fault::None && !was_revoked && self.sessions[number].row.is_some() {
            return Err(format!("{what}: confirmed, and the store has failed"));
        }
        self.observe(node, &effects)?;
        if response.is_ok() && has_key {
            let known = (node, self.nodes[node].number);
            let revoked = self.revocation(None, "logged out");
            self.sessions[number].revoked.get_or_insert(revoked).known_to.insert(known);
        }
        Ok(())
    }

    /// A user revokes a session from their list.
    pub(super) fn revoke_session(&mut self, client: usize, node: usize) -> Check {
        let Some(number) = self.clients[client].session else { return Ok(()) };
        let now = self.now();
        let settings = &self.nodes[node].settings;
        let session = &self.sessions[number];
        let row = self.row(node, number).filter(|_| session.realm == settings.realm);
        let is_live = row.is_some_and(|row| row.is_live_by(now, settings.rules()));
        let expected = match self.fault {
            Fault::Fails => Err(UNAVAILABLE),
            _ if !is_live => Err("session_not_found"),
            Fault::LosesReplies => Err(UNAVAILABLE),
            Fault::None => Ok(()),
        };
        let (id, is_doomed) = (session.id, session.is_doomed);
        let response = code(self.server(node).revoke_session(name(user(client)), id));
        let what = format!("node {node}: {} revokes session {number}", name(user(client)));
        self.log(|| format!("{what}: {response:?}"));
        if response != expected && !(is_doomed && response == Err("session_not_found")) {
            return Err(format!("{what}: {response:?}, but the settings require {expected:?}"));
        }
        let mut effects = Effects { is_confirmed: response.is_ok(), ..Effects::default() };
        if is_live && self.fault != Fault::Fails {
            effects.revoked.insert(number, "revoked by its user");
        }
        self.observe(node, &effects)?;
        if response.is_ok() && self.sessions[number].revoked.is_none() {
            return Err(format!("{what}: confirmed, and its row is not revoked"));
        }
        Ok(())
    }

    /// Revokes all sessions of the client's user, perhaps but for the client's own.
    pub(super) fn revoke_user(&mut self, client: usize, node: usize, spares_own: bool) -> Check {
        let own = self.clients[client].session.filter(|_| spares_own);
        let mut scope = self.scope(node, Some(user(client)));
        scope.retain(|session| Some(*session) != own);
        let id = own.map(|own| self.sessions[own].id);
        let response = code(self.server(node).revoke_user(name(user(client)), id));
        let what = format!("node {node}: all sessions of {} but {own:?} are revoked", name(user(client)));
        self.revoked_many(node, &what, response.map(Some), &scope, "revoked with its user")
    }

    pub(super) fn revoke_everyone(&mut self, node: usize) -> Check {
        let scope = self.scope(node, None);
        let response = code(self.server(node).revoke_everyone());
        let what = format!("node {node}: everyone is revoked");
        self.revoked_many(node, &what, response.map(|()| None), &scope, "revoked with everyone")
    }

    fn revoked_many(
        &mut self,
        node: usize,
        what: &str,
        response: Result<Option<usize>, &'static str>,
        scope: &[usize],
        why: &'static str,
    ) -> Check {
        let now = self.now();
        self.log(|| format!("{what}: {response:?}"));
        if response.is_ok() != (self.fault == Fault::None) || response.is_err_and(|refused| refused != UNAVAILABLE) {
            return Err(format!("{what}: {response:?}, and the store: {:?}", self.fault));
        }
        let was_live = |session: &&usize| {
            let session = &self.sessions[**session];
            now < session.expires && session.row.as_ref().is_some_and(|row| row.rotation.revoked.is_none())
        };
        let live = scope.iter().filter(was_live).count();
        let mut effects = Effects { is_confirmed: response.is_ok(), ..Effects::default() };
        if self.fault != Fault::Fails {
            effects.revoked.extend(scope.iter().map(|session| (*session, why)));
        }
        self.observe(node, &effects)?;
        if let Ok(Some(count)) = response
            && count != live
        {
            return Err(format!("{what}: {count} sessions, and {live} were live"));
        }
        let is_spared = |session: &&usize| {
            let session = &self.sessions[**session];
            session.row.is_some() && session.revoked.is_none()
        };
        match scope.iter().find(is_spared) {
            Some(spared) if response.is_ok() => Err(format!("{what}: confirmed, and session {spared} goes on")),
            _ => Ok(()),
        }
    }

    /// Revokes one access token.
    pub(super) fn revoke_token(&mut self, client: usize, nth: usize, node: usize) -> Check {
        let Some((number, pass)) = self.nth_pass(client, nth, true) else { return Ok(()) };
        let session = &self.sessions[number];
        let Pass { text, secret, .. } = session.passes[pass].clone();
        let has_key = self.nodes[node].settings.has_key(secret, session.realm);
        let response = code(self.server(node).revoke_token(&text));
        let what = format!("node {node}: access token {pass} of session {number} is revoked");
        self.log(|| format!("{what}: {response:?}"));
        if let Err(refused) = response {
            self.check_code(&what, refused)?;
        }
        if has_key && (response.is_ok() || self.fault == Fault::LosesReplies) {
            let known = response.is_ok().then_some((node, self.nodes[node].number));
            let revoked = self.revocation(None, "the access token alone");
            self.sessions[number].passes[pass].revoked.get_or_insert(revoked).known_to.extend(known);
        }
        self.observe(node, &Effects::default())
    }

    pub(super) fn list(&mut self, client: usize, node: usize) -> Check {
        let now = self.now();
        let rules = self.nodes[node].settings.rules();
        let is_listed = |session: &usize| self.row(node, *session).is_some_and(|row| row.is_live_by(now, rules));
        let expected: BTreeSet<_> = self.scope(node, Some(user(client))).into_iter().filter(is_listed).collect();
        let response = code(self.server(node).sessions(name(user(client))));
        let number = |id: &SessionId| self.sessions.iter().position(|session| session.id == *id).unwrap();
        let listed = response.map(|ids| ids.iter().map(number).collect::<BTreeSet<_>>());
        let what = format!("node {node}: sessions of {}", name(user(client)));
        self.log(|| format!("{what}: {listed:?}"));
        let listed = match listed {
            Ok(listed) => listed,
            Err(refused) => return if self.fault == Fault::Fails { Ok(()) } else { Err(format!("{what}: {refused}")) },
        };
        let wrong = listed.symmetric_difference(&expected).find(|session| !self.sessions[**session].is_doomed);
        if let Some(wrong) = wrong {
            return Err(format!("{what}: {listed:?} and {expected:?} differ in session {wrong}"));
        }
        self.observe(node, &Effects::default())
    }

    pub(super) fn flush(&mut self, node: usize) -> Check {
        let response = code(self.server(node).flush());
        let what = format!("node {node}: flush");
        self.log(|| format!("{what}: {response:?}"));
        if let Err(refused) = response {
            self.check_code(&what, refused)?;
        } else {
            for (session, (used, _)) in &self.nodes[node].uses {
                let session = &mut self.sessions[*session];
                if session.row.is_some() {
                    session.stored_use = session.stored_use.max(*used);
                }
            }
        }
        self.observe(node, &Effects::default())
    }

    fn run_background(&mut self, node: usize) {
        let now = self.now();
        let time = now - std::mem::replace(&mut self.nodes[node].rested_at, now);
        self.server(node).rest(duration(time));
    }

    /// The node's background task does what is due.
    pub(super) fn rest(&mut self, node: usize) -> Check {
        // The feed is read every second.
        let early = TICK - (self.now() - self.nodes[node].rested_at);
        if early > 0 {
            self.clock.advance(duration(early));
        }
        self.log(|| format!("node {node}: rests"));
        let now = self.now();
        self.run_background(node);
        let has_read = self.feed.read_by(node).is_some_and(|read| read.at == now);
        if !has_read && self.fault != Fault::Fails {
            return Err(format!("node {node} has not read the feed"));
        }
        self.observe(node, &Effects::default())
    }

    pub(super) fn set_fault(&mut self, fault: Fault) {
        self.log(|| format!("store: {fault:?}"));
        self.store.set(fault);
        self.fault = fault;
    }

    /// Another node takes this one's place. A node that ends in an orderly way writes what it has recorded.
    pub(super) fn deploy(&mut self, node: usize, settings: &NodeSettings, is_orderly: bool, rests: bool) -> Check {
        if is_orderly {
            self.flush(node)?;
        }
        self.log(|| format!("node {node}: ends, now {settings:?}"));
        self.feed.restarted(node);
        self.feed.serve(node, settings.retention());
        let server = start(&self.store, self.clock.clone(), settings, count_lost(&self.lost));
        let now = self.now();
        let before = &mut self.nodes[node];
        *before = Node {
            server,
            before: before.settings.clone(),
            settings: settings.clone(),
            number: before.number + 1,
            uses: BTreeMap::new(),
            rested_at: now,
        };
        self.observe(node, &Effects::default())?;
        if rests { self.rest(node) } else { Ok(()) }
    }

    pub(super) fn roll_back(&mut self, node: usize) -> Check {
        let settings = self.nodes[node].before.clone();
        self.deploy(node, &settings, true, false)
    }

    pub(super) fn crash(&mut self, node: usize) -> Check {
        let settings = self.nodes[node].settings.clone();
        self.deploy(node, &settings, false, false)
    }

    pub(super) fn wait(&mut self, by: Millis) {
        self.clock.advance(duration(by));
    }

    /// Waits until shortly before or after something is due.
    pub(super) fn wait_for(&mut self, edge: Edge, client: usize, node: usize, offset: Millis) {
        let Some(number) = self.clients[client].session else { return };
        let settings = &self.nodes[node].settings;
        let session = &self.sessions[number];
        let row = self.row(node, number);
        let pass = session.passes.last();
        let due = match edge {
            Edge::Access => pass.map(|pass| pass.expires.min(pass.issued + settings.access_ttl) + settings.leeway),
            Edge::Acknowledgement => pass.map(|pass| pass.issued + settings.grace),
            Edge::Grace => row.and_then(|row| row.rotated_at).map(|at| at + settings.grace),
            Edge::Idle => row.map(|row| row.seen + settings.idle_timeout),
            Edge::Lifetime => Some(session.expires),
            Edge::Forgotten => session.revoked.as_ref().map(|revoked| revoked.at + settings.retention()),
            Edge::Staleness => self.feed.read_by(node).map(|read| read.at + settings.max_staleness),
        };
        if let Some(due) = due {
            self.wait((due + offset - self.now()).max(0));
        }
    }

    /// After all deploys, nothing that was revoked is accepted by nodes that accept as much as settings allow, and everybody
    /// else still has their session.
    pub(super) fn settle(&mut self) -> Check {
        self.set_fault(Fault::None);
        for (node, realm) in [(0, None), (1, Some(STAFF))] {
            self.deploy(node, &NodeSettings::generous(realm), true, false)?;
        }
        for number in 0..self.sessions.len() {
            let node = usize::from(self.sessions[number].realm.is_some());
            for pass in 0..self.sessions[number].passes.len() {
                self.check_pass(node, number, pass)?;
            }
            if self.sessions[number].revoked.is_some() {
                for token in self.sessions[number].tokens.clone() {
                    self.present(node, number, &token, false, false)?;
                }
            }
        }
        for client in 0..CLIENTS {
            let Client { session: Some(number), token: Some(token) } = self.client(client) else { continue };
            let session = &self.sessions[number];
            let has_ended = session.has_ended(self.now()) || session.is_contested;
            let node = usize::from(session.realm.is_some());
            let (answer, _) = self.present(node, number, &token, true, true)?;
            if !has_ended && !matches!(answer, Answer::Granted(..)) {
                return Err(format!("client {client} is logged out, and nothing explains it"));
            }
        }
        Ok(())
    }
}

/// What may be due.
#[derive(Clone, Copy, Debug)]
pub(super) enum Edge {
    /// The newest access token expires.
    Access,
    /// The use of the newest access token acknowledges its generation.
    Acknowledgement,
    /// The grace period of the last rotation ends.
    Grace,
    Idle,
    Lifetime,
    /// The settings of the node require it no longer to know a revocation.
    Forgotten,
    /// The node has to read the feed before it accepts an access token.
    Staleness,
}

fn count_lost(lost: &Arc<AtomicUsize>) -> impl Fn(&Event) + Send + Sync + 'static {
    let lost = Arc::clone(lost);
    move |event| {
        if matches!(event, Event::RevocationsLost { .. }) {
            lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
