//! The server of a store.

use std::time::Duration;

use axum_refresh_e2e::server::Server as Process;
use sqlx::{Connection as _, Executor as _, MySqlConnection, PgConnection};
use tokio::net::TcpStream;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    MySql,
    Redis,
    Sqlite,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MySql => "mysql",
            Self::Redis => "redis",
            Self::Sqlite => "sqlite",
        }
    }

    /// The URL of a store behind this port.
    pub(crate) fn url(self, port: u16) -> String {
        match self {
            Self::Postgres => format!("postgres://postgres@127.0.0.1:{port}/postgres"),
            Self::MySql => format!("mysql://root@127.0.0.1:{port}/torture"),
            Self::Redis => format!("redis://127.0.0.1:{port}/"),
            Self::Sqlite => unreachable!("a file has no port"),
        }
    }

    /// Whether the server itself responds, not only its kernel.
    async fn responds(self, port: u16) -> bool {
        let answer = async {
            match self {
                Self::Postgres => {
                    let connection = PgConnection::connect(&self.url(port)).await;
                    match connection {
                        Ok(connection) => connection.close().await.is_ok(),
                        Err(_) => false,
                    }
                }
                Self::MySql => {
                    let server = format!("mysql://root@127.0.0.1:{port}/mysql");
                    let Ok(mut connection) = MySqlConnection::connect(&server).await else {
                        return false;
                    };
                    let made = connection.execute("CREATE DATABASE IF NOT EXISTS torture").await;
                    connection.close().await.ok();
                    made.is_ok()
                }
                Self::Redis => redis::ask(port, &["PING"]).await.is_ok_and(|answer| answer == "PONG"),
                Self::Sqlite => true,
            }
        };
        tokio::time::timeout(Duration::from_secs(2), answer).await.unwrap_or(false)
    }
}

/// The server of a store. SQLite has none: its file takes part in all that needs no server.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    /// 0 if there is no server.
    pub(crate) port: u16,
    process: Option<Process>,
    folder: tempfile::TempDir,
}

impl Server {
    /// A new server without data.
    pub(crate) async fn start(kind: Kind) -> Self {
        // Acknowledged writes survive a kill, as with the other servers.
        let new = || Process::new(kind.name(), &[("REDIS_APPENDONLY", "yes")]);
        let process = (kind != Kind::Sqlite).then(new);
        let port = process.as_ref().map_or(0, |process| process.port);
        let mut server = Self { kind, port, process, folder: tempfile::tempdir().unwrap() };
        server.run().await;
        server
    }

    /// Without a proxy in between.
    pub(crate) fn url(&self) -> String {
        match self.kind {
            Kind::Sqlite => format!("sqlite:{}/sessions.db", self.folder.path().display()),
            kind => kind.url(self.port),
        }
    }

    /// Starts it with its existing data on its port, and waits until it responds.
    pub(crate) async fn run(&mut self) {
        let kind = self.kind;
        if let Some(process) = &mut self.process {
            process.run(async |port| kind.responds(port).await).await;
        }
    }

    /// Kills it and all its child processes with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.as_mut().expect("a server").kill();
    }

    /// Pauses it with SIGSTOP. Connections stay open, without responses.
    pub(crate) fn pause(&self) {
        self.process.as_ref().expect("a server").pause();
    }

    pub(crate) fn resume(&self) {
        self.process.as_ref().expect("a server").resume();
    }
}

/// PgBouncer in session mode.
pub(crate) struct Pooler(Process);

impl Pooler {
    pub(crate) async fn start(postgres: &Server) -> Self {
        // It connects to a restarted server at once, as the driver does.
        let settings = "pool_mode = session; ignore_startup_parameters = options,extra_float_digits; \
                        default_pool_size = 200; server_login_retry = 0.2";
        let url = postgres.url();
        let mut pooler = Self(Process::new("pgbouncer", &[("TEST_POSTGRES_URL", &url), ("POOLER_SETTINGS", settings)]));
        pooler.run().await;
        pooler
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.port
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill();
    }

    pub(crate) async fn run(&mut self) {
        self.0.run(async |port| TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
    }
}

/// Replication, which only the Redis tests use.
pub(crate) mod redis {
    use std::time::Duration;

    use axum_refresh_e2e::proxy::tcp::{Condition, StoreLine};
    use tokio::time::sleep;

    use super::{Kind, Server};

    pub(crate) async fn ask(port: u16, words: &[&str]) -> Result<String, redis::RedisError> {
        let client = redis::Client::open(Kind::Redis.url(port))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await
    }

    /// A replica that reaches its primary through a proxy.
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

        /// Waits until it is in sync with the primary.
        pub(crate) async fn keeps_up(&self) {
            for _ in 0..200 {
                let status = ask(self.server.port, &["INFO", "replication"]).await.unwrap_or_default();
                if status.contains("master_link_status:up") {
                    return;
                }
                sleep(Duration::from_millis(50)).await;
            }
            panic!("the replica does not keep up");
        }

        /// Stops replication from now on.
        pub(crate) fn fall_behind(&self) {
            self.line.set_condition(Condition::Stalled);
        }

        /// Becomes the primary, with the data that it has.
        pub(crate) async fn promote(self) -> Server {
            ask(self.server.port, &["REPLICAOF", "NO", "ONE"]).await.unwrap();
            self.server
        }
    }
}
