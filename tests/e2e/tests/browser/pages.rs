//! The server-rendered example in a browser, without a script of its own; one test disables JavaScript.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::MutexGuard;
use tokio::time::sleep;

use crate::browser::Browser;
use crate::scene::{Row, alone};
use axum_refresh_e2e::demo::SECRET;
use axum_refresh_e2e::example::Process;
use axum_refresh_e2e::proxy::http::{Action, Proxy};

const GRACE: Duration = Duration::from_secs(5);

/// The example, a proxy in front of it and a browser.
struct Site {
    browser: Browser,
    proxy: Proxy,
    _example: Process,
    _alone: MutexGuard<'static, ()>,
}

impl Site {
    async fn open() -> Self {
        let alone = alone().await;
        let example = Process::start_pages(&[("PORT", "0"), ("AUTH_SECRET", SECRET), ("GRACE", "5s")]).await.unwrap();
        let proxy = Proxy::start(example.port).await;
        Self { browser: Browser::start().await, proxy, _example: example, _alone: alone }
    }

    async fn log_in(&self) {
        self.browser.go(&self.proxy.url("/notes")).await;
        self.browser.type_into("#username", "alice").await;
        self.browser.type_into("#password", "password").await;
        self.browser.click("main form button").await;
        self.browser.titled("Your notes").await;
    }

    /// Waits until a refresh would rotate, and removes the access cookie, as a browser does when it expires.
    async fn pause(&self) {
        sleep(GRACE + Duration::from_millis(100)).await;
        self.browser.delete_cookie(&self.proxy.url("/"), "__Host-access").await;
        assert_eq!(self.cookies().await, ["__Host-refresh"]);
    }

    async fn cookies(&self) -> Vec<String> {
        let mut names: Vec<_> = self.browser.cookies(&self.proxy.url("/")).await.iter().map(name_of).collect();
        names.sort();
        names
    }
}

fn name_of(cookie: &Value) -> String {
    for (attribute, promised) in [("httpOnly", json!(true)), ("secure", json!(true)), ("sameSite", json!("Lax"))] {
        assert_eq!(cookie[attribute], promised, "{cookie}");
    }
    cookie["name"].as_str().unwrap().to_owned()
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn twenty_pages_at_once_with_an_expired_access_cookie_are_all_logged_in() {
    let site = Site::open().await;
    site.log_in().await;
    // The stylesheet's page has no policy that would block a script of the test.
    site.browser.go(&site.proxy.url("/page.css")).await;
    site.pause().await;
    site.proxy.forget();
    // The browser attaches the cookies of all requests before the first response, and sends six at a time.
    site.proxy.plan(|_| Action::Delay(Duration::from_millis(200)));
    // Different URLs: a browser does not request the same page concurrently.
    let pages = "Promise.all([...Array(20).keys()].map(async nth => {
        const answer = await fetch(`/notes?${nth}`);
        return [answer.redirected, (await answer.text()).includes('<span>alice</span>')];
    }))";
    assert_eq!(site.browser.wait_for(pages).await, json!(vec![(false, true); 20]));
    let row = Row::of(&site.proxy);
    row.print("twenty pages fetched at once, access token gone");
    assert_eq!(row, Row { refreshes: 20, rotations: 1, logouts: 0 });
    assert_eq!(site.cookies().await, ["__Host-access", "__Host-refresh"]);
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn twenty_windows_opened_at_once_with_an_expired_access_cookie_are_all_logged_in() {
    let site = Site::open().await;
    site.log_in().await;
    site.pause().await;
    site.proxy.forget();
    // All requests are sent before the first response, and within the grace period.
    site.proxy.plan(|_| Action::Delay(Duration::from_millis(500)));
    let urls: Vec<_> = (0..20).map(|nth| site.proxy.url(&format!("/devices?{nth}"))).collect();
    let windows = site.browser.open_all(&urls).await;
    for window in &windows {
        site.browser.switch(window).await;
        site.browser.until("document.readyState === 'complete'").await;
        site.browser.titled("Your devices").await;
        assert_eq!(site.browser.text("form.who span").await, "alice");
        assert_eq!(site.browser.console().await, [""; 0]);
    }
    let row = Row::of(&site.proxy);
    row.print("twenty server-rendered windows, access token gone");
    // The machine determines how many requests are sent before the first response.
    assert!((2..=20).contains(&row.refreshes), "{row:?}");
    assert_eq!((row.rotations, row.logouts), (1, 0));
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn a_browser_without_javascript_returns_after_pauses_and_loses_no_form() {
    let site = Site::open().await;
    site.browser.disable_scripts().await;
    let script = "data:text/html,<title>off</title><script>document.title = 'on'</script>";
    site.browser.go(script).await;
    site.browser.titled("off").await;
    site.log_in().await;
    let before = Row::of(&site.proxy);
    for (nth, text) in ["written before lunch", "and after it"].into_iter().enumerate() {
        site.browser.type_into("main form [name=text]", text).await;
        site.pause().await;
        // The form was open for the whole pause: this is a POST without an access token.
        site.browser.click("main form button").await;
        site.browser.counts("main li > p", nth + 1).await;
        assert!(site.browser.texts("main li > p").await.contains(&text.to_owned()));
        assert_eq!(site.cookies().await, ["__Host-access", "__Host-refresh"]);
    }
    let row = Row::of(&site.proxy);
    row.print("two forms sent after a pause, without JavaScript");
    assert_eq!((row.refreshes - before.refreshes, row.rotations, row.logouts), (2, 2, 0));
    site.browser.click("form.who button").await;
    site.browser.titled("Log in").await;
    assert_eq!(site.cookies().await, [""; 0]);
    site.browser.go(script).await;
    site.browser.titled("off").await;
}
