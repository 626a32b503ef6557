//! What the layers have in common: a check that seldom has to wait, as a tower service.

mod auth;
mod csrf;
mod guard;
mod pages;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum_core::response::Response;
use http::Request;
use http::request::Parts;
use pin_project_lite::pin_project;
use tower_service::Service;

pub use self::auth::AuthLayer;
pub use self::csrf::CsrfLayer;
pub use self::guard::GuardLayer;
pub use self::pages::PagesLayer;
use crate::auth::Decision;

/// The service of [`AuthLayer`].
pub type AuthService<S, C> = CheckService<S, AuthLayer<C>>;
/// The service of [`CsrfLayer`].
pub type CsrfService<S> = CheckService<S, CsrfLayer>;
/// The service of [`GuardLayer`].
pub type GuardService<S, C> = CheckService<S, GuardLayer<C>>;
/// The service of [`PagesLayer`].
pub type PagesService<S, C> = CheckService<S, PagesLayer<C>>;

/// A check of every request before the inner service.
pub(super) trait Check: Clone + Send + Sync + 'static {
    /// What the first step has found, for the second.
    type Found: Send + 'static;
    /// What the second step adds to the response.
    type Addition: Send + 'static;

    /// Decides from what this node knows.
    fn check(&self, parts: &mut Parts) -> Decision<(), Self::Found, Response>;

    /// Decides with the store.
    fn check_in_store<'a>(
        &'a self,
        parts: &'a mut Parts,
        found: Self::Found,
    ) -> impl Future<Output = Result<Self::Addition, Response>> + Send + 'a;

    /// Completes the response to a request that [`check_in_store`](Self::check_in_store) has let through.
    fn complete<'a>(
        &'a self,
        addition: Self::Addition,
        response: &'a mut Response,
    ) -> impl Future<Output = ()> + Send + 'a {
        let _ = (addition, response);
        std::future::ready(())
    }
}

/// A service that checks every request before the inner service gets it.
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

impl<S, K, B> Service<Request<B>> for CheckService<S, K>
where
    S: Service<Request<B>, Response = Response> + Clone + Send + 'static,
    S::Future: Send,
    K: Check,
    B: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let kind = match self.check.check(&mut parts) {
            Decision::Pass(()) => Kind::Passed { future: self.inner.call(Request::from_parts(parts, body)) },
            Decision::Refuse(response) => Kind::Refused { response: Some(response) },
            Decision::AskStore(found) => {
                // The service that was ready is the one to call; a clone takes its place.
                let clone = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, clone);
                let check = self.check.clone();
                let future = Box::pin(async move {
                    let addition = match check.check_in_store(&mut parts, found).await {
                        Ok(addition) => addition,
                        Err(refusal) => return Ok(refusal),
                    };
                    let mut response = inner.call(Request::from_parts(parts, body)).await?;
                    check.complete(addition, &mut response).await;
                    Ok(response)
                });
                Kind::Waiting { future }
            }
        };
        ResponseFuture { kind }
    }
}

pin_project! {
    /// The response future of [`AuthService`], [`CsrfService`], [`GuardService`] and [`PagesService`].
    pub struct ResponseFuture<F, E> {
        #[pin]
        kind: Kind<F, E>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<F, E> {
        Passed { #[pin] future: F },
        Refused { response: Option<Response> },
        Waiting { future: Pin<Box<dyn Future<Output = Result<Response, E>> + Send>> },
    }
}

impl<F, E> fmt::Debug for ResponseFuture<F, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<F, E> Future for ResponseFuture<F, E>
where
    F: Future<Output = Result<Response, E>>,
{
    type Output = Result<Response, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProjection::Passed { future } => future.poll(cx),
            // A future that is polled after completion may stay pending.
            KindProjection::Refused { response } => response.take().map_or(Poll::Pending, |it| Poll::Ready(Ok(it))),
            KindProjection::Waiting { future } => Poll::Ready(ready!(future.as_mut().poll(cx))),
        }
    }
}
