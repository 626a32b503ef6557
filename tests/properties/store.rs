//! The store that the properties are tried on: in memory or, where `PROPERTIES_STORE` names one (`sqlite`, `postgres`,
//! `mysql`, `redis`), a real one.

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use axum_refresh::{
    Admission, Cursor, Feed, Inserted, MemoryStore, Revocation, Seen, Session, SessionId, SessionStore, StoreError,
    Target, Timestamp,
};
use tokio::runtime::Runtime;

/// A real store's connections live on this one, whatever a test does with its own.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// An empty one.
pub(crate) fn fresh() -> Arc<dyn SessionStore> {
    std::thread::spawn(|| RUNTIME.block_on(open())).join().unwrap()
}

async fn open() -> Arc<dyn SessionStore> {
    let Some(url) = crate::stores::fresh_url("PROPERTIES_STORE").await else { return Arc::new(MemoryStore::new()) };
    match url.split(':').next().unwrap() {
        #[cfg(feature = "sqlite")]
        "sqlite" => {
            let store = axum_refresh::SqliteStore::connect(&url).await.unwrap();
            store.migrate().await.unwrap();
            Arc::new(Remote(Arc::new(store)))
        }
        #[cfg(feature = "postgres")]
        "postgres" => {
            let store = axum_refresh::PostgresStore::connect(&url).await.unwrap();
            store.migrate().await.unwrap();
            Arc::new(Remote(Arc::new(store)))
        }
        #[cfg(feature = "mysql")]
        "mysql" => {
            let store = axum_refresh::MySqlStore::connect(&url).await.unwrap();
            store.migrate().await.unwrap();
            Arc::new(Remote(Arc::new(store)))
        }
        #[cfg(feature = "redis")]
        "redis" => Arc::new(Remote(Arc::new(axum_refresh::RedisStore::connect(&url).await.unwrap()))),
        other => panic!("PROPERTIES_STORE: {other} is not compiled in"),
    }
}

/// Carries out every call on the store's own runtime and waits for it with the thread, so that it takes no time on the
/// clocks of a test.
#[cfg_attr(not(any(feature = "sqlite", feature = "postgres", feature = "mysql", feature = "redis")), allow(dead_code))]
struct Remote(Arc<dyn SessionStore>);

#[cfg_attr(not(any(feature = "sqlite", feature = "postgres", feature = "mysql", feature = "redis")), allow(dead_code))]
impl Remote {
    fn call<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        call: impl FnOnce(Arc<dyn SessionStore>) -> F,
    ) -> T {
        let (answer, answered) = std::sync::mpsc::channel();
        let call = call(Arc::clone(&self.0));
        RUNTIME.spawn(async move { answer.send(call.await) });
        answered.recv().expect("the store answers")
    }
}

#[async_trait]
impl SessionStore for Remote {
    async fn insert(&self, new: &Session, admission: Admission) -> Result<Inserted, StoreError> {
        let new = new.clone();
        self.call(|store| async move { store.insert(&new, admission).await })
    }

    async fn load(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        self.call(|store| async move { store.load(id).await })
    }

    async fn swap(&self, expected: u64, next: &Session) -> Result<bool, StoreError> {
        let next = next.clone();
        self.call(|store| async move { store.swap(expected, &next).await })
    }

    async fn list(&self, user: &str) -> Result<Vec<Session>, StoreError> {
        let user = user.to_owned();
        self.call(|store| async move { store.list(&user).await })
    }

    async fn revoke(&self, target: Target<'_>, revocation: Revocation) -> Result<Vec<SessionId>, StoreError> {
        match target {
            Target::Session(id) => {
                self.call(|store| async move { store.revoke(Target::Session(id), revocation).await })
            }
            Target::User { user, except } => {
                let user = user.to_owned();
                self.call(|store| async move { store.revoke(Target::User { user: &user, except }, revocation).await })
            }
            Target::Token(jti) => {
                let jti = jti.to_owned();
                self.call(|store| async move { store.revoke(Target::Token(&jti), revocation).await })
            }
        }
    }

    async fn seen(&self, batch: &[Seen]) -> Result<(), StoreError> {
        let batch = batch.to_vec();
        self.call(|store| async move { store.seen(&batch).await })
    }

    async fn revocations(&self, since: Cursor) -> Result<Feed, StoreError> {
        self.call(|store| async move { store.revocations(since).await })
    }

    async fn purge(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.call(|store| async move { store.purge(before, limit).await })
    }
}
