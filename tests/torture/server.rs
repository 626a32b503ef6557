//! A store's server in a process of its own, to be killed, stopped and started again.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::time::sleep;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    #[cfg(feature = "postgres")]
    Postgres,
    #[cfg(feature = "mysql")]
    MySql,
    #[cfg(feature = "redis")]
    Redis,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres => "postgres",
            #[cfg(feature = "mysql")]
            Self::MySql => "mysql",
            #[cfg(feature = "redis")]
            Self::Redis => "redis",
        }
    }

    /// The `STORE_URL` of a store behind this port.
    pub(crate) fn url(self, port: u16) -> String {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres => format!("postgres://postgres@127.0.0.1:{port}/postgres"),
            #[cfg(feature = "mysql")]
            Self::MySql => format!("mysql://root@127.0.0.1:{port}/torture"),
            #[cfg(feature = "redis")]
            Self::Redis => format!("redis://127.0.0.1:{port}/"),
        }
    }

    /// Whether a server answers, and not only its kernel.
    async fn answers(self, port: u16) -> bool {
        let answer = async {
            match self {
                #[cfg(feature = "postgres")]
                Self::Postgres => {
                    let connection = <sqlx::PgConnection as sqlx::Connection>::connect(&self.url(port)).await;
                    match connection {
                        Ok(connection) => sqlx::Connection::close(connection).await.is_ok(),
                        Err(_) => false,
                    }
                }
                #[cfg(feature = "mysql")]
                Self::MySql => {
                    let server = format!("mysql://root@127.0.0.1:{port}/mysql");
                    let Ok(mut connection) = <sqlx::MySqlConnection as sqlx::Connection>::connect(&server).await else {
                        return false;
                    };
                    let made = sqlx::Executor::execute(&mut connection, "CREATE DATABASE IF NOT EXISTS torture").await;
                    sqlx::Connection::close(connection).await.ok();
                    made.is_ok()
                }
                #[cfg(feature = "redis")]
                Self::Redis => redis::ask(port, &["PING"]).await.is_ok_and(|answer| answer == "PONG"),
            }
        };
        tokio::time::timeout(Duration::from_secs(2), answer).await.unwrap_or(false)
    }
}

/// A server and its data. Dropping it ends both.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    folder: tempfile::TempDir,
    pub(crate) port: u16,
    process: Option<Child>,
}

impl Server {
    /// A new one, without data.
    pub(crate) async fn start(kind: Kind) -> Self {
        let folder = tempfile::Builder::new().prefix("axum-refresh-torture.").tempdir().unwrap();
        // The database runs as another user.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { kind, folder, port, process: None };
        server.run().await;
        server
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Runs it, on the data that it has and the port that it had, and waits until it answers.
    pub(crate) async fn run(&mut self) {
        let started = Instant::now();
        loop {
            match self.exited() {
                None if self.process.is_some() => {}
                // Postgres does not start while its memory of the last time is still about.
                _ => self.spawn(),
            }
            if self.kind.answers(self.port).await {
                return;
            }
            let is_missing = self.exited().is_some_and(|status| status.code() == Some(3));
            let log = || std::fs::read_to_string(self.log()).unwrap_or_default();
            assert!(!is_missing, "{}", log().trim());
            assert!(started.elapsed() < Duration::from_secs(60), "{} does not answer: {}", self.kind.name(), log());
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(|process| process.try_wait().unwrap())
    }

    fn spawn(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let process = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/with-servers"))
            .args(["--serve", self.kind.name()])
            .arg(self.folder.path().join("data"))
            .arg(self.port.to_string())
            // What was acknowledged is kept when it is killed, as in the other servers.
            .env("REDIS_APPENDONLY", "yes")
            // Held for as long as this process lives: the server ends with it.
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("tests/with-servers starts");
        self.process = Some(process);
    }

    /// Kills it, with everything that it started, without a word of warning.
    pub(crate) fn kill(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        signal("-KILL", process.id());
        process.wait().ok();
    }

    /// Stops it where it stands. Connections stay, and nobody answers.
    pub(crate) fn pause(&self) {
        signal("-STOP", self.process.as_ref().unwrap().id());
    }

    pub(crate) fn resume(&self) {
        signal("-CONT", self.process.as_ref().unwrap().id());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What only Redis has.
#[cfg(feature = "redis")]
pub(crate) mod redis {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::{Kind, Server};
    use crate::proxy::{StoreLine, Weather};

    pub(crate) async fn ask(port: u16, words: &[&str]) -> Result<String, redis::RedisError> {
        let client = redis::Client::open(Kind::Redis.url(port))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await
    }

    /// A server that follows another, by way of a line that can be spoilt.
    pub(crate) struct Replica {
        server: Server,
        line: StoreLine,
    }

    impl Replica {
        pub(crate) async fn of(primary: u16) -> Self {
            let server = Server::start(Kind::Redis).await;
            let line = StoreLine::open(primary).await;
            ask(server.port, &["REPLICAOF", "127.0.0.1", &line.port.to_string()]).await.unwrap();
            Self { server, line }
        }

        /// Waits until it has everything that the primary has.
        pub(crate) async fn keeps_up(&self) {
            for _ in 0..200 {
                let told = ask(self.server.port, &["INFO", "replication"]).await.unwrap_or_default();
                if told.contains("master_link_status:up") {
                    return;
                }
                sleep(Duration::from_millis(50)).await;
            }
            panic!("the replica does not keep up");
        }

        /// From now on nothing reaches it.
        pub(crate) fn fall_behind(&self) {
            self.line.weather(Weather::Stalled);
        }

        /// Takes the place of its primary, with what it has.
        pub(crate) async fn promote(self) -> Server {
            ask(self.server.port, &["REPLICAOF", "NO", "ONE"]).await.unwrap();
            self.server
        }
    }
}

/// To a process and all that came of it: Postgres has one for every connection.
fn signal(name: &str, process: u32) {
    let mut tree = vec![process];
    let mut next = 0;
    let children = children();
    while let Some(parent) = tree.get(next).copied() {
        tree.extend(children.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        next += 1;
    }
    let tree: Vec<_> = tree.iter().map(u32::to_string).collect();
    // One that has just ended is no error.
    Command::new("kill").arg(name).args(tree).stderr(Stdio::null()).status().unwrap();
}

/// Every process, and whose child it is.
fn children() -> Vec<(u32, u32)> {
    let read = |folder: &Path| {
        let process = folder.file_name()?.to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
        // "pid (name) state parent ...", and the name may have anything in it.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        Some((process, parent))
    };
    let all = std::fs::read_dir("/proc").unwrap();
    all.filter_map(|entry| read(&entry.ok()?.path())).collect()
}
