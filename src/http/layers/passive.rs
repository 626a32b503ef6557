//! The layer for requests that do not come from the user.

use std::convert::Infallible;
use std::fmt;

use http::request::Parts;
use tower_layer::Layer;

use super::{Check, CheckService, PassiveService, Refusal};
use crate::auth::{Auth, Claims, Decision, NoClaims};
use crate::config::Notice;
use crate::http::head::Head;
use crate::http::identify::Identity;
use crate::http::passive::Passive;
use crate::metrics::Meter;

/// Makes requests passive: they are no activity of their session. Made by [`Auth::passive`].
pub struct PassiveLayer<C = NoClaims> {
    auth: Auth<C>,
}

impl<C> Clone for PassiveLayer<C> {
    fn clone(&self) -> Self {
        Self { auth: self.auth.clone() }
    }
}

impl<C> fmt::Debug for PassiveLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassiveLayer").finish_non_exhaustive()
    }
}

impl<S, C> Layer<S> for PassiveLayer<C> {
    type Service = PassiveService<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        CheckService::new(inner, self.clone())
    }
}

impl<C: Claims> Check for PassiveLayer<C> {
    type Found = Infallible;
    type Addition = ();

    fn meter(&self) -> Meter {
        self.auth.resolved().meter
    }

    fn check(&self, head: &mut impl Head) -> Decision<(), Infallible, Refusal> {
        let is_identified = head.extensions().get::<Identity<C>>().is_some();
        if is_identified && self.auth.resolved().notices.is_first(Notice::PassiveTooLate) {
            tracing::error!(
                target: "axum_refresh",
                path = head.uri().path(),
                "Auth::passive is inside of a layer that has recorded the request as the user's activity already; add it \
                 last, so that it is outside of Auth::layer, Auth::guard and Auth::pages"
            );
        }
        head.extensions_mut().insert(Passive);
        Decision::Pass(())
    }

    async fn check_in_store(&self, _: &mut Parts, found: Infallible) -> Result<(), Refusal> {
        match found {}
    }
}

/// # Layers
impl<C: Claims> Auth<C> {
    /// The layer for routes that are not called because of something that the user does: polls, event streams, what a page
    /// loads by itself. Their requests are checked as all others, but do not count as activity: neither an access token that is
    /// used nor a refresh within the request of a [page](Self::pages) keeps the session from becoming
    /// [idle](crate::Policy::idle_timeout).
    ///
    /// Put it outside of the layers that identify the user, which record the activity: with `route_layer`, add it after them.
    /// The [guide](crate::guide::authentication#passive-requests) shows it with pages.
    ///
    /// A client says the same of a single request by the header `Auth-Passive: ?1`. The
    /// [browser module](crate::guide::http#the-browser-module) sends it by itself while the page is hidden.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use axum_refresh::Auth;
    ///
    /// # async fn unread() {}
    /// fn app(auth: &Auth) -> Router {
    ///     Router::new().route("/unread", get(unread)).route_layer((auth.passive(), auth.layer(), auth.guard()))
    /// }
    /// ```
    pub fn passive(&self) -> PassiveLayer<C> {
        PassiveLayer { auth: self.clone() }
    }
}
