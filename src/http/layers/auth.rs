//! The layer that authenticates requests by their access token.

use std::fmt;

use http::request::Parts;
use tower_layer::Layer;

use super::{AuthService, Check, CheckService, Refusal};
#[cfg(feature = "verifier")]
use crate::auth::Verifier;
use crate::auth::{Auth, Authenticator, Claims, Decision, NoClaims};
use crate::http::head::Head;
use crate::http::identify::{Pending, identify, identify_after_catching_up};
use crate::http::rejection::AuthRejection;
use crate::metrics::Meter;

/// Authenticates requests by their access token. Made by [`Auth::layer`].
///
/// For every request, in this order:
///
/// 1. The token is taken from `Authorization: Bearer` or, if the settings have one, from the access cookie. A token from the
///    cookie counts for unsafe methods, upgrades and event streams only if the request passes the origin check (403
///    `cross_origin`).
/// 2. The token has to be an access token of this `Auth` with a valid signature (RFC 8725, RFC 9068; 401
///    `access_token_invalid`), not expired (`access_token_expired`), and neither it nor its session may be revoked
///    (`access_token_revoked`).
/// 3. Its use is recorded as activity of the session and, if the token is older than the
///    [grace period](crate::Policy::grace), as the acknowledgement of its generation's refresh token.
///
/// None of this waits for the store, unless the store has been unreachable for
/// [`max_staleness`](crate::Settings::max_staleness).
///
/// Handlers behind the layer take an [`AuthUser`](crate::AuthUser).
///
/// # With or without the guard
///
/// - **The layer alone** verifies the token and refuses anonymous requests, from memory. Without a
///   [binding](crate::config::Binding) it is enough: it knows all revocations, and an idle session ends at its next
///   refresh, because an access token lives for less time than the idle timeout. While the store is unreachable, it goes
///   on for `max_staleness`.
/// - **The [guard](Auth::guard) alone** does the same. It also loads the session from the store, once per session and
///   node: it refuses a session that does not exist there or is idle, and compares every request with the binding.
/// - **Both** do what the guard does alone, in any order: the second uses what the first has found, so the token is
///   verified once. If in doubt, use both; a route that must not wait for the store drops the guard.
///
/// # Where to put it
///
/// Use `route_layer`: with `layer`, the request for a path that does not exist is 401 instead of 404. `route_layer` covers
/// the routes that were added before it. `route_layer((auth.layer(), auth.guard()))` costs less than two calls of
/// `route_layer`, because axum boxes each.
///
/// ```
/// use axum::{Router, routing::get};
/// use axum_refresh::{Auth, AuthUser};
///
/// async fn me(user: AuthUser) -> String {
///     user.id.to_string()
/// }
///
/// fn app(auth: &Auth) -> Router {
///     Router::new().route("/me", get(me)).route_layer((auth.layer(), auth.guard()))
/// }
/// ```
pub struct AuthLayer<C = NoClaims> {
    authenticator: Authenticator<C>,
    optional: bool,
}

impl<C> AuthLayer<C> {
    /// Lets anonymous requests pass; handlers take an `Option<AuthUser<C>>`.
    ///
    /// An invalid token in the header is refused all the same, so that its client learns that it has to refresh. An
    /// invalid access cookie is ignored.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

impl<C> Clone for AuthLayer<C> {
    fn clone(&self) -> Self {
        Self { authenticator: self.authenticator.clone(), optional: self.optional }
    }
}

impl<C> fmt::Debug for AuthLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthLayer").field("optional", &self.optional).finish_non_exhaustive()
    }
}

impl<S, C> Layer<S> for AuthLayer<C> {
    type Service = AuthService<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        CheckService::new(inner, self.clone())
    }
}

impl<C: Claims> Check for AuthLayer<C> {
    type Found = Pending<C>;
    type Addition = ();

    fn meter(&self) -> Meter {
        self.authenticator.resolved().meter
    }

    fn check(&self, head: &mut impl Head) -> Decision<(), Pending<C>, Refusal> {
        match identify(&self.authenticator, self.optional, head) {
            Decision::Pass(_) => Decision::Pass(()),
            Decision::Refuse(problem) => {
                Decision::Refuse(AuthRejection::new(self.authenticator.resolved(), head, problem).render())
            }
            Decision::AskStore(pending) => Decision::AskStore(pending),
        }
    }

    async fn check_in_store(&self, parts: &mut Parts, pending: Pending<C>) -> Result<(), Refusal> {
        match identify_after_catching_up(&self.authenticator, self.optional, parts, pending).await {
            Ok(_) => Ok(()),
            Err(problem) => Err(AuthRejection::new(self.authenticator.resolved(), parts, problem).render()),
        }
    }
}

/// # Layers
#[cfg(feature = "verifier")]
impl<C: Claims> Verifier<C> {
    /// The layer that authenticates requests by their access token, as [`Auth::layer`] does at the issuer.
    ///
    /// Requests wait only as long as the issuer's keys or revocations are not known, and are refused with 503
    /// `store_unavailable` if they do not become known.
    pub fn layer(&self) -> AuthLayer<C> {
        AuthLayer { authenticator: self.authenticator().clone(), optional: false }
    }
}

/// # Layers
impl<C: Claims> Auth<C> {
    /// The layer that authenticates requests by their access token: see [`AuthLayer`].
    pub fn layer(&self) -> AuthLayer<C> {
        AuthLayer { authenticator: self.authenticator().clone(), optional: false }
    }
}
