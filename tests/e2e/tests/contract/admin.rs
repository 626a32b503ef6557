//! The admin router behind the demo's own guard.

use reqwest::Method;
use serde_json::{Value, json};

use axum_refresh_e2e::demo::{Browser, Call, Demo, claims, members};

fn user_of(browser: &Browser) -> String {
    claims(&browser.access)["sub"].as_str().unwrap().to_owned()
}

/// Every route of the admin router, with the user, session and token of this browser.
fn routes(target: &Browser) -> [(Method, String, Option<Value>); 4] {
    let (user, session) = (user_of(target), target.session());
    [
        (Method::GET, format!("/admin/users/{user}/sessions"), None),
        (Method::DELETE, format!("/admin/users/{user}/sessions"), None),
        (Method::DELETE, format!("/admin/sessions/{session}"), None),
        (Method::POST, "/admin/tokens/revoke".to_owned(), Some(json!({ "token": target.access }))),
    ]
}

fn with_body(call: Call, body: Option<&Value>) -> Call {
    match body {
        Some(body) => call.json(body),
        None => call,
    }
}

// Hole 19.
#[tokio::test]
async fn every_admin_route_refuses_an_anonymous_caller() {
    let demo = Demo::new().await;
    let mut victim = demo.logged_in("bob").await;
    for (method, path, body) in routes(&victim) {
        let answer = with_body(demo.call(method, &path), body.as_ref()).send().await;
        answer.refused(401, "access_token_missing");
    }
    victim.refresh().await.is(200);
    victim.me().await.is(200);
}

#[tokio::test]
async fn every_admin_route_refuses_a_user_who_is_not_an_admin() {
    let demo = Demo::new().await;
    let (mut victim, bob) = (demo.logged_in("alice").await, demo.logged_in("bob").await);
    for (method, path, body) in routes(&victim) {
        let answer = with_body(demo.call(method, &path).bearer(&bob.access), body.as_ref()).send().await;
        answer.refused(403, "forbidden");
    }
    victim.refresh().await.is(200);
    victim.me().await.is(200);
}

// Hole 21: a guard that compares paths as text can be bypassed by another spelling of a path.
#[tokio::test]
async fn no_other_spelling_of_a_path_bypasses_the_guard() {
    let demo = Demo::new().await;
    let bob = demo.logged_in("bob").await;
    let user = user_of(&bob);
    for path in [
        format!("/ADMIN/users/{user}/sessions"),
        format!("/Admin/users/{user}/sessions"),
        format!("//admin/users/{user}/sessions"),
        format!("/admin//users/{user}/sessions"),
        format!("/admin/users/{user}/sessions/"),
        format!("/%61dmin/users/{user}/sessions"),
        format!("/admin;x/users/{user}/sessions"),
        format!("/auth/../admin/users/{user}/sessions"),
        format!("/admin/users/{user}/sessions.json"),
        format!("/users/{user}/sessions"),
        "/me/".to_owned(),
        "/ME".to_owned(),
        "/%6de".to_owned(),
        "/me;.css".to_owned(),
        "/me/.css".to_owned(),
        "/./me".to_owned(),
        "/stateless/".to_owned(),
        "/AUTH/sessions".to_owned(),
        "/auth/sessions/".to_owned(),
        "/auth/SESSIONS".to_owned(),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        demo.raw(request.as_bytes()).await.unwrap().is_the_clients_fault();
    }
}

#[tokio::test]
async fn an_admin_lists_the_sessions_of_any_user() {
    let demo = Demo::new().await;
    let (mut admin, bob) = (demo.logged_in("alice").await, demo.logged_in("bob").await);
    let answer = admin.get(&format!("/admin/users/{}/sessions", user_of(&bob))).await;
    let body = answer.is(200).json();
    assert_eq!(members(&body), ["sessions"]);
    let sessions = body["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0]["id"], bob.session());
    let expected = ["created_at", "current", "expires_at", "id", "ip", "label", "last_seen_at", "user_agent"];
    assert_eq!(members(&sessions[0]), expected);
}

#[tokio::test]
async fn an_admin_revokes_every_session_of_a_user() {
    let demo = Demo::new().await;
    let mut admin = demo.logged_in("alice").await;
    let mut targets = [demo.logged_in("bob").await, demo.logged_in("bob").await];
    let answer = admin.delete(&format!("/admin/users/{}/sessions", user_of(&targets[0]))).await;
    assert_eq!(answer.is(200).json(), json!({ "revoked": 2 }));
    for target in &mut targets {
        target.refresh().await.refused(401, "session_revoked");
        target.me().await.refused(401, "access_token_revoked");
    }
    admin.refresh().await.is(200);
    admin.me().await.is(200);
}

#[tokio::test]
async fn an_admin_revokes_one_session_of_a_user() {
    let demo = Demo::new().await;
    let mut admin = demo.logged_in("alice").await;
    let (mut ended, mut other) = (demo.logged_in("bob").await, demo.logged_in("bob").await);
    let answer = admin.delete(&format!("/admin/sessions/{}", ended.session())).await;
    assert_eq!(answer.is(204).text(), "");
    ended.refresh().await.refused(401, "session_revoked");
    ended.me().await.refused(401, "access_token_revoked");
    other.refresh().await.is(200);
    other.me().await.is(200);
}

async fn revoke(admin: &Browser, body: &Value) {
    let answer = admin.request(Method::POST, "/admin/tokens/revoke").bearer(&admin.access).json(body).send().await;
    assert_eq!(answer.is(204).text(), "");
}

async fn only_the_token_is_revoked(mut browser: Browser) {
    browser.me().await.refused(401, "access_token_revoked");
    browser.get("/stateless").await.refused(401, "access_token_revoked");
    browser.refresh().await.is(200);
    browser.me().await.is(200);
}

#[tokio::test]
async fn an_admin_revokes_one_access_token_but_not_its_session() {
    let demo = Demo::new().await;
    let (admin, mut browser) = (demo.logged_in("alice").await, demo.logged_in("bob").await);
    browser.me().await.is(200);
    revoke(&admin, &json!({ "token": browser.access })).await;
    only_the_token_is_revoked(browser).await;
}

#[tokio::test]
async fn an_admin_revokes_one_access_token_by_its_id() {
    let demo = Demo::new().await;
    let (admin, mut browser) = (demo.logged_in("alice").await, demo.logged_in("bob").await);
    let ends = browser.sessions().await[0]["expires_at"].take();
    revoke(&admin, &json!({ "jti": claims(&browser.access)["jti"], "expires_at": ends })).await;
    only_the_token_is_revoked(browser).await;
}

#[tokio::test]
async fn a_revocation_without_a_valid_token_or_id_is_refused() {
    let demo = Demo::new().await;
    let admin = demo.logged_in("alice").await;
    let bodies = [
        "",
        "{",
        "null",
        "[]",
        "{}",
        "\"token\"",
        "{\"token\":null}",
        "{\"token\":7}",
        "{\"jti\":7,\"expires_at\":\"yesterday\"}",
        "{\"jti\":\"x\",\"expires_at\":\"yesterday\"}",
    ];
    for body in bodies {
        let call = admin.request(Method::POST, "/admin/tokens/revoke").bearer(&admin.access);
        call.body("application/json", body).send().await.is_the_clients_fault();
    }
    demo.me(&admin.access).await.is(200);
}

#[tokio::test]
async fn the_expiry_of_a_token_has_any_offset_or_a_fraction() {
    let demo = Demo::new().await;
    let admin = demo.logged_in("alice").await;
    for expires_at in [json!("2100-01-05T12:00:00+01:00"), json!("2100-01-05t12:00:00.5z"), json!(4_102_833_600.25)] {
        let browser = demo.logged_in("bob").await;
        let jti = claims(&browser.access)["jti"].take();
        revoke(&admin, &json!({ "jti": jti, "expires_at": expires_at })).await;
        only_the_token_is_revoked(browser).await;
    }
    // Milliseconds would be a time in 130,000 years.
    let body = json!({ "jti": "x", "expires_at": 4_102_833_600_000_i64 });
    let call = admin.request(Method::POST, "/admin/tokens/revoke").bearer(&admin.access).json(&body);
    call.send().await.refused(400, "malformed_body");
}
