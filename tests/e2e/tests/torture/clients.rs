//! Clients: browsers whose tabs share a jar, native clients, and thieves with their victims. They log what they observe
//! and do not judge it.

use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum_refresh::SessionId;
use axum_refresh_e2e::fill;
use reqwest::header::{HeaderMap, SET_COOKIE};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::log::{Access, Answer, Exchange, Log, Millis, Refresh, Request};
use super::nodes::{LONGEST_GRACE, Node};
use super::server::Server;

const COOKIE: &str = "__Secure-refresh";
/// How long a client waits for a response: longer than any delay that the faults cause.
const PATIENCE: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Requests and responses are lost.
    Storm,
    /// Nothing is lost any more.
    Calm,
    /// All clients finish.
    Over,
}

/// The network between clients and nodes.
pub(crate) struct Net {
    pub(crate) log: Log,
    pub(crate) nodes: Vec<Node>,
    /// How many of them have the right time. They come first.
    pub(crate) right: usize,
    http: reqwest::Client,
    phase: AtomicU8,
    probes: Mutex<JoinSet<()>>,
}

impl Net {
    pub(crate) fn new(nodes: Vec<Node>) -> Arc<Self> {
        // One connection for every request, so that a fault affects a single request.
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        let phase = AtomicU8::new(Phase::Storm as u8);
        let right = nodes.iter().filter(|node| node.clock == 0).count();
        Arc::new(Self { log: Log::begin(), nodes, right, http, phase, probes: Mutex::default() })
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    fn is_storm(&self) -> bool {
        self.phase.load(Ordering::SeqCst) == Phase::Storm as u8
    }

    pub(crate) fn is_over(&self) -> bool {
        self.phase.load(Ordering::SeqCst) == Phase::Over as u8
    }

    /// Waits until no probe sends requests that must be refused.
    pub(crate) async fn probes_end(&self) {
        let probes = std::mem::take(&mut *self.probes.lock().unwrap());
        probes.join_all().await;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Cookie,
    Body,
}

/// Common to all clients: a user, and requests that are logged.
#[derive(Clone)]
pub(crate) struct Client {
    net: Arc<Net>,
    id: usize,
    user: &'static str,
    transport: Transport,
    /// The nodes that it knows.
    nodes: Range<usize>,
    /// Uses the ports without mishaps.
    is_spared: bool,
}

impl Client {
    pub(crate) fn new(net: &Arc<Net>, id: usize, transport: Transport) -> Self {
        let user = if id.is_multiple_of(2) { "alice" } else { "bob" };
        Self { net: Arc::clone(net), id, user, transport, nodes: 0..net.right, is_spared: false }
    }

    pub(crate) fn only_on(mut self, node: usize) -> Self {
        self.nodes = node..node + 1;
        self
    }

    pub(crate) fn without_mishaps(mut self) -> Self {
        self.is_spared = true;
        self
    }

    /// Sends a request to any of its nodes.
    async fn send(&self, request: Request) -> Option<Answer> {
        self.send_to(fastrand::usize(self.nodes.clone()), request).await
    }

    /// Sends a request to this node. `None` if its outcome is unknown.
    pub(crate) async fn send_to(&self, node: usize, request: Request) -> Option<Answer> {
        let net = &*self.net;
        let is_rough = net.is_storm() && !self.is_spared;
        let front = &net.nodes[node].front;
        let port = if is_rough { front.rough } else { front.smooth };
        // Sometimes the client does not wait: a tab that is closed, a navigation that is cancelled.
        let is_hasty = is_rough && fastrand::u32(0..100) < 4;
        let patience = if is_hasty { Duration::from_millis(fastrand::u64(1..60)) } else { PATIENCE };
        let call = self.call(&format!("http://127.0.0.1:{port}"), &request);
        let start = net.log.now();
        let answer = timeout(patience, self.read(call, net.nodes[node].clock)).await.ok().flatten();
        let end = net.log.now() + 1;
        net.log.add(Exchange { client: self.id, node, start, end, request, answer: answer.clone() });
        answer
    }

    fn call(&self, node: &str, request: &Request) -> reqwest::RequestBuilder {
        let http = &self.net.http;
        let with = |path: &str, token: &Refresh| {
            let call = http.post(format!("{node}{path}"));
            match self.transport {
                Transport::Cookie => call.header("cookie", format!("{COOKIE}={}", token.text)),
                Transport::Body => call.json(&json!({ "refresh_token": &*token.text })),
            }
        };
        match request {
            Request::Login => {
                let transport = if self.transport == Transport::Body { "body" } else { "cookie" };
                let form = json!({ "username": self.user, "password": "password", "transport": transport });
                http.post(format!("{node}/login")).json(&form)
            }
            Request::Refresh { token, .. } => with("/auth/refresh", token),
            Request::Logout(token) => with("/auth/logout", token),
            Request::Use(access) => {
                let path = if fastrand::bool() { "/me" } else { "/stateless" };
                http.get(format!("{node}{path}")).bearer_auth(&access.text)
            }
            Request::End { session, by } => {
                http.delete(format!("{node}/auth/sessions/{session}")).bearer_auth(&by.text)
            }
            Request::EndUser { user, by, .. } => {
                http.delete(format!("{node}/admin/users/{user}/sessions")).bearer_auth(&by.text)
            }
            Request::RevokeToken { token, by } => http
                .post(format!("{node}/admin/tokens/revoke"))
                .bearer_auth(&by.text)
                .json(&json!({ "token": &*token.text })),
        }
    }

    async fn read(&self, call: reqwest::RequestBuilder, clock: Millis) -> Option<Answer> {
        let response = call.send().await.ok()?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = response.bytes().await.ok()?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |name: &str| body.get(name).and_then(Value::as_str);
        let cookie = refresh_cookie(&headers);
        Some(Answer {
            status,
            code: text("code").unwrap_or_default().to_owned(),
            access: text("access_token").map(|token| self.net.log.access(token, clock)),
            refresh: text("refresh_token").or(cookie.as_ref().map(|(token, _)| &**token)).map(Refresh::read),
            max_age: cookie.map(|(_, max_age)| max_age),
            revoked: body.get("revoked").and_then(Value::as_u64),
        })
    }

    pub(crate) async fn refresh(&self, token: &Refresh) -> Option<Answer> {
        self.send(Request::Refresh { token: token.clone(), thief: false }).await
    }

    /// Logs in, with as many attempts as it takes.
    pub(crate) async fn login(&self) -> Option<(Refresh, Access)> {
        while !self.net.is_over() {
            if let Some(Answer { refresh: Some(refresh), access: Some(access), .. }) = self.send(Request::Login).await {
                return Some((refresh, access));
            }
            pause(50..300).await;
        }
        None
    }

    /// Presents a revoked token repeatedly, on any node.
    fn probe(&self, access: Option<Access>, refresh: Option<Refresh>) {
        let client = self.clone();
        let probe = async move {
            if let Some(token) = refresh {
                client.refresh(&token).await;
            }
            let Some(access) = access else { return };
            for _ in 0..16 {
                if client.net.is_over() {
                    return;
                }
                client.send(Request::Use(access.clone())).await;
                pause(50..500).await;
            }
        };
        self.net.probes.lock().unwrap().spawn(probe);
    }

    /// Logs in on another device, revokes that session from this one, and checks that it is over.
    async fn revoke_another(&self, by: &Access) {
        let other = Self { transport: Transport::Body, ..self.clone() };
        let Some((token, access)) = other.login().await else { return };
        other.send(Request::Use(access.clone())).await;
        let answer = other.refresh(&token).await;
        let (mut token, mut access) = (token, access);
        if let Some(answer) = answer {
            token = answer.refresh.unwrap_or(token);
            access = answer.access.unwrap_or(access);
        }
        self.send(Request::End { session: Arc::clone(&token.session), by: by.clone() }).await;
        other.probe(Some(access), Some(token));
    }
}

/// The refresh cookie that a response sets, and its lifetime in seconds. `None` if it sets none or clears it.
fn refresh_cookie(headers: &HeaderMap) -> Option<(String, i64)> {
    headers.get_all(SET_COOKIE).iter().find_map(|header| {
        let (pair, attributes) = header.to_str().ok()?.split_once(';')?;
        let value = pair.strip_prefix(COOKIE)?.strip_prefix('=')?;
        let max_age = attributes.split(';').find_map(|attribute| attribute.trim().strip_prefix("Max-Age="))?;
        (!value.is_empty()).then(|| (value.to_owned(), max_age.parse().expect("a number of seconds")))
    })
}

async fn pause(millis: std::ops::Range<u64>) {
    sleep(Duration::from_millis(fastrand::u64(millis))).await;
}

/// A browser: tabs that share a jar and do not know of each other.
pub(crate) struct Browser {
    client: Client,
    jar: Mutex<Option<Refresh>>,
    /// Only one tab at a time shows the login page.
    login: tokio::sync::Mutex<()>,
}

impl Browser {
    pub(crate) async fn run(net: Arc<Net>, id: usize) {
        let client = Client::new(&net, id, Transport::Cookie);
        let browser = Arc::new(Self { client, jar: Mutex::default(), login: tokio::sync::Mutex::default() });
        let mut tabs = JoinSet::new();
        for number in 0..2 + id % 3 {
            let tab = Tab { browser: Arc::clone(&browser), access: None, is_lazy: (id + number).is_multiple_of(2) };
            tabs.spawn(tab.run());
        }
        tabs.join_all().await;
        // At the end, it is still logged in, or received the reason why not.
        if let Some(token) = browser.token() {
            last_refresh(&browser.client, token).await;
        }
    }

    fn token(&self) -> Option<Refresh> {
        self.jar.lock().unwrap().clone()
    }

    async fn login(&self) -> Option<Access> {
        let _page = self.login.lock().await;
        if self.token().is_some() {
            return None;
        }
        let (refresh, access) = self.client.login().await?;
        *self.jar.lock().unwrap() = Some(refresh);
        Some(access)
    }

    /// Gets an access token for a tab. `None` if this attempt failed.
    async fn refresh(&self) -> Option<Access> {
        let Some(token) = self.token() else { return self.login().await };
        let answer = self.client.refresh(&token).await?;
        match answer.status {
            200 if answer.refresh.is_some() => *self.jar.lock().unwrap() = answer.refresh,
            401 => {
                // Logged out, unless another tab has logged in meanwhile.
                let mut jar = self.jar.lock().unwrap();
                if *jar == Some(token) {
                    *jar = None;
                }
            }
            409 | 503 => pause(300..1100).await,
            _ => {}
        }
        answer.access
    }
}

struct Tab {
    browser: Arc<Browser>,
    access: Option<Access>,
    /// Refreshes only when necessary.
    is_lazy: bool,
}

impl Tab {
    async fn run(mut self) {
        let net = Arc::clone(&self.browser.client.net);
        while !net.is_over() {
            pause(80..900).await;
            match fastrand::u32(0..100) {
                0..22 if !self.is_lazy => self.refresh().await,
                22..28 if !self.is_lazy => self.refresh_many_times().await,
                28..30 => self.log_out().await,
                30..32 => self.revoke_another().await,
                32..34 if self.browser.client.user == "alice" => self.revoke_token().await,
                _ => self.use_access().await,
            }
        }
    }

    async fn refresh(&mut self) {
        if let Some(access) = self.browser.refresh().await {
            self.access = Some(access);
        }
    }

    /// A page that sends several requests at once, each of which requires a refresh.
    async fn refresh_many_times(&mut self) {
        let (a, b, c) = tokio::join!(self.browser.refresh(), self.browser.refresh(), self.browser.refresh());
        self.access = a.or(b).or(c).or(self.access.take());
    }

    async fn use_access(&mut self) {
        let Some(access) = self.access.clone() else { return self.refresh().await };
        let answer = self.browser.client.send(Request::Use(access)).await;
        if answer.is_some_and(|answer| answer.status == 401) {
            self.access = None;
            self.refresh().await;
        }
    }

    async fn log_out(&mut self) {
        let browser = &*self.browser;
        let Some(token) = browser.token() else { return };
        for _ in 0..3 {
            if browser.client.send(Request::Logout(token.clone())).await.is_some_and(|answer| answer.is_success()) {
                break;
            }
        }
        // The response clears the cookie, whichever it is; without a response, the user closes the browser.
        *browser.jar.lock().unwrap() = None;
        let access = self.access.take().filter(|access| access.session == token.session);
        browser.client.probe(access, Some(token));
        self.refresh().await;
    }

    async fn revoke_another(&self) {
        let Some(access) = &self.access else { return };
        self.browser.client.revoke_another(access).await;
    }

    async fn revoke_token(&mut self) {
        let Some(token) = self.access.take() else { return };
        let client = &self.browser.client;
        client.send(Request::RevokeToken { token: token.clone(), by: token.clone() }).await;
        client.probe(Some(token), None);
        self.refresh().await;
    }
}

/// A native client: one request at a time, and it stores a token only when the response has arrived.
pub(crate) async fn native(client: Client) {
    let net = Arc::clone(&client.net);
    let mut held: Option<(Refresh, Access)> = None;
    while !net.is_over() {
        pause(50..700).await;
        let Some((token, access)) = &mut held else {
            held = client.login().await;
            continue;
        };
        match fastrand::u32(0..100) {
            0..40 => match client.refresh(token).await {
                Some(answer) if answer.status == 401 => held = None,
                Some(answer) => {
                    *token = answer.refresh.unwrap_or(token.clone());
                    *access = answer.access.unwrap_or(access.clone());
                }
                None => {}
            },
            40..43 => {
                let (token, access) = (token.clone(), access.clone());
                client.send(Request::Logout(token.clone())).await;
                client.probe(Some(access), Some(token));
                held = None;
            }
            43..45 => client.revoke_another(access).await,
            _ => {
                client.send(Request::Use(access.clone())).await;
            }
        }
    }
    if let Some((token, _)) = held {
        last_refresh(&client, token).await;
    }
}

/// Refreshes until there is a final response.
async fn last_refresh(client: &Client, token: Refresh) {
    for _ in 0..20 {
        if matches!(client.refresh(&token).await, Some(Answer { status: 200 | 401, .. })) {
            return;
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// A victim and a thief with a copy of a refresh token. They take turns, each outside the other's window, until one of
/// them is told that the session is over; then it starts again.
pub(crate) async fn theft(net: Arc<Net>, id: usize) {
    let transport = if id.is_multiple_of(2) { Transport::Cookie } else { Transport::Body };
    let client = Client::new(&net, id, transport).without_mishaps();
    while !net.is_over() {
        let Some((mut owners, mut access)) = client.login().await else { return };
        let mut stolen = owners.clone();
        // Whether the owner uses access tokens too, whether the thief waits until the token is two generations behind,
        // and whether the thief presents first.
        let (is_busy, waits, is_first) = match id % 4 {
            0 => (true, false, false),
            1 => (false, true, false),
            2 => (false, false, true),
            _ => (false, false, false),
        };
        let mut thiefs_turn = is_first;
        let mut turns = 0;
        while !net.is_over() {
            let token = if thiefs_turn { &mut stolen } else { &mut owners };
            let Some(answer) = client.send(Request::Refresh { token: token.clone(), thief: thiefs_turn }).await else {
                pause(100..300).await;
                continue;
            };
            match answer.status {
                200 => {}
                401 => break,
                _ => {
                    pause(300..1000).await;
                    continue;
                }
            }
            if let Some(new) = answer.refresh {
                *token = new;
            }
            if let (false, Some(new)) = (thiefs_turn, answer.access) {
                access = new;
            }
            turns += 1;
            let over = net.log.now() + i64::try_from(LONGEST_GRACE.as_millis()).unwrap();
            while net.log.now() <= over + 100 && !net.is_over() {
                sleep(Duration::from_millis(100)).await;
            }
            if is_busy {
                // Acknowledges the successor.
                client.send(Request::Use(access.clone())).await;
                pause(1200..1300).await;
            }
            if !(waits && turns == 1) {
                thiefs_turn = !thiefs_turn;
            }
        }
    }
}

/// A client of nodes with the right time that also meets those whose clock is wrong. It sends one request at a time, and
/// begins a new session when the outcome of one is unknown: only then are its refresh tokens the newest, as the guide
/// requires for a node whose clock is wrong.
pub(crate) async fn visitor(net: Arc<Net>, id: usize) {
    let client = Client::new(&net, id, Transport::Body).without_mishaps();
    let all = net.nodes.len();
    while !net.is_over() {
        let node = if fastrand::bool() { fastrand::usize(0..net.right) } else { fastrand::usize(net.right..all) };
        let Some(Answer { refresh: Some(mut token), access: Some(mut access), .. }) =
            client.send_to(node, Request::Login).await
        else {
            pause(50..300).await;
            continue;
        };
        for _ in 0..fastrand::u32(4..12) {
            pause(50..250).await;
            for node in [fastrand::usize(0..net.right), fastrand::usize(net.right..all)] {
                client.send_to(node, Request::Use(access.clone())).await;
            }
            // The nodes with a wrong clock first: what they refuse has to work elsewhere.
            let mut is_known = true;
            for node in [fastrand::usize(net.right..all), fastrand::usize(0..net.right)] {
                let request = Request::Refresh { token: token.clone(), thief: false };
                match client.send_to(node, request).await {
                    Some(answer) if answer.status != 503 => {
                        token = answer.refresh.unwrap_or(token);
                        access = answer.access.unwrap_or(access);
                    }
                    _ => is_known = false,
                }
                if !is_known {
                    break;
                }
            }
            if !is_known || net.is_over() {
                break;
            }
        }
        let node = fastrand::usize(0..all);
        client.send_to(node, Request::Logout(token.clone())).await;
        client.probe(Some(access), Some(token));
    }
}

/// A user with very many sessions, which an administrator revokes at once.
pub(crate) struct Crowd {
    client: Client,
    admin: Client,
    /// Those sessions whose tokens are known.
    sample: Vec<(Refresh, Access)>,
}

impl Crowd {
    pub(crate) const SAMPLE: usize = 8;
    pub(crate) const SESSIONS: usize = 50_000;

    pub(crate) async fn gather(net: &Arc<Net>, id: usize, store: &Server) -> Self {
        let client = Client { user: "crowd", ..Client::new(net, id, Transport::Body).without_mishaps() };
        let admin = Client { user: "alice", id: id + 1, ..client.clone() };
        let mut sample = Vec::new();
        for _ in 0..Self::SAMPLE {
            sample.push(client.login().await.unwrap());
        }
        let template: SessionId = sample[0].0.session.parse().unwrap();
        fill::sessions(&store.url(), client.user, template, Self::SESSIONS - Self::SAMPLE).await;
        Self { client, admin, sample }
    }

    /// Revokes them, and presents the tokens of the sample to every node, at once and when every node has to know. Returns
    /// when the call began, and when it was done. No other fault comes in between.
    pub(crate) async fn end(mut self) -> (Millis, Millis) {
        let net = Arc::clone(&self.client.net);
        // From here until every node has been asked, none is down.
        let mut running = Vec::new();
        for node in &net.nodes[self.client.nodes.clone()] {
            running.push(node.downtime().await);
        }
        for (token, access) in &mut self.sample {
            for _ in 0..20 {
                let answer = self.client.refresh(token).await;
                if let Some(Answer { refresh, access: Some(new), .. }) = answer {
                    *token = refresh.unwrap_or(token.clone());
                    *access = new;
                    break;
                }
                pause(50..100).await;
            }
        }
        let (_, by) = self.admin.login().await.unwrap();
        let request = Request::EndUser { client: self.client.id, user: self.client.user, by };
        let from = net.log.now();
        while !self.admin.send(request.clone()).await.is_some_and(|answer| answer.is_success()) {
            pause(50..100).await;
        }
        let until = net.log.now();
        let mut probes = JoinSet::new();
        for (node, running) in self.client.nodes.clone().zip(running) {
            let (client, sample) = (self.client.clone(), self.sample.clone());
            probes.spawn(async move {
                let ask = async |request: Request| {
                    let began = client.net.log.now();
                    while client.net.log.now() < began + 15_000 {
                        if client.send_to(node, request.clone()).await.is_some_and(|answer| answer.status != 503) {
                            return;
                        }
                        pause(50..200).await;
                    }
                };
                for (_, access) in &sample {
                    ask(Request::Use(access.clone())).await;
                }
                sleep(Duration::from_secs(2)).await;
                for (token, access) in &sample {
                    ask(Request::Use(access.clone())).await;
                    ask(Request::Refresh { token: token.clone(), thief: false }).await;
                }
                drop(running);
            });
        }
        probes.join_all().await;
        (from, until)
    }
}
