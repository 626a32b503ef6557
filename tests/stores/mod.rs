//! A store for every test of its own, on the real servers. `tests/run` starts them and says where they are.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::sync::atomic::{AtomicU32, Ordering};

/// The URL of an empty store of the kind that this variable names: `sqlite`, `postgres`, `mysql` or `redis`; none where
/// it is not set, or is `memory`.
pub async fn fresh_url(variable: &str) -> Option<String> {
    let kind = std::env::var(variable).ok().filter(|kind| !kind.is_empty() && kind != "memory")?;
    Some(fresh_url_of(&kind, variable).await)
}

/// The URL of an empty store of this kind. The purpose becomes a part of its name.
pub async fn fresh_url_of(kind: &str, purpose: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    #[cfg(any(feature = "postgres", feature = "mysql"))]
    let name = || format!("{}_{}_{count}", purpose.to_lowercase(), std::process::id());
    match kind {
        "sqlite" => format!("sqlite:{}/sessions.db", folder().display()),
        #[cfg(feature = "postgres")]
        "postgres" => {
            let (server, name) = (server("TEST_POSTGRES_URL"), name());
            let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(&server).await.unwrap();
            make(&mut connection, format!("CREATE SCHEMA {name}")).await;
            format!("{server}{}options[search_path]={name}", if server.contains('?') { '&' } else { '?' })
        }
        #[cfg(feature = "mysql")]
        "mysql" => {
            let (server, name) = (server("TEST_MYSQL_URL"), name());
            let mut connection = <sqlx::MySqlConnection as sqlx::Connection>::connect(&server).await.unwrap();
            make(&mut connection, format!("CREATE DATABASE {name}")).await;
            format!("{}/{name}", server.rsplit_once('/').unwrap().0)
        }
        // A logical database each; the server has to have some thousands, and they are empty to begin with.
        "redis" => {
            let base = if purpose.starts_with("CONTRACT") { 1 } else { 10_001 };
            let database = base + std::process::id() % 9 * 1_000 + count;
            format!("{}/{database}", server("TEST_REDIS_URL").trim_end_matches('/'))
        }
        other => panic!("{purpose}: {other:?} is no store that was compiled in"),
    }
}

/// An empty folder, in one that `tests/with-servers` removes when it ends.
pub fn folder() -> std::path::PathBuf {
    let parent = std::env::var_os("TEST_FOLDER").map_or_else(std::env::temp_dir, Into::into);
    tempfile::tempdir_in(parent).unwrap().keep()
}

/// Where the server is.
pub fn server(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: `tests/run` starts a server and sets it"))
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
async fn make<'c, E: sqlx::Executor<'c>>(connection: E, what: String) {
    connection.execute(sqlx::AssertSqlSafe(what)).await.unwrap();
}
