//! What the layers have in common: a look at the request that seldom has to wait, and what they remember of it.

#![expect(clippy::result_large_err, reason = "a refusal is a response, as everywhere in axum")]

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::extract::OriginalUri;
use axum_core::response::{IntoResponse, Response};
use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, LOCATION, VARY};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::cookie;
use super::origin::may_use_cookie;
use super::problem::Problem;
use crate::auth::{Auth, Claims, Verified};
use crate::error::Error;
use crate::node::Node;
use crate::session::Timestamp;
use crate::settings::Settings;
use crate::store::StoreError;

/// What a gate says of a request.
pub(crate) enum Step {
    Pass,
    Refuse(Response),
    /// It has to ask the store.
    Wait,
}

/// Stands before a service and lets requests in or not.
pub(crate) trait Gate: Clone + Send + Sync + 'static {
    /// What the client is owed with its answer, once it had to wait.
    type Due: Send + 'static;

    /// Decides at once, if what this node knows is enough.
    fn glance(&self, parts: &mut Parts) -> Step;

    /// Decides, whatever it takes.
    fn wait<'a>(&'a self, parts: &'a mut Parts) -> impl Future<Output = Result<Self::Due, Response>> + Send + 'a;

    /// Puts what is owed into the answer.
    fn settle(&self, due: Self::Due, response: &mut Response) {
        let _ = (due, response);
    }
}

/// A service behind a gate.
#[derive(Clone, Debug)]
pub struct Gated<S, G> {
    inner: S,
    gate: G,
}

impl<S, G> Gated<S, G> {
    pub(crate) const fn new(inner: S, gate: G) -> Self {
        Self { inner, gate }
    }
}

impl<S, G, B> Service<Request<B>> for Gated<S, G>
where
    S: Service<Request<B>, Response = Response> + Clone + Send + 'static,
    S::Future: Send,
    G: Gate,
    B: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = GatedFuture<S::Future, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let kind = match self.gate.glance(&mut parts) {
            Step::Pass => Kind::Inner { future: self.inner.call(Request::from_parts(parts, body)) },
            Step::Refuse(response) => Kind::Refused { response: Some(response) },
            Step::Wait => {
                // The service that was ready is the one to call; a fresh clone takes its place.
                let clone = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, clone);
                let gate = self.gate.clone();
                let future = Box::pin(async move {
                    let due = match gate.wait(&mut parts).await {
                        Ok(due) => due,
                        Err(refusal) => return Ok(refusal),
                    };
                    let mut response = inner.call(Request::from_parts(parts, body)).await?;
                    gate.settle(due, &mut response);
                    Ok(response)
                });
                Kind::Waiting { future }
            }
        };
        GatedFuture { kind }
    }
}

pin_project! {
    /// The answer of a service behind a gate.
    pub struct GatedFuture<F, E> {
        #[pin]
        kind: Kind<F, E>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<F, E> {
        Inner { #[pin] future: F },
        Refused { response: Option<Response> },
        Waiting { future: Pin<Box<dyn Future<Output = Result<Response, E>> + Send>> },
    }
}

impl<F, E> fmt::Debug for GatedFuture<F, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatedFuture").finish_non_exhaustive()
    }
}

impl<F, E> Future for GatedFuture<F, E>
where
    F: Future<Output = Result<Response, E>>,
{
    type Output = Result<Response, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProjection::Inner { future } => future.poll(cx),
            // Polled again after it was ready, it stays silent, as a future may.
            KindProjection::Refused { response } => response.take().map_or(Poll::Pending, |it| Poll::Ready(Ok(it))),
            KindProjection::Waiting { future } => Poll::Ready(ready!(future.as_mut().poll(cx))),
        }
    }
}

/// What a layer found out about a request, kept in its extensions: the other layers and the extractors go by it.
pub(crate) struct Remembered<C> {
    /// Of which [`Auth`], should there be two in one app.
    pub(crate) node: Arc<Node>,
    /// None: anonymous, and that was allowed.
    pub(crate) token: Option<Arc<Verified<C>>>,
}

impl<C> Clone for Remembered<C> {
    fn clone(&self) -> Self {
        Self { node: Arc::clone(&self.node), token: self.token.clone() }
    }
}

/// Who is behind a request.
pub(crate) enum Identity<C> {
    Known(Arc<Verified<C>>),
    /// Nobody, and that is allowed.
    Anonymous,
    /// Somebody whose token may have been revoked: too long has nothing been heard from the store.
    Unclear,
}

/// Finds out who is behind a request: as another layer has found before, or by the token it brings.
pub(crate) fn identify<C: Claims>(auth: &Auth<C>, optional: bool, parts: &mut Parts) -> Result<Identity<C>, Response> {
    if let Some(token) = remembered(auth, parts) {
        return Ok(Identity::Known(token));
    }
    let refuse = |problem: Problem| Err(refusal(auth.settings(), parts, problem));
    match find(auth, parts) {
        Ok(token) => {
            remember(auth, parts, Some(Arc::clone(&token)));
            Ok(Identity::Known(token))
        }
        Err(Unread::Unclear) => Ok(Identity::Unclear),
        // An old cookie is sent along with everything; that is no reason to keep anybody from a public page.
        Err(Unread::Nothing | Unread::Cookie(_)) if optional => {
            remember(auth, parts, None);
            Ok(Identity::Anonymous)
        }
        Err(Unread::Nothing) => refuse(Problem::from(&Error::AccessTokenMissing)),
        Err(Unread::Cookie(error) | Unread::Header(error)) => refuse(Problem::from(&error).of_presented_token()),
        Err(Unread::CrossOrigin) => refuse(Problem::cross_origin()),
    }
}

/// [`identify`], after the store was asked what was revoked.
pub(crate) async fn identify_clearly<C: Claims>(
    auth: &Auth<C>,
    optional: bool,
    parts: &mut Parts,
) -> Result<Option<Arc<Verified<C>>>, Response> {
    if let Err(error) = auth.catch_up_if_stale().await {
        return Err(refusal(auth.settings(), parts, Problem::from(&error)));
    }
    match identify(auth, optional, parts)? {
        Identity::Known(token) => Ok(Some(token)),
        Identity::Anonymous => Ok(None),
        // The clock jumps about.
        Identity::Unclear => {
            let error = Error::Store(StoreError::new("what was revoked is not known"));
            Err(refusal(auth.settings(), parts, Problem::from(&error)))
        }
    }
}

pub(super) fn remember<C: Claims>(auth: &Auth<C>, parts: &mut Parts, token: Option<Arc<Verified<C>>>) {
    parts.extensions.insert(Remembered { node: Arc::clone(&auth.inner.node), token });
}

/// Whom another layer of the same [`Auth`] has found. That it has found nobody, and was content with that, is not for
/// the next one to go by.
pub(super) fn remembered<C: Claims>(auth: &Auth<C>, parts: &Parts) -> Option<Arc<Verified<C>>> {
    let known = parts.extensions.get::<Remembered<C>>()?;
    known.token.clone().filter(|_| Arc::ptr_eq(&known.node, &auth.inner.node))
}

/// Why a request says nothing of who is behind it.
pub(super) enum Unread {
    Nothing,
    Header(Error),
    Cookie(Error),
    CrossOrigin,
    /// The token is good, but may have been revoked.
    Unclear,
}

/// The token that a request brings, if it may be used by all that this node knows; its use is remembered.
pub(super) fn find<C: Claims>(auth: &Auth<C>, parts: &Parts) -> Result<Arc<Verified<C>>, Unread> {
    let now = auth.now();
    let (token, came_by) = read(auth, parts, now)?;
    if !auth.is_current(now) {
        return Err(Unread::Unclear);
    }
    auth.admit(&token, now).map_err(came_by)?;
    Ok(token)
}

/// A token that we signed, and how it came.
type Found<C> = (Arc<Verified<C>>, fn(Error) -> Unread);

/// The header counts first. A token that came by cookie was perhaps sent by another origin's page.
fn read<C: Claims>(auth: &Auth<C>, parts: &Parts, now: Timestamp) -> Result<Found<C>, Unread> {
    if let Some(token) = parts.headers.get(AUTHORIZATION).and_then(bearer) {
        let text = std::str::from_utf8(token).map_err(|_| Unread::Header(Error::AccessTokenInvalid))?;
        return auth.verify(text, now).map(|token| (token, Unread::Header as _)).map_err(Unread::Header);
    }
    let settings = auth.settings();
    let cookie = settings.access_cookie.as_ref().ok_or(Unread::Nothing)?;
    let name = cookie.full_name(settings.insecure_dev_cookies);
    let mut result = Err(Unread::Nothing);
    for value in cookie::values(&parts.headers, &name) {
        if !may_use_cookie(settings, parts) {
            return Err(Unread::CrossOrigin);
        }
        let text = std::str::from_utf8(value).unwrap_or_default();
        match auth.verify(text, now) {
            Ok(token) => return Ok((token, Unread::Cookie)),
            Err(error) if matches!(result, Err(Unread::Nothing)) => result = Err(Unread::Cookie(error)),
            Err(_) => {}
        }
    }
    result
}

/// The credentials of `Authorization: Bearer` (RFC 6750 §2.1); the scheme's case does not matter (RFC 9110 §11.1).
pub(crate) fn bearer(header: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = header.as_bytes().split_at_checked(6)?;
    let token = token.strip_prefix(b" ")?;
    scheme.eq_ignore_ascii_case(b"bearer").then(|| token.trim_ascii())
}

/// A refusal, or the way to the login page for somebody who sits before a browser.
pub(crate) fn refusal(settings: &Settings, parts: &Parts, problem: Problem) -> Response {
    let page = settings.login_page.as_deref().filter(|_| {
        problem.is_unauthorized() && matches!(parts.method, Method::GET | Method::HEAD) && wants_html(&parts.headers)
    });
    let Some(page) = page else { return problem.into_response() };
    let uri = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |original| &original.0);
    let Ok(location) = HeaderValue::try_from(format!("{page}?next={}", local_path(uri.path()))) else {
        return problem.into_response();
    };
    let mut response = StatusCode::SEE_OTHER.into_response();
    response.headers_mut().insert(LOCATION, location);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    response
}

/// Whether somebody sits before a browser and waits for a page.
pub(crate) fn wants_html(headers: &HeaderMap) -> bool {
    accepts(headers, "text/html")
}

/// Whether this media type is asked for by its name.
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

/// A path that leads nowhere but here, as a query value: `//evil.example` names another host.
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
    use super::*;

    #[test]
    fn a_bearer_token_is_read_whatever_the_case_of_its_scheme() {
        let read = |header: &'static str| bearer(&HeaderValue::from_static(header)).map(|token| token.to_vec());
        for header in ["Bearer x.y", "bearer x.y", "BEARER  x.y "] {
            assert_eq!(read(header).as_deref(), Some(b"x.y".as_slice()), "{header}");
        }
        for header in ["", "Bearer", "Basic x.y", "Bearerx.y", "x.y"] {
            assert_eq!(read(header), None, "{header}");
        }
        assert_eq!(read("Bearer ").as_deref(), Some(b"".as_slice()));
    }

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
