//! The demo as a process, a browser with a cookie jar, and assertions on responses.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cookie_store::{CookieError, CookieStore};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Url};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::document::Contract;
use crate::example::{Process, command, command_with_default_features};
use crate::stores;

/// The name of the refresh cookie.
pub const COOKIE: &str = "__Secure-refresh";
/// The secret of every demo whose test is not about the secret.
pub const SECRET: &str = "q8vXh2m0Zr4yTnLwE1sKcPjU7dGfBaOi9xQ3H5tMzVY=";
/// The secret of a different server.
pub const OTHER_SECRET: &str = "Vb6Nw0TzR2uYk8LpX4jHsMfC1eQaGd7Oi3ZxPt5KvJE=";

pub const CHROME: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36";
pub const CHROME_UPDATED: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.7390.55 Safari/537.36";
pub const FIREFOX: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:143.0) Gecko/20100101 Firefox/143.0";

/// The shortest grace period, for tests that wait until it is over.
pub const SHORT_GRACE: (&str, &str) = ("GRACE", "1s");

/// Waits until a rotation that happened before the call is no longer fresh under [`SHORT_GRACE`].
pub async fn grace_passes() {
    sleep(Duration::from_millis(1_150)).await;
}

/// Runs a demo that is expected to exit on its own.
pub async fn run_to_end(settings: &[(&str, &str)]) -> Output {
    let mut all = vec![("PORT", "0"), ("AUTH_SECRET", SECRET)];
    all.extend_from_slice(settings);
    exits(command(&all)).await
}

/// The same for a demo with the default features, which include only the memory store.
pub async fn run_to_end_with_default_features(settings: &[(&str, &str)]) -> Output {
    let mut all = vec![("PORT", "0"), ("AUTH_SECRET", SECRET)];
    all.extend_from_slice(settings);
    exits(command_with_default_features(&all)).await
}

async fn exits(mut demo: Command) -> Output {
    let run = demo.output();
    timeout(Duration::from_secs(10), run).await.expect("the demo did not exit").expect("the demo starts")
}

/// A running demo. Dropping it kills the process.
pub struct Demo {
    process: Process,
    base: Url,
    http: Client,
    contract: Contract,
}

impl Demo {
    /// A demo with default settings and [`SECRET`].
    pub async fn new() -> Self {
        Self::start(&[]).await
    }

    /// A demo with these settings, and [`SECRET`] if they contain no secret.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        let store = stores::fresh_url("CONTRACT_STORE").await;
        let mut all = vec![("PORT", "0"), ("AUTH_SECRET", SECRET)];
        all.extend(store.as_deref().map(|url| ("STORE_URL", url)));
        all.extend_from_slice(settings);
        Self::start_exactly(&all).await
    }

    /// A demo with these settings and no others.
    pub async fn start_exactly(settings: &[(&str, &str)]) -> Self {
        let process = Process::start(settings).await.unwrap_or_else(|problem| panic!("{problem}"));
        let base = format!("http://127.0.0.1:{}", process.port).parse().unwrap();
        let http = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let contract = Contract::new(&base, http.clone());
        Self { process, base, http, contract }
    }

    pub fn port(&self) -> u16 {
        self.process.port
    }

    /// The demo's own origin, as a browser writes it.
    pub fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// What the demo has printed so far, on both streams.
    pub fn output(&self) -> Vec<String> {
        self.process.output()
    }

    pub fn browser(&self) -> Browser {
        Browser { contract: Some(self.contract.clone()), ..Browser::new(self.base.clone(), self.http.clone()) }
    }

    /// A browser in which this user has just logged in.
    pub async fn logged_in(&self, user: &str) -> Browser {
        let mut browser = self.browser();
        browser.login(user).await;
        browser
    }

    /// A request with only the headers that the test adds.
    pub fn call(&self, method: Method, path: &str) -> Call {
        let request = self.http.request(method, self.base.join(path).unwrap());
        Call { request, contract: Some(self.contract.clone()) }
    }

    pub fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    pub fn post(&self, path: &str) -> Call {
        self.call(Method::POST, path)
    }

    /// Sends one refresh token, as a cookie.
    pub async fn refresh(&self, token: &str) -> Answer {
        self.post("/auth/refresh").refresh_cookie(token).send().await
    }

    /// `GET /me` with this access token.
    pub async fn me(&self, access: &str) -> Answer {
        self.get("/me").bearer(access).send().await
    }

    /// Sends raw bytes. `None` if the connection ended without a response.
    pub async fn raw(&self, request: &[u8]) -> Option<Answer> {
        let (mut from, mut to) = TcpStream::connect(("127.0.0.1", self.port())).await.unwrap().into_split();
        let mut bytes = Vec::new();
        // Read while writing: a server that rejects a body may respond before all of it was sent.
        let exchange = async {
            let write = async {
                to.write_all(request).await.ok();
            };
            let read = async {
                from.read_to_end(&mut bytes).await.ok();
            };
            tokio::join!(write, read)
        };
        timeout(Duration::from_secs(10), exchange).await.ok();
        Answer::parse(&bytes)
    }

    /// Asserts that the demo still responds.
    pub async fn is_alive(&self) {
        self.get("/health").send().await.is(200);
    }

    /// Sends SIGTERM and waits for the exit code.
    pub async fn terminate(mut self) -> Option<i32> {
        let pid = self.process.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let ended = timeout(Duration::from_secs(5), self.process.child.wait()).await;
        ended.expect("the demo did not exit after SIGTERM").unwrap().code()
    }
}

/// A request that is not sent yet.
#[must_use]
pub struct Call {
    request: reqwest::RequestBuilder,
    /// What every response is held against; none if it does not come from a demo.
    contract: Option<Contract>,
}

impl Call {
    /// Adds a header. It does not replace one of the same name.
    pub fn header(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = HeaderValue::from_bytes(value.as_ref()).unwrap();
        Self { request: self.request.header(name, value), ..self }
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    pub fn refresh_cookie(self, token: &str) -> Self {
        self.header("cookie", format!("{COOKIE}={token}"))
    }

    pub fn json(self, body: &Value) -> Self {
        self.body("application/json", body.to_string())
    }

    pub fn body(self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let call = self.header("content-type", content_type);
        Self { request: call.request.body(body.into()), ..call }
    }

    pub async fn send(self) -> Answer {
        let (http, request) = self.request.build_split();
        let request = request.unwrap();
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let response = http.execute(request).await.expect("a response");
        let answer = Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await.expect("a complete response").to_vec(),
        };
        if let Some(contract) = self.contract {
            contract.check(&method, &path, &answer).await;
        }
        answer
    }
}

/// A response of the demo.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        Some(Self { status, headers, body: bytes[end + 4..].to_vec() })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {} {}", self.status, self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn set_cookies(&self) -> Vec<SetCookie> {
        self.headers.get_all("set-cookie").iter().map(|value| SetCookie::parse(value.to_str().unwrap())).collect()
    }

    /// The refresh cookie that this response sets.
    #[track_caller]
    pub fn refresh_cookie(&self) -> SetCookie {
        let mut cookies = self.set_cookies();
        assert_eq!(cookies.len(), 1, "expected one cookie, got {cookies:?}");
        let cookie = cookies.remove(0);
        assert_eq!(cookie.name, COOKIE);
        cookie
    }

    #[track_caller]
    pub fn sets_no_cookie(&self) -> &Self {
        assert_eq!(self.set_cookies(), []);
        self
    }

    #[track_caller]
    pub fn clears_the_cookie(&self) -> &Self {
        let cookie = self.refresh_cookie();
        assert_eq!(cookie.value, "");
        // A browser removes only a cookie of the same name and path, and only with `Secure`.
        for attribute in ["Path=/auth", "Secure"] {
            assert!(cookie.attributes.contains(attribute), "{attribute} in {cookie:?}");
        }
        assert!(cookie.attributes.contains("Max-Age=0"), "{cookie:?}");
        self
    }

    #[track_caller]
    pub fn is(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{} {:?}", self.text(), self.headers);
        self
    }

    /// Asserts a 4xx status: the client is at fault, not the server.
    #[track_caller]
    pub fn is_the_clients_fault(&self) -> &Self {
        assert!((400..500).contains(&self.status), "{} {}", self.status, self.text());
        self
    }

    /// Asserts a complete refusal: problem+json with exactly four members, and no cookie set.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> &Self {
        self.is(status);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!(members(&problem), ["code", "status", "title", "type"]);
        assert_eq!(problem["code"], code);
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], "about:blank");
        assert!(!problem["title"].as_str().unwrap().is_empty());
        self.sets_no_cookie()
    }

    /// The tokens of a response whose body must not contain the refresh token.
    #[track_caller]
    pub fn tokens(&self) -> Tokens {
        let tokens = self.tokens_in_body();
        assert_eq!(tokens.refresh, None, "scripts can read the refresh token");
        tokens
    }

    /// The tokens of a response to a client that uses the body transport.
    #[track_caller]
    pub fn tokens_in_body(&self) -> Tokens {
        self.is(200);
        assert_eq!(self.header("content-type"), Some("application/json"));
        let body = self.json();
        let mut expected = vec!["access_token", "expires_in", "refresh_in", "token_type"];
        if body.get("refresh_token").is_some() {
            expected.insert(3, "refresh_token");
        }
        assert_eq!(members(&body), expected);
        assert_eq!(body["token_type"], "Bearer");
        Tokens {
            access: body["access_token"].as_str().unwrap().to_owned(),
            refresh: body.get("refresh_token").map(|token| token.as_str().unwrap().to_owned()),
            expires_in: body["expires_in"].as_u64().expect("whole seconds"),
            refresh_in: body["refresh_in"].as_u64().expect("whole seconds"),
        }
    }
}

/// The sorted member names of a JSON object.
#[track_caller]
pub fn members(value: &Value) -> Vec<&str> {
    let names: BTreeSet<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    names.into_iter().collect()
}

pub struct Tokens {
    pub access: String,
    pub refresh: Option<String>,
    pub expires_in: u64,
    pub refresh_in: u64,
}

impl Tokens {
    pub fn generation(&self) -> u64 {
        claims(&self.access)["gen"].as_u64().unwrap()
    }

    pub fn session(&self) -> String {
        session_of(&self.access)
    }
}

/// One `Set-Cookie` header, with its attributes as written.
#[derive(Debug, PartialEq)]
pub struct SetCookie {
    pub name: String,
    pub value: String,
    pub attributes: BTreeSet<String>,
}

impl SetCookie {
    fn parse(header: &str) -> Self {
        let mut parts = header.split("; ");
        let (name, value) = parts.next().unwrap().split_once('=').unwrap();
        let attributes: Vec<String> = parts.map(str::to_owned).collect();
        let written = attributes.len();
        let attributes: BTreeSet<String> = attributes.into_iter().collect();
        assert_eq!(attributes.len(), written, "a repeated attribute: {header}");
        Self { name: name.to_owned(), value: value.to_owned(), attributes }
    }

    pub fn max_age(&self) -> u64 {
        let age = self.attributes.iter().find_map(|attribute| attribute.strip_prefix("Max-Age="));
        age.expect("a Max-Age").parse().unwrap()
    }
}

/// A browser: it stores cookies, sends them back where they apply, and remembers the latest access token.
pub struct Browser {
    http: Client,
    base: Url,
    jar: CookieStore,
    headers: Vec<(String, String)>,
    contract: Option<Contract>,
    pub access: String,
}

impl Browser {
    /// A browser without cookies, for paths at `base`.
    pub fn new(base: Url, http: Client) -> Self {
        let (jar, headers, access) = (CookieStore::default(), Vec::new(), String::new());
        Self { http, base, jar, headers, contract: None, access }
    }

    pub fn with_user_agent(mut self, user_agent: &str) -> Self {
        self.set_header("user-agent", Some(user_agent));
        self
    }

    /// Behind a proxy that forwards requests for `address`.
    pub fn at(mut self, address: &str) -> Self {
        self.set_header("x-forwarded-for", Some(address));
        self
    }

    pub fn set_header(&mut self, name: &str, value: Option<&str>) {
        self.headers.retain(|(known, _)| known != name);
        if let Some(value) = value {
            self.headers.push((name.to_owned(), value.to_owned()));
        }
    }

    /// A request with this browser's cookies and headers, without the access token.
    pub fn request(&self, method: Method, path: &str) -> Call {
        let request = self.http.request(method, self.base.join(path).unwrap());
        let mut call = Call { request, contract: self.contract.clone() };
        if let Some(cookies) = self.cookies_for(path) {
            call = call.header("cookie", cookies);
        }
        for (name, value) in &self.headers {
            call = call.header(name, value);
        }
        call
    }

    /// Sends a request and stores the cookies of the response.
    pub async fn send(&mut self, call: Call, path: &str) -> Answer {
        let answer = call.send().await;
        self.keep(&answer, path);
        answer
    }

    /// Stores the cookies of the response to a request for `path`.
    pub fn keep(&mut self, answer: &Answer, path: &str) {
        for header in answer.headers.get_all("set-cookie") {
            match self.jar.parse(header.to_str().unwrap(), &self.secure(path)) {
                Ok(_) | Err(CookieError::Expired) => {}
                Err(error) => panic!("a browser rejects {header:?}: {error}"),
            }
        }
    }

    /// The `Cookie` header of a request for `path`.
    pub fn cookies_for(&self, path: &str) -> Option<String> {
        let url = self.secure(path);
        let pairs: Vec<String> =
            self.jar.get_request_values(&url).map(|(name, value)| format!("{name}={value}")).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    // Browsers send Secure cookies to loopback addresses. The jar requires https for that.
    fn secure(&self, path: &str) -> Url {
        let mut url = self.base.join(path).unwrap();
        url.set_scheme("https").unwrap();
        url
    }

    pub async fn login(&mut self, user: &str) -> Answer {
        let call = self.request(Method::POST, "/login").json(&credentials(user));
        let answer = self.send(call, "/login").await;
        self.access = answer.tokens().access;
        answer
    }

    /// `POST /auth/refresh`. Stores the new tokens.
    pub async fn refresh(&mut self) -> Answer {
        let call = self.request(Method::POST, "/auth/refresh");
        let answer = self.send(call, "/auth/refresh").await;
        if answer.status == 200 {
            self.access = answer.tokens().access;
        }
        answer
    }

    /// `POST /auth/logout`, without an access token.
    pub async fn logout(&mut self) -> Answer {
        let call = self.request(Method::POST, "/auth/logout");
        self.send(call, "/auth/logout").await
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        let call = self.request(Method::GET, path).bearer(&self.access);
        self.send(call, path).await
    }

    pub async fn post(&mut self, path: &str) -> Answer {
        let call = self.request(Method::POST, path).bearer(&self.access);
        self.send(call, path).await
    }

    pub async fn delete(&mut self, path: &str) -> Answer {
        let call = self.request(Method::DELETE, path).bearer(&self.access);
        self.send(call, path).await
    }

    pub async fn me(&mut self) -> Answer {
        self.get("/me").await
    }

    /// The list of the user's sessions.
    pub async fn sessions(&mut self) -> Vec<Value> {
        let answer = self.get("/auth/sessions").await;
        let mut body = answer.is(200).json();
        assert_eq!(members(&body), ["sessions"]);
        match body["sessions"].take() {
            Value::Array(sessions) => sessions,
            other => panic!("not a list: {other}"),
        }
    }

    /// The refresh token in the jar.
    pub fn refresh_token(&self) -> String {
        let cookies = self.cookies_for("/auth/refresh").expect("a refresh cookie");
        cookies.strip_prefix(COOKIE).unwrap().strip_prefix('=').unwrap().to_owned()
    }

    pub fn has_a_refresh_token(&self) -> bool {
        self.cookies_for("/auth/refresh").is_some()
    }

    pub fn session(&self) -> String {
        session_of(&self.access)
    }
}

/// The credentials of a user of the demo.
pub fn credentials(user: &str) -> Value {
    serde_json::json!({ "username": user, "password": "password" })
}

fn segment(jwt: &str, index: usize) -> Value {
    let segments: Vec<&str> = jwt.split('.').collect();
    assert_eq!(segments.len(), 3, "no JWT: {jwt}");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(segments[index]).unwrap()).unwrap()
}

/// The header of an access token.
pub fn header_of(jwt: &str) -> Value {
    segment(jwt, 0)
}

/// The claims of an access token.
pub fn claims(jwt: &str) -> Value {
    segment(jwt, 1)
}

/// The session of an access token.
pub fn session_of(jwt: &str) -> String {
    claims(jwt)["sid"].as_str().unwrap().to_owned()
}

pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn from_base64url(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).expect("base64url without padding")
}

/// `text` with the character at `index` replaced by a different one of base64url.
pub fn altered(text: &str, index: usize) -> String {
    let mut bytes = text.as_bytes().to_vec();
    bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
    String::from_utf8(bytes).unwrap()
}

pub fn now_millis() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Milliseconds since the Unix epoch of an RFC 3339 time in UTC.
#[track_caller]
pub fn millis(time: &Value) -> i64 {
    let text = time.as_str().expect("a time");
    let number = |from: usize, to: usize| text[from..to].parse::<i64>().unwrap();
    let marks: BTreeMap<usize, u8> = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')].into();
    for (at, mark) in marks {
        assert_eq!(text.as_bytes()[at], mark, "not RFC 3339: {text}");
    }
    let rest = text[19..].strip_suffix('Z').or_else(|| text[19..].strip_suffix("+00:00")).expect("UTC");
    let fraction = match rest.strip_prefix('.') {
        Some(digits) => format!("{digits:0<3}")[..3].parse().unwrap(),
        None => {
            assert_eq!(rest, "", "not RFC 3339: {text}");
            0
        }
    };
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    // Years start in March here, so that a leap day comes last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 719_469;
    ((days * 24 + number(11, 13)) * 60 + number(14, 16)) * 60_000 + number(17, 19) * 1_000 + fraction
}

#[cfg(test)]
mod tests {
    use super::millis;

    #[test]
    fn rfc_3339_times_are_parsed() {
        assert_eq!(millis(&"1970-01-01T00:00:00Z".into()), 0);
        assert_eq!(millis(&"2024-02-29T12:34:56.789Z".into()), 1_709_210_096_789);
        assert_eq!(millis(&"2026-01-01T00:00:00+00:00".into()), 1_767_225_600_000);
    }
}
