//! Revocations, and the feed that tells the nodes of them.

use super::*;

pub async fn a_session_that_the_store_has_lost_can_still_be_revoked(store: impl SessionStore) {
    let lost = new("alice").id;
    let revocation = revocation(NOW);
    assert_eq!(store.revoke(RevokeTarget::Session(lost), revocation).await.unwrap(), Revoked::default());
    assert_eq!(feed(&store).await, HashSet::from([RevokedItem::Session(lost)]));
    assert_eq!(store.load(lost).await.unwrap(), None);
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
    let revoked = store.revoke(target, revocation(NOW)).await.unwrap();
    assert_eq!(revoked.count, 2);
    // A node that repeats a revocation which the store has lost has to know the exception.
    if let Some(users) = revoked.users {
        assert_eq!(users.spared, Spared::Session(alice[1].id));
        assert!(feed(&store).await.contains(&RevokedItem::Users(users)));
    }
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
