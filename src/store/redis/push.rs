//! A connection that listens for revocations.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use redis::{Client, RedisError};
use tokio::sync::Notify;
use tokio::time::{error::Elapsed, sleep, timeout};

use crate::store::push::Push;

/// How often the listening connection is asked whether it still stands.
const PING: Duration = Duration::from_secs(5);
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Listens to the first of these servers that lets it.
pub(super) fn listen(clients: Vec<Client>, channel: String, patience: Duration) -> Push {
    Push::listening(|changed| async move { Listener { clients, channel, patience, changed }.run().await })
}

struct Listener {
    clients: Vec<Client>,
    channel: String,
    patience: Duration,
    changed: Arc<Notify>,
}

impl Listener {
    async fn run(&self) {
        let mut pause = SHORTEST_PAUSE;
        for client in self.clients.iter().cycle() {
            match self.listen(client).await {
                Ok(()) => pause = SHORTEST_PAUSE,
                Err(error) => {
                    tracing::debug!(error = %error, "cannot listen for revocations; they are polled");
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            sleep(pause).await;
        }
    }

    /// An error where it did not come to listening.
    async fn listen(&self, client: &Client) -> Result<(), Deaf> {
        let mut connection = timeout(self.patience, client.get_async_pubsub()).await??;
        timeout(self.patience, connection.subscribe(&self.channel)).await??;
        // Whatever was published until now has gone by.
        self.changed.notify_waiters();
        let (mut sink, mut messages) = connection.split();
        loop {
            match timeout(PING, messages.next()).await {
                Ok(Some(_)) => self.changed.notify_waiters(),
                Ok(None) => return Ok(()),
                Err(_) => {
                    if !matches!(timeout(self.patience, sink.ping::<redis::Value>()).await, Ok(Ok(_))) {
                        return Ok(());
                    }
                }
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Deaf {
    #[error("no answer")]
    Late(#[from] Elapsed),
    #[error(transparent)]
    Refused(#[from] RedisError),
}
