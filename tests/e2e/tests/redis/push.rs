//! Notifications of revocations.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum_refresh::config::OnMaxSessions;
use axum_refresh::store::{FeedCursor, InsertOptions, RevokeTarget, SessionLimit};
use axum_refresh::{RedisStore, SessionStore};
use tokio::sync::Barrier;
use tokio::time::{sleep, timeout};

use crate::server::{ALONE, LOGOUT, Server, WINDOW, eventually, plain, prefix, session, url};

async fn pair() -> (RedisStore, RedisStore) {
    let options = RedisStore::options().prefix(prefix());
    (options.clone().connect(&url()).await.unwrap(), options.connect(&url()).await.unwrap())
}

/// Returns once the store listens and its first notification, sent when it started to listen, is over.
async fn listening(store: &RedisStore) {
    store.read_revocations(FeedCursor::START, WINDOW).await.unwrap();
    let _ = timeout(Duration::from_millis(300), store.changed()).await;
    store.read_revocations(FeedCursor::START, WINDOW).await.unwrap();
}

type Step<'a> = std::pin::Pin<Box<dyn Future<Output = ()> + 'a>>;

const SOON: Duration = Duration::from_millis(100);

#[tokio::test]
async fn every_revocation_wakes_another_store_within_100_ms() {
    let (one, other) = pair().await;
    let [swapped, evicted, replaced, revoked, of_user] = std::array::from_fn(|n| session(&format!("user{n}")));
    for session in [&swapped, &evicted, &replaced, &revoked, &of_user] {
        one.insert(session, ALONE).await.unwrap();
    }
    let (mut after, store) = (swapped.clone(), one.clone());
    after.rotation.revoked = Some(LOGOUT);
    let limit =
        SessionLimit { max: 1, on_max_sessions: OnMaxSessions::EvictOldest, idle_timeout: Duration::from_secs(600) };
    let steps: [(&str, Step<'_>); 6] = [
        ("a swap", Box::pin(async { assert!(one.compare_and_swap(0, &after).await.unwrap()) })),
        (
            "an eviction",
            Box::pin(async {
                one.insert(&session(&evicted.user_id), InsertOptions { limit: Some(limit), ..ALONE }).await.unwrap();
            }),
        ),
        (
            "a replacement",
            Box::pin(async {
                one.insert(&session(&replaced.user_id), InsertOptions { replacing: Some(replaced.id), ..ALONE })
                    .await
                    .unwrap();
            }),
        ),
        (
            "the revocation of a session",
            Box::pin(async { drop(one.revoke(RevokeTarget::Session(revoked.id), LOGOUT).await.unwrap()) }),
        ),
        (
            "the revocation of a user's sessions",
            Box::pin(async {
                drop(
                    one.revoke(
                        RevokeTarget::Users { scope: &of_user.user_id, except: None, created_until: None },
                        LOGOUT,
                    )
                    .await
                    .unwrap(),
                );
            }),
        ),
        (
            "the revocation of a token",
            Box::pin(async { drop(store.revoke(RevokeTarget::Token("jti"), LOGOUT).await.unwrap()) }),
        ),
    ];
    listening(&other).await;
    for (what, step) in steps {
        let entries = other.read_revocations(FeedCursor::START, WINDOW).await.unwrap().entries.len();
        let pushed = async {
            other.changed().await;
            assert_eq!(
                other.read_revocations(FeedCursor::START, WINDOW).await.unwrap().entries.len(),
                entries + 1,
                "{what}"
            );
        };
        let (pushed, ()) = tokio::join!(timeout(SOON, pushed), step);
        pushed.unwrap_or_else(|_| panic!("{what} is not pushed"));
    }
    timeout(SOON, other.changed()).await.expect_err("a notification without a revocation");
}

/// Starts to wait, and returns the pending future.
async fn started_waiting<F: Future<Output = ()>>(mut waiting: std::pin::Pin<Box<F>>) -> std::pin::Pin<Box<F>> {
    std::future::poll_fn(|context| {
        assert!(waiting.as_mut().poll(context).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
    waiting
}

#[tokio::test]
async fn a_notification_after_the_start_of_a_wait_is_not_lost_on_any_follower() {
    let (one, shared) = pair().await;
    let steps = Arc::new(Barrier::new(4));
    let follower = || {
        let (store, steps) = (shared.clone(), Arc::clone(&steps));
        tokio::spawn(async move {
            listening(&store).await;
            for _ in 0..20 {
                let waiting = started_waiting(Box::pin(store.changed())).await;
                steps.wait().await;
                // It does something else meanwhile. Then it waits, and returns immediately.
                steps.wait().await;
                timeout(Duration::from_millis(50), waiting).await.expect("the notification arrives");
                timeout(Duration::from_millis(20), store.changed()).await.expect_err("the notification arrived before");
            }
        })
    };
    let followers = [follower(), follower(), follower()];
    for n in 0..20 {
        steps.wait().await;
        one.revoke(RevokeTarget::Token(&n.to_string()), LOGOUT).await.unwrap();
        sleep(SOON).await;
        steps.wait().await;
    }
    for follower in followers {
        follower.await.unwrap();
    }
}

#[tokio::test]
async fn a_disconnected_listener_reconnects_and_wakes_once() {
    let mut server = Server::start(&["--appendonly", "yes"]).await;
    let store = RedisStore::connect(&server.url()).await.unwrap();
    listening(&store).await;
    server.stop();
    timeout(Duration::from_millis(300), store.changed()).await.unwrap_err();
    let waiting = started_waiting(Box::pin(store.changed())).await;
    server.restart().await;
    timeout(Duration::from_secs(6), waiting).await.unwrap();
    eventually("the store is back", || async { store.read_revocations(FeedCursor::START, WINDOW).await.is_ok() }).await;
    timeout(SOON, store.changed()).await.unwrap_err();
    let other = RedisStore::connect(&server.url()).await.unwrap();
    let waiting = started_waiting(Box::pin(store.changed())).await;
    other.revoke(RevokeTarget::Token("jti"), LOGOUT).await.unwrap();
    timeout(SOON, waiting).await.unwrap();
}

#[tokio::test]
async fn a_listener_whose_server_is_paused_is_replaced() {
    let server = Server::start(&[]).await;
    let options = RedisStore::options().timeout(Duration::from_millis(300));
    let store = options.connect(&server.url()).await.unwrap();
    listening(&store).await;
    server.signal("-STOP");
    // The store sends a ping after five seconds, and waits 300 ms for the response.
    sleep(Duration::from_millis(5_600)).await;
    server.signal("-CONT");
    timeout(Duration::from_secs(6), store.changed()).await.unwrap();
}

#[tokio::test]
async fn a_store_listens_only_if_push_is_enabled_and_only_while_it_exists() {
    let server = Server::start(&[]).await;
    let mut plain = plain(&server.url()).await;
    let silent = RedisStore::options().push(false).connect(&server.url()).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(listeners(&mut plain).await, 0);
    assert!(timeout(SOON, silent.changed()).await.is_err());
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let clone = store.clone();
    listening(&store).await;
    assert_eq!(listeners(&mut plain).await, 1);
    drop(store);
    let waiting = started_waiting(Box::pin(clone.changed())).await;
    silent.revoke(RevokeTarget::Token("jti"), LOGOUT).await.unwrap();
    timeout(SOON, waiting).await.unwrap();
    drop(clone);
    let started = Instant::now();
    while listeners(&mut plain).await > 0 {
        assert!(started.elapsed() < Duration::from_secs(5), "the store still listens");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn listeners(server: &mut crate::server::Plain) -> usize {
    server.ask::<String>(&["CLIENT", "LIST", "TYPE", "pubsub"]).await.lines().count()
}
