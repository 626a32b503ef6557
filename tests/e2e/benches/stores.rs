//! The cost of a store compared with its bare driver, and the effect of purging a million expired sessions on
//! concurrent requests. `tests/e2e/with-servers cargo bench -p axum-refresh-e2e --bench stores`
//!
//! Both sides take turns, one call each, and the table shows the ratios of the medians: other load on the machine
//! affects both.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum_refresh::store::Timestamp;
use axum_refresh::{Auth, ClientInfo, MemoryStore, NoClaims, Secret, SessionId, SessionStore};
use axum_refresh_e2e::stores;

const ROUNDS: usize = 3_000;
const EXPIRED: usize = 1_000_000;

fn main() {
    if std::env::args().any(|argument| argument == "--bench") {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(measure());
    } else {
        println!("a benchmark: tests/e2e/with-servers cargo bench -p axum-refresh-e2e --bench stores");
    }
}

async fn measure() {
    println!("a refresh (load and swap), as a share of the bare driver's throughput:");
    {
        let url = stores::fresh_url_of("sqlite", "BENCH").await;
        let store = axum_refresh::SqliteStore::connect(&url).await.unwrap();
        store.migrate().await.unwrap();
        let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
        sqlx::query("PRAGMA synchronous = FULL").execute(&pool).await.unwrap();
        let bare = async |id: SessionId, generation| {
            let id = id.as_bytes().to_vec();
            bare_sql!(pool, id, generation, "?", "?", "?");
        };
        compare("sqlite", Arc::new(store), bare).await;
    }
    {
        let url = stores::fresh_url_of("postgres", "BENCH").await;
        let store = axum_refresh::PostgresStore::connect(&url).await.unwrap();
        store.migrate().await.unwrap();
        let pool = sqlx::PgPool::connect(&url).await.unwrap();
        let bare = async |id: SessionId, generation| {
            let id = id.as_bytes().to_vec();
            bare_sql!(pool, id, generation, "$1", "$2", "$3");
        };
        let store: Arc<dyn SessionStore> = Arc::new(store);
        compare("postgres", Arc::clone(&store), bare).await;
        // A login starts a task that purges: it has to finish before there are sessions to purge.
        let id = login(Arc::clone(&store), "carol").await;
        let rows = format!(
            "INSERT INTO axum_refresh_sessions (id, user_id, secret_hash, created_at, expires_at, client, login, is_limited, claims, \
             generation, recoveries, last_seen_at, acknowledged, version, everyone, user_cutoff, everyone_cutoff) \
             SELECT decode(md5(i::text), 'hex'), i::text::bytea, '', i, i, '{{}}', '{{}}', 1, '{{}}', 0, 0, i, -1, 0, '', 0, 0 \
             FROM generate_series(1, {EXPIRED}) AS i"
        );
        sqlx::query(sqlx::AssertSqlSafe(rows)).execute(&pool).await.unwrap();
        purge("postgres", store, id).await;
    }
    {
        use redis::{Client, Script, Value, cmd};
        let url = stores::fresh_url_of("redis", "BENCH").await;
        let store = axum_refresh::RedisStore::options().push(false).connect(&url).await.unwrap();
        let settings = redis::io::tcp::TcpSettings::default().set_nodelay(true);
        let info = redis::IntoConnectionInfo::into_connection_info(url.as_str()).unwrap().set_tcp_settings(settings);
        let manager = redis::aio::ConnectionManager::new(Client::open(info).unwrap()).await.unwrap();
        let script = Script::new("redis.call('HSET', KEYS[1], unpack(ARGV)) return 1");
        let bare = async |id: SessionId, generation| {
            let (mut manager, row) = (manager.clone(), format!("axum-refresh:{{{:x}}}:session:{id}", id.shard()));
            let _: Value = cmd("HGETALL").arg(&row).query_async(&mut manager).await.unwrap();
            let mut call = script.key(&row);
            call.arg("version").arg(generation).arg("generation").arg(generation).arg("parent").arg("");
            call.arg("rotated").arg("").arg("recoveries").arg(0).arg("claims").arg("{}");
            let _: bool = call
                .arg("seen")
                .arg(1_700_000_000_000_i64)
                .arg("ack")
                .arg(-1)
                .invoke_async(&mut manager)
                .await
                .unwrap();
        };
        compare("redis", Arc::new(store), bare).await;
    }
    {
        let url = stores::fresh_url_of("mysql", "BENCH").await;
        let store = axum_refresh::MySqlStore::connect(&url).await.unwrap();
        store.migrate().await.unwrap();
        let pool = sqlx::MySqlPool::connect(&url).await.unwrap();
        let bare = async |id: SessionId, generation| {
            let id = id.as_bytes().to_vec();
            bare_sql!(pool, id, generation, "?", "?", "?");
        };
        compare("mysql", Arc::new(store), bare).await;
    }
    let memory = Arc::new(MemoryStore::new());
    let id = login(memory.clone(), "carol").await;
    let long_ago = Timestamp::from_millis(1_000);
    for n in 0..EXPIRED {
        let mut session = template(&format!("user{n}")).await;
        session.rotation.expires_at = long_ago;
        memory.insert(&session, axum_refresh::store::InsertOptions::default()).await.unwrap();
    }
    purge("memory", memory, id).await;
}

/// The minimum for a refresh: one row read, one row written.
#[macro_export]
macro_rules! bare_sql {
    ($pool:ident, $id:ident, $generation:ident, $first:literal, $second:literal, $third:literal) => {
        let row = sqlx::query(concat!("SELECT * FROM axum_refresh_sessions WHERE id = ", $first))
            .bind(&$id)
            .fetch_one(&$pool)
            .await
            .unwrap();
        std::hint::black_box(row);
        let update = concat!(
            "UPDATE axum_refresh_sessions SET generation = ",
            $first,
            ", rotated_at = ",
            $second,
            " WHERE id = ",
            $third
        );
        let generation = i64::try_from($generation).unwrap();
        sqlx::query(update).bind(generation).bind(1_700_000_000_000_i64).bind(&$id).execute(&$pool).await.unwrap();
    };
}

async fn login(store: Arc<dyn SessionStore>, user: &str) -> SessionId {
    let auth = Auth::<NoClaims>::builder(Secret::random().unwrap(), store).build().unwrap();
    let client = ClientInfo::new().user_agent("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/138.0.0.0");
    auth.login(user, NoClaims {}).client(client).await.unwrap().tokens.session_id
}

async fn template(user: &str) -> axum_refresh::store::SessionRecord {
    static TEMPLATE: tokio::sync::OnceCell<axum_refresh::store::SessionRecord> = tokio::sync::OnceCell::const_new();
    let template = TEMPLATE.get_or_init(async || {
        let memory = Arc::new(MemoryStore::new());
        let id = login(memory.clone(), "template").await;
        memory.load(id).await.unwrap().unwrap()
    });
    let mut session = template.await.clone();
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(user.bytes().rev()).for_each(|(to, from)| *to = from);
    session.id = SessionId::from_bytes(bytes);
    session.user_id = user.into();
    session
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

async fn compare(name: &str, store: Arc<dyn SessionStore>, bare: impl AsyncFn(SessionId, usize)) {
    let (ours, theirs) = (login(Arc::clone(&store), "alice").await, login(Arc::clone(&store), "bob").await);
    let (mut us, mut them) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let started = Instant::now();
        bare(theirs, round).await;
        them.push(started.elapsed());
        let started = Instant::now();
        let mut session = store.load(ours).await.unwrap().unwrap();
        session.rotation.generation += 1;
        assert!(store.compare_and_swap(session.version, &session).await.unwrap());
        us.push(started.elapsed());
    }
    let (us, them) = (median(us), median(them));
    println!("{name:10} {:.2}   (bare {them:?}, store {us:?})", them.as_secs_f64() / us.as_secs_f64());
}

/// How long loading this session takes while a million sessions are purged, compared with before.
async fn purge(name: &str, store: Arc<dyn SessionStore>, id: SessionId) {
    let load = async || {
        let started = Instant::now();
        store.load(id).await.unwrap().unwrap();
        started.elapsed()
    };
    let mut before = Vec::new();
    for _ in 0..1_000 {
        before.push(load().await);
    }
    let purging = {
        let store = Arc::clone(&store);
        let deadline = Timestamp::from_millis(1_700_000_000_000);
        tokio::spawn(async move {
            let mut purged = 0;
            loop {
                let step = store.purge(deadline, 1_000).await.unwrap();
                purged += step;
                if step < 1_000 {
                    return purged;
                }
                tokio::task::yield_now().await;
            }
        })
    };
    let started = Instant::now();
    let mut during = Vec::new();
    while !purging.is_finished() {
        during.push(load().await);
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    let purged = purging.await.unwrap();
    let (worst_before, worst) = (before.iter().max().unwrap(), during.iter().max().unwrap());
    println!(
        "{name}: {purged} sessions purged in {:.1} s; {} loads meanwhile, the slowest {worst:?} (before {worst_before:?})",
        started.elapsed().as_secs_f64(),
        during.len()
    );
}
