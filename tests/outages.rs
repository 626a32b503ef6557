//! What requests do while the store is away, and after it. Tokio's clock is paused: it moves on when everybody waits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use axum_refresh::ratchet::Verdict;
use axum_refresh::{Error, RevocationReason};
use support::{Fault, Node, code};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);
/// The default.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_STALENESS: Duration = Duration::from_secs(30);

/// How long a request took, and its code if it was refused.
type Outcome = (Duration, Option<&'static str>);

async fn timed<T>(work: impl Future<Output = Result<T, Error>>) -> Outcome {
    let started = Instant::now();
    let code = work.await.err().map(|error| error.code());
    (started.elapsed(), code)
}

/// This many requests with one access token, at once.
async fn authenticate(node: &Node, access: &str, count: usize) -> Vec<Outcome> {
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let (node, access) = (node.clone(), access.to_owned());
        tasks.spawn(async move { timed(node.auth.authenticate(&access)).await });
    }
    tasks.join_all().await
}

/// A node whose store has been away for longer than `max_staleness`, and an access token from before.
async fn stale(fault: Fault) -> (Node, String) {
    let node = Node::new();
    let access = node.login("alice").await.tokens.access_token;
    node.auth.authenticate(&access).await.unwrap();
    node.store.set(fault);
    node.clock.advance(MAX_STALENESS);
    sleep(STORE_TIMEOUT * 2).await;
    (node, access)
}

/// Refreshes by sessions of their own, one every 20 ms.
fn refresh_steadily(node: &Node, tokens: &[String]) -> JoinSet<Outcome> {
    let mut tasks = JoinSet::new();
    for (i, token) in (0..).zip(tokens) {
        let (node, token) = (node.clone(), token.clone());
        tasks.spawn(async move {
            sleep(Duration::from_millis(20) * i).await;
            timed(node.refresh(&token)).await
        });
    }
    tasks
}

async fn logins(node: &Node, count: usize) -> Vec<String> {
    let mut tokens = Vec::new();
    for _ in 0..count {
        tokens.push(node.refresh_token("alice").await);
    }
    node.after_grace();
    tokens
}

// ---- the feed of revocations ----------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_for_long_one_request_waits_for_it_and_the_others_are_refused_at_once() {
    for fault in [Fault::Hangs, Fault::Fails] {
        let (node, access) = stale(fault).await;
        for _ in 0..20 {
            let outcomes = authenticate(&node, &access, 100).await;
            assert!(outcomes.iter().all(|(_, code)| *code == Some("store_unavailable")), "{fault:?}");
            let waited = outcomes.iter().filter(|(time, _)| !time.is_zero()).count();
            assert!(waited <= 1, "{fault:?}: {waited} waited");
            sleep(SECOND / 3).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_success_lets_everybody_in_within_a_second() {
    for fault in [Fault::Hangs, Fault::Fails, Fault::Stalls] {
        // Whatever the moment at which the store comes back.
        for millis in (0..6000).step_by(430) {
            let (node, access) = stale(fault).await;
            sleep(Duration::from_millis(millis)).await;
            node.store.set(Fault::None);
            sleep(SECOND).await;
            let outcomes = authenticate(&node, &access, 100).await;
            assert!(
                outcomes.iter().all(|outcome| *outcome == (Duration::ZERO, None)),
                "{fault:?} {millis}: {outcomes:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_connections_is_not_asked_for_every_request() {
    let (node, access) = stale(Fault::Fails).await;
    node.store.feed_reads();
    for _ in 0..1000 {
        assert_eq!(code(node.auth.authenticate(&access).await), "store_unavailable");
        sleep(SECOND / 100).await;
    }
    // In ten seconds, ten by the background task and twenty for requests.
    let reads = node.store.feed_reads();
    assert!((10..=32).contains(&reads), "{reads}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_only_asleep_asks_once_and_refuses_nobody() {
    let node = Node::new();
    let access = node.login("alice").await.tokens.access_token;
    node.auth.authenticate(&access).await.unwrap();
    node.clock.advance(MAX_STALENESS);
    node.store.set(Fault::SlowFeed);
    node.store.feed_reads();
    let outcomes = authenticate(&node, &access, 100).await;
    assert!(outcomes.iter().all(|(_, code)| code.is_none()), "{outcomes:?}");
    assert_eq!(node.store.feed_reads(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_disconnects_while_the_feed_is_read_does_not_make_it_fail() {
    let node = Node::new();
    let access = node.login("alice").await.tokens.access_token;
    node.auth.authenticate(&access).await.unwrap();
    node.clock.advance(MAX_STALENESS);
    node.store.set(Fault::SlowFeed);
    let request = tokio::time::timeout(SECOND / 10, node.auth.authenticate(&access));
    request.await.unwrap_err();
    node.auth.authenticate(&access).await.unwrap();
}

// ---- refreshes and logins -------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn requests_do_not_pile_up_behind_a_store_that_hangs() {
    let node = Node::new();
    let tokens = logins(&node, 1500).await;
    node.store.set(Fault::Hangs);
    let outcomes = refresh_steadily(&node, &tokens).join_all().await;
    assert!(outcomes.iter().all(|(_, code)| *code == Some("store_unavailable")));
    // Those of the first timeout wait, and then one every half second. There are thirty seconds of requests.
    let waited = outcomes.iter().filter(|(time, _)| *time >= STORE_TIMEOUT).count();
    assert!((250..=320).contains(&waited), "{waited}");
    let refused_at_once = outcomes.iter().filter(|(time, _)| time.is_zero()).count();
    assert_eq!(waited + refused_at_once, 1500);
}

#[tokio::test(start_paused = true)]
async fn everybody_is_served_within_a_second_after_a_store_that_hung() {
    for seconds in [6, 11, 60] {
        for fault in [Fault::Hangs, Fault::Stalls] {
            let node = Node::new();
            let tokens = logins(&node, 200).await;
            node.store.set(fault);
            let mut requests = refresh_steadily(&node, &tokens[..100]);
            sleep(seconds * SECOND).await;
            node.store.set(Fault::None);
            sleep(SECOND).await;
            for token in &tokens[100..] {
                let outcome = timed(node.refresh(token)).await;
                assert_eq!(outcome, (Duration::ZERO, None), "{fault:?} for {seconds} s");
            }
            requests.abort_all();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stalls_for_less_than_its_timeout_refuses_nobody() {
    let node = Node::new();
    let tokens = logins(&node, 500).await;
    let refreshes = refresh_steadily(&node, &tokens);
    for _ in 0..2 {
        sleep(SECOND / 2).await;
        node.store.set(Fault::Stalls);
        sleep(STORE_TIMEOUT - SECOND / 2).await;
        node.store.set(Fault::None);
    }
    let outcomes = refreshes.join_all().await;
    assert!(outcomes.iter().all(|(_, code)| code.is_none()));
}

#[tokio::test(start_paused = true)]
async fn quick_failures_refuse_nobody_once_they_are_over() {
    let node = Node::new();
    let tokens = logins(&node, 100).await;
    node.store.set(Fault::Fails);
    for token in &tokens {
        assert_eq!(code(node.refresh(token).await), "store_unavailable");
    }
    node.store.set(Fault::None);
    for token in &tokens {
        node.rotate(token).await;
    }
}

#[tokio::test(start_paused = true)]
async fn while_only_writes_hang_what_needs_no_write_is_served() {
    let node = Node::new();
    let tokens = logins(&node, 10).await;
    let fresh = node.rotate(&node.refresh_token("alice").await).await;
    node.store.set(Fault::HangsOnWrites);
    let mut outcomes = refresh_steadily(&node, &tokens[..8]).join_all().await;
    assert!(outcomes.iter().all(|outcome| *outcome == (STORE_TIMEOUT, Some("store_unavailable"))));
    outcomes = refresh_steadily(&node, &tokens[8..]).join_all().await;
    outcomes.sort_unstable();
    assert_eq!(outcomes, [Duration::ZERO, STORE_TIMEOUT].map(|time| (time, Some("store_unavailable"))));
    assert_eq!(node.refresh(&fresh).await.unwrap().verdict, Verdict::Touch);
}

#[tokio::test(start_paused = true)]
async fn users_with_too_many_sessions_to_revoke_refuse_nobody_else() {
    let node = Node::new();
    let tokens = logins(&node, 10).await;
    node.store.set(Fault::HangsForUsers);
    let mut revoking = JoinSet::new();
    for _ in 0..20 {
        let node = node.clone();
        revoking.spawn(async move {
            loop {
                node.auth.revoke_user("alice", None, RevocationReason::Logout).await.unwrap_err();
                sleep(SECOND / 100).await;
            }
        });
    }
    sleep(STORE_TIMEOUT * 2 + SECOND).await;
    for token in &tokens {
        assert_eq!(timed(node.refresh(token)).await, (Duration::ZERO, None));
    }
}
