//! Chromium, controlled with chromedriver.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fantoccini::elements::Element;
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand, WindowHandle};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use reqwest::{Method, Url};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

const DRIVER: &str = "chromedriver";

const ARGUMENTS: [&str; 13] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    // So that every window counts as visible to its page.
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--disable-background-timer-throttling",
    "--window-size=1100,1000",
];

pub(crate) struct Chromium {
    client: Client,
    driver: Child,
    /// The port of the driver, and the session to end.
    session: (u16, String),
    profile: PathBuf,
}

/// Starts a driver, and returns its port.
///
/// chromedriver chooses a free IPv4 port and exits if another process has the IPv6 port of the same number.
async fn driver() -> (Child, u16) {
    let mut output = String::new();
    for _ in 0..5 {
        let mut driver = Command::new(DRIVER)
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{DRIVER} does not start ({error}): tests/run installs it, and Chromium"));
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = timeout(Duration::from_secs(20), async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some((_, port)) = line.trim_end_matches('.').rsplit_once("successfully on port ") {
                    return Some(port.parse().unwrap());
                }
                output.push_str(&line);
                output.push('\n');
            }
            None
        })
        .await
        .expect("chromedriver prints its port");
        if let Some(port) = port {
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return (driver, port);
        }
    }
    panic!("{DRIVER} has exited five times:\n{output}")
}

impl Chromium {
    /// Starts a browser with an empty profile and one empty window.
    pub(crate) async fn start() -> Self {
        Self::start_with(json!({})).await
    }

    /// Starts a browser with these preferences.
    pub(crate) async fn start_with(preferences: Value) -> Self {
        let (driver, port) = driver().await;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("chromium-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let profile = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut arguments: Vec<_> = ARGUMENTS.map(str::to_owned).into();
        arguments.push(format!("--user-data-dir={}", profile.display()));
        let capabilities = json!({
            "goog:chromeOptions": { "args": arguments, "prefs": preferences },
            "goog:loggingPrefs": { "browser": "ALL" },
            "timeouts": { "script": 30_000 },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!() };
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(Capabilities::from_iter(capabilities))
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap_or_else(|error| panic!("Chromium does not start ({error}): tests/run installs it"));
        let session = client.session_id().await.unwrap().expect("a WebDriver session");
        Self { client, driver, session: (port, session), profile }
    }

    pub(crate) async fn new_window(&self) -> String {
        self.client.new_window(false).await.unwrap().handle.into()
    }

    pub(crate) async fn windows(&self) -> Vec<String> {
        self.client.windows().await.unwrap().into_iter().map(String::from).collect()
    }

    pub(crate) async fn switch(&self, window: &str) {
        self.client.switch_to_window(WindowHandle::try_from(window.to_owned()).unwrap()).await.unwrap();
    }

    pub(crate) async fn close(&self) {
        self.client.close_window().await.unwrap();
    }

    pub(crate) async fn go(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

    pub(crate) async fn reload(&self) {
        self.client.refresh().await.unwrap();
    }

    pub(crate) async fn title(&self) -> String {
        self.client.title().await.unwrap()
    }

    /// Runs a script and returns its result.
    pub(crate) async fn execute(&self, script: &str) -> Result<Value, String> {
        self.client.execute(script, Vec::new()).await.map_err(|error| error.to_string())
    }

    /// Runs a script that calls its last argument.
    pub(crate) async fn execute_async(&self, script: &str) -> Result<Value, String> {
        self.client.execute_async(script, Vec::new()).await.map_err(|error| error.to_string())
    }

    pub(crate) async fn find_all(&self, selector: &str) -> Vec<Element> {
        self.client.find_all(Locator::Css(selector)).await.unwrap()
    }

    /// A command of the DevTools protocol.
    pub(crate) async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let command = DevTools(json!({ "cmd": command, "params": parameters }));
        self.client.issue_cmd(command).await.unwrap()
    }

    pub(crate) async fn cookies(&self, url: &str) -> Vec<Value> {
        let found = self.devtools("Network.getCookies", json!({ "urls": [url] })).await;
        found["cookies"].as_array().unwrap().clone()
    }

    pub(crate) async fn console(&self) -> Vec<String> {
        let entries = self.client.issue_cmd(Log).await.unwrap();
        let entries = entries.as_array().unwrap().iter();
        entries.map(|entry| format!("{} {}", entry["level"], entry["message"])).collect()
    }

    pub(crate) async fn screenshot(&self) -> Vec<u8> {
        self.client.screenshot().await.unwrap()
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // A driver that exits leaves its Chromium running. So end the session first, also after a panic, when nothing
        // can be awaited any more.
        let (port, session) = &self.session;
        if let Ok(mut driver) = TcpStream::connect(("127.0.0.1", *port)) {
            driver.set_read_timeout(Some(Duration::from_secs(10))).ok();
            let request = format!("DELETE /session/{session} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            driver.write_all(request.as_bytes()).ok();
            driver.read_exact(&mut [0; 12]).ok();
        }
        self.driver.start_kill().ok();
        std::fs::remove_dir_all(&self.profile).ok();
    }
}

#[derive(Debug)]
struct DevTools(Value);

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, <Url as std::str::FromStr>::Err> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.0.to_string()))
    }
}

#[derive(Debug)]
struct Log;

impl WebDriverCompatibleCommand for Log {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, <Url as std::str::FromStr>::Err> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(json!({ "type": "browser" }).to_string()))
    }
}
