//! The Redis store on a cluster of three nodes.

use std::process::Command;

use axum_refresh::store::{FeedCursor, RevokeTarget};
use axum_refresh::{RedisStore, SessionStore};
use tokio::sync::OnceCell;

use crate::server::{ALONE, LOGOUT, Server, WINDOW, free_port, plain, prefix, session};

mod contract {
    axum_refresh::store_conformance!(super::store());
}

/// One cluster for all tests.
async fn cluster() -> &'static [Server] {
    static CLUSTER: OnceCell<Vec<Server>> = OnceCell::const_new();
    CLUSTER
        .get_or_init(|| async {
            let mut servers = Vec::new();
            for _ in 0..3 {
                let port = free_port().to_string();
                servers.push(Server::start(&["--cluster-enabled", "yes", "--cluster-port", &port]).await);
            }
            let addresses = servers.iter().map(|server| format!("127.0.0.1:{}", server.port));
            let created = Command::new("redis-cli")
                .args(["--cluster", "create"])
                .args(addresses)
                .args(["--cluster-replicas", "0", "--cluster-yes"])
                .output()
                .unwrap();
            assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
            for server in &servers {
                let mut node = plain(&server.url()).await;
                while !node.ask::<String>(&["CLUSTER", "INFO"]).await.contains("cluster_state:ok") {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            }
            servers
        })
        .await
}

async fn connect(prefix: String) -> RedisStore {
    let urls: Vec<_> = cluster().await.iter().map(Server::url).collect();
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    RedisStore::options().prefix(prefix).connect_cluster(&urls).await.unwrap()
}

async fn store() -> RedisStore {
    connect(prefix()).await
}

#[tokio::test]
async fn sessions_are_distributed_over_all_nodes() {
    let store = store().await;
    for n in 0..100 {
        store.insert(&session(&format!("user{n}")), ALONE).await.unwrap();
    }
    for server in cluster().await {
        assert!(plain(&server.url()).await.ask::<usize>(&["DBSIZE"]).await > 10);
    }
}

#[tokio::test]
async fn a_revocation_on_any_node_is_pushed_within_100_ms() {
    let prefix = prefix();
    let (one, other) = (connect(prefix.clone()).await, connect(prefix).await);
    let soon = std::time::Duration::from_millis(100);
    other.read_revocations(FeedCursor::START, WINDOW).await.unwrap();
    let _ = tokio::time::timeout(soon * 5, other.changed()).await;
    for n in 0..20 {
        other.read_revocations(FeedCursor::START, WINDOW).await.unwrap();
        let jti = n.to_string();
        let revoke = one.revoke(RevokeTarget::Token(&jti), LOGOUT);
        let (pushed, revoked) = tokio::join!(tokio::time::timeout(soon, other.changed()), revoke);
        assert!(pushed.is_ok() && revoked.is_ok());
    }
    assert_eq!(other.read_revocations(FeedCursor::START, WINDOW).await.unwrap().entries.len(), 20);
}
