//! Listening for revocations, on a connection of its own.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use redis::{Client, RedisError};
use tokio::sync::Notify;
use tokio::time::{error::Elapsed, sleep, timeout};

use crate::store::push::Push;

/// After this long without a message, a ping checks whether the connection is still alive.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Listens on the first of these servers that can be reached, and on the next one after a failure. `response_timeout`
/// limits the wait for each reply.
pub(super) fn listen(clients: Vec<Client>, channel: String, response_timeout: Duration) -> Push {
    Push::listening(|changed| async move { Listener { clients, channel, response_timeout, changed }.run().await })
}

struct Listener {
    clients: Vec<Client>,
    channel: String,
    response_timeout: Duration,
    changed: Arc<Notify>,
}

impl Listener {
    async fn run(&self) {
        let mut pause = MIN_PAUSE;
        for client in self.clients.iter().cycle() {
            match self.listen(client).await {
                Ok(()) => pause = MIN_PAUSE,
                Err(error) => {
                    tracing::debug!(error = %error, "cannot listen for revocations; they are polled");
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
            sleep(pause).await;
        }
    }

    /// Listens until the connection is lost. Returns an error if it could not subscribe.
    async fn listen(&self, client: &Client) -> Result<(), ListenError> {
        let mut connection = timeout(self.response_timeout, client.get_async_pubsub()).await??;
        timeout(self.response_timeout, connection.subscribe(&self.channel)).await??;
        // Messages published until now were missed.
        self.changed.notify_waiters();
        let (mut sink, mut messages) = connection.split();
        loop {
            match timeout(PING_INTERVAL, messages.next()).await {
                Ok(Some(_)) => self.changed.notify_waiters(),
                Ok(None) => return Ok(()),
                Err(_) => {
                    if !matches!(timeout(self.response_timeout, sink.ping::<redis::Value>()).await, Ok(Ok(_))) {
                        return Ok(());
                    }
                }
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum ListenError {
    #[error("no reply in time")]
    Timeout(#[from] Elapsed),
    #[error(transparent)]
    Redis(#[from] RedisError),
}
