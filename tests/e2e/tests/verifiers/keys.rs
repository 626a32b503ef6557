//! The signing key changes while a service verifies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use axum::http::HeaderValue;
use axum::http::header::CACHE_CONTROL;
use axum_refresh::keys::SigningKey;
use axum_refresh::verifier::Verifier;
use axum_refresh::{Auth, MemoryStore, NoClaims, Secret};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower_http::set_header::SetResponseHeaderLayer;

use super::{TOKEN, key_file};

fn key(name: &str) -> SigningKey {
    SigningKey::from_pem(&std::fs::read(key_file(name)).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_changes_under_load_and_no_token_is_refused() {
    // Minutes that pass at once.
    let ahead = Arc::new(AtomicU64::new(0));
    let clock = || {
        let ahead = Arc::clone(&ahead);
        move || SystemTime::now() + Duration::from_secs(ahead.load(Ordering::SeqCst))
    };
    let auth: Auth = Auth::builder(Secret::random().unwrap(), MemoryStore::new())
        .signing_key(key("ed25519.pem"))
        .verifier_token(Secret::new(TOKEN))
        .clock(clock())
        .build()
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    // The shortest time for which a verifier keeps the set.
    let max_age = SetResponseHeaderLayer::overriding(CACHE_CONTROL, HeaderValue::from_static("public, max-age=30"));
    let app = axum::Router::new().nest("/auth", auth.router()).merge(auth.jwks_router().unwrap().layer(max_age));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let verifier: Verifier = Verifier::from_url(format!("{issuer}/.well-known/jwks.json"))
        .revocations(format!("{issuer}/auth/revocations"), Secret::new(TOKEN))
        .clock(clock())
        .build()
        .unwrap();
    verifier.ready().await.unwrap();

    let (is_over, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let (auth, verifier) = (auth.clone(), verifier.clone());
        let (is_over, requests) = (Arc::clone(&is_over), Arc::clone(&requests));
        clients.spawn(async move {
            let mut algorithms = std::collections::BTreeSet::new();
            while !is_over.load(Ordering::SeqCst) {
                let token = auth.login("alice", NoClaims {}).await.unwrap().tokens.access_token;
                algorithms.insert(token.split('.').next().unwrap().to_owned());
                for _ in 0..10 {
                    verifier.authenticate(&token).await.unwrap();
                    requests.fetch_add(1, Ordering::SeqCst);
                }
                sleep(Duration::from_millis(5)).await;
            }
            algorithms.len()
        });
    }
    sleep(Duration::from_secs(1)).await;
    let now = || SystemTime::now() + Duration::from_secs(ahead.load(Ordering::SeqCst));
    let signs_from = auth.rotate_to(key("es256.pem"), now()).await.unwrap();
    assert!(signs_from > now());
    // Longer than the set is kept.
    sleep(Duration::from_secs(30)).await;
    ahead.store(301, Ordering::SeqCst);
    sleep(Duration::from_secs(2)).await;
    is_over.store(true, Ordering::SeqCst);
    let keys = clients.join_all().await;
    assert!(keys.iter().all(|keys| *keys == 2), "{keys:?}");
    println!("{} requests, none refused", requests.load(Ordering::SeqCst));
}
