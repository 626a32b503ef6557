//! The server: the same answer on every route, behind different checks.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{Extensions, Request, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use axum_refresh::config::{Binding, BindingMode};
use axum_refresh::keys::SigningKey;
use axum_refresh::verifier::Verifier;
use axum_refresh::{
    Auth, AuthUser, ClientInfo, MemoryStore, Policy, PostgresStore, RevocationReason, Secret, SessionStore, Settings,
};
use axum_refresh_e2e::stores;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use tower::layer::layer_fn;

use crate::CLIENTS;

const VERIFIER_TOKEN: &str = "Zk8vQ2mX7pL4tR9wB3nY6cD1fH5jK0sA";
pub(crate) const USER_AGENT: &str = "Mozilla/5.0 Chrome/138.0.0.0";

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claims {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
}

/// The response of every route.
#[derive(Serialize)]
struct Answer<U, R> {
    user: U,
    role: Option<R>,
    more: &'static str,
}

fn answer<U: Serialize, R: Serialize>(user: U, role: Option<R>) -> Json<Answer<U, R>> {
    Json(Answer { user, role, more: "the same for everybody" })
}

/// An empty store of the kind in the variable `STORE`, configured as in the demo.
async fn open_store() -> Arc<dyn SessionStore> {
    let Some(url) = stores::fresh_url("STORE").await else { return Arc::new(MemoryStore::new()) };
    if url.starts_with("postgres") {
        let store = PostgresStore::connect(&url).await.unwrap().push();
        store.migrate().await.unwrap();
        return Arc::new(store);
    }
    stores::open(&url).await
}

fn build(store: Arc<dyn SessionStore>, change: impl FnOnce(&mut Settings)) -> Auth<Claims> {
    let policy =
        Policy { binding: Binding { user_agent: BindingMode::Reject, ..Binding::default() }, ..Policy::default() };
    Auth::builder(Secret::new("k4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6rA"), store)
        .settings(Settings { policy, ..Settings::default() })
        .configure(change)
        .build()
        .unwrap()
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn serve(sessions: usize) {
    let store = open_store().await;
    let auth = build(Arc::clone(&store), |_| {});
    // Another node, which sees the sessions in another version of the browser.
    let elsewhere = build(store, |_| {});
    // The same tokens are valid here, and each is verified every time.
    let uncached = build(Arc::new(MemoryStore::new()), |settings| settings.token_cache = 0);
    // Here too, where 10,000 sessions of others were revoked, and one more is at every 1000th request.
    let revoking = build(Arc::new(MemoryStore::new()), |_| {});
    let revoke_another = {
        let revoking = revoking.clone();
        async move || {
            let login = revoking.login("others", Claims { role: None }).await.unwrap();
            revoking.revoke_session(login.tokens.session_id, RevocationReason::Other).await.unwrap();
        }
    };
    for _ in 0..10_000 {
        revoke_another().await;
    }
    // Its access tokens are signed with a private key, and verified here and as another service does it.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let store: Arc<dyn SessionStore> = Arc::new(MemoryStore::new());
    let issuer = |token_cache: usize| {
        let key = SigningKey::from_pem(include_bytes!("../../../../src/token/keys_for_tests/ed25519.pem")).unwrap();
        let builder = Auth::<Claims>::builder(Secret::new("k4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6rA"), Arc::clone(&store));
        let builder = builder.signing_key(key).verifier_token(Secret::new(VERIFIER_TOKEN));
        builder.configure(|settings| settings.token_cache = token_cache).build().unwrap()
    };
    let token_cache = Settings::default().token_cache;
    let (eddsa, eddsa_uncached) = (issuer(token_cache), issuer(0));
    let verifier = |token_cache: usize| {
        Verifier::<Claims>::from_url(format!("http://{address}/.well-known/jwks.json"))
            .revocations(format!("http://{address}/issuer/revocations"), Secret::new(VERIFIER_TOKEN))
            .configure(|settings| settings.token_cache = token_cache)
            .build()
            .unwrap()
    };
    let (verified, verified_uncached) = (verifier(token_cache), verifier(0));
    // Every refresh rotates: a second is an hour here.
    let (began, started) = (SystemTime::now(), Instant::now());
    let refreshing = Auth::<Claims>::builder(Secret::new("k4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6rA"), open_store().await)
        .clock(move || began + started.elapsed() * 3600)
        .configure(|settings| {
            settings.policy.lifetime = Duration::from_secs(365 * 24 * 3600);
            settings.policy.idle_timeout = Duration::from_secs(365 * 24 * 3600);
        })
        .build()
        .unwrap();

    let files = |name: &str| {
        let path = std::path::Path::new(&std::env::var("TOKENS").unwrap()).join(name);
        std::fs::File::create(path).map(std::io::BufWriter::new).unwrap()
    };
    let (mut tokens, mut refresh_tokens, mut by_hand) = (files("access"), files("refresh"), files("by-hand"));
    let mut eddsa_tokens = files("eddsa");
    let client = || ClientInfo::new().user_agent(USER_AGENT).ip([10, 0, 0, 1].into());
    for n in 0..sessions {
        // Memory is measured without claims.
        let claims = Claims { role: (n < CLIENTS).then(|| "user".to_owned()) };
        let login = auth.login(format!("user-{n:09}"), claims.clone()).client(client()).await.unwrap().tokens;
        if n < CLIENTS {
            writeln!(tokens, "{}", login.access_token).unwrap();
            writeln!(by_hand, "{}", ByHand::issue(&format!("user-{n:09}"), &login.session_id.to_string())).unwrap();
            let login = eddsa.login(format!("user-{n:09}"), claims.clone()).client(client()).await.unwrap().tokens;
            writeln!(eddsa_tokens, "{}", login.access_token).unwrap();
            let login = refreshing.login(format!("user-{n:09}"), claims).client(client()).await.unwrap().tokens;
            writeln!(refresh_tokens, "{}", login.refresh_token.unwrap()).unwrap();
        }
    }
    for mut file in [tokens, refresh_tokens, by_hand, eddsa_tokens] {
        file.flush().unwrap();
    }

    let by_user = |user: AuthUser<Claims>| async move { answer(user.id, user.claims.role) };
    let count = Arc::new(AtomicU32::new(0));
    let while_revoking = move |user: AuthUser<Claims>| {
        let is_turn = count.fetch_add(1, Ordering::Relaxed).is_multiple_of(1000);
        let revoke_another = revoke_another.clone();
        async move {
            if is_turn {
                // Boxed, so that the handler's future is not larger than that of the other routes.
                Box::pin(revoke_another()).await;
            }
            answer(user.id, user.claims.role)
        }
    };
    let constant =
        Arc::new(ConstantUser { id: "user-000000000".into(), claims: Claims { role: Some("user".to_owned()) } });
    let bare = || async { answer("user-000000000", Some("user")) };
    let app = Router::new()
        .route("/bare", get(bare))
        .route("/bare-post", post(bare))
        .route("/noop", get(bare).route_layer(layer_fn(|inner| Constant(inner, ()))))
        .route(
            "/constant",
            get(|user: ConstantUser| async move { answer(user.id, user.claims.role) })
                .route_layer(layer_fn(move |inner| Constant(inner, Arc::clone(&constant)))),
        )
        .route("/by-hand", get(|user: ByHand| async move { answer(user.sub, user.role) }))
        .route("/eddsa-known", get(by_user).route_layer(eddsa.layer()))
        .route("/eddsa-unknown", get(by_user).route_layer(eddsa_uncached.layer()))
        .route("/eddsa-verifier-known", get(by_user).route_layer(verified.layer()))
        .route("/eddsa-verifier-unknown", get(by_user).route_layer(verified_uncached.layer()))
        .nest("/issuer", eddsa.router())
        .merge(eddsa.jwks_router().unwrap())
        .route("/known", get(by_user).route_layer(auth.layer()))
        .route("/unknown", get(by_user).route_layer(uncached.layer()))
        .route("/revoking", get(while_revoking).route_layer(revoking.layer()))
        .route("/both", get(by_user).route_layer((auth.layer(), auth.guard())))
        .route("/boxed", get(by_user).route_layer(auth.guard()).route_layer(auth.layer()))
        .route("/updated", get(by_user).route_layer((elsewhere.layer(), elsewhere.guard())))
        .route("/mark", get(async || mark()))
        .nest("/auth", refreshing.router());
    println!("{address}");
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await.unwrap();
}

/// callgrind starts to count anew when this is called.
#[inline(never)]
pub(crate) fn mark() {
    std::hint::black_box(());
}

/// The service of a layer that does nothing, or adds a user to every request.
#[derive(Clone)]
struct Constant<S, U>(S, U);

impl<S: tower::Service<Request<B>>, B, U: AddUser> tower::Service<Request<B>> for Constant<S, U> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        self.1.add_to(request.extensions_mut());
        self.0.call(request)
    }
}

trait AddUser {
    fn add_to(&self, extensions: &mut Extensions);
}

impl AddUser for () {
    fn add_to(&self, _: &mut Extensions) {}
}

/// As much as any layer for an extractor like `AuthUser` has to do.
impl AddUser for Arc<ConstantUser> {
    fn add_to(&self, extensions: &mut Extensions) {
        extensions.insert(Arc::clone(self));
    }
}

#[derive(Clone)]
struct ConstantUser {
    id: Arc<str>,
    claims: Claims,
}

impl<S: Sync> FromRequestParts<S> for ConstantUser {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        let user = parts.extensions.get::<Arc<Self>>().ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
        Ok(Self::clone(user))
    }
}

/// What many apps write themselves: an extractor that verifies a token with jsonwebtoken, and knows no revocations.
#[derive(Serialize, Deserialize)]
struct ByHand {
    iss: String,
    aud: String,
    sub: String,
    sid: String,
    r#gen: u32,
    jti: String,
    iat: u64,
    exp: u64,
    role: Option<String>,
}

struct ByHandKeys {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
}

static BY_HAND: std::sync::LazyLock<ByHandKeys> = std::sync::LazyLock::new(|| {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let secret = b"k4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6rA";
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_issuer(&["axum-refresh"]);
    validation.set_audience(&["axum-refresh"]);
    ByHandKeys { encoding: EncodingKey::from_secret(secret), decoding: DecodingKey::from_secret(secret), validation }
});

impl ByHand {
    fn issue(user: &str, session: &str) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let claims = Self {
            iss: "axum-refresh".to_owned(),
            aud: "axum-refresh".to_owned(),
            sub: user.to_owned(),
            sid: session.to_owned(),
            r#gen: 0,
            jti: "AZqLRwAAAAAAAAAAAAAAAAAA".to_owned(),
            iat: now,
            exp: now + 3600,
            role: Some("user".to_owned()),
        };
        let header = Header { typ: Some("at+jwt".to_owned()), kid: Some("AAAAAAAA".to_owned()), ..Header::default() };
        jsonwebtoken::encode(&header, &claims, &BY_HAND.encoding).unwrap()
    }
}

impl<S: Sync> FromRequestParts<S> for ByHand {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.strip_prefix("Bearer ")).ok_or(StatusCode::UNAUTHORIZED)?;
        let decoded = jsonwebtoken::decode(token, &BY_HAND.decoding, &BY_HAND.validation);
        decoded.map(|token| token.claims).map_err(|_| StatusCode::UNAUTHORIZED)
    }
}
