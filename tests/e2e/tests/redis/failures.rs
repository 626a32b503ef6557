//! Servers that are unreachable, paused, replicas, or refuse the login.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum_refresh::store::{FeedCursor, RevokeTarget, StoreError};
use axum_refresh::{RedisStore, SessionStore};
use tokio::net::{TcpListener, TcpStream};

use crate::server::{ALONE, LOGOUT, Server, WINDOW, eventually, free_port, plain, session};

async fn refused(url: &str) -> String {
    let started = Instant::now();
    let error = RedisStore::connect(url).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5), "{url}");
    // The error with all its causes must not contain a password.
    let text = format!("{error} / {error:?}");
    assert!(!text.contains("hunter2"), "{text}");
    text
}

#[tokio::test]
async fn an_invalid_url_is_rejected() {
    for url in ["", "hunter2", "redis", "http://:hunter2@127.0.0.1/", "redis://:hunter2@127.0.0.1:port/"] {
        refused(url).await;
    }
    let error = RedisStore::options().prefix("a{b}").connect("redis://127.0.0.1/").await.unwrap_err();
    assert!(error.to_string().contains("braces"), "{error}");
}

#[tokio::test]
async fn an_unreachable_server_is_rejected() {
    let error = refused(&format!("redis://:hunter2@127.0.0.1:{}/", free_port())).await;
    assert!(error.contains("refused"), "{error}");
    // It accepts connections and does not respond.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    refused(&format!("redis://:hunter2@{}/", silent.local_addr().unwrap())).await;
}

#[tokio::test]
async fn a_wrong_password_is_rejected_and_not_printed() {
    let server = Server::start(&["--requirepass", "hunter2"]).await;
    let error = refused(&format!("redis://:not-hunter2-but@127.0.0.1:{}/", server.port)).await;
    assert!(error.contains("assword"), "{error}");
    let error = refused(&format!("redis://127.0.0.1:{}/", server.port)).await;
    assert!(error.contains("NOAUTH"), "{error}");
    let store = RedisStore::connect(&format!("redis://:hunter2@127.0.0.1:{}/", server.port)).await.unwrap();
    assert!(!format!("{store:?}").contains("hunter2"));
    store.insert(&session("alice"), ALONE).await.unwrap();
}

#[tokio::test]
async fn a_replica_is_rejected() {
    let primary = Server::start(&[]).await;
    let replica = Server::start(&["--replicaof", &format!("127.0.0.1 {}", primary.port)]).await;
    let error = refused(&replica.url()).await;
    assert!(error.contains("READONLY") || error.contains("read only"), "{error}");
}

#[tokio::test]
async fn calls_fail_while_the_server_restarts() {
    let mut server = Server::start(&["--appendonly", "yes"]).await;
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let first = session("alice");
    store.insert(&first, ALONE).await.unwrap();
    store.revoke(RevokeTarget::Token("jti"), LOGOUT).await.unwrap();
    server.stop();
    for _ in 0..3 {
        let started = Instant::now();
        store.load(first.id).await.unwrap_err();
        store.compare_and_swap(0, &first).await.unwrap_err();
        store.read_revocations(FeedCursor::START, WINDOW).await.unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }
    server.restart().await;
    eventually("the store is back", || async { store.load(first.id).await.is_ok() }).await;
    assert_eq!(store.load(first.id).await.unwrap().as_ref(), Some(&first));
    assert!(store.compare_and_swap(0, &first).await.unwrap());
    assert_eq!(store.read_revocations(FeedCursor::START, WINDOW).await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn calls_fail_while_the_server_is_paused() {
    let server = Server::start(&[]).await;
    let options = RedisStore::options().timeout(Duration::from_millis(300));
    let store = options.connect(&server.url()).await.unwrap();
    let first = session("alice");
    store.insert(&first, ALONE).await.unwrap();
    server.signal("-STOP");
    for _ in 0..3 {
        let started = Instant::now();
        store.load(first.id).await.unwrap_err();
        assert!(started.elapsed() < Duration::from_millis(1_000), "{:?}", started.elapsed());
    }
    server.signal("-CONT");
    let started = Instant::now();
    eventually("the store is back", || async { store.load(first.id).await.is_ok() }).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

/// The URL of a proxy that forwards each new connection to the current target.
async fn address(target: &Arc<Mutex<u16>>) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("redis://{}/", listener.local_addr().unwrap());
    let target = Arc::clone(target);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let port = *target.lock().unwrap();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    url
}

#[tokio::test]
async fn the_store_follows_an_address_that_moves_to_a_promoted_replica() {
    let old = Server::start(&[]).await;
    let new = Server::start(&["--replicaof", &format!("127.0.0.1 {}", old.port)]).await;
    let target = Arc::new(Mutex::new(old.port));
    let store = RedisStore::connect(&address(&target).await).await.unwrap();
    let first = session("alice");
    store.insert(&first, ALONE).await.unwrap();
    let (mut old_primary, mut new_primary) = (plain(&old.url()).await, plain(&new.url()).await);
    while new_primary.ask::<usize>(&["DBSIZE"]).await < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The connections to the old server stay open: only its error shows that it is no longer the primary.
    new_primary.ask::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    *target.lock().unwrap() = new.port;
    old_primary.ask::<()>(&["REPLICAOF", "127.0.0.1", &new.port.to_string()]).await;
    let error: StoreError = store.compare_and_swap(0, &first).await.unwrap_err();
    assert!(error.to_string().contains("read only"), "{error}");
    eventually("the new primary is found", || async {
        store.compare_and_swap(0, &first).await.is_ok_and(|swapped| swapped)
    })
    .await;
    assert_eq!(store.load(first.id).await.unwrap().unwrap().version, 1);
}

#[tokio::test]
async fn a_node_that_only_reads_also_detects_that_its_server_became_a_replica() {
    let server = Server::start(&[]).await;
    let store = RedisStore::connect(&server.url()).await.unwrap();
    plain(&server.url()).await.ask::<()>(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]).await;
    store.read_revocations(FeedCursor::START, WINDOW).await.unwrap_err();
    plain(&server.url()).await.ask::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    eventually("the store is back", || async { store.read_revocations(FeedCursor::START, WINDOW).await.is_ok() }).await;
}
