//! What a client sends and accepts, and the login page for those who accept a page.

use axum::extract::OriginalUri;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Uri};

use super::head::Head;
use crate::config::{Notice, ResolvedSettings};

/// A longer `?next=` is left out: the `Location` header would not fit into the buffers of some proxies.
const MAX_NEXT_BYTES: usize = 2_000;

/// How a client gets to the login page.
#[derive(Clone)]
pub(super) enum LoginPage {
    /// A browser is redirected to it.
    Redirect(HeaderValue),
    /// htmx is told to load it as a new page.
    Htmx(HeaderValue),
}

/// The way to the app's login page, or to the one where a user authenticates `again`, if the app has it and the request was
/// made for a page.
pub(super) fn login_page(settings: &ResolvedSettings, head: &impl Head, again: bool) -> Option<LoginPage> {
    let page = if again { &settings.step_up_page } else { &settings.login_page };
    let page = page.as_ref()?.to_str().ok()?;
    let header = |name| head.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let is_set = |name| header(name) == Some("true");
    let is_read = matches!(*head.method(), Method::GET | Method::HEAD);
    // htmx asks for a whole page if it has lost one of its history. It does not follow `HX-Redirect` then.
    let is_htmx = is_set("hx-request") && !is_set("hx-history-restore-request");
    // A form that a logged-in user has submitted leads back to the page with the form.
    if !is_htmx && !((is_read || again) && (is_set("hx-request") || wants_html(head.headers()))) {
        return None;
    }
    let uri = original_uri(head);
    if is_login_page(uri, page) {
        if again && settings.notices.is_first(Notice::StepUpPageRefused) {
            tracing::error!(
                target: "axum_refresh",
                page,
                "the page where users authenticate again requires that they did, so they cannot; move its route outside of \
                 Auth::require"
            );
        }
        if !again && settings.notices.is_first(Notice::LoginPageRefused) {
            tracing::error!(
                target: "axum_refresh",
                page,
                "the login page itself refuses visitors who are not logged in, so they cannot log in; \
                 move its route outside the layer, or use `.optional()`"
            );
        }
        return None;
    }
    if !is_htmx {
        let form = || header("referer").and_then(|url| url.parse::<Uri>().ok());
        let form = if is_read { None } else { form() };
        let next = if is_read { Some(uri) } else { form.as_ref() };
        return location(page, next.and_then(Uri::path_and_query)).map(LoginPage::Redirect);
    }
    // A part of a page is of no use by itself: the user goes on with the page around it, or with the one that a boosted link
    // leads to.
    let current = header("hx-current-url").and_then(|url| url.parse::<Uri>().ok());
    let is_link = is_read && is_set("hx-boosted");
    let next = if is_link { uri.path_and_query() } else { current.as_ref().and_then(Uri::path_and_query) };
    location(page, next).map(LoginPage::Htmx)
}

/// Whether this is the login page. A proxy may have added or removed a prefix of the path; then the `next` of a redirect tells.
fn is_login_page(uri: &Uri, page: &str) -> bool {
    let path = uri.path();
    let (long, short) = if path.len() > page.len() { (path, page) } else { (page, path) };
    let was_redirected = || uri.query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("next=")));
    path == page || (short != "/" && long.ends_with(short) && was_redirected())
}

/// The URI as the server received it, whatever router the request is in.
pub(super) fn original_uri(head: &impl Head) -> &Uri {
    head.extensions().get::<OriginalUri>().map_or(head.uri(), |original| &original.0)
}

fn location(page: &str, next: Option<&PathAndQuery>) -> Option<HeaderValue> {
    let next = next.map(|next| local_path(next.as_str())).filter(|next| next.len() <= MAX_NEXT_BYTES);
    let location = match next {
        Some(next) => format!("{page}?next={next}"),
        None => page.to_owned(),
    };
    HeaderValue::try_from(location).ok()
}

/// Returns `next` if it is a path of this site, with or without a query: for the login handler, which redirects to where the
/// user wanted to go.
///
/// The [login page](crate::Settings::login_page) gets the path as `?next=`. Anybody can write a link to the login page with
/// another value, so a handler that redirected to it unchecked would send users wherever the writer likes after a login that
/// they trust (an open redirect). None for an absolute URL, for `//host`, and for what browsers take for one of these
/// (backslashes, control characters).
///
/// ```
/// use axum_refresh::rejection::local_next;
///
/// assert_eq!(local_next("/notes?page=2"), Some("/notes?page=2"));
/// assert_eq!(local_next("https://evil.example/"), None);
/// assert_eq!(local_next("//evil.example"), None);
/// assert_eq!(local_next("/\\evil.example"), None);
/// ```
pub fn local_next(next: &str) -> Option<&str> {
    let is_local = next.starts_with('/') && !next.starts_with("//");
    // Browsers remove tabs and line breaks from a URL, and read a backslash as a slash.
    let is_plain = next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    (is_local && is_plain).then_some(next)
}

/// Whether the client is a browser that asks for a page.
pub(crate) fn wants_html(headers: &HeaderMap) -> bool {
    accepts(headers, "text/html")
}

/// Whether the request has a JSON body, as far as its headers tell.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    has_type(headers, "application/json")
}

/// Whether the body is of this media type, with whatever parameters.
pub(super) fn has_type(headers: &HeaderMap, media_type: &str) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(media_type)
}

/// Whether the client names this media type among those it accepts.
pub(super) fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let lines = headers.get_all(ACCEPT).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|range| {
        let mut pieces = range.split(';').map(str::trim);
        let is_named = pieces.next().is_some_and(|kind| kind.eq_ignore_ascii_case(media_type));
        let is_refused = pieces.any(|piece| {
            // Names of parameters have no case (RFC 9110 §5.6.6).
            let weight = piece.strip_prefix(['q', 'Q']).and_then(|rest| rest.strip_prefix('='));
            weight.and_then(|weight| weight.parse::<f32>().ok()).is_some_and(|weight| weight <= 0.0)
        });
        is_named && !is_refused
    })
}

/// A path on this host, with its query, as the value of a query parameter. `//evil.example` would name another host.
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
        for accept in ["", "*/*", "application/json", "text/html;q=0", "text/html; Q=0.000", "text/htmlx"] {
            assert!(!wants(accept), "{accept}");
        }
    }

    #[test]
    fn only_a_path_of_this_site_is_a_next_page() {
        for next in ["/", "/notes", "/notes?page=2&q=%2F%2Fx#top", "/a/../b", "/.//x", "/@evil.example", "/x//y"] {
            assert_eq!(local_next(next), Some(next));
        }
        let foreign = ["", "notes", "https://evil.example", "javascript:alert(1)", "//evil.example", "///evil.example"];
        let disguised =
            ["/\\evil.example", "\\\\evil.example", "/\t/evil.example", "/\n/evil.example", " /x", "/x y", "/é", "/\0"];
        for next in foreign.into_iter().chain(disguised) {
            assert_eq!(local_next(next), None, "{next:?}");
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
