//! Access for the fuzz targets in `fuzz/` to private parsers: thin handles without rules of their own. Exists only under
//! `--cfg fuzzing`, which `cargo fuzz` sets, and is not part of the API.

#![allow(missing_debug_implementations, reason = "only the fuzz targets see them")]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum_core::response::{IntoResponse as _, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use serde::de::DeserializeOwned;

use crate::client::ClientInfo;
use crate::client::user_agent::{self, Family};
use crate::config::resolved::{ResolvedCookie, ResolvedSettings};
use crate::config::{CookieSettings, Settings, Transport};
use crate::feed::lines::{Lines, Received};
use crate::http::admin::RevokeTokenRequest;
use crate::http::{bearer, cookie, negotiate, tokens};
use crate::session::{Actor, Authentication, SecretHash, SessionId};
use crate::time::Timestamp;
use crate::token::access::{self, AccessKeys, AccessTokenParams};
use crate::token::id::TokenId;
use crate::token::keys::{Purpose, Secret};
use crate::token::refresh::{self, RefreshKeys};
use crate::token::ring::Key;

/// The keys of the tokens, so that a target can sign what it has changed.
pub struct Keys {
    /// Its first byte is the key id of refresh tokens.
    pub refresh_key_id: [u8; 32],
    /// The HMAC key of their tag.
    pub refresh_tag: [u8; 32],
    /// The HMAC key of access tokens.
    pub access: [u8; 32],
}

/// The keys of an app with this secret and issuer.
pub fn keys(secret: &Secret, issuer: &str) -> Keys {
    Keys {
        refresh_key_id: *secret.derive(issuer, Purpose::RefreshKeyId),
        refresh_tag: *secret.derive(issuer, Purpose::RefreshTag),
        access: *secret.derive(issuer, Purpose::AccessHs256),
    }
}

/// Reads and writes refresh tokens.
pub struct RefreshTokens(RefreshKeys);

/// A refresh token that was accepted.
pub struct RefreshToken(refresh::RefreshToken);

impl RefreshTokens {
    /// Signs with one secret and verifies with several.
    pub fn new(signing: &Secret, others: &[Secret], issuer: &str) -> Self {
        Self(RefreshKeys::new(signing, others, issuer))
    }

    /// The token's text.
    pub fn encode(&self, token: &RefreshToken) -> String {
        self.0.encode(&token.0)
    }

    /// Decodes a token; none if its tag is invalid.
    pub fn decode(&self, text: &[u8]) -> Option<RefreshToken> {
        self.0.decode(text).map(RefreshToken)
    }
}

impl RefreshToken {
    /// The session that the token belongs to.
    pub fn session(&self) -> SessionId {
        self.0.session_id
    }

    /// The generation of the token.
    pub fn generation(&self) -> u32 {
        self.0.generation
    }

    /// The hash of the secret, as a store keeps it.
    pub fn secret_hash(&self) -> SecretHash {
        self.0.secret_hash()
    }
}

/// Reads and writes access tokens.
pub struct AccessTokens(AccessKeys);

/// An access token that was accepted.
pub struct AccessToken<C>(access::AccessToken<C>);

impl AccessTokens {
    /// HS256; signs with one secret and verifies with several. None if the key does not verify what it signs.
    pub fn new(signing: &Secret, others: &[Secret], settings: &Settings) -> Option<Self> {
        let key = |secret| Key::hs256(secret, &settings.issuer);
        AccessKeys::new(key(signing), others.iter().map(key).collect(), settings).ok().map(Self)
    }

    /// A token for generation 3 of a session that does not end.
    pub fn issue(
        &self,
        user: &str,
        session: SessionId,
        now: Timestamp,
        ttl: Duration,
        (authentication, actor): (&Authentication, Option<&Actor>),
        claims: &str,
    ) -> Option<(String, Timestamp)> {
        let params = AccessTokenParams {
            authentication,
            actor,
            user_id: user,
            session_id: session,
            generation: 3,
            now,
            ttl,
            session_expires_at: Timestamp::MAX,
            random: [7; 8],
            claims,
        };
        self.0.issue(params).map(|issued| (issued.token, issued.expires_at))
    }

    /// Verifies a token; none if the signature, issuer or audience is invalid.
    pub fn verify<C: DeserializeOwned>(&self, token: &str) -> Option<AccessToken<C>> {
        self.0.verify(token).ok().map(AccessToken)
    }

    /// Whether the token is valid at this time.
    pub fn check_times<C>(&self, token: &AccessToken<C>, now: Timestamp) -> bool {
        token.0.check_times(now).is_ok()
    }
}

impl<C> AccessToken<C> {
    /// `sub`
    pub fn user(&self) -> &Arc<str> {
        &self.0.user_id
    }

    /// `sid`
    pub fn session(&self) -> SessionId {
        self.0.session_id
    }

    /// `gen`
    pub fn generation(&self) -> u32 {
        self.0.generation
    }

    /// `jti`
    pub fn id(&self) -> String {
        self.0.id.to_string()
    }

    /// To the millisecond.
    pub fn issued_at(&self) -> Timestamp {
        self.0.issued_at
    }

    /// To the millisecond.
    pub fn expires_at(&self) -> Timestamp {
        self.0.expires_at
    }

    /// `auth_time`, `acr` and `amr`, and `act`.
    pub fn authentication(&self) -> (Authentication, Option<Arc<Actor>>) {
        let context = self.0.context.as_deref().cloned().unwrap_or_default();
        (Authentication { time: self.0.auth_time, acr: context.acr, amr: context.amr }, context.actor)
    }

    /// The app's.
    pub fn claims(&self) -> &C {
        &self.0.claims
    }
}

/// A `jti` as it is written again, with its two times.
pub fn token_id(text: &str) -> Option<(String, Timestamp, Timestamp)> {
    TokenId::parse(text).map(|id| (id.to_string(), id.issued_at(), id.expires_at()))
}

/// The values of all cookies with this name.
pub fn cookie_values<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    cookie::values(headers, name)
}

/// The `Set-Cookie` header of a cookie.
pub fn set_cookie(
    settings: &Settings,
    cookie: &CookieSettings,
    value: Option<(&str, Duration)>,
) -> Option<HeaderValue> {
    let cookie = ResolvedCookie::new(cookie, settings, true);
    value.map_or_else(|| cookie.cleared(), |(value, max_age)| cookie.header(value, max_age, None))
}

/// The name under which a cookie is sent.
pub fn cookie_name(cookie: &CookieSettings, insecure: bool) -> String {
    cookie.full_name(insecure)
}

/// The credentials of `Authorization: Bearer`.
pub fn bearer(header: &HeaderValue) -> Option<&[u8]> {
    bearer::bearer(header)
}

/// Whether a request accepts a page.
pub fn wants_html(parts: &Parts) -> bool {
    negotiate::wants_html(&parts.headers)
}

/// A path as the value of `?next=`.
pub fn local_path(path: &str) -> String {
    negotiate::local_path(path)
}

/// The refresh tokens in a request, and how they came.
///
/// # Errors
/// The refusal, as a response.
pub async fn read_tokens(
    settings: &Settings,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Transport, Vec<Vec<u8>>), Response> {
    let settings = ResolvedSettings::new(settings.clone()).map_err(|_| Response::default())?;
    let presented = tokens::read(&settings, headers, body).await;
    presented.map(|presented| (presented.transport, presented.tokens)).map_err(|problem| problem.into_response())
}

/// The token that an administrator revokes.
pub enum Revoke {
    /// An access token, whole.
    Token(String),
    /// A `jti` and when its token expires; none if the time is out of range.
    Id(String, Option<SystemTime>),
}

/// The body of `POST /tokens/revoke`; none if the request has no body.
///
/// # Errors
/// The refusal, as a response.
pub async fn read_revoke(headers: &HeaderMap, body: Body) -> Result<Option<Revoke>, Response> {
    let which =
        tokens::read_json::<RevokeTokenRequest>(headers, body).await.map_err(|problem| problem.into_response())?;
    Ok(which.map(|which| match which {
        RevokeTokenRequest::Token { token } => Revoke::Token(token),
        RevokeTokenRequest::Id { jti, expires_at } => Revoke::Id(jti, expires_at.time()),
    }))
}

/// The client's address, by way of the trusted proxies.
pub fn client_ip(client: &ClientInfo, settings: &Settings) -> Option<IpAddr> {
    client.locate(settings).0
}

/// A User-Agent and a label as a session keeps them.
pub fn cut(user_agent: &str, label: &str) -> (Option<Arc<str>>, Option<Box<str>>) {
    let client = ClientInfo::new().user_agent(user_agent).label(label).resolve(&Settings::default()).0;
    (client.user_agent, client.label)
}

/// The program and its platform.
pub fn family(user_agent: &str) -> String {
    Family::of(user_agent).to_string()
}

/// Whether a session that is bound to the one accepts the other.
pub fn is_same_family(one: &str, other: &str) -> bool {
    user_agent::is_same_family(one, other)
}

/// The key ids of a JWK set and the public members of the keys, as this crate publishes them; the error otherwise.
#[cfg(feature = "signing")]
pub fn read_jwks(document: &[u8]) -> Result<Vec<(String, serde_json::Value)>, String> {
    let keys = crate::token::jwks::read(document).map_err(|error| error.to_string())?;
    Ok(keys.iter().map(|key| (key.id().to_owned(), key.jwk().unwrap_or_default())).collect())
}

/// What the feed of revocations says, read in pieces that end at these positions: for each what it is and its text. And whether
/// it could be read to its end.
pub fn read_feed(bytes: &[u8], ends: &[usize]) -> (Vec<(&'static str, String)>, bool) {
    let (mut lines, mut received) = (Lines::default(), Vec::new());
    let mut begin = 0;
    let mut is_read = true;
    for end in ends.iter().copied().chain([bytes.len()]) {
        let piece = bytes.get(begin..end).unwrap_or_default();
        begin = begin.max(end);
        is_read = is_read && lines.read(piece, &mut received).is_ok();
    }
    let said = received.into_iter().map(|received| match received {
        Received::Revoked(announcement) => ("revoked", serde_json::to_string(&announcement).unwrap_or_default()),
        Received::Position(id) => ("position", id),
        Received::Complete(millis) => ("complete", millis.to_string()),
    });
    (said.collect(), is_read)
}
