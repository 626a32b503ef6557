//! Passive requests: what does not come from something that the user does keeps no session from becoming idle.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use axum::routing::get;
use axum_refresh::{AuthUser, Policy, SessionStore as _, Settings};
use http_body_util::BodyExt as _;
use serde_json::Value;
use support::{Claims, Node, claims, client};
use tower::ServiceExt as _;

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
const PASSIVE: (&str, &str) = ("auth-passive", "?1");

/// Idle after half an hour.
fn node() -> Node {
    Node::with(|builder| {
        let policy = Policy { idle_timeout: 30 * MINUTE, ..Policy::default() };
        builder.settings(Settings { policy, login_page: Some("/login".to_owned()), ..Settings::for_pages() })
    })
}

async fn name(user: AuthUser<Claims>) -> String {
    user.id.to_string()
}

fn app(node: &Node) -> Router {
    let auth = &node.auth;
    Router::new()
        .route("/active", get(name).layer((auth.layer(), auth.guard())))
        .route("/poll", get(name).layer((auth.passive(), auth.layer(), auth.guard())))
        .route("/guarded-poll", get(name).layer((auth.passive(), auth.guard())))
        .route("/page", get(name).layer((auth.pages().unwrap(), auth.layer())))
        .route("/page-poll", get(name).layer((auth.passive(), auth.pages().unwrap(), auth.layer())))
        .nest("/auth", auth.router())
}

async fn send(app: &Router, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, Vec<String>, String) {
    let mut request = Request::builder().method(method).uri(path).header("host", "app.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response: Response<Body> = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let cookies = parts.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap().to_owned()).collect();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    (parts.status.as_u16(), cookies, String::from_utf8(body).unwrap())
}

/// A session, and the tokens that its browser has.
struct Session<'a> {
    node: &'a Node,
    app: Router,
    access: String,
    refresh: String,
}

impl<'a> Session<'a> {
    async fn begin(node: &'a Node) -> Self {
        let tokens = node.auth.login("alice", claims("user")).client(client()).await.unwrap().tokens;
        let (access, refresh) = (tokens.access_token, tokens.refresh_token.unwrap());
        Self { node, app: app(node), access, refresh }
    }

    async fn get(&self, path: &str, more: &[(&str, &str)]) -> u16 {
        let bearer = format!("Bearer {}", self.access);
        send(&self.app, "GET", path, &[&[("authorization", bearer.as_str())], more].concat()).await.0
    }

    /// Refreshes: the code of the refusal, or how long the access token is valid.
    async fn refresh(&mut self, more: &[(&str, &str)]) -> Result<Duration, String> {
        let cookie = format!("__Host-refresh={}", self.refresh);
        let headers = [&[("cookie", cookie.as_str())], more].concat();
        let (status, cookies, body) = send(&self.app, "POST", "/auth/refresh", &headers).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        if status != 200 {
            return Err(body["code"].as_str().unwrap().to_owned());
        }
        self.keep(&cookies);
        self.access = body["access_token"].as_str().unwrap().to_owned();
        Ok(Duration::from_secs(body["expires_in"].as_u64().unwrap()))
    }

    fn keep(&mut self, cookies: &[String]) {
        let value = cookies.iter().find_map(|cookie| cookie.strip_prefix("__Host-refresh="));
        if let Some(value) = value {
            value.split(';').next().unwrap().clone_into(&mut self.refresh);
        }
    }

    /// A request for a page, by cookies.
    async fn page(&mut self, path: &str, more: &[(&str, &str)]) -> u16 {
        let cookie = format!("__Host-refresh={}", self.refresh);
        let headers = [&[("cookie", cookie.as_str()), ("accept", "text/html")], more].concat();
        let (status, cookies, _) = send(&self.app, "GET", path, &headers).await;
        self.keep(&cookies);
        status
    }

    /// Whether the session lives for this long from now on, and not a second longer, by what the store has.
    async fn ends_in(&self, expected: Duration) {
        self.node.auth.flush().await.unwrap();
        let clock = &self.node.clock;
        clock.advance(expected - SECOND);
        assert_eq!(self.node.auth.sessions("alice").await.unwrap().len(), 1);
        clock.advance(SECOND);
        assert_eq!(self.node.auth.sessions("alice").await.unwrap().len(), 0);
    }
}

#[tokio::test]
async fn a_request_of_the_user_keeps_the_session_from_becoming_idle() {
    let node = node();
    for path in ["/active", "/page"] {
        let session = Session::begin(&node).await;
        node.clock.advance(10 * MINUTE);
        assert_eq!(session.get(path, &[]).await, 200);
        session.ends_in(30 * MINUTE).await;
    }
}

#[tokio::test]
async fn a_passive_request_is_served_and_extends_nothing_whichever_layer_checks_it() {
    let node = node();
    for (path, headers) in [
        ("/poll", &[][..]),
        ("/guarded-poll", &[]),
        ("/page-poll", &[]),
        ("/active", &[PASSIVE]),
        ("/page", &[PASSIVE]),
        ("/poll", &[PASSIVE]),
    ] {
        let session = Session::begin(&node).await;
        for _ in 0..10 {
            node.clock.advance(MINUTE);
            assert_eq!(session.get(path, headers).await, 200, "{path}");
        }
        session.ends_in(20 * MINUTE).await;
    }
}

#[tokio::test]
async fn a_passive_refresh_rotates_and_extends_nothing() {
    let node = node();
    let mut session = Session::begin(&node).await;
    let mut lifetimes = Vec::new();
    for _ in 0..9 {
        node.clock.advance(3 * MINUTE);
        let before = session.refresh.clone();
        lifetimes.push(session.refresh(&[PASSIVE]).await.unwrap());
        assert_ne!(session.refresh, before);
        assert_eq!(session.get("/active", &[PASSIVE]).await, 200);
    }
    // An access token does not outlive the time at which the session may become idle.
    assert!(lifetimes[0] > 14 * MINUTE);
    assert_eq!(lifetimes[5..], [12, 9, 6, 3].map(|minutes| minutes * MINUTE));
    node.clock.advance(3 * MINUTE);
    assert_eq!(session.get("/active", &[]).await, 401);
    assert_eq!(session.refresh(&[]).await, Err("session_idle".to_owned()));
}

#[tokio::test]
async fn a_page_that_refreshes_passively_extends_nothing_and_an_active_one_does() {
    let node = node();
    for (path, headers, left) in [("/page-poll", &[][..], 14), ("/page", &[PASSIVE], 14), ("/page", &[], 30)] {
        let mut session = Session::begin(&node).await;
        node.clock.advance(16 * MINUTE);
        let before = session.refresh.clone();
        assert_eq!(session.page(path, headers).await, 200);
        assert_ne!(session.refresh, before);
        session.ends_in(left * MINUTE).await;
    }
}

#[tokio::test]
async fn the_user_who_comes_back_in_time_goes_on() {
    let node = node();
    let mut session = Session::begin(&node).await;
    for _ in 0..29 {
        node.clock.advance(MINUTE);
        session.refresh(&[PASSIVE]).await.unwrap();
    }
    assert_eq!(session.get("/active", &[]).await, 200);
    session.ends_in(30 * MINUTE).await;
}

#[tokio::test]
async fn a_passive_request_still_shows_that_the_refresh_token_has_arrived() {
    let node = node();
    let mut session = Session::begin(&node).await;
    node.after_grace();
    let stolen = session.refresh.clone();
    session.refresh(&[]).await.unwrap();
    node.after_grace();
    assert_eq!(session.get("/poll", &[]).await, 200);
    session.refresh = stolen;
    assert_eq!(session.refresh(&[]).await, Err("refresh_token_reused".to_owned()));
}

#[tokio::test]
async fn only_the_documented_header_makes_a_request_passive() {
    let node = node();
    for value in ["?0", "1", "true", "", "?1, ?1", "?1;x"] {
        let session = Session::begin(&node).await;
        node.clock.advance(10 * MINUTE);
        assert_eq!(session.get("/active", &[("auth-passive", value)]).await, 200, "{value}");
        session.ends_in(30 * MINUTE).await;
    }
}

#[tokio::test]
async fn activity_from_before_is_written_whatever_passive_requests_follow() {
    let node = node();
    let session = Session::begin(&node).await;
    node.clock.advance(5 * MINUTE);
    let active = node.clock.now();
    assert_eq!(session.get("/active", &[]).await, 200);
    node.clock.advance(5 * MINUTE);
    assert_eq!(session.get("/poll", &[]).await, 200);
    node.auth.flush().await.unwrap();
    let id = node.auth.sessions("alice").await.unwrap()[0].id;
    assert_eq!(node.store.inner.load(id).await.unwrap().unwrap().rotation.last_seen_at, active);
}

#[tokio::test]
async fn the_user_who_comes_back_to_a_passive_token_is_known_on_every_node_before_it_ends() {
    let node = node();
    let mut session = Session::begin(&node).await;
    for _ in 0..2 {
        node.clock.advance(14 * MINUTE);
        session.refresh(&[PASSIVE]).await.unwrap();
    }
    // Two minutes before the end, and not flushed with the rest.
    assert_eq!(session.get("/active", &[]).await, 200);
    let active = node.clock.now();
    let id = node.auth.sessions("alice").await.unwrap()[0].id;
    let is_written = async || node.store.inner.load(id).await.unwrap().unwrap().rotation.last_seen_at == active;
    let soon = async {
        while !is_written().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), soon).await.unwrap();
}

#[tokio::test]
async fn no_leeway_lets_a_passive_token_outlive_the_idle_time() {
    let node = Node::with(|builder| {
        builder.configure(|settings| {
            settings.policy.idle_timeout = 30 * MINUTE;
            settings.leeway = MINUTE;
            settings.login_page = Some("/login".to_owned());
            *settings = Settings {
                refresh_cookie: Settings::for_pages().refresh_cookie,
                access_cookie: Settings::for_pages().access_cookie,
                ..settings.clone()
            };
        })
    });
    let mut session = Session::begin(&node).await;
    for _ in 0..2 {
        node.clock.advance(14 * MINUTE);
        session.refresh(&[PASSIVE]).await.unwrap();
    }
    node.clock.advance(2 * MINUTE);
    assert_eq!(session.get("/active", &[]).await, 401);
    assert!(node.auth.sessions("alice").await.unwrap().is_empty());
}

#[tokio::test]
async fn an_update_of_the_claims_in_a_passive_request_extends_nothing() {
    let node = node();
    let session = Session::begin(&node).await;
    let caller = node.auth.authenticate(&session.access).await.unwrap();
    node.clock.advance(10 * MINUTE);
    assert!(node.auth.update_claims(&caller, claims("admin")).await.is_ok());
    session.ends_in(20 * MINUTE).await;
}
