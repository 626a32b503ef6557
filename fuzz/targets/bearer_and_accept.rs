//! `Authorization`, `Accept`, and the path that becomes `?next=`.
//!
//! The input is a line for the header, a line for the path, and lines of `Accept`.
#![no_main]

use axum_refresh::fuzz::{bearer, local_path, wants_html};
use axum_refresh_fuzz::{Input, bounded};
use http::header::ACCEPT;
use http::{HeaderValue, Request};
use libfuzzer_sys::fuzz_target;
use url::Url;

fn authorization(line: &[u8]) {
    let Ok(header) = HeaderValue::from_bytes(line) else { return };
    let token = bounded(0, || bearer(&header));
    let scheme = line.iter().position(|byte| *byte == b' ').map(|space| &line[..space]);
    assert_eq!(token.is_some(), scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"Bearer")));
    if let Some(token) = token {
        assert!(line.ends_with(token) || line.trim_ascii_end().ends_with(token));
        assert_eq!(token, token.trim_ascii());
        // Only white space was removed.
        let visible = |text: &[u8]| text.iter().filter(|byte| !byte.is_ascii_whitespace()).count();
        assert_eq!(visible(token) + 6, visible(line));
    }
    // Any line that is used as a token is read back unchanged.
    let header = HeaderValue::from_bytes(&[b"bEARER ", line].concat()).unwrap();
    assert_eq!(bearer(&header), Some(line.trim_ascii()));
}

fn next_page(path: &str) {
    let next = bounded(12 * path.len() + 128, || local_path(path));
    assert!(next.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~/%".contains(&byte)), "{next}");
    assert!(next.starts_with('/') && !next.starts_with("//"), "{next}");
    // The login page's reading of its query.
    let query = format!("next={next}");
    let (_, decoded) = url::form_urlencoded::parse(query.as_bytes()).next().unwrap();
    assert_eq!(decoded, format!("/{}", path.trim_start_matches(['/', '\\'])));
    let here = Url::parse("https://app.example/login").unwrap();
    assert_eq!(here.join(&next).unwrap().origin(), here.origin(), "{next}");
    // The path of a request does not lead to another origin either if it is written into `Location` unchanged.
    if path.parse::<http::Uri>().is_ok_and(|uri| uri.path() == path) {
        assert_eq!(here.join(&decoded).unwrap().origin(), here.origin(), "{decoded}");
    }
}

fn accept<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> bool {
    let mut request = Request::new(());
    for value in lines.into_iter().filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        request.headers_mut().append(ACCEPT, value);
    }
    let parts = request.into_parts().0;
    bounded(0, || wants_html(&parts))
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    authorization(input.line());
    next_page(&String::from_utf8_lossy(input.line()));

    let lines: Vec<_> = input.rest().split(|byte| *byte == b'\n').take(64).collect();
    let is_html = accept(lines.iter().copied());
    assert_eq!(accept(lines.iter().rev().copied()), is_html);
    assert!(accept(lines.iter().copied().chain([b"*/*, Text/HTML;q=0.1".as_slice()])));
    if is_html {
        let named = |line: &&[u8]| line.to_ascii_lowercase().windows(9).any(|part| part == b"text/html");
        assert!(lines.iter().any(named));
        assert!(lines.iter().any(|line| accept([*line])));
    }
});
