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
    Activity, FeedCursor, InsertOptions, Inserted, RevocationEntry, RevokeTarget, RevokedItem, SessionLimit,
    SessionRecord, SessionStore,
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
    let revocation_expires_at = Timestamp::from_millis(NOW.as_millis() + 900_000);
    InsertOptions { limit: None, replacing: None, revocation_expires_at }
}

const fn limited(max: u32, on_max_sessions: OnMaxSessions) -> InsertOptions {
    InsertOptions { limit: Some(SessionLimit { max, on_max_sessions, idle_timeout: IDLE }), ..unlimited() }
}

fn revocation(at: Timestamp) -> Revocation {
    Revocation { at, expires_at: at.after(Duration::from_secs(900)), reason: RevocationReason::Logout }
}

async fn insert(store: &impl SessionStore, session: &SessionRecord) {
    assert_eq!(store.insert(session, unlimited()).await.unwrap(), Inserted::Done(vec![]));
}

async fn load(store: &impl SessionStore, session: &SessionRecord) -> SessionRecord {
    store.load(session.id).await.unwrap().expect("the session exists")
}

async fn listed(store: &impl SessionStore, user: &str) -> HashSet<SessionId> {
    store.list(user).await.unwrap().into_iter().map(|session| session.id).collect()
}

async fn feed(store: &impl SessionStore) -> HashSet<RevocationEntry> {
    store.read_revocations(FeedCursor::START).await.unwrap().entries.into_iter().collect()
}

fn entry(session: &SessionRecord, expires_at: Timestamp) -> RevocationEntry {
    RevocationEntry { item: RevokedItem::Session(session.id), expires_at }
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
        assert_eq!(store.list(&session.user_id).await.unwrap(), [session]);
    }
}

pub async fn an_unknown_session_is_none(store: impl SessionStore) {
    assert_eq!(store.load(new("alice").id).await.unwrap(), None);
    assert_eq!(store.list("alice").await.unwrap(), []);
    let nobody = RevokeTarget::User { user_id: "alice", except: None };
    assert_eq!(store.revoke(nobody, revocation(NOW)).await.unwrap(), []);
    assert_eq!(feed(&store).await, HashSet::new());
}

pub async fn a_session_that_the_store_has_lost_can_still_be_revoked(store: impl SessionStore) {
    let lost = new("alice").id;
    let revocation = revocation(NOW);
    assert_eq!(store.revoke(RevokeTarget::Session(lost), revocation).await.unwrap(), []);
    let revoked = RevocationEntry { item: RevokedItem::Session(lost), expires_at: revocation.expires_at };
    assert_eq!(feed(&store).await, HashSet::from([revoked]));
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
    assert_eq!(feed(&store).await, HashSet::from([entry(&first, revocation(later(3)).expires_at)]));
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
    let one = RevokeTarget::User { user_id: "alice", except: None };
    assert_eq!(store.revoke(one, revocation(NOW)).await.unwrap().len(), 1);
    assert_eq!(listed(&store, "Alice").await.len(), 1);
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
    let Inserted::Done(evicted) = store.insert(&newest, limited(2, OnMaxSessions::EvictOldest)).await.unwrap() else {
        panic!("an eviction makes room")
    };
    assert_eq!(HashSet::from_iter(evicted), HashSet::from([sessions[1].id, sessions[2].id]));
    assert_eq!(listed(&store, "alice").await, HashSet::from([sessions[0].id, newest.id]));
    let revoked = load(&store, &sessions[1]).await.rotation.revoked.unwrap();
    assert_eq!(
        revoked,
        Revocation {
            at: newest.created_at,
            expires_at: unlimited().revocation_expires_at,
            reason: RevocationReason::Evicted
        }
    );
    let expected =
        HashSet::from([&sessions[1], &sessions[2]].map(|session| entry(session, unlimited().revocation_expires_at)));
    assert_eq!(feed(&store).await, expected);
    assert_eq!(listed(&store, "bob").await.len(), 1);
}

pub async fn the_session_limit_evicts_sessions_of_one_millisecond_in_the_order_of_insertion(store: impl SessionStore) {
    let sessions: Vec<_> = (0..10).map(|_| new("alice")).collect();
    for session in &sessions {
        insert(&store, session).await;
    }
    for oldest in &sessions[..5] {
        let newest = new("alice");
        let inserted = store.insert(&newest, limited(10, OnMaxSessions::EvictOldest)).await.unwrap();
        assert_eq!(inserted, Inserted::Done(vec![oldest.id]));
    }
}

pub async fn the_session_limit_refuses_and_writes_nothing(store: impl SessionStore) {
    let first = new("alice");
    assert_eq!(store.insert(&first, limited(1, OnMaxSessions::Refuse)).await.unwrap(), Inserted::Done(vec![]));
    let second = new("alice");
    assert_eq!(store.insert(&second, limited(1, OnMaxSessions::Refuse)).await.unwrap(), Inserted::LimitReached);
    assert_eq!(store.load(second.id).await.unwrap(), None);
    assert_eq!(load(&store, &first).await, first);
    assert!(feed(&store).await.is_empty());
    let bob = new("bob");
    assert_eq!(store.insert(&bob, limited(1, OnMaxSessions::Refuse)).await.unwrap(), Inserted::Done(vec![]));
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
    assert_eq!(inserted, Inserted::Done(vec![]));
    assert!(listed(&store, "alice").await.is_superset(&HashSet::from([kept_alive.id, newest.id])));
}

pub async fn a_replaced_session_is_revoked_and_does_not_count(store: impl SessionStore) {
    let (old, other) = (new("alice"), new("alice"));
    insert(&store, &old).await;
    insert(&store, &other).await;
    let next = session("alice", later(5), LIFETIME);
    let options = InsertOptions { replacing: Some(old.id), ..limited(2, OnMaxSessions::Refuse) };
    assert_eq!(store.insert(&next, options).await.unwrap(), Inserted::Done(vec![old.id]));
    assert_eq!(listed(&store, "alice").await, HashSet::from([other.id, next.id]));
    assert_eq!(load(&store, &old).await.rotation.revoked.unwrap().reason, RevocationReason::Replaced);
    assert_eq!(feed(&store).await, HashSet::from([entry(&old, options.revocation_expires_at)]));
}

pub async fn only_a_session_of_the_same_user_is_replaced(store: impl SessionStore) {
    let bob = new("bob");
    insert(&store, &bob).await;
    for replacing in [bob.id, new("alice").id] {
        let options = InsertOptions { replacing: Some(replacing), ..unlimited() };
        assert_eq!(store.insert(&new("alice"), options).await.unwrap(), Inserted::Done(vec![]));
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
    assert_eq!(revoke(RevokeTarget::Session(live.id)).await.unwrap(), [live.id]);
    assert_eq!(revoke(RevokeTarget::Session(live.id)).await.unwrap(), []);
    assert_eq!(revoke(RevokeTarget::User { user_id: "alice", except: None }).await.unwrap(), []);
    assert_eq!(revoke(RevokeTarget::Token("some-jti")).await.unwrap(), []);
}

pub async fn revoking_a_user_spares_the_exception(store: impl SessionStore) {
    let alice = [new("alice"), new("alice"), new("alice")];
    let bob = new("bob");
    for session in alice.iter().chain([&bob]) {
        insert(&store, session).await;
    }
    let others = RevokeTarget::User { user_id: "alice", except: Some(alice[1].id) };
    let revoked: HashSet<_> = store.revoke(others, revocation(NOW)).await.unwrap().into_iter().collect();
    assert_eq!(revoked, HashSet::from([alice[0].id, alice[2].id]));
    assert_eq!(listed(&store, "alice").await, HashSet::from([alice[1].id]));
    let expected = HashSet::from([&alice[0], &alice[2]].map(|session| entry(session, revocation(NOW).expires_at)));
    assert_eq!(feed(&store).await, expected);
    assert_eq!(listed(&store, "bob").await.len(), 1);
}

pub async fn revoke_makes_a_concurrent_compare_and_swap_fail(store: impl SessionStore) {
    let first = new("alice");
    insert(&store, &first).await;
    store.revoke(RevokeTarget::User { user_id: "alice", except: None }, revocation(NOW)).await.unwrap();
    assert!(!store.compare_and_swap(first.version, &rotated(&first)).await.unwrap());
    assert!(load(&store, &first).await.rotation.revoked.is_some());
}

pub async fn the_feed_returns_everything_when_read_from_the_start(store: impl SessionStore) {
    assert!(feed(&store).await.is_empty());
    let first = new("alice");
    insert(&store, &first).await;
    store.revoke(RevokeTarget::Session(first.id), revocation(NOW)).await.unwrap();
    store.revoke(RevokeTarget::Token("the-jti"), revocation(later(1))).await.unwrap();
    let token =
        RevocationEntry { item: RevokedItem::Token("the-jti".into()), expires_at: revocation(later(1)).expires_at };
    assert_eq!(feed(&store).await, HashSet::from([entry(&first, revocation(NOW).expires_at), token]));
}

pub async fn the_feed_continues_from_its_cursor(store: impl SessionStore) {
    let mut cursor = store.read_revocations(FeedCursor::START).await.unwrap().next;
    for n in 0..20 {
        let jti = format!("jti-{n}");
        store.revoke(RevokeTarget::Token(&jti), revocation(later(n))).await.unwrap();
        let batch = store.read_revocations(cursor).await.unwrap();
        assert!(batch.entries.iter().any(|entry| entry.item == RevokedItem::Token(jti.as_str().into())));
        assert!(batch.next >= cursor);
        cursor = batch.next;
    }
}

pub async fn revoking_a_revoked_session_enters_the_feed_again(store: impl SessionStore) {
    let first = new("alice");
    insert(&store, &first).await;
    store.revoke(RevokeTarget::Session(first.id), revocation(NOW)).await.unwrap();
    store.revoke(RevokeTarget::Session(first.id), revocation(later(60_000))).await.unwrap();
    assert!(feed(&store).await.contains(&entry(&first, revocation(later(60_000)).expires_at)));
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

pub async fn purge_deletes_expired_entries_of_the_feed(store: impl SessionStore) {
    store.revoke(RevokeTarget::Token("early"), revocation(NOW)).await.unwrap();
    store.revoke(RevokeTarget::Token("late"), revocation(later(5_000))).await.unwrap();
    store.purge(revocation(later(2_500)).expires_at, 10).await.unwrap();
    let left: Vec<_> = feed(&store).await.into_iter().map(|entry| entry.item).collect();
    assert_eq!(left, [RevokedItem::Token("late".into())]);
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
            let evicted: usize = inserted
                .iter()
                .map(|inserted| match inserted {
                    Inserted::Done(evicted) => evicted.len(),
                    Inserted::LimitReached => 0,
                })
                .sum();
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
                    let all = RevokeTarget::User { user_id: "alice", except: None };
                    assert_eq!(store.revoke(all, revocation(NOW)).await.unwrap(), [id]);
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

pub async fn when_a_user_is_revoked_while_logging_in_each_session_is_either_live_or_in_the_feed(
    store: impl SessionStore,
) {
    let store = Arc::new(store);
    for round in 0..ROUNDS {
        let user = format!("user{round}");
        let ids: HashSet<_> = race(|n| {
            let (store, user) = (Arc::clone(&store), user.clone());
            async move {
                if n % 4 == 0 {
                    let all = RevokeTarget::User { user_id: &user, except: None };
                    store.revoke(all, revocation(NOW)).await.unwrap();
                    return None;
                }
                let new = new(&user);
                store.insert(&new, unlimited()).await.unwrap();
                Some(new.id)
            }
        })
        .await
        .into_iter()
        .flatten()
        .collect();
        let live = listed(&*store, &user).await;
        let named: HashSet<_> = feed(&*store).await.into_iter().map(|entry| entry.item).collect();
        for id in ids {
            assert_ne!(live.contains(&id), named.contains(&RevokedItem::Session(id)));
        }
    }
}
