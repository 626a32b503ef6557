//! The protocol, implemented a second time from its text and not from the code: a session row and its rules, and the
//! state that a node holds in memory. Everything is a plain value, so that a search can copy it.

use std::collections::{BTreeMap, BTreeSet};

pub(crate) type Millis = i64;

pub(crate) const GRACE: Millis = 30_000;
pub(crate) const ACCESS_TTL: Millis = 5 * 60_000;
pub(crate) const IDLE: Millis = 60 * 60_000;
pub(crate) const LIFETIME: Millis = 6 * 60 * 60_000;
/// How long a node relies on the revocations it has read without reading the feed again.
pub(crate) const STALENESS: Millis = 30_000;

pub(crate) const UNAVAILABLE: &str = "store_unavailable";

/// The settings of a node that the protocol's table depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) grace: Millis,
    pub(crate) idle: Millis,
    pub(crate) rotation: bool,
}

const RULES: Rules = Rules { grace: GRACE, idle: IDLE, rotation: true };

/// The response to a refresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The name of the rule, the generation of the access token, and that of the new refresh token if there is one.
    Granted(&'static str, u32, Option<u32>),
    /// The code of the refusal.
    Refused(&'static str),
}

/// A session row, without the columns that no rule here depends on (client, label, hash of the secret).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) user: usize,
    pub(crate) generation: u32,
    pub(crate) parent: Option<u32>,
    pub(crate) rotated_at: Option<Millis>,
    pub(crate) acknowledged: Option<u32>,
    pub(crate) seen: Millis,
    pub(crate) expires: Millis,
    pub(crate) revoked: bool,
    pub(crate) claims: u32,
    /// How often the user was revoked before the session began, or was spared.
    pub(crate) cutoff: u32,
}

impl Row {
    pub(crate) const fn new(user: usize, now: Millis, cutoff: u32) -> Self {
        Self {
            user,
            generation: 0,
            parent: None,
            rotated_at: None,
            acknowledged: None,
            seen: now,
            expires: now + LIFETIME,
            revoked: false,
            claims: 0,
            cutoff,
        }
    }

    pub(crate) const fn is_live(&self, now: Millis) -> bool {
        self.is_live_by(now, RULES)
    }

    pub(crate) const fn is_live_by(&self, now: Millis, rules: Rules) -> bool {
        !self.revoked && now < self.expires && now - self.seen < rules.idle
    }

    pub(crate) fn present(&self, p: u32, now: Millis) -> (Answer, Option<Self>) {
        self.present_by(p, now, RULES)
    }

    /// The protocol's table, row by row: the response, and the row to write, if any.
    pub(crate) fn present_by(&self, p: u32, now: Millis, rules: Rules) -> (Answer, Option<Self>) {
        if self.revoked {
            return (Answer::Refused("session_revoked"), None);
        }
        if now >= self.expires {
            return (Answer::Refused("session_expired"), None);
        }
        if now - self.seen >= rules.idle {
            return (Answer::Refused("session_idle"), None);
        }
        if !rules.rotation {
            return (Answer::Granted("Touch", p, None), None);
        }
        let fresh = matches!(self.rotated_at, Some(rotated_at) if now - rotated_at <= rules.grace);
        // No clock skew explains it.
        let far_ahead = matches!(self.rotated_at, Some(rotated_at) if rotated_at - now > rules.grace);
        let corrected = far_ahead.then_some(Self { rotated_at: Some(now), ..*self });
        let acknowledged = matches!(self.acknowledged, Some(highest) if highest >= self.generation);
        let is_parent = self.parent == Some(p);
        let hand_out = |rule, generation, parent| {
            let next = Self { generation, parent, rotated_at: Some(now), ..*self };
            (Answer::Granted(rule, generation, Some(generation)), Some(next))
        };
        match p.cmp(&self.generation) {
            std::cmp::Ordering::Equal if fresh && !far_ahead => (Answer::Granted("Touch", p, None), None),
            std::cmp::Ordering::Equal => hand_out("Rotate", p + 1, Some(p)),
            std::cmp::Ordering::Greater => hand_out("Ahead", p + 1, Some(p)),
            std::cmp::Ordering::Less if is_parent && fresh => (Answer::Granted("Echo", p, None), corrected),
            std::cmp::Ordering::Less if fresh => (Answer::Refused("refresh_busy"), corrected),
            std::cmp::Ordering::Less if is_parent && !acknowledged => {
                hand_out("Recover", self.generation + 1, self.parent)
            }
            std::cmp::Ordering::Less => {
                (Answer::Refused("refresh_token_reused"), Some(Self { revoked: true, ..*self }))
            }
        }
    }
}

/// How the store fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// Every call is an error without effect.
    Fails,
    /// Reads work. Writes take effect and return an error: the reply is lost.
    LosesReplies,
}

/// An access token, as its issuer knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) session: usize,
    pub(crate) generation: u32,
    pub(crate) issued: Millis,
    pub(crate) expires: Millis,
}

/// The state of a node that is not in the store, or not yet.
#[derive(Clone, Debug, Default)]
struct NodeState {
    /// By session: when it was last seen, and the acknowledged generation.
    pending: BTreeMap<usize, (Millis, Option<u32>)>,
    /// Whether there was activity that the store had already: a node writes it again or not.
    repeated: bool,
    revoked: BTreeSet<usize>,
    /// Reused sessions whose revocation was written without a confirmation: it is written again.
    unfinished: BTreeSet<usize>,
    /// By user: the newest revocation of all sessions that the node knows.
    cutoffs: BTreeMap<usize, u32>,
    /// The sessions that the store has reported as live when the node asked because of that revocation.
    spared: BTreeMap<usize, u32>,
    heard_at: Option<Millis>,
}

/// Two nodes on one store. Sessions are numbered in the order in which they were created.
#[derive(Clone, Debug, Default)]
pub(crate) struct Oracle {
    rows: BTreeMap<usize, Row>,
    /// The sessions in the store's feed.
    feed: BTreeSet<usize>,
    /// By user: how often all sessions were revoked.
    cutoffs: BTreeMap<usize, u32>,
    /// The user of each session, also of those that are purged.
    users: BTreeMap<usize, usize>,
    nodes: [NodeState; 2],
    pub(crate) fault: Fault,
}

type Result<T> = std::result::Result<T, &'static str>;

impl Oracle {
    /// The row as the store returns it.
    pub(crate) fn row(&self, session: usize) -> Option<Row> {
        let row = *self.rows.get(&session)?;
        Some(Row { revoked: row.revoked || row.cutoff < self.cutoff(row.user), ..row })
    }

    pub(crate) fn has_open_session(&self, user: usize) -> bool {
        self.rows.keys().filter_map(|session| self.row(*session)).any(|row| row.user == user && !row.revoked)
    }

    fn cutoff(&self, user: usize) -> u32 {
        self.cutoffs.get(&user).copied().unwrap_or(0)
    }

    fn read(&self) -> Result<()> {
        if self.fault == Fault::Fails { Err(UNAVAILABLE) } else { Ok(()) }
    }

    /// After a write took effect: whether its caller receives the reply.
    fn wrote(&self) -> Result<()> {
        if self.fault == Fault::LosesReplies { Err(UNAVAILABLE) } else { Ok(()) }
    }

    /// The row, merged with the state of the node.
    fn load(&self, node: usize, session: usize) -> Option<Row> {
        let mut row = self.row(session)?;
        let state = &self.nodes[node];
        if let Some(&(seen, acknowledged)) = state.pending.get(&session) {
            row.seen = row.seen.max(seen);
            row.acknowledged = row.acknowledged.max(acknowledged);
        }
        row.revoked |= state.revoked.contains(&session);
        Some(row)
    }

    fn note(&mut self, node: usize, session: usize, now: Millis, acknowledged: Option<u32>) {
        let is_stored = |row: &Row| row.seen >= now && row.acknowledged >= acknowledged;
        let state = &mut self.nodes[node];
        if !state.pending.contains_key(&session) && self.rows.get(&session).is_some_and(is_stored) {
            state.repeated = true;
            return;
        }
        let pending = state.pending.entry(session).or_insert((now, None));
        *pending = (pending.0.max(now), pending.1.max(acknowledged));
    }

    /// Returns whether the session was neither revoked nor expired before.
    fn revoke_row(&mut self, session: usize, now: Millis) -> bool {
        if self.row(session).is_none_or(|row| row.revoked) {
            return false;
        }
        let Some(row) = self.rows.get_mut(&session) else { return false };
        let was_live = !row.revoked && now < row.expires;
        row.revoked = true;
        self.feed.insert(session);
        was_live
    }

    /// Creates session number `session`. An error may leave it in place all the same.
    pub(crate) fn login(
        &mut self,
        node: usize,
        session: usize,
        user: usize,
        replacing: Option<usize>,
        now: Millis,
    ) -> Result<()> {
        self.read()?;
        self.rows.insert(session, Row::new(user, now, self.cutoff(user)));
        self.users.insert(session, user);
        let replaced = replacing.filter(|old| self.rows.contains_key(old));
        if let Some(old) = replaced {
            self.revoke_row(old, now);
        }
        self.wrote()?;
        self.nodes[node].revoked.extend(replaced);
        Ok(())
    }

    /// Whether the node rejects access tokens of this session.
    pub(crate) fn knows_revocation(&self, node: usize, session: usize) -> bool {
        let state = &self.nodes[node];
        let known = self.users.get(&session).and_then(|user| state.cutoffs.get(user));
        let is_dead = |cutoff: &u32| self.rows.get(&session).is_none_or(|row| row.cutoff < *cutoff);
        state.revoked.contains(&session) || known.is_some_and(is_dead)
    }

    pub(crate) fn refresh(&mut self, node: usize, session: usize, p: u32, now: Millis) -> Answer {
        if let Err(code) = self.read() {
            return Answer::Refused(code);
        }
        let Some(row) = self.load(node, session) else { return Answer::Refused("refresh_token_invalid") };
        let (answer, next) = row.present(p, now);
        if let Some(mut next) = next {
            if next.revoked {
                self.feed.insert(session);
            }
            if matches!(answer, Answer::Granted(..)) {
                next.seen = next.seen.max(now);
            }
            self.rows.insert(session, next);
            let wrote = self.wrote();
            if next.revoked {
                self.nodes[node].revoked.insert(session);
                if wrote.is_err() {
                    self.nodes[node].unfinished.insert(session);
                }
            }
            if let Err(code) = wrote {
                return Answer::Refused(code);
            }
        }
        if matches!(answer, Answer::Granted(..)) {
            self.note(node, session, now, None);
        }
        answer
    }

    pub(crate) fn authenticate(&mut self, node: usize, token: Access, now: Millis) -> Result<()> {
        if now >= token.expires {
            return Err("access_token_expired");
        }
        // Issued further in the future than clock skew explains.
        if token.issued > now + GRACE {
            return Err("access_token_invalid");
        }
        if self.nodes[node].heard_at.is_none_or(|heard_at| now - heard_at >= STALENESS) {
            self.read_feed(node, now)?;
        }
        if self.nodes[node].revoked.contains(&token.session) {
            return Err("access_token_revoked");
        }
        let known = self.nodes[node].cutoffs.get(&self.users[&token.session]).copied();
        if let Some(cutoff) = known.filter(|known| self.nodes[node].spared.get(&token.session) != Some(known)) {
            self.read()?;
            if self.load(node, token.session).is_none_or(|row| row.revoked) {
                self.nodes[node].revoked.insert(token.session);
                return Err("access_token_revoked");
            }
            self.nodes[node].spared.insert(token.session, cutoff);
        }
        let acknowledged = (now - token.issued > GRACE).then_some(token.generation);
        self.note(node, token.session, now, acknowledged);
        Ok(())
    }

    /// Reads the feed.
    pub(crate) fn read_feed(&mut self, node: usize, now: Millis) -> Result<()> {
        self.read()?;
        let state = &mut self.nodes[node];
        state.revoked.extend(&self.feed);
        state.cutoffs.clone_from(&self.cutoffs);
        state.heard_at = Some(now);
        Ok(())
    }

    /// Sets new claims for the session of a user whom the node has just authenticated.
    pub(crate) fn update_claims(&mut self, node: usize, session: usize, claims: u32, now: Millis) -> Result<()> {
        self.read()?;
        let row = self.load(node, session).filter(|row| row.is_live(now)).ok_or("session_not_found")?;
        self.rows.insert(session, Row { claims, seen: row.seen.max(now), ..row });
        self.wrote()
    }

    pub(crate) fn logout(&mut self, node: usize, session: usize, now: Millis) -> Result<()> {
        self.read()?;
        if let Some(row) = self.load(node, session) {
            // A revoked session is not revoked again.
            if !row.revoked {
                self.revoke_row(session, now);
                self.wrote()?;
            }
        } else {
            // A store that has lost a session must not leave its access tokens valid.
            self.feed.insert(session);
        }
        self.nodes[node].revoked.insert(session);
        Ok(())
    }

    /// Whether the store does not have this session any more.
    pub(crate) fn is_gone(&self, session: usize) -> bool {
        !self.rows.contains_key(&session)
    }

    pub(crate) fn revoke(&mut self, node: usize, session: usize, now: Millis) -> Result<()> {
        self.read()?;
        self.load(node, session).filter(|row| row.is_live(now)).ok_or("session_not_found")?;
        self.revoke_row(session, now);
        self.wrote()?;
        self.nodes[node].revoked.insert(session);
        Ok(())
    }

    /// Returns the sessions that it has revoked.
    pub(crate) fn revoke_all(
        &mut self,
        node: usize,
        user: usize,
        except: Option<usize>,
        now: Millis,
    ) -> Result<Vec<usize>> {
        self.read()?;
        let all = self.rows.keys().filter_map(|session| Some((*session, self.row(*session)?)));
        let open: Vec<_> = all.filter(|(_, row)| row.user == user && !row.revoked).collect();
        if open.is_empty() {
            // There is nothing to revoke.
            return self.wrote().map(|()| Vec::new());
        }
        let cutoff = self.cutoff(user) + 1;
        self.cutoffs.insert(user, cutoff);
        let revoked = open.iter().filter(|(session, row)| Some(*session) != except && now < row.expires);
        let revoked = revoked.map(|(session, _)| *session).collect();
        if let Some(row) = open.iter().find(|(session, _)| Some(*session) == except).map(|(session, _)| session) {
            self.rows.entry(*row).and_modify(|row| row.cutoff = cutoff);
        }
        self.wrote()?;
        self.nodes[node].cutoffs.insert(user, cutoff);
        Ok(revoked)
    }

    pub(crate) fn list(&self, node: usize, user: usize, now: Millis) -> Result<BTreeSet<usize>> {
        self.read()?;
        let live = |session: &usize| self.load(node, *session).is_some_and(|row| row.user == user && row.is_live(now));
        Ok(self.rows.keys().copied().filter(live).collect())
    }

    /// `real` is what the node has answered.
    pub(crate) fn flush(&mut self, node: usize, real: Result<()>) -> Result<()> {
        let state = &mut self.nodes[node];
        if state.pending.is_empty() && state.unfinished.is_empty() {
            // What the node writes again may fail, and is kept then.
            let may_fail = state.repeated && self.fault != Fault::None;
            state.repeated &= real.is_err();
            return if may_fail && real == Err(UNAVAILABLE) { real } else { Ok(()) };
        }
        self.read()?;
        for (session, (seen, acknowledged)) in &self.nodes[node].pending {
            if let Some(row) = self.rows.get_mut(session) {
                row.seen = row.seen.max(*seen);
                row.acknowledged = row.acknowledged.max(*acknowledged);
            }
        }
        self.feed.extend(&self.nodes[node].unfinished);
        self.wrote()?;
        let state = &mut self.nodes[node];
        state.unfinished.clear();
        state.pending.clear();
        state.repeated = false;
        Ok(())
    }

    pub(crate) fn purge(&mut self, now: Millis) {
        if self.read().is_ok() {
            self.rows.retain(|_, row| row.expires >= now - GRACE);
        }
    }

    /// The node crashes and loses all pending writes.
    pub(crate) fn restart(&mut self, node: usize) {
        self.nodes[node] = NodeState::default();
    }
}
