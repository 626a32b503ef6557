//! The options of a Redis store, and connecting.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::TcpSettings;
use redis::{Client, IntoConnectionInfo};

use super::connection::Connection;
use super::push;
use super::{RedisStore, StoreError};
use crate::store::push::Push;

/// Options for connecting a [`RedisStore`].
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
    /// Sets the prefix of all keys and of the channel. Default: `axum-refresh`.
    ///
    /// Apps that share a server need different prefixes. Braces are not allowed: on a cluster, the text between braces
    /// decides on which node a key is stored.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets whether to listen for revocations on a connection of its own. Default: `true`.
    ///
    /// If `false`, this node only polls for revocations, every second. It still publishes its own.
    #[must_use]
    pub const fn push(mut self, push: bool) -> Self {
        self.push = push;
        self
    }

    /// Sets how long to wait for a connection, and how long for a reply. Default: 2 seconds.
    ///
    /// Twice this value should be less than [`Settings::store_timeout`](crate::Settings::store_timeout).
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Connects to one server. The listener runs on the tokio runtime that calls this.
    ///
    /// # Errors
    ///
    /// Returns an error in the cases of [`RedisStore::connect`], and if the prefix contains braces.
    pub async fn connect(self, url: &str) -> Result<RedisStore, StoreError> {
        self.check()?;
        let client = self.client(url)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout))
            // A call fails at once, and the next one tries again.
            .set_number_of_retries(0);
        let manager = ConnectionManager::new_with_config(client.clone(), config).await.map_err(StoreError::new)?;
        self.over(Connection::single(manager), vec![client]).await
    }

    /// Connects to a Redis Cluster through any of these nodes. Requires the feature `redis-cluster`.
    ///
    /// All keys lie in 16 slots, spread over the nodes: a session, its user's index and its revocation share a slot.
    ///
    /// # Errors
    ///
    /// Returns an error in the cases of [`connect`](Self::connect), if none of the nodes can be reached.
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
        // The discovery of the nodes has no timeout of its own.
        let connection = tokio::time::timeout(self.timeout * 2, client.get_async_connection()).await;
        let connection =
            connection.map_err(|_| StoreError::new("connect_cluster: no reply in time; check the URLs"))?;
        self.over(Connection::cluster(connection.map_err(StoreError::new)?), clients).await
    }

    /// Uses a connection of the app's own, with that connection's timeouts. Revocations by other nodes are polled every
    /// second, not pushed.
    ///
    /// # Errors
    ///
    /// Returns an error if the prefix contains braces, or if the server is unreachable or a replica.
    pub async fn over_manager(self, connection: ConnectionManager) -> Result<RedisStore, StoreError> {
        self.check()?;
        self.over(Connection::single(connection), Vec::new()).await
    }

    async fn over(self, connection: Connection, clients: Vec<Client>) -> Result<RedisStore, StoreError> {
        let push = if self.push && !clients.is_empty() {
            push::listen(clients, channel(&self.prefix), self.timeout)
        } else {
            Push::disabled()
        };
        let store = RedisStore::over(connection, self.prefix, push);
        store.check().await?;
        Ok(store)
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.prefix.contains(['{', '}']) {
            return Err(StoreError::new("prefix: braces are not allowed; remove `{` and `}`"));
        }
        Ok(())
    }

    fn client(&self, url: &str) -> Result<Client, StoreError> {
        let info = url.into_connection_info().map_err(StoreError::new)?;
        #[cfg(feature = "tls")]
        super::tls::install_provider();
        Client::open(info.set_tcp_settings(self.tcp_settings())).map_err(StoreError::new)
    }

    fn tcp_settings(&self) -> TcpSettings {
        let settings = TcpSettings::default().set_nodelay(true);
        // Detects a server that vanished without closing the connection.
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        let settings = settings.set_user_timeout(self.timeout * 2);
        settings
    }
}

pub(super) fn channel(prefix: &str) -> String {
    format!("{prefix}:changed")
}
