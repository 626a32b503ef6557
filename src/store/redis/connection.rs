//! The way to one server, or to a cluster of them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use redis::aio::ConnectionManager;
#[cfg(feature = "redis-cluster")]
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, ScriptInvocation, ServerErrorKind, Value, cmd};

use crate::store::StoreError;

/// A server that says again that it is a replica is given this long to be replaced.
const RESET_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Connection {
    way: Way,
    reset_at: Mutex<Option<Instant>>,
}

enum Way {
    One(ConnectionManager),
    #[cfg(feature = "redis-cluster")]
    Cluster(ClusterConnection),
}

impl Connection {
    pub(super) const fn one(manager: ConnectionManager) -> Self {
        Self { way: Way::One(manager), reset_at: Mutex::new(None) }
    }

    #[cfg(feature = "redis-cluster")]
    pub(super) const fn cluster(connection: ClusterConnection) -> Self {
        Self { way: Way::Cluster(connection), reset_at: Mutex::new(None) }
    }

    /// One command.
    pub(super) async fn query(&self, command: &Cmd) -> Result<Value, StoreError> {
        let result = match &self.way {
            Way::One(manager) => command.query_async(&mut manager.clone()).await,
            #[cfg(feature = "redis-cluster")]
            Way::Cluster(cluster) => command.query_async(&mut cluster.clone()).await,
        };
        self.judge(result).await
    }

    /// One script, which the server keeps: it is sent to a server that does not have it yet.
    pub(super) async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        let result = match &self.way {
            Way::One(manager) => script.invoke_async(&mut manager.clone()).await,
            #[cfg(feature = "redis-cluster")]
            Way::Cluster(cluster) => script.invoke_async(&mut cluster.clone()).await,
        };
        self.judge(result).await
    }

    /// One script for all items where there is one server, and on a cluster one for those of each shard, all at once.
    pub(super) async fn each<I: Copy, T: FromRedisValue>(
        &self,
        items: &[I],
        shard: impl Fn(&I) -> u8,
        script: impl Fn(&[I]) -> ScriptInvocation<'static>,
    ) -> Result<Vec<T>, StoreError> {
        let mut groups = BTreeMap::<_, Vec<I>>::new();
        for item in items {
            let group = match &self.way {
                Way::One(_) => 0,
                #[cfg(feature = "redis-cluster")]
                Way::Cluster(_) => shard(item),
            };
            groups.entry(group).or_default().push(*item);
        }
        #[cfg(not(feature = "redis-cluster"))]
        let _ = shard;
        let scripts: Vec<_> = groups.values().map(|items| script(items)).collect();
        try_join_all(scripts.iter().map(|script| self.run(script))).await
    }

    async fn judge<T>(&self, result: RedisResult<T>) -> Result<T, StoreError> {
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

    /// The manager takes a replica's refusal for an ordinary answer, and would stay with it for ever. Asking the server
    /// to hang up is the one way to make it look again who answers at that address. (A cluster's connection looks for
    /// itself.)
    async fn reset(&self) {
        #[cfg_attr(
            not(feature = "redis-cluster"),
            expect(irrefutable_let_patterns, reason = "another way is a feature")
        )]
        let Way::One(manager) = &self.way else { return };
        {
            let mut reset_at = self.reset_at.lock().unwrap_or_else(PoisonError::into_inner);
            if reset_at.is_some_and(|at| at.elapsed() < RESET_PAUSE) {
                return;
            }
            *reset_at = Some(Instant::now());
        }
        let mut manager = manager.clone();
        let _ = cmd("QUIT").query_async::<()>(&mut manager).await;
        // Finds the connection closed, and makes the manager open another.
        let _ = cmd("PING").query_async::<()>(&mut manager).await;
    }
}

/// Redis 6 wraps what a script was refused into an error of the script's own.
fn is_replica(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
        || error.detail().is_some_and(|detail| detail.contains("READONLY"))
}
