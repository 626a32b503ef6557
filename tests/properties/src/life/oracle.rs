//! What the rules say about sessions, in plain values: what a login has settled, when a session was used, and what each
//! node has to know.
//!
//! Whether a node has written what it recorded is mostly its own affair, so the time of the last use has two bounds: what
//! no node can have missed, and what anybody may have seen.

use crate::oracle::Millis;

pub(super) const NODES: usize = 3;
const MINUTE: Millis = 60_000;
pub(super) const ACCESS_TTL: Millis = 5 * MINUTE;
pub(super) const IDLE: Millis = 30 * MINUTE;
pub(super) const MIN_IDLE: Millis = 6 * MINUTE;
pub(super) const LIFETIME: Millis = 180 * MINUTE;
pub(super) const GRACE: Millis = 30_000;
const MAX_ACTING: Millis = 60 * MINUTE;

/// What was settled at the login of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: usize,
    /// In seconds.
    pub(super) auth_time: i64,
    pub(super) acr: Option<&'static str>,
    pub(super) amr: &'static [&'static str],
    /// The session of whoever acts.
    pub(super) actor: Option<usize>,
    pub(super) label: Option<&'static str>,
    pub(super) persistent: Option<bool>,
    /// The session at the identity provider.
    pub(super) external: Option<usize>,
    pub(super) idle_timeout: Option<Millis>,
    pub(super) lifetime: Option<Millis>,
    pub(super) with_refresh: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) login: Login,
    pub(super) created: Millis,
    pub(super) expires: Millis,
    pub(super) claims: u32,
    pub(super) ended: bool,
    /// The nodes on which the end has to be in force.
    known: [bool; NODES],
    /// The last active use, by the clock of the node that has seen it.
    latest: Millis,
    /// The last active use that was certainly written.
    written: Millis,
    /// The last one that each node has certainly recorded.
    recorded: [Millis; NODES],
}

impl Session {
    fn idle_timeout(&self) -> Millis {
        self.login.idle_timeout.unwrap_or(IDLE).min(IDLE)
    }

    /// The last active use, as this node knows it at least.
    fn seen(&self, node: usize) -> Millis {
        self.written.max(self.recorded[node])
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Granted,
    Refused,
    /// It depends on whether activity was written, or on what a node happens to have read.
    Either,
}

impl Expected {
    const fn of(is_live: bool, is_dead: bool) -> Self {
        match (is_live, is_dead) {
            (_, true) => Self::Refused,
            (true, false) => Self::Granted,
            (false, false) => Self::Either,
        }
    }
}

/// An access token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub(super) session: usize,
    /// It is valid for so long at least, and at most.
    pub(super) until: (Millis, Millis),
}

#[derive(Default)]
pub(super) struct Oracle {
    pub(super) sessions: Vec<Session>,
}

impl Oracle {
    /// The session itself, and that of whoever acts in it.
    fn chain(&self, session: usize) -> impl Iterator<Item = &Session> {
        let session = &self.sessions[session];
        std::iter::once(session).chain(session.login.actor.map(|actor| &self.sessions[actor]))
    }

    /// Whether the end was ordered, of the session or of the actor's.
    pub(super) fn is_ended(&self, session: usize) -> bool {
        self.chain(session).any(|session| session.ended)
    }

    /// Whether nobody can take it for one whose time is not over.
    fn is_over(&self, session: usize, now: Millis) -> bool {
        let is_over = |session: &Session| now >= session.expires || now >= session.latest + session.idle_timeout();
        self.chain(session).any(is_over)
    }

    pub(super) fn is_dead(&self, session: usize, now: Millis) -> bool {
        self.is_ended(session) || self.is_over(session, now)
    }

    /// Whether this node can only take it for live.
    pub(super) fn is_live(&self, node: usize, session: usize, now: Millis) -> bool {
        let is_live = |session: &Session| {
            !session.ended && now < session.expires && now < session.seen(node) + session.idle_timeout()
        };
        self.chain(session).all(is_live)
    }

    pub(super) fn expected(&self, node: usize, session: usize, now: Millis) -> Expected {
        Expected::of(self.is_live(node, session, now), self.is_dead(session, now))
    }

    /// A session may go on although it is idle.
    pub(super) fn reauthentication(&self, session: usize, now: Millis) -> Expected {
        let old = &self.sessions[session];
        let goes_on = !old.ended && now < old.expires && old.login.actor.is_none();
        Expected::of(goes_on, !goes_on)
    }

    /// A layer decides from memory, the guard may load the session.
    pub(super) fn access(&self, node: usize, token: Access, now: Millis, is_loaded: bool) -> Expected {
        let Access { session, until } = token;
        let ends_here = self.chain(session).any(|session| session.ended && session.known[node]);
        let is_dead = now >= until.1 || ends_here || self.is_over(session, now);
        let is_alone = self.sessions[session].login.actor.is_none() && !is_loaded;
        let is_live = is_alone || self.is_live(node, session, now);
        Expected::of(now < until.0 && !self.is_ended(session) && is_live, is_dead)
    }

    /// Begins a session, and returns its number. `old` ends in the same step.
    pub(super) fn begin(&mut self, node: usize, login: Login, claims: u32, now: Millis, old: Option<usize>) -> usize {
        let mut lifetime = login.lifetime.unwrap_or(LIFETIME);
        if !login.with_refresh {
            lifetime = lifetime.min(ACCESS_TTL);
        }
        // Whoever goes on does not get more time.
        let mut expires = old.map_or(now + lifetime, |old| self.sessions[old].expires);
        if let Some(actor) = login.actor {
            expires = expires.min(now + MAX_ACTING).min(self.sessions[actor].expires);
        }
        if let Some(old) = old {
            self.end(node, old);
        }
        let (known, recorded) = ([false; NODES], [now; NODES]);
        let session =
            Session { login, created: now, expires, claims, ended: false, known, latest: now, written: now, recorded };
        self.sessions.push(session);
        self.sessions.len() - 1
    }

    /// The user does something. `written`: the store has it. What an actor does keeps their own session alive, too.
    pub(super) fn used(&mut self, node: usize, session: usize, now: Millis, written: bool) {
        if written {
            let written = &mut self.sessions[session].written;
            *written = now.max(*written);
        }
        for session in [Some(session), self.sessions[session].login.actor].into_iter().flatten() {
            let session = &mut self.sessions[session];
            session.recorded[node] = session.recorded[node].max(now);
        }
        self.may_have_been_used(session, now);
    }

    pub(super) fn may_have_been_used(&mut self, session: usize, now: Millis) {
        for session in [Some(session), self.sessions[session].login.actor].into_iter().flatten() {
            let latest = &mut self.sessions[session].latest;
            *latest = now.max(*latest);
        }
    }

    /// Ends a session on the order of this node, unless it has ended before.
    pub(super) fn end(&mut self, node: usize, session: usize) -> bool {
        let session = &mut self.sessions[session];
        if session.ended {
            return false;
        }
        session.ended = true;
        session.known[node] = true;
        true
    }

    pub(super) fn end_all(&mut self, node: usize, of: impl Fn(usize, &Session) -> bool) {
        for session in 0..self.sessions.len() {
            if of(session, &self.sessions[session]) {
                self.end(node, session);
            }
        }
    }

    /// No use by itself: whoever was called for has used the session before. What the node knew is written with it.
    pub(super) fn update_claims(&mut self, node: usize, session: usize, claims: u32) {
        let session = &mut self.sessions[session];
        session.claims = claims;
        session.written = session.seen(node);
    }

    pub(super) fn flush(&mut self, node: usize) {
        for session in &mut self.sessions {
            session.written = session.seen(node);
        }
    }

    pub(super) fn read_feed(&mut self, node: usize) {
        self.sessions.iter_mut().filter(|session| session.ended).for_each(|session| session.known[node] = true);
    }

    /// What the node has not written is lost, and the node that takes its place reads the feed before it serves anything.
    pub(super) fn crash(&mut self, node: usize) {
        self.sessions.iter_mut().for_each(|session| session.recorded[node] = session.written);
        self.read_feed(node);
    }

    /// The bounds of the last active use, as this node knows it.
    pub(super) fn last_use(&self, node: usize, session: usize) -> (Millis, Millis) {
        let session = &self.sessions[session];
        (session.seen(node), session.latest)
    }

    /// When the session becomes idle at the latest, by its own use or that of whoever acts.
    pub(super) fn idle_at(&self, session: usize) -> Millis {
        self.chain(session).map(|session| session.latest + session.idle_timeout()).min().unwrap_or(Millis::MAX)
    }

    /// The same at the earliest, as this node knows it.
    pub(super) fn idle_as_known(&self, node: usize, session: usize) -> Millis {
        self.chain(session).map(|session| session.seen(node) + session.idle_timeout()).min().unwrap_or(Millis::MAX)
    }
}
