//! The routes by which an administrator looks at and ends anybody's sessions.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::routing::{delete, get, post};
use axum_core::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::problem::Problem;
use super::router::{json_response, listing, session_id};
use super::transport::read_json;
use crate::auth::{Auth, AuthUser, Claims};
use crate::error::Error;
use crate::session::Reason;

impl<C: Claims> Auth<C> {
    /// The routes that list and end anybody's sessions. **They have no guard of their own**: put one before them.
    ///
    /// ```
    /// # use axum::{Router, extract::Request, http::StatusCode, middleware::{Next, from_fn}, response::Response};
    /// # use axum_refresh::{Auth, AuthUser};
    /// # #[derive(Clone, serde::Serialize, serde::Deserialize)]
    /// # struct Claims { role: String }
    /// async fn admins_only(user: AuthUser<Claims>, request: Request, next: Next) -> Result<Response, StatusCode> {
    ///     if user.claims.role == "admin" { Ok(next.run(request).await) } else { Err(StatusCode::FORBIDDEN) }
    /// }
    ///
    /// fn admin(auth: &Auth<Claims>) -> Router<Auth<Claims>> {
    ///     auth.admin_router().layer(from_fn(admins_only)).layer(auth.guard()).layer(auth.layer())
    /// }
    /// ```
    pub fn admin_router<S: Clone + Send + Sync + 'static>(&self) -> Router<S> {
        let router = Router::new()
            .route("/users/{user}/sessions", get(list::<C>).delete(end_all::<C>))
            .route("/sessions/{id}", delete(end::<C>))
            .route("/tokens/revoke", post(revoke_token::<C>));
        self.finish(router)
    }
}

async fn list<C: Claims>(
    State(auth): State<Auth<C>>,
    caller: Option<AuthUser<C>>,
    user: Result<Path<String>, PathRejection>,
) -> Result<Response, Error> {
    listing(&auth, &user_id(user), caller.map(|caller| caller.session)).await
}

async fn end_all<C: Claims>(
    State(auth): State<Auth<C>>,
    user: Result<Path<String>, PathRejection>,
) -> Result<Response, Error> {
    let revoked = auth.revoke_user(&user_id(user), None, Reason::EndedByAdmin).await?;
    Ok(json_response(&json!({ "revoked": revoked })))
}

/// What is no text is nobody's user id, and nobody has no sessions. No session has the empty one.
fn user_id(user: Result<Path<String>, PathRejection>) -> String {
    user.map(|Path(user)| user).unwrap_or_default()
}

async fn end<C: Claims>(
    State(auth): State<Auth<C>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Error> {
    auth.revoke_session(session_id(id)?, Reason::EndedByAdmin).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Which {
    Token { token: String },
    Id { jti: String, expires_at: When },
}

/// A time as people write it, or as a JWT has it.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum When {
    Text(String),
    Seconds(i64),
}

impl When {
    pub(crate) fn time(&self) -> Option<SystemTime> {
        match self {
            Self::Text(text) => humantime::parse_rfc3339(text).ok(),
            Self::Seconds(seconds) => UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(*seconds).ok()?)),
        }
    }
}

async fn revoke_token<C: Claims>(State(auth): State<Auth<C>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let which = match read_json::<Which>(&parts.headers, body).await {
        Ok(Some(which)) => which,
        Ok(None) => return Problem::malformed_body().into_response(),
        Err(problem) => return problem.into_response(),
    };
    let revoked = match which {
        Which::Token { token } => auth.revoke_access_token(&token).await,
        Which::Id { jti, expires_at } => match expires_at.time() {
            Some(expires_at) => auth.revoke_token_id(&jti, expires_at).await,
            None => return Problem::malformed_body().into_response(),
        },
    };
    match revoked {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => error.into_response(),
    }
}
