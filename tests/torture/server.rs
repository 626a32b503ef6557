//! The server of a store, and whether it answers.

use std::time::Duration;

#[path = "../support/server.rs"]
mod process;

use process::Server as Process;

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

/// A server of a store.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) port: u16,
    process: Process,
}

impl Server {
    /// A new one, without data.
    pub(crate) async fn start(kind: Kind) -> Self {
        // What was acknowledged is kept when it is killed, as in the other servers.
        let process = Process::new(kind.name(), &[("REDIS_APPENDONLY", "yes")]);
        let mut server = Self { kind, port: process.port, process };
        server.run().await;
        server
    }

    /// Runs it, on the data that it has and the port that it had, and waits until it answers.
    pub(crate) async fn run(&mut self) {
        let kind = self.kind;
        self.process.run(async |port| kind.answers(port).await).await;
    }

    /// Kills it, with everything that it started, without a word of warning.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops it where it stands. Connections stay, and nobody answers.
    pub(crate) fn pause(&self) {
        self.process.pause();
    }

    pub(crate) fn resume(&self) {
        self.process.resume();
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
