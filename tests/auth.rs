//! The use cases of `Auth`, without HTTP, on the memory store and with a manual clock.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum_refresh::config::{Binding, BindingMode, ClaimsRequest, OnMaxSessions, OnReuse, Transport};
use axum_refresh::ratchet::Verdict;
use axum_refresh::store::{FeedCursor, FeedWindow, RevokeTarget, RevokedItem, Timestamp};
use axum_refresh::{
    Auth, AuthUser, ClaimsError, ClientInfo, Error, Event, MemoryStore, NoClaims, Policy, RevocationReason, Secret,
    SessionId, SessionStore as _,
};
use serde::{Deserialize, Serialize};
use support::{Calls, Claims, Clock, Fault, FaultyStore, GRACE, Node, SECRET, claims, client, code};

const MINUTE: Duration = Duration::from_secs(60);

// ---- logging in -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_login_creates_a_session_that_is_listed() {
    let node = Node::new();
    let login = node.login("alice").await;
    let user = node.auth.authenticate(&login.tokens.access_token).await.unwrap();
    assert_eq!((&*user.id, user.session_id, user.claims.role.as_str()), ("alice", login.tokens.session_id, "user"));
    let [session] = node.auth.sessions("alice").await.unwrap().try_into().unwrap();
    assert_eq!((session.id, session.user_agent.as_deref()), (login.tokens.session_id, Some("curl/8.5.0")));
    assert_eq!(session.ip, Some("203.0.113.7".parse().unwrap()));
}

#[tokio::test]
async fn a_user_id_is_any_text_of_1_to_255_bytes() {
    let node = Node::new();
    let _ = node.auth.login(42_u64, claims("user")).await.unwrap();
    assert_eq!(node.auth.sessions("42").await.unwrap().len(), 1);
    for id in [String::new(), "x".repeat(256)] {
        assert!(matches!(node.auth.login(id, claims("user")).await, Err(Error::InvalidUserId)));
    }
    let _ = node.auth.login("x".repeat(255), claims("user")).await.unwrap();
}

#[tokio::test]
async fn claims_that_use_a_reserved_name_are_a_typed_error_at_login() {
    let auth = Auth::<serde_json::Value>::builder(Secret::new(SECRET), MemoryStore::new()).build().unwrap();
    let refused = auth.login("alice", serde_json::json!({"sub": "bob"})).await;
    assert!(matches!(refused, Err(Error::Claims(ClaimsError::Reserved(name))) if name == "sub"));
    assert!(auth.sessions("alice").await.unwrap().is_empty());
    let refused = auth.login("alice", serde_json::json!([1])).await;
    assert!(matches!(refused, Err(Error::Claims(ClaimsError::NotAnObject))));
}

#[tokio::test]
async fn an_app_may_have_no_claims() {
    let auth = Auth::<NoClaims>::builder(Secret::new(SECRET), MemoryStore::new()).build().unwrap();
    let login = auth.login("alice", NoClaims {}).await.unwrap();
    let refreshed = auth.refresh(&login.tokens.refresh_token.unwrap(), ClientInfo::new()).await.unwrap();
    assert_eq!(auth.authenticate(&refreshed.tokens.access_token).await.unwrap().claims, NoClaims {});
}

#[tokio::test]
async fn a_session_without_a_refresh_token_expires_with_its_access_token() {
    let node = Node::new();
    let login = node.auth.login("alice", claims("user")).without_refresh().await.unwrap();
    assert_eq!((&login.tokens.refresh_token, login.tokens.refresh_in), (&None, None));
    assert_eq!(node.auth.sessions("alice").await.unwrap().len(), 1);
    node.auth.revoke_own_session("alice", login.tokens.session_id).await.unwrap();
    assert_eq!(code(node.auth.authenticate(&login.tokens.access_token).await), "access_token_revoked");
    let _ = node.auth.login("alice", claims("user")).without_refresh().await.unwrap();
    node.clock.advance(15 * MINUTE);
    assert!(node.auth.sessions("alice").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_session_limit_of_one_keeps_the_newest_session() {
    let node = Node::with_policy(Policy { max_sessions: Some(1), ..Policy::default() });
    let first = node.login("alice").await;
    let second = node.login("alice").await;
    assert_eq!(code(node.auth.authenticate(&first.tokens.access_token).await), "access_token_revoked");
    assert_eq!(code(node.refresh(&first.tokens.refresh_token.unwrap()).await), "session_revoked");
    let ids: Vec<_> = node.auth.sessions("alice").await.unwrap().iter().map(|session| session.id).collect();
    assert_eq!(ids, [second.tokens.session_id]);
    assert!(node.has_event(|event| matches!(event, Event::SessionRevoked { reason: RevocationReason::Evicted, .. })));
}

#[tokio::test]
async fn a_session_limit_can_refuse_the_login() {
    let policy = Policy { max_sessions: Some(1), on_max_sessions: OnMaxSessions::Refuse, ..Policy::default() };
    let node = Node::with_policy(policy);
    let token = node.refresh_token("alice").await;
    assert_eq!(code(node.auth.login("alice", claims("user")).await), "session_limit");
    node.refresh(&token).await.unwrap();
    node.auth.logout(&token).await.unwrap();
    let _ = node.login("alice").await;
}

#[tokio::test]
async fn logging_in_again_replaces_the_session_in_one_step() {
    let node = Node::new();
    let old = node.login("alice").await;
    let again = node.auth.login("alice", claims("admin")).replacing(old.tokens.session_id).await.unwrap();
    assert_eq!(code(node.auth.authenticate(&old.tokens.access_token).await), "access_token_revoked");
    assert_eq!(node.auth.authenticate(&again.tokens.access_token).await.unwrap().claims.role, "admin");
    assert_eq!(node.auth.sessions("alice").await.unwrap().len(), 1);
    let other = node.auth.login("bob", claims("user")).replacing(again.tokens.session_id).await.unwrap();
    assert_eq!(code(node.auth.authenticate(&again.tokens.access_token).await), "access_token_revoked");
    node.auth.authenticate(&other.tokens.access_token).await.unwrap();
}

// ---- refreshing -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_refresh_costs_one_load_and_one_swap_and_an_echo_one_load() {
    let node = Node::new();
    let first = node.refresh_token("alice").await;
    node.store.calls();
    let second = node.rotate(&first).await;
    assert_eq!(node.store.calls(), Calls { loads: 1, swaps: 1, others: 0 });
    for (token, verdict) in [(&first, Verdict::Echo), (&second, Verdict::Touch)] {
        assert_eq!(node.refresh(token).await.unwrap().verdict, verdict);
        assert_eq!(node.store.calls(), Calls { loads: 1, swaps: 0, others: 0 });
    }
    node.after_grace();
    let third = node.rotate(&second).await;
    assert_eq!(code(node.refresh(&first).await), "refresh_busy");
    assert_eq!(node.store.calls(), Calls { loads: 2, swaps: 1, others: 0 });
    node.auth.logout(&third).await.unwrap();
    node.store.calls();
    assert_eq!(code(node.refresh(&third).await), "session_revoked");
    assert_eq!(node.store.calls(), Calls { loads: 1, swaps: 0, others: 0 });
}

#[tokio::test]
async fn hole_1_garbage_causes_no_store_call() {
    let node = Node::new();
    let good = node.refresh_token("alice").await;
    node.store.calls();
    let flipped: String = good.chars().map(|c| if c == 'A' { 'B' } else { 'A' }).collect();
    for garbage in ["", "x", &good[1..], &flipped, &"A".repeat(94), &"A".repeat(100_000)] {
        assert_eq!(code(node.refresh(garbage).await), "refresh_token_invalid");
        node.auth.logout(garbage).await.unwrap();
    }
    assert_eq!(node.store.calls(), Calls { loads: 0, swaps: 0, others: 0 });
}

#[tokio::test]
async fn hole_2_neither_token_is_accepted_as_the_other() {
    let node = Node::new();
    let login = node.login("alice").await;
    assert_eq!(code(node.refresh(&login.tokens.access_token).await), "refresh_token_invalid");
    assert_eq!(code(node.auth.authenticate(&login.tokens.refresh_token.unwrap()).await), "access_token_invalid");
}

#[tokio::test]
async fn hole_4_a_lost_response_logs_nobody_out_however_late_the_retry() {
    let node = Node::new();
    let first = node.refresh_token("alice").await;
    let lost = node.rotate(&first).await;
    node.clock.advance(Duration::from_secs(24 * 3600));
    let recovered = node.refresh(&first).await.unwrap();
    assert_eq!(recovered.verdict, Verdict::Recover);
    node.after_grace();
    node.rotate(&recovered.tokens.refresh_token.unwrap()).await;
    node.after_grace();
    assert_eq!(code(node.refresh(&lost).await), "refresh_token_reused");
}

#[tokio::test]
async fn many_lost_responses_in_a_row_emit_an_event() {
    let node = Node::new();
    let first = node.refresh_token("alice").await;
    node.rotate(&first).await;
    for recoveries in 1..=5 {
        node.after_grace();
        node.events();
        assert_eq!(node.refresh(&first).await.unwrap().verdict, Verdict::Recover);
        let emitted =
            node.has_event(|event| matches!(event, Event::ManyRecoveries { recoveries: n, .. } if *n == recoveries));
        assert_eq!(emitted, recoveries >= 4);
    }
}

#[tokio::test]
async fn hole_5_replaying_an_old_token_revokes_its_own_session_once_and_no_other() {
    let node = Node::new();
    let other = node.refresh_token("alice").await;
    let stolen = node.refresh_token("alice").await;
    let mut mine = stolen.clone();
    for _ in 0..3 {
        mine = node.rotate(&mine).await;
        node.after_grace();
    }
    assert_eq!(code(node.refresh(&stolen).await), "refresh_token_reused");
    assert_eq!(code(node.refresh(&stolen).await), "session_revoked");
    assert_eq!(code(node.refresh(&mine).await), "session_revoked");
    let again = node.refresh_token("alice").await;
    assert_eq!(code(node.refresh(&stolen).await), "session_revoked");
    node.refresh(&other).await.unwrap();
    node.refresh(&again).await.unwrap();
    assert!(node.has_event(|event| matches!(event, Event::Reuse { .. })));
}

#[tokio::test]
async fn reuse_can_revoke_all_sessions_of_the_user() {
    let node = Node::with_policy(Policy { on_reuse: OnReuse::User, ..Policy::default() });
    let other = node.login("alice").await;
    let bob = node.refresh_token("bob").await;
    let old = node.refresh_token("alice").await;
    let mut newest = old.clone();
    for _ in 0..3 {
        newest = node.rotate(&newest).await;
        node.after_grace();
    }
    assert_eq!(code(node.refresh(&old).await), "refresh_token_reused");
    assert_eq!(code(node.auth.authenticate(&other.tokens.access_token).await), "access_token_revoked");
    assert_eq!(code(node.refresh(&other.tokens.refresh_token.unwrap()).await), "session_revoked");
    node.refresh(&bob).await.unwrap();
}

/// A node that revokes all sessions of a user after a reuse, another session of alice, and two tokens of a session of hers:
/// a superseded one and the newest.
async fn before_a_reuse() -> (Node, String, String, String) {
    let node = Node::with_policy(Policy { on_reuse: OnReuse::User, ..Policy::default() });
    let other = node.refresh_token("alice").await;
    let old = node.refresh_token("alice").await;
    let newest = node.rotate(&old).await;
    node.after_grace();
    let newest = node.rotate(&newest).await;
    node.after_grace();
    node.events();
    (node, other, old, newest)
}

fn is_reuse(event: &Event) -> bool {
    matches!(event, Event::Reuse { .. })
}

#[tokio::test(start_paused = true)]
async fn reuse_revokes_its_session_at_once_and_the_others_as_soon_as_the_store_can() {
    for fault in [Fault::FailsForUsers, Fault::FailsToRevoke] {
        let (node, other, old, newest) = before_a_reuse().await;
        node.store.set(fault);
        assert_eq!(code(node.refresh(&old).await), "refresh_token_reused");
        assert!(node.has_event(is_reuse));
        assert!(node.has_event(|event| matches!(event, Event::RevocationDelayed { .. })));
        assert_eq!(code(node.refresh(&newest).await), "session_revoked");
        // Here at once.
        assert_eq!(code(node.refresh(&other).await), "session_revoked");
        let two = Node::on(node.store.clone(), node.clock.clone(), |builder| builder);
        tokio::time::sleep(Duration::from_secs(300)).await;
        two.refresh(&other).await.unwrap();
        node.store.set(Fault::None);
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(code(two.refresh(&other).await), "session_revoked");
        assert!(!node.has_event(|event| matches!(event, Event::RevocationsLost { .. })));
        let delayed = |event: &&Event| matches!(event, Event::RevocationDelayed { .. });
        assert_eq!(node.events().iter().filter(delayed).count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_after_the_reuse_survives_the_late_revocation_of_the_others() {
    let (node, other, old, _) = before_a_reuse().await;
    node.store.set(Fault::FailsToRevoke);
    assert_eq!(code(node.refresh(&old).await), "refresh_token_reused");
    node.clock.advance(Duration::from_millis(1));
    let again = node.refresh_token("alice").await;
    node.store.set(Fault::None);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(code(node.refresh(&other).await), "session_revoked");
    node.refresh(&again).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn reuse_is_reported_and_pursued_even_if_the_store_does_not_confirm_its_revocation() {
    for fault in [Fault::LosesReplies, Fault::FailsToSwap] {
        let (node, other, old, newest) = before_a_reuse().await;
        node.store.set(fault);
        assert_eq!(code(node.refresh(&old).await), "store_unavailable");
        assert!(node.has_event(is_reuse), "{fault:?}");
        assert_eq!(code(node.refresh(&newest).await), "session_revoked", "{fault:?}");
        node.store.set(Fault::None);
        tokio::time::sleep(Duration::from_secs(120)).await;
        // On every node.
        let two = Node::on(node.store.clone(), node.clock.clone(), |builder| builder);
        assert_eq!(code(two.refresh(&newest).await), "session_revoked", "{fault:?}");
        assert_eq!(code(two.refresh(&other).await), "session_revoked", "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_thief_who_hangs_up_is_detected_all_the_same() {
    let (node, other, old, newest) = before_a_reuse().await;
    node.store.set(Fault::SlowSwap);
    let hung_up = tokio::time::timeout(Duration::from_millis(100), node.refresh(&old)).await;
    assert!(hung_up.is_err());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(node.has_event(is_reuse));
    assert_eq!(code(node.refresh(&newest).await), "session_revoked");
    assert_eq!(code(node.refresh(&other).await), "session_revoked");
}

#[tokio::test]
async fn a_flush_finishes_the_revocations_that_the_store_has_refused() {
    let (node, other, old, _) = before_a_reuse().await;
    node.store.set(Fault::FailsToRevoke);
    assert_eq!(code(node.refresh(&old).await), "refresh_token_reused");
    assert_eq!(code(node.auth.flush().await), "store_unavailable");
    node.store.set(Fault::None);
    node.auth.flush().await.unwrap();
    let two = Node::on(node.store.clone(), node.clock.clone(), |builder| builder);
    assert_eq!(code(two.refresh(&other).await), "session_revoked");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_crashed_before_the_others_were_revoked_leaves_them_to_the_next_refresh_of_the_session() {
    let (node, other, old, newest) = before_a_reuse().await;
    node.store.set(Fault::FailsToRevoke);
    assert_eq!(code(node.refresh(&old).await), "refresh_token_reused");
    node.clock.advance(Duration::from_millis(1));
    let again = node.refresh_token("alice").await;
    let (store, clock) = (node.store.clone(), node.clock.clone());
    drop(node);
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.set(Fault::None);
    let policy = Policy { on_reuse: OnReuse::User, ..Policy::default() };
    let node = Node::on(store, clock, |builder| builder.configure(|settings| settings.policy = policy));
    node.refresh(&other).await.unwrap();
    assert_eq!(code(node.refresh(&newest).await), "session_revoked");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(code(node.refresh(&other).await), "session_revoked");
    // Only what was there at the time, and only once.
    node.refresh(&again).await.unwrap();
    node.store.calls();
    assert_eq!(code(node.refresh(&newest).await), "session_revoked");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(node.store.calls(), Calls { loads: 1, swaps: 0, others: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_client_mismatch_that_must_revoke_does_so_once_the_store_can() {
    let node = bound(BindingMode::Revoke);
    let token = node.refresh_token("alice").await;
    node.store.set(Fault::FailsToSwap);
    assert_eq!(code(node.auth.refresh(&token, ClientInfo::new().user_agent("wget/1.0")).await), "store_unavailable");
    assert!(node.has_event(|event| matches!(event, Event::ClientMismatch { .. })));
    assert_eq!(code(node.refresh(&token).await), "session_revoked");
    node.store.set(Fault::None);
    tokio::time::sleep(Duration::from_secs(120)).await;
    let two = Node::on(node.store.clone(), node.clock.clone(), |builder| builder);
    assert_eq!(code(two.refresh(&token).await), "session_revoked");
}

#[tokio::test]
async fn hole_8_the_expiry_of_one_session_does_not_affect_another() {
    let node = Node::with_policy(Policy { lifetime: Policy::default().idle_timeout, ..Policy::default() });
    let first = node.refresh_token("alice").await;
    node.clock.advance(Duration::from_secs(6 * 24 * 3600));
    let second = node.refresh_token("alice").await;
    let first = node.rotate(&first).await;
    node.clock.advance(Duration::from_secs(24 * 3600));
    assert_eq!(code(node.refresh(&first).await), "session_expired");
    node.refresh(&second).await.unwrap();
}

#[tokio::test]
async fn the_expiry_of_a_session_never_moves_and_no_token_outlives_it() {
    let node = Node::new();
    let login = node.login("alice").await;
    let ends = Timestamp::from(node.auth.sessions("alice").await.unwrap()[0].expires_at);
    let mut token = login.tokens.refresh_token.unwrap();
    for _ in 0..20 {
        node.clock.advance(Duration::from_secs(36 * 3600));
        match node.refresh(&token).await {
            Ok(refreshed) => {
                let session = &node.auth.sessions("alice").await.unwrap()[0];
                assert_eq!(Timestamp::from(session.expires_at), ends);
                let tokens = refreshed.tokens;
                assert!(node.clock.now().after(tokens.expires_in) <= ends);
                assert_eq!(node.clock.now().after(tokens.session_expires_in), ends);
                token = tokens.refresh_token.unwrap();
            }
            Err(error) => {
                assert_eq!(error.code(), "session_expired");
                assert!(node.clock.now() >= ends);
                return;
            }
        }
    }
    panic!("the session never expired");
}

#[tokio::test]
async fn an_idle_session_expires_and_using_an_access_token_prevents_it() {
    let policy = Policy { idle_timeout: 20 * MINUTE, ..Policy::default() };
    let node = Node::with_policy(policy);
    let login = node.login("alice").await;
    let token = login.tokens.refresh_token.unwrap();
    node.clock.advance(14 * MINUTE);
    node.auth.authenticate(&login.tokens.access_token).await.unwrap();
    node.clock.advance(19 * MINUTE);
    let token = node.rotate(&token).await;
    node.clock.advance(20 * MINUTE);
    assert_eq!(code(node.refresh(&token).await), "session_idle");
    assert!(node.auth.sessions("alice").await.unwrap().is_empty());
}

#[tokio::test]
async fn flushed_activity_counts_on_other_nodes() {
    let policy = Policy { idle_timeout: 20 * MINUTE, ..Policy::default() };
    let one = Node::with_policy(policy.clone());
    let two = Node::on(one.store.clone(), one.clock.clone(), |builder| {
        builder.configure(|settings| settings.policy = policy)
    });
    let login = one.login("alice").await;
    one.clock.advance(14 * MINUTE);
    one.auth.authenticate(&login.tokens.access_token).await.unwrap();
    one.auth.flush().await.unwrap();
    one.clock.advance(19 * MINUTE);
    two.refresh(&login.tokens.refresh_token.unwrap()).await.unwrap();
}

/// A node whose clock is six days ahead, on the same store.
fn six_days_ahead(node: &Node) -> Node {
    let clock = Clock::new();
    clock.advance(6 * 24 * 60 * MINUTE);
    Node::on(node.store.clone(), clock, |builder| builder)
}

#[tokio::test]
async fn one_refresh_on_a_node_far_ahead_switches_off_neither_rotation_nor_reuse_detection() {
    let node = Node::new();
    let first = node.refresh_token("alice").await;
    let second = six_days_ahead(&node).rotate(&first).await;
    let third = node.refresh(&second).await.unwrap();
    assert_eq!(third.verdict, Verdict::Rotate);
    // A rotation like any other: within the grace period the parent is the loser of a race, and then it is reuse.
    assert_eq!(node.refresh(&second).await.unwrap().verdict, Verdict::Echo);
    node.after_grace();
    node.auth.authenticate(&third.tokens.access_token).await.unwrap();
    assert_eq!(code(node.refresh(&second).await), "refresh_token_reused");
}

#[tokio::test]
async fn a_response_that_a_node_far_ahead_has_lost_is_recovered_after_the_grace_period() {
    let node = Node::new();
    let first = node.refresh_token("alice").await;
    let _lost = six_days_ahead(&node).rotate(&first).await;
    assert_eq!(node.refresh(&first).await.unwrap().verdict, Verdict::Echo);
    node.store.calls();
    // The time was set right by one write.
    assert_eq!(node.refresh(&first).await.unwrap().verdict, Verdict::Echo);
    assert_eq!(node.store.calls().swaps, 0);
    node.after_grace();
    assert_eq!(node.refresh(&first).await.unwrap().verdict, Verdict::Recover);
}

#[tokio::test]
async fn an_access_token_acknowledges_its_generation_only_after_the_grace_period() {
    for (late, parent) in [(false, "recovers"), (true, "is reuse")] {
        let node = Node::new();
        let first = node.refresh_token("alice").await;
        let refreshed = node.refresh(&first).await.unwrap();
        node.clock.advance(if late { GRACE + Duration::from_millis(1) } else { GRACE });
        node.auth.authenticate(&refreshed.tokens.access_token).await.unwrap();
        node.clock.advance(GRACE);
        match node.refresh(&first).await {
            Ok(refreshed) => assert_eq!((refreshed.verdict, parent), (Verdict::Recover, "recovers")),
            Err(error) => assert_eq!((error.code(), parent), ("refresh_token_reused", "is reuse")),
        }
    }
}

#[tokio::test]
async fn an_acknowledgement_reaches_the_store_within_a_second_or_two() {
    let one = Node::new();
    let two = Node::on(one.store.clone(), one.clock.clone(), |builder| builder);
    let first = one.refresh_token("alice").await;
    let refreshed = one.refresh(&first).await.unwrap();
    one.after_grace();
    one.auth.authenticate(&refreshed.tokens.access_token).await.unwrap();
    let store = one.store.clone();
    assert!(eventually(move || store.acknowledged(refreshed.tokens.session_id) == Some(1)).await);
    assert_eq!(code(two.refresh(&first).await), "refresh_token_reused");
}

#[tokio::test]
async fn updating_the_claims_does_not_change_the_generation() {
    let node = Node::new();
    let login = node.login("alice").await;
    let token = login.tokens.refresh_token.unwrap();
    let user = node.auth.authenticate(&login.tokens.access_token).await.unwrap();
    let renewed = node.auth.update_claims(&user, claims("admin")).await.unwrap();
    assert_eq!(renewed.tokens.refresh_token, None);
    assert_eq!(node.auth.authenticate(&renewed.tokens.access_token).await.unwrap().claims.role, "admin");
    let refreshed = node.refresh(&token).await.unwrap();
    assert_eq!(refreshed.verdict, Verdict::Rotate);
    assert_eq!(node.auth.authenticate(&refreshed.tokens.access_token).await.unwrap().claims.role, "admin");
    node.auth.logout(&token).await.unwrap();
    assert_eq!(code(node.auth.update_claims(&user, claims("user")).await), "session_not_found");
}

#[tokio::test]
async fn updating_the_claims_does_not_acknowledge_a_cookie_that_never_arrived() {
    let node = Node::new();
    let login = node.login("alice").await;
    let first = login.tokens.refresh_token.unwrap();
    node.rotate(&first).await;
    // That response was lost. The client continues with the tokens it has, and its claims are updated.
    let user = node.auth.authenticate(&login.tokens.access_token).await.unwrap();
    let renewed = node.auth.update_claims(&user, claims("admin")).await.unwrap();
    node.after_grace();
    node.auth.authenticate(&renewed.tokens.access_token).await.unwrap();
    assert_eq!(node.refresh(&first).await.unwrap().verdict, Verdict::Recover);
}

#[tokio::test]
async fn a_refresh_that_races_an_update_of_the_claims_has_the_new_claims() {
    let node = Node::new();
    let login = node.auth.login("alice", claims("admin")).client(client()).await.unwrap();
    node.store.set(Fault::ChangesRoleBeforeSwap);
    let refreshed = node.refresh(&login.tokens.refresh_token.unwrap()).await.unwrap();
    let user = node.auth.authenticate(&refreshed.tokens.access_token).await.unwrap();
    assert_eq!(user.claims.role, "user");
}

#[tokio::test]
async fn updating_the_claims_of_a_session_without_a_refresh_token_returns_no_refresh_in() {
    let node = Node::new();
    let login = node.auth.login("alice", claims("user")).without_refresh().await.unwrap();
    let user = node.auth.authenticate(&login.tokens.access_token).await.unwrap();
    assert_eq!(node.auth.update_claims(&user, claims("admin")).await.unwrap().tokens.refresh_in, None);
}

#[tokio::test]
async fn without_rotation_one_token_lasts_for_the_whole_session() {
    let node = Node::with_policy(Policy { rotation: false, ..Policy::default() });
    let token = node.refresh_token("alice").await;
    node.store.calls();
    for _ in 0..5 {
        let refreshed = node.refresh(&token).await.unwrap();
        assert_eq!((refreshed.verdict, refreshed.tokens.refresh_token), (Verdict::Touch, None));
        node.clock.advance(Duration::from_secs(24 * 3600));
    }
    assert_eq!(node.store.calls(), Calls { loads: 5, swaps: 0, others: 0 });
}

#[tokio::test]
async fn a_store_that_lost_its_latest_writes_logs_nobody_out() {
    let node = Node::new();
    let mut token = node.refresh_token("alice").await;
    let before = Node::new();
    let session = {
        use axum_refresh::SessionStore as _;
        node.store.inner.load(node.auth.sessions("alice").await.unwrap()[0].id).await.unwrap().unwrap()
    };
    for _ in 0..3 {
        token = node.rotate(&token).await;
        node.after_grace();
    }
    // The same secret, and a store that has the session as it was at login.
    use axum_refresh::SessionStore as _;
    let options = axum_refresh::store::InsertOptions::default();
    before.store.inner.insert(&session, options).await.unwrap();
    let ahead = before.refresh(&token).await.unwrap();
    assert_eq!(ahead.verdict, Verdict::Ahead);
    assert!(before.has_event(|event| matches!(event, Event::Ahead { presented: 3, stored: 0, .. })));
    before.after_grace();
    before.rotate(&ahead.tokens.refresh_token.unwrap()).await;
}

#[tokio::test]
async fn a_token_with_a_valid_tag_and_a_wrong_secret_is_forged() {
    let node = Node::new();
    let session = node.login("alice").await.tokens.session_id;
    let token = node.refresh_token("alice").await;
    // The same session id with another secret, as if somebody had written to the store.
    use axum_refresh::SessionStore as _;
    use axum_refresh::store::SecretHash;
    let mut row = node.store.inner.load(session).await.unwrap().unwrap();
    row.secret_hash = SecretHash::from_bytes([1; 32]);
    let other = Node::new();
    let real = node.auth.sessions("alice").await.unwrap();
    let real = real.iter().find(|found| found.id != session).unwrap();
    row.id = real.id;
    let options = axum_refresh::store::InsertOptions::default();
    other.store.inner.insert(&row, options).await.unwrap();
    assert_eq!(code(other.refresh(&token).await), "refresh_token_invalid");
    assert!(other.has_event(|event| matches!(event, Event::Forged { .. })));
    other.auth.logout(&token).await.unwrap();
    assert_eq!(other.auth.sessions("alice").await.unwrap().len(), 1);
}

// ---- keys -----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_secret_can_be_changed_in_two_steps_without_logging_anybody_out() {
    const NEXT: &str = "hY7Zq2LwE9rT4uI1oP6aS3dF8gJ5kX0c";
    let (store, clock) = (FaultyStore::default(), Clock::new());
    let node = |signing: &'static str, other: Option<&'static str>| {
        Node::signing_with(signing, store.clone(), clock.clone(), |builder| {
            other.into_iter().fold(builder, |builder, other| builder.verify_secret(Secret::new(other)))
        })
    };
    let (old, both, promoted, new) =
        (node(SECRET, None), node(SECRET, Some(NEXT)), node(NEXT, Some(SECRET)), node(NEXT, None));
    let login = old.login("alice").await;
    for node in [&both, &promoted] {
        node.auth.authenticate(&login.tokens.access_token).await.unwrap();
    }
    let token = promoted.rotate(&login.tokens.refresh_token.unwrap()).await;
    old.after_grace();
    let token = both.rotate(&token).await;
    old.after_grace();
    let last = promoted.rotate(&token).await;
    old.after_grace();
    assert_eq!(code(new.refresh(&token).await), "refresh_token_invalid");
    new.refresh(&last).await.unwrap();
}

#[test]
fn contradictory_settings_are_rejected_by_build() {
    let base = || Auth::<Claims>::builder(Secret::new(SECRET), MemoryStore::new());
    let refused = |builder: axum_refresh::AuthBuilder<Claims>| builder.build().unwrap_err().setting();
    base().build().unwrap();
    let policy = |policy: Policy| refused(base().configure(|settings| settings.policy = policy));
    assert_eq!(policy(Policy { grace: 15 * MINUTE, ..Policy::default() }), "grace");
    assert_eq!(policy(Policy { access_ttl: GRACE, ..Policy::default() }), "access_ttl");
    assert_eq!(policy(Policy { idle_timeout: 15 * MINUTE, ..Policy::default() }), "idle_timeout");
    assert_eq!(policy(Policy { lifetime: MINUTE, ..Policy::default() }), "lifetime");
    assert_eq!(refused(base().configure(|settings| settings.audience = "".into())), "audience");
    assert_eq!(refused(Auth::builder(Secret::new("changeme"), MemoryStore::new())), "secret");
    assert_eq!(refused(base().verify_secret(Secret::new("short"))), "secret");
    assert_eq!(
        refused(base().configure(|settings| settings.trusted_origins.push("app.example".into()))),
        "trusted_origins"
    );
    assert_eq!(refused(base().configure(|settings| settings.login_page = Some("//evil.example".into()))), "login_page");
}

#[tokio::test]
async fn an_auth_that_was_built_outside_of_a_runtime_works() {
    let auth = std::thread::spawn(|| Auth::<Claims>::builder(Secret::new(SECRET), MemoryStore::new()).build().unwrap());
    let auth = auth.join().unwrap();
    let login = auth.login("alice", claims("user")).await.unwrap();
    auth.authenticate(&login.tokens.access_token).await.unwrap();
}

// ---- the claims hook ------------------------------------------------------------------------------------------------

#[tokio::test]
async fn hole_13_a_changed_role_takes_effect_at_the_next_refresh_and_a_disabled_user_is_refused() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let node = Node::with(move |builder| {
        builder.claims_hook(move |request| {
            let user = request.session.user_id;
            let n = counter.fetch_add(1, Ordering::SeqCst);
            async move {
                match n {
                    0 => Ok(Some(claims(&format!("role of {user}")))),
                    1 => Ok(None),
                    2 => Err("the user table is down"),
                    _ => Ok(Some(claims("user"))),
                }
            }
        })
    });
    let token = node.refresh_token("alice").await;
    let refreshed = node.refresh(&token).await.unwrap();
    let user = node.auth.authenticate(&refreshed.tokens.access_token).await.unwrap();
    assert_eq!(user.claims.role, "role of alice");
    let token = refreshed.tokens.refresh_token.unwrap();
    node.after_grace();
    node.store.calls();
    assert_eq!(code(node.refresh(&token).await), "user_refused");
    assert_eq!(code(node.refresh(&token).await), "store_unavailable");
    assert_eq!(node.store.calls(), Calls { loads: 2, swaps: 0, others: 0 });
    node.rotate(&token).await;
    assert_eq!(asked.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn the_claims_hook_gets_the_session_and_the_claims_last_written_with_it() {
    let seen: Arc<std::sync::Mutex<Vec<ClaimsRequest<Claims>>>> = Arc::default();
    let log = Arc::clone(&seen);
    let node = Node::with(|builder| {
        builder.claims_hook(move |request| {
            log.lock().unwrap().push(request);
            async { Ok::<_, std::convert::Infallible>(Some(claims("of the hook"))) }
        })
    });
    let builder = node.auth.login("alice", claims("of login")).client(client().label("kitchen"));
    let login = builder.await.unwrap().tokens;
    let session = node.auth.sessions("alice").await.unwrap().remove(0);
    let next = node.rotate(&login.refresh_token.unwrap()).await;
    node.after_grace();
    node.rotate(&next).await;
    let user = node.auth.authenticate(&login.access_token).await.unwrap();
    let _ = node.auth.update_claims(&user, claims("of the update")).await.unwrap();
    node.refresh(&next).await.unwrap();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(seen[0].session, session);
    assert!(seen.iter().all(|request| request.session.id == login.session_id));
    assert!(seen[1].session.last_seen_at <= seen[2].session.last_seen_at);
    let roles: Vec<_> = seen.into_iter().map(|request| request.claims.unwrap().role).collect();
    assert_eq!(roles, ["of login", "of login", "of the update"]);
}

#[tokio::test]
async fn the_claims_hook_can_keep_what_an_update_has_written() {
    let hook = async |request: ClaimsRequest<Claims>| Ok::<_, std::convert::Infallible>(request.claims);
    let node = Node::with(|builder| builder.claims_hook(hook));
    let login = node.login("alice").await.tokens;
    let user = node.auth.authenticate(&login.access_token).await.unwrap();
    let _ = node.auth.update_claims(&user, claims("after a second factor")).await.unwrap();
    let mut token = login.refresh_token.unwrap();
    for _ in 0..3 {
        let refreshed = node.refresh(&token).await.unwrap().tokens;
        let user = node.auth.authenticate(&refreshed.access_token).await.unwrap();
        assert_eq!(user.claims.role, "after a second factor");
        token = refreshed.refresh_token.unwrap();
        node.after_grace();
    }
}

#[tokio::test]
async fn a_refresh_with_a_claims_hook_that_races_an_update_of_the_claims_has_the_new_claims() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let node = Node::with(|builder| {
        builder.claims_hook(move |request| {
            counter.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, std::convert::Infallible>(request.claims) }
        })
    });
    let login = node.auth.login("alice", claims("admin")).client(client()).await.unwrap();
    node.store.set(Fault::ChangesRoleBeforeSwap);
    let refreshed = node.refresh(&login.tokens.refresh_token.unwrap()).await.unwrap();
    let user = node.auth.authenticate(&refreshed.tokens.access_token).await.unwrap();
    assert_eq!((user.claims.role.as_str(), asked.load(Ordering::SeqCst)), ("user", 2));
}

#[tokio::test]
async fn the_claims_hook_gets_no_claims_that_this_version_cannot_read() {
    let hook = async |request: ClaimsRequest<Claims>| {
        assert_eq!((&*request.session.user_id, request.claims), ("alice", None));
        Ok::<_, std::convert::Infallible>(Some(claims("user")))
    };
    let node = Node::with(|builder| builder.claims_hook(hook));
    let login = other_version(&node).login("alice", OtherClaims { level: 1 }).await.unwrap();
    node.refresh(&login.tokens.refresh_token.unwrap()).await.unwrap();
}

#[tokio::test]
async fn the_claims_hook_is_not_called_for_a_refused_refresh() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let node = Node::with(move |builder| {
        builder.claims_hook(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, std::convert::Infallible>(Some(claims("user"))) }
        })
    });
    let token = node.refresh_token("alice").await;
    node.auth.logout(&token).await.unwrap();
    node.refresh(&token).await.unwrap_err();
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

/// The claims of another version of the app, before or after a deploy: neither version can read those of the other.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct OtherClaims {
    level: u32,
}

/// The other version of the app, on the same store.
fn other_version(node: &Node) -> Auth<OtherClaims> {
    let builder = Auth::<OtherClaims>::builder(Secret::new(SECRET), node.store.clone());
    builder.clock(node.clock.reader()).build().unwrap()
}

#[tokio::test]
async fn a_session_whose_claims_cannot_be_read_is_outdated_and_stays_as_it_is() {
    let node = Node::new();
    let login = other_version(&node).login("alice", OtherClaims { level: 1 }).await.unwrap();
    let (id, token) = (login.tokens.session_id, login.tokens.refresh_token.unwrap());
    let row = node.store.inner.load(id).await.unwrap();
    assert_eq!(code(node.refresh(&token).await), "session_outdated");
    assert_eq!(node.store.inner.load(id).await.unwrap(), row);
    let is_it = |event: &Event| matches!(event, Event::ClaimsUnreadable { session_id, .. } if *session_id == id);
    assert!(node.has_event(is_it));
}

#[tokio::test]
async fn in_a_rolling_deploy_each_version_goes_on_with_its_own_sessions() {
    let node = Node::new();
    let other = other_version(&node);
    let mine = node.refresh_token("alice").await;
    let theirs = other.login("alice", OtherClaims { level: 1 }).await.unwrap().tokens.refresh_token.unwrap();
    assert_eq!(code(other.refresh(&mine, client()).await), "session_outdated");
    assert_eq!(code(node.refresh(&theirs).await), "session_outdated");
    node.refresh(&mine).await.unwrap();
    other.refresh(&theirs, client()).await.unwrap();
}

#[tokio::test]
async fn an_access_token_whose_claims_cannot_be_read_is_invalid() {
    let node = Node::new();
    let login = other_version(&node).login("alice", OtherClaims { level: 1 }).await.unwrap();
    assert_eq!(code(node.auth.authenticate(&login.tokens.access_token).await), "access_token_invalid");
}

#[tokio::test]
async fn with_a_claims_hook_no_session_is_outdated() {
    let hook = async |_| Ok::<_, std::convert::Infallible>(Some(claims("user")));
    let node = Node::with(|builder| builder.claims_hook(hook));
    let login = other_version(&node).login("alice", OtherClaims { level: 1 }).await.unwrap();
    let refreshed = node.refresh(&login.tokens.refresh_token.unwrap()).await.unwrap();
    node.auth.authenticate(&refreshed.tokens.access_token).await.unwrap();
}

#[tokio::test]
async fn an_outdated_session_can_be_logged_out_and_its_superseded_tokens_are_still_detected() {
    let node = Node::new();
    let other = other_version(&node);
    let log_in = async || other.login("alice", OtherClaims { level: 1 }).await.unwrap().tokens.refresh_token.unwrap();
    let token = log_in().await;
    node.auth.logout(&token).await.unwrap();
    assert_eq!(code(other.refresh(&token, client()).await), "session_revoked");

    let first = log_in().await;
    let mut token = first.clone();
    for _ in 0..2 {
        token = other.refresh(&token, client()).await.unwrap().tokens.refresh_token.unwrap();
        node.after_grace();
    }
    assert_eq!(code(node.refresh(&first).await), "refresh_token_reused");
    assert_eq!(code(other.refresh(&token, client()).await), "session_revoked");
}

// ---- claims that cannot be read back ----------------------------------------------------------------------------------

/// JSON has neither NaN nor infinity: serde writes `null`, which is no number.
#[derive(Clone, Serialize, Deserialize)]
struct Score {
    score: f64,
}

fn is_unreadable<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Claims(ClaimsError::Unreadable(_))))
}

#[tokio::test]
async fn a_login_with_claims_that_cannot_be_read_back_is_an_error_and_stores_nothing() {
    let store = FaultyStore::default();
    let auth = Auth::<Score>::builder(Secret::new(SECRET), store.clone()).build().unwrap();
    for score in [f64::NAN, f64::INFINITY] {
        assert!(is_unreadable(&auth.login("alice", Score { score }).await));
    }
    assert_eq!(store.calls(), Calls { loads: 0, swaps: 0, others: 0 });
    let login = auth.login("alice", Score { score: 0.5 }).await.unwrap();
    auth.authenticate(&login.tokens.access_token).await.unwrap();
}

#[tokio::test]
async fn an_update_with_claims_that_cannot_be_read_back_changes_nothing() {
    let store = FaultyStore::default();
    let auth = Auth::<Score>::builder(Secret::new(SECRET), store.clone()).build().unwrap();
    let login = auth.login("alice", Score { score: 0.5 }).await.unwrap();
    let user = auth.authenticate(&login.tokens.access_token).await.unwrap();
    let row = store.inner.load(user.session_id).await.unwrap();
    assert!(is_unreadable(&auth.update_claims(&user, Score { score: f64::NAN }).await));
    assert_eq!(store.inner.load(user.session_id).await.unwrap(), row);
}

#[tokio::test]
async fn claims_of_the_hook_that_cannot_be_read_back_are_an_error_and_use_up_no_refresh_token() {
    let asked = Arc::new(AtomicUsize::new(0));
    let builder = Auth::<Score>::builder(Secret::new(SECRET), MemoryStore::new()).claims_hook(move |_| {
        let score = if asked.fetch_add(1, Ordering::SeqCst) == 0 { f64::NAN } else { 1.0 };
        async move { Ok::<_, std::convert::Infallible>(Some(Score { score })) }
    });
    let auth = builder.build().unwrap();
    let token = auth.login("alice", Score { score: 0.5 }).await.unwrap().tokens.refresh_token.unwrap();
    assert!(is_unreadable(&auth.refresh(&token, client()).await));
    assert_eq!(auth.refresh(&token, client()).await.unwrap().verdict, Verdict::Rotate);
}

#[tokio::test]
async fn claims_nested_so_deeply_that_their_token_could_not_be_read_are_an_error() {
    let auth = Auth::<serde_json::Value>::builder(Secret::new(SECRET), MemoryStore::new()).build().unwrap();
    for depth in [1, 126, 127, 128, 200] {
        let claims = (0..depth).fold(serde_json::Value::Null, |inner, _| serde_json::json!({ "a": inner }));
        match auth.login("alice", claims.clone()).await {
            Ok(login) => {
                assert!(depth < 128, "{depth}");
                assert_eq!(auth.authenticate(&login.tokens.access_token).await.unwrap().claims, claims);
                auth.refresh(&login.tokens.refresh_token.unwrap(), client()).await.unwrap();
            }
            error => assert!(depth >= 128 && is_unreadable(&error), "{depth}"),
        }
    }
    assert_eq!(auth.sessions("alice").await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_session_whose_claims_have_a_name_that_is_reserved_by_now_is_outdated() {
    let node = Node::new();
    let login = node.login("alice").await;
    let mut row = node.store.inner.load(login.tokens.session_id).await.unwrap().unwrap();
    row.claims = r#"{"role":"user","nbf":1}"#.into();
    assert!(node.store.inner.compare_and_swap(row.version, &row).await.unwrap());
    assert_eq!(code(node.refresh(&login.tokens.refresh_token.unwrap()).await), "session_outdated");
}

// ---- binding --------------------------------------------------------------------------------------------------------

fn bound(user_agent: BindingMode) -> Node {
    Node::with_policy(Policy { binding: Binding { user_agent, ..Binding::default() }, ..Policy::default() })
}

#[tokio::test]
async fn every_binding_mode_has_its_effect_at_a_refresh() {
    let stranger = || ClientInfo::new().user_agent("wget/1.0");
    for mode in [BindingMode::Off, BindingMode::Observe] {
        let node = bound(mode);
        let token = node.refresh_token("alice").await;
        node.auth.refresh(&token, stranger()).await.unwrap();
        let emitted = node.has_event(|event| matches!(event, Event::ClientMismatch { .. }));
        assert_eq!(emitted, mode == BindingMode::Observe);
    }
    for mode in [BindingMode::Reject, BindingMode::Revoke] {
        let node = bound(mode);
        let token = node.refresh_token("alice").await;
        assert_eq!(code(node.auth.refresh(&token, stranger()).await), "client_mismatch");
        assert!(node.has_event(|event| matches!(event, Event::ClientMismatch { .. })));
        match node.refresh(&token).await {
            Ok(_) => assert_eq!(mode, BindingMode::Reject),
            Err(error) => assert_eq!((mode, error.code()), (BindingMode::Revoke, "session_revoked")),
        }
    }
}

// ---- revoking ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn hole_15_a_logout_requires_any_refresh_token_of_the_session_and_nothing_else() {
    let node = Node::new();
    let first = node.refresh_token("alice").await;
    let mut token = first.clone();
    for _ in 0..3 {
        token = node.rotate(&token).await;
        node.after_grace();
    }
    node.auth.logout(&first).await.unwrap();
    assert_eq!(code(node.refresh(&token).await), "session_revoked");
    node.auth.logout(&first).await.unwrap();
}

#[tokio::test]
async fn a_logout_revokes_the_access_tokens_of_a_session_that_the_store_has_lost() {
    let before = Node::new();
    let login = before.login("alice").await;
    // As after a failover to a replica that does not have the login.
    let lost = FaultyStore::default();
    let one = Node::on(lost.clone(), before.clock.clone(), |builder| builder);
    let two = Node::on(lost, before.clock.clone(), |builder| builder);
    let access = &login.tokens.access_token;
    one.auth.authenticate(access).await.unwrap();
    let token = login.tokens.refresh_token.unwrap();
    for others in [1, 0] {
        one.store.calls();
        one.auth.logout(&token).await.unwrap();
        assert_eq!(one.store.calls(), Calls { loads: 1, swaps: 0, others });
    }
    assert_eq!(code(one.auth.authenticate(access).await), "access_token_revoked");
    assert_eq!(code(two.auth.authenticate(access).await), "access_token_revoked");
}

#[tokio::test]
async fn hole_11_revoking_a_session_revokes_its_access_tokens_on_every_node() {
    let one = Node::new();
    let two = Node::on(one.store.clone(), one.clock.clone(), |builder| builder);
    let login = one.login("alice").await;
    two.auth.authenticate(&login.tokens.access_token).await.unwrap();
    one.auth.revoke_own_session("alice", login.tokens.session_id).await.unwrap();
    assert_eq!(code(one.auth.authenticate(&login.tokens.access_token).await), "access_token_revoked");
    for _ in 0..100 {
        if two.auth.authenticate(&login.tokens.access_token).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(code(two.auth.authenticate(&login.tokens.access_token).await), "access_token_revoked");
}

#[tokio::test]
async fn hole_14_a_session_keeps_its_id_so_revoking_the_listed_session_revokes_it() {
    let node = Node::new();
    let mut token = node.refresh_token("alice").await;
    for _ in 0..50 {
        node.after_grace();
        token = node.rotate(&token).await;
    }
    let [session] = node.auth.sessions("alice").await.unwrap().try_into().unwrap();
    node.auth.revoke_own_session("alice", session.id).await.unwrap();
    assert_eq!(code(node.refresh(&token).await), "session_revoked");
}

#[tokio::test]
async fn a_user_can_revoke_only_their_own_live_sessions() {
    let node = Node::new();
    let session = node.login("alice").await.tokens.session_id;
    assert_eq!(code(node.auth.revoke_own_session("bob", session).await), "session_not_found");
    let unknown = SessionId::from_bytes([1; 16]);
    assert_eq!(code(node.auth.revoke_own_session("alice", unknown).await), "session_not_found");
    node.auth.revoke_own_session("alice", session).await.unwrap();
    assert_eq!(code(node.auth.revoke_own_session("alice", session).await), "session_not_found");
    assert_eq!(code(node.auth.revoke_session(session, RevocationReason::RevokedByAdmin).await), "session_not_found");
}

#[tokio::test]
async fn a_single_access_token_can_be_revoked() {
    let node = Node::new();
    let login = node.login("alice").await;
    let refreshed = node.refresh(&login.tokens.refresh_token.unwrap()).await.unwrap();
    node.auth.revoke_access_token(&login.tokens.access_token).await.unwrap();
    assert_eq!(code(node.auth.authenticate(&login.tokens.access_token).await), "access_token_revoked");
    let user = node.auth.authenticate(&refreshed.tokens.access_token).await.unwrap();
    node.auth.revoke_token_id(&user.token_id(), user.expires_at()).await.unwrap();
    assert_eq!(code(node.auth.authenticate(&refreshed.tokens.access_token).await), "access_token_revoked");
    node.auth.revoke_access_token("garbage").await.unwrap();
    node.auth.revoke_token_id("garbage", user.expires_at()).await.unwrap();
    assert_eq!(node.auth.sessions("alice").await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_revocation_outlives_the_access_tokens_it_concerns() {
    let node = Node::with_policy(Policy { idle_timeout: 20 * MINUTE, ..Policy::default() });
    let login = node.login("alice").await;
    node.auth.revoke_user("alice", None, RevocationReason::RevokedByAdmin).await.unwrap();
    for _ in 0..15 {
        node.auth.purge().await.unwrap();
        assert_eq!(code(node.auth.authenticate(&login.tokens.access_token).await), "access_token_revoked");
        node.clock.advance(MINUTE);
    }
    assert_eq!(code(node.auth.authenticate(&login.tokens.access_token).await), "access_token_expired");
}

#[tokio::test]
async fn a_revocation_holds_for_tokens_from_before_the_ttl_was_shortened() {
    let long = Policy { access_ttl: 60 * MINUTE, ..Policy::default() };
    let before = Node::with_policy(long);
    let token = before.login("alice").await.tokens.access_token;
    let short = Policy { access_ttl: 5 * MINUTE, ..Policy::default() };
    let after = Node::on(before.store.clone(), before.clock.clone(), |builder| {
        builder.configure(|settings| settings.policy = short)
    });
    after.auth.revoke_user("alice", None, RevocationReason::Logout).await.unwrap();
    for _ in 0..60 {
        after.auth.purge().await.unwrap();
        after.auth.authenticate(&token).await.unwrap_err();
        after.clock.advance(MINUTE);
    }
}

#[tokio::test]
async fn a_cached_token_expires_and_is_revoked_like_any_other() {
    let node = Node::new();
    let login = node.login("alice").await;
    for _ in 0..3 {
        node.auth.authenticate(&login.tokens.access_token).await.unwrap();
    }
    let other = node.login("alice").await;
    node.auth.authenticate(&other.tokens.access_token).await.unwrap();
    node.auth.revoke_own_session("alice", other.tokens.session_id).await.unwrap();
    assert_eq!(code(node.auth.authenticate(&other.tokens.access_token).await), "access_token_revoked");
    node.clock.advance(15 * MINUTE);
    assert_eq!(code(node.auth.authenticate(&login.tokens.access_token).await), "access_token_expired");
}

#[tokio::test]
async fn purging_removes_expired_sessions() {
    let node = Node::new();
    let _ = node.login("alice").await;
    node.clock.advance(Duration::from_secs(31 * 24 * 3600));
    let _ = node.login("alice").await;
    node.auth.purge().await.unwrap();
    assert_eq!(format!("{:?}", node.store.inner), "MemoryStore { sessions: 1, .. }");
}

// ---- stores that fail, hang and lie ---------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn hole_12_a_failing_store_is_reported_as_unavailable_and_nobody_is_logged_out() {
    for fault in [Fault::Fails, Fault::Hangs, Fault::LoadsWrongSession] {
        let settings = axum_refresh::Settings { store_timeout: Duration::from_millis(50), ..Default::default() };
        let node = Node::with(|builder| builder.settings(settings));
        let login = node.login("alice").await;
        let token = login.tokens.refresh_token.unwrap();
        node.auth.authenticate(&login.tokens.access_token).await.unwrap();
        node.store.set(fault);
        assert_eq!(code(node.refresh(&token).await), "store_unavailable", "{fault:?}");
        if fault != Fault::LoadsWrongSession {
            assert_eq!(code(node.auth.login("alice", claims("user")).await), "store_unavailable");
            assert_eq!(code(node.auth.sessions("alice").await), "store_unavailable");
            assert_eq!(code(node.auth.revoke_user("alice", None, RevocationReason::Logout).await), "store_unavailable");
        }
        assert_eq!(code(node.auth.logout(&token).await), "store_unavailable");
        node.auth.authenticate(&login.tokens.access_token).await.unwrap();
        assert!(node.has_event(|event| matches!(event, Event::StoreFailed { .. })));
        node.store.set(Fault::None);
        // A store that did not respond is tried once a second.
        tokio::time::sleep(Duration::from_secs(1)).await;
        node.rotate(&token).await;
        assert_eq!(node.auth.sessions("alice").await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_store_that_loses_replies_logs_nobody_out() {
    let node = Node::new();
    let token = node.refresh_token("alice").await;
    node.store.set(Fault::LosesReplies);
    assert_eq!(code(node.refresh(&token).await), "store_unavailable");
    // The write took effect all the same: the retry is an echo, which writes nothing.
    assert_eq!(node.refresh(&token).await.unwrap().verdict, Verdict::Echo);
    node.after_grace();
    assert_eq!(code(node.refresh(&token).await), "store_unavailable");
    node.store.set(Fault::None);
    assert_eq!(node.refresh(&token).await.unwrap().verdict, Verdict::Echo);
    node.after_grace();
    let token = node.rotate(&token).await;
    node.after_grace();
    node.rotate(&token).await;
}

#[tokio::test]
async fn a_logout_whose_response_was_lost_has_taken_effect_once_the_retry_succeeds() {
    let node = Node::new();
    let login = node.login("alice").await;
    let token = login.tokens.refresh_token.unwrap();
    node.auth.authenticate(&login.tokens.access_token).await.unwrap();
    node.store.set(Fault::LosesReplies);
    assert_eq!(code(node.auth.logout(&token).await), "store_unavailable");
    node.auth.logout(&token).await.unwrap();
    assert_eq!(code(node.auth.authenticate(&login.tokens.access_token).await), "access_token_revoked");
}

#[tokio::test]
async fn a_refresh_is_busy_after_eight_failed_swaps() {
    let node = Node::new();
    let token = node.refresh_token("alice").await;
    node.store.set(Fault::NeverSwaps);
    node.store.calls();
    assert_eq!(code(node.refresh(&token).await), "refresh_busy");
    assert_eq!(node.store.calls(), Calls { loads: 8, swaps: 8, others: 0 });
    node.store.set(Fault::None);
    node.rotate(&token).await;
}

#[tokio::test]
async fn a_store_that_only_pretends_to_swap_counts_as_a_lost_write_and_nobody_is_logged_out() {
    let node = Node::new();
    let token = node.refresh_token("alice").await;
    node.store.set(Fault::PretendsToSwap);
    let token = node.rotate(&token).await;
    node.store.set(Fault::None);
    assert_eq!(node.refresh(&token).await.unwrap().verdict, Verdict::Ahead);
}

#[tokio::test]
async fn a_partitioned_node_trusts_only_the_store_once_its_revocations_are_stale() {
    let settings = axum_refresh::Settings { store_timeout: Duration::from_millis(50), ..Default::default() };
    let node = Node::with(|builder| builder.settings(settings));
    let login = node.login("alice").await;
    let token = &login.tokens.access_token;
    node.auth.authenticate(token).await.unwrap();
    node.store.set(Fault::Fails);
    node.clock.advance(Duration::from_secs(29));
    node.auth.authenticate(token).await.unwrap();
    node.clock.advance(Duration::from_secs(1));
    assert_eq!(code(node.auth.authenticate(token).await), "store_unavailable");
    // Meanwhile another node revokes the session.
    let other = Node::on(FaultyStore::over(node.store.inner.clone()), node.clock.clone(), |b| b);
    other.auth.revoke_own_session("alice", login.tokens.session_id).await.unwrap();
    node.store.set(Fault::None);
    assert_eq!(code(node.auth.authenticate(token).await), "access_token_revoked");
}

// ---- races ----------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn hole_6_sixty_four_concurrent_refreshes_of_one_token_all_succeed_and_return_one_refresh_token() {
    let node = Node::new();
    for _ in 0..200 {
        let token: Arc<str> = node.refresh_token("alice").await.into();
        node.store.calls();
        let barrier = Arc::new(tokio::sync::Barrier::new(64));
        let tasks: Vec<_> = (0..64)
            .map(|_| {
                let (node, token, barrier) = (node.clone(), Arc::clone(&token), Arc::clone(&barrier));
                tokio::spawn(async move {
                    barrier.wait().await;
                    node.refresh(&token).await.expect("every refresh succeeds").tokens
                })
            })
            .collect();
        let mut handed_out = 0;
        for task in tasks {
            let tokens = task.await.unwrap();
            handed_out += usize::from(tokens.refresh_token.is_some());
            node.auth.authenticate(&tokens.access_token).await.unwrap();
        }
        assert_eq!(handed_out, 1);
        let calls = node.store.calls();
        assert!(calls.loads + calls.swaps <= 200, "{calls:?}");
        node.auth.logout(&token).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn hole_7_a_revocation_is_never_undone_by_a_refresh_or_a_write_behind() {
    let node = Node::new();
    for round in 0..1000 {
        let user = format!("user{round}");
        let login = node.login(&user).await;
        let token = login.tokens.refresh_token.unwrap();
        let refreshing = {
            let (node, token) = (node.clone(), token.clone());
            tokio::spawn(async move { node.refresh(&token).await.ok() })
        };
        let using = {
            let (node, token) = (node.clone(), login.tokens.access_token.clone());
            tokio::spawn(async move {
                let _ = node.auth.authenticate(&token).await;
                node.auth.flush().await.unwrap();
            })
        };
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(node.auth.revoke_user(&user, None, RevocationReason::Logout).await.unwrap(), 1);
        let refreshed = refreshing.await.unwrap();
        using.await.unwrap();
        node.auth.flush().await.unwrap();
        assert_eq!(code(node.refresh(&token).await), "session_revoked");
        assert!(node.auth.sessions(&user).await.unwrap().is_empty());
        assert_eq!(code(node.auth.authenticate(&login.tokens.access_token).await), "access_token_revoked");
        if let Some(refreshed) = refreshed {
            assert_eq!(code(node.auth.authenticate(&refreshed.tokens.access_token).await), "access_token_revoked");
            if let Some(next) = refreshed.tokens.refresh_token {
                assert_eq!(code(node.refresh(&next).await), "session_revoked");
            }
        }
    }
}

// ---- the background task --------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_background_task_flushes_pending_writes_and_ends_with_the_last_clone() {
    use axum_refresh::SessionStore as _;
    let node = Node::new();
    let store = node.store.clone();
    let clock = node.clock.clone();
    let login = node.login("alice").await;
    let clone = node.auth.clone();
    clock.advance(MINUTE);
    clone.authenticate(&login.tokens.access_token).await.unwrap();
    let seen = || async { store.inner.load(login.tokens.session_id).await.unwrap().unwrap().rotation.last_seen_at };
    assert_ne!(seen().await, clock.now());
    drop(node);
    drop(clone);
    for _ in 0..100 {
        if seen().await == clock.now() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(seen().await, clock.now());
}

/// Waits for the effect of another task.
async fn eventually(mut is_so: impl FnMut() -> bool) -> bool {
    for _ in 0..150 {
        if is_so() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

#[test]
fn an_auth_that_outlives_its_runtime_continues_in_the_next_one() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (first, second) = (runtime(), runtime());
    let node = first.block_on(async { Node::new() });
    let token = first.block_on(node.refresh_token("alice"));
    drop(first);
    second.block_on(async {
        let refreshed = node.refresh(&token).await.unwrap();
        node.after_grace();
        node.auth.authenticate(&refreshed.tokens.access_token).await.unwrap();
        let store = node.store.clone();
        assert!(eventually(move || store.acknowledged(refreshed.tokens.session_id) == Some(1)).await);
    });
}

#[tokio::test]
async fn a_panicking_event_hook_fails_neither_a_request_nor_the_background_task() {
    let node = Node::with(|builder| builder.on_event(|_| panic!("the app's hook")));
    let token = node.refresh_token("alice").await;
    node.store.set(Fault::Fails);
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    node.store.set(Fault::None);
    let refreshed = node.refresh(&token).await.unwrap();
    node.after_grace();
    node.auth.authenticate(&refreshed.tokens.access_token).await.unwrap();
    let store = node.store.clone();
    assert!(eventually(move || store.acknowledged(refreshed.tokens.session_id) == Some(1)).await);
}

#[tokio::test]
async fn a_native_client_can_receive_its_refresh_token_in_the_body() {
    let node = Node::with(|builder| builder.configure(|settings| settings.transport = Transport::Body));
    assert!(node.refresh_token("alice").await.len() == 94);
}

/// All items in the store's feed.
async fn feed_items(store: &FaultyStore) -> Vec<RevokedItem> {
    let window = FeedWindow { max_age: Duration::MAX, overlap: Duration::ZERO, limit: usize::MAX };
    let feed = store.inner.read_revocations(FeedCursor::START, window).await.unwrap();
    feed.entries.into_iter().map(|revoked| revoked.item).collect()
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_the_store_lost_is_written_again_once_and_reaches_other_nodes() {
    let node = Node::new();
    let login = node.login("alice").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    node.store.set(Fault::PretendsToRevoke);
    node.auth.revoke_session(login.tokens.session_id, RevocationReason::RevokedByAdmin).await.unwrap();
    node.auth.revoke_access_token(&login.tokens.access_token).await.unwrap();
    node.store.set(Fault::None);
    assert_eq!(feed_items(&node.store).await, []);
    // Not before a minute has passed.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(feed_items(&node.store).await, []);
    node.clock.advance(Duration::from_secs(60));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let written = feed_items(&node.store).await;
    assert_eq!(written.len(), 2);
    assert!(written.contains(&RevokedItem::Session(login.tokens.session_id)));
    assert!(written.iter().any(|item| matches!(item, RevokedItem::Token(_))));
    assert!(node.has_event(|event| *event == Event::RevocationsLost { count: 2 }));
    assert!(node.store.inner.load(login.tokens.session_id).await.unwrap().unwrap().rotation.revoked.is_some());
    node.clock.advance(Duration::from_secs(60));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(feed_items(&node.store).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_was_lost_in_an_outage_is_written_again_as_soon_as_the_store_is_back() {
    let node = Node::new();
    let login = node.login("alice").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    node.store.set(Fault::PretendsToRevoke);
    node.auth.revoke_session(login.tokens.session_id, RevocationReason::Logout).await.unwrap();
    node.store.set(Fault::Fails);
    tokio::time::sleep(Duration::from_secs(3)).await;
    node.store.set(Fault::None);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(feed_items(&node.store).await, [RevokedItem::Session(login.tokens.session_id)]);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_during_a_read_of_the_feed_is_read_immediately_and_not_a_second_later() {
    let node = Node::new();
    let login = node.login("alice").await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    node.store.set(Fault::SlowFeed);
    // Another node revokes: first a token, so that the feed is read, and during that read the session.
    let revocation = axum_refresh::store::Revocation { at: node.clock.now(), reason: RevocationReason::RevokedByAdmin };
    node.store.inner.revoke(RevokeTarget::Token("jti"), revocation).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    node.store.inner.revoke(RevokeTarget::Session(login.tokens.session_id), revocation).await.unwrap();
    assert!(node.auth.authenticate(&login.tokens.access_token).await.is_ok());
    // Two reads take 200 ms each; the next tick would start its own read at two seconds.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(code(node.auth.authenticate(&login.tokens.access_token).await), "access_token_revoked");
}

#[tokio::test(start_paused = true)]
async fn an_access_token_that_expires_while_the_feed_is_read_is_refused() {
    let node = Node::new();
    let login = node.login("alice").await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    // Stale, so that the token waits for the feed.
    node.store.set(Fault::SlowFeed);
    node.clock.advance(14 * MINUTE);
    let (auth, token) = (node.auth.clone(), login.tokens.access_token);
    let waiting = tokio::spawn(async move { auth.authenticate(&token).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    node.clock.advance(MINUTE);
    assert_eq!(code(waiting.await.unwrap()), "access_token_expired");
}

// ---- events ---------------------------------------------------------------------------------------------------------

/// The name of an event, its user, its session and the `User-Agent` of its client.
type AuditRow = (&'static str, Option<String>, Option<SessionId>, Option<String>);

/// What has happened to sessions and users, by its columns.
fn rows(node: &Node) -> Vec<AuditRow> {
    let events = node.events().into_iter().filter(|event| !matches!(event, Event::StoreFailed { .. }));
    let row = |event: Event| {
        let user_agent = event.client().and_then(|client| client.user_agent.as_deref()).map(str::to_owned);
        (event.name(), event.user_id().map(str::to_owned), event.session_id(), user_agent)
    };
    events.map(row).collect()
}

fn row(name: &'static str, session_id: impl Into<Option<SessionId>>, client: Option<&str>) -> AuditRow {
    (name, Some("alice".to_owned()), session_id.into(), client.map(str::to_owned))
}

const CURL: Option<&str> = Some("curl/8.5.0");

#[tokio::test]
async fn the_events_of_a_login_name_its_user_and_client() {
    let node = Node::with_policy(Policy { max_sessions: Some(1), ..Policy::default() });
    let first = node.login("alice").await.tokens.session_id;
    assert_eq!(rows(&node), [row("logged_in", first, CURL)]);
    let second = node.login("alice").await.tokens.session_id;
    assert_eq!(rows(&node), [row("session_revoked", first, CURL), row("logged_in", second, CURL)]);
    let third = node.auth.login("alice", claims("user")).client(client()).replacing(second).await.unwrap();
    let third = third.tokens.session_id;
    assert_eq!(rows(&node), [row("session_revoked", second, CURL), row("logged_in", third, CURL)]);
    // The session of another user in the same browser.
    let bob = node.auth.login("bob", claims("user")).client(client()).replacing(third).await.unwrap().tokens.session_id;
    let logged_in = ("logged_in", Some("bob".to_owned()), Some(bob), CURL.map(str::to_owned));
    assert_eq!(rows(&node), [row("session_revoked", third, CURL), logged_in]);
    let refusing = Node::with_policy(Policy {
        max_sessions: Some(1),
        on_max_sessions: OnMaxSessions::Refuse,
        ..Policy::default()
    });
    let first = refusing.login("alice").await.tokens.session_id;
    refusing.auth.login("alice", claims("user")).client(client()).await.unwrap_err();
    assert_eq!(rows(&refusing), [row("logged_in", first, CURL), row("session_limit_reached", None, CURL)]);
}

#[tokio::test]
async fn every_way_to_revoke_a_session_names_its_user() {
    let node = Node::new();
    let log_in = async || {
        let tokens = node.login("alice").await.tokens;
        node.events();
        tokens
    };
    let tokens = log_in().await;
    node.auth.logout(&tokens.refresh_token.unwrap()).await.unwrap();
    assert_eq!(rows(&node), [row("session_revoked", tokens.session_id, None)]);
    let tokens = log_in().await;
    node.auth.revoke_own_session("alice", tokens.session_id).await.unwrap();
    assert_eq!(rows(&node), [row("session_revoked", tokens.session_id, None)]);
    let tokens = log_in().await;
    node.auth.revoke_session(tokens.session_id, RevocationReason::RevokedByAdmin).await.unwrap();
    assert_eq!(rows(&node), [row("session_revoked", tokens.session_id, None)]);
    log_in().await;
    node.auth.revoke_user("alice", None, RevocationReason::RevokedByAdmin).await.unwrap();
    assert_eq!(rows(&node), [row("user_revoked", None, None)]);
    let tokens = log_in().await;
    node.auth.revoke_access_token(&tokens.access_token).await.unwrap();
    assert_eq!(rows(&node), [row("token_revoked", tokens.session_id, None)]);
    let user = node.auth.authenticate(&log_in().await.access_token).await.unwrap();
    node.auth.revoke_token_id(&user.token_id(), user.expires_at()).await.unwrap();
    assert_eq!(rows(&node), [("token_revoked", None, None, None)]);
    node.auth.revoke_all(RevocationReason::RevokedByAdmin).await.unwrap();
    assert_eq!(rows(&node), [("everyone_revoked", None, None, None)]);
}

#[tokio::test]
async fn the_events_of_a_refresh_name_its_user_and_client() {
    let node = Node::new();
    let login = node.login("alice").await.tokens;
    let (id, old) = (login.session_id, login.refresh_token.unwrap());
    let newest = node.rotate(&old).await;
    node.after_grace();
    node.rotate(&newest).await;
    node.after_grace();
    node.events();
    let thief = || ClientInfo::new().user_agent("wget/1.21");
    assert_eq!(code(node.auth.refresh(&old, thief()).await), "refresh_token_reused");
    let thief = Some("wget/1.21");
    let expected = [row("refreshed", id, thief), row("reuse", id, thief), row("session_revoked", id, thief)];
    assert_eq!(rows(&node), expected);
}

#[tokio::test(start_paused = true)]
async fn the_events_of_a_delayed_revocation_name_its_user_and_the_client_that_has_caused_it() {
    let (node, _, old, _) = before_a_reuse().await;
    let id = node.auth.sessions("alice").await.unwrap().iter().map(|session| session.id).collect::<Vec<_>>();
    node.store.set(Fault::FailsToSwap);
    node.refresh(&old).await.unwrap_err();
    let events = rows(&node);
    let [refreshed, reuse, delayed] = events.as_slice() else { panic!("{events:?}") };
    assert!(
        [refreshed, reuse, delayed].iter().all(|row| row.1.as_deref() == Some("alice") && row.3.as_deref() == CURL)
    );
    assert_eq!((delayed.0, delayed.2.is_some_and(|delayed| id.contains(&delayed))), ("revocation_delayed", true));
    node.store.set(Fault::None);
    node.auth.flush().await.unwrap();
    let events = rows(&node);
    assert!(!events.is_empty());
    assert!(events.iter().all(|row| row.1.as_deref() == Some("alice") && row.3.as_deref() == CURL), "{events:?}");
}

#[tokio::test]
async fn no_event_contains_a_token() {
    let (node, other, old, newest) = before_a_reuse().await;
    let access = node.refresh(&other).await.unwrap().tokens.access_token;
    node.refresh(&old).await.unwrap_err();
    node.auth.revoke_access_token(&access).await.unwrap();
    node.auth.logout(&newest).await.unwrap();
    let signature = |token: &str| token[token.len() - 16..].to_owned();
    for event in node.events() {
        let text = format!("{event:?} {event} {}", serde_json::to_string(&event).unwrap());
        for token in [&other, &old, &newest, &access] {
            assert!(!text.contains(&signature(token)), "{text}");
        }
    }
}

// ---- new devices ----------------------------------------------------------------------------------------------------

const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
const FIREFOX_UPDATED: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:152.0) Gecko/20100101 Firefox/152.0";

fn detecting() -> Node {
    Node::with_policy(Policy { detect_new_devices: true, ..Policy::default() })
}

/// Logs in with this `User-Agent`, and returns how many sessions it was compared with if it is a new device.
async fn log_in_with(node: &Node, user: &str, user_agent: &str) -> Option<usize> {
    node.events();
    let client = ClientInfo::new().user_agent(user_agent);
    let id = node.auth.login(user, claims("user")).client(client.clone()).await.unwrap().tokens.session_id;
    node.events().into_iter().find_map(|event| match event {
        Event::NewDevice { user_id, session_id, sessions, client } => {
            assert_eq!((&*user_id, session_id, client.user_agent.as_deref()), (user, id, Some(user_agent)));
            Some(sessions)
        }
        _ => None,
    })
}

#[tokio::test]
async fn a_login_with_a_client_that_no_live_session_had_is_a_new_device() {
    let node = detecting();
    assert_eq!(log_in_with(&node, "alice", FIREFOX).await, Some(0));
    assert_eq!(log_in_with(&node, "alice", FIREFOX_UPDATED).await, None);
    assert_eq!(log_in_with(&node, "alice", "curl/8.5.0").await, Some(2));
    assert_eq!(log_in_with(&node, "alice", "curl/8.9.1").await, None);
    // Another user's sessions do not count, and neither do those that have ended.
    assert_eq!(log_in_with(&node, "bob", "curl/8.5.0").await, Some(0));
    node.clock.advance(Policy::default().idle_timeout);
    assert_eq!(log_in_with(&node, "alice", FIREFOX).await, Some(0));
    node.auth.revoke_user("alice", None, RevocationReason::Other).await.unwrap();
    assert_eq!(log_in_with(&node, "alice", FIREFOX).await, Some(0));
}

#[tokio::test]
async fn a_login_in_place_of_a_session_of_the_same_device_is_no_new_device() {
    let node = Node::with_policy(Policy { detect_new_devices: true, max_sessions: Some(1), ..Policy::default() });
    let old = node.login("alice").await.tokens.session_id;
    node.events();
    let replaced = node.auth.login("alice", claims("user")).client(client()).replacing(old).await.unwrap();
    assert_eq!(node.auth.sessions("alice").await.unwrap()[0].id, replaced.tokens.session_id);
    let _ = node.login("alice").await;
    assert!(!node.has_event(|event| matches!(event, Event::NewDevice { .. })));
}

#[tokio::test]
async fn new_devices_are_detected_only_if_that_is_switched_on() {
    let node = Node::new();
    assert_eq!(log_in_with(&node, "alice", FIREFOX).await, None);
    node.store.calls();
    assert_eq!(log_in_with(&node, "alice", "curl/8.5.0").await, None);
    assert_eq!(node.store.calls(), Calls { loads: 0, swaps: 0, others: 1 });
}

#[tokio::test]
async fn a_login_whose_devices_cannot_be_listed_succeeds_without_the_event() {
    let node = detecting();
    let _ = node.login("alice").await;
    node.store.set(Fault::FailsToList);
    assert_eq!(log_in_with(&node, "alice", FIREFOX).await, None);
    node.store.set(Fault::None);
    assert_eq!(node.auth.sessions("alice").await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_login_that_is_refused_is_no_new_device() {
    let on_max_sessions = OnMaxSessions::Refuse;
    let policy = Policy { detect_new_devices: true, max_sessions: Some(1), on_max_sessions, ..Policy::default() };
    let node = Node::with_policy(policy);
    let _ = node.login("alice").await;
    node.events();
    let client = ClientInfo::new().user_agent(FIREFOX);
    assert_eq!(code(node.auth.login("alice", claims("user")).client(client).await), "session_limit");
    assert!(!node.has_event(|event| matches!(event, Event::NewDevice { .. })));
}

// ---- waiting for a revocation ---------------------------------------------------------------------------------------

/// A user as a handler has it, and the user's tokens.
async fn user(node: &Node, id: &str) -> (AuthUser<Claims>, axum_refresh::Tokens) {
    let tokens = node.login(id).await.tokens;
    (node.auth.authenticate(&tokens.access_token).await.unwrap(), tokens)
}

/// Whether it completes within the second in which a node learns of a revocation, and a little more.
async fn completes(revoked: impl Future<Output = ()>) -> bool {
    tokio::time::timeout(Duration::from_millis(1_500), revoked).await.is_ok()
}

/// All ways to revoke a session.
#[derive(Clone, Copy, Debug)]
enum Way {
    Logout,
    ByUser,
    ByAdmin,
    WholeUser,
    Everyone,
    Reuse,
    OthersForReuse,
    ClientMismatch,
    SessionLimit,
    Replaced,
    AccessToken,
}

impl Way {
    const ALL: [Self; 11] = [
        Self::Logout,
        Self::ByUser,
        Self::ByAdmin,
        Self::WholeUser,
        Self::Everyone,
        Self::Reuse,
        Self::OthersForReuse,
        Self::ClientMismatch,
        Self::SessionLimit,
        Self::Replaced,
        Self::AccessToken,
    ];

    fn policy(self) -> Policy {
        let user_agent = BindingMode::Revoke;
        match self {
            Self::OthersForReuse => Policy { on_reuse: OnReuse::User, ..Policy::default() },
            Self::ClientMismatch => {
                Policy { binding: Binding { user_agent, ..Binding::default() }, ..Policy::default() }
            }
            Self::SessionLimit => Policy { max_sessions: Some(1), ..Policy::default() },
            _ => Policy::default(),
        }
    }

    async fn revoke(self, node: &Node, user: &AuthUser<Claims>, tokens: &axum_refresh::Tokens) {
        let (auth, token) = (&node.auth, tokens.refresh_token.as_deref().unwrap());
        let steal = async |token: &str| {
            let second = node.rotate(token).await;
            node.after_grace();
            node.rotate(&second).await;
            node.after_grace();
            assert_eq!(code(node.refresh(token).await), "refresh_token_reused");
        };
        match self {
            Self::Logout => auth.logout(token).await.unwrap(),
            Self::ByUser => auth.revoke_own_session("alice", user.session_id).await.unwrap(),
            Self::ByAdmin => auth.revoke_session(user.session_id, RevocationReason::RevokedByAdmin).await.unwrap(),
            Self::WholeUser => drop(auth.revoke_user("alice", None, RevocationReason::RevokedByAdmin).await.unwrap()),
            Self::Everyone => drop(auth.revoke_all(RevocationReason::RevokedByAdmin).await.unwrap()),
            Self::Reuse => steal(token).await,
            Self::OthersForReuse => steal(&node.refresh_token("alice").await).await,
            Self::ClientMismatch => {
                let wget = ClientInfo::new().user_agent("Wget/1.21");
                assert_eq!(code(auth.refresh(token, wget).await), "client_mismatch");
            }
            Self::SessionLimit => drop(node.login("alice").await),
            Self::Replaced => drop(auth.login("alice", claims("user")).replacing(user.session_id).await.unwrap()),
            Self::AccessToken => auth.revoke_access_token(&tokens.access_token).await.unwrap(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_learns_of_every_kind_of_revocation_on_every_node() {
    for way in Way::ALL {
        let with_policy =
            |builder: axum_refresh::AuthBuilder<Claims>| builder.configure(|settings| settings.policy = way.policy());
        let one = Node::with(with_policy);
        let two = Node::on(one.store.clone(), one.clock.clone(), with_policy);
        let (alice, tokens) = user(&one, "alice").await;
        let (bob, _) = user(&one, "bob").await;
        let mut streams = [&one, &two].map(|node| node.auth.revoked(&alice));
        let mut of_bob = [&one, &two].map(|node| node.auth.revoked(&bob));
        for stream in &mut streams {
            assert!(!completes(stream).await, "{way:?}");
        }
        way.revoke(&one, &alice, &tokens).await;
        for stream in streams {
            assert!(completes(stream).await, "{way:?}");
        }
        for stream in &mut of_bob {
            assert_eq!(completes(stream).await, matches!(way, Way::Everyone), "{way:?}");
        }
        // What is known already is seen at once.
        for node in [&one, &two] {
            assert!(completes(node.auth.revoked(&alice)).await, "{way:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_session_that_goes_on_waits_on() {
    let one = Node::new();
    let two = Node::on(one.store.clone(), one.clock.clone(), |builder| builder);
    let ((here, _), (there, _)) = (user(&one, "alice").await, user(&one, "alice").await);
    let mut kept: Vec<_> = [&one, &two].map(|node| node.auth.revoked(&here)).into();
    let ended = [&one, &two].map(|node| node.auth.revoked(&there));
    one.auth.revoke_user("alice", Some(here.session_id), RevocationReason::RevokedByUser).await.unwrap();
    for stream in ended {
        assert!(completes(stream).await);
    }
    one.auth.revoke_all(RevocationReason::Other).await.unwrap();
    for stream in kept.drain(..) {
        assert!(completes(stream).await);
    }
    // A login after the revocation, of whoever it was.
    let (again, tokens) = user(&one, "alice").await;
    kept.extend([&one, &two].map(|node| node.auth.revoked(&again)));
    one.clock.advance(MINUTE);
    one.refresh(&tokens.refresh_token.unwrap()).await.unwrap();
    for stream in &mut kept {
        assert!(!completes(stream).await);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_during_an_outage_learns_of_its_revocations_afterwards() {
    for (outage, end) in [(5 * MINUTE, Fault::None), (60 * MINUTE, Fault::None), (60 * MINUTE, Fault::FailsAfterPage)] {
        let one = Node::new();
        // Another connection to the same store.
        let two = Node::on(FaultyStore::over(one.store.inner.clone()), one.clock.clone(), |builder| builder);
        let (alice, _) = user(&one, "alice").await;
        let (bob, _) = user(&one, "bob").await;
        let mut of_alice = two.auth.revoked(&alice);
        let mut of_bob = two.auth.revoked(&bob);
        assert!(!completes(&mut of_alice).await);
        two.store.set(Fault::Fails);
        one.auth.revoke_session(alice.session_id, RevocationReason::Other).await.unwrap();
        assert!(!completes(&mut of_alice).await);
        // Longer than a node keeps a revocation.
        two.store.age_feed(outage);
        one.clock.advance(outage);
        two.store.set(end);
        assert!(completes(of_alice).await, "{outage:?} {end:?}");
        assert!(!completes(&mut of_bob).await, "{outage:?} {end:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_that_is_written_while_the_session_is_loaded_counts() {
    let node = Node::new();
    let first = node.login("alice").await.tokens.refresh_token.unwrap();
    node.clock.advance(2 * GRACE);
    let second = node.refresh(&first).await.unwrap();
    node.clock.advance(2 * GRACE);
    node.auth.authenticate(&second.tokens.access_token).await.unwrap();
    node.store.set(Fault::SlowLoad);
    let write = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        node.auth.flush().await.unwrap();
    };
    let (stolen, ()) = tokio::join!(node.refresh(&first), write);
    assert_eq!(code(stolen), "refresh_token_reused");
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_client_does_not_read_keeps_no_other_from_asking() {
    let node = Node::new();
    let (mallory, _) = (user(&node, "mallory").await.0, user(&node, "mallory").await);
    let (alice, _) = user(&node, "alice").await;
    let mut slow: Vec<_> = (0..40).map(|_| node.auth.revoked(&mallory)).collect();
    let of_alice = node.auth.revoked(&alice);
    node.auth.revoke_user("mallory", Some(mallory.session_id), RevocationReason::RevokedByUser).await.unwrap();
    node.auth.revoke_user("alice", None, RevocationReason::RevokedByUser).await.unwrap();
    node.store.set(Fault::Hangs);
    // Polled once, as by a server that then waits for its client.
    for slow in &mut slow {
        assert!(tokio::time::timeout(Duration::ZERO, slow).await.is_err());
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    node.store.set(Fault::None);
    assert!(tokio::time::timeout(Duration::from_secs(20), of_alice).await.is_ok());
    drop(slow);
}

#[tokio::test(start_paused = true)]
async fn whoever_has_to_ask_the_store_asks_until_it_answers() {
    let node = Node::new();
    let mut streams = Vec::new();
    for _ in 0..50 {
        streams.push(node.auth.revoked(&user(&node, "alice").await.0));
    }
    let (here, _) = user(&node, "alice").await;
    let mut of_here = node.auth.revoked(&here);
    node.auth.revoke_user("alice", Some(here.session_id), RevocationReason::RevokedByUser).await.unwrap();
    node.store.set(Fault::Fails);
    assert!(!completes(&mut streams[0]).await && !completes(&mut of_here).await);
    node.store.set(Fault::None);
    for stream in streams {
        assert!(completes(stream).await);
    }
    assert!(!completes(&mut of_here).await);
}

#[tokio::test(start_paused = true)]
async fn waiting_is_no_activity_and_costs_no_call_of_the_store() {
    let node = Node::new();
    let (alice, tokens) = user(&node, "alice").await;
    node.store.calls();
    let mut stream = node.auth.revoked(&alice);
    assert!(!completes(&mut stream).await);
    assert_eq!(node.store.calls(), Calls { loads: 0, swaps: 0, others: 0 });
    node.clock.advance(Policy::default().idle_timeout);
    assert_eq!(code(node.refresh(&tokens.refresh_token.unwrap()).await), "session_idle");
}

// ---- races ----------------------------------------------------------------------------------------------------------

#[test]
fn a_revocation_that_has_returned_is_in_force_whatever_was_looked_up_meanwhile() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let auth: Auth = Auth::builder(Secret::random().unwrap(), MemoryStore::new()).build().unwrap();
    runtime.block_on(async {
        for round in 0..300 {
            let user = format!("user{}", round % 3);
            let tokens = auth.login(user.as_str(), NoClaims {}).await.unwrap().tokens;
            let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
            let busy: Vec<_> = (0..3)
                .map(|_| {
                    let (auth, token, is_over) = (auth.clone(), tokens.access_token.clone(), Arc::clone(&is_over));
                    tokio::spawn(async move {
                        while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                            let _ = auth.authenticate(&token).await;
                            tokio::task::yield_now().await;
                        }
                    })
                })
                .collect();
            tokio::task::yield_now().await;
            match round % 4 {
                0 => auth.revoke_session(tokens.session_id, RevocationReason::Other).await.unwrap(),
                1 => drop(auth.revoke_user(&user, None, RevocationReason::Other).await.unwrap()),
                2 => drop(auth.revoke_all(RevocationReason::Other).await.unwrap()),
                _ => {
                    let user = auth.authenticate(&tokens.access_token).await.unwrap();
                    auth.revoke_token_id(&user.token_id(), user.expires_at()).await.unwrap();
                }
            }
            let answer = auth.authenticate(&tokens.access_token).await;
            assert!(matches!(answer, Err(Error::AccessTokenRevoked)), "round {round}: {answer:?}");
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            for task in busy {
                task.await.unwrap();
            }
        }
    });
}
