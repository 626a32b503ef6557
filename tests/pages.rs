//! Server-rendered pages: the layer that refreshes within the request. Real routers, called in process, and a browser
//! that stores cookies by a manual clock; connections that are upgraded use a real server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{State, WebSocketUpgrade};
use axum::http::{HeaderMap, Request, Response, StatusCode};
use axum::response::{IntoResponse, Redirect};
use axum::routing::{any, get, post};
use axum::{Extension, Router};
use axum_refresh::config::{Binding, BindingMode, CookieSettings, SameSite, Transport};
use axum_refresh::ratchet::Verdict;
use axum_refresh::store::Timestamp;
use axum_refresh::{Auth, AuthUser, ClientInfo, Error, Event, Login, Policy, Secret, Settings};
use http_body_util::BodyExt as _;
use support::{Calls, Claims, Clock, Fault, GRACE, Node, SECRET, claims};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Barrier, Notify};
use tower::ServiceExt as _;

const HTML: (&str, &str) = ("accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8");
const FOREIGN: (&str, &str) = ("origin", "https://evil.example");
const ACCESS_TTL: Duration = Duration::from_secs(900);

// ---- an app and a browser -------------------------------------------------------------------------------------------

fn node() -> Node {
    Node::with(|builder| builder.settings(with_login_page()))
}

fn with_login_page() -> Settings {
    Settings { login_page: Some("/login".to_owned()), ..Settings::for_pages() }
}

fn app(node: &Node) -> Router {
    let auth = &node.auth;
    let closed = Router::new()
        .route("/me", any(me))
        .route("/notes", post(note))
        .route("/claims", post(update_claims))
        .route("/slow", get(slow))
        .route("/slow/claims", post(slow_update_claims))
        .route("/ws", any(greet))
        .route("/events", get(events))
        .route_layer(auth.guard())
        .route_layer(auth.layer());
    let open = Router::new()
        .route("/", get(who))
        .route("/login", get(who).post(login))
        .route("/own", get(own_headers))
        .route_layer(auth.layer().optional());
    closed
        .merge(open)
        .nest("/auth", auth.router())
        .layer(auth.pages().unwrap())
        .layer(Extension(node.clock.clone()))
        .with_state(auth.clone())
}

async fn who(user: Option<AuthUser<Claims>>) -> String {
    user.map_or_else(|| "nobody".to_owned(), |user| user.id.to_string())
}

async fn me(user: AuthUser<Claims>) -> String {
    user.id.to_string()
}

async fn note(user: AuthUser<Claims>, body: String) -> String {
    format!("{}: {body}", user.id)
}

async fn login(State(auth): State<Auth<Claims>>, client: ClientInfo, user: String) -> Result<(Login, Redirect), Error> {
    Ok((auth.login(user, claims("user")).client(client).await?, Redirect::to("/")))
}

async fn update_claims(State(auth): State<Auth<Claims>>, user: AuthUser<Claims>) -> Result<(Login, String), Error> {
    Ok((auth.update_claims(&user, claims("admin")).await?, "updated".to_owned()))
}

async fn slow(Extension(clock): Extension<Clock>, user: AuthUser<Claims>) -> String {
    clock.advance(GRACE / 2 + Duration::from_millis(1));
    user.id.to_string()
}

async fn slow_update_claims(
    Extension(clock): Extension<Clock>,
    auth: State<Auth<Claims>>,
    user: AuthUser<Claims>,
) -> Result<(Login, String), Error> {
    clock.advance(GRACE / 2 + Duration::from_millis(1));
    update_claims(auth, user).await
}

async fn own_headers() -> impl IntoResponse {
    let cookies = [("set-cookie", "theme=dark"), ("set-cookie", "seen=1; Path=/own")];
    let caches = [("cache-control", "public, max-age=600"), ("cdn-cache-control", "max-age=3600")];
    (axum::response::AppendHeaders(cookies), caches, "public")
}

async fn greet(user: AuthUser<Claims>, upgrade: WebSocketUpgrade) -> impl IntoResponse {
    upgrade.on_upgrade(async move |mut socket| {
        socket.send(user.id.to_string().into()).await.ok();
    })
}

async fn events(user: AuthUser<Claims>) -> impl IntoResponse {
    ([("content-type", "text/event-stream")], format!("data: {}\n\n", user.id))
}

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn code(&self) -> (u16, String) {
        let json: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"));
        (self.status.as_u16(), json["code"].as_str().unwrap_or_default().to_owned())
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn redirect(&self) -> (u16, &str) {
        (self.status.as_u16(), self.header("location"))
    }

    fn set_cookies(&self) -> Vec<&str> {
        self.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap()).collect()
    }

    /// The names of the cookies that are set.
    fn names(&self) -> Vec<&str> {
        self.set_cookies().into_iter().map(|cookie| cookie.split('=').next().unwrap()).collect()
    }
}

async fn send(app: &Router, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("host", "app.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body.to_owned())).unwrap();
    let response: Response<Body> = app.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, body: String::from_utf8(body.to_vec()).unwrap() }
}

/// A browser that stores cookies until they expire by the manual clock, and sends all of them with every request: every
/// path is `/`.
#[derive(Clone)]
struct Browser {
    app: Router,
    clock: Clock,
    jar: BTreeMap<String, (String, Timestamp)>,
}

impl Browser {
    /// A browser in which nobody has logged in.
    fn new(node: &Node) -> Self {
        Self { app: app(node), clock: node.clock.clone(), jar: BTreeMap::new() }
    }

    async fn logged_in(node: &Node, user: &str) -> Self {
        let mut browser = Self::new(node);
        assert_eq!(browser.post("/login", user).await.redirect(), (303, "/"));
        browser
    }

    /// A browser that returns after a pause: its access cookie has expired.
    async fn after_a_pause(node: &Node) -> Self {
        let browser = Self::logged_in(node, "alice").await;
        browser.clock.advance(ACCESS_TTL);
        assert_eq!(browser.names(), ["__Host-refresh"]);
        node.store.calls();
        browser
    }

    fn live(&self) -> impl Iterator<Item = (&str, &str)> {
        let now = self.clock.now();
        let live = self.jar.iter().filter(move |(_, (_, until))| now < *until);
        live.map(|(name, (value, _))| (name.as_str(), value.as_str()))
    }

    fn names(&self) -> Vec<&str> {
        self.live().map(|(name, _)| name).collect()
    }

    fn value(&self, name: &str) -> String {
        self.live().find(|(other, _)| *other == name).unwrap().1.to_owned()
    }

    fn cookies(&self) -> String {
        self.live().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    fn keep(&mut self, answer: &Answer) {
        for cookie in answer.set_cookies() {
            let (pair, attributes) = cookie.split_once("; ").unwrap_or((cookie, ""));
            let (name, value) = pair.split_once('=').unwrap();
            let age = attributes.split("; ").find_map(|attribute| attribute.strip_prefix("Max-Age="));
            let age = age.map_or(Duration::MAX, |seconds| Duration::from_secs(seconds.parse().unwrap()));
            self.jar.insert(name.to_owned(), (value.to_owned(), self.clock.now().after(age)));
        }
    }

    /// Sends a request and discards the cookies of the response, as if the response were lost.
    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let cookies = self.cookies();
        let mut headers = headers.to_vec();
        if !cookies.is_empty() {
            headers.push(("cookie", &cookies));
        }
        send(&self.app, method, path, &headers, body).await
    }

    async fn get(&mut self, path: &str) -> Answer {
        let answer = self.send("GET", path, &[HTML], "").await;
        self.keep(&answer);
        answer
    }

    async fn post(&mut self, path: &str, body: &str) -> Answer {
        let own = [HTML, ("origin", "https://app.example"), ("sec-fetch-site", "same-origin")];
        let answer = self.send("POST", path, &own, body).await;
        self.keep(&answer);
        answer
    }
}

fn verdicts(node: &Node) -> Vec<Verdict> {
    let refreshed = |event| if let Event::Refreshed { verdict, .. } = event { Some(verdict) } else { None };
    node.events().into_iter().filter_map(refreshed).collect()
}

const NO_CALLS: Calls = Calls { loads: 0, swaps: 0, others: 0 };

// ---- refreshing within a request ------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_login_sets_two_cookies_for_every_path() {
    let node = node();
    let mut browser = Browser::new(&node);
    let answer = browser.post("/login", "alice").await;
    assert_eq!((answer.redirect(), answer.header("cache-control")), ((303, "/"), "no-store"));
    let [refresh, access] = answer.set_cookies().try_into().unwrap();
    assert!(refresh.starts_with("__Host-refresh=") && access.starts_with("__Host-access="));
    for cookie in [refresh, access] {
        assert!(cookie.contains("; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age="), "{cookie}");
    }
    assert_eq!(browser.get("/me").await.body, "alice");
}

#[tokio::test]
async fn a_page_after_a_pause_refreshes_and_shows_the_user() {
    let node = node();
    for path in ["/me", "/"] {
        let mut browser = Browser::after_a_pause(&node).await;
        let answer = browser.get(path).await;
        assert_eq!(answer.body, "alice");
        assert_eq!(answer.names(), ["__Host-refresh", "__Host-access"]);
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(browser.get(path).await.names(), [""; 0]);
    }
}

#[tokio::test]
async fn a_visitor_from_before_the_hint_was_switched_on_gets_one_with_the_next_refresh() {
    let before = node();
    let browser = Browser::after_a_pause(&before).await;
    let settings = Settings { hint_cookie: true, ..with_login_page() };
    let after = Node::on(before.store.clone(), before.clock.clone(), |builder| builder.settings(settings));
    let browser = Browser { app: app(&after), ..browser };
    let rotate = browser.send("GET", "/me", &[HTML], "").await;
    assert_eq!(rotate.names(), ["__Host-refresh", "__Secure-session-hint", "__Host-access"]);
    // Its answer was lost: an echo leaves the refresh cookie as it is.
    let echo = browser.send("GET", "/me", &[HTML], "").await;
    assert_eq!(echo.names(), ["__Secure-session-hint", "__Host-access"]);
    let logout = [HTML, ("origin", "https://app.example"), ("sec-fetch-site", "same-origin")];
    let logout = browser.send("POST", "/auth/logout", &logout, "").await;
    assert!(logout.set_cookies().iter().all(|cookie| cookie.ends_with("Max-Age=0")), "{logout:?}");
}

#[tokio::test]
async fn a_visitor_who_only_loads_pages_stays_logged_in_for_days() {
    let node = node();
    let mut browser = Browser::logged_in(&node, "alice").await;
    for _ in 0..200 {
        browser.clock.advance(ACCESS_TTL / 3 * 2);
        assert_eq!(browser.get("/me").await.body, "alice");
    }
    assert_eq!(node.auth.sessions("alice").await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_page_with_a_valid_access_cookie_has_no_extra_cost() {
    let node = node();
    let mut browser = Browser::logged_in(&node, "alice").await;
    browser.get("/me").await;
    node.store.calls();
    node.events();
    for (method, path) in [("GET", "/me"), ("HEAD", "/me"), ("POST", "/notes"), ("GET", "/own")] {
        let answer = browser.send(method, path, &[("sec-fetch-site", "same-origin")], "").await;
        assert_eq!(answer.status, 200);
        assert!(!answer.names().iter().any(|name| name.starts_with("__Host-")));
    }
    assert_eq!((node.store.calls(), verdicts(&node).len()), (NO_CALLS, 0));
}

#[tokio::test]
async fn a_request_without_cookies_does_not_reach_the_store() {
    let node = node();
    node.store.set(Fault::Fails);
    let mut browser = Browser::new(&node);
    assert_eq!(browser.get("/").await.body, "nobody");
    assert_eq!(browser.get("/me").await.redirect(), (303, "/login?next=/me"));
    let planted = send(&browser.app, "GET", "/", &[("cookie", "__Host-refresh=garbage")], "").await;
    assert_eq!((planted.status, planted.body.as_str()), (StatusCode::OK, "nobody"));
    assert_eq!(node.store.calls(), NO_CALLS);
}

#[tokio::test]
async fn an_invalid_access_cookie_is_replaced() {
    let node = node();
    let mut browser = Browser::logged_in(&node, "alice").await;
    node.after_grace();
    browser.jar.get_mut("__Host-access").unwrap().0 = "garbage".to_owned();
    assert_eq!(browser.get("/me").await.body, "alice");
    assert_eq!(browser.get("/me").await.names(), [""; 0]);
}

#[tokio::test]
async fn prefetch_and_head_requests_are_treated_like_any_other() {
    let node = node();
    for (method, header) in [("GET", ("sec-purpose", "prefetch")), ("HEAD", HTML)] {
        let browser = Browser::after_a_pause(&node).await;
        let answer = browser.send(method, "/me", &[header], "").await;
        assert_eq!((answer.status, answer.names().len()), (StatusCode::OK, 2));
    }
}

#[tokio::test]
async fn a_link_in_an_email_opens_a_logged_in_page() {
    let node = node();
    let browser = Browser::after_a_pause(&node).await;
    let answer = browser.send("GET", "/me", &[HTML, ("sec-fetch-site", "cross-site")], "").await;
    assert_eq!(answer.body, "alice");
}

// ---- races and lost responses -----------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_requests_of_one_navigation_have_the_same_user_and_cause_one_rotation() {
    for _ in 0..20 {
        let node = node();
        let mut browser = Browser::after_a_pause(&node).await;
        node.events();
        let barrier = Arc::new(Barrier::new(20));
        let tasks: Vec<_> = (0..20)
            .map(|number| {
                let (browser, barrier) = (browser.clone(), Arc::clone(&barrier));
                let path = ["/me", "/", "/notes"][number % 3];
                tokio::spawn(async move {
                    barrier.wait().await;
                    browser.send(if path == "/notes" { "POST" } else { "GET" }, path, &[HTML], "x").await
                })
            })
            .collect();
        let mut rotated = 0;
        for task in tasks {
            let answer = task.await.unwrap();
            assert!(["alice", "alice: x"].contains(&answer.body.as_str()), "{answer:?}");
            assert_eq!(answer.names().last(), Some(&"__Host-access"));
            rotated += usize::from(answer.names()[0] == "__Host-refresh");
            browser.keep(&answer);
        }
        let verdicts = verdicts(&node);
        assert_eq!(rotated, 1);
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Rotate).count(), 1);
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Echo).count(), 19);
        assert_eq!(browser.get("/me").await.body, "alice");
    }
}

/// All permutations.
fn permutations(items: &[usize]) -> Vec<Vec<usize>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let first = |chosen: usize| {
        let rest: Vec<_> = items.iter().copied().filter(|item| *item != chosen).collect();
        permutations(&rest).into_iter().map(move |order| [vec![chosen], order].concat())
    };
    items.iter().copied().flat_map(first).collect()
}

#[tokio::test]
async fn the_cookies_keep_working_in_whatever_order_the_responses_arrive_and_whichever_are_lost() {
    let answers = [0, 1, 2, 3, 4];
    let mut jars = std::collections::BTreeSet::new();
    for order in permutations(&answers) {
        // The remaining responses are lost.
        for arrived in 0..=order.len() {
            // The content of the jar depends only on whether the response of the rotation arrived and on which response
            // arrived last.
            let winner = order[..arrived].contains(&0);
            if !jars.insert((winner, order[..arrived].last().copied())) {
                continue;
            }
            for pause in [Duration::ZERO, GRACE + Duration::from_millis(1), ACCESS_TTL, ACCESS_TTL * 10] {
                let node = node();
                let mut browser = Browser::after_a_pause(&node).await;
                let mut sent = Vec::new();
                for _ in answers {
                    sent.push(browser.send("GET", "/me", &[HTML], "").await);
                }
                for index in &order[..arrived] {
                    browser.keep(&sent[*index]);
                }
                for _ in 0..3 {
                    browser.clock.advance(pause);
                    assert_eq!(browser.get("/me").await.body, "alice", "{:?} {pause:?}", &order[..arrived]);
                }
                browser.clock.advance(ACCESS_TTL);
                assert_eq!(browser.get("/me").await.body, "alice", "{:?} {pause:?}", &order[..arrived]);
                assert!(!node.has_event(|event| matches!(event, Event::Reuse { .. })));
            }
        }
    }
    // No response at all; or any of the five as the last one, with or without the winner before it.
    assert_eq!(jars.len(), 1 + 5 + 4);
}

#[tokio::test]
async fn a_lost_response_logs_nobody_out() {
    for pause in [Duration::ZERO, GRACE * 2, ACCESS_TTL * 5] {
        let node = node();
        let mut browser = Browser::after_a_pause(&node).await;
        for _ in 0..3 {
            browser.send("GET", "/me", &[HTML], "").await;
            browser.clock.advance(pause);
        }
        assert_eq!(browser.get("/me").await.body, "alice");
        browser.clock.advance(ACCESS_TTL);
        assert_eq!(browser.get("/me").await.body, "alice");
    }
}

#[tokio::test]
async fn a_slow_page_does_not_overwrite_the_cookies_of_a_later_one() {
    let node = node();
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let gates = (Arc::clone(&entered), Arc::clone(&release));
    let waiting = Router::new()
        .route(
            "/report",
            get(async move |user: AuthUser<Claims>| {
                gates.0.notify_one();
                gates.1.notified().await;
                user.id.to_string()
            }),
        )
        .layer(node.auth.pages().unwrap());
    let mut browser = Browser::after_a_pause(&node).await;
    browser.app = app(&node).merge(waiting);
    let report = tokio::spawn({
        let browser = browser.clone();
        async move { browser.send("GET", "/report", &[HTML], "").await }
    });
    entered.notified().await;
    // The user does not wait, and opens another page.
    node.after_grace();
    assert_eq!(browser.get("/me").await.body, "alice");
    release.notify_one();
    let report = report.await.unwrap();
    assert_eq!(report.body, "alice");
    browser.keep(&report);
    for _ in 0..3 {
        browser.clock.advance(ACCESS_TTL);
        assert_eq!(browser.get("/me").await.body, "alice");
    }
    assert!(!node.has_event(|event| matches!(event, Event::Reuse { .. })));
}

#[tokio::test]
async fn a_response_that_takes_half_the_grace_period_counts_as_lost() {
    let node = node();
    let mut browser = Browser::after_a_pause(&node).await;
    for _ in 0..5 {
        let answer = browser.get("/slow").await;
        assert_eq!((answer.body.as_str(), answer.names().len()), ("alice", 0));
        assert_eq!(answer.header("cache-control"), "");
        browser.clock.advance(GRACE);
    }
    assert_eq!(browser.get("/me").await.names(), ["__Host-refresh", "__Host-access"]);
}

fn with_recovery_limit(limit: u32) -> Node {
    let policy = Policy { recovery_limit: Some(limit), ..Policy::default() };
    Node::with(|builder| builder.settings(Settings { policy, ..with_login_page() }))
}

#[tokio::test]
async fn a_page_that_took_too_long_to_get_its_cookies_is_no_lost_response() {
    for limit in [0, 1, 3] {
        for path in ["/slow", "/slow/claims"] {
            let node = with_recovery_limit(limit);
            let mut browser = Browser::after_a_pause(&node).await;
            for _ in 0..8 {
                let answer = if path == "/slow" { browser.get(path).await } else { browser.post(path, "").await };
                assert_eq!(answer.status, StatusCode::OK, "{limit} {path}: {answer:?}");
                browser.clock.advance(ACCESS_TTL);
            }
            for _ in 0..3 {
                assert_eq!(browser.get("/me").await.body, "alice", "{limit} {path}");
                browser.clock.advance(ACCESS_TTL);
            }
            let is_bad = |event: &Event| matches!(event, Event::Reuse { .. } | Event::ManyRecoveries { .. });
            assert!(!node.has_event(is_bad), "{limit} {path}");
        }
    }
}

#[tokio::test]
async fn a_slow_page_after_a_lost_response_does_not_count_and_the_lost_one_does() {
    let node = with_recovery_limit(1);
    let mut browser = Browser::after_a_pause(&node).await;
    browser.send("GET", "/me", &[HTML], "").await;
    for _ in 0..4 {
        browser.clock.advance(ACCESS_TTL);
        assert_eq!(browser.get("/slow").await.body, "alice");
    }
    browser.clock.advance(ACCESS_TTL);
    // The last one that the limit allows. It is lost too.
    assert_eq!(browser.send("GET", "/me", &[HTML], "").await.body, "alice");
    browser.clock.advance(ACCESS_TTL);
    assert_eq!(browser.get("/me").await.redirect(), (303, "/login?next=/me"));
    assert!(node.has_event(|event| matches!(event, Event::Reuse { .. })));
}

#[tokio::test]
async fn a_visitor_who_does_not_wait_for_the_page_has_lost_no_response() {
    let node = with_recovery_limit(1);
    let never = Router::new()
        .route("/never", get(async |_: AuthUser<Claims>| std::future::pending::<String>().await))
        .layer(node.auth.pages().unwrap());
    let mut browser = Browser::after_a_pause(&node).await;
    browser.app = app(&node).merge(never);
    for _ in 0..5 {
        let gone = tokio::time::timeout(Duration::from_millis(10), browser.send("GET", "/never", &[HTML], "")).await;
        assert!(gone.is_err());
        // The task that takes the rotation back runs.
        tokio::time::sleep(Duration::from_millis(10)).await;
        browser.clock.advance(ACCESS_TTL);
    }
    assert_eq!(browser.get("/me").await.names(), ["__Host-refresh", "__Host-access"]);
    assert!(!node.has_event(|event| matches!(event, Event::Reuse { .. })));
}

#[tokio::test]
async fn a_slow_page_that_another_one_has_overtaken_does_not_count() {
    let node = with_recovery_limit(1);
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let gates = (Arc::clone(&entered), Arc::clone(&release));
    let handler = async move |_: AuthUser<Claims>| {
        gates.0.notify_one();
        gates.1.notified().await;
    };
    let waiting = Router::new().route("/report", get(handler)).layer(node.auth.pages().unwrap());
    let mut browser = Browser::after_a_pause(&node).await;
    browser.app = app(&node).merge(waiting);
    let report = tokio::spawn({
        let browser = browser.clone();
        async move { browser.send("GET", "/report", &[HTML], "").await }
    });
    entered.notified().await;
    node.after_grace();
    // Recovers, and is lost on its way.
    assert_eq!(browser.send("GET", "/me", &[HTML], "").await.names().len(), 2);
    release.notify_one();
    assert_eq!(report.await.unwrap().names().len(), 0);
    browser.clock.advance(ACCESS_TTL);
    assert_eq!(browser.get("/me").await.body, "alice");
}

#[tokio::test]
async fn an_undecided_race_returns_409_after_a_while_and_never_redirects_to_the_login_page() {
    let node = node();
    let mut browser = Browser::after_a_pause(&node).await;
    node.store.set(Fault::NeverSwaps);
    let started = std::time::Instant::now();
    let answer = browser.get("/me").await;
    assert_eq!(answer.code(), (409, "refresh_busy".to_owned()));
    assert_eq!((answer.header("retry-after"), answer.names().len()), ("1", 0));
    assert_eq!(node.store.calls().loads, 32);
    assert!(started.elapsed() >= Duration::from_millis(250) && started.elapsed() < Duration::from_secs(5));
    node.store.set(Fault::None);
    assert_eq!(browser.get("/me").await.body, "alice");
}

#[tokio::test]
async fn a_race_that_is_lost_several_times_is_retried_within_the_request() {
    let node = node();
    let browser = Browser::after_a_pause(&node).await;
    node.store.set(Fault::NeverSwaps);
    let page = tokio::spawn(async move { browser.send("GET", "/me", &[HTML], "").await });
    tokio::time::sleep(Duration::from_millis(40)).await;
    node.store.set(Fault::None);
    let answer = page.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.names().len()), ("alice", 2));
}

#[tokio::test]
async fn a_token_two_generations_behind_within_the_grace_period_is_busy_and_is_not_retried_until_it_counts_as_reuse() {
    let node = node();
    let old = Browser::after_a_pause(&node).await;
    let mut browser = old.clone();
    for _ in 0..2 {
        browser.clock.advance(ACCESS_TTL);
        assert_eq!(browser.get("/me").await.body, "alice");
    }
    browser.clock.advance(GRACE);
    node.store.calls();
    assert_eq!(old.send("GET", "/me", &[HTML], "").await.code(), (409, "refresh_busy".to_owned()));
    assert_eq!(node.store.calls().loads, 1);
    assert_eq!(browser.get("/me").await.body, "alice");
}

// ---- forms ----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_form_that_is_posted_after_a_pause_is_not_lost() {
    let node = node();
    let mut browser = Browser::after_a_pause(&node).await;
    let essay = "text=".to_owned() + &"all of it ".repeat(100_000);
    let answer = browser.post("/notes", &essay).await;
    assert_eq!(answer.body, format!("alice: {essay}"));
    assert_eq!(answer.names().len(), 2);
}

#[tokio::test]
async fn a_cross_origin_form_is_refused_and_refreshes_nothing() {
    let node = node();
    let mut browser = Browser::after_a_pause(&node).await;
    let foreign = [vec![FOREIGN], vec![("sec-fetch-site", "cross-site")], vec![("sec-fetch-site", "same-site")]];
    for headers in foreign {
        for (method, path) in [("POST", "/notes"), ("DELETE", "/me"), ("POST", "/login"), ("POST", "/auth/refresh")] {
            let answer = browser.send(method, path, &headers, "alice").await;
            assert_eq!(answer.code(), (403, "cross_origin".to_owned()), "{method} {path}");
            assert_eq!(answer.names().len(), 0);
        }
    }
    assert_eq!(node.store.calls(), NO_CALLS);
    assert_eq!(browser.get("/me").await.names().len(), 2);
    // A valid access cookie makes no difference.
    let answer = browser.send("POST", "/notes", &[FOREIGN], "").await;
    assert_eq!(answer.code(), (403, "cross_origin".to_owned()));
}

#[tokio::test]
async fn a_form_from_a_trusted_origin_is_accepted() {
    let node = Node::with(|builder| {
        builder
            .settings(Settings::for_pages())
            .configure(|settings| settings.trusted_origins.push("https://friend.example".into()))
    });
    let browser = Browser::after_a_pause(&node).await;
    let headers = [("origin", "https://friend.example"), ("sec-fetch-site", "cross-site")];
    assert_eq!(browser.send("POST", "/notes", &headers, "x").await.body, "alice: x");
}

#[tokio::test]
async fn a_cross_origin_form_without_a_cookie_is_not_refused_by_this_layer() {
    let node = node();
    let browser = Browser::new(&node);
    let answer = browser.send("POST", "/notes", &[FOREIGN], "").await;
    assert_eq!(answer.code(), (401, "access_token_missing".to_owned()));
}

// ---- revoked and expired sessions -------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_revoked_session_redirects_to_the_login_page_once() {
    for paused in [true, false] {
        let node = node();
        let mut browser = Browser::logged_in(&node, "alice").await;
        if paused {
            browser.clock.advance(ACCESS_TTL);
        }
        let session = node.auth.sessions("alice").await.unwrap()[0].id;
        node.auth.revoke_own_session("alice", session).await.unwrap();
        let jar = browser.cookies();
        let answer = browser.get("/me").await;
        assert_eq!(answer.redirect(), (303, "/login?next=/me"));
        let page = browser.get("/login").await;
        assert_eq!((page.status, page.body.as_str()), (StatusCode::OK, "nobody"));
        // A refusal clears no cookie.
        assert_eq!(browser.cookies(), jar);
        let api = browser.send("GET", "/me", &[("accept", "application/json")], "").await;
        let code = if paused { "access_token_missing" } else { "access_token_revoked" };
        assert_eq!(api.code(), (401, code.to_owned()));
        assert_eq!(browser.post("/notes", "x").await.code(), (401, code.to_owned()));
        assert_eq!(browser.post("/login", "alice").await.redirect(), (303, "/"));
        assert_eq!(browser.get("/me").await.body, "alice");
    }
}

#[tokio::test]
async fn a_visitor_whose_session_is_outdated_is_anonymous_and_can_log_in_again() {
    /// The claims of the version before the last deploy.
    #[derive(Clone, serde::Serialize, serde::Deserialize)]
    struct OldClaims {}

    let node = node();
    let old = Auth::<OldClaims>::builder(Secret::new(SECRET), node.store.clone());
    let old = old.settings(with_login_page()).clock(node.clock.reader()).build().unwrap();
    let tokens = old.login("alice", OldClaims {}).await.unwrap().tokens;
    let mut browser = Browser::new(&node);
    for (name, value) in [("__Host-access", tokens.access_token), ("__Host-refresh", tokens.refresh_token.unwrap())] {
        browser.jar.insert(name.to_owned(), (value, Timestamp::MAX));
    }
    for path in ["/", "/login"] {
        let answer = browser.get(path).await;
        assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "nobody"), "{path}");
        assert!(answer.set_cookies().is_empty());
    }
    assert_eq!(browser.get("/me").await.redirect(), (303, "/login?next=/me"));
    assert!(node.has_event(|event| matches!(event, Event::ClaimsUnreadable { .. })));
    // The other nodes still run the version before.
    assert_eq!(old.sessions("alice").await.unwrap().len(), 1);

    assert_eq!(browser.post("/login", "alice").await.redirect(), (303, "/"));
    assert_eq!(browser.get("/me").await.body, "alice");
    browser.clock.advance(ACCESS_TTL);
    assert_eq!(browser.get("/me").await.body, "alice");
}

#[tokio::test]
async fn an_expired_idle_or_stolen_session_redirects_to_the_login_page() {
    let policy = || Policy { lifetime: Duration::from_secs(10 * 86_400), ..Policy::default() };
    let node = || Node::with(|builder| builder.settings(Settings { policy: policy(), ..with_login_page() }));
    let idle = node();
    let mut browser = Browser::after_a_pause(&idle).await;
    browser.clock.advance(policy().idle_timeout);
    assert_eq!(browser.get("/me").await.redirect(), (303, "/login?next=/me"));

    let expired = node();
    let mut browser = Browser::after_a_pause(&expired).await;
    for _ in 0..9 {
        browser.clock.advance(Duration::from_secs(86_400));
        assert_eq!(browser.get("/me").await.body, "alice");
    }
    browser.clock.advance(Duration::from_secs(86_400));
    assert_eq!(browser.get("/me").await.redirect(), (303, "/login?next=/me"));

    let stolen = node();
    let mut owner = Browser::after_a_pause(&stolen).await;
    let mut thief = owner.clone();
    for _ in 0..2 {
        assert_eq!(owner.get("/me").await.body, "alice");
        owner.clock.advance(ACCESS_TTL);
    }
    assert_eq!(thief.get("/me").await.redirect(), (303, "/login?next=/me"));
    assert_eq!(owner.get("/me").await.redirect(), (303, "/login?next=/me"));
    assert!(stolen.has_event(|event| matches!(event, Event::Reuse { .. })));
}

#[tokio::test]
async fn a_revoked_access_token_is_replaced_while_its_session_is_live_and_not_afterwards() {
    let node = node();
    let mut browser = Browser::logged_in(&node, "alice").await;
    node.after_grace();
    let access = browser.value("__Host-access");
    node.auth.revoke_access_token(&access).await.unwrap();
    // The access token alone is not enough.
    let stolen = format!("__Host-access={access}");
    let answer = send(&browser.app, "GET", "/me", &[("cookie", &stolen)], "").await;
    assert_eq!(answer.code(), (401, "access_token_revoked".to_owned()));
    let answer = browser.get("/me").await;
    assert_eq!((answer.body.as_str(), answer.names().len()), ("alice", 2));

    let session = node.auth.sessions("alice").await.unwrap()[0].id;
    node.auth.revoke_own_session("alice", session).await.unwrap();
    assert_eq!(browser.get("/me").await.redirect(), (303, "/login?next=/me"));
    assert_eq!(browser.get("/").await.body, "nobody");
}

#[tokio::test]
async fn a_client_that_the_binding_refuses_is_anonymous() {
    let binding = Binding { user_agent: BindingMode::Reject, ..Binding::default() };
    let policy = Policy { binding, ..Policy::default() };
    let node = Node::with(|builder| builder.settings(Settings { policy, ..Settings::for_pages() }));
    let mut browser = Browser::new(&node);
    let answer = browser.send("POST", "/login", &[("user-agent", "curl/8.5.0")], "alice").await;
    browser.keep(&answer);
    browser.clock.advance(ACCESS_TTL);
    let other = [("user-agent", "wget/1.0")];
    assert_eq!(browser.send("GET", "/", &other, "").await.body, "nobody");
    assert_eq!(browser.send("GET", "/me", &other, "").await.code(), (401, "access_token_missing".to_owned()));
    assert_eq!(browser.send("GET", "/me", &[("user-agent", "curl/9.0")], "").await.body, "alice");
}

// ---- the store is unreachable ----------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_failing_store_returns_503_and_never_redirects_to_the_login_page() {
    let node = node();
    let mut browser = Browser::after_a_pause(&node).await;
    let jar = browser.cookies();
    node.store.set(Fault::Fails);
    for (method, path) in [("GET", "/me"), ("GET", "/"), ("GET", "/login"), ("POST", "/notes")] {
        let answer = browser.send(method, path, &[HTML], "").await;
        assert_eq!(answer.code(), (503, "store_unavailable".to_owned()), "{method} {path}");
        assert_eq!((answer.names().len(), answer.header("retry-after")), (0, "2"));
    }
    node.store.set(Fault::None);
    assert_eq!(browser.cookies(), jar);
    assert_eq!(browser.get("/me").await.body, "alice");
}

#[tokio::test]
async fn a_write_whose_reply_was_lost_logs_nobody_out() {
    let node = node();
    let mut browser = Browser::after_a_pause(&node).await;
    node.store.set(Fault::LosesReplies);
    assert_eq!(browser.get("/me").await.status, 503);
    node.store.set(Fault::None);
    for _ in 0..3 {
        assert_eq!(browser.get("/me").await.body, "alice");
        browser.clock.advance(ACCESS_TTL);
    }
}

#[tokio::test]
async fn a_valid_access_cookie_is_not_accepted_while_the_revocations_are_stale() {
    let node = node();
    let mut browser = Browser::logged_in(&node, "alice").await;
    assert_eq!(browser.get("/me").await.body, "alice");
    node.store.set(Fault::Fails);
    browser.clock.advance(Duration::from_secs(31));
    assert_eq!(browser.get("/me").await.code(), (503, "store_unavailable".to_owned()));
    assert_eq!(browser.get("/").await.code(), (503, "store_unavailable".to_owned()));
    node.store.set(Fault::None);
    assert_eq!(browser.get("/me").await.body, "alice");
    assert_eq!(browser.get("/me").await.names().len(), 0);
}

#[tokio::test]
async fn a_failing_claims_hook_returns_503_and_a_refusing_one_redirects_to_the_login_page() {
    let answer: Arc<std::sync::Mutex<Result<Option<&str>, &str>>> = Arc::new(std::sync::Mutex::new(Err("away")));
    let hook = Arc::clone(&answer);
    let node = Node::with(|builder| {
        builder.settings(with_login_page()).claims_hook(move |_| {
            let answer = *hook.lock().unwrap();
            async move { answer.map(|role| role.map(claims)).map_err(std::io::Error::other) }
        })
    });
    let mut browser = Browser::after_a_pause(&node).await;
    assert_eq!(browser.get("/me").await.code(), (503, "store_unavailable".to_owned()));
    *answer.lock().unwrap() = Ok(None);
    assert_eq!(browser.get("/me").await.redirect(), (303, "/login?next=/me"));
    *answer.lock().unwrap() = Ok(Some("user"));
    assert_eq!(browser.get("/me").await.body, "alice");
}

// ---- cookies and headers of handlers ----------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_cookies_of_handlers_are_kept_and_no_cache_stores_the_response() {
    let node = node();
    let mut browser = Browser::after_a_pause(&node).await;
    let answer = browser.get("/own").await;
    assert_eq!(answer.names(), ["theme", "seen", "__Host-refresh", "__Host-access"]);
    assert_eq!((answer.header("cache-control"), answer.header("cdn-cache-control")), ("no-store", "no-store"));
    assert_eq!(answer.headers.get_all("cache-control").iter().count(), 1);
    let answer = browser.get("/own").await;
    assert_eq!(answer.names(), ["theme", "seen"]);
    assert_eq!(answer.header("cache-control"), "public, max-age=600");
    assert_eq!(answer.header("cdn-cache-control"), "max-age=3600");
}

#[tokio::test]
async fn logging_in_as_another_user_after_a_pause_changes_the_user() {
    let node = node();
    let mut browser = Browser::after_a_pause(&node).await;
    let answer = browser.post("/login", "bob").await;
    assert_eq!(answer.names(), ["__Host-refresh", "__Host-access"]);
    assert_eq!(browser.get("/me").await.body, "bob");
    browser.clock.advance(ACCESS_TTL);
    assert_eq!(browser.get("/me").await.body, "bob");
}

#[tokio::test]
async fn a_logout_form_that_is_posted_after_a_pause_removes_every_cookie_and_redirects_to_the_login_page() {
    for path in ["/auth/logout", "/auth/logout/all"] {
        let node = node();
        let mut browser = Browser::after_a_pause(&node).await;
        let answer = browser.post(path, "").await;
        assert_eq!((answer.redirect(), answer.header("cache-control")), ((303, "/login"), "no-store"));
        assert_eq!(browser.names(), [""; 0]);
        assert!(node.auth.sessions("alice").await.unwrap().is_empty());
        assert_eq!(browser.get("/login").await.body, "nobody");
    }
}

#[tokio::test]
async fn a_logout_by_a_script_or_without_a_login_page_returns_204() {
    let node = node();
    let browser = Browser::logged_in(&node, "alice").await;
    assert_eq!(browser.send("POST", "/auth/logout", &[("accept", "*/*")], "").await.status, 204);
    let without = Node::with(|builder| builder.settings(Settings::for_pages()));
    let mut browser = Browser::logged_in(&without, "alice").await;
    assert_eq!(browser.post("/auth/logout", "").await.status, 204);
    assert_eq!(browser.names(), [""; 0]);
}

#[tokio::test]
async fn an_update_of_the_claims_after_a_pause_keeps_its_access_token_and_sets_the_new_refresh_token_unless_it_is_late()
{
    let node = node();
    for (path, cookies) in
        [("/claims", ["__Host-access", "__Host-refresh"].as_slice()), ("/slow/claims", ["__Host-access"].as_slice())]
    {
        let mut browser = Browser::after_a_pause(&node).await;
        let answer = browser.post(path, "").await;
        let mut names = answer.names();
        names.sort_unstable();
        assert_eq!((answer.body.as_str(), names.as_slice()), ("updated", cookies));
        let access = node.auth.authenticate(&browser.value("__Host-access")).await.unwrap();
        assert_eq!(access.claims.role, "admin");
        // Using it does not acknowledge a refresh token that the browser may not have.
        for _ in 0..3 {
            node.after_grace();
            assert_eq!(browser.get("/me").await.body, "alice");
            browser.clock.advance(ACCESS_TTL);
        }
    }
}

#[tokio::test]
async fn a_late_update_of_the_claims_does_not_overwrite_the_cookies_of_another_page() {
    let node = node();
    let mut browser = Browser::after_a_pause(&node).await;
    // The response is late: meanwhile, another page may have received newer cookies.
    let refresh_token = browser.value("__Host-refresh");
    let late = browser.post("/slow/claims", "").await;
    assert_eq!(late.names(), ["__Host-access"]);
    assert_eq!(browser.value("__Host-refresh"), refresh_token);
    for _ in 0..3 {
        node.after_grace();
        browser.clock.advance(ACCESS_TTL);
        assert_eq!(browser.get("/me").await.body, "alice");
    }
}

#[tokio::test]
async fn a_login_with_the_body_transport_cannot_be_part_of_another_response() {
    let node = Node::with(|builder| builder.configure(|settings| settings.transport = Transport::Body));
    let login = node.login("alice").await;
    let response = (login, Redirect::to("/")).into_response();
    assert_eq!((response.status().as_u16(), response.headers().get("set-cookie")), (500, None));
}

// ---- together with other layers ----------------------------------------------------------------------------------------

#[tokio::test]
async fn the_layer_works_alone_inside_and_outside_of_other_layers_and_twice() {
    let node = node();
    let (pages, layer, guard) = (|| node.auth.pages().unwrap(), || node.auth.layer(), || node.auth.guard());
    let routes = || Router::new().route("/", get(who)).route("/me", get(me));
    let apps: [Router; 5] = [
        routes().layer(pages()),
        routes().layer(pages()).layer(layer().optional()),
        routes().layer(guard().optional()).layer(layer().optional()).layer(pages()),
        routes().layer(layer().optional()).layer(pages()).layer(guard().optional()),
        routes().layer(pages()).layer(pages()),
    ];
    for (index, app) in apps.into_iter().enumerate() {
        for path in ["/", "/me"] {
            let mut browser = Browser::after_a_pause(&node).await;
            browser.app = app.clone();
            node.events();
            assert_eq!(browser.get(path).await.body, "alice", "{index} {path}");
            assert_eq!(verdicts(&node), [Verdict::Rotate]);
            assert_eq!(browser.get(path).await.body, "alice", "{index} {path}");
        }
        assert_eq!(send(&app, "GET", "/", &[HTML], "").await.body, "nobody");
        assert_eq!(send(&app, "GET", "/me", &[HTML], "").await.redirect(), (303, "/login?next=/me"));
    }
}

#[tokio::test]
async fn two_auths_in_one_app_refresh_only_their_own_cookies() {
    let one = node();
    let other = |builder: axum_refresh::AuthBuilder<Claims>| {
        let access = CookieSettings { name: "admin-access".to_owned(), ..CookieSettings::access() };
        let refresh = CookieSettings { name: "admin-refresh".to_owned(), ..CookieSettings::access() };
        builder
            .configure(|settings| settings.issuer = "admin".into())
            .configure(|settings| settings.access_cookie = Some(access))
            .configure(|settings| settings.refresh_cookie = refresh)
            .configure(|settings| settings.login_page = Some("/admin/login".into()))
    };
    let two = Node::on(support::FaultyStore::default(), one.clock.clone(), other);
    let mut browser = Browser::after_a_pause(&one).await;
    browser.app = Router::new()
        .route("/admin", get(me).route_layer(two.auth.layer()))
        .layer(two.auth.pages().unwrap())
        .layer(one.auth.pages().unwrap());
    assert_eq!(browser.get("/admin").await.redirect(), (303, "/admin/login?next=/admin"));
}

#[tokio::test]
async fn a_request_with_a_bearer_header_is_not_refreshed() {
    let node = node();
    let browser = Browser::after_a_pause(&node).await;
    let bob = format!("Bearer {}", node.login("bob").await.tokens.access_token);
    browser.clock.advance(ACCESS_TTL);
    let fresh = format!("Bearer {}", node.login("carol").await.tokens.access_token);
    node.store.calls();
    node.events();
    for (token, code) in [
        (bob.as_str(), "access_token_expired"),
        ("Bearer x", "access_token_invalid"),
        ("Bearer ", "access_token_invalid"),
    ] {
        for path in ["/me", "/"] {
            let answer = browser.send("GET", path, &[("authorization", token)], "").await;
            assert_eq!(answer.code(), (401, code.to_owned()));
            assert_eq!(answer.names().len(), 0);
        }
    }
    assert_eq!(node.store.calls(), NO_CALLS);
    let answer = browser.send("POST", "/notes", &[("authorization", &fresh), FOREIGN], "x").await;
    assert_eq!((answer.body.as_str(), answer.names().len()), ("carol: x", 0));
    assert_eq!(verdicts(&node).len(), 0);
    // Without a layer inside the request is anonymous, and this is not a server error.
    let alone: Router = Router::new().route("/", get(who)).route("/me", get(me)).layer(node.auth.pages().unwrap());
    assert_eq!(send(&alone, "GET", "/", &[("authorization", "Bearer x")], "").await.body, "nobody");
    assert_eq!(send(&alone, "GET", "/me", &[("authorization", "Bearer x")], "").await.status, 401);
    assert_eq!(send(&alone, "GET", "/me", &[("authorization", &fresh)], "").await.body, "carol");
}

#[tokio::test]
async fn the_routes_of_the_router_work_behind_the_layer() {
    let node = node();
    let mut browser = Browser::after_a_pause(&node).await;
    let answer = browser.post("/auth/refresh", "").await;
    assert_eq!(answer.status, 200);
    let mut names = answer.names();
    names.sort_unstable();
    assert_eq!(names, ["__Host-access", "__Host-refresh"]);
    for _ in 0..3 {
        browser.clock.advance(ACCESS_TTL);
        assert_eq!(browser.get("/me").await.body, "alice");
        browser.clock.advance(ACCESS_TTL);
        assert_eq!(browser.post("/auth/refresh", "").await.status, 200);
        assert_eq!(browser.get("/auth/sessions").await.status, 200);
    }
    browser.clock.advance(ACCESS_TTL);
    assert!(browser.get("/auth/sessions").await.body.contains(r#""current":true"#));
}

// ---- settings -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn pages_require_both_cookies_on_every_path() {
    let setting = |settings: Settings| {
        let node = Node::with(|builder| builder.settings(settings));
        node.auth.pages().map(|_| ()).map_err(|error| error.setting())
    };
    assert_eq!(setting(Settings::for_pages()), Ok(()));
    assert_eq!(setting(Settings { insecure_dev_cookies: true, ..Settings::for_pages() }), Ok(()));
    assert_eq!(setting(Settings { transport: Transport::Both, ..Settings::for_pages() }), Ok(()));
    assert_eq!(setting(Settings::default()), Err("access_cookie"));
    let elsewhere = |cookie: CookieSettings| CookieSettings { path: "/auth".to_owned(), ..cookie };
    let access_cookie = Some(elsewhere(CookieSettings::access()));
    assert_eq!(setting(Settings { access_cookie, ..Settings::for_pages() }), Err("access_cookie"));
    let refresh_cookie = elsewhere(Settings::for_pages().refresh_cookie);
    assert_eq!(setting(Settings { refresh_cookie, ..Settings::for_pages() }), Err("refresh_cookie"));
    let file = "[refresh_cookie]\npath = '/'\nsame_site = 'lax'\n[access_cookie]";
    assert_eq!(toml::from_str::<Settings>(file).unwrap(), Settings::for_pages());
    assert_eq!(Settings::for_pages().refresh_cookie.same_site, SameSite::Lax);
}

// ---- event streams and WebSockets --------------------------------------------------------------------------------------------

#[tokio::test]
async fn an_event_stream_from_the_same_origin_refreshes_and_from_another_origin_is_refused() {
    let node = node();
    let browser = Browser::after_a_pause(&node).await;
    let stream = ("accept", "text/event-stream");
    for foreign in [FOREIGN, ("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site")] {
        let answer = browser.send("GET", "/events", &[stream, foreign], "").await;
        assert_eq!(answer.code(), (403, "cross_origin".to_owned()));
    }
    assert_eq!(node.store.calls(), NO_CALLS);
    let own = [stream, ("sec-fetch-site", "same-origin"), ("cache-control", "no-cache")];
    let mut browser = browser;
    let answer = browser.send("GET", "/events", &own, "").await;
    assert_eq!((answer.body.as_str(), answer.names().len()), ("data: alice\n\n", 2));
    assert_eq!(answer.header("content-type"), "text/event-stream");
    browser.keep(&answer);
    // A valid access cookie alone is enough, too.
    assert_eq!(browser.send("GET", "/events", &own, "").await.body, "data: alice\n\n");
    assert_eq!(browser.send("GET", "/events", &[stream], "").await.body, "data: alice\n\n");
    let foreign = browser.send("GET", "/events", &[stream, FOREIGN], "").await;
    assert_eq!(foreign.code(), (403, "cross_origin".to_owned()));
}

/// Opens a WebSocket (RFC 6455 §4.1) and reads the first message. The error is the response that refused it.
async fn open_socket(
    address: std::net::SocketAddr,
    browser: &Browser,
    origin: &str,
) -> Result<(Answer, String), String> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let handshake = format!(
        "GET /ws HTTP/1.1\r\nHost: app.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nOrigin: {origin}\r\n\
         Cookie: {}\r\n\r\n",
        browser.cookies()
    );
    stream.write_all(handshake.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        headers.append(name.parse::<axum::http::HeaderName>().unwrap(), value.parse().unwrap());
    }
    if status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(format!("{status} {:?}", headers.get("set-cookie")));
    }
    assert_eq!(headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    // One unmasked text frame of less than 126 bytes.
    assert_eq!(stream.read_u8().await.unwrap(), 0x81);
    let mut text = vec![0; stream.read_u8().await.unwrap().into()];
    stream.read_exact(&mut text).await.unwrap();
    Ok((Answer { status, headers, body: String::new() }, String::from_utf8(text).unwrap()))
}

#[tokio::test]
async fn a_websocket_from_the_same_origin_refreshes_and_from_another_origin_is_refused() {
    let node = node();
    let mut browser = Browser::after_a_pause(&node).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = browser.app.clone();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    for foreign in ["https://evil.example", "https://app.example.evil.example", "null"] {
        let refused = open_socket(address, &browser, foreign).await.unwrap_err();
        assert_eq!(refused, "403 Forbidden None", "{foreign}");
    }
    assert_eq!(node.store.calls(), NO_CALLS);
    let (answer, greeting) = open_socket(address, &browser, "https://app.example").await.unwrap();
    assert_eq!((greeting.as_str(), answer.names().len()), ("alice", 2));
    browser.keep(&answer);
    let (answer, greeting) = open_socket(address, &browser, "https://app.example").await.unwrap();
    assert_eq!((greeting.as_str(), answer.names().len()), ("alice", 0));
    assert_eq!(open_socket(address, &browser, "https://evil.example").await.unwrap_err(), "403 Forbidden None");
    assert_eq!(
        open_socket(address, &Browser::new(&node), "https://app.example").await.unwrap_err(),
        "401 Unauthorized None"
    );
    server.abort();
}
