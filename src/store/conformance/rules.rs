//! The rules of the contract: one function for each test of the macro.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::session;
use crate::config::OnMaxSessions;
use crate::ratchet::RotationState;
use crate::session::{Client, Revocation, RevocationReason, SessionId};
use crate::store::{
    Activity, FeedCursor, FeedWindow, InsertOptions, Inserted, RevocationBatch, RevokeTarget, Revoked, RevokedItem,
    SessionLimit, SessionRecord, SessionStore, everyone,
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

pub async fn a_session_is_loaded_as_it_was_inserted(store: impl SessionStore) {
    let plain = new("alice");
    let mut full = new("bob \u{0} \" ' \\ 日本 🦀");
    full.client = Client {
        ip: Some("2001:db8::7".parse().unwrap()),
        user_agent: Some("Mozilla/5.0 (\u{e9}; 🦀)".into()),
        label: Some("kitchen's \"tablet\"".into()),
    };
    full.claims = r#"{"role":"admin","deep":{"a":[1,2.5,null,"é"]}}"#.into();
    let mut moved = new("carol");
    moved.client.ip = Some("203.0.113.7".parse().unwrap());
    moved.rotation = RotationState {
        generation: u32::MAX,
        parent: Some(u32::MAX - 1),
        rotated_at: Some(later(7)),
        acknowledged: Some(u32::MAX),
        recoveries: 3,
        last_seen_at: later(9),
        ..moved.rotation
    };
    for session in [&plain, &full, &moved] {
        insert(&store, session).await;
    }
    for session in [plain, full, moved] {
        assert_eq!(load(&store, &session).await, session);
        assert_eq!(store.list(&session.user_id, ALL).await.unwrap(), [session]);
    }
}

pub async fn an_unknown_session_is_none(store: impl SessionStore) {
    assert_eq!(store.load(new("alice").id).await.unwrap(), None);
    assert_eq!(store.list("alice", ALL).await.unwrap(), []);
    let revoked = store.revoke(user("alice"), revocation(NOW)).await.unwrap();
    assert_eq!((revoked.sessions, revoked.count), (vec![], 0));
}

pub async fn a_session_that_the_store_has_lost_can_still_be_revoked(store: impl SessionStore) {
    let lost = new("alice").id;
    let revocation = revocation(NOW);
    assert_eq!(store.revoke(RevokeTarget::Session(lost), revocation).await.unwrap(), Revoked::default());
    assert_eq!(feed(&store).await, HashSet::from([RevokedItem::Session(lost)]));
    assert_eq!(store.load(lost).await.unwrap(), None);
}

pub async fn inserting_an_existing_id_is_an_error_and_changes_nothing(store: impl SessionStore) {
    let first = new("alice");
    insert(&store, &first).await;
    let second = SessionRecord { user_id: "mallory".into(), ..first.clone() };
    store.insert(&second, unlimited()).await.unwrap_err();
    assert_eq!(load(&store, &first).await, first);
    assert!(listed(&store, "mallory").await.is_empty());
}

pub async fn compare_and_swap_writes_the_rotation_and_the_claims_and_increments_the_version(store: impl SessionStore) {
    let first = new("alice");
    insert(&store, &first).await;
    let mut next = rotated(&first);
    next.claims = r#"{"role":"user"}"#.into();
    next.rotation.recoveries = 2;
    next.rotation.acknowledged = Some(0);
    next.rotation.last_seen_at = later(5);
    assert!(store.compare_and_swap(first.version, &next).await.unwrap());
    let read = load(&store, &first).await;
    assert_ne!(read.version, first.version);
    assert_eq!(read, SessionRecord { version: read.version, ..next });
    let back = SessionRecord { claims: "{}".into(), ..read.clone() };
    assert!(store.compare_and_swap(read.version, &back).await.unwrap());
    assert_eq!(&*load(&store, &first).await.claims, "{}");
}

pub async fn compare_and_swap_from_another_version_changes_nothing(store: impl SessionStore) {
    let first = new("alice");
    insert(&store, &first).await;
    assert!(!store.compare_and_swap(first.version + 1, &rotated(&first)).await.unwrap());
    assert_eq!(load(&store, &first).await, first);
    assert!(store.compare_and_swap(first.version, &rotated(&first)).await.unwrap());
    let second = load(&store, &first).await;
    assert!(!store.compare_and_swap(first.version, &rotated(&rotated(&first))).await.unwrap());
    assert_eq!(load(&store, &first).await, second);
}

pub async fn compare_and_swap_never_recreates_a_missing_session(store: impl SessionStore) {
    let never = new("alice");
    assert!(!store.compare_and_swap(never.version, &rotated(&never)).await.unwrap());
    assert_eq!(store.load(never.id).await.unwrap(), None);
    let gone = new("alice");
    insert(&store, &gone).await;
    store.purge(later(LIFETIME + 1), 10).await.unwrap();
    assert!(!store.compare_and_swap(gone.version, &rotated(&gone)).await.unwrap());
    assert_eq!(store.load(gone.id).await.unwrap(), None);
}

pub async fn compare_and_swap_never_turns_back_activity(store: impl SessionStore) {
    let first = new("alice");
    insert(&store, &first).await;
    let activity = Activity { id: first.id, last_seen_at: later(50), acknowledged: Some(0) };
    store.record_activity(&[activity]).await.unwrap();
    assert!(store.compare_and_swap(first.version, &rotated(&first)).await.unwrap());
    let read = load(&store, &first).await.rotation;
    assert_eq!((read.last_seen_at, read.acknowledged), (later(50), Some(0)));
}

pub async fn compare_and_swap_to_revoked_enters_the_feed(store: impl SessionStore) {
    let first = new("alice");
    insert(&store, &first).await;
    let mut next = first.clone();
    next.rotation.revoked = Some(Revocation { reason: RevocationReason::Reuse, ..revocation(later(3)) });
    assert!(store.compare_and_swap(first.version, &next).await.unwrap());
    assert_eq!(load(&store, &first).await.rotation, next.rotation);
    assert!(listed(&store, "alice").await.is_empty());
    assert_eq!(feed(&store).await, HashSet::from([RevokedItem::Session(first.id)]));
}

pub async fn list_returns_the_sessions_of_the_user_that_are_not_revoked(store: impl SessionStore) {
    let alice = [new("alice"), new("alice"), new("alice")];
    for session in alice.iter().chain(&[new("bob")]) {
        insert(&store, session).await;
    }
    store.revoke(RevokeTarget::Session(alice[1].id), revocation(NOW)).await.unwrap();
    assert_eq!(listed(&store, "alice").await, HashSet::from([alice[0].id, alice[2].id]));
    assert_eq!(listed(&store, "bob").await.len(), 1);
    assert!(listed(&store, "carol").await.is_empty());
}

pub async fn user_ids_are_compared_byte_for_byte(store: impl SessionStore) {
    let users = ["alice", "Alice", "alice ", "alicé", "alice\u{301}", "alic\u{e9}", "%", "_", "", "ALICE"];
    let distinct: HashSet<_> = users.iter().collect();
    for user in &distinct {
        insert(&store, &new(user)).await;
    }
    for user in &distinct {
        assert_eq!(listed(&store, user).await.len(), 1, "{user:?}");
    }
    assert_eq!(store.revoke(user("alice"), revocation(NOW)).await.unwrap().count, 1);
    for user in &distinct {
        assert_eq!(listed(&store, user).await.len(), usize::from(**user != "alice"), "{user:?}");
    }
    let long = "é".repeat(100);
    insert(&store, &new(&long)).await;
    assert_eq!(listed(&store, &long).await.len(), 1);
}

pub async fn the_session_limit_evicts_the_oldest(store: impl SessionStore) {
    let sessions: Vec<_> = [3, 1, 2].map(|at| session("alice", later(at), LIFETIME)).into();
    for session in &sessions {
        insert(&store, session).await;
    }
    insert(&store, &session("bob", NOW, LIFETIME)).await;
    let newest = session("alice", later(4), LIFETIME);
    let inserted = store.insert(&newest, limited(2, OnMaxSessions::EvictOldest)).await.unwrap();
    assert_eq!(evicted(&inserted), 2);
    assert_eq!(listed(&store, "alice").await, HashSet::from([sessions[0].id, newest.id]));
    let by = Revocation { at: newest.created_at, reason: RevocationReason::Evicted };
    assert_revoked(&store, &[&sessions[1], &sessions[2]], by).await;
    assert_eq!(listed(&store, "bob").await.len(), 1);
}

pub async fn the_session_limit_evicts_any_number_of_sessions_at_once(store: impl SessionStore) {
    let sessions: Vec<_> = (0..1_500).map(|n| session("alice", later(n), LIFETIME)).collect();
    let store = Arc::new(store);
    for chunk in sessions.chunks(100) {
        let inserts = chunk.iter().cloned().map(|new| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { insert(&*store, &new).await })
        });
        for inserted in inserts.collect::<Vec<_>>() {
            inserted.await.unwrap();
        }
    }
    let newest = session("alice", later(2_000), LIFETIME);
    let inserted = store.insert(&newest, limited(3, OnMaxSessions::EvictOldest)).await.unwrap();
    assert_eq!(evicted(&inserted), 1_498);
    assert_eq!(listed(&*store, "alice").await, HashSet::from([sessions[1_498].id, sessions[1_499].id, newest.id]));
    let by = Revocation { at: newest.created_at, reason: RevocationReason::Evicted };
    assert_revoked(&*store, &[&sessions[0], &sessions[1_497]], by).await;
    // Those that have stayed are like any other.
    let next = session("alice", later(2_001), LIFETIME);
    let inserted = store.insert(&next, limited(3, OnMaxSessions::EvictOldest)).await.unwrap();
    assert_eq!(inserted, done([sessions[1_498].id]));
    let kept = load(&*store, &sessions[1_499]).await;
    assert!(store.compare_and_swap(kept.version, &rotated(&kept)).await.unwrap());
    assert_eq!(store.revoke(user("alice"), revocation(NOW)).await.unwrap().count, 3);
    assert!(listed(&*store, "alice").await.is_empty());
}

pub async fn the_session_limit_evicts_sessions_of_one_millisecond_in_the_order_of_insertion(store: impl SessionStore) {
    let sessions: Vec<_> = (0..10).map(|_| new("alice")).collect();
    for session in &sessions {
        insert(&store, session).await;
    }
    for oldest in &sessions[..5] {
        let newest = new("alice");
        let inserted = store.insert(&newest, limited(10, OnMaxSessions::EvictOldest)).await.unwrap();
        assert_eq!(inserted, done([oldest.id]));
    }
}

pub async fn the_session_limit_refuses_and_writes_nothing(store: impl SessionStore) {
    let first = new("alice");
    assert_eq!(store.insert(&first, limited(1, OnMaxSessions::Refuse)).await.unwrap(), done([]));
    let second = new("alice");
    assert_eq!(store.insert(&second, limited(1, OnMaxSessions::Refuse)).await.unwrap(), Inserted::LimitReached);
    assert_eq!(store.load(second.id).await.unwrap(), None);
    assert_eq!(load(&store, &first).await, first);
    assert!(feed(&store).await.is_empty());
    let bob = new("bob");
    assert_eq!(store.insert(&bob, limited(1, OnMaxSessions::Refuse)).await.unwrap(), done([]));
}

pub async fn the_session_limit_counts_only_live_sessions(store: impl SessionStore) {
    let idle = session("alice", NOW, LIFETIME);
    let expired = session("alice", NOW, 300_000);
    let revoked = session("alice", NOW, LIFETIME);
    let kept_alive = session("alice", NOW, LIFETIME);
    for session in [&idle, &expired, &revoked, &kept_alive] {
        insert(&store, session).await;
    }
    store.revoke(RevokeTarget::Session(revoked.id), revocation(NOW)).await.unwrap();
    let activity = Activity { id: kept_alive.id, last_seen_at: later(500_000), acknowledged: None };
    store.record_activity(&[activity]).await.unwrap();
    let newest = session("alice", later(600_000), LIFETIME);
    let inserted = store.insert(&newest, limited(2, OnMaxSessions::Refuse)).await.unwrap();
    assert_eq!(inserted, done([]));
    assert!(listed(&store, "alice").await.is_superset(&HashSet::from([kept_alive.id, newest.id])));
}

pub async fn a_replaced_session_is_revoked_and_does_not_count(store: impl SessionStore) {
    let (old, other) = (new("alice"), new("alice"));
    insert(&store, &old).await;
    insert(&store, &other).await;
    let next = session("alice", later(5), LIFETIME);
    let options = InsertOptions { replacing: Some(old.id), ..limited(2, OnMaxSessions::Refuse) };
    assert_eq!(store.insert(&next, options).await.unwrap(), done([old.id]));
    assert_eq!(listed(&store, "alice").await, HashSet::from([other.id, next.id]));
    assert_eq!(load(&store, &old).await.rotation.revoked.unwrap().reason, RevocationReason::Replaced);
    assert_eq!(feed(&store).await, HashSet::from([RevokedItem::Session(old.id)]));
}

pub async fn only_a_session_of_the_same_user_is_replaced(store: impl SessionStore) {
    let bob = new("bob");
    insert(&store, &bob).await;
    for replacing in [bob.id, new("alice").id] {
        let options = InsertOptions { replacing: Some(replacing), ..unlimited() };
        assert_eq!(store.insert(&new("alice"), options).await.unwrap(), done([]));
    }
    assert_eq!(load(&store, &bob).await, bob);
}

pub async fn a_revoked_session_keeps_its_first_reason(store: impl SessionStore) {
    let first = new("alice");
    insert(&store, &first).await;
    store.revoke(RevokeTarget::Session(first.id), revocation(later(1))).await.unwrap();
    let again = Revocation { reason: RevocationReason::RevokedByAdmin, ..revocation(later(2)) };
    store.revoke(RevokeTarget::Session(first.id), again).await.unwrap();
    assert_eq!(load(&store, &first).await.rotation.revoked, Some(revocation(later(1))));
}

pub async fn revoke_returns_the_sessions_that_were_live(store: impl SessionStore) {
    let (live, expired) = (new("alice"), session("alice", NOW, 10));
    insert(&store, &live).await;
    insert(&store, &expired).await;
    let revoke = |target| store.revoke(target, revocation(later(10)));
    assert_eq!(revoke(RevokeTarget::Session(live.id)).await.unwrap(), Revoked::from(vec![live.id]));
    assert_eq!(revoke(RevokeTarget::Session(live.id)).await.unwrap(), Revoked::default());
    assert_eq!(revoke(user("alice")).await.unwrap().count, 0);
    assert_eq!(revoke(RevokeTarget::Token("some-jti")).await.unwrap(), Revoked::default());
}

pub async fn revoking_a_user_spares_the_exception(store: impl SessionStore) {
    let alice = [new("alice"), new("alice"), new("alice")];
    let bob = new("bob");
    for session in alice.iter().chain([&bob]) {
        insert(&store, session).await;
    }
    let target = RevokeTarget::Users { scope: "alice", except: Some(alice[1].id), created_until: None };
    assert_eq!(store.revoke(target, revocation(NOW)).await.unwrap().count, 2);
    assert_eq!(listed(&store, "alice").await, HashSet::from([alice[1].id]));
    assert_revoked(&store, &[&alice[0], &alice[2]], revocation(NOW)).await;
    assert_eq!(load(&store, &alice[1]).await, alice[1]);
    assert_eq!(load(&store, &bob).await, bob);
    // What was spared is spared for good, and can be revoked by the next one.
    insert(&store, &new("alice")).await;
    assert_eq!(listed(&store, "alice").await.len(), 2);
    assert_eq!(store.revoke(user("alice"), revocation(later(1))).await.unwrap().count, 2);
    assert_revoked(&store, &[&alice[1]], revocation(later(1))).await;
}

pub async fn a_late_revocation_of_a_user_spares_later_logins(store: impl SessionStore) {
    let sessions: Vec<_> = (0..4).map(|n| session("alice", later(n), LIFETIME)).collect();
    for session in &sessions {
        insert(&store, session).await;
    }
    let target = RevokeTarget::Users { scope: "alice", except: None, created_until: Some(later(1)) };
    assert_eq!(store.revoke(target, revocation(later(1))).await.unwrap().count, 2);
    assert_eq!(listed(&store, "alice").await, HashSet::from([sessions[2].id, sessions[3].id]));
    assert_revoked(&store, &[&sessions[0], &sessions[1]], revocation(later(1))).await;
    // Again, it changes nothing.
    assert_eq!(store.revoke(target, revocation(later(9))).await.unwrap().count, 0);
    assert_eq!(listed(&store, "alice").await, HashSet::from([sessions[2].id, sessions[3].id]));
}

pub async fn revoking_everyone_revokes_the_sessions_of_one_realm(store: impl SessionStore) {
    let others = [new("staff\u{0}alice"), new("staff2\u{0}alice")];
    let sessions = [new("alice"), new("bob"), new("")];
    for session in sessions.iter().chain(&others) {
        insert(&store, session).await;
    }
    store.revoke(user(&everyone("alice")), revocation(NOW)).await.unwrap();
    assert_revoked(&store, &[&sessions[0], &sessions[1], &sessions[2]], revocation(NOW)).await;
    for session in &others {
        assert_eq!(load(&store, session).await, *session);
        assert_eq!(listed(&store, &session.user_id).await.len(), 1);
    }
    let later_login = new("alice");
    insert(&store, &later_login).await;
    assert_eq!(listed(&store, "alice").await, HashSet::from([later_login.id]));
    assert_eq!(load(&store, &later_login).await, later_login);
    store.revoke(user(&everyone("staff\u{0}bob")), revocation(NOW)).await.unwrap();
    assert_revoked(&store, &[&others[0]], revocation(NOW)).await;
    assert_eq!(load(&store, &others[1]).await, others[1]);
}

pub async fn each_revocation_of_a_user_has_a_higher_cutoff(store: impl SessionStore) {
    insert(&store, &new("alice")).await;
    let mut last = None;
    for _ in 0..20 {
        insert(&store, &new("alice")).await;
        let revoked = store.revoke(user("alice"), revocation(NOW)).await.unwrap();
        if let Some(users) = revoked.users {
            assert!(Some(users.cutoff) > last);
            last = Some(users.cutoff);
            assert!(feed(&store).await.contains(&RevokedItem::Users(users)));
        }
        assert!(listed(&store, "alice").await.is_empty());
    }
}

pub async fn a_list_is_limited_to_the_latest_logins(store: impl SessionStore) {
    let sessions: Vec<_> = (0..30).map(|n| session("alice", later(n * 7 % 30), LIFETIME)).collect();
    for session in &sessions {
        insert(&store, session).await;
    }
    let latest = store.list("alice", 10).await.unwrap();
    let mut created: Vec<_> = latest.iter().map(|session| session.created_at).collect();
    created.sort_unstable();
    assert_eq!(created, (20..30).map(later).collect::<Vec<_>>());
}

pub async fn revoke_makes_a_concurrent_compare_and_swap_fail(store: impl SessionStore) {
    let first = new("alice");
    insert(&store, &first).await;
    store.revoke(RevokeTarget::Session(first.id), revocation(NOW)).await.unwrap();
    assert!(!store.compare_and_swap(first.version, &rotated(&first)).await.unwrap());
    assert!(load(&store, &first).await.rotation.revoked.is_some());
    // Revoked with the others of its user, a session stays revoked, whatever the call returns.
    let second = new("bob");
    insert(&store, &second).await;
    store.revoke(user("bob"), revocation(NOW)).await.unwrap();
    store.compare_and_swap(second.version, &rotated(&second)).await.unwrap();
    assert_revoked(&store, &[&second], revocation(NOW)).await;
}

pub async fn the_feed_returns_everything_when_read_from_the_start(store: impl SessionStore) {
    assert!(feed(&store).await.is_empty());
    let first = new("alice");
    insert(&store, &first).await;
    store.revoke(RevokeTarget::Session(first.id), revocation(NOW)).await.unwrap();
    store.revoke(RevokeTarget::Token("the-jti"), revocation(later(1))).await.unwrap();
    let token = RevokedItem::Token("the-jti".into());
    assert_eq!(feed(&store).await, HashSet::from([RevokedItem::Session(first.id), token]));
}

pub async fn the_feed_is_read_in_steps(store: impl SessionStore) {
    for n in 0..25 {
        store.revoke(RevokeTarget::Token(&format!("jti-{n}")), revocation(NOW)).await.unwrap();
    }
    let window = FeedWindow { limit: 10, ..WINDOW };
    let (mut cursor, mut read, mut steps) = (FeedCursor::START, HashSet::new(), 0);
    loop {
        let batch = store.read_revocations(cursor, window).await.unwrap();
        assert!(batch.next >= cursor);
        cursor = batch.next;
        read.extend(batch.entries.into_iter().map(|entry| entry.item));
        steps += 1;
        if !batch.has_more {
            break;
        }
        assert!(steps < 25, "reading never finishes");
    }
    assert_eq!(read.len(), 25);
}

pub async fn an_entry_of_the_feed_has_the_age_that_it_has_by_the_clock_of_the_store(store: impl SessionStore) {
    // The caller's clock is years behind.
    store.revoke(RevokeTarget::Token("some-jti"), revocation(NOW)).await.unwrap();
    let batch = read(&store, FeedCursor::START).await;
    assert!(batch.entries.iter().all(|entry| entry.age < Duration::from_secs(30)));
    assert_eq!(batch.entries.len(), 1);
}

pub async fn the_feed_continues_from_its_cursor(store: impl SessionStore) {
    let mut cursor = read(&store, FeedCursor::START).await.next;
    for n in 0..20 {
        let jti = format!("jti-{n}");
        store.revoke(RevokeTarget::Token(&jti), revocation(later(n))).await.unwrap();
        let batch = read(&store, cursor).await;
        assert!(batch.entries.iter().any(|entry| entry.item == RevokedItem::Token(jti.as_str().into())));
        assert!(batch.next >= cursor);
        cursor = batch.next;
    }
}

pub async fn revoking_a_revoked_session_enters_the_feed_again(store: impl SessionStore) {
    let first = new("alice");
    insert(&store, &first).await;
    store.revoke(RevokeTarget::Session(first.id), revocation(NOW)).await.unwrap();
    let cursor = read(&store, FeedCursor::START).await.next;
    store.revoke(RevokeTarget::Session(first.id), revocation(later(60_000))).await.unwrap();
    let again = read(&store, cursor).await.entries;
    assert!(again.iter().any(|entry| entry.item == RevokedItem::Session(first.id)));
}

pub async fn recorded_activity_is_a_maximum_and_does_not_change_the_version(store: impl SessionStore) {
    let (first, second) = (new("alice"), new("bob"));
    insert(&store, &first).await;
    insert(&store, &second).await;
    let activity = |at, acknowledged| Activity { id: first.id, last_seen_at: later(at), acknowledged };
    let unknown = Activity { id: new("carol").id, ..activity(1, None) };
    store.record_activity(&[activity(10, None), unknown, activity(30, Some(4)), activity(20, Some(3))]).await.unwrap();
    store.record_activity(&[activity(5, None)]).await.unwrap();
    store.record_activity(&[]).await.unwrap();
    let read = load(&store, &first).await;
    assert_eq!((read.rotation.last_seen_at, read.rotation.acknowledged), (later(30), Some(4)));
    assert_eq!(read.version, first.version);
    assert_eq!(load(&store, &second).await, second);
    assert!(store.compare_and_swap(first.version, &rotated(&first)).await.unwrap());
}

pub async fn recorded_activity_revives_nothing(store: impl SessionStore) {
    let (revoked, gone) = (new("alice"), session("bob", NOW, 10));
    insert(&store, &revoked).await;
    insert(&store, &gone).await;
    store.revoke(RevokeTarget::Session(revoked.id), revocation(NOW)).await.unwrap();
    store.purge(later(20), 10).await.unwrap();
    let batch = [&revoked, &gone].map(|session| Activity {
        id: session.id,
        last_seen_at: later(LIFETIME),
        acknowledged: Some(9),
    });
    store.record_activity(&batch).await.unwrap();
    assert!(load(&store, &revoked).await.rotation.revoked.is_some());
    assert_eq!(store.load(gone.id).await.unwrap(), None);
    assert!(listed(&store, "alice").await.is_empty() && listed(&store, "bob").await.is_empty());
}

pub async fn purge_deletes_expired_sessions_in_bounded_steps(store: impl SessionStore) {
    let old: Vec<_> = (0..25).map(|n| session("alice", NOW, n)).collect();
    let young = session("alice", NOW, 1_000);
    for session in old.iter().chain([&young]) {
        insert(&store, session).await;
    }
    store.revoke(RevokeTarget::Session(old[3].id), revocation(NOW)).await.unwrap();
    // A session that expires at `before` exactly has not expired before it.
    let before = later(24);
    let mut steps = Vec::new();
    while steps.last() != Some(&0) {
        steps.push(store.purge(before, 10).await.unwrap());
        assert!(steps.len() < 20, "purging never finishes");
    }
    assert!(steps.iter().all(|step| *step <= 10));
    assert_eq!(steps.iter().sum::<usize>(), 24);
    assert_eq!(listed(&store, "alice").await, HashSet::from([old[24].id, young.id]));
    assert_eq!(store.load(old[3].id).await.unwrap(), None);
}

pub async fn purge_keeps_recent_entries_of_the_feed_whatever_the_clock_of_the_caller_says(store: impl SessionStore) {
    let first = new("alice");
    insert(&store, &first).await;
    store.revoke(user("alice"), revocation(NOW)).await.unwrap();
    store.revoke(RevokeTarget::Token("some-jti"), revocation(NOW)).await.unwrap();
    for before in [NOW, later(LIFETIME), Timestamp::from_millis(NOW.as_millis() * 2)] {
        store.purge(before, 1).await.unwrap();
    }
    let feed = feed(&store).await;
    assert!(names(&feed, &first) && feed.contains(&RevokedItem::Token("some-jti".into())));
}

const TASKS: usize = 16;
const ROUNDS: usize = 20;

/// Runs `TASKS` tasks concurrently and collects their results.
async fn race<T, F>(task: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let barrier = Arc::new(tokio::sync::Barrier::new(TASKS));
    let tasks: Vec<_> = (0..TASKS)
        .map(|n| {
            let (barrier, task) = (Arc::clone(&barrier), task(n));
            tokio::spawn(async move {
                barrier.wait().await;
                task.await
            })
        })
        .collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

pub async fn of_many_concurrent_swaps_from_one_version_one_succeeds(store: impl SessionStore) {
    let store = Arc::new(store);
    let mut current = new("alice");
    insert(&*store, &current).await;
    for _ in 0..ROUNDS {
        let swapped = race(|n| {
            let (store, mut next) = (Arc::clone(&store), rotated(&current));
            next.rotation.recoveries = u32::try_from(n).unwrap();
            async move { store.compare_and_swap(next.version, &next).await.unwrap() }
        })
        .await;
        let winner = swapped.iter().position(|swapped| *swapped).expect("one succeeds");
        assert_eq!(swapped.iter().filter(|swapped| **swapped).count(), 1);
        let read = load(&*store, &current).await;
        assert_eq!(read.rotation.generation, current.rotation.generation + 1);
        assert_eq!(usize::try_from(read.rotation.recoveries).unwrap(), winner);
        current = read;
    }
}

pub async fn concurrent_logins_keep_to_the_session_limit(store: impl SessionStore) {
    let store = Arc::new(store);
    for round in 0..ROUNDS {
        for (user, on_max_sessions) in [("evicts", OnMaxSessions::EvictOldest), ("refuses", OnMaxSessions::Refuse)] {
            let user = format!("{user}{round}");
            let inserted = race(|n| {
                let (store, new) = (Arc::clone(&store), session(&user, later(i64::try_from(n).unwrap()), LIFETIME));
                async move { store.insert(&new, limited(3, on_max_sessions)).await.unwrap() }
            })
            .await;
            let refused = inserted.iter().filter(|inserted| **inserted == Inserted::LimitReached).count();
            let evicted: usize = inserted.iter().map(evicted).sum();
            assert_eq!(refused + evicted, TASKS - 3);
            assert_eq!(listed(&*store, &user).await.len(), 3);
        }
    }
}

pub async fn a_revocation_wins_against_concurrent_swaps(store: impl SessionStore) {
    let store = Arc::new(store);
    for _ in 0..ROUNDS {
        let first = new("alice");
        insert(&*store, &first).await;
        race(|n| {
            let (store, id) = (Arc::clone(&store), first.id);
            async move {
                if n == TASKS / 2 {
                    assert_eq!(store.revoke(user("alice"), revocation(NOW)).await.unwrap().count, 1);
                    return;
                }
                for _ in 0..5 {
                    let row = store.load(id).await.unwrap().unwrap();
                    if row.rotation.revoked.is_none() {
                        store.compare_and_swap(row.version, &rotated(&row)).await.unwrap();
                    }
                    store
                        .record_activity(&[Activity { id, last_seen_at: later(1), acknowledged: Some(1) }])
                        .await
                        .unwrap();
                }
            }
        })
        .await;
        assert_eq!(load(&*store, &first).await.rotation.revoked, Some(revocation(NOW)));
        assert!(listed(&*store, "alice").await.is_empty());
    }
}

pub async fn when_a_user_is_revoked_while_logging_in_each_session_is_either_live_or_revoked_for_good(
    store: impl SessionStore,
) {
    let store = Arc::new(store);
    for round in 0..ROUNDS {
        let id = format!("user{round}");
        let sessions: Vec<_> = race(|n| {
            let (store, id) = (Arc::clone(&store), id.clone());
            async move {
                if n % 4 == 0 {
                    store.revoke(user(&id), revocation(NOW)).await.unwrap();
                    return None;
                }
                let new = new(&id);
                store.insert(&new, unlimited()).await.unwrap();
                Some(new)
            }
        })
        .await
        .into_iter()
        .flatten()
        .collect();
        let (live, feed) = (listed(&*store, &id).await, feed(&*store).await);
        for session in &sessions {
            let is_live = load(&*store, session).await.rotation.revoked.is_none();
            assert_eq!(is_live, live.contains(&session.id));
            assert!(is_live || names(&feed, session));
        }
        store.revoke(user(&id), revocation(NOW)).await.unwrap();
        for session in &sessions {
            assert!(load(&*store, session).await.rotation.revoked.is_some());
        }
    }
}
