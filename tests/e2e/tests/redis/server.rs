//! Servers for the tests.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum_refresh::store::conformance;
use axum_refresh::store::{FeedWindow, InsertOptions, Revocation, SessionRecord, Timestamp};
use axum_refresh::{RedisStore, RevocationReason};
use redis::aio::MultiplexedConnection;
use redis::{Client, FromRedisValue, cmd};

pub const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
pub const LIFETIME: i64 = 3_600_000;
pub const ALONE: InsertOptions = InsertOptions { limit: None, replacing: None };
pub const LOGOUT: Revocation = Revocation { at: NOW, reason: RevocationReason::Logout };
pub const WINDOW: FeedWindow =
    FeedWindow { max_age: Duration::from_secs(3_600), overlap: Duration::from_secs(10), limit: 10_000 };

pub fn session(user: &str) -> SessionRecord {
    conformance::session(user, NOW, LIFETIME)
}

/// The URL of the server that the environment names.
pub fn url() -> String {
    std::env::var("TEST_REDIS_URL").expect("TEST_REDIS_URL is not set: `tests/run redis` starts a server and sets it")
}

/// A unique prefix.
pub fn prefix() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("test:{}:{}:{}", std::process::id(), elapsed.as_nanos(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// An empty store on the server that the environment names.
pub async fn store() -> RedisStore {
    RedisStore::options().prefix(prefix()).connect(&url()).await.unwrap()
}

/// A plain connection, without a store.
pub async fn plain(url: &str) -> Plain {
    Plain(Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap())
}

pub struct Plain(MultiplexedConnection);

impl Plain {
    pub async fn ask<T: FromRedisValue>(&mut self, words: &[&str]) -> T {
        let (first, others) = words.split_first().unwrap();
        cmd(first).arg(others).query_async(&mut self.0).await.unwrap()
    }
}

/// A server of its own. It exits when this value is dropped, and at the latest when the test process exits: the shell
/// that started it kills it when its standard input closes.
pub struct Server {
    pub port: u16,
    folder: PathBuf,
    arguments: Vec<String>,
    shell: Option<Child>,
    pid: String,
}

// If the input closes without a word, the test process has exited, and the shell removes the folder.
const START: &str = r#""$@" > log 2>&1 & echo $!; read -r word; kill -KILL $!; wait; [ -n "$word" ] || rm -rf "$PWD""#;

pub fn free_port() -> u16 {
    loop {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        static TAKEN: std::sync::Mutex<Vec<u16>> = std::sync::Mutex::new(Vec::new());
        let mut taken = TAKEN.lock().unwrap();
        if !taken.contains(&port) {
            taken.push(port);
            return port;
        }
    }
}

impl Server {
    /// Starts a server with these settings, written as in its configuration file.
    pub async fn start(settings: &[&str]) -> Self {
        let port = free_port();
        let folder = std::env::temp_dir().join(prefix().replace(':', "-"));
        std::fs::create_dir_all(&folder).unwrap();
        let port_text = port.to_string();
        let always = ["--port", &port_text, "--bind", "127.0.0.1", "--save", "", "--appendfsync", "always"];
        let arguments = always.iter().chain(settings).map(|text| (*text).to_owned()).collect();
        let mut server = Self { port, folder, arguments, shell: None, pid: String::new() };
        server.restart().await;
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub fn stop(&mut self) {
        if let Some(mut shell) = self.shell.take() {
            writeln!(shell.stdin.take().unwrap(), "stop").unwrap();
            shell.wait().unwrap();
        }
    }

    /// Restarts it with its data.
    pub async fn restart(&mut self) {
        self.stop();
        let mut shell = Command::new("sh")
            .args(["-c", START, "sh", "redis-server"])
            .args(&self.arguments)
            .current_dir(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        line.trim().clone_into(&mut self.pid);
        self.shell = Some(shell);
        let started = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "redis-server does not start");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.pid]).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Waits until the condition holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, question: impl Fn() -> F) {
    let started = Instant::now();
    while !question().await {
        assert!(started.elapsed() < Duration::from_secs(10), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
