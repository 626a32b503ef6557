//! A single-page app on another origin.

use axum_refresh_e2e::app::{App, Setup};
use axum_refresh_e2e::demo::credentials;
use reqwest::Method;

use crate::Visitor;

const SPA: &str = "https://spa.example";

async fn start() -> String {
    App::new(&Setup { spa_origin: Some(SPA.to_owned()), ..Setup::new("sqlite") }).await.on_tcp().await
}

#[tokio::test]
async fn a_preflight_is_answered_where_the_request_itself_would_be_refused() {
    let origin = start().await;
    let mut visitor = Visitor::new(&origin);
    for (method, path) in [
        ("GET", "/me"),
        ("POST", "/api/login"),
        ("POST", "/auth/refresh"),
        ("DELETE", "/auth/sessions/x"),
        ("GET", "/staff/me"),
    ] {
        let headers = [
            ("origin", SPA),
            ("access-control-request-method", method),
            ("access-control-request-headers", "authorization,content-type"),
        ];
        // Not by `call`, which adds the page's own origin.
        let mut call = visitor.browser.request(Method::OPTIONS, path);
        for (name, value) in headers {
            call = call.header(name, value);
        }
        let answer = visitor.browser.send(call, path).await;
        answer.is(200);
        assert_eq!(answer.header("access-control-allow-origin"), Some(SPA), "{path}");
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"), "{path}");
        assert!(answer.header("access-control-allow-methods").unwrap().contains(method), "{path}");
        assert!(answer.header("access-control-allow-headers").unwrap().contains("authorization"), "{path}");
    }
}

#[tokio::test]
async fn the_page_logs_in_refreshes_and_reads_refusals() {
    let origin = start().await;
    let mut visitor = Visitor::new(&origin);
    visitor.origin = SPA.to_owned();
    let token = visitor.log_in("/api/login", "alice").await;
    let refreshed = visitor.post("/auth/refresh").await;
    assert_eq!(refreshed.is(200).header("access-control-allow-origin"), Some(SPA));
    let headers = [("origin", SPA), ("authorization", &*format!("Bearer {token}"))];
    assert_eq!(visitor.call(Method::GET, "/me", &headers).await.text(), "alice");
    // Without these headers, the script would see a network error instead of the code.
    let refused = visitor.call(Method::GET, "/staff/me", &[("origin", SPA)]).await;
    assert_eq!(refused.refused(401, "access_token_missing").header("access-control-allow-origin"), Some(SPA));
}

#[tokio::test]
async fn a_page_of_a_third_origin_is_refused() {
    let origin = start().await;
    let mut visitor = Visitor::new(&origin);
    visitor.log_in("/api/login", "alice").await;
    visitor.origin = "https://evil.example".to_owned();
    visitor.post("/auth/refresh").await.refused(403, "cross_origin");
    let call = visitor.browser.request(Method::POST, "/api/login").header("origin", "https://evil.example");
    let login = visitor.browser.send(call.json(&credentials("alice")), "/api/login").await;
    login.refused(403, "cross_origin");
    assert_ne!(login.header("access-control-allow-origin"), Some("https://evil.example"));
}
