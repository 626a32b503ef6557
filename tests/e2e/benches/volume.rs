//! Very many sessions of one user that end at once, and very many live revocations when a node starts.
//! `tests/e2e/with-servers cargo bench -p axum-refresh-e2e --bench volume`
//!
//! `VOLUME_SESSIONS` (100,000) and `VOLUME_REVOCATIONS` (10,000,000) set how many; 0 leaves that part out. `VOLUME_STORES`
//! selects stores (`memory sqlite postgres mysql redis`).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum_refresh::store::{
    Activity, ExternalId, FeedCursor, FeedWindow, InsertOptions, Inserted, Revocation, RevocationBatch,
    RevocationReason, RevokeTarget, Revoked, SessionRecord, StoreError, Timestamp,
};
use axum_refresh::{
    Auth, ClientInfo, Error, MemoryStore, NoClaims, PostgresStore, RedisStore, Secret, SessionId, SessionStore,
};
use axum_refresh_e2e::{fill, resident, stores};
use tokio::time::sleep;

/// The users whose requests must not become slower.
const OTHERS: usize = 50;
/// How long they are measured before the user with very many sessions is revoked.
const BEFORE: Duration = Duration::from_secs(10);
/// How long they are measured afterwards.
const AFTER: Duration = Duration::from_secs(2);
/// How long a started node reads nothing of the feed again, until that counts as usual.
const QUIET: Duration = Duration::from_secs(5);

fn main() {
    if std::env::args().any(|argument| argument == "--bench") {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(measure());
    } else {
        println!("a benchmark: tests/e2e/with-servers cargo bench -p axum-refresh-e2e --bench volume");
    }
}

async fn measure() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (sessions, revocations) = (number("VOLUME_SESSIONS", 100_000), number("VOLUME_REVOCATIONS", 10_000_000));
    let selected = std::env::var("VOLUME_STORES").unwrap_or_else(|_| "memory sqlite postgres mysql redis".to_owned());
    if sessions > 0 {
        println!(
            "{sessions} sessions of one user end; times in ms\n\n{:9} | {:>8} | {:>10} | {:>8} | {:>22} | {:>22}",
            "store", "in force", "elsewhere", "done", "others: slowest (usual)", "99.9 % (usual)"
        );
        for kind in selected.split_whitespace() {
            end_sessions(kind, sessions).await;
        }
    }
    if revocations > 0 {
        println!("\n{revocations} live revocations when a node starts");
        for kind in selected.split_whitespace().filter(|kind| ["postgres", "redis", "mysql"].contains(kind)) {
            start_node(kind, revocations).await;
        }
    }
}

/// A node with its own connections.
async fn open(kind: &str, url: &str, memory: &Arc<MemoryStore>) -> Arc<dyn SessionStore> {
    match kind {
        "memory" => Arc::<MemoryStore>::clone(memory),
        "postgres" => {
            let store = PostgresStore::connect(url).await.unwrap().push();
            store.migrate().await.unwrap();
            Arc::new(store)
        }
        "redis" => Arc::new(RedisStore::connect(url).await.unwrap()),
        _ => stores::open(url).await,
    }
}

fn node(store: Arc<dyn SessionStore>) -> Auth<NoClaims> {
    let secret = Secret::new("q8vXh2m0Zr4yTnLwE1sKcPjU7dGfBaOi9xQ3H5tMzVY=");
    // So that most refreshes of the others rotate.
    let build = Auth::builder(secret, store).configure(|settings| settings.policy.grace = Duration::from_secs(1));
    build.build().unwrap()
}

async fn end_sessions(kind: &str, count: usize) {
    let memory = Arc::new(MemoryStore::new());
    let url = if kind == "memory" { String::new() } else { stores::fresh_url_of(kind, "VOLUME").await };
    let store = open(kind, &url, &memory).await;
    let (here, elsewhere) = (node(Arc::clone(&store)), node(open(kind, &url, &memory).await));
    let victim = here.login("crowd", NoClaims {}).await.unwrap().tokens;
    if kind == "memory" {
        let mut copy = store.load(victim.session_id).await.unwrap().unwrap();
        for n in 1..count as u128 {
            let mut bytes = n.to_be_bytes();
            bytes[0] = victim.session_id.as_bytes()[0];
            copy.id = SessionId::from_bytes(bytes);
            store.insert(&copy, InsertOptions::default()).await.unwrap();
        }
    } else {
        fill::sessions(&url, "crowd", victim.session_id, count - 1).await;
    }
    let times = Arc::new(Mutex::new(Vec::new()));
    let is_over = Arc::new(AtomicBool::new(false));
    let others = tokio::spawn(others(here.clone(), Arc::clone(&times), Arc::clone(&is_over)));
    // The database has just written all of them.
    sleep(BEFORE).await;
    let started = Instant::now();
    let until_refused = |node: &Auth<NoClaims>| {
        let (node, token) = (node.clone(), victim.access_token.clone());
        tokio::spawn(async move {
            while !matches!(node.authenticate(&token).await, Err(Error::AccessTokenRevoked)) {
                sleep(Duration::from_micros(500)).await;
            }
            started.elapsed()
        })
    };
    let (is_here, is_elsewhere) = (until_refused(&here), until_refused(&elsewhere));
    let revoked = here.revoke_user("crowd", None, RevocationReason::RevokedByAdmin).await.unwrap();
    let done = started.elapsed();
    assert_eq!(revoked, count);
    let (is_here, is_elsewhere) = (is_here.await.unwrap(), is_elsewhere.await.unwrap());
    sleep(AFTER).await;
    is_over.store(true, Ordering::Relaxed);
    others.await.unwrap();
    let times = std::mem::take(&mut *times.lock().unwrap());
    let (before, during): (Vec<_>, Vec<_>) = times.into_iter().partition(|(_, until)| *until < started);
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    let sorted = |times: &[(Instant, Instant)]| {
        let mut times: Vec<_> = times.iter().map(|(from, until)| millis(*until - *from)).collect();
        times.sort_unstable_by(f64::total_cmp);
        times
    };
    let (before, during) = (sorted(&before), sorted(&during));
    let share = |times: &[f64]| times[times.len() * 999 / 1000];
    println!(
        "{kind:9} | {:8.1} | {:10.1} | {:8.1} | {:11.1} ({:8.1}) | {:11.1} ({:8.1})",
        millis(is_here),
        millis(is_elsewhere),
        millis(done),
        during.last().unwrap(),
        before.last().unwrap(),
        share(&during),
        share(&before),
    );
}

/// Refreshes, lists and authenticates without a break, for one user after the other.
async fn others(node: Auth<NoClaims>, times: Arc<Mutex<Vec<(Instant, Instant)>>>, is_over: Arc<AtomicBool>) {
    let mut tokens = Vec::new();
    for user in 0..OTHERS {
        let login = node.login(format!("user{user}"), NoClaims {}).await.unwrap().tokens;
        tokens.push((login.refresh_token.unwrap(), login.access_token));
    }
    let record = |from: Instant| times.lock().unwrap().push((from, Instant::now()));
    for user in (0..OTHERS).cycle() {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        let (refresh, access) = &mut tokens[user];
        let from = Instant::now();
        let refreshed = node.refresh(refresh, ClientInfo::new()).await.unwrap();
        record(from);
        *access = refreshed.tokens.access_token;
        if let Some(new) = refreshed.tokens.refresh_token {
            *refresh = new;
        }
        let from = Instant::now();
        node.sessions(&format!("user{user}")).await.unwrap();
        record(from);
        let from = Instant::now();
        node.authenticate(access).await.unwrap();
        record(from);
        sleep(Duration::from_millis(1)).await;
    }
}

/// Counts what a node reads of the feed.
struct Counting {
    store: Arc<dyn SessionStore>,
    reads: AtomicUsize,
    entries: AtomicUsize,
}

#[async_trait]
impl SessionStore for Counting {
    async fn insert(&self, new: &SessionRecord, options: InsertOptions) -> Result<Inserted, StoreError> {
        self.store.insert(new, options).await
    }
    async fn load(&self, id: SessionId) -> Result<Option<SessionRecord>, StoreError> {
        self.store.load(id).await
    }
    async fn compare_and_swap(&self, expected: u64, next: &SessionRecord) -> Result<bool, StoreError> {
        self.store.compare_and_swap(expected, next).await
    }
    async fn list(&self, user_id: &str, limit: usize) -> Result<Vec<SessionRecord>, StoreError> {
        self.store.list(user_id, limit).await
    }
    async fn find_external(&self, id: ExternalId) -> Result<Vec<SessionId>, StoreError> {
        self.store.find_external(id).await
    }
    async fn revoke(&self, target: RevokeTarget<'_>, revocation: Revocation) -> Result<Revoked, StoreError> {
        self.store.revoke(target, revocation).await
    }
    async fn record_activity(&self, batch: &[Activity]) -> Result<(), StoreError> {
        self.store.record_activity(batch).await
    }
    async fn read_revocations(&self, since: FeedCursor, window: FeedWindow) -> Result<RevocationBatch, StoreError> {
        let batch = self.store.read_revocations(since, window).await?;
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.entries.fetch_add(batch.entries.len(), Ordering::Relaxed);
        Ok(batch)
    }
    async fn purge(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.store.purge(before, limit).await
    }
    async fn changed(&self) {
        self.store.changed().await;
    }
}

async fn start_node(kind: &str, count: usize) {
    let url = stores::fresh_url_of(kind, "VOLUME").await;
    let store = open(kind, &url, &Arc::default()).await;
    let token = node(Arc::clone(&store)).login("alice", NoClaims {}).await.unwrap().tokens.access_token;
    let filling = Instant::now();
    fill::revocations(&url, count).await;
    let filled = filling.elapsed();
    let counting = Arc::new(Counting { store, reads: AtomicUsize::new(0), entries: AtomicUsize::new(0) });
    let memory = resident();
    let started = Instant::now();
    let node = node(Arc::<Counting>::clone(&counting));
    let mut attempts = 1;
    while let Err(error) = node.authenticate(&token).await {
        assert!(matches!(error, Error::Store(_)), "{error}");
        attempts += 1;
        sleep(Duration::from_millis(100)).await;
    }
    let ready = started.elapsed();
    let (pages, read) = (counting.reads.swap(0, Ordering::Relaxed), counting.entries.swap(0, Ordering::Relaxed));
    let used = resident().saturating_sub(memory);
    // The first comparison of the feed with what the node knows may still have to read it; then only what is new is read.
    let mut again = 0;
    let quiet = loop {
        sleep(QUIET).await;
        let (reads, entries) = (counting.reads.swap(0, Ordering::Relaxed), counting.entries.swap(0, Ordering::Relaxed));
        if reads > 0 && entries == 0 || started.elapsed() > Duration::from_secs(300) {
            break reads;
        }
        again += entries;
    };
    println!(
        "{kind:9} ready after {:.1} s (request {attempts}), {read} entries in {pages} pages; {} MB more, {} bytes for \
         each; {again} entries again until {:.0} s, then {quiet} reads of no entries in {} s (filled in {:.0} s)",
        ready.as_secs_f64(),
        used / 1_000_000,
        used / count,
        started.elapsed().as_secs_f64(),
        QUIET.as_secs(),
        filled.as_secs_f64(),
    );
}
