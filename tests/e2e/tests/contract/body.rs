//! The body transport, for clients other than browsers.

use serde_json::{Value, json};

use axum_refresh_e2e::demo::{Answer, COOKIE, Demo, SHORT_GRACE, claims, credentials, grace_passes};

const BODY: (&str, &str) = ("TRANSPORT", "body");
const BOTH: (&str, &str) = ("TRANSPORT", "both");

async fn login(demo: &Demo, user: &str) -> Answer {
    let mut form = credentials(user);
    form["transport"] = json!("body");
    demo.post("/login").json(&form).send().await
}

/// Logs in and returns the refresh token.
async fn token(demo: &Demo, user: &str) -> String {
    login(demo, user).await.tokens_in_body().refresh.expect("a refresh token")
}

async fn refresh(demo: &Demo, token: &str) -> Answer {
    demo.post("/auth/refresh").json(&json!({ "refresh_token": token })).send().await
}

#[tokio::test]
async fn a_login_returns_the_refresh_token_and_sets_no_cookie() {
    let demo = Demo::start(&[BODY]).await;
    let answer = demo.post("/login").json(&credentials("alice")).send().await;
    assert!(answer.tokens_in_body().refresh.is_some());
    answer.sets_no_cookie();
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn a_refresh_omits_the_refresh_token_while_it_is_unchanged() {
    let demo = Demo::start(&[BODY]).await;
    let token = token(&demo, "alice").await;
    let token = refresh(&demo, &token).await.tokens_in_body().refresh.expect("the next refresh token");
    let answer = refresh(&demo, &token).await;
    assert_eq!(answer.sets_no_cookie().tokens_in_body().refresh, None);
    demo.me(&answer.tokens_in_body().access).await.is(200);
}

#[tokio::test]
async fn a_refresh_after_the_grace_period_returns_the_next_refresh_token_and_sets_no_cookie() {
    let demo = Demo::start(&[BODY, SHORT_GRACE]).await;
    let first = token(&demo, "alice").await;
    grace_passes().await;
    let answer = refresh(&demo, &first).await;
    let tokens = answer.sets_no_cookie().tokens_in_body();
    assert_eq!(tokens.generation(), 1);
    let second = tokens.refresh.expect("a new refresh token");
    assert_ne!(second, first);
    // The next response contains no refresh token, and neither does the echo for the old token.
    for token in [second, first] {
        assert_eq!(refresh(&demo, &token).await.sets_no_cookie().tokens_in_body().refresh, None);
    }
}

#[tokio::test]
async fn a_logout_reads_the_refresh_token_from_the_body() {
    let demo = Demo::start(&[BODY]).await;
    let token = token(&demo, "alice").await;
    demo.post("/auth/logout").json(&json!({ "refresh_token": token })).send().await.is(204);
    refresh(&demo, &token).await.refused(401, "session_revoked");
}

#[tokio::test]
async fn a_body_with_an_invalid_token_is_refused_as_such() {
    let demo = Demo::start(&[BODY]).await;
    for garbage in ["x", &"A".repeat(94), "null", "💥", "\u{0}"] {
        refresh(&demo, garbage).await.refused(401, "refresh_token_invalid");
    }
}

#[tokio::test]
async fn an_empty_body_contains_no_token() {
    let demo = Demo::start(&[BODY]).await;
    demo.post("/auth/refresh").send().await.refused(401, "refresh_token_missing");
}

#[tokio::test]
async fn a_body_that_is_not_json_is_malformed() {
    let demo = Demo::start(&[BODY]).await;
    for body in [&b"{"[..], b"refresh_token=x", b"{\"refresh_token\":}", b"{\"refresh_token\":\"\xff\"}", b"\0"] {
        let answer = demo.post("/auth/refresh").body("application/json", body).send().await;
        answer.refused(400, "malformed_body");
    }
}

#[tokio::test]
async fn a_body_with_a_list_of_tokens_is_malformed() {
    let demo = Demo::start(&[BODY]).await;
    let token = token(&demo, "alice").await;
    let call = demo.post("/auth/refresh").body("application/json", format!("[\"{token}\"]"));
    call.send().await.refused(400, "malformed_body");
}

#[tokio::test]
async fn a_body_whose_token_is_not_a_string_is_refused() {
    let demo = Demo::start(&[BODY]).await;
    let nested = format!("{{\"refresh_token\":{}{}}}", "[".repeat(1_000), "]".repeat(1_000));
    let bodies = [
        json!({ "refresh_token": 7 }).to_string(),
        json!({ "refresh_token": { "$ne": null } }).to_string(),
        json!({ "refresh_token": ["x"] }).to_string(),
        json!({ "refresh_token": true }).to_string(),
        json!(["refresh_token"]).to_string(),
        json!("refresh_token").to_string(),
        json!(7).to_string(),
        nested,
    ];
    for body in bodies {
        demo.post("/auth/refresh").body("application/json", body).send().await.is_the_clients_fault().sets_no_cookie();
    }
}

#[tokio::test]
async fn a_body_of_another_type_is_unsupported() {
    let demo = Demo::start(&[BODY]).await;
    let token = token(&demo, "alice").await;
    let json = json!({ "refresh_token": token }).to_string();
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "garbage"] {
        let answer = demo.post("/auth/refresh").body(content_type, json.clone()).send().await;
        answer.refused(415, "unsupported_media_type");
    }
}

#[tokio::test]
async fn a_body_type_may_have_parameters() {
    let demo = Demo::start(&[BODY]).await;
    let body = json!({ "refresh_token": token(&demo, "alice").await }).to_string();
    demo.post("/auth/refresh").body("application/json; charset=utf-8", body).send().await.tokens_in_body();
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let demo = Demo::start(&[BODY]).await;
    let body = json!({ "refresh_token": "A".repeat(8 * 1024 * 1024) }).to_string();
    let head = format!(
        "POST /auth/refresh HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let answer = demo.raw(&[head.as_bytes(), body.as_bytes()].concat()).await.expect("an answer");
    answer.refused(413, "body_too_large");
    demo.is_alive().await;
}

#[tokio::test]
async fn a_cookie_is_not_read_with_the_body_transport() {
    let demo = Demo::start(&[BODY]).await;
    let token = token(&demo, "alice").await;
    demo.refresh(&token).await.refused(401, "refresh_token_missing");
    refresh(&demo, &token).await.is(200);
}

#[tokio::test]
async fn a_body_is_not_read_with_the_cookie_transport() {
    let demo = Demo::new().await;
    let token = demo.logged_in("alice").await.refresh_token();
    refresh(&demo, &token).await.refused(401, "refresh_token_missing");
    demo.refresh(&token).await.is(200);
}

#[tokio::test]
async fn a_login_cannot_request_the_body_with_the_cookie_transport() {
    let demo = Demo::new().await;
    let answer = login(&demo, "alice").await;
    let body = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
    assert_eq!(body.get("refresh_token"), None, "{body}");
}

#[tokio::test]
async fn with_both_transports_a_browser_gets_a_cookie() {
    let demo = Demo::start(&[BOTH]).await;
    let mut browser = demo.browser();
    assert_eq!(browser.login("alice").await.refresh_cookie().name, COOKIE);
    browser.refresh().await.tokens();
}

#[tokio::test]
async fn with_both_transports_the_response_uses_that_of_the_request() {
    let demo = Demo::start(&[BOTH, SHORT_GRACE]).await;
    let mut browser = demo.logged_in("alice").await;
    let native = login(&demo, "bob").await.sets_no_cookie().tokens_in_body().refresh.unwrap();
    grace_passes().await;
    let by_cookie = browser.refresh().await;
    by_cookie.tokens();
    by_cookie.refresh_cookie();
    let by_body = refresh(&demo, &native).await;
    assert!(by_body.sets_no_cookie().tokens_in_body().refresh.is_some());
}

#[tokio::test]
async fn with_both_in_a_request_the_cookie_takes_precedence() {
    let demo = Demo::start(&[BOTH]).await;
    let browser = demo.logged_in("alice").await;
    let native = token(&demo, "bob").await;
    let body = json!({ "refresh_token": native });
    let answer = demo.post("/auth/refresh").refresh_cookie(&browser.refresh_token()).json(&body).send().await;
    assert_eq!(claims(&answer.tokens().access)["sub"], claims(&browser.access)["sub"]);
}
