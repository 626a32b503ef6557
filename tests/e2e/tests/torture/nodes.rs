//! The nodes: processes on one store, each behind its own front and with its own connection to the store.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum_refresh_e2e::example::{self, Process};
use axum_refresh_e2e::proxy::tcp::{Front, StoreLine};
use serde_json::json;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{sleep, timeout};

use super::log::Millis;
use super::server::{Kind, Server};

/// The assumption of the ratchet: twice the delay in one direction, `2D`, stays below the grace period. The longest
/// delay is a store that is paused for five seconds, on the way there or on the way back; two pauses are always further
/// apart than the grace period. That leaves three seconds for a slow network and a slow machine.
pub(crate) const GRACE: Duration = Duration::from_secs(8);
/// The longest grace period of any node.
pub(crate) const LONGEST_GRACE: Duration = Duration::from_millis(8_500);
/// As short as possible, so that tokens expire during the test.
pub(crate) const ACCESS_TTL: Duration = Duration::from_secs(9);
/// Every response of the store takes this much longer, and therefore every call.
const LATENCY: Duration = Duration::from_millis(3);

const OLD_SECRET: &str = "q8vXh2m0Zr4yTnLwE1sKcPjU7dGfBaOi9xQ3H5tMzVY=";
const NEW_SECRET: &str = "Z3kP1uYb7RsW9eXo5TqVj2LmC8hNdAfG0iJrK4tMzEw=";

/// What differs from one deploy to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) access_ttl: Duration,
    pub(crate) leeway: Duration,
    grace: Duration,
    idle_timeout: &'static str,
    lifetime: &'static str,
    max_sessions: Option<u32>,
    recovery_limit: Option<u32>,
    /// The first one signs.
    secrets: [&'static str; 2],
}

impl Settings {
    pub(crate) const fn with_access_ttl(access_ttl: Duration) -> Self {
        Self {
            access_ttl,
            leeway: Duration::ZERO,
            grace: GRACE,
            idle_timeout: "1h",
            lifetime: "2h",
            max_sessions: None,
            recovery_limit: None,
            secrets: [OLD_SECRET, NEW_SECRET],
        }
    }
}

/// The settings of each deploy, the first one at the start. No limit is so low that an honest client meets it.
pub(crate) const DEPLOYS: [Settings; 3] = [
    Settings::with_access_ttl(ACCESS_TTL),
    Settings {
        access_ttl: Duration::from_secs(11),
        leeway: Duration::from_secs(1),
        grace: LONGEST_GRACE,
        idle_timeout: "40m",
        lifetime: "90m",
        max_sessions: Some(3_000),
        recovery_limit: Some(30),
        secrets: [NEW_SECRET, OLD_SECRET],
    },
    Settings { secrets: [NEW_SECRET, OLD_SECRET], lifetime: "3h", ..Settings::with_access_ttl(ACCESS_TTL) },
];

pub(crate) struct Node {
    pub(crate) front: Front,
    pub(crate) line: StoreLine,
    /// By how much its clock is ahead.
    pub(crate) clock: Millis,
    store: String,
    settings: Mutex<Settings>,
    process: Mutex<Option<Process>>,
    panics: AtomicU32,
    /// Held while it is down, so that it is not killed during a deploy.
    downtime: Arc<Mutex<()>>,
}

impl Node {
    pub(crate) async fn start(store: &Server, settings: Settings, clock: Millis) -> Self {
        Self::start_behind(store, store.port, settings, clock).await
    }

    /// A node that reaches its store through what listens on this port.
    pub(crate) async fn start_behind(store: &Server, port: u16, settings: Settings, clock: Millis) -> Self {
        let line = StoreLine::open_with_latency(port, LATENCY).await;
        let node = Self {
            front: Front::open().await,
            clock,
            store: if store.kind == Kind::Sqlite { store.url() } else { store.kind.url(line.port) },
            line,
            settings: Mutex::new(settings),
            process: Mutex::default(),
            panics: AtomicU32::new(0),
            downtime: Arc::default(),
        };
        node.run().await;
        node
    }

    async fn command(&self) -> tokio::process::Command {
        let settings = *self.settings.lock().await;
        let duration = |duration: Duration| format!("{}ms", duration.as_millis());
        let json = json!({
            "policy": {
                "access_ttl": duration(settings.access_ttl),
                "grace": duration(settings.grace),
                "idle_timeout": settings.idle_timeout,
                "lifetime": settings.lifetime,
                "max_sessions": settings.max_sessions,
                "recovery_limit": settings.recovery_limit,
            },
            "leeway": duration(settings.leeway),
            "transport": "both",
        });
        let variables = [
            ("NODE_STORE", self.store.clone()),
            ("NODE_SETTINGS", json.to_string()),
            ("NODE_SECRETS", settings.secrets.join(",")),
            ("NODE_CLOCK", (self.clock / 1000).to_string()),
        ];
        let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        example::command_of(Path::new(env!("CARGO_BIN_EXE_node")), &variables)
    }

    /// Starts it, with as many attempts as it takes: a node does not start without its store.
    pub(crate) async fn run(&self) {
        let mut tries = 0;
        let process = loop {
            match Process::spawn(self.command().await).await {
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

    /// Waits until it runs, and keeps others from stopping or starting it.
    pub(crate) async fn downtime(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.downtime).lock_owned().await
    }

    /// Kills it without a warning.
    pub(crate) async fn kill(&self) {
        self.front.node.store(0, Ordering::SeqCst);
        if let Some(mut process) = self.process.lock().await.take() {
            process.child.kill().await.unwrap();
            self.look_for_panics(&process);
        }
    }

    /// Stops it as a deploy does, and starts it with other settings.
    pub(crate) async fn deploy(&self, settings: Settings) {
        self.front.node.store(0, Ordering::SeqCst);
        if let Some(mut process) = self.process.lock().await.take() {
            let id = process.child.id().expect("it is running").to_string();
            Command::new("kill").args(["-TERM", &id]).status().unwrap();
            // Longer than it waits for its store.
            if timeout(Duration::from_secs(12), process.child.wait()).await.is_err() {
                process.child.kill().await.unwrap();
            }
            self.look_for_panics(&process);
        }
        *self.settings.lock().await = settings;
        self.run().await;
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
