//! The nodes, the browsers and the oracle side by side.

use std::time::{Duration, SystemTime};

use axum_refresh::store::Timestamp;
use axum_refresh::{AuthUser, SessionId};
use serde_json::json;

use super::node::{HandedOut, How, Node, Reply, Way, payload};
use super::oracle::{ACCESS_TTL, Access, Expected, NODES, Oracle};
use crate::oracle::Millis;
use crate::world::{Check, FaultyStore};
use crate::{Claims, Clock, Open};

pub(super) const USERS: [&str; 3] = ["alice", "bob", "carol"];
/// The pairs of an issuer and a session at it. Two of them differ in one part only.
pub(super) const EXTERNAL: [(&str, &str); 3] =
    [("https://one.example", "s1"), ("https://one.example", "s2"), ("https://two.example", "s1")];
const KEPT: usize = 4;

/// Where a session is known: a browser that keeps the newest refresh token, and the last access tokens.
pub(super) struct Client {
    pub(super) session: usize,
    pub(super) refresh: Option<String>,
    passes: Vec<(String, Access)>,
    /// As the last handler has seen it.
    pub(super) caller: AuthUser<Claims>,
}

pub(super) struct World {
    pub(super) oracle: Oracle,
    pub(super) nodes: Vec<Node>,
    pub(super) clients: Vec<Client>,
    pub(super) ids: Vec<SessionId>,
    pub(super) updates: u32,
    store: FaultyStore,
    trace: Vec<String>,
    start: Millis,
}

impl World {
    pub(super) fn new(open: Open, skews: [Millis; NODES]) -> Self {
        let store = FaultyStore::over(open());
        let nodes: Vec<_> = skews
            .into_iter()
            .map(|skew| {
                let clock = Clock::new();
                clock.advance(Duration::from_millis(skew.unsigned_abs()));
                Node::start(&store, &clock)
            })
            .collect();
        let start = nodes[0].now();
        let (clients, ids) = (Vec::new(), Vec::new());
        Self { oracle: Oracle::default(), nodes, clients, ids, updates: 0, store, trace: Vec::new(), start }
    }

    pub(super) fn log(&mut self, what: impl FnOnce() -> String) {
        let at = self.nodes[0].now() - self.start;
        self.trace.push(format!("{:>6}.{:03} s  {}", at / 1000, at % 1000, what()));
    }

    pub(super) fn trace(&self) -> String {
        self.trace.join("\n")
    }

    pub(super) fn wait(&mut self, millis: Millis) {
        self.log(|| format!("{millis} ms pass"));
        self.nodes.iter().for_each(|node| node.clock.advance(Duration::from_millis(millis.unsigned_abs())));
    }

    pub(super) fn crash(&mut self, node: usize) {
        self.log(|| format!("node {node}: crash"));
        self.nodes[node] = Node::start(&self.store, &self.nodes[node].clock);
        self.oracle.crash(node);
    }

    pub(super) fn flush(&mut self, node: usize) -> Check {
        self.log(|| format!("node {node}: flush"));
        self.nodes[node].run(async |auth| auth.flush().await).map_err(|error| error.to_string())?;
        self.oracle.flush(node);
        Ok(())
    }

    pub(super) fn read_feed(&mut self, node: usize) {
        self.log(|| format!("node {node}: reads the feed"));
        self.nodes[node].rest();
        self.oracle.read_feed(node);
    }

    pub(super) fn compare(&mut self, what: impl Fn() -> String, granted: bool, expected: Expected) -> Check<bool> {
        let outcome = if granted { "granted" } else { "refused" };
        self.log(|| format!("{}: {outcome}", what()));
        match (expected, granted) {
            (Expected::Either, _) | (Expected::Granted, true) | (Expected::Refused, false) => Ok(granted),
            _ => Err(format!("{}: {outcome}, but the rules say {expected:?}", what())),
        }
    }

    /// A request with an access token.
    pub(super) fn access(&mut self, node: usize, client: usize, nth: usize, way: Way, how: How) -> Check<bool> {
        let known = &self.clients[client];
        let (text, token) = known.passes[known.passes.len() - 1 - nth % known.passes.len()].clone();
        let now = self.nodes[node].now();
        let session = token.session;
        let what = || format!("node {node}: access token of session {session}, {way:?}, {how:?}");
        let caller = self.nodes[node].access(&text, way, how).map_err(|error| format!("{}: {error}", what()))?;
        let is_loaded = matches!(way, Way::Guard | Way::Both);
        let expected = self.oracle.access(node, token, now, is_loaded);
        let granted = self.compare(what, caller.is_some(), expected)?;
        if how == How::Active && granted {
            self.oracle.used(node, session, now, false);
        } else if how == How::Active && expected == Expected::Either {
            // A layer records the use before the guard refuses it.
            self.oracle.may_have_been_used(session, now);
        }
        if let Some(caller) = caller {
            self.check_caller(session, &caller).map_err(|error| format!("{}: {error}", what()))?;
            self.clients[client].caller = caller;
        }
        Ok(granted)
    }

    /// Rule 1, as a handler sees it.
    fn check_caller(&self, session: usize, caller: &AuthUser<Claims>) -> Check {
        let login = &self.oracle.sessions[session].login;
        let auth_time = SystemTime::UNIX_EPOCH + Duration::from_secs(login.auth_time.unsigned_abs());
        let actor = login.actor.map(|actor| (USERS[self.oracle.sessions[actor].login.user], self.ids[actor]));
        let is_same = &*caller.id == USERS[login.user]
            && caller.session_id == self.ids[session]
            && caller.auth_time() == auth_time
            && caller.acr() == login.acr
            && caller.amr().eq(login.amr.iter().copied())
            && caller.actor().map(|actor| (&*actor.user_id, actor.session_id)) == actor;
        if is_same { Ok(()) } else { Err(format!("{caller:?} is not {login:?}")) }
    }

    /// Keeps what a response hands out, and checks it: rule 1, and that nothing outlives its session.
    pub(super) fn keep(&mut self, node: usize, client: usize, how: How, tokens: HandedOut) -> Check {
        let HandedOut { access, refresh, max_age } = tokens;
        let now = self.nodes[node].now();
        let session = self.clients[client].session;
        let token = self.check_token(node, session, &access, how)?;
        let known = &mut self.clients[client];
        known.passes.push((access, token));
        if known.passes.len() > KEPT {
            known.passes.remove(0);
        }
        let known = &self.oracle.sessions[session];
        if let Some(refresh) = refresh {
            let left = (known.expires - now) / 1000;
            let is_right = match (known.login.persistent, max_age) {
                (Some(false), max_age) => max_age.is_none(),
                (_, Some(max_age)) => (left..=left + 1).contains(&max_age),
                (_, None) => false,
            };
            if !is_right {
                return Err(format!(
                    "the refresh cookie of session {session} lives for {max_age:?} s, the session for {left}"
                ));
            }
            self.clients[client].refresh = Some(refresh);
        }
        Ok(())
    }

    pub(super) fn check_token(&self, node: usize, session: usize, access: &str, how: How) -> Check<Access> {
        let now = self.nodes[node].now();
        let known = &self.oracle.sessions[session];
        let login = &known.login;
        let says = payload(access)?;
        let actor = login.actor.map(
            |actor| json!({"sub": USERS[self.oracle.sessions[actor].login.user], "sid": self.ids[actor].to_string()}),
        );
        let amr = (!login.amr.is_empty()).then(|| json!(login.amr));
        for (name, expected) in [
            ("sub", Some(json!(USERS[login.user]))),
            ("sid", Some(json!(self.ids[session].to_string()))),
            ("auth_time", Some(json!(login.auth_time))),
            ("acr", login.acr.map(|acr| json!(acr))),
            ("amr", amr),
            ("act", actor),
            ("role", Some(json!(known.claims.to_string()))),
        ] {
            if says.get(name) != expected.as_ref() {
                return Err(format!("session {session}: {name} is {:?} and not {expected:?}", says.get(name)));
            }
        }
        let until = says["exp"].as_i64().ok_or("no exp")? * 1000;
        // In whole seconds, so up to one is cut off.
        let active = known.expires.min(now + ACCESS_TTL);
        let full = known.expires.min(now + ACCESS_TTL - ACCESS_TTL / 20);
        if until > active || until + 1_000 < full.min(self.oracle.idle_as_known(node, session)) {
            return Err(format!("session {session}: an access token until {until}, at {now}"));
        }
        if how != How::Active && until > self.oracle.idle_at(session) {
            return Err(format!("session {session}: idle before its access token expires at {until}"));
        }
        Ok(Access { session, until: (until, until + 1_000) })
    }

    /// A refresh with the newest refresh token, whose response may get lost.
    pub(super) fn refresh(
        &mut self,
        node: usize,
        client: usize,
        in_page: bool,
        how: How,
        arrives: bool,
    ) -> Check<bool> {
        let known = &self.clients[client];
        let session = known.session;
        let Some(refresh) = known.refresh.clone() else { return Ok(false) };
        let now = self.nodes[node].now();
        let what =
            || format!("node {node}: refresh of session {session}, {how:?}, in a page: {in_page}, arrives: {arrives}");
        let with_what = |error: String| format!("{}: {error}", what());
        let reply = self.nodes[node].refresh(&refresh, in_page, how);
        let granted = reply.is_granted().map_err(with_what)?;
        let expected = self.oracle.expected(node, session, now);
        let granted = self.compare(what, granted, expected)?;
        if granted {
            self.refreshed(node, client, &reply, how, arrives).map_err(with_what)?;
        }
        Ok(granted)
    }

    fn refreshed(&mut self, node: usize, client: usize, reply: &Reply, how: How, arrives: bool) -> Check {
        let session = self.clients[client].session;
        let tokens = reply.handed_out()?;
        if how == How::Active {
            // A new refresh token was written, and the time with it.
            let now = self.nodes[node].now();
            self.oracle.used(node, session, now, tokens.refresh.is_some());
        }
        if arrives { self.keep(node, client, how, tokens) } else { Ok(()) }
    }

    /// Rules 2 to 4, by the list that the user sees.
    pub(super) fn list(&mut self, node: usize, user: usize) -> Check {
        let now = self.nodes[node].now();
        let listed = self.nodes[node].run(async |auth| auth.sessions(USERS[user]).await);
        let listed = listed.map_err(|error| error.to_string())?;
        let numbers: Vec<_> =
            listed.iter().filter_map(|listed| self.ids.iter().position(|id| *id == listed.id)).collect();
        self.log(|| format!("node {node}: {} has the sessions {numbers:?}", USERS[user]));
        for session in 0..self.ids.len() {
            let is_listed = numbers.contains(&session);
            let is_theirs = self.oracle.sessions[session].login.user == user;
            let must_be = is_theirs && self.oracle.is_live(node, session, now);
            if must_be && !is_listed || is_listed && (!is_theirs || self.oracle.is_dead(session, now)) {
                return Err(format!("node {node}: session {session} of {} is listed: {is_listed}", USERS[user]));
            }
        }
        for (session, listed) in numbers.into_iter().zip(&listed) {
            let known = &self.oracle.sessions[session];
            let millis = |time: SystemTime| Timestamp::from(time).as_millis();
            let actor = known.login.actor.map(|actor| self.ids[actor]);
            let is_same = millis(listed.created_at) == known.created
                && millis(listed.expires_at) == known.expires
                && millis(listed.auth_time) / 1000 == known.login.auth_time
                && listed.acr.as_deref() == known.login.acr
                && listed.amr.iter().map(|method| &**method).eq(known.login.amr.iter().copied())
                && listed.label.as_deref() == known.login.label
                && listed.actor.as_ref().map(|actor| actor.session_id) == actor;
            let (least, most) = self.oracle.last_use(node, session);
            if !is_same || !(least..=most).contains(&millis(listed.last_seen_at)) {
                return Err(format!("node {node}: session {session} is listed as {listed:?}, and is {known:?}"));
            }
        }
        Ok(())
    }
}

impl Client {
    pub(super) fn new(session: usize, caller: AuthUser<Claims>) -> Self {
        Self { session, refresh: None, passes: Vec::new(), caller }
    }

    pub(super) fn newest_pass(&self) -> &str {
        self.passes.last().map_or("", |(text, _)| text)
    }

    /// Until when the newest access token is valid, at least and at most.
    pub(super) fn valid_until(&self) -> (Millis, Millis) {
        self.passes.last().map_or((0, 0), |(_, token)| token.until)
    }
}
