//! An example as a process, in most tests the demo.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::time::timeout;

const SETTINGS: &[&str] = &[
    "PORT",
    "STORE_URL",
    "AUTH_SECRET",
    "ACCESS_TTL",
    "GRACE",
    "IDLE_TIMEOUT",
    "MAX_LIFETIME",
    "MAX_SESSIONS",
    "BIND_IP",
    "BIND_USER_AGENT",
    "TRUSTED_PROXIES",
    "FORWARDED_HEADER",
    "TRUSTED_ORIGINS",
    "TRANSPORT",
    "HINT_COOKIE",
    "INSECURE_DEV_COOKIES",
    "REALM",
    "SIGNING_KEY",
    "VERIFIER_TOKEN",
    "ISSUER",
    "MAX_STALENESS",
    "ISSUER_TIMEOUT",
    "AUDIENCE",
    "RUST_LOG",
];

/// The features of the demo. The second list is that of `cargo run --example demo`, with the memory store only.
const ALL_FEATURES: &[&str] = &["--workspace", "--all-features"];
const DEFAULT_FEATURES: &[&str] = &["--package", "axum-refresh"];

fn demo() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| named_by("DEMO_BIN").unwrap_or_else(|| build("demo", ALL_FEATURES, None)))
}

fn demo_with_default_features() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    // In a separate directory: both builds of the demo have the same file name.
    let build = || build("demo", DEFAULT_FEATURES, Some("default-features"));
    BINARY.get_or_init(|| named_by("DEMO_DEFAULT_BIN").unwrap_or_else(build))
}

fn pages() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| named_by("PAGES_BIN").unwrap_or_else(|| build("pages", ALL_FEATURES, None)))
}

fn hyper() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| named_by("HYPER_BIN").unwrap_or_else(|| build("hyper", ALL_FEATURES, None)))
}

fn verifier() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| named_by("VERIFIER_BIN").unwrap_or_else(|| build("verifier", ALL_FEATURES, None)))
}

/// The binary that `tests/run` has built and named in the environment.
fn named_by(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}

/// Builds an example in the target directory and the profile of the running test.
fn build(example: &str, features: &[&str], subdirectory: Option<&str>) -> PathBuf {
    // <target>/<profile>/deps/<test>-<hash>
    let test = std::env::current_exe().unwrap();
    let profile_dir = test.parent().unwrap().parent().unwrap();
    let profile = profile_dir.file_name().unwrap().to_str().unwrap();
    let target = profile_dir.parent().unwrap();
    let target = subdirectory.map_or_else(|| target.to_owned(), |name| target.join(name));
    let mut cargo = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // With the variables that cargo sets for a test, build scripts would run again, in this build and in the next
    // ordinary one.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            cargo.env_remove(name);
        }
    }
    let built = cargo
        .args(["build", "--quiet", "--example", example])
        .args(["--profile", if profile == "debug" { "dev" } else { profile }])
        .args(features)
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml"), "--target-dir"])
        .arg(&target)
        .status()
        .expect("cargo runs");
    assert!(built.success(), "{example} does not build");
    target.join(profile).join("examples").join(example)
}

/// The demo with these settings and no others, not started yet.
pub fn command(settings: &[(&str, &str)]) -> Command {
    command_of(demo(), settings)
}

/// The same for a demo with the default features.
pub fn command_with_default_features(settings: &[(&str, &str)]) -> Command {
    command_of(demo_with_default_features(), settings)
}

/// The same for another program.
pub fn command_of(binary: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary);
    for name in SETTINGS {
        command.env_remove(name);
    }
    command.envs(settings.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// A running example. Dropping it kills the process.
pub struct Process {
    pub child: Child,
    pub port: u16,
    output: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts a demo with these settings and no others, and waits until it is ready.
    ///
    /// # Errors
    /// Its output, if it exited or was not ready within 20 seconds.
    pub async fn start(settings: &[(&str, &str)]) -> Result<Self, String> {
        Self::spawn(command(settings)).await
    }

    /// Starts the server-rendered example in the same way.
    pub async fn start_pages(settings: &[(&str, &str)]) -> Result<Self, String> {
        Self::spawn(command_of(pages(), settings)).await
    }

    /// Starts the example on hyper in the same way.
    ///
    /// # Errors
    /// Its output, if it exited or was not ready within 20 seconds.
    pub async fn start_hyper(settings: &[(&str, &str)]) -> Result<Self, String> {
        Self::spawn(command_of(hyper(), settings)).await
    }

    /// Starts the service that verifies the tokens of the demo, in the same way.
    ///
    /// # Errors
    /// Its output, if it exited or was not ready within 20 seconds.
    pub async fn start_verifier(settings: &[(&str, &str)]) -> Result<Self, String> {
        Self::spawn(command_of(verifier(), settings)).await
    }

    /// Starts a program that prints its address as the examples do.
    ///
    /// # Errors
    /// Its output, if it exited or was not ready within 20 seconds.
    pub async fn spawn(mut command: Command) -> Result<Self, String> {
        let mut child = command.spawn().expect("the example starts");
        let output = Arc::new(Mutex::new(Vec::new()));
        let (announce, announced) = oneshot::channel();
        collect(child.stdout.take().unwrap(), Arc::clone(&output), Some(announce));
        collect(child.stderr.take().unwrap(), Arc::clone(&output), None);
        match timeout(Duration::from_secs(20), announced).await {
            Ok(Ok(port)) => Ok(Self { child, port, output }),
            _ => Err(format!("it did not become ready; its output: {:#?}", output.lock().unwrap())),
        }
    }

    /// What it has printed so far, on both streams.
    pub fn output(&self) -> Vec<String> {
        self.output.lock().unwrap().clone()
    }
}

/// Reads continuously, so that the process never blocks on a full pipe.
fn collect(
    stream: impl AsyncRead + Unpin + Send + 'static,
    into: Arc<Mutex<Vec<String>>>,
    mut announce: Option<oneshot::Sender<u16>>,
) {
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(address) = line.strip_prefix("listening on http://127.0.0.1:")
                && let Some(announce) = announce.take()
            {
                announce.send(address.parse().unwrap()).ok();
            }
            into.lock().unwrap().push(line);
        }
    });
}
