//! The session limit, and sessions that replace others.

use super::*;

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

/// A node with a leeway accepts an access token for a little longer than its session.
pub async fn a_replaced_session_that_has_expired_enters_the_feed_too(store: impl SessionStore) {
    let old = session("alice", NOW, 10);
    insert(&store, &old).await;
    let options = InsertOptions { replacing: Some(old.id), ..unlimited() };
    store.insert(&session("alice", later(10), LIFETIME), options).await.unwrap();
    assert!(load(&store, &old).await.rotation.revoked.is_some());
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

pub async fn the_session_limit_counts_by_the_idle_timeout_of_each_session(store: impl SessionStore) {
    let mut idle = new("alice");
    idle.rotation.idle_timeout = Some(Duration::from_secs(60));
    let mut live = new("alice");
    live.rotation.idle_timeout = Some(IDLE * 2);
    insert(&store, &idle).await;
    insert(&store, &live).await;
    // Not idle yet.
    let at = |millis| session("alice", later(millis), LIFETIME);
    let refused = store.insert(&at(59_999), limited(2, OnMaxSessions::Refuse)).await.unwrap();
    assert_eq!(refused, Inserted::LimitReached);
    let second = at(60_000);
    assert_eq!(store.insert(&second, limited(2, OnMaxSessions::Refuse)).await.unwrap(), done([]));
    // The shorter of the two idle timeouts counts: `live` is idle now, and `second` is the only one.
    let third = at(600_000);
    assert_eq!(store.insert(&third, limited(2, OnMaxSessions::EvictOldest)).await.unwrap(), done([]));
    let fourth = at(600_001);
    assert_eq!(store.insert(&fourth, limited(2, OnMaxSessions::EvictOldest)).await.unwrap(), done([second.id]));
}

pub async fn the_session_limit_neither_counts_nor_evicts_a_session_in_which_somebody_acts(store: impl SessionStore) {
    let mut acting = new("alice");
    let actor = Actor { user_id: "admin".into(), session_id: new("admin").id };
    acting.client.actor = Some(Arc::new(actor));
    insert(&store, &acting).await;
    let own = session("alice", later(1), LIFETIME);
    assert_eq!(store.insert(&own, limited(1, OnMaxSessions::Refuse)).await.unwrap(), done([]));
    let next = session("alice", later(2), LIFETIME);
    assert_eq!(store.insert(&next, limited(1, OnMaxSessions::EvictOldest)).await.unwrap(), done([own.id]));
    assert_eq!(listed(&store, "alice").await, HashSet::from([acting.id, next.id]));
    assert_eq!(store.revoke(user("alice"), revocation(NOW)).await.unwrap().count, 2);
}
