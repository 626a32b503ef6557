//! A session in the memory store.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::ratchet::RotationState;
use crate::session::{Actor, Authentication, Client, ExternalId, Revocation, SecretHash, SessionId};
use crate::store::{SessionRecord, Transport};
use crate::time::Timestamp;

/// What the sessions of a realm share that began after the realm was last revoked.
#[derive(Default)]
pub(super) struct Realm {
    revoked: OnceLock<Revocation>,
}

impl Realm {
    /// Revokes all sessions of the realm that share this.
    pub(super) fn revoke(&self, revocation: Revocation) {
        // Only its first revocation counts, and it has no second one: it is replaced.
        let _ = self.revoked.set(revocation);
    }
}

/// What the sessions of a user share that began after the user was last revoked: one write revokes all of them.
pub(super) struct User {
    pub(super) id: Arc<str>,
    realm: Arc<Realm>,
    // Boxed, because few users are ever revoked.
    revoked: OnceLock<Box<Revocation>>,
    /// The sessions that are not revoked. May contain sessions that were just revoked or purged. Locked only while the user's
    /// entry is.
    ids: Mutex<Ids>,
}

impl User {
    pub(super) fn new(id: Arc<str>, realm: Arc<Realm>) -> Arc<Self> {
        Arc::new(Self { id, realm, revoked: OnceLock::new(), ids: Mutex::default() })
    }

    pub(super) fn ids(&self) -> MutexGuard<'_, Ids> {
        // A panic cannot leave them half written, so poisoning is ignored.
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same user after a revocation.
    pub(super) fn renewed(&self) -> Arc<Self> {
        Self::new(Arc::clone(&self.id), Arc::clone(&self.realm))
    }

    /// Revokes all sessions of the user that share this.
    pub(super) fn revoke(&self, revocation: Revocation) {
        let _ = self.revoked.set(Box::new(revocation));
    }

    pub(super) fn revoked(&self) -> Option<Revocation> {
        self.revoked.get().map(|revoked| **revoked).or_else(|| self.realm.revoked.get().copied())
    }
}

/// The session ids of a user. Nearly every user has one session, so one needs no allocation.
#[derive(Default)]
pub(super) enum Ids {
    #[default]
    None,
    One(SessionId),
    #[expect(clippy::box_collection, reason = "saves three words for every user; few users have several sessions")]
    Many(Box<HashSet<SessionId>>),
}

impl Ids {
    pub(super) fn insert(&mut self, id: SessionId) {
        match self {
            Self::None => *self = Self::One(id),
            Self::One(one) => *self = Self::Many(Box::new(HashSet::from([*one, id]))),
            Self::Many(many) => {
                many.insert(id);
            }
        }
    }

    /// Returns whether none is left.
    pub(super) fn remove(&mut self, id: SessionId) -> bool {
        match self {
            Self::None => return true,
            Self::One(one) if *one == id => *self = Self::None,
            Self::One(_) => {}
            Self::Many(many) => {
                many.remove(&id);
                if many.len() < 2 {
                    *self = many.iter().next().map_or(Self::None, |last| Self::One(*last));
                }
            }
        }
        matches!(self, Self::None)
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Many(many) => many.len(),
        }
    }

    pub(super) fn contains(&self, id: SessionId) -> bool {
        match self {
            Self::None => false,
            Self::One(one) => *one == id,
            Self::Many(many) => many.contains(&id),
        }
    }

    pub(super) fn to_vec(&self) -> Vec<SessionId> {
        match self {
            Self::None => Vec::new(),
            Self::One(one) => vec![*one],
            Self::Many(many) => many.iter().copied().collect(),
        }
    }
}

/// A [`SessionRecord`] in fewer bytes: rare fields share a box, and empty claims are not allocated.
pub(super) struct Row {
    pub(super) user: Arc<User>,
    user_agent: Option<Arc<str>>,
    claims: Box<str>,
    rare: Option<Box<Rare>>,
    secret_hash: SecretHash,
    pub(super) version: u64,
    /// Orders sessions that were created in the same millisecond. Wraps around at 4,294,967,296.
    pub(super) seq: u32,
    pub(super) created_at: Timestamp,
    last_seen_at: Timestamp,
    pub(super) expires_at: Timestamp,
    /// [`NEVER`] before the first rotation.
    rotated_at: Timestamp,
    generation: u32,
    // Two numbers and their flags take half as much as two options.
    flags: Flags,
    parent: u32,
    acknowledged: u32,
    recoveries: u32,
    ip: Option<IpAddr>,
}

/// Several flags in one byte.
#[derive(Clone, Copy, Default)]
struct Flags(u8);

impl Flags {
    const HAS_PARENT: u8 = 1;
    const IS_ACKNOWLEDGED: u8 = 2;
    const BY_COOKIE: u8 = 4;
    const CAN_REFRESH: u8 = 8;

    const fn has(self, flag: u8) -> bool {
        self.0 & flag > 0
    }

    fn set(&mut self, flag: u8, on: bool) {
        self.0 = if on { self.0 | flag } else { self.0 & !flag };
    }
}

/// What few sessions have. A session that is revoked by itself has it too, so it stays small as well.
#[derive(Default)]
struct Rare {
    label: Option<Box<str>>,
    login: Option<Box<Login>>,
    last_client: Option<Box<Client>>,
    revoked: Option<Revocation>,
}

/// What a login has settled, if it differs from an ordinary one.
#[derive(Clone, PartialEq)]
struct Login {
    authentication: Authentication,
    actor: Option<Arc<Actor>>,
    persistent: Option<bool>,
    external: Option<ExternalId>,
    idle_timeout: Option<Duration>,
}

impl Login {
    /// An ordinary login.
    const fn at(time: Timestamp) -> Self {
        let authentication = Authentication::at(time);
        Self { authentication, actor: None, persistent: None, external: None, idle_timeout: None }
    }

    fn of(session: &SessionRecord) -> Self {
        Self {
            authentication: session.authentication.clone(),
            actor: session.client.actor.clone(),
            persistent: session.persistent,
            external: session.external,
            idle_timeout: session.rotation.idle_timeout,
        }
    }
}

impl Rare {
    /// None if there is nothing of it.
    fn new(session: &SessionRecord) -> Option<Box<Self>> {
        let login = Some(Login::of(session)).filter(|login| *login != Login::at(session.created_at));
        let (label, last_client) = (session.client.label.clone(), session.last_client.clone());
        let has_any = label.is_some() || login.is_some() || last_client.is_some();
        let (login, last_client) = (login.map(Box::new), last_client.map(Box::new));
        has_any.then(|| Box::new(Self { label, login, last_client, revoked: None }))
    }
}

const NO_CLAIMS: &str = "{}";
const NEVER: Timestamp = Timestamp::from_millis(i64::MIN);

impl Row {
    pub(super) fn new(session: &SessionRecord, user: Arc<User>, user_agent: Option<Arc<str>>, seq: u32) -> Self {
        let mut row = Self {
            user,
            user_agent,
            claims: Box::default(),
            rare: Rare::new(session),
            secret_hash: session.secret_hash,
            version: session.version,
            seq,
            created_at: session.created_at,
            last_seen_at: session.rotation.last_seen_at,
            expires_at: session.rotation.expires_at,
            rotated_at: NEVER,
            generation: 0,
            flags: Flags::default(),
            parent: 0,
            acknowledged: 0,
            recoveries: 0,
            ip: session.client.ip,
        };
        row.flags.set(Flags::BY_COOKIE, session.transport == Transport::Cookie);
        row.flags.set(Flags::CAN_REFRESH, session.can_refresh);
        row.write(session);
        row
    }

    /// Writes the fields that a compare-and-swap changes. The pattern names all fields, so that a new one cannot be
    /// forgotten.
    pub(super) fn write(&mut self, session: &SessionRecord) {
        let RotationState {
            generation,
            parent,
            rotated_at,
            acknowledged,
            recoveries,
            last_seen_at,
            expires_at: _,
            idle_timeout: _,
            revoked,
        } = session.rotation;
        self.generation = generation;
        self.flags.set(Flags::HAS_PARENT, parent.is_some());
        self.parent = parent.unwrap_or_default();
        self.rotated_at = rotated_at.unwrap_or(NEVER);
        self.recoveries = recoveries;
        self.merge_activity(last_seen_at, acknowledged);
        if let Some(revocation) = revoked {
            self.rare.get_or_insert_default().revoked = Some(revocation);
        }
        if session.last_client.is_some() || self.rare.is_some() {
            let last_client = session.last_client.clone();
            self.rare.get_or_insert_default().last_client = last_client.map(Box::new);
        }
        if session.claims.as_ref() == NO_CLAIMS {
            self.claims = Box::default();
        } else {
            self.claims.clone_from(&session.claims);
        }
    }

    pub(super) fn merge_activity(&mut self, last_seen_at: Timestamp, acknowledged: Option<u32>) {
        self.last_seen_at = self.last_seen_at.max(last_seen_at);
        let acknowledged = self.acknowledged().max(acknowledged);
        self.flags.set(Flags::IS_ACKNOWLEDGED, acknowledged.is_some());
        self.acknowledged = acknowledged.unwrap_or_default();
    }

    fn acknowledged(&self) -> Option<u32> {
        self.flags.has(Flags::IS_ACKNOWLEDGED).then_some(self.acknowledged)
    }

    /// Whether it counts for the session limit.
    pub(super) fn is_limited(&self) -> bool {
        self.login().is_none_or(|login| login.actor.is_none())
    }

    pub(super) fn external(&self) -> Option<ExternalId> {
        self.login().and_then(|login| login.external)
    }

    fn login(&self) -> Option<&Login> {
        self.rare.as_ref().and_then(|rare| rare.login.as_deref())
    }

    pub(super) fn revoked(&self) -> Option<Revocation> {
        self.rare.as_ref().and_then(|rare| rare.revoked).or_else(|| self.user.revoked())
    }

    /// Marks the session as revoked, unless it is already. Returns whether it was live: neither revoked nor expired.
    pub(super) fn revoke(&mut self, revocation: Revocation) -> bool {
        if self.revoked().is_some() {
            return false;
        }
        self.rare.get_or_insert_default().revoked = Some(revocation);
        self.version += 1;
        revocation.at < self.expires_at
    }

    pub(super) fn rotation(&self) -> RotationState {
        RotationState {
            generation: self.generation,
            parent: self.flags.has(Flags::HAS_PARENT).then_some(self.parent),
            rotated_at: Some(self.rotated_at).filter(|at| *at != NEVER),
            acknowledged: self.acknowledged(),
            recoveries: self.recoveries,
            last_seen_at: self.last_seen_at,
            expires_at: self.expires_at,
            idle_timeout: self.login().and_then(|login| login.idle_timeout),
            revoked: self.revoked(),
        }
    }

    pub(super) fn record(&self, id: SessionId) -> SessionRecord {
        let rare = self.rare.as_deref();
        let Login { authentication, actor, persistent, external, idle_timeout: _ } =
            self.login().cloned().unwrap_or_else(|| Login::at(self.created_at));
        SessionRecord {
            id,
            user_id: Arc::clone(&self.user.id),
            secret_hash: self.secret_hash,
            created_at: self.created_at,
            client: Client {
                ip: self.ip,
                user_agent: self.user_agent.clone(),
                label: rare.and_then(|rare| rare.label.clone()),
                actor,
            },
            authentication,
            persistent,
            transport: if self.flags.has(Flags::BY_COOKIE) { Transport::Cookie } else { Transport::Body },
            can_refresh: self.flags.has(Flags::CAN_REFRESH),
            external,
            last_client: rare.and_then(|rare| rare.last_client.as_deref().cloned()),
            claims: if self.claims.is_empty() { NO_CLAIMS.into() } else { self.claims.clone() },
            rotation: self.rotation(),
            version: self.version,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_stays_small() {
        assert!(size_of::<Row>() <= 160, "{}", size_of::<Row>());
        assert!(size_of::<Rare>() <= 48, "{}", size_of::<Rare>());
        assert!(size_of::<User>() <= 72, "{}", size_of::<User>());
    }
}
