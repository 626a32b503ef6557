//! What handlers take: who is calling, and from where.

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::extract::connect_info::{ConnectInfo, MockConnectInfo};
use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::Response;
use http::HeaderValue;
use http::StatusCode;
use http::header::{HeaderName, USER_AGENT};
use http::request::Parts;

use super::gate::{Remembered, refusal};
use super::problem::Problem;
use crate::auth::{AuthUser, Claims};
use crate::client::ClientInfo;
use crate::error::Error;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Behind [`Auth::layer`](crate::Auth::layer) or [`Auth::guard`](crate::Auth::guard). An anonymous request that was let
/// in is refused with 401 `access_token_missing`; a handler with no layer before it is 500, because then nothing was
/// checked at all.
impl<C: Claims, S: Sync> FromRequestParts<S> for AuthUser<C> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let Some(known) = parts.extensions.get::<Remembered<C>>() else {
            let settings = crate::settings::Settings::default();
            tracing::error!(
                target: "axum_refresh",
                path = parts.uri.path(),
                "AuthUser is taken where neither Auth::layer nor Auth::guard has checked"
            );
            return Err(refusal(&settings, parts, Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal")));
        };
        match &known.token {
            Some(token) => Ok(Self::from(&**token)),
            None => Err(refusal(&known.node.settings, parts, Problem::from(&Error::AccessTokenMissing))),
        }
    }
}

/// None for an anonymous request that was let in. Never refuses.
impl<C: Claims, S: Sync> OptionalFromRequestParts<S> for AuthUser<C> {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        let token = parts.extensions.get::<Remembered<C>>().and_then(|known| known.token.as_deref());
        Ok(token.map(Self::from))
    }
}

/// The address of the connection wants
/// [`into_make_service_with_connect_info::<SocketAddr>`](axum::Router::into_make_service_with_connect_info); without it
/// the client's address is unknown. Never refuses.
impl<S: Sync> FromRequestParts<S> for ClientInfo {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
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
    let lines = parts.headers.get_all(FORWARDED_FOR).into_iter();
    let lines: Vec<_> = lines.map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
    if !lines.is_empty() {
        client = client.forwarded_for(lines.join(","));
    }
    if let Some(user_agent) = parts.headers.get(USER_AGENT).map(HeaderValue::as_bytes) {
        client = client.user_agent(&String::from_utf8_lossy(user_agent));
    }
    client
}
