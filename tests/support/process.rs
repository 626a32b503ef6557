//! The demo in a process of its own.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::time::timeout;

const SETTINGS: [&str; 14] = [
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
    "RUST_LOG",
];

fn binary() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(ready) = std::env::var_os("DEMO_BIN") {
            return ready.into();
        }
        // <target>/<profile>/deps/<test>-<hash>
        let test = std::env::current_exe().unwrap();
        let profile_dir = test.parent().unwrap().parent().unwrap();
        let profile = match profile_dir.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            named => named,
        };
        let built = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--quiet", "--example", "demo", "--profile", profile])
            .args(["--no-default-features", "--features", &compiled_in().join(",")])
            .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), "--target-dir"])
            .arg(profile_dir.parent().unwrap())
            .status()
            .expect("cargo runs");
        assert!(built.success(), "the demo does not build");
        profile_dir.join("examples").join("demo")
    })
}

/// The features of this build; the demo has the same.
pub(crate) fn compiled_in() -> Vec<&'static str> {
    let features = [
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
    let mut command = Command::new(binary());
    for name in SETTINGS {
        command.env_remove(name);
    }
    command.envs(settings.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// A demo that runs; dropping it kills the process.
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
        let mut child = command(settings).spawn().expect("the demo starts");
        let output = Arc::new(Mutex::new(Vec::new()));
        let (announce, announced) = oneshot::channel();
        collect(child.stdout.take().unwrap(), Arc::clone(&output), Some(announce));
        collect(child.stderr.take().unwrap(), Arc::clone(&output), None);
        match timeout(Duration::from_secs(20), announced).await {
            Ok(Ok(port)) => Ok(Self { child, port, output }),
            _ => Err(format!("the demo did not become ready; it said: {:#?}", output.lock().unwrap())),
        }
    }

    /// What the demo printed so far, on both streams.
    pub(crate) fn output(&self) -> Vec<String> {
        self.output.lock().unwrap().clone()
    }
}

/// Keeps reading, so that the demo never waits for somebody to empty its pipe.
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
