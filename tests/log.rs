//! An app that is set up wrongly gets one line in the log that says what to do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::extract::connect_info::MockConnectInfo;
use axum::http::Request;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum_refresh::config::{BindingMode, ForwardedHeader, SameSite};
use axum_refresh::{Auth, AuthUser, Claims, ClientInfo, MemoryStore, NoClaims, Secret, Settings};
use serde::{Deserialize, Serialize};
use support::{Fault, FaultyStore};
use tower::ServiceExt as _;

const SECRET: &str = "k4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6rA";

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// What was logged since the last call.
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }

    /// Logs in this thread until the guard is dropped.
    fn start(&self) -> tracing::subscriber::DefaultGuard {
        let writer = self.clone();
        tracing::subscriber::set_default(tracing_subscriber::fmt().with_writer(move || writer.clone()).finish())
    }

    /// The same with the level `debug`, and with each span at its end.
    fn start_with_spans(&self) -> tracing::subscriber::DefaultGuard {
        let writer = self.clone();
        let output = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE);
        tracing::subscriber::set_default(output.with_writer(move || writer.clone()).finish())
    }
}

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn who_sends_a_request_is_recorded_in_its_span_if_the_settings_allow_it_and_the_span_has_the_fields() {
    use tracing::Instrument as _;
    use tracing::field::Empty;
    let log = Log::default();
    let _guard = log.start();
    for trace_users in [false, true] {
        let settings = Settings { trace_users, ..Settings::default() };
        let auth: Auth =
            Auth::builder(Secret::random().unwrap(), MemoryStore::new()).settings(settings).build().unwrap();
        let login = auth.login("alice", NoClaims {}).await.unwrap().tokens;
        let handler = async || tracing::info!("handled");
        let app: Router = Router::new().route("/", get(handler)).route_layer((auth.layer(), auth.guard()));
        let call = async |span: tracing::Span| {
            let request = Request::get("/").header("authorization", format!("Bearer {}", login.access_token));
            let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).instrument(span).await.unwrap();
            assert_eq!(response.status(), 200);
            log.take()
        };
        // The second time the token is known.
        for _ in 0..2 {
            let logged = call(tracing::info_span!("request", user.id = Empty, session.id = Empty)).await;
            assert!(logged.contains("handled"), "{logged}");
            assert_eq!(logged.contains("user.id=\"alice\""), trace_users, "{logged}");
            assert_eq!(logged.contains(&format!("session.id={}", login.session_id)), trace_users, "{logged}");
        }
        assert!(!call(tracing::info_span!("request")).await.contains("alice"));
    }
}

#[tokio::test]
async fn a_call_of_the_store_within_a_request_is_a_span() {
    use tracing::Instrument as _;
    let log = Log::default();
    let _guard = log.start_with_spans();
    let store = FaultyStore::default();
    let auth: Auth = Auth::builder(Secret::random().unwrap(), store.clone()).build().unwrap();
    let login = async |user: &str| {
        async { auth.login(user, NoClaims {}).await }.instrument(tracing::info_span!("request")).await
    };
    drop(login("alice").await.unwrap());
    let logged = log.take();
    assert!(logged.contains("request:store_call{db.operation.name=\"insert\"}"), "{logged}");
    store.set(Fault::Fails);
    assert!(login("alice").await.is_err());
    let logged = log.take();
    assert!(logged.contains("store_call{db.operation.name=\"insert\" error.type=\"error\"}"), "{logged}");
    // Without a span around it there is none.
    store.set(Fault::None);
    drop(auth.login("alice", NoClaims {}).await.unwrap());
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let logged = log.take();
    assert!(!logged.contains("store_call"), "{logged}");
}

#[cfg(feature = "verifier")]
#[tokio::test]
async fn a_request_that_waits_for_the_issuer_has_a_span_for_that() {
    use axum_refresh::verifier::Verifier;
    use tracing::Instrument as _;
    let log = Log::default();
    let _guard = log.start_with_spans();
    // Nobody listens there.
    let url = "http://127.0.0.1:1/jwks.json";
    let token = "eyJ0eXAiOiJhdCtqd3QiLCJhbGciOiJFZERTQSIsImtpZCI6ImEifQ.e30.AAAA";
    let verifier = Verifier::<NoClaims>::from_url(url).without_revocations().build().unwrap();
    let refused = verifier.authenticate(token).instrument(tracing::info_span!("request")).await;
    assert_eq!(refused.err().map(|error| error.code()), Some("store_unavailable"));
    let logged = log.take();
    let span = "request:issuer_request{http.request.method=\"GET\" url.full=http://127.0.0.1:1/jwks.json error.type=\"error\"}";
    assert!(logged.contains(span), "{logged}");
}

#[test]
fn a_second_auth_with_the_same_keys_and_realm_is_an_error_in_the_log() {
    let log = Log::default();
    let _guard = log.start();
    let build = |realm: &str| {
        let settings = Settings { realm: Some(realm.to_owned()), ..Settings::default() };
        Auth::<NoClaims>::builder(Secret::new(SECRET), MemoryStore::new()).settings(settings).build().unwrap()
    };
    let _first = build("logged-one");
    let _other = build("logged-two");
    assert_eq!(log.take(), "");
    let _twin = build("logged-one");
    let text = log.take();
    assert!(text.contains("ERROR") && text.contains("set a different `realm` for each"), "{text}");
}

#[tokio::test]
async fn an_optional_user_without_a_layer_for_its_claims_is_one_error_in_the_log_for_each_route() {
    #[derive(Clone, Serialize, Deserialize)]
    struct OtherClaims {}

    let log = Log::default();
    let _guard = log.start();
    let settings = Settings { realm: Some("optional".to_owned()), ..Settings::default() };
    let auth: Auth = Auth::builder(Secret::new(SECRET), MemoryStore::new()).settings(settings).build().unwrap();
    let name = async |user: Option<AuthUser<OtherClaims>>| user.map_or("nobody".to_owned(), |user| user.id.to_string());
    let app = Router::new()
        .route("/with-the-layer-of-another-type", get(name).route_layer(auth.layer().optional()))
        .route("/without-a-layer", get(name));
    for path in ["/with-the-layer-of-another-type", "/without-a-layer", "/without-a-layer"] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        assert_eq!(&*body, b"nobody");
    }
    let text = log.take();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("ERROR") && text.contains("OtherClaims") && text.contains("add one of them"), "{text}");
}

#[tokio::test]
async fn an_admin_router_behind_another_guard_than_a_layer_of_its_auth_logs_nothing() {
    let log = Log::default();
    let _guard = log.start();
    let settings = Settings { realm: Some("admin-router".to_owned()), ..Settings::default() };
    let auth: Auth = Auth::builder(Secret::new(SECRET), MemoryStore::new()).settings(settings).build().unwrap();
    let request = Request::get("/users/alice/sessions").body(Body::empty()).unwrap();
    let response = auth.admin_router::<()>().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(log.take(), "");
}

/// An app with its router at a path.
fn mounted(realm: &str, path: &str, change: impl FnOnce(&mut Settings)) -> (Auth, Router) {
    let mut settings = Settings { realm: Some(realm.to_owned()), ..Settings::default() };
    change(&mut settings);
    let auth: Auth = Auth::builder(Secret::new(SECRET), MemoryStore::new()).settings(settings).build().unwrap();
    let login =
        async |State(auth): State<Auth>, client: ClientInfo| auth.login("alice", NoClaims {}).client(client).await;
    let app = Router::new().route("/login", post(login)).with_state(auth.clone()).nest(path, auth.router());
    (auth, app)
}

/// The refresh cookie of a new session, as a browser sends it.
async fn refresh_cookie<C: Claims + Default>(auth: &Auth<C>) -> String {
    let response = auth.login("alice", C::default()).await.unwrap().into_response();
    let cookies = response.headers().get_all("set-cookie").iter().map(|cookie| cookie.to_str().unwrap());
    cookies.filter_map(|cookie| cookie.split(';').next()).find(|pair| pair.contains("refresh")).unwrap().to_owned()
}

async fn call(app: &Router, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = Request::builder().method(method).uri(path).header("host", "app.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_router_where_the_refresh_cookie_is_not_sent_is_one_warning_at_the_first_request() {
    let log = Log::default();
    let _guard = log.start();
    for (realm, path, cookie_path, request, headers, expected) in [
        ("mount-default", "/auth", "/auth", "/auth/refresh", vec![], None),
        ("mount-root", "/api/v1/auth", "/", "/api/v1/auth/refresh", vec![], None),
        ("mount-other", "/api/v1/auth", "/auth", "/api/v1/auth/refresh", vec![], Some("/api/v1/auth")),
        ("mount-script", "/api/v1/auth", "/auth", "/api/v1/auth/sessions", vec![], Some("/api/v1/auth")),
        ("mount-similar", "/authentication", "/auth", "/authentication/refresh", vec![], Some("/authentication")),
        // A proxy has removed a prefix and says so.
        ("mount-prefix", "/auth", "/auth", "/auth/refresh", vec![("x-forwarded-prefix", "/shop")], Some("/shop/auth")),
        ("mount-right", "/auth", "/shop/auth", "/auth/refresh", vec![("x-forwarded-prefix", "/shop/")], None),
        // It says nothing, but the browser has sent the cookie.
        (
            "mount-silent",
            "/auth",
            "/shop/auth",
            "/auth/refresh",
            vec![("cookie", "__Secure-refresh-mount-silent=x")],
            None,
        ),
    ] {
        let (_auth, app) = mounted(realm, path, |settings| settings.refresh_cookie.path = cookie_path.to_owned());
        for _ in 0..3 {
            call(&app, "POST", request, &headers).await;
        }
        let text = log.take();
        match expected {
            None => assert_eq!(text, "", "{realm}"),
            Some(mount) => {
                assert_eq!(text.lines().count(), 1, "{realm}: {text}");
                assert!(text.contains("WARN") && text.contains("refresh_cookie.path"), "{text}");
                assert!(text.contains(&format!("such as \"{mount}\"")), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn a_proxy_that_adds_a_prefix_is_no_warning_if_the_refresh_cookie_arrives() {
    let log = Log::default();
    let _guard = log.start();
    let (auth, app) = mounted("added", "/api/auth", |_| ());
    let cookie = refresh_cookie(&auth).await;
    assert_eq!(call(&app, "POST", "/api/auth/refresh", &[("cookie", &cookie)]).await.status(), 200);
    // Now the setup is known to be right.
    call(&app, "POST", "/api/auth/refresh", &[]).await;
    assert_eq!(log.take(), "");
}

#[tokio::test]
async fn a_client_on_the_internet_cannot_name_a_prefix() {
    let log = Log::default();
    let _guard = log.start();
    let (_auth, app) = mounted("spoofed", "/auth", |_| ());
    for (peer, lines) in [([203, 0, 113, 7], 0), ([10, 0, 0, 7], 1)] {
        let app = app.clone().layer(MockConnectInfo(SocketAddr::from((peer, 4711))));
        call(&app, "POST", "/auth/refresh", &[("x-forwarded-prefix", "/spoofed")]).await;
        assert_eq!(log.take().lines().count(), lines, "{peer:?}");
    }
}

#[tokio::test]
async fn a_browser_that_is_logged_in_and_sends_no_refresh_cookie_is_one_warning() {
    let log = Log::default();
    let _guard = log.start();
    let (auth, app) = mounted("missing", "/auth", |settings| settings.hint_cookie = true);
    let hint = format!("{}=1", auth.hint_cookie_name().unwrap());
    let both = format!("{}; {hint}", refresh_cookie(&auth).await);
    for (cookie, lines) in [("theme=dark", 0), (&*hint, 1), (&*hint, 0), (&*both, 0)] {
        call(&app, "POST", "/auth/refresh", &[("cookie", cookie)]).await;
        let text = log.take();
        assert_eq!(text.lines().count(), lines, "{cookie}: {text}");
        assert!(lines == 0 || text.contains("refresh_cookie.path"), "{text}");
    }
}

#[tokio::test]
async fn a_login_by_a_page_of_another_site_is_one_warning_unless_the_cookie_goes_there() {
    let log = Log::default();
    let _guard = log.start();
    let script = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors"), ("origin", "https://spa.example")];
    let form = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
    let near = [("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors")];
    for (realm, same_site, headers, lines) in [
        ("site-script", SameSite::Lax, &script[..], 1),
        ("site-strict", SameSite::Strict, &script[..], 1),
        ("site-none", SameSite::None, &script[..], 0),
        ("site-form", SameSite::Lax, &form[..], 0),
        ("site-near", SameSite::Lax, &near[..], 0),
    ] {
        let (_auth, app) = mounted(realm, "/auth", |settings| settings.refresh_cookie.same_site = same_site);
        for _ in 0..2 {
            assert_eq!(call(&app, "POST", "/login", headers).await.status(), 200);
        }
        let text = log.take();
        assert_eq!(text.lines().count(), lines, "{realm}: {text}");
        assert!(lines == 0 || text.contains("credentials: \"include\""), "{text}");
    }
}

#[tokio::test]
async fn a_login_page_behind_the_layer_is_one_error() {
    let log = Log::default();
    let _guard = log.start();
    let (auth, app) = mounted("login-page", "/auth", |settings| settings.login_page = Some("/login".to_owned()));
    let app = app.layer(auth.layer());
    for path in ["/login", "/login?next=/x", "/other"] {
        call(&app, "GET", path, &[("accept", "text/html")]).await;
    }
    let text = log.take();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("ERROR") && text.contains("outside the layer"), "{text}");
}

#[tokio::test]
async fn an_access_cookie_that_browsers_would_drop_is_left_out_of_a_refresh_with_an_error() {
    #[derive(Clone, Default, Serialize, Deserialize)]
    struct Text {
        text: String,
    }

    let log = Log::default();
    let _guard = log.start();
    let settings = Settings { realm: Some("large".to_owned()), ..Settings::for_pages() };
    let auth: Auth<Text> = Auth::builder(Secret::new(SECRET), MemoryStore::new())
        .settings(settings)
        .claims_hook(async |_| Ok::<_, std::convert::Infallible>(Some(Text { text: "x".repeat(4_000) })))
        .build()
        .unwrap();
    let cookie = refresh_cookie(&auth).await;
    let app: Router = Router::new().nest("/auth", auth.router());
    let response = call(&app, "POST", "/auth/refresh", &[("cookie", &cookie)]).await;
    assert_eq!(response.status(), 200);
    call(&app, "POST", "/auth/refresh", &[("cookie", &cookie)]).await;
    let names: Vec<_> = response.headers().get_all("set-cookie").iter().map(|it| it.to_str().unwrap()).collect();
    assert!(names.iter().all(|it| !it.contains("access")), "{names:?}");
    let text = log.take();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("ERROR") && text.contains("return smaller claims"), "{text}");
}

/// What an `Auth` that is bound to addresses logs of its setup.
struct Bound {
    auth: Auth,
    log: Log,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Bound {
    fn new(realm: &str, change: impl FnOnce(&mut Settings)) -> Self {
        let log = Log::default();
        let guard = log.start();
        let mut settings = Settings { realm: Some(realm.to_owned()), ..Settings::default() };
        settings.policy.binding.ip = BindingMode::Reject;
        change(&mut settings);
        let auth = Auth::builder(Secret::new(SECRET), MemoryStore::new()).settings(settings).build().unwrap();
        Self { auth, log, _guard: guard }
    }

    /// The warnings about the setup after a login and a few refreshes by this client.
    async fn after_use_by(&self, client: ClientInfo) -> Vec<String> {
        for _ in 0..2 {
            let login = self.auth.login("alice", NoClaims {}).client(client.clone()).await.unwrap();
            let token = login.tokens.refresh_token.unwrap();
            for _ in 0..2 {
                drop(self.auth.refresh(&token, client.clone()).await);
            }
        }
        self.warnings()
    }

    fn warnings(&self) -> Vec<String> {
        let text = self.log.take();
        text.lines()
            .filter(|line| line.contains("WARN") && line.contains(": binding.ip is on"))
            .map(str::to_owned)
            .collect()
    }
}

/// A client behind 10.0.0.1, as both headers may name it.
fn client(peer: &str, forwarded_for: &str, forwarded: &str) -> ClientInfo {
    let client = ClientInfo::new().forwarded_for(forwarded_for).forwarded(forwarded);
    peer.parse().map_or(client.clone(), |peer| client.ip(peer))
}

#[tokio::test]
async fn a_request_without_a_peer_address_is_one_line_that_says_what_to_do() {
    let bound = Bound::new("no-peer", |_| ());
    let [line] = bound.after_use_by(ClientInfo::new()).await.try_into().unwrap();
    assert!(line.contains("into_make_service_with_connect_info") && line.contains("trust_unknown_peer"), "{line}");
    // Once, also for another client.
    assert!(bound.after_use_by(client("", "203.0.113.7", "")).await.is_empty());
}

#[tokio::test]
async fn a_request_without_a_peer_address_through_a_layer_is_one_line_too() {
    let bound = Bound::new("no-peer-guard", |_| ());
    let known = ClientInfo::new().ip("203.0.113.7".parse().unwrap());
    let token = bound.auth.login("alice", NoClaims {}).client(known).await.unwrap().tokens.access_token;
    let app = Router::new().route("/", get(async || "")).route_layer(bound.auth.guard());
    for _ in 0..3 {
        let request = Request::get("/").header("authorization", format!("Bearer {token}")).body(Body::empty()).unwrap();
        assert_eq!(app.clone().oneshot(request).await.unwrap().status(), 401);
    }
    assert_eq!(bound.warnings().len(), 1);
}

#[tokio::test]
async fn a_trusted_proxy_that_names_no_client_is_one_line() {
    let trust = |settings: &mut Settings| settings.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
    let cases = [
        ("unreadable", client("10.0.0.1", "unknown", ""), "something else than an address into X-Forwarded-For"),
        ("missing", client("10.0.0.1", "", ""), "let it send X-Forwarded-For"),
        ("other", client("10.0.0.1", "", "for=203.0.113.7"), "has Forwarded and no X-Forwarded-For"),
    ];
    for (realm, client, expected) in cases {
        let bound = Bound::new(&format!("proxy-{realm}"), trust);
        let [line] = bound.after_use_by(client).await.try_into().unwrap();
        assert!(line.contains(expected), "{line}");
    }
}

#[tokio::test]
async fn a_proxy_on_a_socket_without_addresses_that_sends_no_header_is_one_line() {
    let bound = Bound::new("no-header", |settings| {
        settings.trust_unknown_peer = true;
        settings.forwarded_header = ForwardedHeader::Forwarded;
    });
    let [line] = bound.after_use_by(client("", "203.0.113.7", "")).await.try_into().unwrap();
    assert!(line.contains("let the proxy send Forwarded"), "{line}");
}

#[tokio::test]
async fn a_proxy_that_nobody_trusts_is_one_line_and_a_client_that_looks_like_one_is_none() {
    for peer in ["127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "::1", "fd00::1"] {
        let bound = Bound::new(&format!("forgotten-{}", peer.replace([':', '.'], "-")), |_| ());
        let [line] = bound.after_use_by(client(peer, "203.0.113.7", "")).await.try_into().unwrap();
        assert!(line.contains(peer) && line.contains("add it to `trusted_proxies`"), "{line}");
    }
    let bound = Bound::new("not-forgotten", |_| ());
    assert!(bound.after_use_by(client("198.51.100.1", "203.0.113.7", "")).await.is_empty());
    assert!(bound.after_use_by(client("2a00::1", "203.0.113.7", "")).await.is_empty());
    assert!(bound.after_use_by(client("10.0.0.1", "", "for=203.0.113.7")).await.is_empty());
    assert!(bound.after_use_by(client("10.0.0.1", "", "")).await.is_empty());
}

#[tokio::test]
async fn a_right_setup_and_one_that_compares_no_addresses_log_nothing() {
    let bound = Bound::new("right", |settings| settings.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()]);
    assert!(bound.after_use_by(client("10.0.0.1", "203.0.113.7", "for=198.51.100.1")).await.is_empty());
    assert!(bound.after_use_by(client("198.51.100.1", "203.0.113.7", "")).await.is_empty());
    let bound = Bound::new("unbound", |settings| settings.policy.binding.ip = BindingMode::Off);
    assert!(bound.after_use_by(ClientInfo::new()).await.is_empty());
    let socket = Bound::new("right-socket", |settings| settings.trust_unknown_peer = true);
    assert!(socket.after_use_by(client("", "203.0.113.7", "")).await.is_empty());
}

#[tokio::test]
async fn a_login_that_names_no_client_is_one_line_if_clients_are_compared() {
    let bound = Bound::new("no-client", |settings| {
        settings.policy.binding.ip = BindingMode::Off;
        settings.policy.binding.user_agent = BindingMode::Reject;
    });
    for _ in 0..2 {
        drop(bound.auth.login("alice", NoClaims {}).label("tablet").await.unwrap());
    }
    let text = bound.log.take();
    assert_eq!(text.matches("pass it to LoginBuilder::client").count(), 1, "{text}");
    // A client of which nothing is known is not the app's mistake.
    let bound = Bound::new("no-user-agent", |settings| {
        settings.policy.binding.ip = BindingMode::Off;
        settings.policy.binding.user_agent = BindingMode::Reject;
    });
    drop(bound.auth.login("alice", NoClaims {}).client(ClientInfo::new()).await.unwrap());
    assert_eq!(bound.log.take().matches("LoginBuilder::client").count(), 0);
}

/// The keys of access tokens, and how they change.
#[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
mod keys {
    use std::time::{Duration, SystemTime};

    use axum_refresh::keys::SigningKey;

    use super::*;

    const ED25519: &[u8] = include_bytes!("../src/token/keys_for_tests/ed25519.pem");
    const ES256: &[u8] = include_bytes!("../src/token/keys_for_tests/es256.pem");

    fn key(pem: &[u8]) -> SigningKey {
        SigningKey::from_pem(pem).unwrap()
    }

    /// The tests run at the same time, and no two `Auth`s of a realm may have a key in common.
    fn auth(pem: &[u8], realm: &str) -> Auth {
        let settings = Settings { realm: Some(realm.to_owned()), audience: realm.to_owned(), ..Settings::default() };
        let builder = Auth::builder(Secret::random().unwrap(), MemoryStore::new()).settings(settings);
        builder.signing_key(key(pem)).build().unwrap()
    }

    #[tokio::test]
    async fn a_token_of_a_key_that_this_node_was_not_given_is_one_warning_that_names_the_key() {
        let log = Log::default();
        let _guard = log.start();
        let (one, two) = (auth(ED25519, "logged-key"), auth(ES256, "logged-key"));
        let token = one.login("alice", NoClaims {}).await.unwrap().tokens.access_token;
        for forged in ["", "x.y.z", &token.replacen("eyJ", "eyK", 1)] {
            assert!(two.authenticate(forged).await.is_err());
        }
        assert_eq!(log.take(), "");
        assert!(two.authenticate(&token).await.is_err());
        let text = log.take();
        assert!(text.contains("WARN") && text.contains("Auth::rotate_to"), "{text}");
        assert!(text.contains(&key(ED25519).thumbprint()), "{text}");
        assert!(two.authenticate(&token).await.is_err());
        assert_eq!(log.take(), "");
    }

    #[tokio::test]
    async fn a_key_that_is_asked_to_sign_too_soon_is_a_warning() {
        let log = Log::default();
        let _guard = log.start();
        let auth = auth(ED25519, "logged-change");
        let soon = SystemTime::now();
        auth.rotate_to(key(ES256), soon).await.unwrap();
        let text = log.take();
        assert!(text.contains("WARN") && text.contains("instead of earlier"), "{text}");
        auth.rotate_to(key(ES256), soon).await.unwrap();
        assert_eq!(log.take(), "");
        auth.rotate_to(key(ES256), soon + Duration::from_secs(3600)).await.unwrap();
        let text = log.take();
        assert!(text.contains("INFO") && text.contains("signs from"), "{text}");
    }

    #[tokio::test]
    async fn a_change_that_has_no_effect_is_a_warning_that_names_the_key_that_signs() {
        let log = Log::default();
        let now = SystemTime::now();
        let hours_ago = |hours: u64| now - Duration::from_secs(hours * 3600);
        let builder = Auth::<NoClaims>::builder(Secret::random().unwrap(), MemoryStore::new());
        let auth = builder.next_signing_key(key(ES256), hours_ago(1)).build().unwrap();
        let _guard = log.start();
        auth.rotate_to(key(ED25519), hours_ago(2)).await.unwrap();
        let text = log.take();
        assert!(text.contains("WARN") && text.contains("has no effect"), "{text}");
        assert!(text.contains(&key(ES256).thumbprint()) && text.contains(&key(ED25519).thumbprint()), "{text}");
    }
}

/// An app whose tokens other services can verify.
#[cfg(feature = "verifier")]
fn issuer() -> Auth {
    let builder = Auth::builder(Secret::random().unwrap(), MemoryStore::new());
    builder.signing_key(support::seeded(1)).build().unwrap()
}

#[cfg(feature = "verifier")]
#[tokio::test]
async fn a_verifier_that_is_set_up_for_other_tokens_says_so_once() {
    use axum_refresh::verifier::{Verifier, VerifierBuilder};

    #[derive(Clone, Debug, Serialize, Deserialize)]
    struct Invoices {
        invoices: u32,
    }

    async fn logged<C: Claims>(log: &Log, token: &str, builder: VerifierBuilder<C>) -> String {
        let verifier = builder.build().unwrap();
        log.take();
        for _ in 0..3 {
            assert_eq!(
                verifier.authenticate(token).await.err().map(|error| error.code()),
                Some("access_token_invalid")
            );
        }
        log.take()
    }

    let log = Log::default();
    let _guard = log.start();
    let auth = issuer();
    let token = auth.login("alice", NoClaims {}).await.unwrap().tokens.access_token;
    let builder = Verifier::<NoClaims>::from_jwks(auth.jwks()).without_revocations();
    let text = logged(&log, &token, builder.configure(|settings| settings.audience = "shop".to_owned())).await;
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("audience \"axum-refresh\"") && text.contains("\"shop\""), "{text}");
    let text = logged(&log, &token, Verifier::<Invoices>::from_jwks(auth.jwks()).without_revocations()).await;
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("Invoices") && text.contains("missing field `invoices`"), "{text}");
}

#[cfg(feature = "verifier")]
#[tokio::test]
async fn a_stream_that_waits_at_a_verifier_without_revocations_is_reported_once() {
    use axum_refresh::verifier::Verifier;

    let log = Log::default();
    let _guard = log.start();
    let auth = issuer();
    let token = auth.login("alice", NoClaims {}).await.unwrap().tokens.access_token;
    let verifier = Verifier::<NoClaims>::from_jwks(auth.jwks()).without_revocations().build().unwrap();
    let user = verifier.authenticate(&token).await.unwrap();
    log.take();
    for _ in 0..3 {
        let waits = tokio::time::timeout(std::time::Duration::from_millis(10), verifier.revoked(&user));
        assert!(waits.await.is_err());
    }
    let text = log.take();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("WARN") && text.contains("never completes") && text.contains("revocations"), "{text}");
}
