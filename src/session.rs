//! The plain data of a session. No rules, no I/O.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::display::Base64Display;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::time::Timestamp;

/// Identifies one session for its whole life, however often it is refreshed: the `sid` of its access tokens and the
/// `id` in a list of sessions. 128 bits, written as 22 characters of base64url.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// Generates an id for a session of `user_id`.
    ///
    /// The first four bits are the [`shard`](Self::shard) of the user id, so that a store that is spread over several
    /// machines can keep a session and its user's other sessions in one place. The other 124 bits are random.
    pub(crate) fn generate(user_id: &str) -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        let [first, ..] = &mut bytes;
        *first = (*first & 0x0f) | (Self::shard_of(user_id) << 4);
        Ok(Self(bytes))
    }

    /// Returns the shard (0 to 15) that this session shares with all sessions of its user.
    pub const fn shard(self) -> u8 {
        let [first, ..] = self.0;
        first >> 4
    }

    /// Returns the shard (0 to 15) of all sessions of `user_id`.
    pub fn shard_of(user_id: &str) -> u8 {
        let digest: [u8; 32] = Sha256::digest(user_id.as_bytes()).into();
        let [first, ..] = digest;
        first >> 4
    }

    /// Creates an id from the 16 bytes that a store keeps.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the 16 bytes that a store keeps.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Base64Display::new(&self.0, &URL_SAFE_NO_PAD).fmt(f)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// The error for a text that is not a session id: 22 characters of base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid session id; expected 22 characters of base64url")]
pub struct ParseSessionIdError;

impl FromStr for SessionId {
    type Err = ParseSessionIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 16];
        match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
            Ok(16) => Ok(Self(bytes)),
            _ => Err(ParseSessionIdError),
        }
    }
}

impl Serialize for SessionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The SHA-256 hash of a refresh token's secret. A store keeps this hash and never sees the secret. Hashes are compared
/// in constant time, and the `Debug` output does not show them.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Hashes the secret of a refresh token.
    pub(crate) fn of(secret: &[u8; 32]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// Creates a hash from the 32 bytes that a store keeps.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 bytes that a store keeps.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretHash {}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

/// Why a session or an access token was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RevocationReason {
    /// The user logged out.
    Logout,
    /// The user revoked the session from another one of their sessions.
    RevokedByUser,
    /// An administrator revoked it.
    RevokedByAdmin,
    /// A superseded refresh token was presented again, so either it was stolen or the owner's was.
    Reuse,
    /// The session was used from another address or another browser than it is bound to, with
    /// [`BindingMode::Revoke`](crate::config::BindingMode::Revoke).
    ClientMismatch,
    /// The user logged in with the session limit reached, and this was the oldest session.
    Evicted,
    /// A new login of the user replaced the session: see [`LoginBuilder::replacing`](crate::LoginBuilder::replacing).
    Replaced,
    /// Whoever [acted](crate::LoginBuilder::acting) for the user in it did so from a session that has ended.
    ActorEnded,
    /// The identity provider has ended the session that it [belongs to](crate::LoginBuilder::external).
    IdentityProvider,
    /// Any other reason.
    Other,
}

/// The reason in words, such as `logout` or `client mismatch`.
impl fmt::Display for RevocationReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Logout => "logout",
            Self::RevokedByUser => "revoked by the user",
            Self::RevokedByAdmin => "revoked by an administrator",
            Self::Reuse => "reuse of a refresh token",
            Self::ClientMismatch => "client mismatch",
            Self::Evicted => "evicted by a newer login",
            Self::Replaced => "replaced by a newer login",
            Self::ActorEnded => "the actor's session has ended",
            Self::IdentityProvider => "ended by the identity provider",
            Self::Other => "other",
        })
    }
}

/// When and why something was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Revocation {
    /// The time of the revocation.
    pub at: Timestamp,
    /// The reason.
    pub reason: RevocationReason,
}

/// The client that logged in, as its session remembers it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Client {
    /// The client's IP address, if it is known.
    pub ip: Option<IpAddr>,
    /// The client's `User-Agent` header, cut to 512 bytes.
    pub user_agent: Option<Arc<str>>,
    /// The name that the app gave the client's device ("Anna's laptop"), cut to 128 bytes.
    pub label: Option<Box<str>>,
    /// Who uses the client in the user's place, if it is not the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<Arc<Actor>>,
}

/// Somebody who acts for the user of a session: an administrator who looks into the user's account, for example. The
/// session ends together with the one that they act from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Actor {
    /// The app's own id of whoever acts: the `sub` in the `act` claim (RFC 8693 §4.1).
    #[serde(rename = "sub")]
    pub user_id: Arc<str>,
    /// The session that they act from: the `sid` in the `act` claim.
    #[serde(rename = "sid")]
    pub session_id: SessionId,
}

/// When and how the user of a session was authenticated. Part of every access token of the session, and never changes: a
/// new authentication begins another session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authentication {
    /// When the user was actively authenticated: the claim `auth_time` (OpenID Connect Core §2).
    #[serde(rename = "auth_time")]
    pub time: Timestamp,
    /// The authentication context class that was reached: the claim `acr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acr: Option<Box<str>>,
    /// The authentication methods that were used, such as `pwd` and `otp` (RFC 8176): the claim `amr`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub amr: Vec<Box<str>>,
}

impl Authentication {
    /// One of which nothing but the time is known.
    pub const fn at(time: Timestamp) -> Self {
        Self { time, acr: None, amr: Vec::new() }
    }
}

/// The hash of a session at an identity provider, from which a session of this app began. A store finds sessions by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExternalId([u8; 32]);

impl ExternalId {
    /// Hashes the issuer and the session id (`sid`) of an identity provider, for sessions of this realm.
    pub(crate) fn of(realm: Option<&str>, issuer: &str, session_id: &str) -> Self {
        let mut hash = Sha256::new();
        for part in [realm.unwrap_or_default(), issuer, session_id] {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// Creates an id from the 32 bytes that a store keeps.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 bytes that a store keeps.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A live session, as a list of the user's sessions shows it: see [`Auth::sessions`](crate::Auth::sessions).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Session {
    /// Identifies the session.
    pub id: SessionId,
    /// The app's own id of the user, as given to [`Auth::login`](crate::Auth::login).
    pub user_id: Arc<str>,
    /// The name that the app gave the session's device at login, cut to 128 bytes.
    pub label: Option<Box<str>>,
    /// The `User-Agent` header at login, cut to 512 bytes.
    pub user_agent: Option<Arc<str>>,
    /// The client's IP address at login, if it was known.
    pub ip: Option<IpAddr>,
    /// When the user was actively authenticated: the time of the login, unless the app has
    /// [set another](crate::LoginBuilder::auth_time).
    pub auth_time: SystemTime,
    /// The [authentication context class](crate::LoginBuilder::acr) of the login.
    pub acr: Option<Box<str>>,
    /// The [authentication methods](crate::LoginBuilder::amr) of the login.
    pub amr: Vec<Box<str>>,
    /// Who acts for the user in this session, if it is not the user: see [`LoginBuilder::acting`](crate::LoginBuilder::acting).
    pub actor: Option<Arc<Actor>>,
    /// When the session began.
    pub created_at: SystemTime,
    /// When the client last used a token of the session, accurate to a twentieth part of the
    /// [shortest idle timeout](crate::Policy::min_idle_timeout), and to 5 minutes.
    pub last_seen_at: SystemTime,
    /// When the session ends at the latest. Refreshing does not move it; idle time and revocation may end the session
    /// sooner.
    pub expires_at: SystemTime,
}

impl From<&Session> for SessionId {
    fn from(session: &Session) -> Self {
        session.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_is_read_back_as_it_was_written() {
        let id = SessionId::generate("alice").unwrap();
        assert_eq!(id.to_string().len(), 22);
        assert_eq!(id.to_string().parse(), Ok(id));
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<SessionId>(&json).unwrap(), id);
    }

    #[test]
    fn a_session_id_has_only_one_spelling() {
        let text = SessionId::from_bytes([0; 16]).to_string();
        assert_eq!(text, "AAAAAAAAAAAAAAAAAAAAAA");
        for other in [
            "",
            "AAAAAAAAAAAAAAAAAAAAAB",
            "AAAAAAAAAAAAAAAAAAAAAA==",
            "AAAAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAAA+/",
            "ä",
        ] {
            assert_eq!(other.parse::<SessionId>(), Err(ParseSessionIdError), "{other}");
        }
    }

    #[test]
    fn all_sessions_of_a_user_share_a_shard() {
        for user in ["alice", "bob", "", "日本"] {
            let id = SessionId::generate(user).unwrap();
            assert_eq!(id.shard(), SessionId::shard_of(user));
            assert!(id.shard() < 16);
        }
        let shards: std::collections::HashSet<_> = (0..200).map(|n| SessionId::shard_of(&n.to_string())).collect();
        assert_eq!(shards.len(), 16);
    }

    #[test]
    fn two_sessions_never_share_an_id() {
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| SessionId::generate("alice").unwrap()).collect();
        assert_eq!(ids.len(), 1000);
    }

    #[test]
    fn the_debug_output_of_a_secret_hash_does_not_show_it() {
        let hash = SecretHash::of(&[7; 32]);
        assert_eq!(format!("{hash:?}"), "SecretHash(..)");
        assert_eq!(hash, SecretHash::of(&[7; 32]));
        assert_ne!(hash, SecretHash::of(&[8; 32]));
    }
}
