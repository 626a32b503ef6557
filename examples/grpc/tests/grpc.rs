//! What a client of tonic gets, with axum's server and with tonic's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use axum_refresh::keys::SigningKey;
use axum_refresh::store::{
    Activity, ExternalId, FeedCursor, FeedWindow, InsertOptions, Inserted, Revocation, RevocationBatch, RevokeTarget,
    Revoked, SessionRecord, StoreError, Timestamp,
};
use axum_refresh::verifier::Verifier;
use axum_refresh::{Auth, MemoryStore, NoClaims, RevocationReason, Secret, SessionId, SessionStore};
use axum_refresh_grpc_example::Notebook;
use axum_refresh_grpc_example::proto::{ListRequest, Note, NotesClient, NotesServer};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Status};
use tower_http::map_response_body::MapResponseBodyLayer;

const SERVERS: [Serve; 2] = [Serve::Axum, Serve::Tonic];

#[derive(Clone, Copy, Debug)]
enum Serve {
    Axum,
    Tonic,
}

impl Serve {
    /// Serves the service on a free port, and connects to it.
    async fn start(self, auth: &Auth) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        match self {
            Self::Axum => serve_by_axum(listener, axum_refresh_grpc_example::router(auth)),
            Self::Tonic => {
                let server = Server::builder()
                    .layer(auth.layer())
                    .layer(auth.guard())
                    .layer(MapResponseBodyLayer::new(axum::body::Body::new))
                    .add_service(NotesServer::new(Notebook::default()));
                tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
            }
        }
        Client::connect(address).await
    }

    /// The same for the users of another service.
    async fn start_verified(self, verifier: &Verifier) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        match self {
            Self::Axum => serve_by_axum(listener, axum_refresh_grpc_example::verified_router(verifier)),
            Self::Tonic => {
                let server = Server::builder()
                    .layer(verifier.layer())
                    .layer(MapResponseBodyLayer::new(axum::body::Body::new))
                    .add_service(NotesServer::new(Notebook::default()));
                tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
            }
        }
        Client::connect(address).await
    }
}

fn serve_by_axum(listener: TcpListener, app: axum::Router) {
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
}

struct Client(NotesClient<Channel>);

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        Self(NotesClient::connect(format!("http://{address}")).await.unwrap())
    }

    async fn add(&mut self, token: &str, text: &str) -> Result<u64, Status> {
        let note = Note { text: text.to_owned() };
        Ok(self.0.add(with_token(note, token)).await?.into_inner().count)
    }

    async fn list(&mut self, token: &str) -> Result<Vec<String>, Status> {
        let mut notes = self.0.list(with_token(ListRequest {}, token)).await?.into_inner();
        let mut texts = Vec::new();
        while let Some(note) = notes.message().await? {
            texts.push(note.text);
        }
        Ok(texts)
    }

    /// Asserts that both methods are refused.
    async fn is_refused(&mut self, token: &str, code: Code, message: &str) {
        let unary = self.add(token, "x").await.unwrap_err();
        let stream = self.list(token).await.unwrap_err();
        for status in [unary, stream] {
            assert_eq!((status.code(), status.message()), (code, message));
        }
    }
}

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    if !token.is_empty() {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    request
}

/// A clock that the test moves.
#[derive(Clone, Default)]
struct Clock(Arc<AtomicU64>);

impl Clock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + self.0.load(Ordering::SeqCst))
    }

    fn advance(&self, duration: Duration) {
        self.0.fetch_add(duration.as_secs(), Ordering::SeqCst);
    }
}

fn auth() -> Auth {
    Auth::builder(Secret::random().unwrap(), MemoryStore::new()).build().unwrap()
}

#[tokio::test]
async fn a_user_with_a_token_calls_both_kinds_of_method() {
    for serve in SERVERS {
        let auth = auth();
        let mut client = serve.start(&auth).await;
        let alice = auth.login("alice", NoClaims {}).await.unwrap().tokens.access_token;
        let bob = auth.login("bob", NoClaims {}).await.unwrap().tokens.access_token;
        assert_eq!(client.add(&alice, "one").await.unwrap(), 1);
        assert_eq!(client.add(&alice, "two").await.unwrap(), 2);
        assert_eq!(client.add(&bob, "three").await.unwrap(), 1);
        assert_eq!(client.list(&alice).await.unwrap(), ["one", "two"], "{serve:?}");
        assert_eq!(client.list(&bob).await.unwrap(), ["three"], "{serve:?}");
    }
}

#[tokio::test]
async fn a_call_without_a_valid_token_is_unauthenticated() {
    for serve in SERVERS {
        let auth = auth();
        let mut client = serve.start(&auth).await;
        client.is_refused("", Code::Unauthenticated, "access_token_missing").await;
        client.is_refused("x", Code::Unauthenticated, "access_token_invalid").await;
    }
}

#[tokio::test]
async fn a_revoked_token_is_unauthenticated() {
    for serve in SERVERS {
        let auth = auth();
        let mut client = serve.start(&auth).await;
        let tokens = auth.login("alice", NoClaims {}).await.unwrap().tokens;
        assert_eq!(client.add(&tokens.access_token, "one").await.unwrap(), 1);
        auth.revoke_session(tokens.session_id, RevocationReason::Logout).await.unwrap();
        client.is_refused(&tokens.access_token, Code::Unauthenticated, "access_token_revoked").await;
    }
}

#[tokio::test]
async fn an_expired_token_is_unauthenticated() {
    for serve in SERVERS {
        let clock = Clock::default();
        let time = clock.clone();
        let builder = Auth::builder(Secret::random().unwrap(), MemoryStore::new());
        let auth: Auth = builder.clock(move || time.now()).build().unwrap();
        let mut client = serve.start(&auth).await;
        let token = auth.login("alice", NoClaims {}).await.unwrap().tokens.access_token;
        assert_eq!(client.add(&token, "one").await.unwrap(), 1);
        clock.advance(Duration::from_secs(60 * 60));
        client.is_refused(&token, Code::Unauthenticated, "access_token_expired").await;
    }
}

#[tokio::test]
async fn a_store_that_is_down_is_unavailable() {
    for serve in SERVERS {
        let secret = Secret::random().unwrap();
        // Another node, whose store still works.
        let other: Auth = Auth::builder(secret.clone(), MemoryStore::new()).build().unwrap();
        let token = other.login("alice", NoClaims {}).await.unwrap().tokens.access_token;
        let auth: Auth = Auth::builder(secret, Down).build().unwrap();
        let mut client = serve.start(&auth).await;
        client.is_refused(&token, Code::Unavailable, "store_unavailable").await;
    }
}

/// A store that nobody can reach.
struct Down;

fn down<T>() -> Result<T, StoreError> {
    Err(StoreError::new("connection refused"))
}

#[async_trait]
impl SessionStore for Down {
    async fn insert(&self, _: &SessionRecord, _: InsertOptions) -> Result<Inserted, StoreError> {
        down()
    }

    async fn load(&self, _: SessionId) -> Result<Option<SessionRecord>, StoreError> {
        down()
    }

    async fn compare_and_swap(&self, _: u64, _: &SessionRecord) -> Result<bool, StoreError> {
        down()
    }

    async fn list(&self, _: &str, _: usize) -> Result<Vec<SessionRecord>, StoreError> {
        down()
    }

    async fn find_external(&self, _: ExternalId) -> Result<Vec<SessionId>, StoreError> {
        down()
    }

    async fn revoke(&self, _: RevokeTarget<'_>, _: Revocation) -> Result<Revoked, StoreError> {
        down()
    }

    async fn record_activity(&self, _: &[Activity]) -> Result<(), StoreError> {
        down()
    }

    async fn read_revocations(&self, _: FeedCursor, _: FeedWindow) -> Result<RevocationBatch, StoreError> {
        down()
    }

    async fn purge(&self, _: Timestamp, _: usize) -> Result<usize, StoreError> {
        down()
    }
}

/// An Ed25519 key for this test.
const KEY: &[u8] = b"-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g
-----END PRIVATE KEY-----
";

#[tokio::test]
async fn a_service_that_only_verifies_knows_the_users_and_the_revocations_of_the_issuer() {
    let token = || Secret::new("Zk8vQ2mX7pL4tR9wB3nY6cD1fH5jK0sA");
    let builder = Auth::builder(Secret::random().unwrap(), MemoryStore::new());
    let auth: Auth = builder.signing_key(SigningKey::from_pem(KEY).unwrap()).verifier_token(token()).build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let app = axum::Router::new().nest("/auth", auth.router()).merge(auth.jwks_router().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    for serve in SERVERS {
        let verifier: Verifier = Verifier::from_url(format!("{issuer}/.well-known/jwks.json"))
            .revocations(format!("{issuer}/auth/revocations"), token())
            .build()
            .unwrap();
        let mut client = serve.start_verified(&verifier).await;
        let login = auth.login("alice", NoClaims {}).await.unwrap().tokens;
        client.is_refused("", Code::Unauthenticated, "access_token_missing").await;
        client.is_refused("x", Code::Unauthenticated, "access_token_invalid").await;
        assert_eq!(client.add(&login.access_token, "one").await.unwrap(), 1);
        assert_eq!(client.list(&login.access_token).await.unwrap(), ["one"], "{serve:?}");
        auth.revoke_session(login.session_id, RevocationReason::Logout).await.unwrap();
        for _ in 0..200 {
            if client.list(&login.access_token).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        client.is_refused(&login.access_token, Code::Unauthenticated, "access_token_revoked").await;
    }
}
