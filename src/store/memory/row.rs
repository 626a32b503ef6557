//! One session, as the memory store keeps it.

use std::net::IpAddr;
use std::sync::Arc;

use crate::session::{Chain, Client, Revocation, SecretHash, Session, SessionId, Timestamp};

/// A [`Session`] in fewer bytes: what is rarely there stands apart, and no text that is empty is allocated.
pub(super) struct Row {
    pub(super) user: Arc<str>,
    user_agent: Option<Arc<str>>,
    claims: Box<str>,
    rare: Option<Box<Rare>>,
    secret_hash: SecretHash,
    pub(super) version: u64,
    /// Which one came first of two that were created in the same millisecond; starts again at 4,294,967,296.
    pub(super) place: u32,
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
    pub(super) fn new(session: &Session, user: Arc<str>, user_agent: Option<Arc<str>>, place: u32) -> Self {
        let mut row = Self {
            user,
            user_agent,
            claims: Box::default(),
            rare: session.client.label.clone().map(|label| Box::new(Rare { label: Some(label), revoked: None })),
            secret_hash: session.secret_hash,
            version: session.version,
            place,
            created_at: session.created_at,
            last_seen_at: session.chain.last_seen_at,
            expires_at: session.chain.expires_at,
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

    /// What a swap may change. Taken apart by name, so that a new field cannot be forgotten.
    pub(super) fn write(&mut self, session: &Session) {
        let Chain { generation, parent, rotated_at, acknowledged, recoveries, last_seen_at, expires_at: _, revoked } =
            session.chain;
        self.generation = generation;
        self.parent = parent;
        self.rotated_at = rotated_at;
        self.recoveries = recoveries;
        self.see(last_seen_at, acknowledged);
        if let Some(revocation) = revoked {
            self.rare.get_or_insert_default().revoked = Some(revocation);
        }
        if session.claims.as_ref() == NO_CLAIMS {
            self.claims = Box::default();
        } else {
            self.claims.clone_from(&session.claims);
        }
    }

    pub(super) fn see(&mut self, last_seen_at: Timestamp, acknowledged: Option<u32>) {
        self.last_seen_at = self.last_seen_at.max(last_seen_at);
        self.acknowledged = self.acknowledged.max(acknowledged);
    }

    fn revoked(&self) -> Option<Revocation> {
        self.rare.as_ref().and_then(|rare| rare.revoked)
    }

    /// Answers whether the session was neither revoked nor expired before.
    pub(super) fn revoke(&mut self, revocation: Revocation) -> bool {
        if self.revoked().is_some() {
            return false;
        }
        self.rare.get_or_insert_default().revoked = Some(revocation);
        self.version += 1;
        revocation.at < self.expires_at
    }

    pub(super) fn chain(&self) -> Chain {
        Chain {
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

    pub(super) fn session(&self, id: SessionId) -> Session {
        Session {
            id,
            user: Arc::clone(&self.user),
            secret_hash: self.secret_hash,
            created_at: self.created_at,
            client: Client {
                ip: self.ip,
                user_agent: self.user_agent.clone(),
                label: self.rare.as_ref().and_then(|rare| rare.label.clone()),
            },
            claims: if self.claims.is_empty() { NO_CLAIMS.into() } else { self.claims.clone() },
            chain: self.chain(),
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
