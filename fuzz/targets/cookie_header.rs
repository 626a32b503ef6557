//! Cookies: they are found exactly where they are, and written so that other parsers read them in the same way.
#![no_main]

use std::time::Duration;

use axum_refresh::Settings;
use axum_refresh::config::{CookieSettings, SameSite};
use axum_refresh::fuzz::{cookie_name, cookie_values, set_cookie};
use axum_refresh_fuzz::{Input, bounded};
use cookie::Cookie;
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

fn headers<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in lines.into_iter().filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        headers.append(COOKIE, value);
    }
    headers
}

fn find(headers: &HeaderMap, name: &str) -> Vec<Vec<u8>> {
    // Nothing is copied before this.
    bounded(0, || cookie_values(headers, name).count());
    cookie_values(headers, name).map(<[u8]>::to_vec).collect()
}

/// A second implementation, one byte at a time.
fn expected(headers: &HeaderMap, name: &str) -> Vec<Vec<u8>> {
    enum At<'a> {
        Start,
        Name(&'a [u8]),
        Value(Vec<u8>),
        Other,
    }
    let is_space = |byte: u8| byte == b' ' || byte == b'\t';
    let mut found = Vec::new();
    for line in headers.get_all(COOKIE) {
        let mut at = At::Start;
        for byte in line.as_bytes().iter().copied().chain([b';']) {
            at = match (at, byte) {
                (At::Value(mut value), b';') => {
                    while value.last().is_some_and(|last| is_space(*last)) {
                        value.pop();
                    }
                    found.push(value);
                    At::Start
                }
                (_, b';') => At::Start,
                (At::Start, byte) if is_space(byte) => At::Start,
                (At::Start, byte) if byte == name.as_bytes()[0] => At::Name(&name.as_bytes()[1..]),
                (At::Name([]), b'=') => At::Value(Vec::new()),
                (At::Name([next, rest @ ..]), byte) if *next == byte => At::Name(rest),
                (At::Value(mut value), byte) => {
                    value.push(byte);
                    At::Value(value)
                }
                _ => At::Other,
            };
        }
    }
    found
}

fn raw(mut input: Input<'_>) {
    let name = ["__Secure-refresh", "__Host-access", "refresh", "x"][usize::from(input.byte() % 4)];
    let rest = input.rest();
    let lines: Vec<_> = rest.split(|byte| *byte == b'\n').take(64).collect();
    let headers_of_input = headers(lines.iter().copied());
    let found = find(&headers_of_input, name);
    assert_eq!(found, expected(&headers_of_input, name));

    // Another cookie of this name, inserted between two others, adds one value.
    let at = rest.len() / 2 % lines.len();
    let (before, after) = lines.split_at(at);
    let ours = format!("a=1; {name}=token; b=2");
    let mut planted =
        find(&headers(before.iter().copied().chain([ours.as_bytes()]).chain(after.iter().copied())), name);
    let place = planted.iter().position(|value| value == b"token").expect("the inserted cookie is found");
    planted.remove(place);
    let mut found = found;
    found.sort();
    planted.sort();
    assert_eq!(planted, found);
}

/// Valid settings give a header that another parser reads with the same meaning.
fn written(mut input: Input<'_>) {
    let flags = input.byte();
    let mut text = || String::from_utf8_lossy(input.line()).into_owned();
    let cookie = CookieSettings {
        name: text(),
        path: text(),
        domain: Some(text()).filter(|_| flags & 1 == 0),
        same_site: [SameSite::Strict, SameSite::Lax, SameSite::None][usize::from(flags >> 1) % 3],
        partitioned: flags & 8 != 0,
        persistent: flags & 16 == 0,
    };
    let insecure = flags & 32 != 0;
    let settings = Settings { refresh_cookie: cookie.clone(), insecure_dev_cookies: insecure, ..Settings::default() };
    if settings.validate().is_err() {
        return;
    }
    let name = cookie_name(&cookie, insecure);
    let lower = name.to_ascii_lowercase();
    for value in [None, Some(("to-k_n", Duration::from_millis(90_999)))] {
        let header = set_cookie(&settings, &cookie, value).expect("valid settings result in a valid header");
        assert!(header.is_sensitive());
        let read = Cookie::parse(header.to_str().unwrap()).unwrap();
        assert_eq!(read.name_value(), (&*name, value.map_or("", |value| value.0)));
        assert_eq!(read.path(), Some(&*cookie.path));
        assert_eq!(read.domain().map(str::to_ascii_lowercase), cookie.domain.as_deref().map(str::to_ascii_lowercase));
        assert_eq!((read.http_only(), read.secure().unwrap_or(false)), (Some(true), !insecure));
        assert_eq!(read.partitioned().unwrap_or(false), cookie.partitioned);
        let seconds = value.map_or(0, |value| value.1.as_secs() as i64);
        let lasts = cookie.persistent || value.is_none();
        assert_eq!(read.max_age().map(|life| life.whole_seconds()), lasts.then_some(seconds));
        // The rules of browsers for a prefix (RFC 6265bis §4.1.3).
        assert!(!lower.starts_with("__secure-") || !insecure);
        assert!(!lower.starts_with("__host-") || (!insecure && cookie.path == "/" && cookie.domain.is_none()));
        // The cookie is found when it is sent back.
        let sent = format!("{name}2=1; {name}={}", read.value());
        assert_eq!(find(&headers([sent.as_bytes()]), &name), [read.value().as_bytes()]);
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    match input.byte() % 2 {
        0 => raw(input),
        _ => written(input),
    }
});
