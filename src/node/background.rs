//! The background task of a node or of a verifier, of which each has one at most.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the task is running. It stops with its runtime, and is started again on another.
#[derive(Debug, Default)]
pub(crate) struct Background(Arc<AtomicBool>);

impl Background {
    /// Starts the task, if it is not running and there is a runtime to run it on.
    pub(crate) fn start<F: Future<Output = ()> + Send + 'static>(&self, task: impl FnOnce() -> F) {
        if self.0.load(Ordering::Relaxed) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.0.swap(true, Ordering::Relaxed) {
            let (running, task) = (Running(Arc::clone(&self.0)), task());
            runtime.spawn(async move {
                let _running = running;
                task.await;
            });
        }
    }

    /// Starts no task from now on.
    #[cfg(all(test, feature = "verifier"))]
    pub(crate) fn hold(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Owned by the task and dropped with it, also if the task panics or its runtime ends.
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
