//! An example in a process of its own: the demo, most of the time.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::time::timeout;

const SETTINGS: [&str; 15] = [
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
    "TRUSTED_ORIGINS",
    "TRANSPORT",
    "HINT_COOKIE",
    "RUST_LOG",
];

fn demo() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| std::env::var_os("DEMO_BIN").map_or_else(|| build("demo"), PathBuf::from))
}

#[allow(dead_code, reason = "most tests want the demo")]
fn pages() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| build("pages"))
}

/// Builds an example as this test was built.
fn build(example: &str) -> PathBuf {
    // <target>/<profile>/deps/<test>-<hash>
    let test = std::env::current_exe().unwrap();
    let profile_dir = test.parent().unwrap().parent().unwrap();
    let profile = match profile_dir.file_name().unwrap().to_str().unwrap() {
        "debug" => "dev",
        named => named,
    };
    let mut cargo = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo tells a test about its package would make build scripts run again, now and in the next build by hand.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            cargo.env_remove(name);
        }
    }
    let built = cargo
        .args(["build", "--quiet", "--example", example, "--profile", profile])
        .args(["--no-default-features", "--features", &compiled_in().join(",")])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), "--target-dir"])
        .arg(profile_dir.parent().unwrap())
        .status()
        .expect("cargo runs");
    assert!(built.success(), "{example} does not build");
    profile_dir.join("examples").join(example)
}

/// The features of this build; the examples have the same.
pub(crate) fn compiled_in() -> Vec<&'static str> {
    let features = [
        ("default", cfg!(feature = "default")),
        ("client", cfg!(feature = "client")),
        ("conformance", cfg!(feature = "conformance")),
        ("aws_lc_rs", cfg!(feature = "aws_lc_rs")),
        ("rust_crypto", cfg!(feature = "rust_crypto")),
        ("sqlite", cfg!(feature = "sqlite")),
        ("postgres", cfg!(feature = "postgres")),
        ("mysql", cfg!(feature = "mysql")),
        ("redis", cfg!(feature = "redis")),
        ("redis-cluster", cfg!(feature = "redis-cluster")),
        ("tls", cfg!(feature = "tls")),
    ];
    features.into_iter().filter(|(_, is_on)| *is_on).map(|(name, _)| name).collect()
}

/// The demo with these settings and no others, not yet started.
pub(crate) fn command(settings: &[(&str, &str)]) -> Command {
    command_of(demo(), settings)
}

fn command_of(binary: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary);
    for name in SETTINGS {
        command.env_remove(name);
    }
    command.envs(settings.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// An example that runs; dropping it kills the process.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) port: u16,
    output: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts a demo with these settings and no others, and waits until it is ready.
    ///
    /// # Errors
    /// What it said, where it ended, or was not ready within 20 seconds.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Result<Self, String> {
        Self::spawn(command(settings)).await
    }

    /// Starts the server-rendered example in the same way.
    #[allow(dead_code, reason = "most tests want the demo")]
    pub(crate) async fn start_pages(settings: &[(&str, &str)]) -> Result<Self, String> {
        Self::spawn(command_of(pages(), settings)).await
    }

    async fn spawn(mut command: Command) -> Result<Self, String> {
        let mut child = command.spawn().expect("it starts");
        let output = Arc::new(Mutex::new(Vec::new()));
        let (announce, announced) = oneshot::channel();
        collect(child.stdout.take().unwrap(), Arc::clone(&output), Some(announce));
        collect(child.stderr.take().unwrap(), Arc::clone(&output), None);
        match timeout(Duration::from_secs(20), announced).await {
            Ok(Ok(port)) => Ok(Self { child, port, output }),
            _ => Err(format!("it did not become ready; it said: {:#?}", output.lock().unwrap())),
        }
    }

    /// What it printed so far, on both streams.
    pub(crate) fn output(&self) -> Vec<String> {
        self.output.lock().unwrap().clone()
    }
}

/// Keeps reading, so that it never waits for somebody to empty its pipe.
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
