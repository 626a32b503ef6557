//! The user behind a request.

use std::sync::Arc;
use std::time::SystemTime;

use super::{NoClaims, Verified};
use crate::session::{Actor, SessionId};
use crate::time::Timestamp;
use crate::token::claims::Context;
use crate::token::id::TokenId;

/// The user behind a request, as the access token describes them.
///
/// Handlers behind [`Auth::layer`](crate::Auth::layer), [`Auth::guard`](crate::Auth::guard) or
/// [`Auth::pages`](crate::Auth::pages) take it as an extractor. `Option<AuthUser<C>>` is `None` for an anonymous request
/// that [`optional`](crate::AuthLayer::optional) has let through.
///
/// Without one of these layers on the route, or with another claims type than that of the layer's `Auth`, `AuthUser<C>`
/// is refused with 500 and `Option<AuthUser<C>>` is always `None`. Both are logged as an error.
///
/// ```
/// use axum_refresh::AuthUser;
///
/// async fn hello(user: AuthUser) -> String {
///     format!("Hello, {}", user.id)
/// }
/// # let _: axum::Router = axum::Router::new().route("/", axum::routing::get(hello));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuthUser<C = NoClaims> {
    /// The app's own id of the user, as given to [`Auth::login`](crate::Auth::login).
    pub id: Arc<str>,
    /// The session that the access token belongs to.
    pub session_id: SessionId,
    /// The app's claims.
    pub claims: C,
    generation: u32,
    pub(super) token_id: TokenId,
    pub(super) expires_at: Timestamp,
    auth_time: Timestamp,
    context: Option<Arc<Context>>,
}

impl<C> AuthUser<C> {
    /// When the user was actively authenticated, in whole seconds: the claim `auth_time`. Refreshing does not move it.
    pub fn auth_time(&self) -> SystemTime {
        self.auth_time.into()
    }

    /// The authentication context class that the [login](crate::LoginBuilder::acr) has reached: the claim `acr`.
    pub fn acr(&self) -> Option<&str> {
        self.context.as_ref()?.acr.as_deref()
    }

    /// The authentication methods of the [login](crate::LoginBuilder::amr): the claim `amr`.
    pub fn amr(&self) -> impl Iterator<Item = &str> {
        self.context.iter().flat_map(|context| context.amr.iter().map(|method| &**method))
    }

    /// Who [acts](crate::LoginBuilder::acting) for the user, if it is not the user: the claim `act`.
    pub fn actor(&self) -> Option<&Actor> {
        self.context.as_ref()?.actor.as_deref()
    }

    pub(crate) fn actor_arc(&self) -> Option<Arc<Actor>> {
        self.context.as_ref()?.actor.clone()
    }

    /// The id of the access token (`jti`), for [`Auth::revoke_token_id`](crate::Auth::revoke_token_id).
    pub fn token_id(&self) -> String {
        self.token_id.to_string()
    }

    /// When the access token expires.
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at.into()
    }

    pub(super) const fn generation(&self) -> u32 {
        self.generation
    }
}

impl<C> From<&AuthUser<C>> for SessionId {
    fn from(user: &AuthUser<C>) -> Self {
        user.session_id
    }
}

impl<C: Clone> From<&Verified<C>> for AuthUser<C> {
    fn from(token: &Verified<C>) -> Self {
        Self {
            id: Arc::clone(&token.user_id),
            session_id: token.session_id,
            claims: token.claims.clone(),
            generation: token.generation,
            token_id: token.id,
            expires_at: token.expires_at,
            auth_time: token.auth_time,
            context: token.context.clone(),
        }
    }
}
