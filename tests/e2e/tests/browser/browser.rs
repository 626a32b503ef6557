//! A separate browser for every scenario: Chromium, or Firefox if the variable `BROWSER` is `firefox`.

use std::fmt::Debug;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::chromium::Chromium;
use crate::firefox::{self, Firefox};

/// A page in a window of its own.
#[derive(Clone, Debug)]
pub(crate) struct Window(String);

pub(crate) enum Browser {
    Chromium(Box<Chromium>),
    Firefox(Box<Firefox>),
}

enum Element {
    Chromium(fantoccini::elements::Element),
    Firefox(firefox::Element),
}

/// The same command of both.
macro_rules! both {
    ($self:ident, $browser:ident => $command:expr) => {
        match $self {
            Browser::Chromium($browser) => $command,
            Browser::Firefox($browser) => $command,
        }
    };
}

impl Browser {
    /// Whether the tests run in Firefox.
    pub(crate) fn is_firefox() -> bool {
        match std::env::var("BROWSER").as_deref() {
            Ok("firefox") => true,
            Ok("chromium") | Err(_) => false,
            Ok(other) => panic!("BROWSER is chromium or firefox, not {other}"),
        }
    }

    pub(crate) fn name() -> &'static str {
        if Self::is_firefox() { "firefox" } else { "chromium" }
    }

    /// Starts a browser with an empty profile and one empty window.
    pub(crate) async fn start() -> Self {
        if Self::is_firefox() {
            Self::Firefox(Box::new(Firefox::start("").await))
        } else {
            Self::Chromium(Box::new(Chromium::start().await))
        }
    }

    /// Starts a browser that blocks all cookies, and with them the storage of pages.
    pub(crate) async fn start_without_cookies() -> Self {
        if Self::is_firefox() {
            Self::Firefox(Box::new(Firefox::start("user_pref(\"network.cookie.cookieBehavior\", 2);\n").await))
        } else {
            Self::Chromium(Box::new(
                Chromium::start_with(json!({ "profile.default_content_setting_values.cookies": 2 })).await,
            ))
        }
    }

    /// Opens a page in a new window and switches to it.
    pub(crate) async fn open(&self, url: &str) -> Window {
        let window = Window(both!(self, browser => browser.new_window().await));
        self.switch(&window).await;
        self.go(url).await;
        window
    }

    pub(crate) async fn switch(&self, window: &Window) {
        both!(self, browser => browser.switch(&window.0).await);
    }

    pub(crate) async fn go(&self, url: &str) {
        both!(self, browser => browser.go(url).await);
    }

    pub(crate) async fn reload(&self) {
        both!(self, browser => browser.reload().await);
    }

    /// Closes the window. Afterwards, switch to another one.
    pub(crate) async fn close(&self) {
        both!(self, browser => browser.close().await);
    }

    /// Opens each of these in its own window, all with one command.
    pub(crate) async fn open_all(&self, urls: &[String]) -> Vec<Window> {
        let windows = async || both!(self, browser => browser.windows().await);
        let before = windows().await;
        self.run(&format!("{}.forEach(url => window.open(url, '', 'noopener'))", json!(urls))).await;
        self.until_it_is(before.len() + urls.len(), async || windows().await.len()).await;
        windows().await.into_iter().filter(|window| !before.contains(window)).map(Window).collect()
    }

    // The following methods need no script to run in the page.

    /// Waits for a page with this title: a click returns before its page has loaded.
    pub(crate) async fn titled(&self, title: &str) {
        self.until_it_is(title.to_owned(), async || both!(self, browser => browser.title().await)).await;
    }

    /// Waits until there are this many elements.
    pub(crate) async fn counts(&self, selector: &str, count: usize) {
        self.until_it_is(count, async || self.find_all(selector).await.len()).await;
    }

    async fn until_it_is<T: Debug>(&self, wanted: impl PartialEq<T> + Debug, look: impl AsyncFn() -> T) {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let found = look().await;
            if wanted == found {
                return;
            }
            assert!(Instant::now() < end, "{found:?}, not {wanted:?}");
            sleep(Duration::from_millis(40)).await;
        }
    }

    async fn find_all(&self, selector: &str) -> Vec<Element> {
        match self {
            Self::Chromium(browser) => browser.find_all(selector).await.into_iter().map(Element::Chromium).collect(),
            Self::Firefox(browser) => browser.find_all(selector).await.into_iter().map(Element::Firefox).collect(),
        }
    }

    async fn find(&self, selector: &str) -> Element {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(element) = self.find_all(selector).await.into_iter().next() {
                return element;
            }
            assert!(Instant::now() < end, "no {selector}");
            sleep(Duration::from_millis(40)).await;
        }
    }

    pub(crate) async fn type_into(&self, selector: &str, text: &str) {
        match (self, self.find(selector).await) {
            (Self::Firefox(browser), Element::Firefox(element)) => browser.type_into(&element, text).await,
            (_, Element::Chromium(element)) => element.send_keys(text).await.unwrap(),
            _ => unreachable!("an element of another browser"),
        }
    }

    pub(crate) async fn click(&self, selector: &str) {
        match (self, self.find(selector).await) {
            (Self::Firefox(browser), Element::Firefox(element)) => browser.click(&element).await,
            (_, Element::Chromium(element)) => element.click().await.unwrap(),
            _ => unreachable!("an element of another browser"),
        }
    }

    async fn text_of(&self, element: &Element) -> String {
        match (self, element) {
            (Self::Firefox(browser), Element::Firefox(element)) => browser.text(element).await,
            (_, Element::Chromium(element)) => element.text().await.unwrap(),
            _ => unreachable!("an element of another browser"),
        }
    }

    pub(crate) async fn text(&self, selector: &str) -> String {
        self.text_of(&self.find(selector).await).await
    }

    /// The text of every element that the selector currently matches.
    pub(crate) async fn texts(&self, selector: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for element in &self.find_all(selector).await {
            texts.push(self.text_of(element).await);
        }
        texts
    }

    // ---

    async fn execute(&self, script: &str) -> Result<Value, String> {
        both!(self, browser => browser.execute(script).await)
    }

    /// Runs a script and returns its result. In Firefox the script has its own globals: `window.Date` is the page's.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.execute(script).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// The value of the promise that the expression returns.
    pub(crate) async fn wait_for(&self, expression: &str) -> Value {
        let script =
            format!("const done = arguments[0]; Promise.resolve({expression}).then(done, e => done(`${{e}}`))");
        let result = both!(self, browser => browser.execute_async(&script).await);
        result.unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// Waits until the expression is true.
    #[track_caller]
    pub(crate) fn until(&self, expression: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        let script = format!("return !!({expression})");
        async move {
            let end = Instant::now() + Duration::from_secs(20);
            while self.execute(&script).await.ok() != Some(Value::Bool(true)) {
                if Instant::now() > end {
                    let page = self.run("return document.body.innerText").await;
                    panic!("{caller}: timed out waiting for {expression}; the page shows {page}");
                }
                sleep(Duration::from_millis(40)).await;
            }
        }
    }

    // What each browser has its own commands for.

    pub(crate) async fn set_offline(&self, offline: bool) {
        match self {
            Self::Chromium(browser) => {
                browser.devtools("Network.enable", json!({})).await;
                let network =
                    json!({ "offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1 });
                browser.devtools("Network.emulateNetworkConditions", network).await;
            }
            Self::Firefox(browser) => {
                browser.chrome(&format!("Services.io.offline = {offline}")).await;
            }
        }
    }

    /// Switches JavaScript off in pages.
    pub(crate) async fn disable_scripts(&self) {
        match self {
            Self::Chromium(browser) => {
                browser.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": true })).await;
            }
            Self::Firefox(browser) => {
                browser.chrome("Services.prefs.setBoolPref('javascript.enabled', false)").await;
            }
        }
    }

    /// Shows the page in this color scheme (`light` or `dark`) and width.
    pub(crate) async fn show_in(&self, scheme: &str, width: u32) {
        match self {
            Self::Chromium(browser) => {
                let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
                browser.devtools("Emulation.setEmulatedMedia", media).await;
                let screen = json!({ "width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": false });
                browser.devtools("Emulation.setDeviceMetricsOverride", screen).await;
            }
            Self::Firefox(browser) => {
                // 0 is dark, 1 is light. The narrowest window is wider than 400.
                let scheme = u8::from(scheme == "light");
                browser
                    .chrome(&format!(
                        "Services.prefs.setIntPref('layout.css.prefers-color-scheme.content-override', {scheme})"
                    ))
                    .await;
                browser.resize(width, 1000).await;
            }
        }
    }

    /// The cookies that the browser would send to this URL, in the form of the DevTools protocol.
    pub(crate) async fn cookies(&self, url: &str) -> Vec<Value> {
        both!(self, browser => browser.cookies(url).await)
    }

    /// Removes a cookie of the path `/`.
    pub(crate) async fn delete_cookie(&self, url: &str, name: &str) {
        match self {
            Self::Chromium(browser) => {
                browser.devtools("Network.deleteCookies", json!({ "name": name, "url": url })).await;
            }
            Self::Firefox(browser) => browser.delete_cookie(url, name).await,
        }
    }

    /// New messages in the console of the window.
    pub(crate) async fn console(&self) -> Vec<String> {
        both!(self, browser => browser.console().await)
    }

    pub(crate) async fn screenshot(&self) -> Vec<u8> {
        both!(self, browser => browser.screenshot().await)
    }
}
