//! The store that `STORE_URL` names.

use std::sync::Arc;

use axum_refresh::{MemoryStore, SessionStore};

/// Opens it, and makes its tables where it has some.
pub(crate) async fn open(url: &str) -> Result<Arc<dyn SessionStore>, String> {
    let scheme = url.split_once(':').map_or(url, |(scheme, _)| scheme);
    match scheme {
        "memory" => Ok(Arc::new(MemoryStore::new())),
        #[cfg(feature = "sqlite")]
        "sqlite" => {
            let store = axum_refresh::SqliteStore::connect(url).await.map_err(problem)?;
            store.migrate().await.map_err(problem)?;
            Ok(Arc::new(store))
        }
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => {
            let store = axum_refresh::PostgresStore::connect(url).await.map_err(problem)?.push();
            store.migrate().await.map_err(problem)?;
            Ok(Arc::new(store))
        }
        #[cfg(feature = "mysql")]
        "mysql" | "mariadb" => {
            let store = axum_refresh::MySqlStore::connect(url).await.map_err(problem)?;
            store.migrate().await.map_err(problem)?;
            Ok(Arc::new(store))
        }
        #[cfg(feature = "redis")]
        "redis" | "rediss" => Ok(Arc::new(axum_refresh::RedisStore::connect(url).await.map_err(problem)?)),
        #[allow(unreachable_patterns, reason = "depends on the features")]
        "sqlite" | "postgres" | "postgresql" | "mysql" | "mariadb" | "redis" | "rediss" => {
            let feature = match scheme {
                "postgresql" => "postgres",
                "mariadb" => "mysql",
                "rediss" => "redis",
                other => other,
            };
            Err(format!("STORE_URL: this build has no feature `{feature}` and cannot use a {scheme} store"))
        }
        _ => Err("STORE_URL: none of memory:, sqlite:, postgres:, mysql:, redis:".to_owned()),
    }
}

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql", feature = "redis"))]
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn problem(error: axum_refresh::StoreError) -> String {
    format!("STORE_URL: {error}")
}
