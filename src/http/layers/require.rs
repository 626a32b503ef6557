//! The layer that requires a recent or a strong authentication.

use std::fmt;

use http::request::Parts;
use tower_layer::Layer;

use super::{Check, CheckService, Refusal, RequireService};
#[cfg(feature = "verifier")]
use crate::auth::Verifier;
use crate::auth::{Auth, Authenticator, Claims, Decision, NoClaims};
use crate::config::SettingsError;
use crate::http::head::Head;
use crate::http::identify::{Identity, Pending, identify, identify_after_catching_up};
use crate::http::problem::Problem;
use crate::http::rejection::AuthRejection;
use crate::http::step_up::Requirement;
use crate::metrics::Meter;

/// Requires a recent or a strong authentication. Made by [`Auth::require`].
pub struct RequireLayer<C = NoClaims> {
    authenticator: Authenticator<C>,
    requirement: Requirement,
}

impl<C> Clone for RequireLayer<C> {
    fn clone(&self) -> Self {
        Self { authenticator: self.authenticator.clone(), requirement: self.requirement.clone() }
    }
}

impl<C> fmt::Debug for RequireLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireLayer").field("requirement", &self.requirement).finish_non_exhaustive()
    }
}

impl<S, C> Layer<S> for RequireLayer<C> {
    type Service = RequireService<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        CheckService::new(inner, self.clone())
    }
}

impl<C: Claims> RequireLayer<C> {
    /// The requirement, once the user is identified.
    fn check_identified(&self, head: &impl Head) -> Result<(), Problem> {
        let Some(Identity::User(token, at)) = head.extensions().get::<Identity<C>>() else { return Ok(()) };
        self.requirement.check_token(token, *at).map_err(|error| Problem::from(&error))
    }

    fn refuse(&self, head: &impl Head, problem: Problem) -> Refusal {
        AuthRejection::new(self.authenticator.resolved(), head, problem).render()
    }
}

impl<C: Claims> Check for RequireLayer<C> {
    type Found = Pending<C>;
    type Addition = ();

    fn meter(&self) -> Meter {
        self.authenticator.resolved().meter
    }

    fn check(&self, head: &mut impl Head) -> Decision<(), Pending<C>, Refusal> {
        match identify(&self.authenticator, false, head) {
            Decision::Pass(_) => match self.check_identified(head) {
                Ok(()) => Decision::Pass(()),
                Err(problem) => Decision::Refuse(self.refuse(head, problem)),
            },
            Decision::Refuse(problem) => Decision::Refuse(self.refuse(head, problem)),
            Decision::AskStore(pending) => Decision::AskStore(pending),
        }
    }

    async fn check_in_store(&self, parts: &mut Parts, pending: Pending<C>) -> Result<(), Refusal> {
        let identified = identify_after_catching_up(&self.authenticator, false, parts, pending).await;
        let checked = identified.and_then(|_| self.check_identified(parts));
        checked.map_err(|problem| self.refuse(parts, problem))
    }
}

/// # Layers
#[cfg(feature = "verifier")]
impl<C: Claims> Verifier<C> {
    /// The layer for routes that require a recent or a strong authentication, as [`Auth::require`] has it at the issuer. The
    /// client authenticates there, and comes back with another access token.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] for what no login can reach: a time below a second, or a class that is not among the
    /// [`acr_values`](crate::Settings::acr_values) of this service.
    pub fn require(&self, requirement: impl Into<Requirement>) -> Result<RequireLayer<C>, SettingsError> {
        RequireLayer::new(self.authenticator(), requirement.into())
    }
}

impl<C> RequireLayer<C> {
    fn new(authenticator: &Authenticator<C>, requirement: Requirement) -> Result<Self, SettingsError> {
        requirement.validate(authenticator.resolved())?;
        Ok(Self { authenticator: authenticator.clone(), requirement })
    }
}

/// # Layers
impl<C: Claims> Auth<C> {
    /// The layer for routes that require a [`Recent`](crate::step_up::Recent) authentication, an
    /// [`Acr`](crate::step_up::Acr), or both: "enter your password again before the transfer" (OWASP ASVS 5.0, 7.5.1 and
    /// 7.5.3).
    ///
    /// It authenticates the request as [`Auth::layer`](Self::layer) does; with that or the [guard](Self::guard) on the route
    /// too, in any order, the token is verified once. If the authentication is not as required, the refusal is 401
    /// `insufficient_user_authentication` with the challenge of RFC 9470 §3, or a redirect to the
    /// [page for it](crate::Settings::step_up_page). The app then authenticates the user and calls
    /// [`reauthenticated`](Self::reauthenticated); the browser module shows the app's dialog and repeats the request.
    ///
    /// The route that authenticates the user again must not require it, of course.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] for what no login can reach: a time below a second, or a class that is not among the
    /// [`acr_values`](crate::Settings::acr_values).
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use axum::{Router, routing::post};
    /// use axum_refresh::config::SettingsError;
    /// use axum_refresh::step_up::Recent;
    /// use axum_refresh::Auth;
    ///
    /// # async fn transfer() {}
    /// fn app(auth: &Auth) -> Result<Router, SettingsError> {
    ///     let recent = auth.require(Recent(Duration::from_secs(60)))?;
    ///     Ok(Router::new().route("/transfer", post(transfer)).route_layer((auth.guard(), recent)))
    /// }
    /// ```
    pub fn require(&self, requirement: impl Into<Requirement>) -> Result<RequireLayer<C>, SettingsError> {
        RequireLayer::new(self.authenticator(), requirement.into())
    }
}
