//! Complete requests through the real routers, in sequence, with real tokens in them.
//!
//! An input is text: a line that selects the app, and up to four requests with `===` between them, each a line with
//! method and target, lines of headers, an empty line, and the body. `wait: 31` is not sent but lets this many seconds
//! pass. `{A}` stands for Alice's access token, `{R}` for her refresh token, `{S}` for her session, `{J}` for the
//! `jti`; `{B}`, `{Q}`, `{T}` are Bob's; `{C}` and `{N}` are the newest tokens in a response.
#![no_main]

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::routing::get;
use axum_refresh::config::{Binding, BindingMode, CookieSettings, Transport};
use axum_refresh::{Auth, AuthUser, ClientInfo, MemoryStore, NoClaims, Policy, Secret, Settings};
use axum_refresh_fuzz::{Input, SECRET};
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, LOCATION, SET_COOKIE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::BodyExt as _;
use libfuzzer_sys::{Corpus, fuzz_target};
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

const LIFETIME: Duration = Duration::from_secs(600);
const USER_AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/120.0 Safari/537.36";

struct App {
    auth: Auth<NoClaims>,
    router: Router,
}

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap());
/// In seconds; it never goes back.
static CLOCK: AtomicI64 = AtomicI64::new(1_800_000_000);
static RUNS: AtomicU32 = AtomicU32::new(0);
static APPS: LazyLock<[App; 2]> = LazyLock::new(|| {
    // One for browsers and native clients, and one with the strictest settings.
    let open = Settings {
        transport: Transport::Both,
        access_cookie: Some(CookieSettings::access()),
        login_page: Some("/login".to_owned()),
        trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
        trusted_origins: vec!["https://friend.example".to_owned()],
        ..Settings::default()
    };
    let binding = Binding { ip: BindingMode::Reject, user_agent: BindingMode::Revoke, ..Binding::default() };
    let strict = Settings { policy: Policy { binding, ..Policy::default() }, ..Settings::default() };
    [open, strict].map(|mut settings| {
        settings.policy.access_ttl = Duration::from_secs(120);
        settings.policy.idle_timeout = Duration::from_secs(300);
        settings.policy.lifetime = LIFETIME;
        settings.token_cache = 64;
        let auth = Auth::<NoClaims>::builder(Secret::new(SECRET), MemoryStore::new())
            .settings(settings)
            .clock(|| UNIX_EPOCH + Duration::from_secs(CLOCK.load(Relaxed) as u64))
            .build()
            .unwrap();
        let closed = Router::new()
            .route("/me", get(async |user: AuthUser<NoClaims>| user.id.to_string()))
            .route_layer(auth.guard())
            .route_layer(auth.layer());
        let open = Router::new()
            .route("/open", get(async |_: Option<AuthUser<NoClaims>>, _: ClientInfo| "open"))
            .route_layer(auth.layer().optional());
        let admin = auth.admin_router().layer(auth.guard()).layer(auth.layer());
        let router = Router::new().merge(closed).merge(open).nest("/admin", admin).nest("/auth", auth.router());
        App { router, auth }
    })
});

/// The replacements of `{A}` and the others.
struct Tokens(Vec<(u8, String)>);

impl Tokens {
    fn set(&mut self, name: u8, value: String) {
        self.0.retain(|token| token.0 != name);
        self.0.push((name, value));
    }

    fn get(&self, name: u8) -> Option<&str> {
        self.0.iter().find(|token| token.0 == name).map(|token| &*token.1)
    }

    fn fill_in(&self, text: &[u8]) -> Vec<u8> {
        let mut filled = Vec::with_capacity(text.len());
        let mut rest = text;
        while let [first, after @ ..] = rest {
            rest = after;
            match (first, after) {
                (b'{', [name, b'}', after @ ..]) if self.0.iter().any(|token| token.0 == *name) => {
                    filled.extend(self.0.iter().filter(|token| token.0 == *name).flat_map(|token| token.1.bytes()));
                    rest = after;
                }
                _ => filled.push(*first),
            }
        }
        filled
    }
}

/// Whether a text contains a placeholder of a token.
fn has_token(text: &[u8]) -> bool {
    text.windows(3).any(|part| matches!(part, [b'{', b'A' | b'R' | b'B' | b'Q' | b'C' | b'N', b'}']))
}

fn claim(token: &str, name: &str) -> String {
    use base64::Engine as _;
    let payload = token.split('.').nth(1).unwrap();
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap();
    serde_json::from_slice::<serde_json::Value>(&payload).unwrap()[name].as_str().unwrap().to_owned()
}

async fn log_in(auth: &Auth<NoClaims>) -> Tokens {
    let mut tokens = Tokens(Vec::new());
    for (user, [access, refresh, session, jti]) in [("alice", *b"ARSJ"), ("bob", *b"BQTK")] {
        let client = ClientInfo::new().ip([203, 0, 113, 7].into()).user_agent(USER_AGENT);
        let login = auth.login(user, NoClaims {}).client(client).await.unwrap().tokens;
        tokens.set(jti, claim(&login.access_token, "jti"));
        tokens.set(session, login.session_id.to_string());
        tokens.set(access, login.access_token);
        tokens.set(refresh, login.refresh_token.unwrap());
    }
    tokens
}

fn parse(text: &[u8], tokens: &Tokens) -> Option<Request<Body>> {
    let end = text.windows(2).position(|pair| pair == b"\n\n").unwrap_or(text.len());
    let (head, body) = text.split_at(end);
    let mut head = Input::new(head);
    let first = tokens.fill_in(head.line());
    let (method, target) = first.split_at(first.iter().position(|byte| *byte == b' ')?);
    let mut request = Request::builder().method(method).uri(&target[1..]);
    let headers = request.headers_mut()?;
    while !head.is_empty() && headers.len() < 64 {
        let line = head.line();
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':')?);
        let value = tokens.fill_in(value[1..].trim_ascii());
        if name == b"wait" {
            let seconds: u8 = std::str::from_utf8(&value).ok()?.parse().ok()?;
            CLOCK.fetch_add(seconds.into(), Relaxed);
            continue;
        }
        headers.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(&value).ok()?);
    }
    let body = tokens.fill_in(body.strip_prefix(b"\n\n").unwrap_or_default());
    let mut request = request.body(Body::from(body)).ok()?;
    // From a proxy if the request has its header, or else from the address of the logins.
    let peer = if request.headers().contains_key("x-forwarded-for") { [10, 0, 0, 1] } else { [203, 0, 113, 7] };
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from((peer, 4711))));
    Some(request)
}

struct Asked {
    method: String,
    path: String,
    has_token: bool,
}

fn check(asked: &Asked, status: StatusCode, headers: &HeaderMap, body: &[u8]) {
    let Asked { method, path, has_token } = asked;
    assert!(!status.is_server_error(), "{method} {path}: {status}");
    let cookies = headers.get_all(SET_COOKIE).iter().count();
    let route = (method.as_str(), path.as_str());
    let sets = matches!(route, ("POST", "/auth/refresh" | "/auth/logout" | "/auth/logout/all"));
    let logged_out = status == StatusCode::SEE_OTHER && sets && path != "/auth/refresh";
    assert!(cookies == 0 || (status.is_success() && sets) || logged_out, "{method} {path}: {status} sets a cookie");
    for cookie in headers.get_all(SET_COOKIE) {
        let cookie = cookie.to_str().unwrap();
        assert!(cookie.contains("; HttpOnly") && cookie.contains("; Secure") && cookie.contains("; SameSite="));
        let cleared = cookie.contains("Max-Age=0") && cookie.contains("=;");
        assert_eq!(cleared, path != "/auth/refresh");
    }
    let public = matches!(route, ("POST", "/auth/logout") | (_, "/open"));
    assert!(*has_token || public || !status.is_success(), "{method} {path}: {status} without any token");

    let is_problem = headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/problem+json");
    if status == StatusCode::UNAUTHORIZED {
        assert!(is_problem && headers.contains_key(WWW_AUTHENTICATE));
    }
    if is_problem && method != "HEAD" {
        let problem: serde_json::Value = serde_json::from_slice(body).unwrap();
        assert_eq!(problem["status"], status.as_u16());
        assert!(problem["code"].as_str().is_some_and(|code| !code.is_empty()));
        assert_eq!(problem.as_object().unwrap().len(), 4);
    }
    if status.is_redirection() {
        let location = headers[LOCATION].to_str().unwrap();
        if logged_out {
            assert_eq!((location, cookies > 0), ("/login", true));
        } else {
            let next = location.strip_prefix("/login?next=/").expect("the only redirect");
            assert!(!next.starts_with(['/', '\\']), "{location}");
        }
    }
    // Responses of the routers themselves must not be stored.
    if is_problem || logged_out || (status.is_success() && path.starts_with("/auth/")) {
        assert_eq!(headers[CACHE_CONTROL], "no-store");
    }
}

async fn send(app: &App, text: &[u8], tokens: &mut Tokens) -> Option<()> {
    let request = parse(text, tokens)?;
    let asked = Asked {
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        has_token: has_token(text),
    };
    let credentials = request.headers().get(AUTHORIZATION).cloned();
    let Ok(response) = app.router.clone().oneshot(request).await;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    check(&asked, parts.status, &parts.headers, &body);

    if asked.path == "/me" && asked.method == "GET" && parts.status.is_success() {
        // No user is taken for another.
        let credentials = credentials.as_ref().map(|it| it.as_bytes().to_vec()).unwrap_or_default();
        for (user, access) in [("alice", b'A'), ("bob", b'B')] {
            if tokens.get(access).is_some_and(|token| credentials.ends_with(token.as_bytes())) {
                assert_eq!(body, user);
            }
        }
    }
    if asked.path == "/auth/refresh" && parts.status.is_success() {
        let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
        tokens.set(b'C', answer["access_token"].as_str().unwrap().to_owned());
        let in_body = answer["refresh_token"].as_str().map(str::to_owned);
        let cookies = parts.headers.get_all(SET_COOKIE).iter().filter_map(|cookie| cookie.to_str().ok());
        let mut named = cookies.filter_map(|cookie| cookie.strip_prefix("__Secure-refresh=")?.split(';').next());
        let by_cookie = named.next().map(str::to_owned);
        assert!(in_body.is_none() || by_cookie.is_none(), "one transport per response");
        if let Some(refresh) = in_body.or(by_cookie) {
            tokens.set(b'N', refresh);
        }
    }
    Some(())
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let mut input = Input::new(data);
    let app = &APPS[usize::from(input.line().first() == Some(&b'1'))];
    let mut rest = input.rest();
    let mut any = Corpus::Reject;
    RUNTIME.block_on(async {
        let mut tokens = log_in(&app.auth).await;
        // Whatever happened before, genuine tokens are valid, and each is its owner's.
        for (user, access) in [("alice", b'A'), ("bob", b'B')] {
            let found = app.auth.authenticate(tokens.get(access).unwrap()).await.unwrap();
            assert_eq!(&*found.id, user);
        }
        for _ in 0..4 {
            let end = rest.windows(5).position(|part| part == b"\n===\n").unwrap_or(rest.len());
            let (text, after) = rest.split_at(end);
            if send(app, text, &mut tokens).await.is_none() {
                break;
            }
            any = Corpus::Keep;
            rest = after.get(5..).unwrap_or_default();
        }
        // All tokens expire before the next run begins.
        CLOCK.fetch_add(LIFETIME.as_secs() as i64 + 60, Relaxed);
        if RUNS.fetch_add(1, Relaxed).is_multiple_of(256) {
            app.auth.flush().await.unwrap();
            app.auth.purge().await.unwrap();
        }
    });
    any
});
