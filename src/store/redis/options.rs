//! What can be set, and how a connection is made.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::TcpSettings;
use redis::{Client, IntoConnectionInfo};

use super::connection::Connection;
use super::push;
use super::{RedisStore, StoreError};
use crate::store::push::Push;

/// How a [`RedisStore`] is connected.
///
/// ```no_run
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// use axum_refresh::RedisStore;
///
/// let store = RedisStore::options().prefix("shop:auth").connect("redis://127.0.0.1/").await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct RedisOptions {
    pub(super) prefix: String,
    push: bool,
    timeout: Duration,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self { prefix: "axum-refresh".to_owned(), push: true, timeout: Duration::from_secs(2) }
    }
}

impl RedisOptions {
    /// What all keys and the channel begin with, default `axum-refresh`. Apps that share a server need one each. No
    /// braces: what stands between braces decides on the node of a cluster.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Whether to listen for revocations on a connection of its own, default yes. Without, they are polled every second.
    /// The server is told to publish them either way.
    #[must_use]
    pub const fn push(mut self, push: bool) -> Self {
        self.push = push;
        self
    }

    /// How long to wait for a connection, and how long for an answer; default 2 s. Twice this should be less than
    /// [`Settings::store_timeout`](crate::Settings::store_timeout).
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Connects to one server. Listens on the runtime that this is called on.
    ///
    /// # Errors
    /// As with [`RedisStore::connect`], and where the prefix has braces.
    pub async fn connect(self, url: &str) -> Result<RedisStore, StoreError> {
        self.check()?;
        let client = self.client(url)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout))
            // Whoever asks next tries again; who is waiting is told.
            .set_number_of_retries(0);
        let manager = ConnectionManager::new_with_config(client.clone(), config).await.map_err(StoreError::new)?;
        self.over(Connection::one(manager), vec![client]).await
    }

    /// Connects to a Redis Cluster, by way of any of these nodes. (Feature `redis-cluster`.)
    ///
    /// The keys of a session, of its user and of what was revoked lie in 16 slots, spread over the nodes.
    ///
    /// # Errors
    /// As with [`connect`](Self::connect), where none of the nodes answers.
    #[cfg(feature = "redis-cluster")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis-cluster")))]
    pub async fn connect_cluster(self, urls: &[&str]) -> Result<RedisStore, StoreError> {
        self.check()?;
        let clients = urls.iter().map(|url| self.client(url)).collect::<Result<Vec<_>, _>>()?;
        let nodes = clients.iter().map(|client| client.get_connection_info().clone());
        let client = redis::cluster::ClusterClient::builder(nodes)
            .connection_timeout(self.timeout)
            .response_timeout(self.timeout)
            .overall_response_timeout(Some(self.timeout * 2))
            .tcp_settings(self.tcp_settings())
            .retries(3)
            .build()
            .map_err(StoreError::new)?;
        // What it does to find the nodes has no limit of its own.
        let connection = tokio::time::timeout(self.timeout * 2, client.get_async_connection()).await;
        let connection = connection.map_err(|_| StoreError::new("the cluster does not answer"))?;
        self.over(Connection::cluster(connection.map_err(StoreError::new)?), clients).await
    }

    /// On a connection of your own, whose timeouts hold. Revocations are polled every second, not pushed.
    ///
    /// # Errors
    /// The prefix has braces, or the server does not answer or is a replica.
    pub async fn over_manager(self, connection: ConnectionManager) -> Result<RedisStore, StoreError> {
        self.check()?;
        self.over(Connection::one(connection), Vec::new()).await
    }

    async fn over(self, connection: Connection, clients: Vec<Client>) -> Result<RedisStore, StoreError> {
        let push = if self.push && !clients.is_empty() {
            push::listen(clients, channel(&self.prefix), self.timeout)
        } else {
            Push::off()
        };
        let store = RedisStore::over(connection, self.prefix, push);
        store.check().await?;
        Ok(store)
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.prefix.contains(['{', '}']) {
            return Err(StoreError::new("the prefix of the keys has braces"));
        }
        Ok(())
    }

    fn client(&self, url: &str) -> Result<Client, StoreError> {
        let info = url.into_connection_info().map_err(StoreError::new)?;
        #[cfg(feature = "tls")]
        super::tls::provide();
        Client::open(info.set_tcp_settings(self.tcp_settings())).map_err(StoreError::new)
    }

    fn tcp_settings(&self) -> TcpSettings {
        let settings = TcpSettings::default().set_nodelay(true);
        // A server that vanished without a word is given up after this: there is always something on its way to it.
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        let settings = settings.set_user_timeout(self.timeout * 2);
        settings
    }
}

pub(super) fn channel(prefix: &str) -> String {
    format!("{prefix}:changed")
}
