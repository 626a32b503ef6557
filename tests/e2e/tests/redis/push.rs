//! Being told of what was revoked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum_refresh::config::OnMaxSessions;
use axum_refresh::store::{FeedCursor, InsertOptions, RevokeTarget, SessionLimit};
use axum_refresh::{RedisStore, SessionStore};
use tokio::sync::Barrier;
use tokio::time::{sleep, timeout};

use crate::server::{ALONE, LOGOUT, Server, eventually, plain, prefix, session, url};

async fn pair() -> (RedisStore, RedisStore) {
    let options = RedisStore::options().prefix(prefix());
    (options.clone().connect(&url()).await.unwrap(), options.connect(&url()).await.unwrap())
}

/// Returns once the store listens and its first wake-up, for having begun to, is over.
async fn listening(store: &RedisStore) {
    store.read_revocations(FeedCursor::START).await.unwrap();
    let _ = timeout(Duration::from_millis(300), store.changed()).await;
    store.read_revocations(FeedCursor::START).await.unwrap();
}

type Step<'a> = std::pin::Pin<Box<dyn Future<Output = ()> + 'a>>;

const SOON: Duration = Duration::from_millis(100);

#[tokio::test]
async fn whatever_ends_wakes_another_store_within_100_ms() {
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
            "a session's end",
            Box::pin(async { drop(one.revoke(RevokeTarget::Session(revoked.id), LOGOUT).await.unwrap()) }),
        ),
        (
            "a user's end",
            Box::pin(async {
                drop(one.revoke(RevokeTarget::User { user_id: &of_user.user_id, except: None }, LOGOUT).await.unwrap());
            }),
        ),
        ("a token's end", Box::pin(async { drop(store.revoke(RevokeTarget::Token("jti"), LOGOUT).await.unwrap()) })),
    ];
    listening(&other).await;
    for (what, step) in steps {
        let entries = other.read_revocations(FeedCursor::START).await.unwrap().entries.len();
        let told = async {
            other.changed().await;
            assert_eq!(other.read_revocations(FeedCursor::START).await.unwrap().entries.len(), entries + 1, "{what}");
        };
        let (told, ()) = tokio::join!(timeout(SOON, told), step);
        told.unwrap_or_else(|_| panic!("{what} is not heard of"));
    }
    timeout(SOON, other.changed()).await.expect_err("nothing has ended, nothing is heard");
}

/// Begins to wait, and goes on.
async fn begun<F: Future<Output = ()>>(mut waiting: std::pin::Pin<Box<F>>) -> std::pin::Pin<Box<F>> {
    std::future::poll_fn(|context| {
        assert!(waiting.as_mut().poll(context).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
    waiting
}

#[tokio::test]
async fn what_is_heard_after_a_wait_has_begun_is_not_lost_on_any_follower() {
    let (one, shared) = pair().await;
    let steps = Arc::new(Barrier::new(4));
    let follower = || {
        let (store, steps) = (shared.clone(), Arc::clone(&steps));
        tokio::spawn(async move {
            listening(&store).await;
            for _ in 0..20 {
                let waiting = begun(Box::pin(store.changed())).await;
                steps.wait().await;
                // Meanwhile it does something else. Then it asks, and is answered at once.
                steps.wait().await;
                timeout(Duration::from_millis(50), waiting).await.expect("it is told");
                timeout(Duration::from_millis(20), store.changed()).await.expect_err("it was told already");
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
async fn a_listener_that_was_cut_off_comes_back_and_wakes_once() {
    let mut server = Server::start(&["--appendonly", "yes"]).await;
    let store = RedisStore::connect(&server.url()).await.unwrap();
    listening(&store).await;
    server.stop();
    timeout(Duration::from_millis(300), store.changed()).await.unwrap_err();
    let waiting = begun(Box::pin(store.changed())).await;
    server.restart().await;
    timeout(Duration::from_secs(6), waiting).await.unwrap();
    eventually("the store is back", || async { store.read_revocations(FeedCursor::START).await.is_ok() }).await;
    timeout(SOON, store.changed()).await.unwrap_err();
    let other = RedisStore::connect(&server.url()).await.unwrap();
    let waiting = begun(Box::pin(store.changed())).await;
    other.revoke(RevokeTarget::Token("jti"), LOGOUT).await.unwrap();
    timeout(SOON, waiting).await.unwrap();
}

#[tokio::test]
async fn a_listener_whose_server_stands_still_is_replaced() {
    let server = Server::start(&[]).await;
    let options = RedisStore::options().timeout(Duration::from_millis(300));
    let store = options.connect(&server.url()).await.unwrap();
    listening(&store).await;
    server.signal("-STOP");
    // It asks after five seconds, and waits for 300 ms.
    sleep(Duration::from_millis(5_600)).await;
    server.signal("-CONT");
    timeout(Duration::from_secs(6), store.changed()).await.unwrap();
}

#[tokio::test]
async fn it_listens_only_where_it_is_to_and_only_as_long_as_there_is_a_store() {
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
    let waiting = begun(Box::pin(clone.changed())).await;
    silent.revoke(RevokeTarget::Token("jti"), LOGOUT).await.unwrap();
    timeout(SOON, waiting).await.unwrap();
    drop(clone);
    let started = Instant::now();
    while listeners(&mut plain).await > 0 {
        assert!(started.elapsed() < Duration::from_secs(5), "it still listens");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn listeners(server: &mut crate::server::Plain) -> usize {
    server.ask::<String>(&["CLIENT", "LIST", "TYPE", "pubsub"]).await.lines().count()
}
