//! Who has been told of what: a connection that listens, and followers that wait for it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use redis::{Client, RedisError};
use tokio::sync::watch;
use tokio::task::{self, AbortHandle};
use tokio::time::{error::Elapsed, sleep, timeout};

/// How often the listening connection is asked whether it still stands.
const PING: Duration = Duration::from_secs(5);
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// More tasks than there are nodes in a process. What is forgotten is only a wake-up.
const MOST_READERS: usize = 64;

/// Listens until it is dropped.
pub(super) struct Push(Option<Listening>);

struct Listening {
    heard: Arc<Heard>,
    task: AbortHandle,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What has been heard, counted, and how much of it each task knew when it last began to read the feed.
///
/// Several nodes can share a store. What is heard while one of them reads, or rests from it, has to wake that one later,
/// and what another has read since says nothing about it. A follower is known by its task.
struct Heard {
    count: watch::Sender<u64>,
    readers: Mutex<VecDeque<(Reader, u64)>>,
}

/// A task; none is whoever a runtime blocks on.
type Reader = Option<task::Id>;

impl Heard {
    fn new() -> Arc<Self> {
        Arc::new(Self { count: watch::Sender::new(0), readers: Mutex::default() })
    }

    fn hear(&self) {
        self.count.send_modify(|count| *count += 1);
    }

    fn readers(&self) -> MutexGuard<'_, VecDeque<(Reader, u64)>> {
        // Nothing in there can be left half done.
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reads(&self) {
        let task = task::try_id();
        let count = *self.count.borrow();
        let mut readers = self.readers();
        readers.retain(|(reader, _)| *reader != task);
        if readers.len() == MOST_READERS {
            readers.pop_front();
        }
        readers.push_back((task, count));
    }

    /// What the task knows that asks.
    fn known(&self) -> u64 {
        let task = task::try_id();
        let known = self.readers().iter().find(|(reader, _)| *reader == task).map(|(_, count)| *count);
        known.unwrap_or_else(|| *self.count.borrow())
    }

    async fn more(&self) {
        let known = self.known();
        if self.count.subscribe().wait_for(|count| *count > known).await.is_err() {
            // The other half is ours.
            std::future::pending().await
        }
    }
}

impl Push {
    pub(super) const fn off() -> Self {
        Self(None)
    }

    /// Listens to the first of these servers that lets it.
    pub(super) fn listen(clients: Vec<Client>, channel: String, patience: Duration) -> Self {
        let heard = Heard::new();
        let listener = Listener { clients, channel, patience, heard: Arc::clone(&heard) };
        let task = tokio::spawn(async move { listener.run().await }).abort_handle();
        Self(Some(Listening { heard, task }))
    }

    /// The current task is about to read the feed.
    pub(super) fn reads(&self) {
        if let Some(listening) = &self.0 {
            listening.heard.reads();
        }
    }

    /// Returns when something was heard that the current task did not know of when it last began to read.
    pub(super) async fn changed(&self) {
        match &self.0 {
            Some(listening) => listening.heard.more().await,
            None => std::future::pending().await,
        }
    }
}

struct Listener {
    clients: Vec<Client>,
    channel: String,
    patience: Duration,
    heard: Arc<Heard>,
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
        self.heard.hear();
        let (mut sink, mut messages) = connection.split();
        loop {
            match timeout(PING, messages.next()).await {
                Ok(Some(_)) => self.heard.hear(),
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
