//! Firefox, controlled with Marionette: the protocol behind geckodriver, which Debian does not package.
//!
//! A message is its length in bytes, a colon and JSON: `[0, id, command, parameters]`, and `[1, id, error, result]`.
//! Scripts in the context `chrome` have the rights of the browser itself.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// No requests of the browser's own, and pages that count as visible in every window.
const PREFERENCES: &str = r#"
user_pref("marionette.port", 0);
user_pref("app.update.enabled", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("browser.startup.page", 0);
user_pref("browser.newtabpage.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("dom.disable_open_during_load", false);
user_pref("dom.min_background_timeout_value", 4);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("network.manage-offline-status", false);
user_pref("network.prefetch-next", false);
user_pref("services.settings.server", "data:,");
user_pref("toolkit.telemetry.server", "data:,");
"#;

/// An element of a page, by Marionette's id.
#[derive(Clone, Debug)]
pub(crate) struct Element(String);

pub(crate) struct Firefox {
    stream: Mutex<(BufReader<TcpStream>, u64)>,
    process: Child,
    profile: PathBuf,
}

impl Firefox {
    /// Starts a browser with an empty profile and these preferences (lines of `user.js`).
    pub(crate) async fn start(preferences: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("firefox-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let profile = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&profile).unwrap();
        std::fs::write(profile.join("user.js"), format!("{PREFERENCES}{preferences}")).unwrap();
        let process = Command::new("firefox-esr")
            .args(["--headless", "--marionette", "--remote-allow-system-access", "--no-remote"])
            .args(["--width", "1100", "--height", "1000", "--profile"])
            .arg(&profile)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("firefox-esr does not start ({error}): tests/run installs it"));
        let end = Instant::now() + Duration::from_secs(40);
        let port: u16 = loop {
            let file = std::fs::read_to_string(profile.join("MarionetteActivePort"));
            if let Some(port) = file.ok().and_then(|port| port.trim().parse().ok()) {
                break port;
            }
            assert!(Instant::now() < end, "Firefox opens no port");
            sleep(Duration::from_millis(50)).await;
        };
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
        receive(&mut stream).await; // its greeting
        let firefox = Self { stream: Mutex::new((stream, 0)), process, profile };
        firefox.send("WebDriver:NewSession", json!({ "timeouts": { "script": 30_000 } })).await;
        firefox
    }

    async fn try_send(&self, command: &str, parameters: Value) -> Result<Value, String> {
        let (stream, id) = &mut *self.stream.lock().await;
        *id += 1;
        let message = json!([0, id, command, parameters]).to_string();
        stream.write_all(format!("{}:{message}", message.len()).as_bytes()).await.unwrap();
        let mut response = receive(stream).await;
        assert_eq!(response[1], json!(id), "{response}");
        if response[2].is_null() { Ok(response[3].take()) } else { Err(response[2].to_string()) }
    }

    async fn send(&self, command: &str, parameters: Value) -> Value {
        let sent = self.try_send(command, parameters).await;
        sent.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Runs a script in the browser itself.
    pub(crate) async fn chrome(&self, script: &str) -> Value {
        self.send("Marionette:SetContext", json!({ "value": "chrome" })).await;
        let result = self.execute(script).await;
        self.send("Marionette:SetContext", json!({ "value": "content" })).await;
        result.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    pub(crate) async fn new_window(&self) -> String {
        let window = self.send("WebDriver:NewWindow", json!({ "type": "window" })).await;
        window["handle"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn windows(&self) -> Vec<String> {
        let handles = self.send("WebDriver:GetWindowHandles", json!({})).await;
        serde_json::from_value(handles).unwrap()
    }

    pub(crate) async fn switch(&self, window: &str) {
        self.send("WebDriver:SwitchToWindow", json!({ "handle": window })).await;
    }

    pub(crate) async fn close(&self) {
        self.send("WebDriver:CloseWindow", json!({})).await;
    }

    pub(crate) async fn go(&self, url: &str) {
        self.send("WebDriver:Navigate", json!({ "url": url })).await;
    }

    pub(crate) async fn reload(&self) {
        self.send("WebDriver:Refresh", json!({})).await;
    }

    pub(crate) async fn title(&self) -> String {
        self.send("WebDriver:GetTitle", json!({})).await["value"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn execute(&self, script: &str) -> Result<Value, String> {
        let parameters = json!({ "script": script, "args": [] });
        Ok(self.try_send("WebDriver:ExecuteScript", parameters).await?["value"].take())
    }

    pub(crate) async fn execute_async(&self, script: &str) -> Result<Value, String> {
        let parameters = json!({ "script": script, "args": [] });
        Ok(self.try_send("WebDriver:ExecuteAsyncScript", parameters).await?["value"].take())
    }

    pub(crate) async fn find_all(&self, selector: &str) -> Vec<Element> {
        let parameters = json!({ "using": "css selector", "value": selector });
        let found = self.send("WebDriver:FindElements", parameters).await;
        let elements = found.as_array().unwrap().iter();
        let id = |element: &Value| element.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned();
        elements.map(|element| Element(id(element))).collect()
    }

    pub(crate) async fn type_into(&self, element: &Element, text: &str) {
        self.send("WebDriver:ElementSendKeys", json!({ "id": element.0, "text": text })).await;
    }

    pub(crate) async fn click(&self, element: &Element) {
        self.send("WebDriver:ElementClick", json!({ "id": element.0 })).await;
    }

    pub(crate) async fn text(&self, element: &Element) -> String {
        self.send("WebDriver:GetElementText", json!({ "id": element.0 })).await["value"].as_str().unwrap().to_owned()
    }

    /// In the form of the DevTools protocol.
    pub(crate) async fn cookies(&self, url: &str) -> Vec<Value> {
        let script = format!(
            "const url = new URL({});
            return Services.cookies.getCookiesFromHost(url.hostname, {{}})
                .filter(cookie => `${{url.pathname}}/`.startsWith(cookie.path.replace(/\\/?$/, '/')))
                .map(({{ name, value, host, path, isHttpOnly, isSecure, isSession, sameSite, expiry }}) => ({{
                    name, value, path, domain: host, httpOnly: isHttpOnly, secure: isSecure,
                    sameSite: {{ 0: 'None', 1: 'Lax', 2: 'Strict' }}[sameSite],
                    expires: isSession ? -1 : expiry > 1e11 ? expiry / 1000 : expiry,
                }}));",
            json!(url)
        );
        self.chrome(&script).await.as_array().unwrap().clone()
    }

    pub(crate) async fn delete_cookie(&self, url: &str, name: &str) {
        let script = format!("Services.cookies.remove(new URL({}).hostname, {}, '/', {{}})", json!(url), json!(name));
        self.chrome(&script).await;
    }

    /// New errors and warnings of pages, of all windows.
    pub(crate) async fn console(&self) -> Vec<String> {
        let script = "
            const found = Services.console.getMessageArray()
                .filter(message => message instanceof Ci.nsIScriptError && message.sourceName.startsWith('http:'))
                .map(message => `${message.sourceName} ${message.errorMessage}`);
            Services.console.reset();
            return found;";
        serde_json::from_value(self.chrome(script).await).unwrap()
    }

    /// Sets the size of the page, not of the window.
    pub(crate) async fn resize(&self, width: u32, height: u32) {
        let inner =
            self.execute("return [window.outerWidth - window.innerWidth, window.outerHeight - window.innerHeight]");
        let frame = inner.await.unwrap();
        let [more, higher] = [0, 1].map(|nth| frame[nth].as_u64().unwrap());
        let rect = json!({ "width": u64::from(width) + more, "height": u64::from(height) + higher });
        self.send("WebDriver:SetWindowRect", rect).await;
    }

    pub(crate) async fn screenshot(&self) -> Vec<u8> {
        let image = self.send("WebDriver:TakeScreenshot", json!({ "full": false })).await;
        STANDARD.decode(image["value"].as_str().unwrap()).unwrap()
    }
}

async fn receive(stream: &mut BufReader<TcpStream>) -> Value {
    let mut length = 0;
    loop {
        match stream.read_u8().await.expect("Firefox is running") {
            b':' => break,
            digit => length = 10 * length + usize::from(digit - b'0'),
        }
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await.unwrap();
    serde_json::from_slice(&message).unwrap()
}

impl Drop for Firefox {
    fn drop(&mut self) {
        self.process.start_kill().ok();
        // It writes into its profile until it has exited.
        for _ in 0..50 {
            if !matches!(self.process.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        std::fs::remove_dir_all(&self.profile).ok();
    }
}
