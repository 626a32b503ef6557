//! The stores in SQL databases, on the real ones. `tests/run` starts servers for it; a URL in the environment names another.
#![cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[cfg(feature = "sqlite")]
mod sqlite {
    use axum_refresh::SqliteStore;

    pub(crate) async fn new() -> SqliteStore {
        let folder = tempfile::tempdir().unwrap().keep();
        let store = SqliteStore::connect(&format!("sqlite:{}/sessions.db", folder.display())).await.unwrap();
        store.migrate().await.unwrap();
        store
    }

    mod contract {
        axum_refresh::store_conformance!(super::new());
    }
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
fn server(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: `tests/run` starts a server and sets it"))
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
fn unique() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(feature = "postgres")]
mod postgres {
    use axum_refresh::PostgresStore;
    use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

    /// The URL of an empty schema.
    pub(crate) async fn url() -> String {
        let server = super::server("TEST_POSTGRES_URL");
        let schema = super::unique();
        let mut connection = PgConnection::connect(&server).await.unwrap();
        connection.execute(AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).await.unwrap();
        connection.close().await.unwrap();
        let separator = if server.contains('?') { '&' } else { '?' };
        format!("{server}{separator}options[search_path]={schema}")
    }

    pub(crate) async fn new() -> PostgresStore {
        let store = PostgresStore::connect(&url().await).await.unwrap();
        store.migrate().await.unwrap();
        store
    }

    mod contract {
        axum_refresh::store_conformance!(super::new());
    }
}

#[cfg(feature = "mysql")]
mod mysql {
    use axum_refresh::MySqlStore;
    use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection};

    /// The URL of an empty database.
    pub(crate) async fn url() -> String {
        let server = super::server("TEST_MYSQL_URL");
        let database = super::unique();
        let mut connection = MySqlConnection::connect(&server).await.unwrap();
        connection.execute(AssertSqlSafe(format!("CREATE DATABASE {database}"))).await.unwrap();
        connection.close().await.unwrap();
        let (host, _) = server.rsplit_once('/').unwrap();
        format!("{host}/{database}")
    }

    pub(crate) async fn new() -> MySqlStore {
        let store = MySqlStore::connect(&url().await).await.unwrap();
        store.migrate().await.unwrap();
        store
    }

    mod contract {
        axum_refresh::store_conformance!(super::new());
    }
}
