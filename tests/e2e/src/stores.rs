//! An empty store for each test, on real servers. `tests/run` starts the servers and puts their URLs into the environment.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use axum_refresh::store::{
    Activity, ExternalId, FeedCursor, FeedWindow, InsertOptions, Inserted, Revocation, RevocationBatch, RevokeTarget,
    Revoked, SessionRecord, StoreError, Timestamp,
};
use axum_refresh::{MemoryStore, MySqlStore, PostgresStore, RedisStore, SessionId, SessionStore, SqliteStore};
use sqlx::{AssertSqlSafe, Connection as _, Executor, MySqlConnection, PgConnection};
use tokio::runtime::Runtime;

/// The URL of an empty store of the kind that this variable names: `sqlite`, `postgres`, `mysql` or `redis`. `None` if the
/// variable is not set, or is `memory`.
pub async fn fresh_url(variable: &str) -> Option<String> {
    let kind = std::env::var(variable).ok().filter(|kind| !kind.is_empty() && kind != "memory")?;
    Some(fresh_url_of(&kind, variable).await)
}

/// The URL of an empty store of this kind. `purpose` becomes part of its name.
pub async fn fresh_url_of(kind: &str, purpose: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = || format!("{}_{}_{count}", purpose.to_lowercase(), std::process::id());
    match kind {
        "sqlite" => format!("sqlite:{}/sessions.db", folder().display()),
        "postgres" => {
            let (server, name) = (server("TEST_POSTGRES_URL"), name());
            let mut connection = PgConnection::connect(&server).await.unwrap();
            make(&mut connection, format!("CREATE SCHEMA {name}")).await;
            format!("{server}{}options[search_path]={name}", if server.contains('?') { '&' } else { '?' })
        }
        "mysql" => {
            let (server, name) = (server("TEST_MYSQL_URL"), name());
            let mut connection = MySqlConnection::connect(&server).await.unwrap();
            make(&mut connection, format!("CREATE DATABASE {name}")).await;
            format!("{}/{name}", server.rsplit_once('/').unwrap().0)
        }
        // One logical database each; the server has thousands of them, and they start empty.
        "redis" => {
            let base = if purpose.starts_with("CONTRACT") { 1 } else { 10_001 };
            let database = base + std::process::id() % 9 * 1_000 + count;
            format!("{}/{database}", server("TEST_REDIS_URL").trim_end_matches('/'))
        }
        other => panic!("{purpose}: {other:?} is not a kind of store"),
    }
}

/// An empty folder. `with-servers` removes it when it ends.
pub fn folder() -> std::path::PathBuf {
    tempfile::tempdir_in(files()).unwrap().keep()
}

/// Where tests create their files.
pub(crate) fn files() -> std::path::PathBuf {
    std::env::var_os("TEST_FOLDER").map_or_else(std::env::temp_dir, Into::into)
}

/// The URL of a server.
pub fn server(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: `tests/run` starts a server and sets it"))
}

async fn make<'c, E: Executor<'c>>(connection: E, what: String) {
    connection.execute(AssertSqlSafe(what)).await.unwrap();
}

/// The runtime of the connections of [`fresh_blocking`], independent of the runtimes that a test starts and stops.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// An empty store of the kind that this variable names, for a test that controls time and its own runtimes.
pub fn fresh_blocking(variable: &'static str) -> Arc<dyn SessionStore> {
    let open = async move || match fresh_url(variable).await {
        Some(url) => Arc::new(Blocking(open(&url).await)) as Arc<dyn SessionStore>,
        None => Arc::new(MemoryStore::new()),
    };
    std::thread::spawn(move || RUNTIME.block_on(open())).join().unwrap()
}

/// The store at this URL, with its tables.
pub async fn open(url: &str) -> Arc<dyn SessionStore> {
    match url.split(':').next().unwrap() {
        "sqlite" => {
            let store = SqliteStore::connect(url).await.unwrap();
            store.migrate().await.unwrap();
            Arc::new(store)
        }
        "postgres" => {
            let store = PostgresStore::connect(url).await.unwrap();
            store.migrate().await.unwrap();
            Arc::new(store)
        }
        "mysql" => {
            let store = MySqlStore::connect(url).await.unwrap();
            store.migrate().await.unwrap();
            Arc::new(store)
        }
        "redis" => Arc::new(RedisStore::connect(url).await.unwrap()),
        other => panic!("{other:?} is not a kind of store"),
    }
}

/// Makes every call on [`RUNTIME`] and blocks the thread until it returns, so that a call takes no time on the paused clock
/// of a test.
struct Blocking(Arc<dyn SessionStore>);

impl Blocking {
    fn call<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        call: impl FnOnce(Arc<dyn SessionStore>) -> F,
    ) -> T {
        let (answer, answered) = std::sync::mpsc::channel();
        let call = call(Arc::clone(&self.0));
        RUNTIME.spawn(async move { answer.send(call.await) });
        answered.recv().expect("the store responds")
    }
}

#[async_trait]
impl SessionStore for Blocking {
    async fn insert(&self, new: &SessionRecord, options: InsertOptions) -> Result<Inserted, StoreError> {
        let new = new.clone();
        self.call(|store| async move { store.insert(&new, options).await })
    }

    async fn load(&self, id: SessionId) -> Result<Option<SessionRecord>, StoreError> {
        self.call(|store| async move { store.load(id).await })
    }

    async fn compare_and_swap(&self, expected: u64, next: &SessionRecord) -> Result<bool, StoreError> {
        let next = next.clone();
        self.call(|store| async move { store.compare_and_swap(expected, &next).await })
    }

    async fn list(&self, user: &str, limit: usize) -> Result<Vec<SessionRecord>, StoreError> {
        let user = user.to_owned();
        self.call(|store| async move { store.list(&user, limit).await })
    }

    async fn find_external(&self, id: ExternalId) -> Result<Vec<SessionId>, StoreError> {
        self.call(|store| async move { store.find_external(id).await })
    }

    async fn revoke(&self, target: RevokeTarget<'_>, revocation: Revocation) -> Result<Revoked, StoreError> {
        match target {
            RevokeTarget::Session(id) => {
                self.call(|store| async move { store.revoke(RevokeTarget::Session(id), revocation).await })
            }
            RevokeTarget::Users { scope, except, created_until } => {
                let scope = scope.to_owned();
                self.call(|store| async move {
                    store.revoke(RevokeTarget::Users { scope: &scope, except, created_until }, revocation).await
                })
            }
            RevokeTarget::Token(jti) => {
                let jti = jti.to_owned();
                self.call(|store| async move { store.revoke(RevokeTarget::Token(&jti), revocation).await })
            }
        }
    }

    async fn record_activity(&self, batch: &[Activity]) -> Result<(), StoreError> {
        let batch = batch.to_vec();
        self.call(|store| async move { store.record_activity(&batch).await })
    }

    async fn read_revocations(&self, since: FeedCursor, window: FeedWindow) -> Result<RevocationBatch, StoreError> {
        self.call(|store| async move { store.read_revocations(since, window).await })
    }

    async fn purge(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.call(|store| async move { store.purge(before, limit).await })
    }
}
