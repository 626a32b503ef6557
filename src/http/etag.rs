//! Entity tags of responses that clients may keep (RFC 9110 §8.8.3).

use std::fmt::Write as _;

use http::HeaderMap;
use http::header::IF_NONE_MATCH;
use sha2::{Digest as _, Sha256};

/// The strong entity tag of a body, with its quotes: a hash of it.
pub(super) fn of(body: impl AsRef<[u8]>) -> String {
    let mut tag = String::from("\"");
    for byte in Sha256::digest(body).iter().take(16) {
        let _ = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    tag
}

/// Whether `If-None-Match` names the tag. The comparison is the weak one (RFC 9110 §13.1.2), because a cache that
/// compresses the body makes its tag weak.
pub(super) fn matches(headers: &HeaderMap, tag: &str) -> bool {
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

    #[test]
    fn another_body_has_another_tag() {
        assert_eq!(of("a"), of("a"));
        assert_ne!(of("a"), of("b"));
        assert_eq!(of("a").len(), 34);
    }
}
