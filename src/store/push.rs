//! Word that there is something new in the feed, for whoever waits for it.

use std::sync::Arc;

use tokio::sync::Notify;
#[cfg(any(feature = "postgres", feature = "redis"))]
use tokio::task::AbortHandle;

/// Where word comes from, and where it is waited for.
pub(super) struct Push {
    /// None where nobody ever says anything.
    changed: Option<Arc<Notify>>,
    #[cfg(any(feature = "postgres", feature = "redis"))]
    listener: Option<AbortHandle>,
}

impl Push {
    /// The feed has to be polled.
    #[cfg(any(feature = "postgres", feature = "mysql", feature = "redis"))]
    pub(super) const fn off() -> Self {
        Self {
            changed: None,
            #[cfg(any(feature = "postgres", feature = "redis"))]
            listener: None,
        }
    }

    /// Whoever writes says so, with [`wake`](Self::wake).
    pub(super) fn within_the_process() -> Self {
        Self {
            changed: Some(Arc::default()),
            #[cfg(any(feature = "postgres", feature = "redis"))]
            listener: None,
        }
    }

    /// A task listens, on a connection of its own, for as long as this is kept. It wakes those who wait also when it has
    /// begun to listen, or has begun again: what was said until then has gone by.
    #[cfg(any(feature = "postgres", feature = "redis"))]
    pub(super) fn listening<F>(listen: impl FnOnce(Arc<Notify>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let changed = Arc::new(Notify::new());
        let task = tokio::spawn(listen(Arc::clone(&changed)));
        Self { changed: Some(changed), listener: Some(task.abort_handle()) }
    }

    pub(super) fn wake(&self) {
        if let Some(changed) = &self.changed {
            changed.notify_waiters();
        }
    }

    /// Returns when there was word since this was first polled.
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
