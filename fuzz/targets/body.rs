//! The JSON bodies of a refresh and of an administrator who revokes a token.
//!
//! The input is a byte of flags, a line for `Content-Type`, and the body.
#![no_main]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, UNIX_EPOCH};

use axum::body::Body;
use axum_refresh::Settings;
use axum_refresh::config::Transport;
use axum_refresh::fuzz::{Revoke, read_revoke, read_tokens};
use axum_refresh_fuzz::{Input, at_once, bounded};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Frame;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const LONGEST: usize = 16 * 1024;

/// A body in pieces, which counts how many of them were read.
struct Pieces {
    left: VecDeque<Bytes>,
    asked: Arc<AtomicUsize>,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.asked.fetch_add(1, Relaxed);
        Poll::Ready(self.left.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}

fn in_pieces(bytes: &[u8], size: usize) -> (Body, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let left = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
    (Body::new(Pieces { left, asked: Arc::clone(&asked) }), asked)
}

/// Checks the form of a refusal and its reason.
fn check_refusal(response: &Response<Body>, headers: &HeaderMap, body: &[u8]) -> StatusCode {
    let status = response.status();
    assert!(!response.headers().contains_key(SET_COOKIE));
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let is_json = kind.split(|byte| *byte == b';').next().unwrap().trim_ascii();
    let is_json = is_json.eq_ignore_ascii_case(b"application/json");
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => assert!(body.len() > LONGEST),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => assert!(!body.is_empty() && !is_json || !kind.is_ascii()),
        StatusCode::BAD_REQUEST => assert!(is_json && !body.is_empty()),
        StatusCode::UNAUTHORIZED => {}
        _ => panic!("{status}"),
    }
    status
}

/// A member of the body. Serde reads a struct from an array, too: then it is the first element.
fn member<'a>(body: &'a Value, name: &str) -> &'a Value {
    match body {
        Value::Array(members) => &members[0],
        body => &body[name],
    }
}

fn refresh(settings: &Settings, headers: &HeaderMap, bytes: &[u8], size: usize, most: usize) {
    let (body, asked) = in_pieces(bytes, size);
    let read = bounded(most, || at_once(read_tokens(settings, headers, body)));
    assert!(asked.load(Relaxed) <= LONGEST / size + 2, "it continues to read beyond the limit");
    let by_cookie = settings.transport != Transport::Body && headers.contains_key(COOKIE);
    match read {
        Ok((Transport::Cookie, tokens)) => {
            assert!(by_cookie && tokens == [b"by cookie"]);
            assert_eq!(asked.load(Relaxed), 0, "an unneeded body was read");
        }
        Ok((_, tokens)) => {
            assert!(!by_cookie && settings.transport != Transport::Cookie && bytes.len() <= LONGEST);
            // A member that is not read may be too large a number, or invalid Unicode.
            let Ok(body) = serde_json::from_slice(bytes) else { return };
            assert_eq!(tokens, [member(&body, "refresh_token").as_str().unwrap().as_bytes()]);
        }
        Err(response) => {
            assert!(!by_cookie);
            let status = check_refusal(&response, headers, bytes);
            if settings.transport == Transport::Cookie {
                assert_eq!((status, asked.load(Relaxed)), (StatusCode::UNAUTHORIZED, 0));
            } else if status == StatusCode::UNAUTHORIZED && !bytes.is_empty() {
                assert!(bytes.len() <= LONGEST);
                let body: Value = serde_json::from_slice(bytes).unwrap_or_default();
                assert!(member(&body, "refresh_token").is_null());
            }
        }
    }
}

fn revoke(headers: &HeaderMap, bytes: &[u8], size: usize, most: usize) {
    let (body, asked) = in_pieces(bytes, size);
    let read = bounded(most, || at_once(read_revoke(headers, body)));
    assert!(asked.load(Relaxed) <= LONGEST / size + 2, "it continues to read beyond the limit");
    match read {
        Ok(None) => assert!(bytes.is_empty()),
        Ok(Some(Revoke::Token(token))) => {
            let body: Value = serde_json::from_slice(bytes).unwrap();
            assert_eq!(member(&body, "token").as_str(), Some(&*token));
        }
        Ok(Some(Revoke::Id(jti, time))) => {
            let body: Value = serde_json::from_slice(bytes).unwrap();
            assert_eq!(member(&body, "jti").as_str(), Some(&*jti));
            let written = if body.is_array() { &body[1] } else { &body["expires_at"] };
            match written.as_f64() {
                Some(seconds) => {
                    let since = time.map(|time| time.duration_since(UNIX_EPOCH).unwrap());
                    // Until the end of the year 9999.
                    let expected = Duration::try_from_secs_f64(seconds).ok();
                    assert_eq!(since, expected.filter(|since| since.as_secs_f64() <= 253_402_300_799.0));
                }
                // Four digits of the year, a T, and so on: no shorter text is a time.
                None => assert!(time.is_none() || written.as_str().unwrap().len() >= 20),
            }
        }
        Err(response) => assert_ne!(check_refusal(&response, headers, bytes), StatusCode::UNAUTHORIZED),
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let flags = input.byte();
    let mut headers = HeaderMap::new();
    if let Ok(kind) = HeaderValue::from_bytes(input.line()) {
        headers.insert(CONTENT_TYPE, kind);
    }
    if flags & 4 != 0 {
        headers.insert(COOKIE, HeaderValue::from_static("a=1; __Secure-refresh=by cookie"));
    }
    let transport = [Transport::Body, Transport::Both, Transport::Cookie, Transport::Body][usize::from(flags % 4)];
    let size = [1, 7, 4096, LONGEST][usize::from(flags >> 3) % 4];
    let mut body = input.rest().to_vec();
    if flags & 32 != 0 && !body.is_empty() {
        // White space is valid in JSON: it fills the body up to the limit, a little beyond it, or far beyond it.
        let many = if flags & 64 != 0 { LONGEST + 1 - body.len() % 3 } else { 8 * LONGEST };
        body.resize(many.max(body.len()), b' ');
    }
    // Single bytes would require a list of as many pieces.
    let size = if body.len() > 1024 { size.max(64) } else { size };
    // The limit, the pieces that were read, all of them in one piece, and the result of parsing: never more, however
    // large the body is.
    let read = body.len().min(LONGEST + size);
    let most = 4096 + 64 * (read / size + 2) + 48 * read;
    let settings = Settings { transport, ..Settings::default() };
    refresh(&settings, &headers, &body, size, most);
    revoke(&headers, &body, size, most);
});
