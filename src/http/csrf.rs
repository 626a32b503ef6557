//! The origin check against cross-site request forgery, for one request: tower-http's rules for `Sec-Fetch-Site` and
//! `Origin`.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use axum_core::response::Response;
use http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN, UPGRADE};
use http::{HeaderMap, HeaderName, Method, Request};
use tower_http::csrf::CsrfLayer;
use tower_layer::Layer as _;
use tower_service::Service;

use super::bearer::bearer;
use super::cookie;
use super::head::Head;
use super::negotiate::{accepts, is_json};
use crate::config::ResolvedSettings;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a request is safe, or comes from this origin or a trusted one. For the routes of the app.
///
/// In an app without cookies of ours, no origin is needed for a request that browsers do not authenticate.
pub(super) fn is_same_origin(settings: &ResolvedSettings, head: &impl Head) -> bool {
    let sets_cookies = settings.transport.has_cookie() || settings.access_cookie.is_some();
    (!sets_cookies && !head.headers().contains_key(COOKIE) && is_for_scripts_only(head.headers()))
        || passes(settings, head)
}

/// [`is_same_origin`] for our own routes, in an app whose refresh tokens may travel in the body: only our own cookies count.
pub(super) fn is_same_origin_for_router(settings: &ResolvedSettings, head: &impl Head) -> bool {
    let headers = head.headers();
    let ours = [Some(&settings.refresh_cookie), settings.access_cookie.as_ref()];
    let has_cookie = ours.into_iter().flatten().any(|ours| cookie::has(headers, &ours.name));
    (settings.transport.has_body() && !has_cookie && is_for_scripts_only(headers)) || passes(settings, head)
}

/// Whether browsers let no page of another origin send this request unless the app allows it by CORS: it has a bearer token or
/// a JSON body, which forms cannot send, and so there is a preflight request before it. And no credentials that a browser adds
/// by itself, those of HTTP authentication (Basic, Digest, Negotiate).
fn is_for_scripts_only(headers: &HeaderMap) -> bool {
    let mut credentials = headers.get_all(AUTHORIZATION).iter().peekable();
    (credentials.peek().is_some() || is_json(headers)) && credentials.all(|value| bearer(value).is_some())
}

/// Whether a cookie may authenticate a request: it is safe, or comes from this origin or a trusted one.
///
/// An upgrade counts as unsafe whatever its method, because no preflight protects a WebSocket. So does an event stream,
/// because it keeps sending data.
pub(super) fn cookie_is_trusted(settings: &ResolvedSettings, head: &impl Head) -> bool {
    let opens_channel = head.headers().contains_key(UPGRADE) || accepts(head.headers(), "text/event-stream");
    if opens_channel { passes_as(settings, Method::POST, head) } else { passes(settings, head) }
}

fn passes(settings: &ResolvedSettings, head: &impl Head) -> bool {
    passes_as(settings, head.method().clone(), head)
}

fn passes_as(settings: &ResolvedSettings, method: Method, head: &impl Head) -> bool {
    let mut origins = head.headers().get_all(ORIGIN).iter();
    if let (Some(origin), None) = (origins.next(), origins.next())
        && settings.app_origins.iter().any(|trusted| trusted.as_bytes() == origin.as_bytes())
    {
        return true;
    }
    web_origin_passes(&settings.csrf, method, head)
}

/// Sends a copy of what the check looks at through tower-http's layer, unless it is one of the usual requests, for which the
/// copy would cost more than the rest.
fn web_origin_passes(csrf: &CsrfLayer, method: Method, head: &impl Head) -> bool {
    let is_safe = matches!(method, Method::GET | Method::HEAD | Method::OPTIONS);
    let passes = match head.headers().get(SEC_FETCH_SITE) {
        Some(site) => site == "same-origin",
        None => is_safe || !head.headers().contains_key(ORIGIN),
    };
    if passes {
        return true;
    }
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = head.uri().clone();
    for name in [HOST, ORIGIN, SEC_FETCH_SITE] {
        if let Some(value) = head.headers().get(&name) {
            request.headers_mut().insert(name, value.clone());
        }
    }
    let response = csrf.layer(Passed).call(request);
    // Neither the check nor the service behind it ever waits.
    match pin!(response).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(response)) => response.status().is_success(),
        Poll::Pending => false,
    }
}

/// The service behind the check.
#[derive(Clone)]
struct Passed;

impl Service<Request<()>> for Passed {
    type Response = Response;
    type Error = Infallible;
    type Future = Ready<Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        ready(Ok(Response::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn may(method: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().method(method).uri("/x").header("host", "app.example");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let settings = Settings { trusted_origins: vec!["https://friend.example".to_owned()], ..Settings::default() };
        let settings = ResolvedSettings::new(settings).unwrap();
        cookie_is_trusted(&settings, &request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn a_cookie_authenticates_unsafe_methods_only_from_here_or_from_a_trusted_origin() {
        for method in ["GET", "HEAD", "OPTIONS"] {
            assert!(may(method, &[("sec-fetch-site", "cross-site")]), "{method}");
        }
        for method in ["POST", "PUT", "PATCH", "DELETE", "CONNECT"] {
            assert!(!may(method, &[("sec-fetch-site", "cross-site")]), "{method}");
            assert!(!may(method, &[("sec-fetch-site", "same-site")]), "{method}");
            assert!(!may(method, &[("origin", "https://evil.example")]), "{method}");
            assert!(!may(method, &[("origin", "null")]), "{method}");
            assert!(may(method, &[("sec-fetch-site", "same-origin")]), "{method}");
            assert!(may(method, &[("origin", "https://app.example")]), "{method}");
            assert!(may(method, &[("sec-fetch-site", "cross-site"), ("origin", "https://friend.example")]));
            assert!(may(method, &[]), "{method}");
        }
    }

    #[test]
    fn a_cookie_authenticates_an_upgrade_only_from_here() {
        assert!(!may("GET", &[("upgrade", "websocket"), ("origin", "https://evil.example")]));
        assert!(!may("GET", &[("upgrade", "websocket"), ("sec-fetch-site", "cross-site")]));
        assert!(may("GET", &[("upgrade", "websocket"), ("origin", "https://app.example")]));
    }

    #[test]
    fn a_cookie_authenticates_a_stream_of_events_only_from_here() {
        let stream = ("accept", "text/event-stream");
        assert!(!may("GET", &[stream, ("sec-fetch-site", "same-site"), ("origin", "https://evil.example")]));
        assert!(!may("GET", &[stream, ("origin", "https://evil.example")]));
        assert!(may("GET", &[stream, ("sec-fetch-site", "same-origin")]));
        assert!(may("GET", &[stream, ("origin", "https://friend.example")]));
        // Older browsers send no Origin to their own.
        assert!(may("GET", &[stream]));
    }
}
