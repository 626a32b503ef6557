//! The browser module: `client.js` and the route that serves it.

use std::fmt::Write as _;
use std::sync::LazyLock;

use axum_core::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, StatusCode};
use sha2::{Digest as _, Sha256};

const MODULE: &str = include_str!("client.js");

/// One day. The URL has no version, so a browser may use the previous release's module for that long.
const CACHE: &str = "public, max-age=86400";

/// The entity tag, with its quotes (RFC 9110 §8.8.3): a hash of the content.
static TAG: LazyLock<String> = LazyLock::new(|| {
    let mut tag = String::from("\"");
    for byte in Sha256::digest(MODULE).iter().take(16) {
        let _ = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    tag
});

/// Serves the module, or 304 if the browser has it.
pub(super) async fn script(headers: HeaderMap) -> Response {
    let common: [(HeaderName, &str); 3] = [(ETAG, &TAG), (CACHE_CONTROL, CACHE), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    if matches(&headers, &TAG) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    (common, [(CONTENT_TYPE, "text/javascript; charset=utf-8")], MODULE).into_response()
}

/// Whether `If-None-Match` names the tag. The comparison is the weak one (RFC 9110 §13.1.2), because a cache that
/// compresses the module makes its tag weak.
fn matches(headers: &HeaderMap, tag: &str) -> bool {
    let lines = headers.get_all(IF_NONE_MATCH).into_iter().filter_map(|line| line.to_str().ok());
    let mut tags = lines.flat_map(|line| line.split(',')).map(str::trim);
    tags.any(|listed| listed == "*" || listed.strip_prefix("W/").unwrap_or(listed) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_matches_weak_or_strong_and_in_a_list() {
        let matched = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(IF_NONE_MATCH, http::HeaderValue::from_static(line));
            }
            matches(&headers, "\"a\"")
        };
        for lines in [&["\"a\""][..], &["W/\"a\""], &["\"b\", \"a\""], &["\"b\"", "\"a\""], &["*"]] {
            assert!(matched(lines), "{lines:?}");
        }
        for lines in [&[][..], &["\"b\""], &["a"], &["\"a"], &["W/a"], &["\"A\""]] {
            assert!(!matched(lines), "{lines:?}");
        }
    }
}
