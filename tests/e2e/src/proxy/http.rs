//! A proxy between a browser and the demo. It forwards requests, counts refreshes, and loses, delays or replaces their
//! responses as a scenario requires.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, LOCATION, RETRY_AFTER, SET_COOKIE, TRANSFER_ENCODING,
};
use axum::http::{HeaderMap, HeaderName, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::time::sleep;

/// What happens to a refresh.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    Pass,
    /// The demo does not receive it.
    Refuse,
    /// The demo responds, and the response is lost.
    Lose,
    /// The response is late.
    Delay(Duration),
    /// The demo does not receive it. The proxy returns this status, with a `Retry-After` of one second.
    Answer(u16),
}

type Plan = Box<dyn FnMut(usize) -> Action + Send>;

/// The response of the demo to a refresh.
#[derive(Clone, Debug)]
pub struct Refresh {
    pub status: u16,
    /// Whether the request contained a refresh token.
    pub presented: bool,
    pub rotated: bool,
    /// Whether it means that the user is logged out: 401, or a redirect to the login page.
    pub refused: bool,
}

struct State {
    upstream: AtomicU16,
    http: reqwest::Client,
    plan: Mutex<Plan>,
    sent: Mutex<usize>,
    answered: Mutex<Vec<Refresh>>,
    /// Whether every connection is closed immediately.
    down: Mutex<bool>,
}

/// A proxy on a port of its own.
#[derive(Clone)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

impl Proxy {
    pub async fn start(upstream: u16) -> Self {
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let state = Arc::new(State {
            upstream: AtomicU16::new(upstream),
            http,
            plan: Mutex::new(Box::new(|_| Action::Pass)),
            sent: Mutex::default(),
            answered: Mutex::default(),
            down: Mutex::default(),
        });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(listen(listener, Arc::clone(&state)));
        Self { port, state }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a path of the demo behind this proxy.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Forwards requests to a demo on this port from now on.
    pub fn lead_to(&self, port: u16) {
        self.state.upstream.store(port, Ordering::SeqCst);
    }

    /// Decides what happens to each refresh from now on. The first one has number 0.
    pub fn plan(&self, mut plan: impl FnMut(usize) -> Action + Send + 'static) {
        let before = self.refreshes();
        *self.state.plan.lock().unwrap() = Box::new(move |nth| plan(nth - before));
    }

    /// Turns the network off or on.
    pub fn down(&self, down: bool) {
        *self.state.down.lock().unwrap() = down;
    }

    /// Resets the counters.
    pub fn forget(&self) {
        *self.state.sent.lock().unwrap() = 0;
        self.state.answered.lock().unwrap().clear();
    }

    /// The number of refreshes that browsers have sent.
    pub fn refreshes(&self) -> usize {
        *self.state.sent.lock().unwrap()
    }

    /// The refreshes that the demo has responded to.
    pub fn answered(&self) -> Vec<Refresh> {
        self.state.answered.lock().unwrap().clone()
    }
}

async fn listen(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        if *state.down.lock().unwrap() {
            continue;
        }
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request| serve(Arc::clone(&state), request));
            // A browser repeats a request by itself if a reused connection is closed.
            let http = hyper::server::conn::http1::Builder::new().keep_alive(false).to_owned();
            http.serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

/// An error closes the connection without a response.
async fn serve(state: Arc<State>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    if !refreshes(&request) {
        return pass(&state, request).await;
    }
    let nth = {
        let mut sent = state.sent.lock().unwrap();
        *sent += 1;
        *sent - 1
    };
    let action = (*state.plan.lock().unwrap())(nth);
    match action {
        Action::Refuse => return Err(io::ErrorKind::ConnectionReset.into()),
        Action::Answer(status) => {
            let answer = Response::builder().status(status).header(RETRY_AFTER, 1).body(Body::from("not now"));
            return Ok(answer.unwrap());
        }
        Action::Pass | Action::Lose | Action::Delay(_) => {}
    }
    let presented = request.headers().contains_key(COOKIE);
    let answer = pass(&state, request).await?;
    let rotated = has_cookie(answer.headers(), SET_COOKIE, "refresh");
    let leads_to = answer.headers().get(LOCATION).map_or("", |page| page.to_str().unwrap());
    let refused = answer.status() == 401 || leads_to.starts_with("/login");
    state.answered.lock().unwrap().push(Refresh { status: answer.status().as_u16(), presented, rotated, refused });
    match action {
        Action::Lose => Err(io::ErrorKind::ConnectionReset.into()),
        Action::Delay(time) => {
            sleep(time).await;
            Ok(answer)
        }
        _ => Ok(answer),
    }
}

/// Whether the request is a refresh, or is for a page that must refresh.
fn refreshes(request: &Request<Incoming>) -> bool {
    let has = |name| has_cookie(request.headers(), COOKIE, name);
    let path = request.uri().path();
    let kind = request.headers().get("sec-fetch-dest").and_then(|kind| kind.to_str().ok());
    let is_page = !path.starts_with("/auth/") && matches!(kind, Some("document" | "empty"));
    path == "/auth/refresh" && request.method() == "POST" || is_page && has("refresh") && !has("access")
}

/// Whether the request has this cookie, with any prefix.
fn has_cookie(headers: &HeaderMap, header: HeaderName, name: &str) -> bool {
    let cookies = headers.get_all(header).iter().flat_map(|value| value.to_str().unwrap().split("; "));
    cookies.filter_map(|cookie| cookie.split_once('=')).any(|(found, _)| found.rsplit('-').next() == Some(name))
}

async fn pass(state: &State, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let port = state.upstream.load(Ordering::SeqCst);
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut headers = parts.headers;
    headers.remove(CONNECTION);
    let host = headers.get(HOST).cloned();
    let mut onward = state.http.request(parts.method, format!("http://127.0.0.1:{port}{path}")).headers(headers);
    // The demo compares it with the origin of the page.
    if let Some(host) = host {
        onward = onward.header(HOST, host);
    }
    let answer = onward.body(body).send().await.map_err(io::Error::other)?;
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers() {
        if ![CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING].contains(name) {
            response = response.header(name, value);
        }
    }
    let body = answer.bytes().await.map_err(io::Error::other)?;
    Ok(response.body(Body::from(body)).unwrap())
}
