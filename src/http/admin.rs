//! The router that lists and revokes any user's sessions, for administrators.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::routing::{delete, get, post};
use axum::{Extension, Router};
use axum_core::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::extract::client_info;
use super::identify::Identity;
use super::problem::Problem;
use super::router::{json_response, listing, rfc3339, session_id};
use super::tokens::read_json;
use crate::auth::{Auth, Claims};
use crate::client::ClientInfo;
use crate::error::Error;
use crate::session::RevocationReason;

/// # Routers
impl<C: Claims> Auth<C> {
    /// The routes that list and revoke any user's sessions, for administrators. The [HTTP contract](crate::guide::http)
    /// describes them.
    ///
    /// **The router does not check who calls it**: put a layer around it that does. `admins_only` is a middleware of
    /// the app; the recipe [roles](crate::guide::recipes#roles) has it.
    ///
    /// ```
    /// # use axum::{Router, extract::Request, http::StatusCode, middleware::{Next, from_fn}, response::Response};
    /// # use axum_refresh::{Auth, AuthUser};
    /// # #[derive(Clone, serde::Serialize, serde::Deserialize)]
    /// # struct MyClaims { role: String }
    /// # async fn admins_only(user: AuthUser<MyClaims>, request: Request, next: Next) -> Result<Response, StatusCode> {
    /// #     if user.claims.role == "admin" { Ok(next.run(request).await) } else { Err(StatusCode::FORBIDDEN) }
    /// # }
    /// fn app(auth: &Auth<MyClaims>) -> Router {
    ///     let admin = auth.admin_router().layer((auth.layer(), auth.guard(), from_fn(admins_only)));
    ///     Router::new().nest("/admin", admin)
    /// }
    /// ```
    pub fn admin_router<S: Clone + Send + Sync + 'static>(&self) -> Router<S> {
        let router = Router::new()
            .route("/users/{user}/sessions", get(list::<C>).delete(revoke_all::<C>))
            .route("/sessions", delete(revoke_everyone::<C>))
            .route("/sessions/{id}", delete(revoke::<C>))
            .route("/tokens/revoke", post(revoke_token::<C>));
        self.finish(router, self.csrf())
    }
}

async fn list<C: Claims>(
    State(auth): State<Auth<C>>,
    // Not `Option<AuthUser>`, which reports a route without a layer: the app may guard this one in another way.
    identity: Option<Extension<Identity<C>>>,
    user: Result<Path<String>, PathRejection>,
) -> Result<Response, Error> {
    let caller = identity.and_then(|Extension(identity)| identity.user().cloned());
    listing(&auth, &user_id(user), caller.map(|caller| caller.session_id)).await
}

async fn revoke_all<C: Claims>(
    State(auth): State<Auth<C>>,
    client: ClientInfo,
    user: Result<Path<String>, PathRejection>,
) -> Result<Response, Error> {
    let reason = RevocationReason::RevokedByAdmin;
    let revoked = auth.revoke_user_by(&user_id(user), None, reason, Some(client)).await?;
    Ok(json_response(&json!({ "revoked": revoked })))
}

async fn revoke_everyone<C: Claims>(State(auth): State<Auth<C>>, client: ClientInfo) -> Result<Response, Error> {
    let revoked_before = auth.revoke_all_by(RevocationReason::RevokedByAdmin, Some(client)).await?;
    Ok(json_response(&json!({ "revoked_before": rfc3339(revoked_before) })))
}

/// Reads the user id of a path. What is not text is the empty id, which no session has.
fn user_id(user: Result<Path<String>, PathRejection>) -> String {
    user.map(|Path(user)| user).unwrap_or_default()
}

async fn revoke<C: Claims>(
    State(auth): State<Auth<C>>,
    client: ClientInfo,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Error> {
    auth.revoke_session_by(session_id(id)?, RevocationReason::RevokedByAdmin, Some(client)).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum RevokeTokenRequest {
    Token { token: String },
    Id { jti: String, expires_at: ExpiresAt },
}

/// A time in RFC 3339, or in Unix seconds as in a JWT.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum ExpiresAt {
    Text(String),
    Seconds(i64),
}

impl ExpiresAt {
    pub(crate) fn time(&self) -> Option<SystemTime> {
        match self {
            Self::Text(text) => humantime::parse_rfc3339(text).ok(),
            Self::Seconds(seconds) => UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(*seconds).ok()?)),
        }
    }
}

async fn revoke_token<C: Claims>(State(auth): State<Auth<C>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = match read_json::<RevokeTokenRequest>(&parts.headers, body).await {
        Ok(Some(body)) => body,
        Ok(None) => return Problem::MALFORMED_BODY.into_response(),
        Err(problem) => return problem.into_response(),
    };
    let client = Some(client_info(&parts));
    let revoked = match body {
        RevokeTokenRequest::Token { token } => auth.revoke_access_token_by(&token, client).await,
        RevokeTokenRequest::Id { jti, expires_at } => match expires_at.time() {
            Some(expires_at) => auth.revoke_token_id_by(&jti, expires_at, client).await,
            None => return Problem::MALFORMED_BODY.into_response(),
        },
    };
    match revoked {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => error.into_response(),
    }
}
