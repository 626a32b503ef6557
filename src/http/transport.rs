//! How refresh tokens come in and tokens go out: by cookie or in the body.

use axum::body::Body;
use axum_core::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, SET_COOKIE};
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::{Deserialize, Serialize};

use super::cookie;
use super::problem::Problem;
use crate::auth::{Login, Tokens};
use crate::error::{ClaimsError, Error};
use crate::settings::{Settings, Transport};

/// A refresh token in JSON takes 120 bytes.
const LONGEST_BODY: usize = 16 * 1024;

/// What a request brought.
pub(crate) struct Brought {
    /// Never both: the answer goes back the same way.
    pub(crate) transport: Transport,
    /// By cookie there may be several.
    pub(crate) tokens: Vec<Vec<u8>>,
}

/// The refresh tokens in a request. The cookie counts before the body.
pub(crate) async fn read(settings: &Settings, headers: &HeaderMap, body: Body) -> Result<Brought, Problem> {
    let missing = || Problem::from(&Error::RefreshTokenMissing);
    if settings.transport.has_cookie() {
        let name = settings.refresh_cookie.full_name(settings.insecure_dev_cookies);
        let tokens: Vec<_> = cookie::values(headers, &name).map(<[u8]>::to_vec).collect();
        if !tokens.is_empty() {
            return Ok(Brought { transport: Transport::Cookie, tokens });
        }
    }
    if !settings.transport.has_body() {
        return Err(missing());
    }
    let body = read_json::<InBody>(headers, body).await?;
    let token = body.and_then(|body| body.refresh_token).ok_or_else(missing)?;
    Ok(Brought { transport: Transport::Body, tokens: vec![token.into_bytes()] })
}

#[derive(Deserialize)]
struct InBody {
    refresh_token: Option<String>,
}

/// A small JSON body; none where there is no body at all.
pub(crate) async fn read_json<T: serde::de::DeserializeOwned>(
    headers: &HeaderMap,
    body: Body,
) -> Result<Option<T>, Problem> {
    let bytes = match Limited::new(body, LONGEST_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(Problem::body_too_large()),
        Err(_) => return Err(Problem::malformed_body()),
    };
    if bytes.is_empty() {
        return Ok(None);
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Problem::unsupported_media_type());
    }
    // A derived type would also read a list of its members.
    let object: serde_json::Map<_, _> = serde_json::from_slice(&bytes).map_err(|_| Problem::malformed_body())?;
    serde_json::from_value(object.into()).map(Some).map_err(|_| Problem::malformed_body())
}

/// RFC 6749 §5.1, and when to come back.
#[derive(Serialize)]
struct OutBody<'a> {
    access_token: &'a str,
    token_type: &'a str,
    expires_in: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
}

/// Tokens on their way to the client.
pub(crate) fn answer(settings: &Settings, tokens: &Tokens, transport: Transport) -> Response {
    let by_cookie = transport.has_cookie();
    let refresh_token = tokens.refresh_token.as_deref();
    let body = OutBody {
        access_token: &tokens.access_token,
        token_type: "Bearer",
        expires_in: tokens.expires_in.as_secs(),
        refresh_in: tokens.refresh_in.map(|duration| duration.as_secs()),
        refresh_token: refresh_token.filter(|_| !by_cookie),
    };
    let body = match serde_json::to_string(&body) {
        Ok(body) => body,
        Err(error) => return Error::Claims(ClaimsError::Json(error)).into_response(),
    };
    let mut cookies = Vec::new();
    if let Some(token) = refresh_token.filter(|_| by_cookie) {
        let value = Some((token, tokens.session_expires_in));
        cookies.push(cookie::set(settings, &settings.refresh_cookie, value));
        if settings.hint_cookie {
            cookies.push(cookie::set_hint(settings, Some(tokens.session_expires_in)));
        }
    }
    if let Some(access) = settings.access_cookie.as_ref().filter(|_| by_cookie) {
        let value = Some((tokens.access_token.as_str(), tokens.expires_in));
        cookies.push(cookie::set(settings, access, value));
    }
    let mut response = ([(CONTENT_TYPE, "application/json")], body).into_response();
    add_cookies(&mut response, cookies);
    response
}

/// Takes our cookies from the client again: after a logout, and never otherwise.
pub(crate) fn clear(settings: &Settings, mut response: Response) -> Response {
    let mut cookies = Vec::new();
    if settings.transport.has_cookie() {
        cookies.push(cookie::set(settings, &settings.refresh_cookie, None));
        if settings.hint_cookie {
            cookies.push(cookie::set_hint(settings, None));
        }
    }
    if let Some(access) = &settings.access_cookie {
        cookies.push(cookie::set(settings, access, None));
    }
    add_cookies(&mut response, cookies);
    response
}

fn add_cookies(response: &mut Response, cookies: Vec<Option<HeaderValue>>) {
    for cookie in cookies.into_iter().flatten() {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    // A shared cache must never hand one client's tokens to the next.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

impl IntoResponse for Login {
    fn into_response(self) -> Response {
        answer(&self.settings, &self.tokens, self.transport)
    }
}
