//! The logout that an identity provider asks for: OpenID Connect Back-Channel Logout 1.0.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::claims::BoxError;
use super::{Auth, Claims, NoClaims};
use crate::error::Error;
use crate::node::MIN_RETENTION;
use crate::session::RevocationReason;
use crate::token::logout::{LogoutToken, LogoutTokenError, LogoutVerifier, USABLE_FOR};

// The mark of a used token must not be forgotten while the token can be used, by whatever clock.
const _: () = assert!(MIN_RETENTION.as_secs() > USABLE_FOR.as_secs());

type HookFuture = Pin<Box<dyn Future<Output = Result<Option<String>, BoxError>> + Send>>;
type UserHook = Arc<dyn Fn(LogoutToken) -> HookFuture + Send + Sync>;

/// # Single sign-on
impl<C: Claims> Auth<C> {
    /// Ends sessions when the identity provider says so: OpenID Connect Back-Channel Logout 1.0.
    ///
    /// [`route`](BackChannelLogout::route) is what one mounts, at the `backchannel_logout_uri` that is registered with the
    /// provider:
    ///
    /// ```
    /// use axum::Router;
    /// use axum_refresh::Auth;
    /// use axum_refresh::federation::LogoutVerifier;
    ///
    /// fn app(auth: &Auth, verifier: LogoutVerifier) -> Router {
    ///     Router::new().route("/backchannel-logout", auth.back_channel_logout(verifier).route())
    /// }
    /// ```
    ///
    /// For several providers, mount one route for each.
    pub fn back_channel_logout(&self, verifier: LogoutVerifier) -> BackChannelLogout<C> {
        BackChannelLogout { auth: self.clone(), verifier, user_hook: None }
    }
}

/// The logouts that an identity provider asks for. Made by [`Auth::back_channel_logout`].
///
/// A logout token with a `sid` revokes the sessions whose login was given this issuer and `sid` with
/// [`LoginBuilder::external`](crate::LoginBuilder::external), idle ones too, and no others, even if the token also has a `sub`.
/// One with a `sub` alone revokes all sessions of the user that [`user_of`](Self::user_of) finds. That there are none is
/// no error (§2.7).
///
/// Each token counts once for its issuer. The mark of a used token is written to the store's feed of revocations after the
/// sessions are revoked, and in force on this node at once and on the others within a second. If the store fails, the
/// token stays usable, and revoking again is harmless. Two nodes that get the same token at the same moment may both accept
/// it, which ends the same sessions.
///
/// What is written at the moment of the logout is ended; a login that is written a moment later, with an ID token from
/// before, is not.
pub struct BackChannelLogout<C = NoClaims> {
    auth: Auth<C>,
    verifier: LogoutVerifier,
    user_hook: Option<UserHook>,
}

impl<C> Clone for BackChannelLogout<C> {
    fn clone(&self) -> Self {
        Self { auth: self.auth.clone(), verifier: self.verifier.clone(), user_hook: self.user_hook.clone() }
    }
}

impl<C> fmt::Debug for BackChannelLogout<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackChannelLogout").field("verifier", &self.verifier).finish_non_exhaustive()
    }
}

/// Why a logout by the identity provider was refused or has failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogoutError {
    /// The logout token is refused: 400 `invalid_request`.
    #[error("the logout token is refused: {0}")]
    Token(#[from] LogoutTokenError),
    /// The store or the hook has failed, and the same token can be used again: 503.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<crate::store::StoreError> for LogoutError {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl<C: Claims> BackChannelLogout<C> {
    /// Finds the user of a token that names no session, by its [`issuer`](LogoutToken::issuer) and
    /// [`subject`](LogoutToken::subject). Default: none, and such a token is refused as
    /// [`LogoutTokenError::SubjectOnly`].
    ///
    /// `hook` returns the app's own id of the user, or `None` if there is no such user. An error is 503, and the provider may
    /// try again.
    ///
    /// ```
    /// use axum_refresh::Auth;
    /// use axum_refresh::federation::{BackChannelLogout, LogoutVerifier};
    /// # #[derive(Clone)]
    /// # struct Pool;
    /// # impl Pool {
    /// #     async fn user_by_subject(&self, _: &str) -> Result<Option<String>, std::io::Error> { Ok(None) }
    /// # }
    ///
    /// fn logout(auth: &Auth, verifier: LogoutVerifier, pool: Pool) -> BackChannelLogout {
    ///     auth.back_channel_logout(verifier).user_of(move |token| {
    ///         let pool = pool.clone();
    ///         async move { pool.user_by_subject(token.subject.as_deref().unwrap_or_default()).await }
    ///     })
    /// }
    /// ```
    #[must_use]
    pub fn user_of<F, Fut, E>(mut self, hook: F) -> Self
    where
        F: Fn(LogoutToken) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<String>, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.user_hook = Some(Arc::new(move |token| {
            let user_id = hook(token);
            Box::pin(async move { user_id.await.map_err(Into::into) })
        }));
        self
    }

    /// Does what a logout token asks for, and returns how many sessions it has revoked. [`route`](Self::route) calls it; so
    /// can an app that gets its requests in another way.
    ///
    /// # Errors
    ///
    /// [`LogoutError`]. After [`LogoutError::Failed`], some of the sessions may be revoked, and the token can be used again.
    pub async fn accept(&self, logout_token: &str) -> Result<usize, LogoutError> {
        let result = self.accept_once(logout_token).await;
        if let Err(LogoutError::Token(error)) = &result {
            if self.verifier.is_first(*error) {
                tracing::warn!(
                    target: "axum_refresh",
                    verifier = ?self.verifier,
                    %error,
                    "a logout token of the identity provider is refused; {}",
                    error.advice()
                );
            } else {
                tracing::debug!(target: "axum_refresh", %error, "a logout token is refused");
            }
        }
        result
    }

    async fn accept_once(&self, logout_token: &str) -> Result<usize, LogoutError> {
        let node = &self.auth.inner.node;
        node.start();
        let token = self.verifier.verify(logout_token, node.now().into())?;
        let revoked = node.once(token.mark(), self.revoke(&token)).await?;
        revoked.ok_or(LogoutTokenError::Replayed.into())
    }

    async fn revoke(&self, token: &LogoutToken) -> Result<usize, LogoutError> {
        if let Some(session_id) = &token.session_id {
            return Ok(self.auth.revoke_external(&token.issuer, session_id).await?);
        }
        let hook = self.user_hook.as_ref().ok_or(LogoutTokenError::SubjectOnly)?;
        let Some(user_id) = hook(token.clone()).await.map_err(Error::Hook)? else { return Ok(0) };
        Ok(self.auth.revoke_user(&user_id, None, RevocationReason::IdentityProvider).await?)
    }
}
