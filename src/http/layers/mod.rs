//! What the layers have in common: a check that seldom has to wait, as a tower service.

mod auth;
mod csrf;
mod guard;
mod mount;
mod pages;
mod passive;
mod refusals;
mod require;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

pub use self::auth::AuthLayer;
pub use self::csrf::CsrfLayer;
pub use self::guard::GuardLayer;
pub(super) use self::mount::MountLayer;
#[cfg(feature = "openapi")]
pub(super) use self::mount::public_path;
pub use self::pages::PagesLayer;
pub use self::passive::PassiveLayer;
pub use self::refusals::{RefusalsFuture, RefusalsLayer, RefusalsService};
pub use self::require::RequireLayer;
use super::head::Head;
use super::problem::count_refusal;
use crate::auth::Decision;
use crate::metrics::Meter;

/// The service of [`AuthLayer`].
pub type AuthService<S, C> = CheckService<S, AuthLayer<C>>;
/// The service of [`CsrfLayer`].
pub type CsrfService<S> = CheckService<S, CsrfLayer>;
/// The service of [`GuardLayer`].
pub type GuardService<S, C> = CheckService<S, GuardLayer<C>>;
/// The service of [`PagesLayer`].
pub type PagesService<S, C> = CheckService<S, PagesLayer<C>>;
/// The service of [`PassiveLayer`].
pub type PassiveService<S, C> = CheckService<S, PassiveLayer<C>>;
/// The service of [`RequireLayer`].
pub type RequireService<S, C> = CheckService<S, RequireLayer<C>>;

/// The response to a request that does not reach the inner service. Its body becomes one of the inner service's type.
pub(super) type Refusal = Response<Bytes>;

/// A check of every request before the inner service.
pub(super) trait Check: Clone + Send + Sync + 'static {
    /// What the first step has found, for the second.
    type Found: Send + 'static;
    /// What the second step adds to the response.
    type Addition: Send + 'static;

    /// Counts refusals: this check's own, and those of the inner service.
    fn meter(&self) -> Meter;

    /// Decides from what this node knows.
    fn check(&self, head: &mut impl Head) -> Decision<(), Self::Found, Refusal>;

    /// Decides with the store.
    fn check_in_store<'a>(
        &'a self,
        parts: &'a mut Parts,
        found: Self::Found,
    ) -> impl Future<Output = Result<Self::Addition, Refusal>> + Send + 'a;

    /// Completes the headers of the response to a request that [`check_in_store`](Self::check_in_store) has let through.
    fn complete<'a>(
        &'a self,
        addition: Self::Addition,
        headers: &'a mut HeaderMap,
    ) -> impl Future<Output = ()> + Send + 'a {
        let _ = (addition, headers);
        std::future::ready(())
    }
}

/// A service that checks every request before the inner service gets it.
///
/// The inner service may be any HTTP service that can be cloned, of axum or not: one that takes `http::Request<B>` with any
/// body and returns `http::Response<R>` with a body that can be made from [`Bytes`](bytes::Bytes).
#[derive(Clone, Debug)]
pub struct CheckService<S, K> {
    inner: S,
    check: K,
}

impl<S, K> CheckService<S, K> {
    const fn new(inner: S, check: K) -> Self {
        Self { inner, check }
    }
}

impl<S, K, B, R> Service<Request<B>> for CheckService<S, K>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    K: Check,
    B: Send + 'static,
    R: From<Bytes> + Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let kind = match self.check.check(&mut request) {
            Decision::Pass(()) => Kind::Passed { future: self.inner.call(request) },
            Decision::Refuse(refusal) => Kind::Refused { response: Some(refusal.map(R::from)) },
            Decision::AskStore(found) => {
                // The service that was ready is the one to call; a clone takes its place.
                let clone = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, clone);
                let check = self.check.clone();
                let (mut parts, body) = request.into_parts();
                let future = Box::pin(async move {
                    let addition = match check.check_in_store(&mut parts, found).await {
                        Ok(addition) => addition,
                        Err(refusal) => return Ok(refusal.map(R::from)),
                    };
                    let mut response = inner.call(Request::from_parts(parts, body)).await?;
                    check.complete(addition, response.headers_mut()).await;
                    Ok(response)
                });
                Kind::Waiting { future }
            }
        };
        ResponseFuture { kind, meter: self.check.meter() }
    }
}

pin_project! {
    /// The response future of [`AuthService`] and of the services of the other layers.
    pub struct ResponseFuture<F, R, E> {
        #[pin]
        kind: Kind<F, R, E>,
        meter: Meter,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<F, R, E> {
        Passed { #[pin] future: F },
        Refused { response: Option<Response<R>> },
        Waiting { future: Pin<Box<dyn Future<Output = Result<Response<R>, E>> + Send>> },
    }
}

impl<F, R, E> fmt::Debug for ResponseFuture<F, R, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<F, R, E> Future for ResponseFuture<F, R, E>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut polled = match this.kind.project() {
            KindProjection::Passed { future } => future.poll(cx),
            // A future that is polled after completion may stay pending.
            KindProjection::Refused { response } => response.take().map_or(Poll::Pending, |it| Poll::Ready(Ok(it))),
            KindProjection::Waiting { future } => future.as_mut().poll(cx),
        };
        // In place: a response is large.
        if let Poll::Ready(Ok(response)) = &mut polled {
            count_refusal(response, *this.meter);
        }
        polled
    }
}
