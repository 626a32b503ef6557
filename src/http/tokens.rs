//! How tokens are transported: refresh tokens in requests, and tokens in responses, by cookie or in the body.

use std::sync::Arc;

use axum::body::Body;
use axum_core::response::{IntoResponse, IntoResponseParts, Response, ResponseParts};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, SET_COOKIE, USER_AGENT};
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Deserialize;

use super::cookie;
use super::negotiate::is_json;
use super::problem::Problem;
use crate::auth::{Auth, Claims, Login, LoginBuilder, Tokens};
use crate::client::ClientInfo;
use crate::config::{MAX_COOKIE_BYTES, Notice, ResolvedCookie, ResolvedSettings, Transport};
use crate::error::Error;
use crate::session::Session;

/// The largest JSON body, in bytes. A refresh token needs 120.
const MAX_BODY: usize = 16 * 1024;

/// The refresh tokens of a request.
pub(crate) struct PresentedTokens {
    /// How they came, cookie or body: the response uses the same way.
    pub(crate) transport: Transport,
    /// Several cookies may have the same name.
    pub(crate) tokens: Vec<Vec<u8>>,
}

/// Reads the refresh tokens of a request. If there is a cookie, the body is ignored.
pub(crate) async fn read(
    settings: &ResolvedSettings,
    headers: &HeaderMap,
    body: Body,
) -> Result<PresentedTokens, Problem> {
    let missing = || Problem::from(&Error::RefreshTokenMissing);
    if settings.transport.has_cookie() {
        let tokens: Vec<_> = cookie::values(headers, &settings.refresh_cookie.name).map(<[u8]>::to_vec).collect();
        if !tokens.is_empty() {
            return Ok(PresentedTokens { transport: Transport::Cookie, tokens });
        }
    }
    if !settings.transport.has_body() {
        return Err(missing());
    }
    let body = read_json::<RefreshRequest>(headers, body).await?;
    let token = body.and_then(|body| body.refresh_token).ok_or_else(missing)?;
    Ok(PresentedTokens { transport: Transport::Body, tokens: vec![token.into_bytes()] })
}

/// Reads all refresh tokens of a request, those of the cookies and that of the body. Whatever is no token is left out.
pub(crate) async fn read_all(settings: &ResolvedSettings, headers: &HeaderMap, body: Body) -> Vec<Vec<u8>> {
    let mut tokens = Vec::new();
    if settings.transport.has_body()
        && let Ok(Some(RefreshRequest { refresh_token: Some(token) })) = read_json(headers, body).await
    {
        tokens.push(token.into_bytes());
    }
    if settings.transport.has_cookie() {
        tokens.extend(cookie::values(headers, &settings.refresh_cookie.name).map(<[u8]>::to_vec));
    }
    tokens
}

#[derive(Deserialize)]
struct RefreshRequest {
    refresh_token: Option<String>,
}

/// Reads a small JSON body; none if the request has no body.
pub(crate) async fn read_json<T: serde::de::DeserializeOwned>(
    headers: &HeaderMap,
    body: Body,
) -> Result<Option<T>, Problem> {
    let bytes = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(Problem::BODY_TOO_LARGE),
        Err(_) => return Err(Problem::MALFORMED_BODY),
    };
    if bytes.is_empty() {
        return Ok(None);
    }
    if !is_json(headers) {
        return Err(Problem::UNSUPPORTED_MEDIA_TYPE);
    }
    // A derived type would accept an array of its members too.
    let object: serde_json::Map<_, _> = serde_json::from_slice(&bytes).map_err(|_| Problem::MALFORMED_BODY)?;
    serde_json::from_value(object.into()).map(Some).map_err(|_| Problem::MALFORMED_BODY)
}

/// The token response of RFC 6749 §5.1, and when to refresh. Tokens consist of characters that JSON does not escape.
fn token_response(tokens: &Tokens, refresh_token: Option<&str>) -> String {
    let mut body = String::with_capacity(tokens.access_token.len() + refresh_token.map_or(0, str::len) + 128);
    let mut push = |parts: &[&str]| parts.iter().for_each(|part| body.push_str(part));
    push(&[r#"{"access_token":""#, &tokens.access_token, r#"","token_type":"Bearer","expires_in":"#]);
    push(&[&tokens.expires_in.as_secs().to_string()]);
    if let Some(refresh_in) = tokens.refresh_in {
        push(&[r#","refresh_in":"#, &refresh_in.as_secs().to_string()]);
    }
    if let Some(refresh_token) = refresh_token {
        push(&[r#","refresh_token":""#, refresh_token, r#"""#]);
    }
    push(&["}"]);
    body
}

/// The response that hands tokens to the client.
pub(crate) fn respond(settings: &ResolvedSettings, tokens: &Tokens, transport: Transport) -> Response {
    let by_cookie = transport.has_cookie();
    let refresh_token = tokens.refresh_token.as_deref();
    let body = token_response(tokens, refresh_token.filter(|_| !by_cookie));
    let mut response = ([(CONTENT_TYPE, "application/json")], body).into_response();
    // Also adds `Cache-Control: no-store`, which a body with tokens needs too.
    add_cookies(response.headers_mut(), if by_cookie { cookies(settings, tokens) } else { Vec::new() });
    response
}

/// The cookies for these tokens: the refresh cookie if the refresh token is new, the hint cookie if the client has a refresh
/// token, new or not, and the access cookie in any case.
fn cookies(settings: &ResolvedSettings, tokens: &Tokens) -> Vec<Option<HeaderValue>> {
    let refresh = tokens.refresh_token.as_deref();
    let refresh =
        refresh.map(|token| settings.refresh_cookie.header(token, tokens.session_expires_in, tokens.persistent));
    // Not only with a new refresh token: the session may have begun before the hint cookie was switched on.
    let hint = settings.hint_cookie.as_ref().filter(|_| tokens.refresh_in.is_some());
    let hint = hint.map(|hint| hint.header("1", tokens.session_expires_in, tokens.persistent));
    let access = settings.access_cookie.as_ref().filter(|access| fits(settings, access, tokens));
    let access = access.map(|access| access.header(&tokens.access_token, tokens.expires_in, tokens.persistent));
    refresh.into_iter().chain(hint).chain(access).collect()
}

/// Whether browsers keep the access cookie. A login fails otherwise; a refresh goes on, because the user has done nothing
/// wrong, and the next request refreshes again.
fn fits(settings: &ResolvedSettings, access: &ResolvedCookie, tokens: &Tokens) -> bool {
    let bytes = access.size(&tokens.access_token);
    let fits = bytes <= MAX_COOKIE_BYTES;
    if !fits && settings.notices.is_first(Notice::LargeCookie) {
        tracing::error!(
            target: "axum_refresh",
            session_id = %tokens.session_id,
            bytes,
            "the access cookie is left out, because browsers drop one of more than 4096 bytes; return smaller claims from the \
             claims hook"
        );
    }
    fits
}

/// Adds the cookies for these tokens to the response of a handler. A cookie that the handler sets itself (a login, a logout,
/// an update of the claims) stays as it is.
pub(super) fn add_to(settings: &ResolvedSettings, tokens: &Tokens, headers: &mut HeaderMap) {
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

/// Clears our cookies: after a logout, and never otherwise.
pub(crate) fn clear(settings: &ResolvedSettings, mut response: Response) -> Response {
    let mut cookies = Vec::new();
    if settings.transport.has_cookie() {
        cookies.push(settings.refresh_cookie.cleared());
        cookies.extend(settings.hint_cookie.as_ref().map(|hint| hint.cleared()));
    }
    cookies.extend(settings.access_cookie.as_ref().map(|access| access.cleared()));
    add_cookies(response.headers_mut(), cookies);
    response
}

fn add_cookies(headers: &mut HeaderMap, cookies: Vec<Option<HeaderValue>>) {
    for cookie in cookies.into_iter().flatten() {
        headers.append(SET_COOKIE, cookie);
    }
    // A shared cache must never hand one client's tokens to the next. Caches with a header of their own (RFC 9213) ignore
    // `Cache-Control`.
    let own: Vec<_> = headers.keys().filter(|name| name.as_str().ends_with("-cache-control")).cloned().collect();
    for name in own.into_iter().chain([CACHE_CONTROL]) {
        headers.insert(name, HeaderValue::from_static("no-store"));
    }
}

impl<C> LoginBuilder<C> {
    /// Logs in in place of whatever session this browser has: revokes the sessions of all our cookies in these headers, with
    /// the reason [`Replaced`](crate::RevocationReason::Replaced).
    ///
    /// Without it, a user who logs in again in the same browser leaves the session from before alive, though its cookie is
    /// overwritten: nobody can log it out, it counts for the [session limit](crate::Policy::max_sessions), and a copy of its
    /// refresh token stays valid.
    ///
    /// - A refresh cookie counts if it is signed by this `Auth` and has the secret of its session, whatever its generation;
    ///   an access cookie, if it is valid. A cookie that merely names a session does not count. Up to 32 of each are looked
    ///   at.
    /// - They count also if their user is another one: that session's cookie is about to be overwritten too. A cookie that
    ///   somebody has planted ends nothing but the session of whoever planted it.
    /// - One session of the same user is replaced in one step with the login. The others are revoked once the new session
    ///   exists, so a login that is refused or fails ends nothing.
    /// - The login never fails because of a cookie. A superseded refresh token is not taken for theft here. If the store fails
    ///   to revoke a session, the node tries again until it succeeds
    ///   ([`Event::RevocationDelayed`](crate::Event::RevocationDelayed)).
    ///
    /// A browser sends the refresh cookie only to paths below that of the
    /// [cookie](crate::Settings::refresh_cookie), so put the login route there, such as `/auth/login`. And give the route the
    /// [CSRF layer](crate::Auth::csrf), so that no other site can log a user in, and out by that.
    ///
    /// Costs one `load` of the store for each refresh cookie, and one `revoke` for each session beyond the first.
    ///
    /// ```
    /// use axum::Router;
    /// use axum::extract::State;
    /// use axum::http::HeaderMap;
    /// use axum::routing::post;
    /// use axum_refresh::{Auth, ClientInfo, Error, Login, NoClaims};
    ///
    /// async fn log_in(State(auth): State<Auth>, client: ClientInfo, headers: HeaderMap) -> Result<Login, Error> {
    ///     // Check the password here.
    ///     auth.login("alice", NoClaims {}).client(client).replacing_cookies_of(&headers).await
    /// }
    ///
    /// fn app(auth: &Auth) -> Router<Auth> {
    ///     Router::new().route("/auth/login", post(log_in).layer(auth.csrf())).nest("/auth", auth.router())
    /// }
    /// ```
    pub fn replacing_cookies_of(self, headers: &HeaderMap) -> Self {
        let settings = Arc::clone(self.resolved());
        if !settings.transport.has_cookie() {
            return self;
        }
        let access = settings.access_cookie.iter().flat_map(|access| cookie::values(headers, &access.name));
        self.replacing_tokens(cookie::values(headers, &settings.refresh_cookie.name), access)
    }
}

/// # Authenticating again
impl<C: Claims> Auth<C> {
    /// The session of the refresh cookie in these headers, also if it is idle or the client has changed, so that a refresh would
    /// be refused: for a handler that authenticates its user again and then calls [`reauthenticated`](Self::reauthenticated).
    /// Nothing is written, and no token is issued.
    ///
    /// It is the session's secret that NIST SP 800-63B-4 §2.2.3 speaks of: after the idle time at AAL2, it and one factor are
    /// enough.
    ///
    /// None if there is no such cookie, or a refresh would be refused for another reason: the token is invalid or superseded, or
    /// the session is revoked or expired. Then the user logs in. Of several cookies, that of the highest generation counts, as
    /// for a refresh.
    ///
    /// A browser sends the refresh cookie only to paths below that of the
    /// [cookie](crate::Settings::refresh_cookie), so put the route there, and give it the [CSRF layer](Self::csrf).
    ///
    /// # Errors
    ///
    /// - [`Error::RefreshBusy`] if a race between several refreshes is not decided yet.
    /// - [`Error::Store`] if the store fails.
    ///
    /// ```
    /// use axum::extract::State;
    /// use axum::http::{HeaderMap, StatusCode};
    /// use axum::routing::post;
    /// use axum::{Json, Router};
    /// use axum_refresh::rejection::Problem;
    /// use axum_refresh::{Auth, ClientInfo, Error, Login};
    ///
    /// const BAD_CREDENTIALS: Problem = Problem::new(StatusCode::UNAUTHORIZED, "bad_credentials");
    ///
    /// # async fn verify_password(_user_id: &str, _password: &str) -> bool { true }
    /// /// For `POST /auth/reauthenticate`.
    /// async fn reauthenticate(
    ///     State(auth): State<Auth>,
    ///     client: ClientInfo,
    ///     headers: HeaderMap,
    ///     Json(password): Json<String>,
    /// ) -> axum::response::Result<Login> {
    ///     let session = auth.session_of_cookies(&headers).await?.ok_or(Error::RefreshTokenInvalid)?;
    ///     if !verify_password(&session.user_id, &password).await {
    ///         return Err(BAD_CREDENTIALS.into());
    ///     }
    ///     Ok(auth.reauthenticated(&session).client(client).amr(["pwd"]).await?)
    /// }
    ///
    /// fn app(auth: &Auth) -> Router<Auth> {
    ///     let route = post(reauthenticate).layer(auth.csrf());
    ///     Router::new().route("/auth/reauthenticate", route).nest("/auth", auth.router())
    /// }
    /// ```
    pub async fn session_of_cookies(&self, headers: &HeaderMap) -> Result<Option<Session>, Error> {
        let settings = self.resolved();
        if !settings.transport.has_cookie() {
            return Ok(None);
        }
        let user_agent = headers.get(USER_AGENT).map(HeaderValue::as_bytes).unwrap_or_default();
        let client = ClientInfo::new().user_agent(&String::from_utf8_lossy(user_agent));
        self.session_of_newest(cookie::values(headers, &settings.refresh_cookie.name), Some(client)).await
    }
}

impl IntoResponse for Login {
    fn into_response(self) -> Response {
        respond(&self.settings, &self.tokens, self.transport)
    }
}

/// As a part of another response, such as `(login, Redirect::to("/"))` after a form, it sets the cookies and leaves the body
/// alone. Tokens that are transported in the body cannot be a part of another response: that is 500 and an error in the log.
impl IntoResponseParts for Login {
    type Error = Response;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Self::Error> {
        if !self.transport.has_cookie() {
            tracing::error!(target: "axum_refresh", "a login with Transport::Body was returned as a part of another response; return it alone, or use Transport::Cookie");
            return Err(Problem::INTERNAL.into_response());
        }
        add_cookies(parts.headers_mut(), cookies(&self.settings, &self.tokens));
        Ok(parts)
    }
}
