//! The nodes: demos on one store, each behind its own front and with its own connection to the store.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum_refresh_e2e::example::Process;
use axum_refresh_e2e::proxy::tcp::{Front, StoreLine};
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::server::Kind;

/// The assumption of the ratchet: twice the delay in one direction, `2D`, stays below the grace period. The longest
/// delay is a store that is paused for five seconds, on the way there or on the way back; two pauses are always further
/// apart than the grace period. That leaves three seconds for a slow network and a slow machine.
pub(crate) const GRACE: Duration = Duration::from_secs(8);
/// As short as possible, so that tokens expire during the test.
pub(crate) const ACCESS_TTL: Duration = Duration::from_secs(9);

pub(crate) struct Node {
    pub(crate) front: Front,
    pub(crate) line: StoreLine,
    settings: Vec<(&'static str, String)>,
    process: Mutex<Option<Process>>,
    panics: AtomicU32,
}

impl Node {
    pub(crate) async fn start(kind: Kind, store: u16, access_ttl: Duration) -> Self {
        let front = Front::open().await;
        let line = StoreLine::open(store).await;
        let settings = vec![
            ("PORT", "0".to_owned()),
            ("AUTH_SECRET", "q8vXh2m0Zr4yTnLwE1sKcPjU7dGfBaOi9xQ3H5tMzVY=".to_owned()),
            ("STORE_URL", kind.url(line.port)),
            ("GRACE", format!("{}s", GRACE.as_secs())),
            ("ACCESS_TTL", format!("{}s", access_ttl.as_secs())),
            ("IDLE_TIMEOUT", "1h".to_owned()),
            ("MAX_LIFETIME", "2h".to_owned()),
            ("TRANSPORT", "both".to_owned()),
            ("RUST_LOG", "error".to_owned()),
        ];
        let node = Self { front, line, settings, process: Mutex::new(None), panics: AtomicU32::new(0) };
        node.run().await;
        node
    }

    /// Starts it, with as many attempts as it takes: a node does not start without its store.
    pub(crate) async fn run(&self) {
        let settings: Vec<_> = self.settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut tries = 0;
        let process = loop {
            match Process::start(&settings).await {
                Ok(process) => break process,
                Err(problem) => {
                    tries += 1;
                    assert!(tries < 200, "a node does not start: {problem}");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        };
        let port = process.port;
        *self.process.lock().await = Some(process);
        self.front.node.store(port, Ordering::SeqCst);
    }

    /// Kills it without a warning.
    pub(crate) async fn kill(&self) {
        self.front.node.store(0, Ordering::SeqCst);
        if let Some(mut process) = self.process.lock().await.take() {
            process.child.kill().await.unwrap();
            self.look_for_panics(&process);
        }
    }

    fn look_for_panics(&self, process: &Process) {
        for line in process.output().iter().filter(|line| line.contains("panicked")) {
            eprintln!("a node printed: {line}");
            self.panics.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The number of panics so far.
    pub(crate) async fn panics(&self) -> u32 {
        if let Some(process) = &*self.process.lock().await {
            self.look_for_panics(process);
        }
        self.panics.load(Ordering::Relaxed)
    }
}
