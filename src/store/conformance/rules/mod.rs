//! The rules of the contract: one function for each test of the macro.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod limits;
mod races;
mod revocations;
mod rows;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

pub use self::limits::*;
pub use self::races::*;
pub use self::revocations::*;
pub use self::rows::*;
use super::session;
use crate::config::{OnMaxSessions, Transport};
use crate::ratchet::RotationState;
use crate::session::{Actor, Authentication, Client, ExternalId, Revocation, RevocationReason, SessionId};
use crate::store::{
    Activity, FeedCursor, FeedWindow, InsertOptions, Inserted, RevocationBatch, RevokeTarget, Revoked, RevokedItem,
    SessionLimit, SessionRecord, SessionStore, Spared, everyone,
};
use crate::time::Timestamp;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_123);
const LIFETIME: i64 = 3_600_000;
const IDLE: Duration = Duration::from_secs(600);

fn later(millis: i64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() + millis)
}

fn new(user_id: &str) -> SessionRecord {
    session(user_id, NOW, LIFETIME)
}

const fn unlimited() -> InsertOptions {
    InsertOptions { limit: None, replacing: None }
}

const fn limited(max: u32, on_max_sessions: OnMaxSessions) -> InsertOptions {
    InsertOptions { limit: Some(SessionLimit { max, on_max_sessions, idle_timeout: IDLE }), ..unlimited() }
}

const fn user(user_id: &str) -> RevokeTarget<'_> {
    RevokeTarget::Users { scope: user_id, except: None, created_until: None }
}

fn done(revoked: impl IntoIterator<Item = SessionId>) -> Inserted {
    Inserted::Done(Vec::from_iter(revoked).into())
}

/// How many sessions an insert has revoked; none if it was refused.
fn evicted(inserted: &Inserted) -> usize {
    match inserted {
        Inserted::Done(revoked) => revoked.count,
        Inserted::LimitReached => 0,
    }
}

fn revocation(at: Timestamp) -> Revocation {
    Revocation { at, reason: RevocationReason::Logout }
}

async fn insert(store: &impl SessionStore, session: &SessionRecord) {
    assert_eq!(store.insert(session, unlimited()).await.unwrap(), done([]));
}

async fn load(store: &impl SessionStore, session: &SessionRecord) -> SessionRecord {
    store.load(session.id).await.unwrap().expect("the session exists")
}

/// More sessions than any user has here.
const ALL: usize = 10_000;

async fn listed(store: &impl SessionStore, user: &str) -> HashSet<SessionId> {
    store.list(user, ALL).await.unwrap().into_iter().map(|session| session.id).collect()
}

const WINDOW: FeedWindow =
    FeedWindow { max_age: Duration::from_secs(3600), overlap: Duration::from_secs(10), limit: 1_000 };

async fn read(store: &impl SessionStore, since: FeedCursor) -> RevocationBatch {
    store.read_revocations(since, WINDOW).await.unwrap()
}

async fn feed(store: &impl SessionStore) -> HashSet<RevokedItem> {
    let (mut cursor, mut items) = (FeedCursor::START, HashSet::new());
    loop {
        let batch = read(store, cursor).await;
        items.extend(batch.entries.into_iter().map(|entry| entry.item));
        if !batch.has_more {
            return items;
        }
        cursor = batch.next;
    }
}

/// Whether the feed names this session, or its user.
fn names(feed: &HashSet<RevokedItem>, session: &SessionRecord) -> bool {
    let scopes = [&*session.user_id, &everyone(&session.user_id)];
    feed.iter().any(|item| match item {
        RevokedItem::Session(id) => *id == session.id,
        RevokedItem::Users(users) => scopes.contains(&&*users.scope),
        RevokedItem::Token(_) => false,
    })
}

/// The sessions that were revoked by what a call returned, as the store has them.
async fn assert_revoked(store: &impl SessionStore, sessions: &[&SessionRecord], by: Revocation) {
    let feed = feed(store).await;
    for session in sessions {
        assert_eq!(load(store, session).await.rotation.revoked, Some(by));
        assert!(names(&feed, session));
        assert!(!listed(store, &session.user_id).await.contains(&session.id));
    }
}

fn rotated(session: &SessionRecord) -> SessionRecord {
    let mut next = session.clone();
    next.rotation.parent = Some(next.rotation.generation);
    next.rotation.generation += 1;
    next.rotation.rotated_at = Some(later(1));
    next
}
