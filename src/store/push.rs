//! Notifying waiters that the feed has changed.

use std::sync::Arc;

use tokio::sync::Notify;
#[cfg(any(feature = "postgres", feature = "redis"))]
use tokio::task::AbortHandle;

/// How [`SessionStore::changed`](super::SessionStore::changed) learns of changes.
pub(super) struct Push {
    /// `None` if changes are not pushed.
    changed: Option<Arc<Notify>>,
    #[cfg(any(feature = "postgres", feature = "redis"))]
    listener: Option<AbortHandle>,
}

impl Push {
    /// Never notifies: the feed has to be polled.
    #[cfg(any(feature = "postgres", feature = "mysql", feature = "redis"))]
    pub(super) const fn disabled() -> Self {
        Self {
            changed: None,
            #[cfg(any(feature = "postgres", feature = "redis"))]
            listener: None,
        }
    }

    /// Notifies of this process's own writes: every write to the feed must call [`notify`](Self::notify).
    pub(super) fn in_process() -> Self {
        Self {
            changed: Some(Arc::default()),
            #[cfg(any(feature = "postgres", feature = "redis"))]
            listener: None,
        }
    }

    /// Spawns a task that listens on a connection of its own and is aborted when this is dropped. The task must also
    /// notify each time it has started to listen: it may have missed changes until then.
    #[cfg(any(feature = "postgres", feature = "redis"))]
    pub(super) fn listening<F>(listen: impl FnOnce(Arc<Notify>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let changed = Arc::new(Notify::new());
        let task = tokio::spawn(listen(Arc::clone(&changed)));
        Self { changed: Some(changed), listener: Some(task.abort_handle()) }
    }

    pub(super) fn notify(&self) {
        if let Some(changed) = &self.changed {
            changed.notify_waiters();
        }
    }

    /// Completes on the first notification after the future was first polled.
    pub(super) async fn changed(&self) {
        match &self.changed {
            Some(changed) => changed.notified().await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(any(feature = "postgres", feature = "redis"))]
impl Drop for Push {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            listener.abort();
        }
    }
}
