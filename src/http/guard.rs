//! The layer that looks at the session behind an access token.

use std::fmt;

use axum_core::response::Response;
use http::header::USER_AGENT;
use http::request::Parts;
use tower_layer::Layer;

use super::extract::client_info;
use super::gate::{Gate, Gated, Identity, Step, identify, identify_clearly, refusal};
use super::problem::Problem;
use crate::auth::{Auth, Claims, Glance};
use crate::error::Error;

/// Guards the session behind an access token: that it is there and not idle, and that its client is still the one that
/// logged in. Made by [`Auth::guard`].
///
/// In order, for every request:
///
/// 1. The access token is verified as by [`AuthLayer`](crate::AuthLayer), unless that has done so already; it does not
///    matter which of the two comes first.
/// 2. The first time this node sees the session, it is loaded from the store: where it is gone or revoked the answer is
///    401 `access_token_revoked`, where it was idle for too long `session_idle`.
/// 3. The client's address and User-Agent are compared with those at login, as far as the
///    [binding](crate::Binding) says: 401 `client_mismatch`, and by policy the session ends.
///
/// After the first request of a session nothing here waits for the store: the client at login never changes, what is
/// revoked reaches every node by itself, and an access token that is good keeps its session from being idle, because
/// it cannot live as long as the idle timeout.
pub struct GuardLayer<C> {
    auth: Auth<C>,
    optional: bool,
}

impl<C> GuardLayer<C> {
    /// Lets anonymous requests pass as well, as [`AuthLayer::optional`](crate::AuthLayer::optional) does. Where both
    /// layers are used, both have to say so.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

impl<C> Clone for GuardLayer<C> {
    fn clone(&self) -> Self {
        Self { auth: self.auth.clone(), optional: self.optional }
    }
}

impl<C> fmt::Debug for GuardLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardLayer").field("optional", &self.optional).finish_non_exhaustive()
    }
}

impl<S, C> Layer<S> for GuardLayer<C> {
    type Service = Gated<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Gated::new(inner, self.clone())
    }
}

impl<C: Claims> GuardLayer<C> {
    fn refuse(&self, parts: &Parts, error: &Error) -> Response {
        refusal(self.auth.settings(), parts, Problem::from(error).of_presented_token())
    }
}

impl<C: Claims> Gate for GuardLayer<C> {
    type Due = ();

    fn glance(&self, parts: &mut Parts) -> Step {
        match identify(&self.auth, self.optional, parts) {
            Err(response) => Step::Refuse(response),
            Ok(Identity::Anonymous) => Step::Pass,
            Ok(Identity::Unclear) => Step::Wait,
            Ok(Identity::Known(token)) => {
                let user_agent = parts.headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
                match self.auth.glance(&token, user_agent, || client_info(parts)) {
                    Glance::Pass => Step::Pass,
                    Glance::Refuse(error) => Step::Refuse(self.refuse(parts, &error)),
                    Glance::LookCloser => Step::Wait,
                }
            }
        }
    }

    async fn wait(&self, parts: &mut Parts) -> Result<(), Response> {
        let Some(token) = identify_clearly(&self.auth, self.optional, parts).await? else { return Ok(()) };
        let guarded = self.auth.look_closer(&token, client_info(parts)).await;
        guarded.map_err(|error| self.refuse(parts, &error))
    }
}

impl<C: Claims> Auth<C> {
    /// The layer that looks at the session behind the token: [`GuardLayer`].
    pub fn guard(&self) -> GuardLayer<C> {
        GuardLayer { auth: self.clone(), optional: false }
    }
}
