//! The connection to one server or to a cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::try_join_all;
use redis::aio::ConnectionManager;
#[cfg(feature = "redis-cluster")]
use redis::cluster_async::ClusterConnection;
use redis::{ErrorKind, FromRedisValue, RedisError, RedisResult, ScriptInvocation, ServerErrorKind, cmd};

use crate::store::StoreError;
use crate::time::Throttle;

/// How often a connection to a replica is reset at most.
const RESET_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Connection {
    server: Server,
    resets: Throttle,
}

enum Server {
    Single(ConnectionManager),
    #[cfg(feature = "redis-cluster")]
    Cluster(ClusterConnection),
}

impl Connection {
    pub(super) const fn single(manager: ConnectionManager) -> Self {
        Self { server: Server::Single(manager), resets: Throttle::new() }
    }

    #[cfg(feature = "redis-cluster")]
    pub(super) const fn cluster(connection: ClusterConnection) -> Self {
        Self { server: Server::Cluster(connection), resets: Throttle::new() }
    }

    /// Runs one script. Its text is sent only to a server that does not have it in its script cache.
    pub(super) async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        let result = match &self.server {
            Server::Single(manager) => script.invoke_async(&mut manager.clone()).await,
            #[cfg(feature = "redis-cluster")]
            Server::Cluster(cluster) => script.invoke_async(&mut cluster.clone()).await,
        };
        self.check(result).await
    }

    /// Runs one script for all items on a single server, or concurrently one script per shard on a cluster.
    pub(super) async fn run_sharded<I: Copy, T: FromRedisValue>(
        &self,
        items: &[I],
        shard: impl Fn(&I) -> u8,
        script: impl Fn(&[I]) -> ScriptInvocation<'static>,
    ) -> Result<Vec<T>, StoreError> {
        let mut groups = BTreeMap::<_, Vec<I>>::new();
        for item in items {
            let group = match &self.server {
                Server::Single(_) => 0,
                #[cfg(feature = "redis-cluster")]
                Server::Cluster(_) => shard(item),
            };
            groups.entry(group).or_default().push(*item);
        }
        #[cfg(not(feature = "redis-cluster"))]
        let _ = shard;
        let scripts: Vec<_> = groups.values().map(|items| script(items)).collect();
        try_join_all(scripts.iter().map(|script| self.run(script))).await
    }

    /// Resets the connection if the server is a replica.
    async fn check<T>(&self, result: RedisResult<T>) -> Result<T, StoreError> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => {
                if is_replica(&error) {
                    self.reset().await;
                }
                Err(StoreError::new(error))
            }
        }
    }

    /// To the connection manager, a replica's refusal is an ordinary reply, so it would keep the connection forever.
    /// Asking the server to close it is the only way to make the manager resolve the address again. (A cluster's
    /// connection discovers its primaries itself.)
    async fn reset(&self) {
        #[cfg_attr(
            not(feature = "redis-cluster"),
            expect(irrefutable_let_patterns, reason = "the other variant needs a feature")
        )]
        let Server::Single(manager) = &self.server else { return };
        if !self.resets.lets_through(RESET_INTERVAL) {
            return;
        }
        let mut manager = manager.clone();
        let _ = cmd("QUIT").query_async::<()>(&mut manager).await;
        // Finds the connection closed, so that the manager opens another.
        let _ = cmd("PING").query_async::<()>(&mut manager).await;
    }
}

/// Redis 6 wraps the refusal of a write in a script into a script error.
fn is_replica(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
        || error.detail().is_some_and(|detail| detail.contains("READONLY"))
}
