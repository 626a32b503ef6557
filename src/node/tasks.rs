//! The background task that keeps a node up to date.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep};

use super::Node;

const TICK: Duration = Duration::from_secs(1);
/// The shortest time between two reads of a feed whose store pushes every change.
const PUSH_PAUSE: Duration = Duration::from_millis(50);
const PURGE_EVERY: Duration = Duration::from_secs(60);
const MAX_WRITE_BEHIND: Duration = Duration::from_secs(300);

impl Node {
    /// Starts the background task, if it is not running and there is a runtime to run it on.
    ///
    /// It is one tokio task with several loops, so that following the feed never waits for a write, and neither waits for
    /// revocations that are tried again.
    pub(crate) fn start(self: &Arc<Self>) {
        self.background.start(|| {
            let node = Arc::clone(self);
            async move {
                let mut stop = node.stop.clone();
                let keep_checking_age = async {
                    tokio::select! {
                        _ = stop.changed() => {}
                        () = node.revoked.freshness().keep_checking_age() => {}
                    }
                };
                tokio::join!(
                    node.follow(),
                    node.housekeep(),
                    node.keep_finishing(),
                    node.keep_reporting(),
                    keep_checking_age
                );
            }
        });
    }

    /// Reads the feed every second, and whenever the store signals a change. A failed read is an event and is retried a
    /// second later.
    async fn follow(self: &Arc<Self>) {
        let mut stop = self.stop.clone();
        let mut tick = ticks();
        let mut changed = self.store().changed();
        let mut at_once = false;
        loop {
            let pushed = tokio::select! {
                biased;
                _ = stop.changed() => return,
                () = std::future::ready(()), if at_once => true,
                () = &mut changed => true,
                _ = tick.tick() => false,
            };
            if pushed {
                changed = self.store().changed();
            }
            // Starts to wait before it reads, so that a change during the read is not missed.
            at_once = poll_fn(|context| Poll::Ready(changed.as_mut().poll(context).is_ready())).await;
            let _ = self.follow_feed().await;
            if pushed {
                sleep(PUSH_PAUSE).await;
            }
        }
    }

    /// Writes recorded activity, forgets expired revocations and purges expired sessions.
    async fn housekeep(self: &Arc<Self>) {
        let mut stop = self.stop.clone();
        let every = (self.settings.min_idle_timeout() / 20).min(MAX_WRITE_BEHIND);
        let mut tick = ticks();
        let mut written_at = Instant::now();
        let mut purged_at = None;
        let mut purging: Option<tokio::task::JoinHandle<_>> = None;
        loop {
            tokio::select! {
                _ = stop.changed() => break,
                _ = tick.tick() => {}
            }
            if written_at.elapsed() >= every {
                written_at = Instant::now();
                let _ = self.write(self.write_behind.all()).await;
            } else {
                let _ = self.write(self.write_behind.take_urgent()).await;
            }
            if purged_at.is_none_or(|at: Instant| at.elapsed() >= PURGE_EVERY) {
                purged_at = Some(Instant::now());
                self.revoked.forget(self.now());
                let node = Arc::clone(self);
                // In a task of its own, so that acknowledgements do not wait for it.
                if purging.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
                    purging = Some(tokio::spawn(async move { node.purge().await }));
                }
            }
        }
        let _ = self.flush().await;
    }
}

pub(super) fn ticks() -> Interval {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}
