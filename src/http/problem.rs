//! Refusals as `application/problem+json` (RFC 9457).

use std::fmt;

use axum_core::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::error::{Error, StepUp};
use crate::metrics::{Counted, Meter};

/// The problem details of a refused request (RFC 9457): a status, and a code that clients go by.
///
/// Every refusal of this crate carries its `Problem` in the extensions of the response, so that an app can answer in
/// its own format. `in_our_format` has to be the outermost layer of the app, or it does not see the refusals of the
/// layers around it:
///
/// ```
/// use axum::Router;
/// use axum::body::Body;
/// use axum::http::header::CONTENT_LENGTH;
/// use axum::middleware::map_response;
/// use axum::response::Response;
/// use axum_refresh::rejection::Problem;
/// use serde_json::json;
///
/// async fn in_our_format(response: Response) -> Response {
///     let Some(problem) = response.extensions().get::<Problem>() else { return response };
///     // A redirect to the login page carries a `Problem` too.
///     if response.status() != problem.status() {
///         return response;
///     }
///     let body = json!({ "code": problem.code(), "error": { "help": "https://shop.example/help" } });
///     // Keeps WWW-Authenticate, Cache-Control, Retry-After and Set-Cookie.
///     let (mut parts, _) = response.into_parts();
///     parts.headers.remove(CONTENT_LENGTH);
///     Response::from_parts(parts, Body::from(body.to_string()))
/// }
///
/// fn app(routes: Router) -> Router {
///     routes.layer(map_response(in_our_format)) // last, so that it is around everything
/// }
/// # app(Router::new());
/// ```
///
/// The [browser module](crate::guide::http#the-browser-module) needs the member `code` (or leave `/auth` and the routes
/// that it calls alone). Its `fetch` repeats a refused request only if the content type has `problem+json`, so the
/// example keeps that. The [recipe](crate::guide::recipes#refusals-in-your-own-format) has pages instead of JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    /// The `WWW-Authenticate` challenge of a 401 (RFC 6750 §3).
    challenge: Option<Challenge>,
    /// Seconds for `Retry-After`.
    retry_after: Option<u32>,
    counted: Counted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Challenge {
    /// No access token was presented.
    Bare,
    /// The access token that was presented is refused.
    InvalidToken,
    /// It is not enough: the user has to authenticate again (RFC 9470 §3).
    StepUp(StepUp),
}

impl Challenge {
    fn header(&self) -> Option<HeaderValue> {
        match self {
            Self::Bare => Some(HeaderValue::from_static("Bearer")),
            Self::InvalidToken => Some(HeaderValue::from_static(r#"Bearer error="invalid_token""#)),
            Self::StepUp(StepUp { max_age, acr_values }) => {
                let mut text = r#"Bearer error="insufficient_user_authentication""#.to_owned();
                if let Some(acr_values) = acr_values {
                    text.push_str(&format!(r#", acr_values="{acr_values}""#));
                }
                if let Some(max_age) = max_age {
                    text.push_str(&format!(r#", max_age="{}""#, max_age.as_secs()));
                }
                HeaderValue::try_from(text).ok()
            }
        }
    }
}

impl Problem {
    pub(super) const BODY_TOO_LARGE: Self = Self::ours(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large");
    pub(super) const UNSUPPORTED_MEDIA_TYPE: Self =
        Self::ours(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type");
    pub(super) const MALFORMED_BODY: Self = Self::ours(StatusCode::BAD_REQUEST, "malformed_body");
    pub(super) const CROSS_ORIGIN: Self = Self::ours(StatusCode::FORBIDDEN, "cross_origin");
    pub(super) const INTERNAL: Self = Self::ours(StatusCode::INTERNAL_SERVER_ERROR, "internal");

    /// A problem of the app's own: a handler or a middleware that returns it refuses in the same form as this crate, and
    /// [`Auth::refusals`](crate::Auth::refusals) shows both alike. The [metrics](crate::guide::observability) do not count it.
    ///
    /// ```
    /// use axum::http::StatusCode;
    /// use axum_refresh::AuthUser;
    /// use axum_refresh::rejection::Problem;
    ///
    /// const QUOTA_EXCEEDED: Problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "quota_exceeded");
    ///
    /// async fn export(user: AuthUser) -> Result<String, Problem> {
    ///     if user.id.starts_with("trial-") { Err(QUOTA_EXCEEDED) } else { Ok("…".to_owned()) }
    /// }
    /// # let _: axum::Router = axum::Router::new().route("/export", axum::routing::get(export));
    /// ```
    pub const fn new(status: StatusCode, code: &'static str) -> Self {
        let mut problem = Self::ours(status, code);
        problem.counted = Counted::NEVER;
        problem
    }

    /// A problem of this crate, which is counted.
    const fn ours(status: StatusCode, code: &'static str) -> Self {
        let challenge = if status.as_u16() == 401 { Some(Challenge::Bare) } else { None };
        Self { status, code, challenge, retry_after: None, counted: Counted::NOT_YET }
    }

    /// The status of the refusal.
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The code of the refusal, as listed in the [HTTP contract](crate::guide::http).
    pub const fn code(&self) -> &'static str {
        self.code
    }

    /// The problem of an error. A 5xx is logged.
    pub(super) fn reported(error: &Error) -> Self {
        let problem = Self::from(error);
        if problem.status.is_server_error() {
            tracing::error!(target: "axum_refresh", error = %error, "request failed");
        }
        problem
    }

    /// The value of `WWW-Authenticate`.
    pub(super) fn challenge(&self) -> Option<HeaderValue> {
        self.challenge.as_ref().and_then(Challenge::header)
    }

    /// The seconds of `Retry-After`.
    #[cfg(feature = "openapi")]
    pub(super) const fn retry_after(&self) -> Option<u32> {
        self.retry_after
    }

    pub(super) fn is_unauthorized(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED
    }

    /// Whether the user has to authenticate again, and nothing is wrong with the token.
    pub(super) fn is_step_up(&self) -> bool {
        matches!(self.challenge, Some(Challenge::StepUp(_)))
    }

    /// The problem as a layer reports it for a request that has presented an access token.
    pub(super) fn of_presented_token(mut self) -> Self {
        if self.is_unauthorized() && !self.is_step_up() {
            self.challenge = Some(Challenge::InvalidToken);
        }
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status.as_u16(), self.code)
    }
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        let status = match error {
            Error::AccessTokenMissing
            | Error::AccessTokenInvalid
            | Error::AccessTokenExpired
            | Error::AccessTokenRevoked
            | Error::RefreshTokenMissing
            | Error::RefreshTokenInvalid
            | Error::RefreshTokenReused
            | Error::SessionRevoked
            | Error::SessionExpired
            | Error::SessionIdle
            | Error::ClientMismatch
            | Error::InsufficientAuthentication(_)
            | Error::UserRefused
            | Error::SessionOutdated => StatusCode::UNAUTHORIZED,
            Error::SessionNotFound => StatusCode::NOT_FOUND,
            Error::Login(error) if error.is_acting() => StatusCode::FORBIDDEN,
            Error::RefreshBusy | Error::SessionLimitReached => StatusCode::CONFLICT,
            Error::Store(_) | Error::Hook(_) => StatusCode::SERVICE_UNAVAILABLE,
            #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
            Error::Signer(_) => StatusCode::SERVICE_UNAVAILABLE,
            Error::InvalidUserId | Error::Claims(_) | Error::Login(_) | Error::Requirement(_) | Error::Random => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        let challenge = match error {
            Error::AccessTokenInvalid | Error::AccessTokenExpired | Error::AccessTokenRevoked => {
                Some(Challenge::InvalidToken)
            }
            Error::InsufficientAuthentication(step_up) => Some(Challenge::StepUp(step_up.clone())),
            // Every 401 has a challenge (RFC 9110 §15.5.2).
            _ => (status == StatusCode::UNAUTHORIZED).then_some(Challenge::Bare),
        };
        let retry_after = match error {
            Error::RefreshBusy => Some(1),
            Error::Store(_) | Error::Hook(_) => Some(2),
            #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
            Error::Signer(_) => Some(2),
            _ => None,
        };
        Self { status, code: error.code(), challenge, retry_after, counted: Counted::NOT_YET }
    }
}

/// The members of the problem details (RFC 9457 §3.1), and the code.
#[derive(Serialize)]
struct Body {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    code: &'static str,
}

impl Problem {
    pub(super) fn render(self) -> Response<Bytes> {
        let body = Body {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Refused"),
            status: self.status.as_u16(),
            code: self.code,
        };
        // Serializing strings and a number cannot fail.
        let body = serde_json::to_string(&body).unwrap_or_default();
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = self.status;
        response.extensions_mut().insert(self.clone());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(challenge) = self.challenge() {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// Counts the refusal, if the response is one. Every layer does so on the way out, and the first one counts.
pub(super) fn count_refusal<B>(response: &mut Response<B>, meter: Meter) {
    if Meter::IS_ON
        && let Some(problem) = response.extensions_mut().get_mut::<Problem>()
        && problem.counted.is_first()
    {
        meter.refused(problem.code);
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.render().map(axum::body::Body::from)
    }
}

/// The refusal that the [HTTP contract](crate::guide::http) has for the error. A 5xx is logged; the response does not show
/// its cause.
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        Problem::reported(&self).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[test]
    fn a_refusal_has_the_documented_members_and_headers() {
        let response = Error::AccessTokenExpired.into_response();
        assert_eq!(response.status(), 401);
        let headers = response.headers();
        assert_eq!(headers["content-type"], "application/problem+json");
        assert_eq!(headers["cache-control"], "no-store");
        assert_eq!(headers["www-authenticate"], r#"Bearer error="invalid_token""#);
    }

    #[test]
    fn only_a_presented_token_is_called_invalid() {
        let challenge = |error: Error| Problem::from(&error).challenge;
        assert_eq!(challenge(Error::AccessTokenMissing), Some(Challenge::Bare));
        assert_eq!(challenge(Error::SessionNotFound), None);
        let presented = Problem::from(&Error::ClientMismatch).of_presented_token();
        assert_eq!(presented.challenge, Some(Challenge::InvalidToken));
        assert_eq!(Problem::from(&Error::Store(StoreError::new("x"))).of_presented_token().challenge, None);
    }

    #[test]
    fn a_failure_of_the_store_is_503_with_a_time_to_come_back() {
        let response = Error::Store(StoreError::new("connection refused by 10.0.0.7")).into_response();
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key("retry-after"));
        assert_eq!(Error::RefreshBusy.into_response().headers()["retry-after"], "1");
    }
}
