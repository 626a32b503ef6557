//! The extractors: the user behind a request, and the client.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use axum::extract::MatchedPath;
use axum::extract::connect_info::{ConnectInfo, MockConnectInfo};
use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, FORWARDED, HeaderName, LOCATION, USER_AGENT, VARY};
use http::request::Parts;
use http::{HeaderValue, StatusCode};

use super::identify::Identity;
use super::negotiate::login_redirect;
use super::problem::Problem;
use crate::auth::{AuthUser, Claims};
use crate::client::ClientInfo;
use crate::config::ResolvedSettings;
use crate::error::Error;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Why a request was refused by a layer or an extractor.
///
/// As a response it is `application/problem+json`, or a redirect to the [login page](crate::Settings::login_page) if the
/// app has one and the request asks for a page. Either response carries the [`Problem`] in its extensions.
#[derive(Clone)]
pub struct AuthRejection {
    problem: Problem,
    login_page: Option<HeaderValue>,
}

impl AuthRejection {
    pub(super) fn new(settings: &ResolvedSettings, parts: &Parts, problem: Problem) -> Self {
        let login_page = if problem.is_unauthorized() { login_redirect(settings, parts) } else { None };
        Self { problem, login_page }
    }

    /// The status of the refusal: 401, 403, 500 or 503. The response has 303 instead if it redirects to the login page.
    pub const fn status(&self) -> StatusCode {
        self.problem.status()
    }

    /// The code of the refusal, as listed in the [HTTP contract](crate::guide::http).
    pub const fn code(&self) -> &'static str {
        self.problem.code()
    }
}

impl fmt::Debug for AuthRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthRejection").field("status", &self.status()).field("code", &self.code()).finish()
    }
}

impl fmt::Display for AuthRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

impl std::error::Error for AuthRejection {}

impl IntoResponse for AuthRejection {
    fn into_response(self) -> Response {
        let Some(location) = self.login_page else { return self.problem.into_response() };
        let headers = [
            (LOCATION, location),
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (VARY, HeaderValue::from_static("accept")),
        ];
        let mut response = (StatusCode::SEE_OTHER, headers).into_response();
        response.extensions_mut().insert(self.problem);
        response
    }
}

/// The user, as found by [`Auth::layer`](crate::Auth::layer), [`Auth::guard`](crate::Auth::guard) or
/// [`Auth::pages`](crate::Auth::pages). An anonymous request is refused with 401 `access_token_missing`. Without any of
/// these layers, or with another claims type than theirs, the extractor fails with 500, because nothing was checked.
impl<C: Claims, S: Sync> FromRequestParts<S> for AuthUser<C> {
    type Rejection = AuthRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, AuthRejection> {
        let Some(identity) = parts.extensions.get::<Identity<C>>() else {
            report_missing_layer::<C>(parts, "AuthUser");
            return Err(AuthRejection { problem: Problem::INTERNAL, login_page: None });
        };
        match &identity.token {
            Some(token) => Ok(Self::from(&**token)),
            None => {
                let problem = Problem::from(&Error::AccessTokenMissing);
                Err(AuthRejection::new(&identity.settings, parts, problem))
            }
        }
    }
}

/// Logs that an extractor was used where no layer has checked the request.
fn report_missing_layer<C>(parts: &Parts, extractor: &'static str) {
    tracing::error!(
        target: "axum_refresh",
        path = parts.uri.path(),
        "{extractor} was extracted on a route without Auth::layer, Auth::guard or Auth::pages for claims of the type {}: \
         add one of them to the route, or take the claims type of the route's Auth",
        std::any::type_name::<C>()
    );
}

/// Whether this is the first optional user on a route that no layer for its claims has checked.
fn is_first_without_layer<C>(parts: &Parts) -> bool {
    static REPORTED: Mutex<BTreeSet<(String, &str)>> = Mutex::new(BTreeSet::new());
    let route = parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str).unwrap_or_default();
    let key = (route.to_owned(), std::any::type_name::<C>());
    REPORTED.lock().unwrap_or_else(PoisonError::into_inner).insert(key)
}

/// `None` for an anonymous request, and also if no layer for this claims type is on the route, which is logged as an
/// error. Never refuses.
impl<C: Claims, S: Sync> OptionalFromRequestParts<S> for AuthUser<C> {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        let Some(identity) = parts.extensions.get::<Identity<C>>() else {
            if is_first_without_layer::<C>(parts) {
                report_missing_layer::<C>(parts, "Option<AuthUser>");
            }
            return Ok(None);
        };
        Ok(identity.token.as_deref().map(Self::from))
    }
}

/// The peer address is known if the app is served with
/// [`into_make_service_with_connect_info::<SocketAddr>`](axum::Router::into_make_service_with_connect_info). Never refuses.
impl<S: Sync> FromRequestParts<S> for ClientInfo {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(client_info(parts))
    }
}

pub(crate) fn client_info(parts: &Parts) -> ClientInfo {
    let mut client = ClientInfo::new();
    let connected = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let mocked = || parts.extensions.get::<MockConnectInfo<SocketAddr>>().map(|info| info.0);
    if let Some(peer) = connected.or_else(mocked) {
        client = client.ip(peer.ip());
    }
    if let Some(list) = joined(parts, &X_FORWARDED_FOR) {
        client = client.forwarded_for(list);
    }
    if let Some(list) = joined(parts, &FORWARDED) {
        client = client.forwarded(list);
    }
    if let Some(user_agent) = parts.headers.get(USER_AGENT).map(HeaderValue::as_bytes) {
        client = client.user_agent(&String::from_utf8_lossy(user_agent));
    }
    client
}

/// The lines of a list-valued header as one (RFC 9110 §5.3).
fn joined(parts: &Parts, name: &HeaderName) -> Option<String> {
    let lines = parts.headers.get_all(name).into_iter();
    lines.map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned()).reduce(|list, line| list + ", " + &line)
}
