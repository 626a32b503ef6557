//! The browser half: the ES module `client.js`, and the route that hands it out.

use std::fmt::Write as _;
use std::sync::LazyLock;

use axum_core::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, StatusCode};
use sha2::{Digest as _, Sha256};

const MODULE: &str = include_str!("client.js");

/// Its address has no version in it, so a day is how long a browser may go on with the module of the last release.
const CACHE: &str = "public, max-age=86400";

/// A name for the content, in the quotes that belong to it (RFC 9110 §8.8.3).
static TAG: LazyLock<String> = LazyLock::new(|| {
    let mut tag = String::from("\"");
    for byte in Sha256::digest(MODULE).iter().take(16) {
        let _ = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    tag
});

/// The module, or 304 for a browser that has it.
pub(super) async fn script(headers: HeaderMap) -> Response {
    let known: [(HeaderName, &str); 3] = [(ETAG, &TAG), (CACHE_CONTROL, CACHE), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    if is_known(&headers, &TAG) {
        return (StatusCode::NOT_MODIFIED, known).into_response();
    }
    (known, [(CONTENT_TYPE, "text/javascript; charset=utf-8")], MODULE).into_response()
}

/// RFC 9110 §13.1.2, with the weak comparison: caches that compress make our tag a weak one.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let lines = headers.get_all(IF_NONE_MATCH).into_iter().filter_map(|line| line.to_str().ok());
    let mut tags = lines.flat_map(|line| line.split(',')).map(str::trim);
    tags.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_known_weak_or_strong_and_in_a_list() {
        let known = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(IF_NONE_MATCH, http::HeaderValue::from_static(line));
            }
            is_known(&headers, "\"a\"")
        };
        for lines in [&["\"a\""][..], &["W/\"a\""], &["\"b\", \"a\""], &["\"b\"", "\"a\""], &["*"]] {
            assert!(known(lines), "{lines:?}");
        }
        for lines in [&[][..], &["\"b\""], &["a"], &["\"a"], &["W/a"], &["\"A\""]] {
            assert!(!known(lines), "{lines:?}");
        }
    }
}
