//! What an authentication has to be like for a route, and the extractor that requires it.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use axum_core::extract::FromRequestParts;
use http::request::Parts;

use super::identify::Identity;
use super::problem::Problem;
use super::rejection::AuthRejection;
use crate::auth::{Auth, AuthUser, Authenticator, Claims, NoClaims, Verified};
use crate::config::{ResolvedSettings, SettingsError};
use crate::error::{Error, StepUp};
use crate::time::Timestamp;

/// Requires that the user was actively authenticated at most this long ago, in whole seconds, at least 1. The
/// [leeway](crate::Settings::leeway) is added: both together have to be longer than the clocks of your nodes differ, or a node
/// whose clock is ahead refuses whoever has just been authenticated by another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recent(pub Duration);

/// Requires an authentication context class, or a stronger one: one of the [`acr_values`](crate::Settings::acr_values).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acr(pub Cow<'static, str>);

impl Acr {
    /// Requires this class.
    pub const fn new(acr: &'static str) -> Self {
        Self(Cow::Borrowed(acr))
    }
}

/// What the authentication of a user has to be like: [`Recent`], an [`Acr`], or both as a tuple.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirement {
    recent: Option<Recent>,
    acr: Option<Acr>,
}

impl From<Recent> for Requirement {
    fn from(recent: Recent) -> Self {
        Self { recent: Some(recent), acr: None }
    }
}

impl From<Acr> for Requirement {
    fn from(acr: Acr) -> Self {
        Self { recent: None, acr: Some(acr) }
    }
}

impl From<(Recent, Acr)> for Requirement {
    fn from((recent, acr): (Recent, Acr)) -> Self {
        Self { recent: Some(recent), acr: Some(acr) }
    }
}

impl Requirement {
    /// Fails for what nobody can reach.
    pub(super) fn validate(&self, settings: &ResolvedSettings) -> Result<(), SettingsError> {
        if self.recent.is_some_and(|Recent(max_age)| max_age < Duration::from_secs(1)) {
            return Err(SettingsError::new("require", "no authentication is that recent; use at least 1 second"));
        }
        match &self.acr {
            Some(Acr(acr)) if !settings.acr_values.iter().any(|known| known == acr) => Err(SettingsError::new(
                "acr_values",
                format!("{acr:?} is required by a route, but not listed, so no login can reach it; list it"),
            )),
            _ => Ok(()),
        }
    }

    /// Whether an authentication is enough.
    fn check(
        &self,
        auth_time: Timestamp,
        acr: Option<&str>,
        now: Timestamp,
        settings: &ResolvedSettings,
    ) -> Result<(), StepUp> {
        let max_age = self.recent.map(|Recent(max_age)| max_age);
        // The claim is in whole seconds.
        let is_old = |max_age: Duration| {
            now.is_past(auth_time, max_age.saturating_add(settings.leeway + Duration::from_secs(1)))
        };
        let strong_enough = self.acr.as_ref().map(|Acr(least)| {
            let at_least = settings.acr_values.iter().skip_while(|known| *known != least);
            at_least.map(String::as_str).collect::<Vec<_>>()
        });
        let is_weak = strong_enough.as_ref().is_some_and(|values| acr.is_none_or(|acr| !values.contains(&acr)));
        if !max_age.is_some_and(is_old) && !is_weak {
            return Ok(());
        }
        // All that is required, or the user might have to authenticate twice.
        Err(StepUp { max_age, acr_values: strong_enough.map(|values| values.join(" ").into()) })
    }

    pub(super) fn check_token<C>(&self, token: &Verified<C>, now: Timestamp) -> Result<(), Error> {
        let acr = token.context.as_ref().and_then(|context| context.acr.as_deref());
        self.check(token.auth_time, acr, now, token.settings()).map_err(Error::InsufficientAuthentication)
    }
}

/// A [`Requirement`] as a type, for the extractor [`Required`].
pub trait Rule {
    /// What is required.
    fn requirement() -> Requirement;
}

/// The user, if the authentication is as the rule requires: an extractor for handlers behind [`Auth::layer`](crate::Auth::layer),
/// [`Auth::guard`](crate::Auth::guard) or [`Auth::pages`](crate::Auth::pages).
///
/// Refuses as [`Auth::require`](crate::Auth::require) does, and an anonymous request as [`AuthUser`] does. A rule that nobody
/// can meet is refused with 500 `internal` and logged as an error.
///
/// ```
/// use std::time::Duration;
///
/// use axum_refresh::step_up::{Recent, Required, Requirement, Rule};
///
/// struct Transfer;
///
/// impl Rule for Transfer {
///     fn requirement() -> Requirement {
///         Recent(Duration::from_secs(60)).into()
///     }
/// }
///
/// async fn transfer(user: Required<Transfer>) -> String {
///     format!("sent by {}", user.user.id)
/// }
/// # let _: axum::Router = axum::Router::new().route("/", axum::routing::post(transfer));
/// ```
#[non_exhaustive]
pub struct Required<R, C = NoClaims> {
    /// The user.
    pub user: AuthUser<C>,
    rule: PhantomData<fn() -> R>,
}

impl<R, C: fmt::Debug> fmt::Debug for Required<R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Required").field("user", &self.user).finish_non_exhaustive()
    }
}

impl<R: Rule, C: Claims, S: Sync> FromRequestParts<S> for Required<R, C> {
    type Rejection = AuthRejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AuthRejection> {
        let user = AuthUser::from_request_parts(parts, state).await?;
        // There is one, or there would be no user.
        if let Some(Identity::User(token, at)) = parts.extensions.get::<Identity<C>>() {
            let (settings, requirement) = (token.settings(), R::requirement());
            let checked = match requirement.validate(settings) {
                Ok(()) => requirement.check_token(token, *at).map_err(|error| Problem::from(&error)),
                Err(error) => {
                    let rule = std::any::type_name::<R>();
                    tracing::error!(target: "axum_refresh", rule, %error, "a rule that nobody can meet");
                    Err(Problem::INTERNAL)
                }
            };
            checked.map_err(|problem| AuthRejection::new(settings, parts, problem))?;
        }
        Ok(Self { user, rule: PhantomData })
    }
}

/// # Requiring an authentication
impl<C: Claims> Auth<C> {
    /// Checks that a user was authenticated as required: for a handler that decides by what it is asked to do.
    ///
    /// # Errors
    ///
    /// - [`Error::InsufficientAuthentication`] if not. As a response it is the 401 of [`require`](Self::require), also for a
    ///   request for a page: an error does not know its request, so it does not redirect.
    /// - [`Error::Requirement`] if no login can be as required.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use axum_refresh::{Auth, AuthUser, Error};
    /// # use axum_refresh::step_up::Recent;
    /// async fn transfer(auth: &Auth, user: &AuthUser, cents: u64) -> Result<(), Error> {
    ///     if cents > 10_000 {
    ///         auth.check(user, Recent(Duration::from_secs(60)))?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn check(&self, user: &AuthUser<C>, requirement: impl Into<Requirement>) -> Result<(), Error> {
        check(self.authenticator(), user, &requirement.into())
    }
}

/// # Requiring an authentication
#[cfg(feature = "verifier")]
impl<C: Claims> crate::auth::Verifier<C> {
    /// Checks that a user was authenticated as required, as [`Auth::check`] does at the issuer.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn check(&self, user: &AuthUser<C>, requirement: impl Into<Requirement>) -> Result<(), Error> {
        check(self.authenticator(), user, &requirement.into())
    }
}

fn check<C>(by: &Authenticator<C>, user: &AuthUser<C>, requirement: &Requirement) -> Result<(), Error> {
    let settings = by.resolved();
    requirement.validate(settings)?;
    let auth_time = Timestamp::from(user.auth_time());
    requirement.check(auth_time, user.acr(), by.now(), settings).map_err(Error::InsufficientAuthentication)
}
