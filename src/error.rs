//! The errors of logins, refreshes and requests.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::config::SettingsError;
use crate::store::StoreError;

/// Why a login, a refresh or a request was refused or failed.
///
/// As an axum response it is `application/problem+json` with the status and the [`code`](Self::code) of the
/// [HTTP contract](crate::guide::http).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A protected route was called without an access token: 401 `access_token_missing`.
    #[error("the access token is missing")]
    AccessTokenMissing,
    /// The access token is malformed, of another type or algorithm, has an invalid signature, another issuer or
    /// audience, was issued in the future, or has claims that this version of the app cannot read: 401
    /// `access_token_invalid`.
    #[error("the access token is invalid")]
    AccessTokenInvalid,
    /// The access token has expired: 401 `access_token_expired`.
    #[error("the access token has expired")]
    AccessTokenExpired,
    /// The access token or its session was revoked: 401 `access_token_revoked`.
    #[error("the access token was revoked")]
    AccessTokenRevoked,
    /// The request has no refresh token: 401 `refresh_token_missing`.
    #[error("the refresh token is missing")]
    RefreshTokenMissing,
    /// The refresh token is malformed, not signed by this app, or of a session that does not exist:
    /// 401 `refresh_token_invalid`.
    #[error("the refresh token is invalid")]
    RefreshTokenInvalid,
    /// A superseded refresh token was presented again: either the thief or the owner presented it second. The session
    /// was revoked: 401 `refresh_token_reused`.
    #[error("the refresh token was used before; the session was revoked")]
    RefreshTokenReused,
    /// The session was revoked: 401 `session_revoked`.
    #[error("the session was revoked")]
    SessionRevoked,
    /// The session has reached its absolute [`lifetime`](crate::Policy::lifetime): 401 `session_expired`.
    #[error("the session has expired")]
    SessionExpired,
    /// The client has used no token of the session for the [`idle_timeout`](crate::Policy::idle_timeout) or longer:
    /// 401 `session_idle`.
    #[error("the session was idle for too long")]
    SessionIdle,
    /// The client does not match the one that logged in, by the policy's [`binding`](crate::Policy::binding):
    /// 401 `client_mismatch`.
    #[error("the client does not match the one that logged in")]
    ClientMismatch,
    /// The user has to authenticate again, more recently or more strongly, or because the client has changed
    /// ([`BindingMode::StepUp`](crate::config::BindingMode::StepUp)): 401 `insufficient_user_authentication`, with the
    /// challenge of RFC 9470 §3.
    #[error("the user has to authenticate again")]
    InsufficientAuthentication(StepUp),
    /// The app's [claims hook](crate::AuthBuilder::claims_hook) returned `None` for the user: 401 `user_refused`.
    #[error("the claims hook refused the user")]
    UserRefused,
    /// The claims kept with the session cannot be read by this version of the app. The session stays as it is, for a
    /// version that can: 401 `session_outdated`.
    #[error("the claims of the session cannot be read by this version of the app")]
    SessionOutdated,
    /// There is no such live session, or it is another user's: 404 `session_not_found`.
    #[error("the session was not found")]
    SessionNotFound,
    /// A race between several refreshes is not decided yet. The client should try again in a second: 409
    /// `refresh_busy`, with `Retry-After: 1`.
    #[error("several refreshes at once; try again in a second")]
    RefreshBusy,
    /// The user has reached the session limit, and the policy refuses further logins: 409 `session_limit`.
    #[error("the user has reached the session limit")]
    SessionLimitReached,
    /// The user id is empty, longer than 255 bytes, or contains a NUL: 500 `internal`.
    #[error("invalid user id; it must have 1 to 255 bytes and no NUL")]
    InvalidUserId,
    /// The app's claims do not fit into an access token: 500 `internal`.
    #[error("invalid claims: {0}")]
    Claims(#[from] ClaimsError),
    /// A login asks for what the settings do not allow: 500 `internal`. Or somebody acts for themselves or for two users at
    /// once, or wants to be [authenticated again](crate::Auth::reauthenticated) while they act: 403 `acting`.
    #[error("invalid login: {0}")]
    Login(#[from] LoginError),
    /// An authentication was required that no login can reach: 500 `internal`.
    #[error(transparent)]
    Requirement(#[from] SettingsError),
    /// The store failed or took too long. This logs nobody out: 503 `store_unavailable`, with `Retry-After: 2`.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The app's [claims hook](crate::AuthBuilder::claims_hook) failed. This logs nobody out: 503 `store_unavailable`,
    /// with `Retry-After: 2`.
    #[error("the claims hook failed: {0}")]
    Hook(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The app's [`Signer`](crate::keys::Signer) failed or took too long. This logs nobody out: 503 `store_unavailable`, with
    /// `Retry-After: 2`.
    #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "aws_lc_rs", feature = "signing"))))]
    #[error("the signer of access tokens failed: {0}")]
    Signer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The operating system returned no random bytes: 500 `internal`.
    #[error("the operating system returned no random bytes")]
    Random,
}

impl Error {
    /// Converts an error of the random number source, for `map_err`.
    pub(crate) const fn random(_: getrandom::Error) -> Self {
        Self::Random
    }

    /// Returns whether a refresh token that was refused with this error will never be accepted again, or not by this
    /// version of the app, so that it must not stand in the way of another one.
    pub(crate) const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::RefreshTokenInvalid
                | Self::RefreshTokenReused
                | Self::SessionRevoked
                | Self::SessionExpired
                | Self::SessionIdle
                | Self::SessionOutdated
        )
    }

    /// Returns the code that the client receives, as listed in the [HTTP contract](crate::guide::http).
    pub const fn code(&self) -> &'static str {
        match self {
            Self::AccessTokenMissing => "access_token_missing",
            Self::AccessTokenInvalid => "access_token_invalid",
            Self::AccessTokenExpired => "access_token_expired",
            Self::AccessTokenRevoked => "access_token_revoked",
            Self::RefreshTokenMissing => "refresh_token_missing",
            Self::RefreshTokenInvalid => "refresh_token_invalid",
            Self::RefreshTokenReused => "refresh_token_reused",
            Self::SessionRevoked => "session_revoked",
            Self::SessionExpired => "session_expired",
            Self::SessionIdle => "session_idle",
            Self::ClientMismatch => "client_mismatch",
            Self::InsufficientAuthentication(_) => "insufficient_user_authentication",
            Self::UserRefused => "user_refused",
            Self::SessionOutdated => "session_outdated",
            Self::SessionNotFound => "session_not_found",
            Self::RefreshBusy => "refresh_busy",
            Self::SessionLimitReached => "session_limit",
            Self::Store(_) | Self::Hook(_) => "store_unavailable",
            #[cfg(any(feature = "aws_lc_rs", feature = "signing"))]
            Self::Signer(_) => "store_unavailable",
            Self::Login(error) if error.is_acting() => "acting",
            Self::InvalidUserId | Self::Claims(_) | Self::Login(_) | Self::Requirement(_) | Self::Random => "internal",
        }
    }
}

/// The authentication that is needed to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepUp {
    /// How long ago the user may have been actively authenticated, in whole seconds: the parameter `max_age` of the challenge.
    pub max_age: Option<Duration>,
    /// The authentication context classes that are enough, separated by spaces: the parameter `acr_values`.
    pub acr_values: Option<Arc<str>>,
}

impl StepUp {
    /// An authentication that follows the request.
    pub(crate) const ANEW: Self = Self { max_age: Some(Duration::ZERO), acr_values: None };
}

/// Why claims do not fit into an access token.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClaimsError {
    /// The claims are not a JSON object, but a number, a list or `()`, for example.
    NotAnObject,
    /// A claim has a name that is reserved for the token's own claims: `iss`, `aud`, `sub`, `sid`, `gen`, `jti`, `iat`,
    /// `exp`, `nbf`, `auth_time`, `acr`, `amr` or `act`.
    Reserved(String),
    /// The claims cannot be written as JSON.
    Json(Box<dyn std::error::Error + Send + Sync>),
    /// The claims cannot be read back from what was written: a number is NaN or infinite, they are nested deeper than 127
    /// levels, or their type requires a field that it does not write.
    Unreadable(Box<dyn std::error::Error + Send + Sync>),
    /// The access token with the claims does not fit into the access cookie: browsers drop a cookie whose name and value have
    /// more than 4096 bytes (RFC 6265bis §5.6) without a word. 16 of them are left for later tokens of the session.
    TooLarge {
        /// The size of the name and the value of the cookie, in bytes.
        cookie_bytes: usize,
    },
}

impl fmt::Display for ClaimsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("not a JSON object; use a struct or a map"),
            Self::Reserved(name) => write!(f, "the name {name:?} is reserved for the token; rename the claim"),
            Self::Json(error) => error.fmt(f),
            Self::Unreadable(error) => write!(f, "they cannot be read back from the JSON that was written: {error}"),
            Self::TooLarge { cookie_bytes } => write!(
                f,
                "the access cookie would have {cookie_bytes} bytes, and browsers keep 4096; put less into the claims, and load \
                 the rest in the handler"
            ),
        }
    }
}

impl std::error::Error for ClaimsError {}

/// Why a login cannot have what the [`LoginBuilder`](crate::LoginBuilder) asks for. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// The authentication context class is not among the [`acr_values`](crate::Settings::acr_values).
    #[error("acr {0:?} is not among the setting `acr_values`; add it there, or use one of them")]
    UnknownAcr(String),
    /// The lifetime is 0, or longer than the [policy's](crate::Policy::lifetime).
    #[error(
        "the lifetime {asked:?} is not between 0 and {max:?}, the lifetime of the policy; shorten it, or raise that"
    )]
    Lifetime {
        /// What was asked for.
        asked: Duration,
        /// The lifetime of the policy.
        max: Duration,
    },
    /// The idle timeout is out of bounds.
    #[error(
        "the idle timeout {asked:?} is not between {min:?} and {max:?}; the bounds are `policy.min_idle_timeout` and \
         `policy.idle_timeout`"
    )]
    IdleTimeout {
        /// What was asked for.
        asked: Duration,
        /// The [least](crate::Policy::min_idle_timeout) that the policy allows.
        min: Duration,
        /// The [idle timeout](crate::Policy::idle_timeout) of the policy.
        max: Duration,
    },
    /// The actor is the user.
    #[error("the actor is the user; leave out `acting`")]
    ActsForSelf,
    /// The actor acts for somebody else already. Take the actor from their own access token.
    #[error("the actor acts for another user already; take the actor from their own access token")]
    ActorActs,
    /// Somebody acts for the user in the session, so the user cannot have been authenticated in it.
    #[error("somebody acts for the user in this session; authenticate the actor in their own session, and act anew")]
    Acting,
}

impl LoginError {
    /// Whether the client has asked for something that nobody who acts for a user may do.
    pub(crate) const fn is_acting(&self) -> bool {
        matches!(self, Self::ActsForSelf | Self::ActorActs | Self::Acting)
    }
}
