//! Plain data: what a session is. No rules, no I/O.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// A point in time, in whole milliseconds since the Unix epoch.
///
/// Stores keep it as an integer, so that no database's own idea of a time gets between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Later than every session.
    pub const MAX: Self = Self(i64::MAX);

    /// From milliseconds since the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// `self + duration`; saturates.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// `self - duration`; saturates.
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }

    /// How long ago `earlier` was: zero where it lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Whether at least `duration` has passed since `earlier`. Signed: a clock that is behind says no.
    pub fn is_past(self, earlier: Self, duration: Duration) -> bool {
        self.0.saturating_sub(earlier.0) >= millis(duration)
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(millis(after)),
            Err(before) => Self(-millis(before.duration())),
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        let distance = Duration::from_millis(time.0.unsigned_abs());
        let moved = if time.0 < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
        moved.unwrap_or(UNIX_EPOCH)
    }
}

/// Names one session for its whole life, however often it is refreshed: the `sid` of its access tokens and the `id`
/// in a listing. 128 bits; written as 22 characters of base64url.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// A new, random id for a session of `user`.
    ///
    /// Its first four bits are [`shard`](Self::shard) of the user id, so that a store that is spread over several
    /// machines can find a session and its user's other sessions in one place. The other 124 bits are random.
    pub(crate) fn generate(user: &str) -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        let [first, ..] = &mut bytes;
        *first = (*first & 0x0f) | (Self::shard_of(user) << 4);
        Ok(Self(bytes))
    }

    /// The shard (0 to 15) this session shares with all sessions of its user.
    pub const fn shard(self) -> u8 {
        let [first, ..] = self.0;
        first >> 4
    }

    /// The shard (0 to 15) of all sessions of `user`.
    pub fn shard_of(user: &str) -> u8 {
        let digest: [u8; 32] = Sha256::digest(user.as_bytes()).into();
        let [first, ..] = digest;
        first >> 4
    }

    /// From the 16 bytes a store kept.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes a store keeps.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// The text is not 22 characters of base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a session id")]
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

/// SHA-256 of a refresh token's secret: all that a store ever learns of it. Compared in constant time; its `Debug`
/// shows nothing.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Hashes the secret of a refresh token.
    pub(crate) fn of(secret: &[u8; 32]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// From the 32 bytes a store kept.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes a store keeps.
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

/// Why a session, or one access token, was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The user logged out.
    Logout,
    /// The user ended it from another session.
    EndedByUser,
    /// An administrator ended it.
    EndedByAdmin,
    /// An old refresh token was presented again: the session was stolen.
    Reuse,
    /// It was used from another address or another browser than it was bound to.
    ClientMismatch,
    /// The user had too many sessions and logged in once more.
    Evicted,
    /// The user logged in again in its place.
    Replaced,
    /// The app had a reason of its own.
    Other,
}

/// A mark that something has ended, and for how long nodes have to remember it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Revocation {
    /// When it was revoked.
    pub at: Timestamp,
    /// When the last access token that it concerns has expired by itself, and the mark can be forgotten by the
    /// nodes that hold it in memory.
    pub until: Timestamp,
    /// Why.
    pub reason: Reason,
}

/// The part of a session that a refresh looks at and moves: the input of [`ratchet::present`](crate::ratchet::present).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Chain {
    /// Which refresh token is the newest: 0 after login, one more with every rotation.
    pub generation: u32,
    /// The generation that `generation` was issued in exchange for; none after login.
    pub parent: Option<u32>,
    /// When that was; none after login.
    pub rotated_at: Option<Timestamp>,
    /// The highest generation whose refresh token is known to have reached the client.
    pub acknowledged: Option<u32>,
    /// How many times in a row a successor got lost on its way and was replaced.
    pub recoveries: u32,
    /// When the client was last heard of.
    pub last_seen_at: Timestamp,
    /// When the session ends, whatever happens. Never moves.
    pub expires_at: Timestamp,
    /// Set once the session has been ended; never unset.
    pub revoked: Option<Revocation>,
}

impl Chain {
    /// The chain of a session that begins now.
    pub const fn new(now: Timestamp, expires_at: Timestamp) -> Self {
        Self {
            generation: 0,
            parent: None,
            rotated_at: None,
            acknowledged: None,
            recoveries: 0,
            last_seen_at: now,
            expires_at,
            revoked: None,
        }
    }

    /// Takes over what was seen elsewhere. Each is a maximum: news never goes back in time.
    pub fn merge_seen(&mut self, last_seen_at: Timestamp, acknowledged: Option<u32>) {
        self.last_seen_at = self.last_seen_at.max(last_seen_at);
        self.acknowledged = self.acknowledged.max(acknowledged);
    }

    /// Neither ended, nor expired, nor idle for `idle_timeout` or longer.
    pub fn is_live(&self, now: Timestamp, idle_timeout: Duration) -> bool {
        self.revoked.is_none() && now < self.expires_at && !now.is_past(self.last_seen_at, idle_timeout)
    }
}

/// What a session knows of the client that logged in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Client {
    /// Its address, where it is known.
    pub ip: Option<IpAddr>,
    /// Its User-Agent header, cut to 512 bytes.
    pub user_agent: Option<Arc<str>>,
    /// A name the app gave it ("Anna's laptop").
    pub label: Option<Box<str>>,
}

/// One login, for as long as it lasts: one row in a store. Holds nothing that lets anybody in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Names the session.
    pub id: SessionId,
    /// Whose session it is: the app's own user id, compared byte for byte.
    pub user: Arc<str>,
    /// The hash of the secret that all refresh tokens of the session share.
    pub secret_hash: SecretHash,
    /// When the user logged in.
    pub created_at: Timestamp,
    /// The client that logged in.
    pub client: Client,
    /// The app's claims as they were at login or at the last renewal: the text of a JSON object.
    pub claims: Box<str>,
    /// What refreshing moves.
    pub chain: Chain,
    /// Counts the writes; what compare-and-swap compares.
    pub version: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_reads_back_what_it_writes() {
        let id = SessionId::generate("alice").unwrap();
        assert_eq!(id.to_string().len(), 22);
        assert_eq!(id.to_string().parse(), Ok(id));
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<SessionId>(&json).unwrap(), id);
    }

    #[test]
    fn a_session_id_has_one_spelling() {
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
    fn times_convert_both_ways_before_and_after_the_epoch() {
        for millis in [0, 1, 1_700_000_000_123, -1, -1_700_000_000_123] {
            let time = Timestamp::from_millis(millis);
            assert_eq!(Timestamp::from(SystemTime::from(time)), time);
        }
        assert_eq!(Timestamp::from_millis(1_999).as_secs(), 1);
        assert_eq!(Timestamp::from_millis(-1).as_secs(), -1);
    }

    #[test]
    fn a_clock_that_is_behind_has_not_passed_anything() {
        let (early, late) = (Timestamp::from_millis(1_000), Timestamp::from_millis(5_000));
        assert!(late.is_past(early, Duration::from_secs(4)));
        assert!(!late.is_past(early, Duration::from_millis(4_001)));
        assert!(!early.is_past(late, Duration::from_millis(1)));
        assert_eq!(early.since(late), Duration::ZERO);
        assert!(!early.is_past(Timestamp::MAX, Duration::MAX));
    }

    #[test]
    fn nothing_secret_is_in_the_debug_output_of_a_session() {
        let hash = SecretHash::of(&[7; 32]);
        assert_eq!(format!("{hash:?}"), "SecretHash(..)");
        assert_eq!(hash, SecretHash::of(&[7; 32]));
        assert_ne!(hash, SecretHash::of(&[8; 32]));
    }
}
