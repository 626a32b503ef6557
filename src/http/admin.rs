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
use super::router::{MAX_RFC3339, json_response, listing, rfc3339, session_id};
use super::routes::admin;
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
            .route(admin::USER_SESSIONS, get(list::<C>).delete(revoke_all::<C>))
            .route(admin::ALL_SESSIONS, delete(revoke_everyone::<C>))
            .route(admin::SESSION, delete(revoke::<C>))
            .route(admin::REVOKE_TOKEN, post(revoke_token::<C>));
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

/// A time in RFC 3339, or in Unix seconds as in a JWT, with a fraction or without (RFC 7519 §2).
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum ExpiresAt {
    Text(String),
    Seconds(f64),
}

impl ExpiresAt {
    pub(crate) fn time(&self) -> Option<SystemTime> {
        match self {
            Self::Text(text) => parse_rfc3339(text),
            // A later one is in milliseconds.
            Self::Seconds(seconds) => {
                let since = Duration::try_from_secs_f64(*seconds).ok().filter(|since| *since <= MAX_RFC3339)?;
                UNIX_EPOCH.checked_add(since)
            }
        }
    }
}

/// Reads a time of RFC 3339 §5.6, with any offset. A year before 1970 is over in any case.
fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let text = text.to_ascii_uppercase();
    let (time, offset) = match text.strip_suffix('Z') {
        Some(time) => (time, "+00:00"),
        None => text.split_at_checked(text.len().checked_sub("+00:00".len())?)?,
    };
    let (year, rest) = time.split_at_checked(4)?;
    if !rest.bytes().all(|byte| byte.is_ascii_digit() || b"-T:.".contains(&byte)) {
        return None;
    }
    let is_before_1970 = number(year)? < 1970;
    // The calendar repeats itself after 400 years.
    let time = if is_before_1970 { format!("{}{rest}", number(year)? + 2000) } else { time.to_owned() };
    let time = humantime::parse_rfc3339(&format!("{time}Z")).ok()?;
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    if hours.len() != 2 {
        return None;
    }
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let offset_by = Duration::from_secs((hours * 60 + minutes) * 60);
    let time = match offset.chars().next()? {
        _ if hours > 23 || minutes > 59 => None,
        '+' => time.checked_sub(offset_by),
        '-' => time.checked_add(offset_by),
        _ => None,
    };
    if is_before_1970 { time.and(Some(UNIX_EPOCH)) } else { time }
}

fn number(digits: &str) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_any_offset() {
        let seconds = |text: &str| {
            let time = parse_rfc3339(text)?;
            Some(time.duration_since(UNIX_EPOCH).unwrap().as_secs_f64())
        };
        let noon = Some(1_767_614_400.0);
        for text in [
            "2026-01-05T12:00:00Z",
            "2026-01-05t12:00:00z",
            "2026-01-05T12:00:00+00:00",
            "2026-01-05T12:00:00-00:00",
            "2026-01-05T14:30:00+02:30",
            "2026-01-04T22:01:00-13:59",
        ] {
            assert_eq!(seconds(text), noon, "{text}");
        }
        assert_eq!(seconds("2026-01-05T13:00:00.5+01:00"), noon.map(|noon| noon + 0.5));
        for text in ["1969-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59", "0000-02-29T00:00:00Z"] {
            assert_eq!(seconds(text), Some(0.0), "{text}");
        }
    }

    #[test]
    fn seconds_may_have_a_fraction_and_end_with_the_year_9999() {
        let time = |seconds| ExpiresAt::Seconds(seconds).time().map(|time| time.duration_since(UNIX_EPOCH).unwrap());
        assert_eq!(time(0.0), Some(Duration::ZERO));
        assert_eq!(time(1_767_614_400.5), Some(Duration::from_millis(1_767_614_400_500)));
        assert_eq!(time(253_402_300_799.0), Some(MAX_RFC3339));
        // The same time as the first one, in milliseconds.
        for seconds in [-1.0, 1_767_614_400_500.0, 1e300, f64::INFINITY, f64::NAN] {
            assert_eq!(time(seconds), None, "{seconds}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "Z",
            "2026",
            "2026-01-05",
            "2026-01-05T12:00:00",
            "2026-01-05 12:00:00Z",
            "2026-01-05T12:00:00+0100",
            "2026-01-05T12:00:00+24:00",
            "2026-01-05T12:00:00+01:60",
            "2026-01-05T12:00:00+1:000",
            "2026-01-05T12:00:00*01:00",
            "2026-01-05T12:00:00Z+01:00",
            "2026-01-05T12:00:00+00:00Z",
            "2026-02-29T12:00:00Z",
            "1900-02-29T12:00:00Z",
            "+026-01-05T12:00:00Z",
            "2026-01-05T12:00:00.\u{e9}+01:00",
            "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }
}
