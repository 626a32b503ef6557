//! A demo, a proxy in front of it and a browser; and the row that a scenario prints at its end.

use std::io::Write as _;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep};

use crate::browser::{Browser, Window};
use axum_refresh_e2e::demo::Demo;
use axum_refresh_e2e::proxy::http::{Proxy, Refresh};

/// One browser at a time: more would need more processors, and would distort the times.
static ONE: Mutex<()> = Mutex::const_new(());

pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    ONE.lock().await
}

pub(crate) struct Scene {
    name: &'static str,
    pub(crate) browser: Browser,
    pub(crate) proxy: Proxy,
    pub(crate) demo: Demo,
    grace: Duration,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    /// A demo with a grace period of one second.
    pub(crate) async fn new(name: &'static str) -> Self {
        Self::with(name, &[]).await
    }

    /// A demo with these settings and a grace period of one second.
    pub(crate) async fn with(name: &'static str, settings: &[(&str, &str)]) -> Self {
        Self::with_grace(name, 1, settings).await
    }

    /// A demo with a grace period of one second, and a browser that is started in this way.
    pub(crate) async fn in_browser(name: &'static str, browser: impl AsyncFnOnce() -> Browser) -> Self {
        Self::start(name, 1, &[], browser).await
    }

    pub(crate) async fn with_grace(name: &'static str, grace: u64, settings: &[(&str, &str)]) -> Self {
        Self::start(name, grace, settings, Browser::start).await
    }

    async fn start(
        name: &'static str,
        grace: u64,
        settings: &[(&str, &str)],
        browser: impl AsyncFnOnce() -> Browser,
    ) -> Self {
        let alone = alone().await;
        let seconds = format!("{grace}s");
        let mut all = vec![("GRACE", seconds.as_str())];
        all.extend_from_slice(settings);
        let demo = Demo::start(&all).await;
        let proxy = Proxy::start(demo.port()).await;
        let browser = browser().await;
        let grace = Duration::from_secs(grace);
        Self { name, browser, proxy, demo, grace, _alone: alone }
    }

    /// The URL of a path of the demo behind the proxy.
    pub(crate) fn url(&self, path: &str) -> String {
        self.proxy.url(path)
    }

    /// Opens the demo's page and waits until it knows whether somebody is logged in.
    pub(crate) async fn open(&self) -> Window {
        let window = self.browser.open(&self.url("/")).await;
        self.wait_until_known().await;
        window
    }

    pub(crate) async fn wait_until_known(&self) {
        self.browser.until("['Logged in', 'Logged out'].includes(document.getElementById('state').textContent)").await;
    }

    /// Opens the demo's page in this many windows, all logged in as alice, waits until a refresh would rotate, and
    /// resets the counters.
    pub(crate) async fn windows(&self, count: usize) -> Vec<Window> {
        let mut windows = vec![self.open().await];
        self.log_in("alice").await;
        while windows.len() < count {
            windows.push(self.open().await);
            self.is_in("alice").await;
        }
        self.grace_passes().await;
        windows
    }

    /// Waits until a refresh would rotate, and resets the counters.
    pub(crate) async fn grace_passes(&self) {
        sleep(self.grace + Duration::from_millis(100)).await;
        self.proxy.forget();
    }

    /// Fills in the login form of the window.
    pub(crate) async fn log_in(&self, user: &str) {
        self.browser.until("!document.getElementById('login').hidden").await;
        let script = format!(
            "document.getElementById('username').value = '{user}';
            document.getElementById('password').value = 'password';
            document.querySelector('#login-form button').click();"
        );
        self.browser.run(&script).await;
        self.is_in(user).await;
    }

    pub(crate) async fn click(&self, id: &str) {
        self.browser.run(&format!("document.getElementById('{id}').click()")).await;
    }

    pub(crate) async fn is_in(&self, user: &str) {
        self.browser.until(&format!("document.getElementById('state').textContent === 'Logged in' && !document.getElementById('account').hidden && document.getElementById('who').textContent === 'Logged in as {user}'")).await;
    }

    pub(crate) async fn is_out(&self) {
        self.browser.until("document.getElementById('state').textContent === 'Logged out'").await;
    }

    /// The generation of the window's token.
    pub(crate) async fn generation(&self) -> u64 {
        self.text("gen").await.parse().unwrap()
    }

    /// Waits until every window has a token of this generation.
    pub(crate) async fn have(&self, windows: &[Window], generation: u64) {
        for window in windows {
            self.browser.switch(window).await;
            self.browser.until(&format!("document.getElementById('gen').textContent === '{generation}'")).await;
        }
    }

    pub(crate) async fn text(&self, id: &str) -> String {
        self.browser
            .run(&format!("return document.getElementById('{id}').textContent"))
            .await
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// The refresh cookie in the browser's jar, as DevTools shows it.
    pub(crate) async fn cookie(&self) -> Value {
        let mut cookies = self.browser.cookies(&self.url("/auth/refresh")).await;
        assert_eq!(cookies.len(), 1, "{cookies:?}");
        cookies.remove(0)
    }

    /// Waits until browsers have sent this many refreshes.
    pub(crate) async fn refreshes(&self, count: usize) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.proxy.refreshes() < count {
            assert!(Instant::now() < end, "{} refreshes, not {count}", self.proxy.refreshes());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The counts so far. A logout is a refusal of a request that had a refresh token, or a window that is expected to
    /// be logged in and is not.
    pub(crate) async fn count(&self, windows: &[Window]) -> Row {
        let mut logouts = Row::of(&self.proxy).logouts;
        for window in windows {
            self.browser.switch(window).await;
            self.wait_until_known().await;
            if self.text("state").await != "Logged in" {
                logouts += 1;
            }
        }
        Row { logouts, ..Row::of(&self.proxy) }
    }

    /// Counts, and prints the row.
    pub(crate) async fn row(&self, windows: &[Window]) -> Row {
        let row = self.count(windows).await;
        row.print(self.name);
        row
    }
}

/// A line of the table. Not with `println`, which the test harness captures.
pub(crate) fn print(name: &str, text: &str) {
    std::io::stdout().write_all(format!("{name:<52} {text}\n").as_bytes()).ok();
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) refreshes: usize,
    pub(crate) rotations: usize,
    pub(crate) logouts: usize,
}

impl Row {
    /// A logout is a refusal of a request that had a refresh token.
    pub(crate) fn of(proxy: &Proxy) -> Self {
        let answered = proxy.answered();
        let count = |what: fn(&Refresh) -> bool| answered.iter().filter(|refresh| what(refresh)).count();
        let logouts = count(|refresh| refresh.presented && refresh.refused);
        Self { refreshes: proxy.refreshes(), rotations: count(|refresh| refresh.rotated), logouts }
    }

    pub(crate) fn print(self, name: &str) {
        let Self { refreshes, rotations, logouts } = self;
        print(name, &format!("{refreshes:>3} refreshes {rotations:>3} rotations {logouts:>3} logouts"));
    }
}
