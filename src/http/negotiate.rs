//! What a client accepts, and the redirect to the login page for those who accept a page.

use axum::extract::OriginalUri;
use http::header::ACCEPT;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};

use crate::config::ResolvedSettings;

/// Where a refused request is redirected: to the app's login page, if the request asks for a page.
pub(super) fn login_redirect(settings: &ResolvedSettings, parts: &Parts) -> Option<HeaderValue> {
    let page = settings.login_page.as_ref()?.to_str().ok()?;
    if !matches!(parts.method, Method::GET | Method::HEAD) || !wants_html(&parts.headers) {
        return None;
    }
    let uri = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |original| &original.0);
    HeaderValue::try_from(format!("{page}?next={}", local_path(uri.path()))).ok()
}

/// Whether the client is a browser that asks for a page.
pub(crate) fn wants_html(headers: &HeaderMap) -> bool {
    accepts(headers, "text/html")
}

/// Whether the client names this media type among those it accepts.
pub(super) fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let lines = headers.get_all(ACCEPT).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|range| {
        let mut pieces = range.split(';').map(str::trim);
        let is_named = pieces.next().is_some_and(|kind| kind.eq_ignore_ascii_case(media_type));
        let is_refused = pieces.any(|piece| {
            piece.strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok()).is_some_and(|weight| weight <= 0.0)
        });
        is_named && !is_refused
    })
}

/// A path on this host, as the value of a query parameter. `//evil.example` would name another host.
pub(crate) fn local_path(path: &str) -> String {
    let bare = path.trim_start_matches(['/', '\\']);
    let mut encoded = String::from("/");
    for byte in bare.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(byte.into());
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn a_browser_is_known_by_what_it_accepts() {
        let wants = |accept: &str| {
            let request = Request::builder().header("accept", accept).body(()).unwrap();
            wants_html(request.headers())
        };
        for accept in ["text/html", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", "a/b, Text/HTML;q=0.5"] {
            assert!(wants(accept), "{accept}");
        }
        for accept in ["", "*/*", "application/json", "text/html;q=0", "text/htmlx"] {
            assert!(!wants(accept), "{accept}");
        }
    }

    #[test]
    fn the_next_page_is_always_a_local_one() {
        assert_eq!(local_path("/orders/7"), "/orders/7");
        assert_eq!(local_path("//evil.example/x"), "/evil.example/x");
        assert_eq!(local_path("/\\evil.example"), "/evil.example");
        assert_eq!(local_path("/a&b=c?d#e f\"<é"), "/a%26b%3Dc%3Fd%23e%20f%22%3C%C3%A9");
        assert_eq!(local_path(""), "/");
    }
}
