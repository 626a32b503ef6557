//! Opens the session store that `STORE_URL` names.

use std::sync::Arc;

use axum_refresh::{MemoryStore, SessionStore};

/// Connects to the store, and creates its tables if it is an SQL store.
pub(crate) async fn open(url: &str) -> Result<Arc<dyn SessionStore>, String> {
    let scheme = url.split_once(':').map_or(url, |(scheme, _)| scheme);
    match scheme {
        "memory" => Ok(Arc::new(MemoryStore::new())),
        #[cfg(feature = "sqlite")]
        "sqlite" => {
            let store = axum_refresh::SqliteStore::connect(url).await.map_err(message)?;
            store.migrate().await.map_err(message)?;
            Ok(Arc::new(store))
        }
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => {
            let store = axum_refresh::PostgresStore::connect(url).await.map_err(message)?.push();
            store.migrate().await.map_err(message)?;
            Ok(Arc::new(store))
        }
        #[cfg(feature = "mysql")]
        "mysql" | "mariadb" => {
            let store = axum_refresh::MySqlStore::connect(url).await.map_err(message)?;
            store.migrate().await.map_err(message)?;
            Ok(Arc::new(store))
        }
        #[cfg(feature = "redis")]
        "redis" | "rediss" => Ok(Arc::new(axum_refresh::RedisStore::connect(url).await.map_err(message)?)),
        #[allow(unreachable_patterns, reason = "depends on the features")]
        "sqlite" | "postgres" | "postgresql" | "mysql" | "mariadb" | "redis" | "rediss" => {
            let feature = match scheme {
                "postgresql" => "postgres",
                "mariadb" => "mysql",
                "rediss" => "redis",
                other => other,
            };
            Err(format!("STORE_URL: this build has no feature `{feature}`; run the demo with `--features {feature}`"))
        }
        // The URL may contain a password, so it is not repeated.
        _ => Err("STORE_URL: unknown store; use memory:, sqlite:, postgres:, mysql: or redis:".to_owned()),
    }
}

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql", feature = "redis"))]
#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn message(error: axum_refresh::store::StoreError) -> String {
    format!("STORE_URL: {error}")
}
