//! A store for every demo of its own, of the kind that `CONTRACT_STORE` names: `sqlite`, `postgres`, `mysql` or `redis`.
//! Nothing said: the demo's default.

use std::sync::atomic::{AtomicU32, Ordering};

/// The URL of an empty store, unless the default is meant.
pub(crate) async fn fresh() -> Option<String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let kind = std::env::var("CONTRACT_STORE").ok().filter(|kind| !kind.is_empty() && kind != "memory")?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("contract_{}_{count}", std::process::id());
    let url = match kind.as_str() {
        "sqlite" => format!("sqlite:{}/sessions.db", tempfile::tempdir().unwrap().keep().display()),
        #[cfg(feature = "postgres")]
        "postgres" => {
            let server = server("TEST_POSTGRES_URL");
            let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(&server).await.unwrap();
            make(&mut connection, format!("CREATE SCHEMA {name}")).await;
            format!("{server}{}options[search_path]={name}", if server.contains('?') { '&' } else { '?' })
        }
        #[cfg(feature = "mysql")]
        "mysql" => {
            let server = server("TEST_MYSQL_URL");
            let mut connection = <sqlx::MySqlConnection as sqlx::Connection>::connect(&server).await.unwrap();
            make(&mut connection, format!("CREATE DATABASE {name}")).await;
            format!("{}/{name}", server.rsplit_once('/').unwrap().0)
        }
        // A logical database each; the server has to have some thousands.
        "redis" => format!("{}/{}", server("TEST_REDIS_URL").trim_end_matches('/'), count + 1),
        other => panic!("CONTRACT_STORE: {other:?} is no store that was compiled in"),
    };
    Some(url)
}

fn server(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: `tests/run` starts a server and sets it"))
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
async fn make<'c, E: sqlx::Executor<'c>>(connection: E, what: String) {
    connection.execute(sqlx::AssertSqlSafe(what)).await.unwrap();
}
