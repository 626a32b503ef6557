//! The contract of [`SessionStore`], as tests that anybody can run against a store of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Admission, Cap, Cursor, Ended, Inserted, Revoked, Seen, SessionStore, Target};
use crate::policy::CapResponse;
use crate::session::{Chain, Client, Reason, Revocation, SecretHash, Session, SessionId, Timestamp};

/// Tests a session store against the whole contract of [`SessionStore`](crate::SessionStore): one test function for
/// each rule, races included. (Feature `conformance`.)
///
/// Takes an expression that is a future of a new, empty store. Every test awaits one of its own; the tests run on
/// tokio, side by side. Put it in a module of its own:
///
/// ```
/// # mod my { pub use axum_refresh::MemoryStore as Store; }
/// #[cfg(test)]
/// mod contract {
///     axum_refresh::store_conformance!(async { my::Store::new() });
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! store_conformance {
    ($store:expr) => {
        $crate::store_conformance! { @each $store;
            a_session_comes_back_as_it_went_in
            an_unknown_session_is_none
            a_session_that_the_store_has_lost_can_be_revoked_all_the_same
            a_second_insert_of_one_id_is_an_error_and_changes_nothing
            a_swap_writes_the_chain_and_the_claims_and_counts_up_the_version
            a_swap_from_another_version_changes_nothing
            a_swap_never_brings_back_what_is_gone
            a_swap_never_turns_back_what_was_seen
            a_swap_to_revoked_enters_the_feed
            a_list_has_the_sessions_of_that_user_that_are_not_revoked
            user_ids_are_compared_byte_for_byte
            the_cap_evicts_the_oldest
            the_cap_evicts_in_the_order_of_insertion_what_was_created_at_once
            the_cap_refuses_and_does_nothing
            the_cap_counts_only_live_sessions
            a_replaced_session_ends_and_takes_up_no_room
            only_a_session_of_the_same_user_is_replaced
            a_revoked_session_stays_with_its_reason
            revoking_answers_what_was_live
            revoking_a_user_spares_the_exception
            revoking_outdates_a_swap_under_way
            the_feed_tells_everything_once_asked_from_the_start
            the_feed_goes_on_from_its_cursor
            the_feed_names_a_session_that_was_revoked_before
            seen_is_a_maximum_and_moves_no_version
            seen_revives_nothing
            purging_drops_what_has_expired_in_bounded_steps
            purging_drops_what_the_feed_no_longer_needs
            of_many_swaps_from_one_version_one_succeeds
            many_logins_at_once_keep_to_the_cap
            a_revocation_wins_against_swaps_under_way
            a_user_who_is_revoked_while_logging_in_has_no_session_that_the_feed_does_not_name
        }
    };
    (@each $store:expr; $($test:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $test() {
                $crate::store::conformance::$test($store.await).await;
            }
        )*
    };
}

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_123);
const LIFETIME: i64 = 3_600_000;
const IDLE: Duration = Duration::from_secs(600);

fn later(millis: i64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() + millis)
}

/// A new session of `user`, created at `at`, that lives for `lifetime` milliseconds.
pub fn session(user: &str, at: Timestamp, lifetime: i64) -> Session {
    let id = SessionId::generate(user).unwrap();
    Session {
        id,
        user: user.into(),
        secret_hash: SecretHash::from_bytes([id.as_bytes()[3]; 32]),
        created_at: at,
        client: Client::default(),
        claims: "{}".into(),
        chain: Chain::new(at, Timestamp::from_millis(at.as_millis() + lifetime)),
        version: 0,
    }
}

fn new(user: &str) -> Session {
    session(user, NOW, LIFETIME)
}

const fn alone() -> Admission {
    Admission { cap: None, replacing: None, until: Timestamp::from_millis(NOW.as_millis() + 900_000) }
}

const fn capped(max: u32, response: CapResponse) -> Admission {
    Admission { cap: Some(Cap { max, response, idle_timeout: IDLE }), ..alone() }
}

fn revocation(at: Timestamp) -> Revocation {
    Revocation { at, until: at.after(Duration::from_secs(900)), reason: Reason::Logout }
}

async fn insert(store: &impl SessionStore, session: &Session) {
    assert_eq!(store.insert(session, alone()).await.unwrap(), Inserted::Done(vec![]));
}

async fn load(store: &impl SessionStore, session: &Session) -> Session {
    store.load(session.id).await.unwrap().expect("the session is there")
}

async fn listed(store: &impl SessionStore, user: &str) -> HashSet<SessionId> {
    store.list(user).await.unwrap().into_iter().map(|session| session.id).collect()
}

async fn feed(store: &impl SessionStore) -> HashSet<Revoked> {
    store.revocations(Cursor::START).await.unwrap().revoked.into_iter().collect()
}

fn ended(session: &Session, until: Timestamp) -> Revoked {
    Revoked { what: Ended::Session(session.id), until }
}

fn rotated(session: &Session) -> Session {
    let mut next = session.clone();
    next.chain.parent = Some(next.chain.generation);
    next.chain.generation += 1;
    next.chain.rotated_at = Some(later(1));
    next
}

pub async fn a_session_comes_back_as_it_went_in(store: impl SessionStore) {
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
    moved.chain = Chain {
        generation: u32::MAX,
        parent: Some(u32::MAX - 1),
        rotated_at: Some(later(7)),
        acknowledged: Some(u32::MAX),
        recoveries: 3,
        last_seen_at: later(9),
        ..moved.chain
    };
    for session in [&plain, &full, &moved] {
        insert(&store, session).await;
    }
    for session in [plain, full, moved] {
        assert_eq!(load(&store, &session).await, session);
        assert_eq!(store.list(&session.user).await.unwrap(), [session]);
    }
}

pub async fn an_unknown_session_is_none(store: impl SessionStore) {
    assert_eq!(store.load(new("alice").id).await.unwrap(), None);
    assert_eq!(store.list("alice").await.unwrap(), []);
    let nobody = Target::User { user: "alice", except: None };
    assert_eq!(store.revoke(nobody, revocation(NOW)).await.unwrap(), []);
    assert_eq!(feed(&store).await, HashSet::new());
}

pub async fn a_session_that_the_store_has_lost_can_be_revoked_all_the_same(store: impl SessionStore) {
    let lost = new("alice").id;
    let revocation = revocation(NOW);
    assert_eq!(store.revoke(Target::Session(lost), revocation).await.unwrap(), []);
    let revoked = Revoked { what: Ended::Session(lost), until: revocation.until };
    assert_eq!(feed(&store).await, HashSet::from([revoked]));
    assert_eq!(store.load(lost).await.unwrap(), None);
}

pub async fn a_second_insert_of_one_id_is_an_error_and_changes_nothing(store: impl SessionStore) {
    let first = new("alice");
    insert(&store, &first).await;
    let second = Session { user: "mallory".into(), ..first.clone() };
    store.insert(&second, alone()).await.unwrap_err();
    assert_eq!(load(&store, &first).await, first);
    assert!(listed(&store, "mallory").await.is_empty());
}

pub async fn a_swap_writes_the_chain_and_the_claims_and_counts_up_the_version(store: impl SessionStore) {
    let first = new("alice");
    insert(&store, &first).await;
    let mut next = rotated(&first);
    next.claims = r#"{"role":"user"}"#.into();
    next.chain.recoveries = 2;
    next.chain.acknowledged = Some(0);
    next.chain.last_seen_at = later(5);
    assert!(store.swap(first.version, &next).await.unwrap());
    let read = load(&store, &first).await;
    assert_ne!(read.version, first.version);
    assert_eq!(read, Session { version: read.version, ..next });
    let back = Session { claims: "{}".into(), ..read.clone() };
    assert!(store.swap(read.version, &back).await.unwrap());
    assert_eq!(&*load(&store, &first).await.claims, "{}");
}

pub async fn a_swap_from_another_version_changes_nothing(store: impl SessionStore) {
    let first = new("alice");
    insert(&store, &first).await;
    assert!(!store.swap(first.version + 1, &rotated(&first)).await.unwrap());
    assert_eq!(load(&store, &first).await, first);
    assert!(store.swap(first.version, &rotated(&first)).await.unwrap());
    let second = load(&store, &first).await;
    assert!(!store.swap(first.version, &rotated(&rotated(&first))).await.unwrap());
    assert_eq!(load(&store, &first).await, second);
}

pub async fn a_swap_never_brings_back_what_is_gone(store: impl SessionStore) {
    let never = new("alice");
    assert!(!store.swap(never.version, &rotated(&never)).await.unwrap());
    assert_eq!(store.load(never.id).await.unwrap(), None);
    let gone = new("alice");
    insert(&store, &gone).await;
    store.purge(later(LIFETIME + 1), 10).await.unwrap();
    assert!(!store.swap(gone.version, &rotated(&gone)).await.unwrap());
    assert_eq!(store.load(gone.id).await.unwrap(), None);
}

pub async fn a_swap_never_turns_back_what_was_seen(store: impl SessionStore) {
    let first = new("alice");
    insert(&store, &first).await;
    let seen = Seen { id: first.id, last_seen_at: later(50), acknowledged: Some(0) };
    store.seen(&[seen]).await.unwrap();
    assert!(store.swap(first.version, &rotated(&first)).await.unwrap());
    let read = load(&store, &first).await.chain;
    assert_eq!((read.last_seen_at, read.acknowledged), (later(50), Some(0)));
}

pub async fn a_swap_to_revoked_enters_the_feed(store: impl SessionStore) {
    let first = new("alice");
    insert(&store, &first).await;
    let mut next = first.clone();
    next.chain.revoked = Some(Revocation { reason: Reason::Reuse, ..revocation(later(3)) });
    assert!(store.swap(first.version, &next).await.unwrap());
    assert_eq!(load(&store, &first).await.chain, next.chain);
    assert!(listed(&store, "alice").await.is_empty());
    assert_eq!(feed(&store).await, HashSet::from([ended(&first, revocation(later(3)).until)]));
}

pub async fn a_list_has_the_sessions_of_that_user_that_are_not_revoked(store: impl SessionStore) {
    let alice = [new("alice"), new("alice"), new("alice")];
    for session in alice.iter().chain(&[new("bob")]) {
        insert(&store, session).await;
    }
    store.revoke(Target::Session(alice[1].id), revocation(NOW)).await.unwrap();
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
    let one = Target::User { user: "alice", except: None };
    assert_eq!(store.revoke(one, revocation(NOW)).await.unwrap().len(), 1);
    assert_eq!(listed(&store, "Alice").await.len(), 1);
    let long = "é".repeat(100);
    insert(&store, &new(&long)).await;
    assert_eq!(listed(&store, &long).await.len(), 1);
}

pub async fn the_cap_evicts_the_oldest(store: impl SessionStore) {
    let sessions: Vec<_> = [3, 1, 2].map(|at| session("alice", later(at), LIFETIME)).into();
    for session in &sessions {
        insert(&store, session).await;
    }
    insert(&store, &session("bob", NOW, LIFETIME)).await;
    let newest = session("alice", later(4), LIFETIME);
    let Inserted::Done(evicted) = store.insert(&newest, capped(2, CapResponse::EvictOldest)).await.unwrap() else {
        panic!("an eviction makes room")
    };
    assert_eq!(HashSet::from_iter(evicted), HashSet::from([sessions[1].id, sessions[2].id]));
    assert_eq!(listed(&store, "alice").await, HashSet::from([sessions[0].id, newest.id]));
    let revoked = load(&store, &sessions[1]).await.chain.revoked.unwrap();
    assert_eq!(revoked, Revocation { at: newest.created_at, until: alone().until, reason: Reason::Evicted });
    let expected = HashSet::from([&sessions[1], &sessions[2]].map(|session| ended(session, alone().until)));
    assert_eq!(feed(&store).await, expected);
    assert_eq!(listed(&store, "bob").await.len(), 1);
}

pub async fn the_cap_evicts_in_the_order_of_insertion_what_was_created_at_once(store: impl SessionStore) {
    let sessions: Vec<_> = (0..10).map(|_| new("alice")).collect();
    for session in &sessions {
        insert(&store, session).await;
    }
    for oldest in &sessions[..5] {
        let newest = new("alice");
        let answer = store.insert(&newest, capped(10, CapResponse::EvictOldest)).await.unwrap();
        assert_eq!(answer, Inserted::Done(vec![oldest.id]));
    }
}

pub async fn the_cap_refuses_and_does_nothing(store: impl SessionStore) {
    let first = new("alice");
    assert_eq!(store.insert(&first, capped(1, CapResponse::Refuse)).await.unwrap(), Inserted::Done(vec![]));
    let second = new("alice");
    assert_eq!(store.insert(&second, capped(1, CapResponse::Refuse)).await.unwrap(), Inserted::Full);
    assert_eq!(store.load(second.id).await.unwrap(), None);
    assert_eq!(load(&store, &first).await, first);
    assert!(feed(&store).await.is_empty());
    let bob = new("bob");
    assert_eq!(store.insert(&bob, capped(1, CapResponse::Refuse)).await.unwrap(), Inserted::Done(vec![]));
}

pub async fn the_cap_counts_only_live_sessions(store: impl SessionStore) {
    let idle = session("alice", NOW, LIFETIME);
    let expired = session("alice", NOW, 300_000);
    let revoked = session("alice", NOW, LIFETIME);
    let kept_alive = session("alice", NOW, LIFETIME);
    for session in [&idle, &expired, &revoked, &kept_alive] {
        insert(&store, session).await;
    }
    store.revoke(Target::Session(revoked.id), revocation(NOW)).await.unwrap();
    let seen = Seen { id: kept_alive.id, last_seen_at: later(500_000), acknowledged: None };
    store.seen(&[seen]).await.unwrap();
    let newest = session("alice", later(600_000), LIFETIME);
    let answer = store.insert(&newest, capped(2, CapResponse::Refuse)).await.unwrap();
    assert_eq!(answer, Inserted::Done(vec![]));
    assert!(listed(&store, "alice").await.is_superset(&HashSet::from([kept_alive.id, newest.id])));
}

pub async fn a_replaced_session_ends_and_takes_up_no_room(store: impl SessionStore) {
    let (old, other) = (new("alice"), new("alice"));
    insert(&store, &old).await;
    insert(&store, &other).await;
    let next = session("alice", later(5), LIFETIME);
    let admission = Admission { replacing: Some(old.id), ..capped(2, CapResponse::Refuse) };
    assert_eq!(store.insert(&next, admission).await.unwrap(), Inserted::Done(vec![old.id]));
    assert_eq!(listed(&store, "alice").await, HashSet::from([other.id, next.id]));
    assert_eq!(load(&store, &old).await.chain.revoked.unwrap().reason, Reason::Replaced);
    assert_eq!(feed(&store).await, HashSet::from([ended(&old, admission.until)]));
}

pub async fn only_a_session_of_the_same_user_is_replaced(store: impl SessionStore) {
    let bob = new("bob");
    insert(&store, &bob).await;
    for replacing in [bob.id, new("alice").id] {
        let admission = Admission { replacing: Some(replacing), ..alone() };
        assert_eq!(store.insert(&new("alice"), admission).await.unwrap(), Inserted::Done(vec![]));
    }
    assert_eq!(load(&store, &bob).await, bob);
}

pub async fn a_revoked_session_stays_with_its_reason(store: impl SessionStore) {
    let first = new("alice");
    insert(&store, &first).await;
    store.revoke(Target::Session(first.id), revocation(later(1))).await.unwrap();
    let again = Revocation { reason: Reason::EndedByAdmin, ..revocation(later(2)) };
    store.revoke(Target::Session(first.id), again).await.unwrap();
    assert_eq!(load(&store, &first).await.chain.revoked, Some(revocation(later(1))));
}

pub async fn revoking_answers_what_was_live(store: impl SessionStore) {
    let (live, expired) = (new("alice"), session("alice", NOW, 10));
    insert(&store, &live).await;
    insert(&store, &expired).await;
    let revoke = |target| store.revoke(target, revocation(later(10)));
    assert_eq!(revoke(Target::Session(live.id)).await.unwrap(), [live.id]);
    assert_eq!(revoke(Target::Session(live.id)).await.unwrap(), []);
    assert_eq!(revoke(Target::User { user: "alice", except: None }).await.unwrap(), []);
    assert_eq!(revoke(Target::Token("some-jti")).await.unwrap(), []);
}

pub async fn revoking_a_user_spares_the_exception(store: impl SessionStore) {
    let alice = [new("alice"), new("alice"), new("alice")];
    let bob = new("bob");
    for session in alice.iter().chain([&bob]) {
        insert(&store, session).await;
    }
    let others = Target::User { user: "alice", except: Some(alice[1].id) };
    let revoked: HashSet<_> = store.revoke(others, revocation(NOW)).await.unwrap().into_iter().collect();
    assert_eq!(revoked, HashSet::from([alice[0].id, alice[2].id]));
    assert_eq!(listed(&store, "alice").await, HashSet::from([alice[1].id]));
    let expected = HashSet::from([&alice[0], &alice[2]].map(|session| ended(session, revocation(NOW).until)));
    assert_eq!(feed(&store).await, expected);
    assert_eq!(listed(&store, "bob").await.len(), 1);
}

pub async fn revoking_outdates_a_swap_under_way(store: impl SessionStore) {
    let first = new("alice");
    insert(&store, &first).await;
    store.revoke(Target::User { user: "alice", except: None }, revocation(NOW)).await.unwrap();
    assert!(!store.swap(first.version, &rotated(&first)).await.unwrap());
    assert!(load(&store, &first).await.chain.revoked.is_some());
}

pub async fn the_feed_tells_everything_once_asked_from_the_start(store: impl SessionStore) {
    assert!(feed(&store).await.is_empty());
    let first = new("alice");
    insert(&store, &first).await;
    store.revoke(Target::Session(first.id), revocation(NOW)).await.unwrap();
    store.revoke(Target::Token("the-jti"), revocation(later(1))).await.unwrap();
    let token = Revoked { what: Ended::Token("the-jti".into()), until: revocation(later(1)).until };
    assert_eq!(feed(&store).await, HashSet::from([ended(&first, revocation(NOW).until), token]));
}

pub async fn the_feed_goes_on_from_its_cursor(store: impl SessionStore) {
    let mut cursor = store.revocations(Cursor::START).await.unwrap().next;
    for n in 0..20 {
        let jti = format!("jti-{n}");
        store.revoke(Target::Token(&jti), revocation(later(n))).await.unwrap();
        let feed = store.revocations(cursor).await.unwrap();
        assert!(feed.revoked.iter().any(|revoked| revoked.what == Ended::Token(jti.as_str().into())));
        assert!(feed.next >= cursor);
        cursor = feed.next;
    }
}

pub async fn the_feed_names_a_session_that_was_revoked_before(store: impl SessionStore) {
    let first = new("alice");
    insert(&store, &first).await;
    store.revoke(Target::Session(first.id), revocation(NOW)).await.unwrap();
    store.revoke(Target::Session(first.id), revocation(later(60_000))).await.unwrap();
    assert!(feed(&store).await.contains(&ended(&first, revocation(later(60_000)).until)));
}

pub async fn seen_is_a_maximum_and_moves_no_version(store: impl SessionStore) {
    let (first, second) = (new("alice"), new("bob"));
    insert(&store, &first).await;
    insert(&store, &second).await;
    let seen = |at, acknowledged| Seen { id: first.id, last_seen_at: later(at), acknowledged };
    let unknown = Seen { id: new("carol").id, ..seen(1, None) };
    store.seen(&[seen(10, None), unknown, seen(30, Some(4)), seen(20, Some(3))]).await.unwrap();
    store.seen(&[seen(5, None)]).await.unwrap();
    store.seen(&[]).await.unwrap();
    let read = load(&store, &first).await;
    assert_eq!((read.chain.last_seen_at, read.chain.acknowledged), (later(30), Some(4)));
    assert_eq!(read.version, first.version);
    assert_eq!(load(&store, &second).await, second);
    assert!(store.swap(first.version, &rotated(&first)).await.unwrap());
}

pub async fn seen_revives_nothing(store: impl SessionStore) {
    let (revoked, gone) = (new("alice"), session("bob", NOW, 10));
    insert(&store, &revoked).await;
    insert(&store, &gone).await;
    store.revoke(Target::Session(revoked.id), revocation(NOW)).await.unwrap();
    store.purge(later(20), 10).await.unwrap();
    let batch =
        [&revoked, &gone].map(|session| Seen { id: session.id, last_seen_at: later(LIFETIME), acknowledged: Some(9) });
    store.seen(&batch).await.unwrap();
    assert!(load(&store, &revoked).await.chain.revoked.is_some());
    assert_eq!(store.load(gone.id).await.unwrap(), None);
    assert!(listed(&store, "alice").await.is_empty() && listed(&store, "bob").await.is_empty());
}

pub async fn purging_drops_what_has_expired_in_bounded_steps(store: impl SessionStore) {
    let old: Vec<_> = (0..25).map(|n| session("alice", NOW, n)).collect();
    let young = session("alice", NOW, 1_000);
    for session in old.iter().chain([&young]) {
        insert(&store, session).await;
    }
    store.revoke(Target::Session(old[3].id), revocation(NOW)).await.unwrap();
    // Expiry is at an instant; what expires at that instant is not before it.
    let before = later(24);
    let mut steps = Vec::new();
    while steps.last() != Some(&0) {
        steps.push(store.purge(before, 10).await.unwrap());
        assert!(steps.len() < 20, "purging comes to an end");
    }
    assert!(steps.iter().all(|step| *step <= 10));
    assert_eq!(steps.iter().sum::<usize>(), 24);
    assert_eq!(listed(&store, "alice").await, HashSet::from([old[24].id, young.id]));
    assert_eq!(store.load(old[3].id).await.unwrap(), None);
}

pub async fn purging_drops_what_the_feed_no_longer_needs(store: impl SessionStore) {
    store.revoke(Target::Token("early"), revocation(NOW)).await.unwrap();
    store.revoke(Target::Token("late"), revocation(later(5_000))).await.unwrap();
    store.purge(revocation(later(2_500)).until, 10).await.unwrap();
    let left: Vec<_> = feed(&store).await.into_iter().map(|revoked| revoked.what).collect();
    assert_eq!(left, [Ended::Token("late".into())]);
}

const TASKS: usize = 16;
const ROUNDS: usize = 20;

/// Runs `TASKS` tasks at once and collects what they answer.
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
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

pub async fn of_many_swaps_from_one_version_one_succeeds(store: impl SessionStore) {
    let store = Arc::new(store);
    let mut current = new("alice");
    insert(&*store, &current).await;
    for _ in 0..ROUNDS {
        let swapped = race(|n| {
            let (store, mut next) = (Arc::clone(&store), rotated(&current));
            next.chain.recoveries = u32::try_from(n).unwrap();
            async move { store.swap(next.version, &next).await.unwrap() }
        })
        .await;
        let winner = swapped.iter().position(|swapped| *swapped).expect("somebody wins");
        assert_eq!(swapped.iter().filter(|swapped| **swapped).count(), 1);
        let read = load(&*store, &current).await;
        assert_eq!(read.chain.generation, current.chain.generation + 1);
        assert_eq!(usize::try_from(read.chain.recoveries).unwrap(), winner);
        current = read;
    }
}

pub async fn many_logins_at_once_keep_to_the_cap(store: impl SessionStore) {
    let store = Arc::new(store);
    for round in 0..ROUNDS {
        for (user, response) in [("evicts", CapResponse::EvictOldest), ("refuses", CapResponse::Refuse)] {
            let user = format!("{user}{round}");
            let answers = race(|n| {
                let (store, new) = (Arc::clone(&store), session(&user, later(i64::try_from(n).unwrap()), LIFETIME));
                async move { store.insert(&new, capped(3, response)).await.unwrap() }
            })
            .await;
            let refused = answers.iter().filter(|answer| **answer == Inserted::Full).count();
            let evicted: usize = answers
                .iter()
                .map(|answer| match answer {
                    Inserted::Done(evicted) => evicted.len(),
                    Inserted::Full => 0,
                })
                .sum();
            assert_eq!(refused + evicted, TASKS - 3);
            assert_eq!(listed(&*store, &user).await.len(), 3);
        }
    }
}

pub async fn a_revocation_wins_against_swaps_under_way(store: impl SessionStore) {
    let store = Arc::new(store);
    for _ in 0..ROUNDS {
        let first = new("alice");
        insert(&*store, &first).await;
        race(|n| {
            let (store, id) = (Arc::clone(&store), first.id);
            async move {
                if n == TASKS / 2 {
                    let all = Target::User { user: "alice", except: None };
                    assert_eq!(store.revoke(all, revocation(NOW)).await.unwrap(), [id]);
                    return;
                }
                for _ in 0..5 {
                    let row = store.load(id).await.unwrap().unwrap();
                    if row.chain.revoked.is_none() {
                        store.swap(row.version, &rotated(&row)).await.unwrap();
                    }
                    store.seen(&[Seen { id, last_seen_at: later(1), acknowledged: Some(1) }]).await.unwrap();
                }
            }
        })
        .await;
        assert_eq!(load(&*store, &first).await.chain.revoked, Some(revocation(NOW)));
        assert!(listed(&*store, "alice").await.is_empty());
    }
}

pub async fn a_user_who_is_revoked_while_logging_in_has_no_session_that_the_feed_does_not_name(
    store: impl SessionStore,
) {
    let store = Arc::new(store);
    for round in 0..ROUNDS {
        let user = format!("user{round}");
        let ids: HashSet<_> = race(|n| {
            let (store, user) = (Arc::clone(&store), user.clone());
            async move {
                if n % 4 == 0 {
                    let all = Target::User { user: &user, except: None };
                    store.revoke(all, revocation(NOW)).await.unwrap();
                    return None;
                }
                let new = new(&user);
                store.insert(&new, alone()).await.unwrap();
                Some(new.id)
            }
        })
        .await
        .into_iter()
        .flatten()
        .collect();
        let live = listed(&*store, &user).await;
        let named: HashSet<_> = feed(&*store).await.into_iter().map(|revoked| revoked.what).collect();
        for id in ids {
            assert_ne!(live.contains(&id), named.contains(&Ended::Session(id)));
        }
    }
}
