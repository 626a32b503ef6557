//! The layer that shows refusals in the app's own form.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, SET_COOKIE,
    TRANSFER_ENCODING, VARY,
};
use http::request::Parts;
use http::{HeaderName, Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::auth::Auth;
use crate::http::problem::Problem;

/// The headers that describe a body, and so go with it.
const OF_THE_BODY: [HeaderName; 8] = [
    ACCEPT_RANGES,
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    ETAG,
    TRANSFER_ENCODING,
];

/// Marks a response that has the app's form already, from a layer further inside.
#[derive(Clone, Copy)]
struct Shown;

/// Shows refusals in the app's own form. Made by [`Auth::refusals`].
pub struct RefusalsLayer<F> {
    show: Arc<F>,
}

/// The service of [`RefusalsLayer`].
pub struct RefusalsService<S, F> {
    inner: S,
    show: Arc<F>,
}

// Not derived: that would ask the closure to be `Clone`.
impl<F> Clone for RefusalsLayer<F> {
    fn clone(&self) -> Self {
        Self { show: Arc::clone(&self.show) }
    }
}

impl<S: Clone, F> Clone for RefusalsService<S, F> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), show: Arc::clone(&self.show) }
    }
}

impl<F> fmt::Debug for RefusalsLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefusalsLayer").finish_non_exhaustive()
    }
}

impl<S, F> fmt::Debug for RefusalsService<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefusalsService").finish_non_exhaustive()
    }
}

impl<S, F> Layer<S> for RefusalsLayer<F> {
    type Service = RefusalsService<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        RefusalsService { inner, show: Arc::clone(&self.show) }
    }
}

impl<S, F, B, R> Service<Request<B>> for RefusalsService<S, F>
where
    S: Service<Request<B>, Response = Response<R>>,
    F: Fn(&Problem, &Parts) -> Option<Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = RefusalsFuture<S::Future, F>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        // Without the extensions: they are for the services inside.
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = parts.method.clone();
        head.uri = parts.uri.clone();
        head.version = parts.version;
        head.headers = parts.headers.clone();
        let future = self.inner.call(Request::from_parts(parts, body));
        RefusalsFuture { future, head, show: Arc::clone(&self.show) }
    }
}

pin_project! {
    /// The response future of [`RefusalsService`].
    pub struct RefusalsFuture<T, F> {
        #[pin]
        future: T,
        head: Parts,
        show: Arc<F>,
    }
}

impl<T, F> fmt::Debug for RefusalsFuture<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefusalsFuture").finish_non_exhaustive()
    }
}

impl<T, F, R, E> Future for RefusalsFuture<T, F>
where
    T: Future<Output = Result<Response<R>, E>>,
    F: Fn(&Problem, &Parts) -> Option<Response<R>>,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.future.poll(cx))?;
        let Some(problem) = response.extensions().get::<Problem>() else { return Poll::Ready(Ok(response)) };
        if response.extensions().get::<Shown>().is_some() {
            return Poll::Ready(Ok(response));
        }
        // A redirect to the login page and a gRPC status carry the problem too, and have a form of their own.
        if problem.status() != response.status() {
            return Poll::Ready(Ok(response));
        }
        let Some(shown) = (this.show)(problem, this.head) else { return Poll::Ready(Ok(response)) };
        let (mut parts, _) = response.into_parts();
        let (new, body) = shown.into_parts();
        for name in OF_THE_BODY {
            parts.headers.remove(name);
        }
        for (name, value) in &new.headers {
            if [SET_COOKIE, VARY].contains(name) {
                parts.headers.append(name, value.clone());
            } else {
                parts.headers.insert(name, value.clone());
            }
        }
        parts.extensions.extend(new.extensions);
        parts.extensions.insert(Shown);
        Poll::Ready(Ok(Response::from_parts(parts, body)))
    }
}

/// # Layers
#[cfg(feature = "verifier")]
impl<C> crate::auth::Verifier<C> {
    /// The layer that shows refusals in the app's own form: see [`Auth::refusals`].
    pub fn refusals<F>(&self, show: F) -> RefusalsLayer<F> {
        RefusalsLayer { show: Arc::new(show) }
    }
}

/// # Layers
impl<C> Auth<C> {
    /// The layer that shows refusals in the app's own form: those of this crate, of all layers, extractors and routers inside,
    /// and [problems](Problem::new) of the app's own.
    ///
    /// `show` gets the problem and the head of the request, without extensions. It returns a response, or `None` to leave the
    /// refusal as it is, which is `application/problem+json` (RFC 9457). Its body and headers are taken over. The status of
    /// the refusal stays, and so do its other headers, such as `WWW-Authenticate`, `Retry-After`, `Cache-Control` and
    /// cookies. Of two of these layers, the inner one counts.
    ///
    /// Redirects to the [login page](crate::Settings::login_page) and gRPC statuses stay as they are.
    ///
    /// It has to be the outermost of the app's layers, or it does not see the refusals of the layers around it. The
    /// [browser module](crate::guide::http#the-browser-module) needs problem details with the member `code` from `/auth` and
    /// from the routes that it calls, so leave those that do not accept a page as they are.
    ///
    /// ```
    /// use axum::Router;
    /// use axum::http::header::ACCEPT;
    /// use axum::http::request::Parts;
    /// use axum::response::{Html, IntoResponse, Response};
    /// use axum_refresh::Auth;
    /// use axum_refresh::rejection::Problem;
    ///
    /// fn error_page(problem: &Problem, request: &Parts) -> Option<Response> {
    ///     let accept = request.headers.get(ACCEPT)?.to_str().ok()?;
    ///     let page = || Html(format!("<h1>{}</h1>", problem.status())).into_response();
    ///     accept.contains("text/html").then(page)
    /// }
    ///
    /// fn app(auth: &Auth, routes: Router) -> Router {
    ///     routes.layer(auth.refusals(error_page)) // last, so that it is around everything
    /// }
    /// ```
    pub fn refusals<F>(&self, show: F) -> RefusalsLayer<F> {
        RefusalsLayer { show: Arc::new(show) }
    }
}
