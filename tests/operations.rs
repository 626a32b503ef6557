//! Deploys that change settings, clocks that are wrong, and users with many sessions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use axum::body::Body;
use axum_refresh::config::OnReuse;
use axum_refresh::store::{OnMaxSessions, SessionStore as _};
use axum_refresh::{Event, Policy, RevocationReason};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

mod support;

use support::{Clock, Fault, FaultyStore, GRACE, Node, code};

const MINUTE: Duration = Duration::from_secs(60);

fn with(store: &FaultyStore, clock: &Clock, policy: Policy) -> Node {
    Node::on(store.clone(), clock.clone(), |builder| builder.configure(|settings| settings.policy = policy))
}

fn policy(access_ttl: Duration, grace: Duration) -> Policy {
    Policy { access_ttl, grace, ..Policy::default() }
}

// ---- deploys --------------------------------------------------------------------------------------------------------

/// What ends a session, and with it its access tokens.
#[derive(Clone, Copy, Debug)]
enum End {
    Logout,
    User,
    Everyone,
    Replaced,
    Evicted,
    Token,
}

const ENDS: [End; 6] = [End::Logout, End::User, End::Everyone, End::Replaced, End::Evicted, End::Token];

/// The policies of deploys: every lifetime of access tokens with every grace period that fits, and other settings with
/// them.
fn policies() -> Vec<Policy> {
    let mut policies = Vec::new();
    for access_ttl in [5, 300, 80_000] {
        for grace in [1, 120].into_iter().filter(|grace| *grace < access_ttl) {
            let is_even = policies.len() % 2 == 0;
            policies.push(Policy {
                access_ttl: Duration::from_secs(access_ttl),
                grace: Duration::from_secs(grace),
                rotation: is_even,
                idle_timeout: Duration::from_secs(24 * 3600),
                lifetime: Duration::from_secs(if is_even { 30 } else { 2 } * 24 * 3600),
                max_sessions: Some(1),
                on_max_sessions: OnMaxSessions::EvictOldest,
                ..Policy::default()
            });
        }
    }
    policies
}

/// One node of a rolling deploy issues a token, the other ends its session, and neither accepts it ever again, whatever
/// their settings are, also after a restart.
#[tokio::test(start_paused = true)]
async fn nothing_that_was_revoked_is_accepted_after_a_deploy_whatever_it_changes() {
    for first in policies() {
        for second in policies() {
            for end in ENDS {
                deploy(&first, &second, end).await;
            }
        }
    }
}

async fn deploy(first: &Policy, second: &Policy, end: End) {
    let (store, clock) = (FaultyStore::default(), Clock::new());
    let old = with(&store, &clock, first.clone());
    let mut new = with(&store, &clock, second.clone());
    let login = new.login("alice").await.tokens;
    let auth = &old.auth;
    match end {
        End::Logout => auth.logout(login.refresh_token.as_ref().unwrap()).await.unwrap(),
        End::User => assert_eq!(auth.revoke_user("alice", None, RevocationReason::Other).await.unwrap(), 1),
        End::Everyone => drop(auth.revoke_all(RevocationReason::Other).await.unwrap()),
        End::Replaced => {
            let again = auth.login("alice", support::claims("user")).replacing(login.session_id);
            let _ = again.await.unwrap();
        }
        End::Evicted => drop(old.login("alice").await),
        End::Token => auth.revoke_access_token(&login.access_token).await.unwrap(),
    }
    for (n, step) in [0, 7, 22, 100, 200, 40_000, 40_000].into_iter().enumerate() {
        if n % 3 == 2 {
            new = with(&store, &clock, second.clone());
        }
        clock.advance(Duration::from_secs(step));
        for node in [&old, &new] {
            // For the feed, which is compared once a minute, and for what the background tasks forget.
            tokio::time::sleep(Duration::from_secs(61)).await;
            node.auth.purge().await.unwrap();
            let refused = code(node.auth.authenticate(&login.access_token).await);
            let is_refused = ["access_token_revoked", "access_token_expired"].contains(&refused);
            assert!(is_refused, "{end:?}: {refused}, {first:?}, {second:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_with_a_longer_ttl_remembers_what_one_with_a_shorter_ttl_has_revoked() {
    let (store, clock) = (FaultyStore::default(), Clock::new());
    let old = with(&store, &clock, policy(Duration::from_secs(10), Duration::from_secs(2)));
    let new = with(&store, &clock, policy(5 * MINUTE, Duration::from_secs(2)));
    let login = new.login("alice").await.tokens;
    new.auth.authenticate(&login.access_token).await.unwrap();
    old.auth.logout(&login.refresh_token.unwrap()).await.unwrap();
    for _ in 0..9 {
        clock.advance(Duration::from_secs(29));
        tokio::time::sleep(Duration::from_secs(61)).await;
        old.auth.purge().await.unwrap();
        assert_eq!(code(new.auth.authenticate(&login.access_token).await), "access_token_revoked");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_has_expired_here_can_be_revoked_where_it_has_not() {
    let (store, clock) = (FaultyStore::default(), Clock::new());
    let strict = Node::on(store.clone(), clock.clone(), |builder| builder);
    let lenient = Node::on(store.clone(), clock.clone(), |builder| {
        builder.configure(|settings| settings.leeway = Duration::from_secs(120))
    });
    let login = lenient.login("alice").await.tokens;
    clock.advance(login.expires_in + MINUTE);
    assert_eq!(code(strict.auth.authenticate(&login.access_token).await), "access_token_expired");
    lenient.auth.authenticate(&login.access_token).await.unwrap();
    strict.auth.revoke_access_token(&login.access_token).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(code(lenient.auth.authenticate(&login.access_token).await), "access_token_revoked");
    // Nobody accepts it any more, and the feed need not have it.
    clock.advance(5 * MINUTE);
    store.calls();
    strict.auth.revoke_access_token(&login.access_token).await.unwrap();
    assert_eq!(store.calls().others, 0);
}

#[tokio::test(start_paused = true)]
async fn replacing_a_session_that_has_expired_ends_its_access_tokens_where_there_is_a_leeway() {
    let (store, clock) = (FaultyStore::default(), Clock::new());
    let [one, two] = [(); 2].map(|()| {
        Node::on(store.clone(), clock.clone(), |builder| {
            builder.configure(|settings| {
                settings.leeway = Duration::from_secs(120);
                (settings.policy.idle_timeout, settings.policy.lifetime) = (20 * MINUTE, 20 * MINUTE);
            })
        })
    });
    let old = one.login("alice").await.tokens;
    clock.advance(19 * MINUTE);
    let access = one.refresh(&old.refresh_token.unwrap()).await.unwrap().tokens.access_token;
    clock.advance(2 * MINUTE);
    for node in [&one, &two] {
        node.auth.authenticate(&access).await.unwrap();
    }
    let _ = one.auth.login("alice", support::claims("user")).replacing(old.session_id).await.unwrap();
    assert_eq!(code(one.auth.authenticate(&access).await), "access_token_revoked");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(code(two.auth.authenticate(&access).await), "access_token_revoked");
}

// ---- users with many sessions ---------------------------------------------------------------------------------------

#[tokio::test]
async fn all_sessions_of_a_user_end_with_one_call_of_the_store_and_one_event() {
    let node = Node::new();
    let mut tokens = Vec::new();
    for _ in 0..1_200 {
        tokens.push(node.login("alice").await.tokens);
    }
    let bob = node.login("bob").await.tokens;
    node.store.calls();
    node.events();
    let revoked = node.auth.revoke_user("alice", None, RevocationReason::RevokedByAdmin).await.unwrap();
    assert_eq!(revoked, 1_200);
    assert_eq!(node.store.calls().others, 1);
    let reason = RevocationReason::RevokedByAdmin;
    assert_eq!(node.events(), [Event::UserRevoked { user_id: "alice".into(), sessions: 1_200, reason, client: None }]);
    assert!(node.auth.sessions("alice").await.unwrap().is_empty());
    for login in tokens.iter().step_by(97) {
        assert_eq!(code(node.auth.authenticate(&login.access_token).await), "access_token_revoked");
        assert_eq!(code(node.refresh(login.refresh_token.as_ref().unwrap()).await), "session_revoked");
    }
    node.auth.authenticate(&bob.access_token).await.unwrap();
    node.refresh(&bob.refresh_token.unwrap()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_node_asks_once_about_each_session_of_a_revoked_user_and_serves_those_that_go_on() {
    let (store, clock) = (FaultyStore::default(), Clock::new());
    let [one, two] = [(); 2].map(|()| Node::on(store.clone(), clock.clone(), |builder| builder));
    let (dead, kept) = (one.login("alice").await.tokens, one.login("alice").await.tokens);
    for login in [&dead, &kept] {
        two.auth.authenticate(&login.access_token).await.unwrap();
    }
    one.auth.revoke_user("alice", Some(kept.session_id), RevocationReason::Logout).await.unwrap();
    let later = one.login("alice").await.tokens;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for node in [&one, &two] {
        store.calls();
        for _ in 0..3 {
            assert_eq!(code(node.auth.authenticate(&dead.access_token).await), "access_token_revoked");
            node.auth.authenticate(&kept.access_token).await.unwrap();
            node.auth.authenticate(&later.access_token).await.unwrap();
        }
        assert_eq!(store.calls().loads, 3);
        // What is not known is not guessed.
        store.set(Fault::Fails);
        node.auth.authenticate(&kept.access_token).await.unwrap();
        store.set(Fault::None);
    }
    one.auth.revoke_user("alice", None, RevocationReason::Logout).await.unwrap();
    store.set(Fault::Fails);
    assert_eq!(code(one.auth.authenticate(&kept.access_token).await), "store_unavailable");
    store.set(Fault::None);
    assert_eq!(code(one.auth.authenticate(&kept.access_token).await), "access_token_revoked");
    assert_eq!(code(two.refresh(&later.refresh_token.unwrap()).await), "session_revoked");
}

#[tokio::test]
async fn a_session_limit_that_a_deploy_switches_on_locks_nobody_out() {
    let node = Node::new();
    let mut tokens = Vec::new();
    for _ in 0..1_500 {
        node.clock.advance(Duration::from_millis(1));
        tokens.push(node.login("alice").await.tokens);
    }
    let limited = with(&node.store, &node.clock, Policy { max_sessions: Some(2), ..Policy::default() });
    node.clock.advance(Duration::from_millis(1));
    let new = limited.login("alice").await.tokens;
    let live = limited.auth.sessions("alice").await.unwrap();
    assert_eq!(live.iter().map(|session| session.id).collect::<Vec<_>>(), [new.session_id, tokens[1_499].session_id]);
    assert_eq!(code(limited.auth.authenticate(&tokens[3].access_token).await), "access_token_revoked");
    limited.auth.authenticate(&tokens[1_499].access_token).await.unwrap();
}

#[tokio::test]
async fn a_list_has_at_most_the_thousand_sessions_that_began_last() {
    let node = Node::new();
    let first = node.login("alice").await.tokens.session_id;
    for _ in 0..1_000 {
        node.clock.advance(Duration::from_millis(1));
        let _ = node.login("alice").await;
    }
    let listed = node.auth.sessions("alice").await.unwrap();
    assert_eq!(listed.len(), 1_000);
    assert!(listed.iter().all(|session| session.id != first));
    // One that is not listed can be revoked all the same.
    node.auth.revoke_own_session("alice", first).await.unwrap();
}

// ---- everyone -------------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn everyone_is_revoked_on_every_node_and_can_log_in_again() {
    let (store, clock) = (FaultyStore::default(), Clock::new());
    let [one, two] = [(); 2].map(|()| Node::on(store.clone(), clock.clone(), |builder| builder));
    let staff = Node::on(store.clone(), clock.clone(), |builder| {
        builder.configure(|settings| settings.realm = Some("staff".to_owned()))
    });
    let logins = [one.login("alice").await.tokens, two.login("bob").await.tokens];
    let other_realm = staff.login("alice").await.tokens;
    for login in &logins {
        two.auth.authenticate(&login.access_token).await.unwrap();
    }
    one.events();
    let revoked_before = one.auth.revoke_all(RevocationReason::RevokedByAdmin).await.unwrap();
    assert_eq!(revoked_before, std::time::SystemTime::from(clock.now()));
    assert_eq!(one.events(), [Event::EveryoneRevoked { reason: RevocationReason::RevokedByAdmin, client: None }]);
    let again = one.login("alice").await.tokens;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for node in [&one, &two] {
        for login in &logins {
            assert_eq!(code(node.auth.authenticate(&login.access_token).await), "access_token_revoked");
            assert_eq!(code(node.refresh(login.refresh_token.as_ref().unwrap()).await), "session_revoked");
        }
        node.auth.authenticate(&again.access_token).await.unwrap();
        assert_eq!(node.auth.sessions("bob").await.unwrap().len(), 0);
        assert_eq!(node.auth.sessions("alice").await.unwrap().len(), 1);
    }
    staff.auth.authenticate(&other_realm.access_token).await.unwrap();
    staff.refresh(&other_realm.refresh_token.unwrap()).await.unwrap();
}

#[tokio::test]
async fn the_admin_router_revokes_everyone() {
    let node = Node::new();
    let login = node.login("alice").await.tokens;
    let request = Request::delete("/sessions").body(Body::empty()).unwrap();
    let response = node.auth.admin_router::<()>().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body, serde_json::json!({ "revoked_before": "2027-01-15T08:00:00.000Z" }));
    assert_eq!(code(node.auth.authenticate(&login.access_token).await), "access_token_revoked");
}

// ---- stores that lose entries ---------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_lost_revocation_of_a_user_is_written_again_and_spares_its_exception_and_later_logins() {
    let node = Node::new();
    let old = node.login("alice").await.tokens;
    let spared = node.login("alice").await.tokens;
    tokio::time::sleep(Duration::from_secs(3)).await;
    node.store.set(Fault::PretendsToRevoke);
    node.auth.revoke_user("alice", Some(spared.session_id), RevocationReason::Logout).await.unwrap();
    node.store.set(Fault::None);
    node.clock.advance(Duration::from_secs(1));
    let new = node.login("alice").await.tokens;
    node.events();
    // The next comparison of the feed.
    node.clock.advance(MINUTE);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(node.has_event(|event| matches!(event, Event::RevocationsLost { count: 1 })));
    let two = Node::on(node.store.clone(), node.clock.clone(), |builder| builder);
    assert_eq!(code(two.auth.authenticate(&old.access_token).await), "access_token_revoked");
    for live in [spared, new] {
        two.auth.authenticate(&live.access_token).await.unwrap();
        two.refresh(&live.refresh_token.unwrap()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_starts_reads_the_feed_from_its_start_once() {
    let node = Node::new();
    let ended = node.login("alice").await.tokens;
    node.auth.revoke_session(ended.session_id, RevocationReason::Logout).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let reads = || node.store.reads_from_start.swap(0, std::sync::atomic::Ordering::SeqCst);
    reads();
    let two = Node::on(node.store.clone(), node.clock.clone(), |builder| builder);
    assert_eq!(code(two.auth.authenticate(&ended.access_token).await), "access_token_revoked");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(reads(), 1);
}

// ---- clocks ---------------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_difference_between_the_clocks_is_reported_once() {
    let node = Node::new();
    for (ahead, reported) in
        [(1_500, None), (31_000, Some(31_000)), (31_500, None), (1_000, None), (-5_000, Some(-5_000))]
    {
        node.store.set_clock(Some(node.clock.now().as_millis() - ahead));
        node.events();
        for _ in 0..3 {
            node.clock.advance(Duration::from_secs(1));
            node.store.set_clock(Some(node.clock.now().as_millis() - ahead));
            let _ = node.login("alice").await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let differs = |event: Event| match event {
            Event::ClockDiffers { ahead_by_millis } => Some(ahead_by_millis),
            _ => None,
        };
        let events: Vec<_> = node.events().into_iter().filter_map(differs).collect();
        assert_eq!(events, Vec::from_iter(reported), "{ahead}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_clock_is_wrong_by_more_than_the_grace_period_purges_nothing() {
    let node = Node::new();
    let session = node.login("alice").await.tokens.session_id;
    let days = Duration::from_secs(31 * 24 * 3600);
    let store_time = node.clock.now().as_millis();
    node.store.set_clock(Some(store_time));
    let ahead = Node::on(node.store.clone(), node.clock.clone(), |builder| builder);
    node.clock.advance(days);
    let _ = ahead.login("bob").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(ahead.auth.purge().await.unwrap(), 0);
    assert!(node.store.inner.load(session).await.unwrap().is_some());
    node.store.set_clock(Some(node.clock.now().as_millis()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(ahead.auth.purge().await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn activity_that_a_clock_far_ahead_has_recorded_does_not_outlast_it() {
    for is_written_before in [true, false] {
        let node = Node::new();
        let login = node.login("alice").await.tokens;
        node.store.set_clock(Some(node.clock.now().as_millis()));
        let ahead = Duration::from_secs(600);
        node.clock.advance(ahead);
        tokio::time::sleep(Duration::from_secs(2)).await;
        node.auth.authenticate(&login.access_token).await.unwrap();
        if is_written_before {
            node.auth.flush().await.unwrap();
        }
        node.clock.turn_back(ahead);
        tokio::time::sleep(Duration::from_secs(2)).await;
        node.clock.advance(MINUTE);
        node.store.set_clock(Some(node.clock.now().as_millis()));
        node.auth.authenticate(&login.access_token).await.unwrap();
        node.auth.flush().await.unwrap();
        let session = node.store.inner.load(login.session_id).await.unwrap().unwrap();
        let latest = node.clock.now().after(GRACE);
        assert!(session.rotation.last_seen_at >= node.clock.now(), "the last use counts");
        assert!(session.rotation.last_seen_at <= latest, "{:?} {latest:?}", session.rotation.last_seen_at);
    }
}

// ---- outages --------------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn while_the_store_does_not_respond_one_request_waits_for_it_and_the_others_fail_at_once() {
    let node = Node::new();
    let login = node.login("alice").await.tokens;
    tokio::time::sleep(Duration::from_secs(2)).await;
    node.store.set(Fault::Hangs);
    // Longer than the known revocations count.
    node.clock.advance(MINUTE);
    tokio::time::sleep(Duration::from_secs(10)).await;
    node.events();
    let mut waited = Vec::new();
    for n in 0..100 {
        let (node, access, refresh) = (node.clone(), login.access_token.clone(), login.refresh_token.clone().unwrap());
        waited.push(tokio::spawn(async move {
            let started = tokio::time::Instant::now();
            let refused = match n % 2 {
                0 => code(node.auth.authenticate(&access).await),
                _ => code(node.refresh(&refresh).await),
            };
            assert_eq!(refused, "store_unavailable");
            started.elapsed()
        }));
    }
    let mut slow = 0;
    for waited in waited {
        slow += usize::from(waited.await.unwrap() > Duration::from_millis(1));
    }
    assert!(slow <= 1, "{slow}");
    // As few events as calls, so that the log is not full of it.
    assert!(node.events().len() <= 8);
    // It is noticed within a second that the store is back.
    node.store.set(Fault::None);
    tokio::time::sleep(Duration::from_secs(1)).await;
    node.auth.authenticate(&login.access_token).await.unwrap();
    node.refresh(&login.refresh_token.unwrap()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_store_is_not_an_outage() {
    let node = Node::new();
    let login = node.login("alice").await.tokens;
    let token = login.refresh_token.unwrap();
    for fault in [Fault::Fails, Fault::FailsFor(login.session_id)] {
        node.store.set(fault);
        assert_eq!(code(node.refresh(&token).await), "store_unavailable");
        node.store.set(Fault::None);
        node.refresh(&token).await.unwrap();
    }
}

#[tokio::test]
async fn revoking_an_id_that_no_user_can_have_revokes_nothing_and_asks_nobody() {
    let node = Node::on(FaultyStore::default(), Clock::new(), |builder| {
        builder.configure(|settings| settings.realm = Some("staff".to_owned()))
    });
    let login = node.login("alice").await.tokens;
    node.store.calls();
    for id in ["", "\0", "\0\0", "staff\0", "staff\0alice", &"u".repeat(256)] {
        assert_eq!(node.auth.revoke_user(id, None, RevocationReason::Other).await.unwrap(), 0, "{id:?}");
    }
    assert_eq!(node.store.calls().others, 0);
    node.auth.authenticate(&login.access_token).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn sessions_that_ended_with_their_user_are_not_taken_for_lost_revocations() {
    let (store, clock) = (FaultyStore::default(), Clock::new());
    let [one, two] = [(); 2].map(|()| Node::on(store.clone(), clock.clone(), |builder| builder));
    let mut tokens = Vec::new();
    for _ in 0..50 {
        tokens.push(one.login("alice").await.tokens);
    }
    two.auth.authenticate(&tokens[0].access_token).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    one.auth.revoke_user("alice", None, RevocationReason::Logout).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for login in &tokens {
        assert_eq!(code(two.auth.authenticate(&login.access_token).await), "access_token_revoked");
    }
    store.calls();
    two.events();
    clock.advance(MINUTE);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!two.has_event(|event| matches!(event, Event::RevocationsLost { .. })));
    assert_eq!(store.calls().others, 0);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_revocation_is_in_force_at_once_also_after_an_earlier_one_of_the_user() {
    let node = Node::with_policy(Policy { on_reuse: OnReuse::User, ..Policy::default() });
    let _ = node.login("alice").await;
    node.auth.revoke_user("alice", None, RevocationReason::Logout).await.unwrap();
    node.clock.advance(Duration::from_secs(1));
    let stolen = node.refresh_token("alice").await;
    let other = node.login("alice").await.tokens.access_token;
    // Known to go on, as of the earlier one.
    node.auth.authenticate(&other).await.unwrap();
    let mut newest = stolen.clone();
    for _ in 0..3 {
        newest = node.rotate(&newest).await;
        node.after_grace();
    }
    node.store.set(Fault::FailsForUsers);
    assert_eq!(code(node.refresh(&stolen).await), "refresh_token_reused");
    assert_eq!(code(node.auth.authenticate(&other).await), "access_token_revoked");
}

#[tokio::test(start_paused = true)]
async fn a_logout_is_written_also_while_a_revocation_of_the_user_is_delayed() {
    let node = Node::with_policy(Policy { on_reuse: OnReuse::User, ..Policy::default() });
    let stolen = node.refresh_token("alice").await;
    let other = node.refresh_token("alice").await;
    let mut newest = stolen.clone();
    for _ in 0..3 {
        newest = node.rotate(&newest).await;
        node.after_grace();
    }
    node.store.set(Fault::FailsForUsers);
    assert_eq!(code(node.refresh(&stolen).await), "refresh_token_reused");
    node.auth.logout(&other).await.unwrap();
    // The node may crash before it tries again.
    let two = Node::on(node.store.clone(), node.clock.clone(), |builder| builder);
    assert_eq!(code(two.refresh(&other).await), "session_revoked");
}
