//! Why something was refused.

use std::fmt;

use crate::store::StoreError;

/// Why a login, a refresh or a request was refused, or could not be carried out.
///
/// As an axum response it is the refusal that the [HTTP contract](crate::docs::http) has for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A protected route was called without an access token.
    #[error("no access token")]
    AccessTokenMissing,
    /// Malformed, of another type or algorithm, with a signature, issuer or audience that is not ours, or from the
    /// future.
    #[error("the access token is not valid")]
    AccessTokenInvalid,
    /// The access token is past its `exp`.
    #[error("the access token has expired")]
    AccessTokenExpired,
    /// The access token, its session or its user was revoked.
    #[error("the access token was revoked")]
    AccessTokenRevoked,
    /// No refresh token was sent.
    #[error("no refresh token")]
    RefreshTokenMissing,
    /// Malformed, not signed by us, or of a session that does not exist.
    #[error("the refresh token is not valid")]
    RefreshTokenInvalid,
    /// An old refresh token: somebody has stolen one. The session has ended.
    #[error("the refresh token was used before")]
    RefreshTokenReused,
    /// The session was ended.
    #[error("the session was ended")]
    SessionRevoked,
    /// The session has reached its absolute lifetime.
    #[error("the session has expired")]
    SessionExpired,
    /// Nothing was heard of the client for too long.
    #[error("the session was idle for too long")]
    SessionIdle,
    /// The client does not look like the one that logged in.
    #[error("another client than the one that logged in")]
    ClientMismatch,
    /// The app's claims hook does not want this user any more.
    #[error("the user was refused")]
    UserRefused,
    /// There is no such live session, or it is somebody else's.
    #[error("no such session")]
    SessionNotFound,
    /// A race that is not decided yet: to be tried again in a second.
    #[error("too many refreshes at once")]
    RefreshBusy,
    /// The user has as many sessions as the policy allows.
    #[error("the user has too many sessions")]
    SessionLimit,
    /// A user id that is empty or longer than 255 bytes.
    #[error("a user id has 1 to 255 bytes")]
    InvalidUserId,
    /// The app's claims do not fit into an access token.
    #[error("claims: {0}")]
    Claims(#[from] ClaimsError),
    /// The store failed or took too long. Nobody is logged out for that.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The app's claims hook failed.
    #[error("claims hook: {0}")]
    Hook(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The operating system had no randomness to give.
    #[error("no randomness: {0}")]
    Random(#[from] getrandom::Error),
}

impl Error {
    /// Whether a refresh token that was refused for this is worth nothing any more.
    pub(crate) const fn is_the_end(&self) -> bool {
        matches!(
            self,
            Self::RefreshTokenInvalid
                | Self::RefreshTokenReused
                | Self::SessionRevoked
                | Self::SessionExpired
                | Self::SessionIdle
        )
    }

    /// The code that a client sees.
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
            Self::UserRefused => "user_refused",
            Self::SessionNotFound => "session_not_found",
            Self::RefreshBusy => "refresh_busy",
            Self::SessionLimit => "session_limit",
            Self::Store(_) | Self::Hook(_) => "store_unavailable",
            Self::InvalidUserId | Self::Claims(_) | Self::Random(_) => "internal",
        }
    }
}

/// Claims that do not fit into an access token.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClaimsError {
    /// They are not a JSON object: a number, a list, `()`.
    NotAnObject,
    /// They use a name that is the token's own: `iss`, `aud`, `sub`, `sid`, `gen`, `jti`, `iat`, `exp` or `nbf`.
    Reserved(String),
    /// They cannot be written as JSON, or what was written at login cannot be read any more.
    Json(serde_json::Error),
}

impl fmt::Display for ClaimsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("they are not a JSON object"),
            Self::Reserved(name) => write!(f, "the name {name:?} is the token's own"),
            Self::Json(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ClaimsError {}
