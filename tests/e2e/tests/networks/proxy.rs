//! A Unix socket behind nginx, which strips a prefix.

use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use axum_refresh_e2e::app::{App, Setup};
use axum_refresh_e2e::nginx::{Nginx, PREFIX};
use reqwest::Method;

use crate::{Visitor, access_tokens_expire};

/// Two networks, as the binding sees them.
const HERE: Ipv4Addr = Ipv4Addr::new(127, 10, 0, 1);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 20, 0, 1);

async fn start(setup: &Setup) -> (App, Nginx) {
    let (app, nginx) = (App::new(setup).await, Nginx::start().await);
    app.on_socket(&nginx.socket());
    (app, nginx)
}

#[tokio::test]
async fn a_user_stays_logged_in_behind_a_proxy_that_strips_a_prefix() {
    let (_app, nginx) = start(&Setup::behind_proxy(PREFIX)).await;
    let mut browser = Visitor::at(&nginx.origin(), HERE);
    let token = browser.log_in("/shop/api/login", "alice").await;
    assert_eq!(browser.with_token("/shop/me", &token).await.text(), "alice");
    access_tokens_expire().await;
    browser.with_token("/shop/me", &token).await.refused(401, "access_token_expired");
    let token = browser.refresh("/shop/auth/refresh").await;
    assert_eq!(browser.with_token("/shop/me", &token).await.text(), "alice");

    let list = browser.with_token("/shop/auth/sessions", &token).await.json();
    assert_eq!(list["sessions"][0]["ip"], HERE.to_string(), "{list}");

    browser.post("/shop/auth/logout").await.is(204);
    browser.with_token("/shop/me", &token).await.refused(401, "access_token_revoked");
    assert_eq!(browser.browser.cookies_for("/shop/auth/refresh"), None);
}

#[tokio::test]
async fn the_pages_of_the_staff_work_under_the_same_prefix() {
    let (_app, nginx) = start(&Setup::behind_proxy(PREFIX)).await;
    let mut browser = Visitor::at(&nginx.origin(), HERE);
    browser.log_in("/shop/api/login", "bob").await;
    browser.log_in("/shop/staff/login", "bob").await;
    let staff = browser.refresh("/shop/staff/auth/refresh").await;
    assert_eq!(browser.with_token("/shop/staff/me", &staff).await.text(), "bob, clerk");
}

#[tokio::test]
async fn another_address_cannot_take_over_whatever_header_it_sends() {
    let (_app, nginx) = start(&Setup::behind_proxy(PREFIX)).await;
    let mut browser = Visitor::at(&nginx.origin(), HERE);
    let token = browser.log_in("/shop/api/login", "alice").await;
    let cookies = browser.browser.cookies_for("/shop/auth/refresh").unwrap();
    let here = HERE.to_string();
    let bearer = format!("Bearer {token}");
    let mut thief = Visitor::at(&nginx.origin(), ELSEWHERE);
    let forged = [&*here, &format!("{here},"), &format!("{here}, {here}"), ",", "unknown", "203.0.113.7,"];
    for header in forged {
        let headers = [("x-forwarded-for", header), ("cookie", &*cookies)];
        let answer = thief.call(Method::POST, "/shop/auth/refresh", &headers).await;
        answer.refused(401, "client_mismatch");
        let headers = [("x-forwarded-for", header), ("authorization", &*bearer)];
        thief.call(Method::GET, "/shop/me", &headers).await.refused(401, "client_mismatch");
    }
    // The owner goes on, whatever stands in front of the own address.
    for header in forged {
        let headers = [("x-forwarded-for", header)];
        browser.call(Method::POST, "/shop/auth/refresh", &headers).await.is(200);
        let headers = [("x-forwarded-for", header), ("authorization", &*bearer)];
        browser.call(Method::GET, "/shop/me", &headers).await.is(200);
    }
}

#[tokio::test]
async fn a_cookie_path_without_the_prefix_is_one_warning_in_the_log() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    // Of this thread, in which the app runs too.
    let _guard = tracing::subscriber::set_default(subscriber);
    let setup = Setup { cookie_path: "/auth".to_owned(), ..Setup::behind_proxy(PREFIX) };
    let (_app, nginx) = start(&setup).await;
    let mut browser = Visitor::at(&nginx.origin(), HERE);
    browser.log_in("/shop/api/login", "alice").await;
    assert_eq!(log.warnings(), [""; 0]);
    // The browser sends the hint cookie, and not the refresh cookie.
    for _ in 0..3 {
        browser.post("/shop/auth/refresh").await.refused(401, "refresh_token_missing");
    }
    let warnings = log.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert!(
        warnings[0].contains("set `refresh_cookie.path` to the path of the router as browsers see it"),
        "{warnings:?}"
    );
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn warnings(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let is_warning =
            |line: &&str| line.contains("axum_refresh") && (line.contains("WARN") || line.contains("ERROR"));
        text.lines().filter(is_warning).map(str::to_owned).collect()
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
