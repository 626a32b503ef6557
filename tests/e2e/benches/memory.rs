//! The memory store with more and more sessions: how many bytes each takes, and how long a login and a refresh take.
//! `cargo bench -p axum-refresh-e2e --bench memory`
//!
//! `SESSIONS` selects other numbers of sessions than `10000 100000 1000000 10000000`; ten million need 4 GB. Each has a
//! process of its own, with one thread. Each time is the median of ten parts.

use std::process::Command;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use axum_refresh::{Auth, ClientInfo, MemoryStore, NoClaims, Secret};
use axum_refresh_e2e::resident;

/// How many logins and refreshes are measured, in parts.
const PART: u32 = 5_000;
const PARTS: usize = 10;
const MEASURED: usize = PART as usize * PARTS;

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--fill") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(measure(arguments[at + 1].parse().unwrap()));
    } else if arguments.iter().any(|argument| argument == "--bench") {
        let sessions = std::env::var("SESSIONS").unwrap_or_else(|_| "10000 100000 1000000 10000000".to_owned());
        println!(
            "{:>10} | {:>13} | {:>8} {:>13} | {:>10}",
            "sessions", "bytes/session", "login us", "slowest ms", "refresh us"
        );
        for count in sessions.split_whitespace() {
            let status = Command::new(std::env::current_exe().unwrap()).args(["--fill", count]).status().unwrap();
            assert!(status.success());
        }
    } else {
        println!("a benchmark: cargo bench -p axum-refresh-e2e --bench memory");
    }
}

async fn measure(sessions: usize) {
    // Every refresh has to rotate, so the clock is moved.
    let (began, ahead) = (SystemTime::now(), Arc::new(AtomicU64::new(0)));
    let clock = {
        let ahead = Arc::clone(&ahead);
        move || began + Duration::from_secs(ahead.load(Ordering::Relaxed))
    };
    let empty = resident();
    let auth: Auth<NoClaims> =
        Auth::builder(Secret::random().unwrap(), MemoryStore::new()).clock(clock).build().unwrap();
    let user_agent =
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36";
    let login = async |user: usize| {
        let client = ClientInfo::new().user_agent(user_agent).ip([10, 0, 0, 1].into());
        auth.login(format!("user-{user:09}"), NoClaims {}).client(client).await.unwrap().tokens.refresh_token.unwrap()
    };
    // Spread over all of them, as requests are.
    let every = (sessions / MEASURED).max(1);
    let mut tokens = Vec::with_capacity(MEASURED);
    let mut slowest = Duration::ZERO;
    for user in 0..sessions {
        let started = Instant::now();
        let token = login(user).await;
        slowest = slowest.max(started.elapsed());
        if user % every == 0 && tokens.len() < MEASURED {
            tokens.push(Mutex::new(token));
        }
    }
    let own: usize = tokens.iter().map(|token| size_of_val(token) + token.lock().unwrap().capacity() + 16).sum();
    let bytes = (resident() - empty).saturating_sub(own) / sessions;
    let next = AtomicUsize::new(0);
    let refresh = median(async || {
        let turn = next.fetch_add(1, Ordering::Relaxed);
        ahead.store(3600 * (turn as u64 + 1), Ordering::Relaxed);
        let started = Instant::now();
        for n in 0..PART as usize {
            // Far apart in memory.
            let token = &tokens[(n * 7_919) % tokens.len()];
            let presented = token.lock().unwrap().clone();
            let refreshed = auth.refresh(&presented, ClientInfo::new().user_agent(user_agent)).await.unwrap();
            if let Some(new) = refreshed.tokens.refresh_token {
                *token.lock().unwrap() = new;
            }
        }
        started.elapsed() / PART
    });
    let refresh = refresh.await;
    let login = median(async || {
        let started = Instant::now();
        for user in 0..PART as usize {
            login(sessions + PART as usize * next.load(Ordering::Relaxed) + user).await;
        }
        next.fetch_add(1, Ordering::Relaxed);
        started.elapsed() / PART
    });
    let login = login.await;
    println!(
        "{sessions:10} | {bytes:13} | {:8.1} {:13.1} | {:10.1}",
        login.as_secs_f64() * 1e6,
        slowest.as_secs_f64() * 1e3,
        refresh.as_secs_f64() * 1e6
    );
}

async fn median(part: impl AsyncFn() -> Duration) -> Duration {
    let mut times = Vec::new();
    for _ in 0..PARTS {
        times.push(part().await);
    }
    times.sort_unstable();
    times[PARTS / 2]
}
