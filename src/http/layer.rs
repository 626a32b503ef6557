//! The layer that turns an access token into an [`AuthUser`](crate::AuthUser).

use std::fmt;

use axum_core::response::Response;
use http::request::Parts;
use tower_layer::Layer;

use super::gate::{Gate, Gated, Identity, Step, identify, identify_clearly};
use crate::auth::{Auth, Claims};

/// Lets in requests with a good access token; handlers behind it take an [`AuthUser`](crate::AuthUser). Made by
/// [`Auth::layer`].
///
/// In order, for every request:
///
/// 1. The token is the one of `Authorization: Bearer`, or else of the access cookie, where the settings have one. A
///    token that came by cookie counts for unsafe methods, upgrades and event streams only if the request comes from
///    here (403 `cross_origin`).
/// 2. It was signed by us, for this audience, as an access token (RFC 8725, RFC 9068), or it is 401
///    `access_token_invalid`; it is not past its end (`access_token_expired`); neither it nor its session was revoked
///    (`access_token_revoked`).
/// 3. Its use is remembered as a sign of life of its session, and, if it is older than the grace, as the proof that
///    the refresh token of its generation has arrived.
///
/// None of this waits for the store, unless nothing has been heard from it for
/// [`max_staleness`](crate::Settings::max_staleness).
///
/// Put it on with `route_layer`: with `layer`, a path that does not exist would be 401 and not 404. Together with the guard
/// in one, `route_layer((auth.layer(), auth.guard()))`, it costs less than in two, because axum boxes each.
pub struct AuthLayer<C> {
    auth: Auth<C>,
    optional: bool,
}

impl<C> AuthLayer<C> {
    /// Lets anonymous requests pass as well; handlers take an `Option<AuthUser<C>>`.
    ///
    /// A bad token in the header is refused all the same: its client has to learn that it should refresh. A bad access
    /// cookie is ignored.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

impl<C> Clone for AuthLayer<C> {
    fn clone(&self) -> Self {
        Self { auth: self.auth.clone(), optional: self.optional }
    }
}

impl<C> fmt::Debug for AuthLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthLayer").field("optional", &self.optional).finish_non_exhaustive()
    }
}

impl<S, C> Layer<S> for AuthLayer<C> {
    type Service = Gated<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Gated::new(inner, self.clone())
    }
}

impl<C: Claims> Gate for AuthLayer<C> {
    type Due = ();

    fn glance(&self, parts: &mut Parts) -> Step {
        match identify(&self.auth, self.optional, parts) {
            Ok(Identity::Known(_) | Identity::Anonymous) => Step::Pass,
            Ok(Identity::Unclear) => Step::Wait,
            Err(response) => Step::Refuse(response),
        }
    }

    async fn wait(&self, parts: &mut Parts) -> Result<(), Response> {
        identify_clearly(&self.auth, self.optional, parts).await.map(|_| ())
    }
}

impl<C: Claims> Auth<C> {
    /// The layer that authenticates: [`AuthLayer`].
    pub fn layer(&self) -> AuthLayer<C> {
        AuthLayer { auth: self.clone(), optional: false }
    }
}
