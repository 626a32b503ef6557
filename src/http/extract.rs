//! The extractors: the user behind a request, and the client.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use axum::extract::MatchedPath;
use axum::extract::connect_info::{ConnectInfo, MockConnectInfo};
use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use http::header::{FORWARDED, HeaderName, USER_AGENT};
use http::request::Parts;
use http::{Extensions, HeaderValue};

use super::head::Head;
use super::identify::Identity;
use super::problem::Problem;
use super::rejection::AuthRejection;
use crate::auth::{AuthUser, Claims};
use crate::client::ClientInfo;
use crate::error::Error;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// # In services that are not axum handlers
impl<C: Claims> AuthUser<C> {
    /// The user of a request, as found by a layer around the service. None if the request is anonymous, and also if no layer
    /// of an [`Auth`](crate::Auth) with this claims type has checked it, which is logged as an error.
    ///
    /// In a tower or hyper service they are the extensions of the `http::Request`, in tonic those of the `tonic::Request`.
    /// Handlers of axum take an `AuthUser` as an argument instead.
    ///
    /// ```
    /// use axum_refresh::AuthUser;
    /// use http::{Request, Response};
    ///
    /// async fn greet<B>(request: Request<B>) -> Response<String> {
    ///     let user: Option<AuthUser> = AuthUser::from_extensions(request.extensions());
    ///     Response::new(user.map_or("Hello".to_owned(), |user| format!("Hello {}", user.id)))
    /// }
    /// ```
    pub fn from_extensions(extensions: &Extensions) -> Option<Self> {
        let Some(identity) = extensions.get::<Identity<C>>() else {
            if is_first_without_layer::<C>(extensions) {
                report_missing_layer::<C>(route(extensions), "AuthUser::from_extensions");
            }
            return None;
        };
        identity.user().map(|token| Self::from(&**token))
    }
}

/// The user, as found by [`Auth::layer`](crate::Auth::layer), [`Auth::guard`](crate::Auth::guard) or
/// [`Auth::pages`](crate::Auth::pages). An anonymous request is refused with 401 `access_token_missing`. Without any of
/// these layers, or with another claims type than theirs, the extractor fails with 500, because nothing was checked.
impl<C: Claims, S: Sync> FromRequestParts<S> for AuthUser<C> {
    type Rejection = AuthRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, AuthRejection> {
        let Some(identity) = parts.extensions.get::<Identity<C>>() else {
            report_missing_layer::<C>(parts.uri.path(), "AuthUser");
            return Err(AuthRejection::unchecked());
        };
        match identity {
            Identity::User(token, _) => Ok(Self::from(&**token)),
            Identity::Anonymous { settings, reason } => {
                let problem = reason.clone().unwrap_or_else(|| Problem::from(&Error::AccessTokenMissing));
                Err(AuthRejection::new(settings, parts, problem))
            }
        }
    }
}

/// Logs that an extractor was used where no layer has checked the request.
fn report_missing_layer<C>(path: &str, extractor: &'static str) {
    tracing::error!(
        target: "axum_refresh",
        path,
        "{extractor} was extracted on a route without Auth::layer, Auth::guard or Auth::pages for claims of the type {}: \
         add one of them to the route, or take the claims type of the route's Auth",
        std::any::type_name::<C>()
    );
}

/// Whether this is the first optional user on a route that no layer for its claims has checked.
fn is_first_without_layer<C>(extensions: &Extensions) -> bool {
    static REPORTED: Mutex<BTreeSet<(String, &str)>> = Mutex::new(BTreeSet::new());
    let key = (route(extensions).to_owned(), std::any::type_name::<C>());
    REPORTED.lock().unwrap_or_else(PoisonError::into_inner).insert(key)
}

/// The route as the app has written it, if axum has routed the request.
fn route(extensions: &Extensions) -> &str {
    extensions.get::<MatchedPath>().map(MatchedPath::as_str).unwrap_or_default()
}

/// `None` for an anonymous request, and also if no layer for this claims type is on the route, which is logged as an
/// error. Never refuses.
impl<C: Claims, S: Sync> OptionalFromRequestParts<S> for AuthUser<C> {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        let Some(identity) = parts.extensions.get::<Identity<C>>() else {
            if is_first_without_layer::<C>(&parts.extensions) {
                report_missing_layer::<C>(parts.uri.path(), "Option<AuthUser>");
            }
            return Ok(None);
        };
        Ok(identity.user().map(|token| Self::from(&**token)))
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

pub(crate) fn client_info(head: &impl Head) -> ClientInfo {
    let mut client = ClientInfo::new();
    let connected = head.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let mocked = || head.extensions().get::<MockConnectInfo<SocketAddr>>().map(|info| info.0);
    if let Some(peer) = connected.or_else(mocked) {
        client = client.ip(peer.ip());
    }
    if let Some(list) = joined(head, &X_FORWARDED_FOR) {
        client = client.forwarded_for(list);
    }
    if let Some(list) = joined(head, &FORWARDED) {
        client = client.forwarded(list);
    }
    if let Some(user_agent) = head.headers().get(USER_AGENT).map(HeaderValue::as_bytes) {
        client = client.user_agent(&String::from_utf8_lossy(user_agent));
    }
    // Navigations from another site (a single sign-on, a link) end in a page of this one.
    let fetch_metadata = |name: &str| head.headers().get(name).map(HeaderValue::as_bytes);
    if fetch_metadata("sec-fetch-site") == Some(b"cross-site") && fetch_metadata("sec-fetch-mode") == Some(b"cors") {
        client = client.cross_site();
    }
    client
}

/// The lines of a list-valued header as one (RFC 9110 §5.3).
fn joined(head: &impl Head, name: &HeaderName) -> Option<String> {
    let lines = head.headers().get_all(name).into_iter();
    lines.map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned()).reduce(|list, line| list + ", " + &line)
}
