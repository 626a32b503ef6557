//! Rows: what is inserted, swapped, listed, recorded and purged.

use super::*;

pub async fn a_session_is_loaded_as_it_was_inserted(store: impl SessionStore) {
    let plain = new("alice");
    let mut full = new("bob \u{0} \" ' \\ 日本 🦀");
    full.client = Client {
        ip: Some("2001:db8::7".parse().unwrap()),
        user_agent: Some("Mozilla/5.0 (\u{e9}; 🦀)".into()),
        label: Some("kitchen's \"tablet\"".into()),
        actor: Some(Arc::new(Actor { user_id: "admin 日本".into(), session_id: plain.id })),
    };
    full.authentication =
        Authentication { time: later(-86_400_000), acr: Some("aal2".into()), amr: vec!["pwd".into(), "é".into()] };
    full.persistent = Some(false);
    full.transport = Transport::Body;
    full.can_refresh = false;
    full.external = Some(ExternalId::from_bytes([0xf0; 32]));
    full.last_client = Some(Client { ip: Some([198, 51, 100, 7].into()), ..Client::default() });
    full.rotation.idle_timeout = Some(Duration::from_millis(1_234_567));
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

pub async fn compare_and_swap_writes_the_last_client(store: impl SessionStore) {
    let first = new("alice");
    insert(&store, &first).await;
    let mut version = first.version;
    let client = |n| Client { user_agent: Some("curl/8".into()), ip: Some([192, 0, 2, n].into()), ..Client::default() };
    for last_client in [Some(client(1)), Some(client(2)), None, Some(client(3))] {
        let next = SessionRecord { last_client, ..rotated(&first) };
        assert!(store.compare_and_swap(version, &next).await.unwrap());
        let read = load(&store, &first).await;
        version = read.version;
        assert_eq!(read, SessionRecord { version, ..next });
    }
}

pub async fn sessions_are_found_by_the_one_at_the_identity_provider(store: impl SessionStore) {
    let (one, other) = (ExternalId::from_bytes([1; 32]), ExternalId::from_bytes([2; 32]));
    let mut sessions = [new("alice"), new("alice"), new("bob"), new("bob")];
    for (session, external) in sessions.iter_mut().zip([Some(one), Some(one), Some(one), Some(other)]) {
        session.external = external;
        insert(&store, session).await;
    }
    let found = async |external| HashSet::from_iter(store.find_external(external).await.unwrap());
    assert_eq!(found(one).await, HashSet::from([sessions[0].id, sessions[1].id, sessions[2].id]));
    assert_eq!(found(other).await, HashSet::from([sessions[3].id]));
    assert_eq!(found(ExternalId::from_bytes([3; 32])).await, HashSet::new());
    // They stay found while they are live, whatever happens to others.
    store.revoke(RevokeTarget::Session(sessions[0].id), revocation(NOW)).await.unwrap();
    let next = rotated(&sessions[1]);
    assert!(store.compare_and_swap(sessions[1].version, &next).await.unwrap());
    assert!(found(one).await.is_superset(&HashSet::from([sessions[1].id, sessions[2].id])));
    store.purge(later(LIFETIME + 1), 10).await.unwrap();
    assert_eq!(found(one).await, HashSet::new());
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
