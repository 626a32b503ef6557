//! What the contract tests of the demo do not cover: the access cookie, the login page, optional users, the order of
//! the layers, and `Auth` in every kind of router state. Real routers, called in process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::extract::{FromRef, Query, State};
use axum::http::{HeaderMap, Request, Response, StatusCode, Uri};
use axum::response::IntoResponse as _;
use axum::routing::{any, get, post};
use axum::{Json, Router};
use axum_refresh::config::{Binding, BindingMode, CookieSettings, OnMaxSessions, Transport};
use axum_refresh::rejection::local_next;
use axum_refresh::router::{Route, Routes};
use axum_refresh::store::Timestamp;
use axum_refresh::{
    Auth, AuthUser, ClaimsError, ClientInfo, Error, Event, Login, Policy, RevocationReason, Secret, SessionStore as _,
    Settings,
};
use http_body_util::BodyExt as _;
use serde::{Deserialize, Serialize};
use support::{Claims, Fault, Node, SECRET, claims, client};
use tower::ServiceExt as _;

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    fn code(&self) -> (u16, String) {
        (self.status.as_u16(), self.json()["code"].as_str().unwrap_or_default().to_owned())
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn cookies(&self) -> Vec<&str> {
        self.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap()).collect()
    }
}

async fn call(app: &Router, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("host", "app.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response: Response<Body> = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, body: String::from_utf8(body.to_vec()).unwrap() }
}

fn bearer(login: &Login) -> String {
    format!("Bearer {}", login.tokens.access_token)
}

async fn who(user: Option<AuthUser<Claims>>) -> String {
    user.map_or_else(|| "nobody".to_owned(), |user| user.id.to_string())
}

async fn me(user: AuthUser<Claims>) -> String {
    user.id.to_string()
}

// ---- several refresh cookies ----------------------------------------------------------------------------------------

#[tokio::test]
async fn a_refused_user_is_not_replaced_by_the_user_of_another_cookie() {
    let disabled = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&disabled);
    let node = Node::with(|builder| {
        builder.claims_hook(move |request| {
            let is_refused = &*request.session.user_id == "alice" && flag.load(Ordering::SeqCst);
            async move { Ok::<_, std::convert::Infallible>((!is_refused).then(|| claims("user"))) }
        })
    });
    let app = Router::new().nest("/auth", node.auth.router());
    let [alice, bob] = [node.refresh_token("alice").await, node.refresh_token("bob").await];
    node.after_grace();
    // Has the higher generation, so it takes precedence.
    let alice = node.rotate(&alice).await;
    let cookies = format!("__Secure-refresh={bob}; __Secure-refresh={alice}");
    for refused in [true, false] {
        disabled.store(refused, Ordering::SeqCst);
        let answer = call(&app, "POST", "/auth/refresh", &[("cookie", &cookies)]).await;
        if refused {
            assert_eq!(answer.code(), (401, "user_refused".to_owned()));
            assert!(answer.cookies().is_empty());
        } else {
            let user = node.auth.authenticate(answer.json()["access_token"].as_str().unwrap()).await.unwrap();
            assert_eq!(&*user.id, "alice");
        }
    }
}

fn cookies(tokens: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    tokens.into_iter().map(|token| format!("__Secure-refresh={token}")).collect::<Vec<_>>().join("; ")
}

/// Refresh tokens of as many sessions of mallory, of a higher generation than that of a login.
async fn planted(node: &Node, count: usize) -> Vec<String> {
    let mut planted = Vec::new();
    for _ in 0..count {
        let token = node.refresh_token("mallory").await;
        planted.push(node.rotate(&token).await);
    }
    node.after_grace();
    planted
}

async fn user_of(node: &Node, answer: &Answer) -> String {
    let json = answer.json();
    let token = json["access_token"].as_str().unwrap_or_else(|| panic!("no tokens: {}", answer.body));
    node.auth.authenticate(token).await.unwrap().id.to_string()
}

#[tokio::test]
async fn dead_cookies_do_not_hide_the_live_one_however_many_there_are() {
    for count in [5, 31] {
        let node = Node::new();
        let app: Router = Router::new().nest("/auth", node.auth.router());
        let dead = planted(&node, count).await;
        node.auth.revoke_user("mallory", None, RevocationReason::Logout).await.unwrap();
        let own = node.refresh_token("alice").await;
        let sent = cookies(dead.iter().chain([&own]));
        let answer = call(&app, "POST", "/auth/refresh", &[("cookie", &sent)]).await;
        assert_eq!(user_of(&node, &answer).await, "alice");
        assert_eq!(answer.cookies().len(), 1);
    }
}

#[tokio::test]
async fn a_cookie_of_another_client_does_not_hide_that_of_this_one() {
    for mode in [BindingMode::Reject, BindingMode::Revoke] {
        let binding = Binding { user_agent: mode, ..Binding::default() };
        let node = Node::with_policy(Policy { binding, ..Policy::default() });
        let app: Router = Router::new().nest("/auth", node.auth.router());
        let login = node.auth.login("alice", claims("user")).client(ClientInfo::new().user_agent("wget/1.0")).await;
        let own = login.unwrap().tokens.refresh_token.unwrap();
        let others = planted(&node, 5).await;
        let sent = cookies(others.iter().chain([&own]));
        let headers = [("cookie", &*sent), ("user-agent", "wget/1.0")];
        let answer = call(&app, "POST", "/auth/refresh", &headers).await;
        assert_eq!(user_of(&node, &answer).await, "alice");
        // It rotates as without the others.
        assert_eq!(answer.cookies().len(), 1);
        let own = answer.cookies()[0].split(['=', ';']).nth(1).unwrap().to_owned();
        assert_eq!(
            call(&app, "POST", "/auth/refresh", &[("cookie", &cookies([&own]))]).await.code().1,
            "client_mismatch"
        );
    }
}

#[tokio::test]
async fn a_client_that_no_cookie_is_bound_to_is_refused() {
    let binding = Binding { user_agent: BindingMode::Reject, ..Binding::default() };
    let node = Node::with_policy(Policy { binding, ..Policy::default() });
    let app: Router = Router::new().nest("/auth", node.auth.router());
    let mut tokens = planted(&node, 2).await;
    let ended = node.refresh_token("alice").await;
    node.auth.logout(&ended).await.unwrap();
    tokens.push(ended);
    let sent = cookies(tokens);
    let answer = call(&app, "POST", "/auth/refresh", &[("cookie", &sent), ("user-agent", "wget/1.0")]).await;
    assert_eq!(answer.code(), (401, "client_mismatch".to_owned()));
}

#[tokio::test]
async fn a_refused_user_does_not_hide_the_one_who_has_used_this_browser_since() {
    for fails in [false, true] {
        let before = Node::new();
        let refused = planted(&before, 5).await;
        let own = before.refresh_token("alice").await;
        let node = Node::on(before.store.clone(), before.clock.clone(), |builder| {
            builder.claims_hook(move |request| async move {
                match &*request.session.user_id == "mallory" {
                    true if fails => Err(std::io::Error::other("the user's row is damaged")),
                    refused => Ok((!refused).then(|| claims("user"))),
                }
            })
        });
        let app: Router = Router::new().nest("/auth", node.auth.router());
        let sent = cookies(refused.iter().chain([&own]));
        let answer = call(&app, "POST", "/auth/refresh", &[("cookie", &sent)]).await;
        assert_eq!(user_of(&node, &answer).await, "alice");
        assert_eq!(answer.cookies().len(), 1);
    }
}

#[tokio::test]
async fn a_race_that_is_not_decided_is_not_decided_for_the_user_of_another_cookie() {
    let node = Node::new();
    let app: Router = Router::new().nest("/auth", node.auth.router());
    let [bob, mut alice] = [node.refresh_token("bob").await, node.refresh_token("alice").await];
    alice = node.rotate(&alice).await;
    let mut newest = alice.clone();
    for _ in 0..2 {
        node.after_grace();
        newest = node.rotate(&newest).await;
    }
    let sent = cookies([&bob, &alice]);
    let answer = call(&app, "POST", "/auth/refresh", &[("cookie", &sent)]).await;
    assert_eq!(answer.code(), (409, "refresh_busy".to_owned()));
}

#[tokio::test]
async fn a_logout_revokes_the_sessions_of_all_cookies_that_are_ours() {
    for count in [5, 31] {
        let node = Node::new();
        let app: Router = Router::new().nest("/auth", node.auth.router());
        let planted = planted(&node, count).await;
        let own = node.refresh_token("alice").await;
        let sent = cookies(planted.iter().chain([&own]));
        assert_eq!(call(&app, "POST", "/auth/logout", &[("cookie", &sent)]).await.status, 204);
        for user in ["alice", "mallory"] {
            assert_eq!(node.auth.sessions(user).await.unwrap(), [], "{count}");
        }
    }
}

#[tokio::test]
async fn a_cookie_that_is_not_ours_costs_no_store_call_at_a_logout() {
    let node = Node::new();
    let app: Router = Router::new().nest("/auth", node.auth.router());
    let own = node.refresh_token("alice").await;
    let strangers =
        Node::signing_with("Zk4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6r", node.store.clone(), node.clock.clone(), |it| it);
    let mut tokens = Vec::new();
    for _ in 0..20 {
        tokens.push(strangers.refresh_token("mallory").await);
    }
    tokens.extend(["x".to_owned(), own]);
    node.store.calls();
    assert_eq!(call(&app, "POST", "/auth/logout", &[("cookie", &cookies(tokens))]).await.status, 204);
    let calls = node.store.calls();
    assert_eq!((calls.loads, calls.others), (1, 1));
}

#[tokio::test]
async fn a_session_that_cannot_be_revoked_keeps_no_other_from_it_at_a_logout() {
    let node = Node::new();
    let app: Router = Router::new().nest("/auth", node.auth.router());
    let login = node.login("mallory").await;
    let damaged = node.rotate(&login.tokens.refresh_token.unwrap()).await;
    let own = node.refresh_token("alice").await;
    node.store.set(Fault::FailsFor(login.tokens.session_id));
    let answer = call(&app, "POST", "/auth/logout", &[("cookie", &cookies([damaged, own]))]).await;
    assert_eq!(answer.code(), (503, "store_unavailable".to_owned()));
    assert_eq!(node.auth.sessions("alice").await.unwrap(), []);
}

#[tokio::test]
async fn a_logout_revokes_the_session_of_its_access_token() {
    let (node, app) = with_access_cookie();
    for by_cookie in [false, true] {
        let login = node.login("alice").await;
        let planted = cookies(planted(&node, 1).await);
        let access_cookie = format!("__Host-access=x; __Host-access={}", login.tokens.access_token);
        let header = bearer(&login);
        let headers = if by_cookie { [("cookie", &*access_cookie)] } else { [("authorization", &*header)] };
        let headers = [headers[0], ("cookie", &planted)];
        assert_eq!(call(&app, "POST", "/auth/logout", &headers).await.status, 204);
        for user in ["alice", "mallory"] {
            assert_eq!(node.auth.sessions(user).await.unwrap(), [], "{user}");
        }
    }
}

#[tokio::test]
async fn an_access_token_that_has_expired_or_was_revoked_logs_nobody_out() {
    let (node, app) = with_access_cookie();
    let login = node.login("alice").await;
    let headers = [("authorization", &*bearer(&login))];
    node.auth.revoke_access_token(&login.tokens.access_token).await.unwrap();
    assert_eq!(call(&app, "POST", "/auth/logout", &headers).await.status, 204);
    let login = node.login("alice").await;
    let headers = [("authorization", &*bearer(&login))];
    node.clock.advance(Policy::default().access_ttl);
    assert_eq!(call(&app, "POST", "/auth/logout", &headers).await.status, 204);
    assert_eq!(node.auth.sessions("alice").await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_planted_cookie_does_not_keep_the_token_in_the_body_from_a_logout() {
    let node = Node::with(|builder| builder.configure(|settings| settings.transport = Transport::Both));
    let app: Router = Router::new().nest("/auth", node.auth.router());
    let own = node.refresh_token("alice").await;
    let request = Request::builder().method("POST").uri("/auth/logout").header("content-type", "application/json");
    let request = request.header("cookie", cookies(planted(&node, 1).await));
    let body = Body::from(format!(r#"{{"refresh_token":"{own}"}}"#));
    assert_eq!(app.oneshot(request.body(body).unwrap()).await.unwrap().status(), 204);
    for user in ["alice", "mallory"] {
        assert_eq!(node.auth.sessions(user).await.unwrap(), [], "{user}");
    }
}

#[tokio::test]
async fn a_login_works_while_the_cookie_of_an_outdated_session_is_still_sent() {
    /// The claims of the version before the last deploy.
    #[derive(Clone, Serialize, Deserialize)]
    struct OldClaims {}

    let node = Node::new();
    let old = Auth::<OldClaims>::builder(Secret::new(SECRET), node.store.clone());
    let old = old.clock(node.clock.reader()).build().unwrap();
    let outdated = old.login("alice", OldClaims {}).await.unwrap().tokens.refresh_token.unwrap();
    // Of the higher generation: it is tried first.
    let outdated = old.refresh(&outdated, client()).await.unwrap().tokens.refresh_token.unwrap();
    let app =
        Router::new().route("/login", post(login)).nest("/auth", node.auth.router()).with_state(node.auth.clone());
    let outdated = format!("__Secure-refresh={outdated}");
    let answer = call(&app, "POST", "/auth/refresh", &[("cookie", &outdated)]).await;
    assert_eq!(answer.code(), (401, "session_outdated".to_owned()));
    assert!(answer.cookies().is_empty());

    let answer = call(&app, "POST", "/login", &[("cookie", &outdated)]).await;
    assert_eq!(answer.status, 200);
    let cookies = format!("{outdated}; {}", answer.cookies()[0].split(';').next().unwrap());
    let answer = call(&app, "POST", "/auth/refresh", &[("cookie", &cookies)]).await;
    assert_eq!(answer.status, 200);
    node.auth.authenticate(answer.json()["access_token"].as_str().unwrap()).await.unwrap();
}

// ---- logging in again in one browser --------------------------------------------------------------------------------

/// The headers of a browser with these cookies.
fn browser(cookies: &[(&str, &str)]) -> HeaderMap {
    let cookies: Vec<_> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
    HeaderMap::from_iter([(axum::http::header::COOKIE, cookies.join("; ").parse().unwrap())])
}

const REFRESH: &str = "__Secure-refresh";

async fn log_in_again(node: &Node, user: &str, browser: &HeaderMap) -> axum_refresh::Tokens {
    node.auth.login(user, claims("user")).client(client()).replacing_cookies_of(browser).await.unwrap().tokens
}

/// What has happened to sessions: revocations with their users and reasons.
fn revocations(node: &Node) -> Vec<(axum_refresh::SessionId, String, RevocationReason)> {
    let revoked = |event| match event {
        Event::SessionRevoked { session_id, user_id, reason, .. } => {
            Some((session_id, user_id.unwrap().to_string(), reason))
        }
        _ => None,
    };
    node.events().into_iter().filter_map(revoked).collect()
}

#[tokio::test]
async fn a_login_replaces_the_sessions_of_the_refresh_cookies_of_its_browser() {
    let node = Node::new();
    let (first, second) = (node.login("alice").await.tokens, node.login("alice").await.tokens);
    let (bob, elsewhere) = (node.login("bob").await.tokens, node.login("alice").await.tokens);
    node.events();
    let tokens = [&first, &bob, &second].map(|tokens| (REFRESH, tokens.refresh_token.as_deref().unwrap()));
    let new = log_in_again(&node, "alice", &browser(&tokens)).await;
    let mut revoked = revocations(&node);
    revoked.sort_by_key(|(id, ..)| [first.session_id, second.session_id, bob.session_id].iter().position(|s| s == id));
    let replaced = |id, user: &str| (id, user.to_owned(), RevocationReason::Replaced);
    let expected =
        [replaced(first.session_id, "alice"), replaced(second.session_id, "alice"), replaced(bob.session_id, "bob")];
    assert_eq!(revoked, expected);
    for tokens in [&first, &second, &bob] {
        let error = node.auth.authenticate(&tokens.access_token).await.unwrap_err();
        assert_eq!(error.code(), "access_token_revoked");
    }
    for tokens in [&elsewhere, &new] {
        node.auth.authenticate(&tokens.access_token).await.unwrap();
    }
}

#[tokio::test]
async fn a_login_replaces_the_session_of_the_access_cookie_if_the_refresh_cookie_is_not_sent() {
    let node =
        Node::with(|builder| builder.configure(|settings| settings.access_cookie = Some(CookieSettings::access())));
    for (old, new) in [("alice", "alice"), ("alice", "bob")] {
        let old = node.login(old).await.tokens;
        log_in_again(&node, new, &browser(&[("__Host-access", &old.access_token)])).await;
        assert_eq!(node.auth.authenticate(&old.access_token).await.unwrap_err().code(), "access_token_revoked");
    }
}

#[tokio::test]
async fn a_login_replaces_the_session_whatever_the_generation_of_its_cookie_and_takes_none_for_theft() {
    let policy = Policy { on_reuse: axum_refresh::config::OnReuse::User, ..Policy::default() };
    let node = Node::with_policy(policy);
    let elsewhere = node.login("alice").await.tokens;
    let first = node.refresh_token("alice").await;
    let second = node.rotate(&first).await;
    node.after_grace();
    let newest = node.rotate(&second).await;
    node.after_grace();
    node.events();
    log_in_again(&node, "alice", &browser(&[(REFRESH, &first)])).await;
    assert!(!node.has_event(Event::is_security));
    assert_eq!(node.refresh(&newest).await.unwrap_err().code(), "session_revoked");
    node.refresh(&elsewhere.refresh_token.unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_cookie_that_is_forged_ended_damaged_or_of_another_app_neither_ends_a_session_nor_fails_the_login() {
    let node = Node::new();
    let victim = node.login("alice").await.tokens;
    let token = victim.refresh_token.clone().unwrap();
    let ended = node.refresh_token("alice").await;
    node.auth.logout(&ended).await.unwrap();
    // Another key has signed a token that names the victim's session.
    let stranger =
        Node::signing_with("Zq8Wn3Lc5Tx7Vb2Rd9Hf4Jg6Km1Py0Sa", node.store.clone(), node.clock.clone(), |b| b);
    let foreign = stranger.refresh_token("alice").await;
    let tampered = format!("{}{}{}", &token[..50], if &token[50..51] == "A" { 'B' } else { 'A' }, &token[51..]);
    let shorter = &token[..80];
    let name_only = victim.session_id.to_string();
    let cookies = ["", "x", &ended, &foreign, &tampered, shorter, &name_only].map(|value| (REFRESH, value));
    node.events();
    log_in_again(&node, "alice", &browser(&cookies)).await;
    log_in_again(&node, "alice", &browser(&[("refresh", &token), ("__Secure-refresh-admin", &token)])).await;
    assert_eq!(revocations(&node), []);
    node.auth.authenticate(&victim.access_token).await.unwrap();
    stranger.refresh(&foreign).await.unwrap();
}

#[tokio::test]
async fn a_refresh_cookie_with_another_secret_than_its_session_ends_nothing() {
    let node = Node::new();
    let victim = node.login("alice").await.tokens;
    let token = victim.refresh_token.unwrap();
    // The row is another one than that of the token.
    let mut row = node.store.load(victim.session_id).await.unwrap().unwrap();
    let other = node.login("alice").await.tokens.session_id;
    row.secret_hash = node.store.load(other).await.unwrap().unwrap().secret_hash;
    let restored = Node::new();
    restored.store.insert(&row, axum_refresh::store::InsertOptions::default()).await.unwrap();
    log_in_again(&restored, "alice", &browser(&[(REFRESH, &token)])).await;
    assert_eq!(revocations(&restored), []);
}

#[tokio::test]
async fn a_login_that_is_refused_or_fails_ends_nothing_of_its_browser() {
    let on_max_sessions = OnMaxSessions::Refuse;
    let node = Node::with_policy(Policy { max_sessions: Some(1), on_max_sessions, ..Policy::default() });
    let (bob, _) = (node.login("bob").await.tokens, node.login("alice").await);
    let bob_only = browser(&[(REFRESH, bob.refresh_token.as_deref().unwrap())]);
    let login = || node.auth.login("alice", claims("user")).replacing_cookies_of(&bob_only);
    assert_eq!(login().await.unwrap_err().code(), "session_limit");
    node.store.set(Fault::Fails);
    assert_eq!(login().await.unwrap_err().code(), "store_unavailable");
    node.store.set(Fault::None);
    node.auth.authenticate(&bob.access_token).await.unwrap();
    // The replaced session makes room for the new one.
    log_in_again(&node, "bob", &bob_only).await;
    assert_eq!(node.auth.sessions("bob").await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_session_that_cannot_be_revoked_at_a_login_in_its_place_is_revoked_later() {
    let node = Node::new();
    let bob = node.login("bob").await.tokens;
    let token = bob.refresh_token.clone().unwrap();
    node.store.set(Fault::FailsToRevoke);
    log_in_again(&node, "alice", &browser(&[(REFRESH, &token)])).await;
    assert!(node.has_event(|event| matches!(event, Event::RevocationDelayed { .. })));
    assert_eq!(node.auth.authenticate(&bob.access_token).await.unwrap_err().code(), "access_token_revoked");
    node.store.set(Fault::None);
    node.auth.flush().await.unwrap();
    let revoked = node.store.load(bob.session_id).await.unwrap().unwrap().rotation.revoked;
    assert_eq!(revoked.unwrap().reason, RevocationReason::Replaced);
    // One whose row cannot even be loaded does not fail the login.
    let damaged = node.login("bob").await.tokens;
    node.store.set(Fault::FailsFor(damaged.session_id));
    log_in_again(&node, "alice", &browser(&[(REFRESH, &damaged.refresh_token.unwrap())])).await;
}

#[tokio::test]
async fn the_cookies_of_another_realm_are_not_replaced() {
    let node = Node::new();
    let admin = Node::on(node.store.clone(), node.clock.clone(), |builder| {
        builder.configure(|settings| settings.realm = Some("admin".to_owned()))
    });
    let old = admin.login("alice").await.tokens;
    let token = old.refresh_token.as_deref().unwrap();
    log_in_again(&node, "alice", &browser(&[(REFRESH, token), ("__Secure-refresh-admin", token)])).await;
    admin.auth.authenticate(&old.access_token).await.unwrap();
    log_in_again(&admin, "alice", &browser(&[("__Secure-refresh-admin", token)])).await;
    assert_eq!(admin.auth.authenticate(&old.access_token).await.unwrap_err().code(), "access_token_revoked");
}

// ---- a store that has lost a session ----------------------------------------------------------------------------------

#[tokio::test]
async fn logging_out_everywhere_revokes_a_session_that_the_store_has_lost() {
    let node = Node::new();
    let login = node.login("alice").await;
    let app = Router::new()
        .route("/me", get(me))
        .route_layer(node.auth.layer())
        .nest("/auth", node.auth.router())
        .with_state(node.auth.clone());
    let headers = [("authorization", &*bearer(&login))];
    assert_eq!(call(&app, "GET", "/auth/sessions", &headers).await.status, 200);
    // As after a failover to a replica that does not have the login. This node's guard has seen the session.
    assert_eq!(node.store.inner.purge(Timestamp::MAX, 10).await.unwrap(), 1);
    assert_eq!(call(&app, "GET", "/me", &headers).await.body, "alice");
    assert_eq!(call(&app, "POST", "/auth/logout/all", &headers).await.status, 204);
    assert_eq!(call(&app, "GET", "/me", &headers).await.code(), (401, "access_token_revoked".to_owned()));
}

// ---- `Auth` and the state of a router ----------------------------------------------------------------------------------

#[derive(Clone, FromRef)]
struct AppState {
    auth: Auth<Claims>,
    name: String,
}

async fn login(State(auth): State<Auth<Claims>>, client: ClientInfo) -> Result<Login, Error> {
    auth.login("alice", claims("user")).client(client).await
}

#[tokio::test]
async fn auth_works_as_the_state_as_part_of_it_and_without_one() {
    let node = Node::new();
    let auth = &node.auth;
    let alone = Router::new()
        .route("/me", get(me).route_layer(auth.layer()))
        .route("/login", post(login))
        .nest("/auth", auth.router())
        .with_state(auth.clone());
    let inside = Router::new()
        .route("/me", get(me).route_layer(auth.layer()))
        .route("/login", post(login))
        .route("/name", get(|State(name): State<String>| async { name }))
        .nest("/auth", auth.router())
        .nest("/admin", auth.admin_router())
        .with_state(AppState { auth: auth.clone(), name: "app".to_owned() });
    let beside: Router = Router::new()
        .route("/me", get(me))
        .route_layer(auth.guard())
        .route_layer(auth.layer())
        .route("/login", post(login).with_state(auth.clone()))
        .nest("/auth", auth.router());
    for app in [&alone, &inside, &beside] {
        let answer = call(app, "POST", "/login", &[]).await;
        let token = format!("Bearer {}", answer.json()["access_token"].as_str().unwrap());
        assert_eq!(call(app, "GET", "/me", &[("authorization", &token)]).await.body, "alice");
        let cookie = answer.cookies()[0].split(';').next().unwrap();
        assert_eq!(call(app, "POST", "/auth/refresh", &[("cookie", cookie)]).await.status, 200);
        assert_eq!(call(app, "GET", "/nowhere", &[]).await.status, 404);
    }
}

#[tokio::test]
async fn the_layers_wrap_any_tower_service_with_any_body() {
    use tower::{Layer as _, Service as _};
    let node = Node::new();
    let inner = tower::service_fn(|request: Request<String>| async move {
        Ok::<_, std::io::Error>(Response::new(Body::from(request.into_body())))
    });
    let mut service = node.auth.layer().layer(node.auth.guard().layer(inner));
    let login = node.login("alice").await;
    let request = |token: &str| Request::builder().header("authorization", token).body("the body".to_owned()).unwrap();
    let answer = service.ready().await.unwrap().call(request(&bearer(&login))).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "the body");
    let answer = service.ready().await.unwrap().call(request("Bearer x")).await.unwrap();
    assert_eq!(answer.status(), 401);
}

#[tokio::test]
async fn two_auths_in_one_app_do_not_accept_each_others_tokens() {
    let (one, two) =
        (Node::new(), Node::with(|builder| builder.configure(|settings| settings.issuer = "other app".into())));
    let app = Router::new().route("/both", get(me)).route_layer(two.auth.layer()).route_layer(one.auth.layer());
    let login = one.login("alice").await;
    let answer = call(&app, "GET", "/both", &[("authorization", &bearer(&login))]).await;
    assert_eq!(answer.code(), (401, "access_token_invalid".to_owned()));
}

// ---- the layers -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_order_of_the_layers_does_not_matter_and_the_guard_works_alone() {
    let policy =
        Policy { binding: Binding { user_agent: BindingMode::Reject, ..Binding::default() }, ..Policy::default() };
    let node = Node::with_policy(policy);
    let (layer, guard) = (|| node.auth.layer(), || node.auth.guard());
    let apps = [
        Router::new().route("/", get(me)).route_layer(guard()).route_layer(layer()),
        Router::new().route("/", get(me)).route_layer(layer()).route_layer(guard()),
        Router::new().route("/", get(me)).route_layer(guard()),
    ];
    for app in &apps {
        let login = node.login("alice").await;
        let token = bearer(&login);
        let own = [("authorization", token.as_str()), ("user-agent", "curl/9.0")];
        let foreign = [("authorization", token.as_str()), ("user-agent", "wget/1.0")];
        for _ in 0..2 {
            assert_eq!(call(app, "GET", "/", &own).await.body, "alice");
            let answer = call(app, "GET", "/", &foreign).await;
            assert_eq!(answer.code(), (401, "client_mismatch".to_owned()));
            assert_eq!(answer.header("www-authenticate"), r#"Bearer error="invalid_token""#);
        }
        assert_eq!(call(app, "GET", "/", &[]).await.code(), (401, "access_token_missing".to_owned()));
        node.auth.revoke_own_session("alice", login.tokens.session_id).await.unwrap();
        assert_eq!(call(app, "GET", "/", &own).await.code(), (401, "access_token_revoked".to_owned()));
    }
}

#[tokio::test]
async fn every_client_of_a_token_is_compared_whatever_the_guard_has_let_pass_before() {
    for ip in [BindingMode::Off, BindingMode::Observe] {
        let binding = Binding { user_agent: BindingMode::Reject, ip, ..Binding::default() };
        let node = Node::with_policy(Policy { binding, ..Policy::default() });
        let app = Router::new().route("/", get(me)).route_layer(node.auth.guard());
        for rotation in 0..6 {
            let login = node.login("alice").await;
            let token = bearer(&login);
            let mut requests = [
                ("curl/8.5.0", 200),
                ("curl/9.0", 200),
                ("curl/10.1", 200),
                ("wget/1.0", 401),
                ("", 401),
                ("curl/9.0", 200),
            ];
            requests.rotate_left(rotation);
            for (user_agent, status) in requests.into_iter().cycle().take(18) {
                let headers = [("authorization", token.as_str()), ("user-agent", user_agent)];
                assert_eq!(call(&app, "GET", "/", &headers).await.status, status, "{user_agent:?} {rotation}");
            }
        }
    }
}

#[tokio::test]
async fn a_guard_in_revoke_mode_revokes_the_session() {
    let policy =
        Policy { binding: Binding { user_agent: BindingMode::Revoke, ..Binding::default() }, ..Policy::default() };
    let node = Node::with_policy(policy);
    let app = Router::new().route("/", get(me)).route_layer(node.auth.guard());
    let login = node.login("alice").await;
    let token = bearer(&login);
    let own = [("authorization", token.as_str()), ("user-agent", "curl/9.0")];
    assert_eq!(call(&app, "GET", "/", &own).await.status, 200);
    let foreign = [("authorization", token.as_str()), ("user-agent", "wget/1.0")];
    assert_eq!(call(&app, "GET", "/", &foreign).await.code(), (401, "client_mismatch".to_owned()));
    assert_eq!(call(&app, "GET", "/", &own).await.code(), (401, "access_token_revoked".to_owned()));
}

#[tokio::test]
async fn the_guard_loads_a_session_once_and_the_layer_never() {
    let node = Node::new();
    let app = Router::new().route("/me", get(me)).route_layer(node.auth.guard()).route_layer(node.auth.layer());
    let login = node.login("alice").await;
    node.store.calls();
    for _ in 0..10 {
        assert_eq!(call(&app, "GET", "/me", &[("authorization", &bearer(&login))]).await.status, 200);
    }
    assert_eq!(node.store.calls().loads, 1);
    node.store.set(Fault::Fails);
    assert_eq!(call(&app, "GET", "/me", &[("authorization", &bearer(&login))]).await.status, 200);
}

#[tokio::test]
async fn the_guard_refuses_a_session_that_the_store_does_not_have() {
    let (node, empty) = (Node::new(), Node::new());
    let login = node.login("alice").await;
    let app = Router::new().route("/", get(me)).route_layer(empty.auth.guard());
    let answer = call(&app, "GET", "/", &[("authorization", &bearer(&login))]).await;
    assert_eq!(answer.code(), (401, "access_token_revoked".to_owned()));
}

#[tokio::test]
async fn a_failing_store_behind_the_guard_returns_503_and_clears_no_cookie() {
    let node = Node::new();
    let app = Router::new().route("/", get(me)).route_layer(node.auth.guard()).nest("/auth", node.auth.router());
    let login = node.login("alice").await;
    node.auth.authenticate(&login.tokens.access_token).await.unwrap();
    node.store.set(Fault::Fails);
    let cookie = format!("__Secure-refresh={}", login.tokens.refresh_token.as_deref().unwrap());
    let token = bearer(&login);
    let headers = [("authorization", token.as_str()), ("cookie", cookie.as_str())];
    for (method, path) in [
        ("GET", "/"),
        ("POST", "/auth/refresh"),
        ("POST", "/auth/logout"),
        ("POST", "/auth/logout/all"),
        ("GET", "/auth/sessions"),
    ] {
        let answer = call(&app, method, path, &headers).await;
        assert_eq!(answer.code(), (503, "store_unavailable".to_owned()), "{path}");
        assert!(!answer.header("retry-after").is_empty());
        assert!(answer.cookies().is_empty());
    }
    node.store.set(Fault::None);
    assert_eq!(call(&app, "POST", "/auth/refresh", &headers).await.status, 200);
}

#[tokio::test]
async fn an_optional_layer_accepts_anonymous_requests_but_no_invalid_token_in_the_header() {
    let node =
        Node::with(|builder| builder.configure(|settings| settings.access_cookie = Some(CookieSettings::access())));
    let app = Router::new()
        .route("/", get(who))
        .route("/me", get(me))
        .route_layer(node.auth.guard().optional())
        .route_layer(node.auth.layer().optional());
    let login = node.login("alice").await;
    assert_eq!(call(&app, "GET", "/", &[]).await.body, "nobody");
    assert_eq!(call(&app, "GET", "/", &[("authorization", &bearer(&login))]).await.body, "alice");
    assert_eq!(call(&app, "GET", "/me", &[]).await.code(), (401, "access_token_missing".to_owned()));
    let answer = call(&app, "GET", "/", &[("authorization", "Bearer x")]).await;
    assert_eq!(answer.code(), (401, "access_token_invalid".to_owned()));
    assert_eq!(call(&app, "GET", "/", &[("cookie", "__Host-access=old")]).await.body, "nobody");
    let cookie = format!("__Host-access={}", login.tokens.access_token);
    assert_eq!(call(&app, "GET", "/", &[("cookie", &cookie)]).await.body, "alice");
    node.auth.revoke_own_session("alice", login.tokens.session_id).await.unwrap();
    assert_eq!(call(&app, "GET", "/", &[("cookie", &cookie)]).await.body, "nobody");
    let revoked = call(&app, "GET", "/", &[("authorization", &bearer(&login))]).await;
    assert_eq!(revoked.code(), (401, "access_token_revoked".to_owned()));
}

#[tokio::test]
async fn an_outer_optional_layer_does_not_weaken_an_inner_layer() {
    let node =
        Node::with(|builder| builder.configure(|settings| settings.access_cookie = Some(CookieSettings::access())));
    let secret = || get(|| async { "secret" });
    let app: Router = Router::new()
        .route("/layer", secret().route_layer(node.auth.layer()))
        .route("/guard", secret().route_layer(node.auth.guard()))
        .route("/both", secret().route_layer(node.auth.guard()).route_layer(node.auth.layer()))
        .layer(node.auth.layer().optional());
    let login = node.login("alice").await;
    for path in ["/layer", "/guard", "/both"] {
        assert_eq!(call(&app, "GET", path, &[]).await.code(), (401, "access_token_missing".to_owned()), "{path}");
        let old = call(&app, "GET", path, &[("cookie", "__Host-access=old")]).await;
        assert_eq!(old.code(), (401, "access_token_invalid".to_owned()), "{path}");
        assert_eq!(call(&app, "GET", path, &[("authorization", &bearer(&login))]).await.body, "secret");
    }
}

#[tokio::test]
async fn a_request_without_a_valid_token_does_not_wait_for_the_store() {
    let node = Node::new();
    node.store.set(Fault::Hangs);
    let strict: Router =
        Router::new().route("/", get(me)).route_layer(node.auth.guard()).route_layer(node.auth.layer());
    let open: Router = Router::new().route("/", get(who)).route_layer(node.auth.layer().optional());
    assert_eq!(call(&open, "GET", "/", &[]).await.body, "nobody");
    assert_eq!(call(&strict, "GET", "/", &[]).await.code(), (401, "access_token_missing".to_owned()));
    let garbage = call(&strict, "GET", "/", &[("authorization", "Bearer x")]).await;
    assert_eq!(garbage.code(), (401, "access_token_invalid".to_owned()));
}

#[tokio::test]
async fn requests_do_not_wait_for_each_other_on_a_hanging_store() {
    let settings = Settings { store_timeout: std::time::Duration::from_millis(200), ..Settings::default() };
    let node = Node::with(|builder| builder.settings(settings));
    let login = node.login("alice").await;
    let app: Router = Router::new().route("/", get(me)).route_layer(node.auth.guard());
    for stale in [true, false] {
        if !stale {
            node.store.set(Fault::None);
            // A call that began while the store was hanging has to time out first.
            while node.auth.authenticate(&login.tokens.access_token).await.is_err() {}
        }
        node.store.set(Fault::Hangs);
        let started = std::time::Instant::now();
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let (app, token) = (app.clone(), bearer(&login));
                tokio::spawn(async move { call(&app, "GET", "/", &[("authorization", &token)]).await.code() })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap(), (503, "store_unavailable".to_owned()));
        }
        // In sequence they would take four seconds.
        assert!(started.elapsed() < std::time::Duration::from_secs(2), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_handler_without_a_layer_authenticates_nobody() {
    let node = Node::new();
    let app: Router = Router::new().route("/", get(me)).route("/who", get(who));
    let login = node.login("alice").await;
    let answer = call(&app, "GET", "/", &[("authorization", &bearer(&login))]).await;
    assert_eq!(answer.code(), (500, "internal".to_owned()));
    assert_eq!(call(&app, "GET", "/who", &[("authorization", &bearer(&login))]).await.body, "nobody");
}

// ---- the hint cookie ------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_hint_is_set_with_every_refresh_by_cookie_and_cleared_with_the_cookie() {
    let node = Node::with(|builder| builder.configure(|settings| settings.hint_cookie = true));
    let app: Router =
        Router::new().route("/login", post(login).with_state(node.auth.clone())).nest("/auth", node.auth.router());
    let answer = call(&app, "POST", "/login", &[]).await;
    let [refresh, hint] = answer.cookies().try_into().unwrap();
    let max_age = |cookie: &str| cookie.rsplit_once("Max-Age=").unwrap().1.to_owned();
    let expected = format!("__Secure-session-hint=1; SameSite=Strict; Secure; Path=/; Max-Age={}", max_age(refresh));
    assert_eq!(hint, expected);
    let first = refresh.split(';').next().unwrap();
    node.clock.advance(support::GRACE * 2);
    let rotate = call(&app, "POST", "/auth/refresh", &[("cookie", first)]).await;
    let [refresh, hint] = rotate.cookies().try_into().unwrap();
    assert!(hint.starts_with("__Secure-session-hint=1; "), "{hint}");
    assert_eq!(max_age(refresh), max_age(hint));
    let second = refresh.split(';').next().unwrap();
    let echo = call(&app, "POST", "/auth/refresh", &[("cookie", first)]).await;
    let [hint] = echo.cookies().try_into().unwrap();
    assert!(hint.starts_with("__Secure-session-hint=1; "), "{hint}");
    // No refusal clears a cookie, and this one does not clear the hint either.
    assert!(call(&app, "POST", "/auth/refresh", &[("cookie", "__Secure-refresh=x")]).await.cookies().is_empty());
    let logout = call(&app, "POST", "/auth/logout", &[("cookie", second)]).await;
    let [refresh, hint] = logout.cookies().try_into().unwrap();
    assert!(refresh.starts_with("__Secure-refresh=; "), "{refresh}");
    assert_eq!(hint, "__Secure-session-hint=; SameSite=Strict; Secure; Path=/; Max-Age=0");
}

#[tokio::test]
async fn a_session_from_before_the_hint_was_switched_on_gets_one_with_its_next_refresh() {
    let before = Node::new();
    let token = before.rotate(&before.refresh_token("alice").await).await;
    let after = Node::on(before.store.clone(), before.clock.clone(), |builder| {
        builder.configure(|settings| settings.hint_cookie = true)
    });
    let app: Router = Router::new().nest("/auth", after.auth.router());
    after.clock.advance(support::GRACE / 2);
    let cookie = format!("__Secure-refresh={token}");
    let touch = call(&app, "POST", "/auth/refresh", &[("cookie", &cookie)]).await;
    // It ends with the session, which is half a grace period old.
    let seconds = (Policy::default().lifetime - support::GRACE / 2).as_secs();
    let expected = format!("__Secure-session-hint=1; SameSite=Strict; Secure; Path=/; Max-Age={seconds}");
    assert_eq!((touch.status.as_u16(), touch.cookies()), (200, vec![expected.as_str()]));
}

#[tokio::test]
async fn a_client_without_a_refresh_cookie_gets_no_hint() {
    let node = Node::with(|builder| {
        builder.configure(|settings| {
            settings.hint_cookie = true;
            settings.transport = Transport::Both;
        })
    });
    async fn short(State(auth): State<Auth<Claims>>) -> Result<Login, Error> {
        auth.login("alice", claims("user")).without_refresh().await
    }
    let app: Router =
        Router::new().route("/short", post(short)).nest("/auth", node.auth.router()).with_state(node.auth.clone());
    let answer = call(&app, "POST", "/short", &[]).await;
    assert_eq!((answer.status.as_u16(), answer.cookies()), (200, Vec::new()));
    let body = Body::from(format!(r#"{{"refresh_token":"{}"}}"#, node.refresh_token("alice").await));
    let request =
        Request::post("/auth/refresh").header("host", "app.example").header("content-type", "application/json");
    let response = app.oneshot(request.body(body).unwrap()).await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers().get("set-cookie")), (200, None));
}

#[tokio::test]
async fn there_is_no_hint_cookie_by_default() {
    let node = Node::new();
    let app: Router = Router::new().route("/login", post(login).with_state(node.auth.clone()));
    assert_eq!(call(&app, "POST", "/login", &[]).await.cookies().len(), 1);
}

// ---- the access cookie ----------------------------------------------------------------------------------------------

fn with_access_cookie() -> (Node, Router) {
    let node =
        Node::with(|builder| builder.configure(|settings| settings.access_cookie = Some(CookieSettings::access())));
    let app = Router::new()
        .route("/", any(me))
        .route_layer(node.auth.layer())
        .route("/login", post(login))
        .nest("/auth", node.auth.router())
        .with_state(node.auth.clone());
    (node, app)
}

#[tokio::test]
async fn an_access_cookie_is_set_with_every_access_token_and_cleared_at_logout() {
    let (_node, app) = with_access_cookie();
    let answer = call(&app, "POST", "/login", &[]).await;
    let [refresh, access] = answer.cookies().try_into().unwrap();
    assert!(refresh.starts_with("__Secure-refresh="));
    assert!(access.starts_with("__Host-access="));
    assert!(access.contains("; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age="));
    let life: u64 = access.rsplit('=').next().unwrap().parse().unwrap();
    assert!((854..=900).contains(&life));
    assert_eq!(answer.header("cache-control"), "no-store");
    let refresh = refresh.split(';').next().unwrap();
    call(&app, "POST", "/auth/refresh", &[("cookie", refresh)]).await;
    let echo = call(&app, "POST", "/auth/refresh", &[("cookie", refresh)]).await;
    assert_eq!(echo.cookies().len(), 1);
    assert!(echo.cookies()[0].starts_with("__Host-access="));
    let logout = call(&app, "POST", "/auth/logout", &[("cookie", refresh)]).await;
    assert_eq!(logout.cookies().len(), 2);
    assert!(logout.cookies().iter().all(|cookie| cookie.ends_with("Max-Age=0")));
}

#[tokio::test]
async fn an_access_cookie_authenticates_and_the_header_takes_precedence() {
    let (node, app) = with_access_cookie();
    let (alice, bob) = (node.login("alice").await, node.login("bob").await);
    let cookie = format!("a=b; __Host-access=garbage; __Host-access={}", alice.tokens.access_token);
    assert_eq!(call(&app, "GET", "/", &[("cookie", &cookie)]).await.body, "alice");
    let both = [("cookie", cookie.as_str()), ("authorization", &bearer(&bob))];
    assert_eq!(call(&app, "GET", "/", &both).await.body, "bob");
    let bad_header = [("cookie", cookie.as_str()), ("authorization", "Bearer x")];
    assert_eq!(call(&app, "GET", "/", &bad_header).await.code(), (401, "access_token_invalid".to_owned()));
    let garbage = call(&app, "GET", "/", &[("cookie", "__Host-access=x")]).await;
    assert_eq!(garbage.code(), (401, "access_token_invalid".to_owned()));
}

#[tokio::test]
async fn the_origin_check_applies_to_a_token_in_the_cookie_and_not_in_the_header() {
    let (node, app) = with_access_cookie();
    let login = node.login("alice").await;
    let cookie = format!("__Host-access={}", login.tokens.access_token);
    let foreign = ("sec-fetch-site", "cross-site");
    let by_cookie = [("cookie", cookie.as_str()), foreign];
    assert_eq!(call(&app, "POST", "/", &by_cookie).await.code(), (403, "cross_origin".to_owned()));
    assert_eq!(call(&app, "GET", "/", &by_cookie).await.status, 200);
    let upgrade = [("cookie", cookie.as_str()), ("upgrade", "websocket"), ("origin", "https://evil.example")];
    assert_eq!(call(&app, "GET", "/", &upgrade).await.code(), (403, "cross_origin".to_owned()));
    let token = bearer(&login);
    assert_eq!(call(&app, "POST", "/", &[("authorization", &token), foreign]).await.status, 200);
}

#[tokio::test]
async fn no_access_cookie_is_read_unless_it_is_configured() {
    let node = Node::new();
    let app: Router = Router::new().route("/", get(me)).route_layer(node.auth.layer());
    let login = node.login("alice").await;
    for name in ["__Host-access", "__Secure-access", "access", "__Secure-refresh"] {
        let cookie = format!("{name}={}", login.tokens.access_token);
        assert_eq!(
            call(&app, "GET", "/", &[("cookie", &cookie)]).await.code(),
            (401, "access_token_missing".to_owned())
        );
    }
}

// ---- the login page -------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_refused_page_redirects_to_the_login_page_and_an_api_call_does_not() {
    let node = Node::with(|builder| builder.configure(|settings| settings.login_page = Some("/login".into())));
    let app = Router::new()
        .nest("/shop", Router::new().route("/orders/{id}", any(me)).route_layer(node.auth.layer()))
        .nest("/auth", node.auth.router());
    let html = ("accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8");
    for headers in [vec![html], vec![html, ("authorization", "Bearer x")]] {
        let answer = call(&app, "GET", "/shop/orders/7?page=2&q=a%2Fb", &headers).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("location")),
            (303, "/login?next=/shop/orders/7%3Fpage%3D2%26q%3Da%252Fb")
        );
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    let answer = call(&app, "GET", "/shop/orders/7", &[("accept", "application/json")]).await;
    assert_eq!(answer.code(), (401, "access_token_missing".to_owned()));
    let answer = call(&app, "POST", "/shop/orders/7", &[html]).await;
    assert_eq!(answer.code(), (401, "access_token_missing".to_owned()));
    assert_eq!(call(&app, "POST", "/auth/refresh", &[html]).await.code(), (401, "refresh_token_missing".to_owned()));
}

fn with_login_page() -> (Node, Router) {
    let node = Node::with(|builder| builder.configure(|settings| settings.login_page = Some("/login".into())));
    let app = Router::new().fallback(me).layer(node.auth.layer());
    (node, app)
}

#[tokio::test]
async fn the_redirect_to_the_login_page_never_contains_another_host() {
    let (_node, app) = with_login_page();
    for path in ["//evil.example/x", "/%2f%2fevil.example", "/\\evil.example", "///evil.example"] {
        let answer = call(&app, "GET", path, &[("accept", "text/html")]).await;
        let next = answer.header("location").strip_prefix("/login?next=").unwrap().to_owned();
        assert!(next.starts_with('/') && !next.starts_with("//") && !next.starts_with("/\\"), "{next}");
    }
}

#[tokio::test]
async fn the_login_handler_accepts_each_next_that_a_redirect_has_sent() {
    let (_node, app) = with_login_page();
    for path in ["/", "/notes?page=2", "/a%20b?q=%C3%A9&r=%2F%2Fx", "//evil.example/?x=/y", "/x?next=/login%3Fnext=/y"]
    {
        let answer = call(&app, "GET", path, &[("accept", "text/html")]).await;
        let location: Uri = answer.header("location").parse().unwrap();
        let Query(query) = Query::<HashMap<String, String>>::try_from_uri(&location).unwrap();
        let local = format!("/{}", path.trim_start_matches('/'));
        assert_eq!(local_next(&query["next"]), Some(local.as_str()));
    }
}

#[tokio::test]
async fn a_next_that_is_too_long_for_a_header_is_left_out() {
    let (_node, app) = with_login_page();
    for (length, has_next) in [(100, true), (60_000, false)] {
        let answer = call(&app, "GET", &format!("/search?q={}", "x".repeat(length)), &[("accept", "text/html")]).await;
        assert_eq!(answer.status, 303);
        assert_eq!(answer.header("location") != "/login", has_next);
    }
}

#[tokio::test]
async fn a_login_page_behind_the_layer_is_refused_and_not_redirected_to_itself() {
    let (_node, app) = with_login_page();
    let whole = Router::new().nest("/login", app.clone()).merge(app);
    for path in ["/login", "/login?next=/notes"] {
        let answer = call(&whole, "GET", path, &[("accept", "text/html")]).await;
        assert_eq!(answer.code(), (401, "access_token_missing".to_owned()), "{path}");
    }
}

#[tokio::test]
async fn a_login_page_behind_the_layer_and_a_proxy_that_changes_the_path_is_redirected_to_itself_once_at_most() {
    let node = Node::with(|builder| builder.configure(|settings| settings.login_page = Some("/shop/login".into())));
    let app = Router::new().fallback(me).layer(node.auth.layer());
    let answer = call(&app, "GET", "/login?next=/notes", &[("accept", "text/html")]).await;
    assert_eq!(answer.code(), (401, "access_token_missing".to_owned()));
    // A proxy that adds a prefix.
    let answer = call(&app, "GET", "/internal/shop/login?next=/notes", &[("accept", "text/html")]).await;
    assert_eq!(answer.code(), (401, "access_token_missing".to_owned()));
    for path in ["/notes?next=/x", "/?next=/x", "/shop/log?next=/x"] {
        assert_eq!(call(&app, "GET", path, &[("accept", "text/html")]).await.status, 303, "{path}");
    }
}

#[tokio::test]
async fn htmx_is_told_to_load_the_login_page_and_to_return_to_the_page_around() {
    let (_node, app) = with_login_page();
    let htmx = ("hx-request", "true");
    let page = ("hx-current-url", "https://app.example/notes?page=2#top");
    let next = |path: &str| format!("/login?next={path}");
    for (method, path, headers, expected) in [
        ("GET", "/notes/7/row", vec![htmx, page], next("/notes%3Fpage%3D2")),
        ("POST", "/notes", vec![htmx, page], next("/notes%3Fpage%3D2")),
        ("DELETE", "/notes/7", vec![htmx], "/login".to_owned()),
        ("GET", "/notes?page=3", vec![htmx, page, ("hx-boosted", "true")], next("/notes%3Fpage%3D3")),
        ("GET", "/x", vec![htmx, ("hx-current-url", "https://evil.example//evil.example/x")], next("/evil.example/x")),
        ("GET", "/x", vec![htmx, ("hx-current-url", "no url at all")], "/login".to_owned()),
    ] {
        let answer = call(&app, method, path, &headers).await;
        assert_eq!(answer.code(), (401, "access_token_missing".to_owned()));
        assert_eq!(answer.header("hx-redirect"), expected, "{method} {path}");
    }
    // htmx asks for the whole page of its history like a browser, and follows redirects.
    let history = [htmx, ("hx-history-restore-request", "true"), page];
    let answer = call(&app, "GET", "/notes", &history).await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, "/login?next=/notes"));
}

// ---- the origin check -----------------------------------------------------------------------------------------------

const APP_ORIGINS: [&str; 4] = ["capacitor://localhost", "tauri://localhost", "chrome-extension://abcdef", "file://"];

#[tokio::test]
async fn an_app_with_a_scheme_of_its_own_can_be_a_trusted_origin() {
    let node = Node::with(|builder| {
        builder.configure(|settings| settings.trusted_origins = APP_ORIGINS.map(str::to_owned).to_vec())
    });
    let app = Router::new().route("/", any(|| async {})).layer(node.auth.csrf()).nest("/auth", node.auth.router());
    for origin in APP_ORIGINS {
        let headers = [("origin", origin), ("sec-fetch-site", "cross-site")];
        assert_eq!(call(&app, "POST", "/", &headers).await.status, 200, "{origin}");
        let cookie = format!("__Secure-refresh={}", node.refresh_token("alice").await);
        let answer = call(&app, "POST", "/auth/refresh", &[headers[0], headers[1], ("cookie", &cookie)]).await;
        assert_eq!(answer.status, 200, "{origin}");
    }
    for origin in ["capacitor://localhost2", "Capacitor://localhost", "capacitor://localhost/", "tauri://", "null"] {
        assert_eq!(
            call(&app, "POST", "/", &[("origin", origin)]).await.code(),
            (403, "cross_origin".to_owned()),
            "{origin}"
        );
    }
}

#[tokio::test]
async fn the_router_needs_no_origin_for_what_pages_of_other_origins_cannot_send() {
    let by_both = Node::with(|builder| builder.configure(|settings| settings.transport = Transport::Both));
    let by_cookie = Node::new();
    let origin = ("origin", "capacitor://localhost");
    let json = ("content-type", "application/json; charset=utf-8");
    let bearer = bearer(&by_both.login("alice").await);
    let bearer = ("authorization", bearer.as_str());
    let refresh = format!("__Secure-refresh={}", by_both.refresh_token("alice").await);
    let (ours, foreign) = (("cookie", refresh.as_str()), ("cookie", "theme=dark"));
    let app = |node: &Node| Router::new().nest("/auth", node.auth.router());
    for (node, path, headers, status) in [
        (&by_both, "/auth/refresh", vec![json], 401),
        (&by_both, "/auth/refresh", vec![json, foreign], 401),
        (&by_both, "/auth/logout/others", vec![bearer, foreign], 200),
        (&by_both, "/auth/logout", vec![json], 204),
        (&by_cookie, "/auth/refresh", vec![json], 403),
        // A form of any page can send these, and a logout would clear the cookies that `SameSite` has held back.
        (&by_both, "/auth/logout", vec![], 403),
        (&by_both, "/auth/logout", vec![("content-type", "application/x-www-form-urlencoded")], 403),
        (&by_both, "/auth/logout", vec![("content-type", "text/plain;application/json")], 403),
        // What the browser adds by itself may authenticate.
        (&by_both, "/auth/refresh", vec![json, ours], 403),
        (&by_both, "/auth/refresh", vec![json, ("authorization", "Basic YTpi")], 403),
        (&by_both, "/auth/refresh", vec![bearer, ("authorization", "Negotiate x")], 403),
    ] {
        let headers: Vec<_> = headers.into_iter().chain([origin]).collect();
        assert_eq!(call(&app(node), "POST", path, &headers).await.status, status, "{path} {headers:?}");
    }
}

#[tokio::test]
async fn an_app_without_cookies_needs_no_origin_for_what_pages_of_other_origins_cannot_send() {
    let without_cookies = Node::with(|builder| builder.configure(|settings| settings.transport = Transport::Body));
    let with_cookies = Node::with(|builder| builder.configure(|settings| settings.transport = Transport::Both));
    let app = |node: &Node| Router::new().route("/login", post(|| async {})).layer(node.auth.csrf());
    let (origin, json) = (("origin", "capacitor://localhost"), ("content-type", "application/json"));
    let own_session = ("cookie", "the_apps_own_session=1");
    for (node, headers, status) in [
        (&without_cookies, vec![json], 200),
        (&without_cookies, vec![json, own_session], 403),
        (&without_cookies, vec![("content-type", "application/x-www-form-urlencoded")], 403),
        (&without_cookies, vec![], 403),
        // A login from a foreign page would log the victim in as somebody else.
        (&with_cookies, vec![json], 403),
    ] {
        let headers: Vec<_> = headers.into_iter().chain([origin]).collect();
        assert_eq!(call(&app(node), "POST", "/login", &headers).await.status, status, "{headers:?}");
    }
}

#[tokio::test]
async fn optional_layers_let_a_visitor_pass_whose_access_cookie_is_refused() {
    let node = Node::with(|builder| {
        builder.settings(Settings::for_pages()).configure(|settings| settings.policy.binding.ip = BindingMode::Reject)
    });
    let ip = ClientInfo::new().ip("203.0.113.7".parse().unwrap());
    let login = node.auth.login("alice", claims("user")).client(ip).await.unwrap();
    let (cookie, bearer) = (format!("__Host-access={}", login.tokens.access_token), bearer(&login));
    let app =
        Router::new().route("/login", get(who)).layer((node.auth.layer().optional(), node.auth.guard().optional()));
    assert_eq!(call(&app, "GET", "/login", &[("cookie", &cookie)]).await.body, "nobody");
    // A token in the header was sent on purpose.
    let answer = call(&app, "GET", "/login", &[("authorization", &bearer)]).await;
    assert_eq!(answer.code(), (401, "client_mismatch".to_owned()));
}

// ---- large cookies --------------------------------------------------------------------------------------------------

fn for_pages() -> Node {
    Node::with(|builder| builder.settings(Settings::for_pages()))
}

#[tokio::test]
async fn a_login_whose_access_cookie_browsers_would_drop_is_an_error_and_leaves_no_session() {
    let node = for_pages();
    let result = node.auth.login("alice", claims(&"x".repeat(4_000))).client(client()).await;
    let Err(Error::Claims(ClaimsError::TooLarge { cookie_bytes })) = result else { panic!("{result:?}") };
    assert!(cookie_bytes > 4_096);
    assert!(node.auth.sessions("alice").await.unwrap().is_empty());
    // The largest that fits is set.
    let (mut fits, mut too_large) = (100, 4_000);
    while too_large - fits > 1 {
        let middle = usize::midpoint(fits, too_large);
        let is_ok = node.auth.login("bob", claims(&"x".repeat(middle))).client(client()).await.is_ok();
        if is_ok { fits = middle } else { too_large = middle }
    }
    let login = node.auth.login("bob", claims(&"x".repeat(fits))).client(client()).await.unwrap();
    let response = login.into_response();
    let access = response.headers().get_all("set-cookie").iter().map(|it| it.to_str().unwrap().to_owned());
    let access = access.into_iter().find(|it| it.starts_with("__Host-access=")).unwrap();
    let pair = access.split(';').next().unwrap();
    // Base64 has three bytes for four characters, twice.
    assert!((4_074..=4_081).contains(&pair.len()), "{}", pair.len());
}

#[tokio::test]
async fn claims_that_are_too_large_for_the_cookie_are_not_written_by_an_update() {
    let node = for_pages();
    let login = node.login("alice").await;
    let user = node.auth.authenticate(&login.tokens.access_token).await.unwrap();
    let result = node.auth.update_claims(&user, claims(&"x".repeat(4_000))).await;
    assert!(matches!(result, Err(Error::Claims(ClaimsError::TooLarge { .. }))), "{result:?}");
    let refreshed = node.refresh(login.tokens.refresh_token.as_ref().unwrap()).await.unwrap();
    let user = node.auth.authenticate(&refreshed.tokens.access_token).await.unwrap();
    assert_eq!(user.claims, claims("user"));
}

#[tokio::test]
async fn a_login_in_the_body_may_have_claims_of_any_size() {
    let node = Node::with(|builder| builder.settings(Settings { transport: Transport::Both, ..Settings::for_pages() }));
    let login = node.auth.login("alice", claims(&"x".repeat(4_000))).client(client()).transport(Transport::Body);
    assert!(login.await.is_ok());
}

// ---- the router -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn every_route_can_be_left_out() {
    let node = Node::new();
    let routes = [
        (Route::Refresh, "POST", "/auth/refresh"),
        (Route::Logout, "POST", "/auth/logout"),
        (Route::LogoutAll, "POST", "/auth/logout/all"),
        (Route::LogoutOthers, "POST", "/auth/logout/others"),
        (Route::Sessions, "GET", "/auth/sessions"),
        (Route::RevokeSession, "DELETE", "/auth/sessions/x"),
        #[cfg(feature = "browser")]
        (Route::Browser, "GET", "/auth/client.js"),
    ];
    let none = routes.iter().fold(Routes::all(), |left, (route, ..)| left.without(*route));
    let empty: Router = Router::new().nest("/auth", node.auth.router_with(&none));
    let full: Router = Router::new().nest("/auth", node.auth.router());
    for (route, method, path) in routes {
        let app: Router = Router::new().nest("/auth", node.auth.router_with(&Routes::all().without(route)));
        assert_eq!(call(&app, method, path, &[]).await.status, 404, "{path}");
        assert_eq!(call(&empty, method, path, &[]).await.status, 404, "{path}");
        assert_ne!(call(&full, method, path, &[]).await.status, 404, "{path}");
    }
}

#[cfg(feature = "browser")]
#[tokio::test]
async fn the_browser_module_is_cached_and_revalidated_by_its_etag() {
    let node = Node::new();
    let app: Router = Router::new().nest("/auth", node.auth.router());
    let foreign = ("sec-fetch-site", "cross-site");
    let whole = call(&app, "GET", "/auth/client.js", &[foreign]).await;
    assert_eq!(whole.status, 200);
    assert!(whole.body == include_str!("../src/http/browser/client.js"));
    assert_eq!(whole.header("content-type"), "text/javascript; charset=utf-8");
    assert_eq!(whole.header("x-content-type-options"), "nosniff");
    assert!(whole.header("cache-control").starts_with("public, max-age="), "{}", whole.header("cache-control"));
    assert!(whole.cookies().is_empty());
    let tag = whole.header("etag");
    assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 20, "{tag}");
    let known = call(&app, "GET", "/auth/client.js", &[("if-none-match", tag)]).await;
    assert_eq!((known.status.as_u16(), known.body.as_str(), known.header("etag")), (304, "", tag));
    assert_eq!(known.header("cache-control"), whole.header("cache-control"));
    let other = call(&app, "GET", "/auth/client.js", &[("if-none-match", "\"x\"")]).await;
    assert_eq!((other.status.as_u16(), other.body.len()), (200, whole.body.len()));
    let head = call(&app, "HEAD", "/auth/client.js", &[]).await;
    assert_eq!((head.status.as_u16(), head.body.as_str(), head.header("etag")), (200, "", tag));
    assert_eq!(call(&app, "POST", "/auth/client.js", &[]).await.status, 405);
}

#[tokio::test]
async fn the_router_works_at_any_path() {
    let cookie = CookieSettings { path: "/api/v1/session".to_owned(), ..CookieSettings::default() };
    let node = Node::with(|builder| builder.configure(|settings| settings.refresh_cookie = cookie));
    let app: Router = Router::new().nest("/api/v1/session", node.auth.router());
    let token = node.refresh_token("alice").await;
    let cookie = format!("__Secure-refresh={token}");
    let answer = call(&app, "POST", "/api/v1/session/refresh", &[("cookie", &cookie)]).await;
    assert!(answer.cookies()[0].contains("; Path=/api/v1/session;"));
}

#[tokio::test]
async fn a_logout_revokes_the_sessions_of_all_refresh_cookies() {
    let node = Node::new();
    let app: Router = Router::new().nest("/auth", node.auth.router());
    let (own, planted) = (node.refresh_token("alice").await, node.refresh_token("mallory").await);
    let planted = node.rotate(&planted).await;
    let cookie = format!("__Secure-refresh={planted}; __Secure-refresh={own}; __Secure-refresh=x");
    assert_eq!(call(&app, "POST", "/auth/logout", &[("cookie", &cookie)]).await.status, 204);
    for user in ["alice", "mallory"] {
        assert!(node.auth.sessions(user).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_refresh_token_of_a_revoked_session_does_not_hide_a_valid_one() {
    let node = Node::new();
    let app: Router = Router::new().nest("/auth", node.auth.router());
    let mut old = node.refresh_token("alice").await;
    for _ in 0..3 {
        old = node.rotate(&old).await;
        node.after_grace();
    }
    node.auth.logout(&old).await.unwrap();
    let new = node.refresh_token("alice").await;
    let cookie = format!("__Secure-refresh={old}; __Secure-refresh={new}");
    assert_eq!(call(&app, "POST", "/auth/refresh", &[("cookie", &cookie)]).await.status, 200);
    node.auth.logout(&new).await.unwrap();
    let answer = call(&app, "POST", "/auth/refresh", &[("cookie", &cookie)]).await;
    assert_eq!(answer.code(), (401, "session_revoked".to_owned()));
}

#[tokio::test]
async fn a_token_that_is_sent_five_hundred_times_is_looked_up_once() {
    let node = Node::new();
    let app: Router = Router::new().nest("/auth", node.auth.router());
    let token = node.refresh_token("alice").await;
    node.store.calls();
    let cookie = vec![format!("__Secure-refresh={token}"); 500].join("; ");
    for revokes in [1, 0] {
        assert_eq!(call(&app, "POST", "/auth/logout", &[("cookie", &cookie)]).await.status, 204);
        let calls = node.store.calls();
        assert_eq!((calls.loads, calls.others), (1, revokes));
    }
}

#[tokio::test]
async fn a_login_that_the_session_limit_refuses_returns_409() {
    let node = Node::with_policy(Policy {
        max_sessions: Some(1),
        on_max_sessions: OnMaxSessions::Refuse,
        ..Policy::default()
    });
    let app = Router::new().route("/login", post(login)).with_state(node.auth.clone());
    assert_eq!(call(&app, "POST", "/login", &[]).await.status, 200);
    let answer = call(&app, "POST", "/login", &[]).await;
    assert_eq!(answer.code(), (409, "session_limit".to_owned()));
    assert!(answer.cookies().is_empty());
}

#[tokio::test]
async fn a_user_whom_the_claims_hook_refuses_gets_401_and_keeps_the_cookie() {
    let node = Node::with(|builder| builder.claims_hook(|_| async { Ok::<_, std::io::Error>(None) }));
    let app: Router = Router::new().nest("/auth", node.auth.router());
    let cookie = format!("__Secure-refresh={}", node.refresh_token("alice").await);
    let answer = call(&app, "POST", "/auth/refresh", &[("cookie", &cookie)]).await;
    assert_eq!(answer.code(), (401, "user_refused".to_owned()));
    assert!(answer.cookies().is_empty());
}

#[tokio::test]
async fn settings_from_a_file_take_effect() {
    let settings: Settings = toml::from_str(
        r#"
        audience = "shop.example"
        transport = "both"

        [policy]
        access_ttl = "5m"

        [refresh_cookie]
        name = "r"
        path = "/"
        same_site = "lax"
        persistent = false
        "#,
    )
    .unwrap();
    assert_eq!(settings.transport, Transport::Both);
    let node = Node::with(|builder| builder.settings(settings));
    let app = Router::new().route("/login", post(login)).with_state(node.auth.clone());
    let answer = call(&app, "POST", "/login", &[]).await;
    let (start, rest) = answer.cookies()[0].split_once('=').unwrap();
    assert_eq!((start, rest.split_once(';').unwrap().1), ("__Host-r", " HttpOnly; SameSite=Lax; Secure; Path=/"));
    assert!(answer.json()["expires_in"].as_u64().unwrap() <= 300);
}

#[tokio::test]
async fn updating_the_claims_returns_tokens_and_sets_no_refresh_cookie() {
    let node = Node::new();
    async fn promote(State(auth): State<Auth<Claims>>, user: AuthUser<Claims>) -> Result<Login, Error> {
        auth.update_claims(&user, claims("admin")).await
    }
    async fn role(user: AuthUser<Claims>) -> Json<Claims> {
        Json(user.claims)
    }
    let app = Router::new()
        .route("/promote", post(promote))
        .route("/role", get(role))
        .route_layer(node.auth.layer())
        .with_state(node.auth.clone());
    let login = node.auth.login("alice", claims("user")).client(client()).await.unwrap();
    let answer = call(&app, "POST", "/promote", &[("authorization", &bearer(&login))]).await;
    assert!(answer.cookies().is_empty());
    let token = format!("Bearer {}", answer.json()["access_token"].as_str().unwrap());
    assert_eq!(call(&app, "GET", "/role", &[("authorization", &token)]).await.body, r#"{"role":"admin"}"#);
}

#[tokio::test]
async fn what_a_request_revokes_names_its_client_in_the_event() {
    let node = Node::new();
    let app = Router::new().nest("/auth", node.auth.router()).nest("/admin", node.auth.admin_router());
    for (method, path) in [
        ("POST", "/auth/logout"),
        ("POST", "/auth/logout/all"),
        ("POST", "/auth/logout/others"),
        ("DELETE", "/auth/sessions/ID"),
        ("DELETE", "/admin/sessions/ID"),
        ("DELETE", "/admin/users/alice/sessions"),
        ("DELETE", "/admin/sessions"),
    ] {
        let _ = node.login("alice").await;
        let login = node.login("alice").await.tokens;
        node.events();
        let request = Request::builder()
            .method(method)
            .uri(path.replace("ID", &login.session_id.to_string()))
            .header("authorization", format!("Bearer {}", login.access_token))
            .header("user-agent", "browser/1")
            .body(Body::empty());
        let response = app.clone().oneshot(request.unwrap()).await.unwrap();
        assert!(response.status().is_success(), "{method} {path}");
        let events = node.events();
        assert!(!events.is_empty(), "{method} {path}");
        for event in events {
            let client = event.client().and_then(|client| client.user_agent.as_deref());
            assert_eq!(client, Some("browser/1"), "{method} {path}: {event}");
            let user_id = (event.name() != "everyone_revoked").then_some("alice");
            assert_eq!(event.user_id(), user_id, "{method} {path}: {event}");
        }
    }
}
