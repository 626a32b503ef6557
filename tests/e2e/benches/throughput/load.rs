//! The load generator: a fixed number of requests over 32 connections. It answers each response with the next request on
//! the same connection, so the server always has work.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::apps::USER_AGENT;

const CONNECTIONS: usize = 32;
const REFRESH_COOKIE: &str = "__Secure-refresh=";

/// The requests of `clients` in turn, each with its own token.
#[derive(Clone)]
pub(crate) struct Requests {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) clients: usize,
    user_agent: &'static str,
    is_forged: bool,
}

impl Requests {
    /// With access tokens.
    pub(crate) fn get(path: &'static str, clients: usize) -> Self {
        Self { method: "GET", path, clients, user_agent: USER_AGENT, is_forged: false }
    }

    /// With refresh cookies.
    pub(crate) fn refresh(path: &'static str, clients: usize) -> Self {
        Self { method: "POST", ..Self::get(path, clients) }
    }

    pub(crate) fn path(self, path: &'static str) -> Self {
        Self { path, ..self }
    }

    pub(crate) fn user_agent(self, user_agent: &'static str) -> Self {
        Self { user_agent, ..self }
    }

    /// With signatures that are wrong.
    pub(crate) fn forged(self) -> Self {
        Self { is_forged: true, ..self }
    }
}

/// What the requests needed.
pub(crate) struct Load {
    pub(crate) per_second: f64,
    /// For each request.
    pub(crate) processor_us: f64,
}

thread_local! {
    /// The refresh token of each client of a server, as of its last response.
    static REFRESH_TOKENS: RefCell<HashMap<String, Vec<String>>> = RefCell::default();
}

fn read_tokens(folder: &Path, name: &str) -> Vec<String> {
    std::fs::read_to_string(folder.join(name)).unwrap().lines().map(str::to_owned).collect()
}

/// Sends `count` requests and returns how many were answered in a second.
pub(crate) fn run(address: &str, folder: &Path, requests: &Requests, count: usize) -> f64 {
    REFRESH_TOKENS.with_borrow_mut(|known| {
        let refresh_tokens = known.entry(address.to_owned()).or_insert_with(|| read_tokens(folder, "refresh"));
        send(address, folder, requests, count, refresh_tokens)
    })
}

fn send(address: &str, folder: &Path, requests: &Requests, count: usize, refresh_tokens: &mut [String]) -> f64 {
    let Requests { method, path, user_agent, .. } = requests;
    let start = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nUser-Agent: {user_agent}\r\n");
    // As browsers send it.
    let origin = "Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\nContent-Length: 0\r\n";
    let with_cookie = |token: &str| format!("{start}{origin}Cookie: {REFRESH_COOKIE}{token}\r\n\r\n");
    let is_refresh = *method == "POST" && path.starts_with("/auth") && !requests.is_forged;
    let ready: Vec<String> = match *method {
        "POST" if is_refresh => Vec::new(),
        "POST" => refresh_tokens.iter().map(|token| with_cookie(&forged(token))).collect(),
        _ => {
            let tokens = read_tokens(
                folder,
                match *path {
                    "/by-hand" => "by-hand",
                    path if path.starts_with("/eddsa") => "eddsa",
                    _ => "access",
                },
            );
            tokens.iter().map(|token| format!("{start}Authorization: Bearer {token}\r\n\r\n")).collect()
        }
    };
    let status = if requests.is_forged && path.starts_with("/auth") { " 401" } else { " 200" };
    let mut connections: Vec<_> = (0..CONNECTIONS.min(count)).map(|_| Connection::open(address)).collect();
    let started = Instant::now();
    for n in 0..count + connections.len() {
        let slot = n % connections.len();
        let connection = &mut connections[slot];
        if n >= CONNECTIONS.min(count) {
            let head = connection.response();
            assert!(head.get(8..).is_some_and(|rest| rest.starts_with(status)), "{method} {path}: {head}");
            if is_refresh {
                let token = head.split_once(REFRESH_COOKIE).expect("every refresh rotates").1;
                let client = (n - CONNECTIONS.min(count)) % requests.clients;
                refresh_tokens[client].clear();
                refresh_tokens[client].push_str(token.split_once(';').unwrap().0);
            }
        }
        if n < count {
            let client = n % requests.clients;
            if is_refresh {
                connection.stream.write_all(with_cookie(&refresh_tokens[client]).as_bytes()).unwrap();
            } else {
                connection.stream.write_all(ready[client].as_bytes()).unwrap();
            }
        }
    }
    count as f64 / started.elapsed().as_secs_f64()
}

/// The token with another last character.
fn forged(token: &str) -> String {
    let (rest, last) = token.split_at(token.len() - 1);
    format!("{rest}{}", if last == "A" { "B" } else { "A" })
}

/// Sends one request.
pub(crate) fn get(address: &str, path: &str) {
    let mut connection = Connection::open(address);
    connection.stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
    connection.response();
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { stream, buffer: vec![0; 8192] }
    }

    /// The head of the next response.
    fn response(&mut self) -> &str {
        let mut length = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[length..]).unwrap();
            assert!(read > 0, "the server has closed the connection");
            length += read;
            let text = std::str::from_utf8(&self.buffer[..length]).unwrap();
            let Some(end) = text.find("\r\n\r\n") else { continue };
            let head = &text[..end];
            let body = head.split("\r\n").find_map(|line| line.strip_prefix("content-length: "));
            if length >= end + 4 + body.map_or(0, |text| text.parse().unwrap()) {
                return std::str::from_utf8(&self.buffer[..end]).unwrap();
            }
        }
    }
}
