//! A session in the memory store.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use crate::ratchet::RotationState;
use crate::session::{Client, Revocation, SecretHash, SessionId};
use crate::store::SessionRecord;
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
    revoked: OnceLock<Revocation>,
}

impl User {
    pub(super) fn new(id: Arc<str>, realm: Arc<Realm>) -> Arc<Self> {
        Arc::new(Self { id, realm, revoked: OnceLock::new() })
    }

    /// The same user after a revocation.
    pub(super) fn renewed(&self) -> Arc<Self> {
        Self::new(Arc::clone(&self.id), Arc::clone(&self.realm))
    }

    /// Revokes all sessions of the user that share this.
    pub(super) fn revoke(&self, revocation: Revocation) {
        let _ = self.revoked.set(revocation);
    }

    pub(super) fn revoked(&self) -> Option<Revocation> {
        self.revoked.get().or_else(|| self.realm.revoked.get()).copied()
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
    rotated_at: Option<Timestamp>,
    generation: u32,
    parent: Option<u32>,
    acknowledged: Option<u32>,
    recoveries: u32,
    ip: Option<IpAddr>,
}

#[derive(Clone, Default, PartialEq)]
struct Rare {
    label: Option<Box<str>>,
    revoked: Option<Revocation>,
}

const NO_CLAIMS: &str = "{}";

impl Row {
    pub(super) fn new(session: &SessionRecord, user: Arc<User>, user_agent: Option<Arc<str>>, seq: u32) -> Self {
        let mut row = Self {
            user,
            user_agent,
            claims: Box::default(),
            rare: session.client.label.clone().map(|label| Box::new(Rare { label: Some(label), revoked: None })),
            secret_hash: session.secret_hash,
            version: session.version,
            seq,
            created_at: session.created_at,
            last_seen_at: session.rotation.last_seen_at,
            expires_at: session.rotation.expires_at,
            rotated_at: None,
            generation: 0,
            parent: None,
            acknowledged: None,
            recoveries: 0,
            ip: session.client.ip,
        };
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
            revoked,
        } = session.rotation;
        self.generation = generation;
        self.parent = parent;
        self.rotated_at = rotated_at;
        self.recoveries = recoveries;
        self.merge_activity(last_seen_at, acknowledged);
        if let Some(revocation) = revoked {
            self.rare.get_or_insert_default().revoked = Some(revocation);
        }
        if session.claims.as_ref() == NO_CLAIMS {
            self.claims = Box::default();
        } else {
            self.claims.clone_from(&session.claims);
        }
    }

    pub(super) fn merge_activity(&mut self, last_seen_at: Timestamp, acknowledged: Option<u32>) {
        self.last_seen_at = self.last_seen_at.max(last_seen_at);
        self.acknowledged = self.acknowledged.max(acknowledged);
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
            parent: self.parent,
            rotated_at: self.rotated_at,
            acknowledged: self.acknowledged,
            recoveries: self.recoveries,
            last_seen_at: self.last_seen_at,
            expires_at: self.expires_at,
            revoked: self.revoked(),
        }
    }

    pub(super) fn record(&self, id: SessionId) -> SessionRecord {
        SessionRecord {
            id,
            user_id: Arc::clone(&self.user.id),
            secret_hash: self.secret_hash,
            created_at: self.created_at,
            client: Client {
                ip: self.ip,
                user_agent: self.user_agent.clone(),
                label: self.rare.as_ref().and_then(|rare| rare.label.clone()),
            },
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
        assert!(size_of::<Row>() <= 184, "{}", size_of::<Row>());
    }
}
