//! Cross-site request forgery: tower-http's check of `Sec-Fetch-Site` and `Origin`, as a layer and for one request.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use axum_core::response::Response;
use http::header::{HOST, ORIGIN, UPGRADE};
use http::request::Parts;
use http::{HeaderName, Method, Request};
use tower_http::csrf::{CsrfLayer, ProtectionError};
use tower_layer::Layer as _;
use tower_service::Service;

use super::gate::accepts;
use super::problem::cross_origin;
use crate::auth::Auth;
use crate::settings::Settings;

type Refusal = fn(ProtectionError) -> Response;

fn layer(settings: &Settings) -> CsrfLayer<Refusal> {
    let layer = settings.trusted_origins.iter().fold(CsrfLayer::new(), |layer, origin| {
        // Whatever it refuses has been refused when the settings were validated.
        layer.clone().add_trusted_origin(origin).unwrap_or(layer)
    });
    layer.with_rejection_response(cross_origin as Refusal)
}

impl<C> Auth<C> {
    /// Refuses unsafe requests (not GET, HEAD or OPTIONS) that another origin's page has caused, with 403
    /// `cross_origin`. The [router](Auth::router) has it built in; the app's own login wants it too, or a foreign page
    /// could log a visitor in as somebody else.
    ///
    /// This is [`tower_http::csrf::CsrfLayer`] with the [trusted origins](Settings::trusted_origins) of the settings:
    /// proxies have to leave `Host` and `Origin` as they are.
    pub fn csrf_layer(&self) -> CsrfLayer<fn(ProtectionError) -> Response> {
        layer(self.settings())
    }
}

/// Whether a request that a cookie authenticates may do what it asks for: it is safe, or it comes from here.
///
/// An upgrade counts as unsafe whatever its method, because no preflight protects a WebSocket; and so does the request
/// of an `EventSource`, because what it opens goes on telling.
pub(crate) fn may_use_cookie(settings: &Settings, parts: &Parts) -> bool {
    let opens_channel = parts.headers.contains_key(UPGRADE) || accepts(&parts.headers, "text/event-stream");
    let method = if opens_channel { Method::POST } else { parts.method.clone() };
    let mut question = Request::new(());
    *question.method_mut() = method;
    *question.uri_mut() = parts.uri.clone();
    for name in [HOST, ORIGIN, HeaderName::from_static("sec-fetch-site")] {
        if let Some(value) = parts.headers.get(&name) {
            question.headers_mut().insert(name, value.clone());
        }
    }
    let answer = layer(settings).layer(Yes).call(question);
    // Neither the check nor what stands behind it ever waits.
    match pin!(answer).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(response)) => response.status().is_success(),
        Poll::Pending => false,
    }
}

/// Stands behind the check.
#[derive(Clone)]
struct Yes;

impl Service<Request<()>> for Yes {
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

    fn may(method: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().method(method).uri("/x").header("host", "app.example");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let settings = Settings { trusted_origins: vec!["https://friend.example".to_owned()], ..Settings::default() };
        may_use_cookie(&settings, &request.body(()).unwrap().into_parts().0)
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
