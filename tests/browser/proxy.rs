//! What stands between the browser and the demo: passes requests on, counts those that refresh, and loses, delays or replaces
//! their answers as a scenario asks it to.

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

/// What becomes of a refresh.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    Pass,
    /// The demo never sees it.
    Refuse,
    /// The demo has answered, and nobody hears it.
    Lose,
    /// The answer comes later.
    Delay(Duration),
    /// The demo never sees it, and this is the answer, with a `Retry-After` of one second.
    Answer(u16),
}

type Plan = Box<dyn FnMut(usize) -> Action + Send>;

/// What the demo answered to a refresh.
#[derive(Clone, Debug)]
pub(crate) struct Refresh {
    pub(crate) status: u16,
    /// Whether there was a refresh token in it.
    pub(crate) presented: bool,
    pub(crate) rotated: bool,
    /// Whether it means logged out: 401, or the way to the login page.
    pub(crate) refused: bool,
}

struct State {
    upstream: AtomicU16,
    http: reqwest::Client,
    plan: Mutex<Plan>,
    sent: Mutex<usize>,
    answered: Mutex<Vec<Refresh>>,
    /// Whether every connection is closed at once.
    down: Mutex<bool>,
}

/// A proxy on a port of its own.
#[derive(Clone)]
pub(crate) struct Proxy {
    port: u16,
    state: Arc<State>,
}

impl Proxy {
    pub(crate) async fn start(upstream: u16) -> Self {
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

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A path of the demo, by way of this.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// From now on requests go to a demo on this port.
    pub(crate) fn lead_to(&self, port: u16) {
        self.state.upstream.store(port, Ordering::SeqCst);
    }

    /// What becomes of the refreshes from now on; they are counted from 0.
    pub(crate) fn plan(&self, mut plan: impl FnMut(usize) -> Action + Send + 'static) {
        let before = self.refreshes();
        *self.state.plan.lock().unwrap() = Box::new(move |nth| plan(nth - before));
    }

    /// Whether the network is gone.
    pub(crate) fn down(&self, down: bool) {
        *self.state.down.lock().unwrap() = down;
    }

    /// Counts from here on.
    pub(crate) fn forget(&self) {
        *self.state.sent.lock().unwrap() = 0;
        self.state.answered.lock().unwrap().clear();
    }

    /// How many refreshes browsers have sent.
    pub(crate) fn refreshes(&self) -> usize {
        *self.state.sent.lock().unwrap()
    }

    /// Those that the demo has answered.
    pub(crate) fn answered(&self) -> Vec<Refresh> {
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
            // A browser sends a request once more by itself if a connection that it has used before is closed.
            let http = hyper::server::conn::http1::Builder::new().keep_alive(false).to_owned();
            http.serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

/// An error closes the connection without an answer.
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

/// Whether it goes to the router to refresh, or to a page that has to.
fn refreshes(request: &Request<Incoming>) -> bool {
    let has = |name| has_cookie(request.headers(), COOKIE, name);
    let path = request.uri().path();
    let kind = request.headers().get("sec-fetch-dest").and_then(|kind| kind.to_str().ok());
    let is_page = !path.starts_with("/auth/") && matches!(kind, Some("document" | "empty"));
    path == "/auth/refresh" && request.method() == "POST" || is_page && has("refresh") && !has("access")
}

/// Whatever its prefix.
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
