//! How refresh tokens come in and tokens go out: by cookie or in the body.

use axum::body::Body;
use axum_core::response::{IntoResponse, IntoResponseParts, Response, ResponseParts};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, SET_COOKIE};
use http::{HeaderMap, HeaderValue, StatusCode};
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
    let mut response = ([(CONTENT_TYPE, "application/json")], body).into_response();
    // What has tokens in its body is to be kept by no cache either.
    add_cookies(response.headers_mut(), if by_cookie { cookies(settings, tokens) } else { Vec::new() });
    response
}

/// The cookies that these tokens travel in: the refresh token where it is a new one, with its hint, and the access token
/// always.
fn cookies(settings: &Settings, tokens: &Tokens) -> Vec<Option<HeaderValue>> {
    let refresh = tokens.refresh_token.as_deref().map(|token| {
        let value = Some((token, tokens.session_expires_in));
        cookie::set(settings, &settings.refresh_cookie, value)
    });
    let hint = refresh.as_ref().filter(|_| settings.hint_cookie);
    let hint = hint.map(|_| cookie::set_hint(settings, Some(tokens.session_expires_in)));
    let access = settings.access_cookie.as_ref().map(|access| {
        let value = Some((tokens.access_token.as_str(), tokens.expires_in));
        cookie::set(settings, access, value)
    });
    refresh.into_iter().chain(hint).chain(access).collect()
}

/// Adds the cookies of these tokens to somebody else's answer. A cookie that the answer sets by itself stays as it is:
/// a login, a logout or a renewal knows better.
pub(super) fn add_to(settings: &Settings, tokens: &Tokens, headers: &mut HeaderMap) {
    let mut cookies = cookies(settings, tokens);
    cookies.retain(|cookie| cookie.as_ref().is_some_and(|cookie| !sets(headers, name_of(cookie))));
    if !cookies.is_empty() {
        add_cookies(headers, cookies);
    }
}

fn sets(headers: &HeaderMap, name: &[u8]) -> bool {
    headers.get_all(SET_COOKIE).iter().any(|cookie| name_of(cookie) == name)
}

fn name_of(cookie: &HeaderValue) -> &[u8] {
    cookie.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default()
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
    add_cookies(response.headers_mut(), cookies);
    response
}

fn add_cookies(headers: &mut HeaderMap, cookies: Vec<Option<HeaderValue>>) {
    for cookie in cookies.into_iter().flatten() {
        headers.append(SET_COOKIE, cookie);
    }
    // A shared cache must never hand one client's tokens to the next. Those that take their orders from a field of
    // their own (RFC 9213) do not look at the other.
    let own: Vec<_> = headers.keys().filter(|name| name.as_str().ends_with("-cache-control")).cloned().collect();
    for name in own.into_iter().chain([CACHE_CONTROL]) {
        headers.insert(name, HeaderValue::from_static("no-store"));
    }
}

impl IntoResponse for Login {
    fn into_response(self) -> Response {
        answer(&self.settings, &self.tokens, self.transport)
    }
}

/// As a part of another response it sets the cookies and leaves the body to that: `(login, Redirect::to("/"))` answers
/// a form. Tokens that travel in the body have no place there, and that is 500.
impl IntoResponseParts for Login {
    type Error = Response;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Self::Error> {
        if !self.transport.has_cookie() {
            tracing::error!(target: "axum_refresh", "a login by Transport::Body as a part of another response");
            return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal").into_response());
        }
        add_cookies(parts.headers_mut(), cookies(&self.settings, &self.tokens));
        Ok(parts)
    }
}
