//! Requests that a page of another origin made the browser send.

use axum_refresh_e2e::demo::{Answer, Browser, Demo, credentials};

const FOREIGN: &str = "https://evil.example";

/// The two routes that a page of another origin could call with nothing but the cookie.
const BY_COOKIE: [&str; 2] = ["/auth/refresh", "/auth/logout"];

async fn post(browser: &Browser, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut call = browser.request(reqwest::Method::POST, path);
    for (name, value) in headers {
        call = call.header(name, value);
    }
    call.send().await
}

async fn is_refused(headers: &[(&str, &str)]) {
    let demo = Demo::new().await;
    let mut browser = demo.logged_in("alice").await;
    for path in BY_COOKIE {
        post(&browser, path, headers).await.refused(403, "cross_origin");
    }
    // The logout did not happen.
    browser.refresh().await.is(200);
    browser.me().await.is(200);
}

async fn is_accepted(demo: &Demo, headers: &[(&str, &str)]) {
    let browser = demo.logged_in("alice").await;
    post(&browser, "/auth/refresh", headers).await.tokens();
    post(&browser, "/auth/logout", headers).await.is(204);
}

#[tokio::test]
async fn a_request_from_another_site_is_refused() {
    is_refused(&[("sec-fetch-site", "cross-site"), ("origin", FOREIGN)]).await;
    is_refused(&[("sec-fetch-site", "cross-site")]).await;
}

#[tokio::test]
async fn a_request_from_a_sibling_domain_is_refused() {
    is_refused(&[("sec-fetch-site", "same-site")]).await;
}

#[tokio::test]
async fn an_unknown_site_relation_is_refused() {
    is_refused(&[("sec-fetch-site", "SAME-ORIGIN?")]).await;
    is_refused(&[("sec-fetch-site", "\"same-origin\"")]).await;
}

#[tokio::test]
async fn another_origin_is_refused_if_the_browser_does_not_send_the_site_relation() {
    is_refused(&[("origin", FOREIGN)]).await;
}

#[tokio::test]
async fn an_opaque_origin_is_refused() {
    is_refused(&[("origin", "null")]).await;
}

#[tokio::test]
async fn the_same_host_on_another_port_is_another_origin() {
    is_refused(&[("origin", "http://127.0.0.1:1")]).await;
}

#[tokio::test]
async fn a_request_from_the_same_origin_is_accepted() {
    let demo = Demo::new().await;
    is_accepted(&demo, &[("sec-fetch-site", "same-origin"), ("origin", &demo.origin())]).await;
}

#[tokio::test]
async fn a_request_that_the_user_typed_is_accepted() {
    let demo = Demo::new().await;
    is_accepted(&demo, &[("sec-fetch-site", "none")]).await;
}

#[tokio::test]
async fn an_older_browser_that_sends_only_its_own_origin_is_accepted() {
    let demo = Demo::new().await;
    is_accepted(&demo, &[("origin", &demo.origin())]).await;
}

#[tokio::test]
async fn a_client_that_is_not_a_browser_is_accepted() {
    let demo = Demo::new().await;
    is_accepted(&demo, &[]).await;
}

#[tokio::test]
async fn a_trusted_origin_is_accepted() {
    let demo = Demo::start(&[("TRUSTED_ORIGINS", "https://app.example,https://www.example:8443")]).await;
    for origin in ["https://app.example", "https://www.example:8443"] {
        is_accepted(&demo, &[("sec-fetch-site", "cross-site"), ("origin", origin)]).await;
    }
}

#[tokio::test]
async fn an_origin_similar_to_a_trusted_one_is_refused() {
    let demo = Demo::start(&[("TRUSTED_ORIGINS", "https://app.example")]).await;
    let mut browser = demo.logged_in("alice").await;
    for origin in [
        "http://app.example",
        "https://app.example:8443",
        "https://app.example.evil.example",
        "https://evil-app.example",
        "https://app.example/",
        "https://APP.example",
        "https://app.example@evil.example",
    ] {
        for path in BY_COOKIE {
            let answer = post(&browser, path, &[("sec-fetch-site", "cross-site"), ("origin", origin)]).await;
            answer.refused(403, "cross_origin");
        }
    }
    browser.refresh().await.is(200);
}

#[tokio::test]
async fn a_safe_request_is_accepted_from_any_origin() {
    let demo = Demo::new().await;
    let browser = demo.logged_in("alice").await;
    for path in ["/auth/sessions", "/me"] {
        let call = demo.get(path).bearer(&browser.access).header("sec-fetch-site", "cross-site");
        call.header("origin", FOREIGN).send().await.is(200);
    }
}

#[tokio::test]
async fn a_page_of_another_origin_cannot_log_a_visitor_in() {
    let demo = Demo::new().await;
    for headers in [("sec-fetch-site", "cross-site"), ("origin", FOREIGN)] {
        let call = demo.post("/login").json(&credentials("alice")).header(headers.0, headers.1);
        call.send().await.refused(403, "cross_origin");
    }
}
