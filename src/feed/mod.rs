//! The feed of revocations, as it goes from an issuer to services without the store.

#[cfg(any(feature = "verifier", fuzzing))]
pub(crate) mod lines;

use serde::{Deserialize, Serialize};

use crate::session::SessionId;
#[cfg(any(feature = "verifier", fuzzing))]
use crate::token::id::TokenId;

/// The name of the events.
pub(crate) const REVOKED: &str = "revoked";

/// An announcement, as it is sent. Exactly one of the first four members is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Announcement {
    /// A session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sid: Option<SessionId>,
    /// An access token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) jti: Option<Box<str>>,
    /// Some sessions of a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sub: Option<Box<str>>,
    /// Some sessions of everyone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) everyone: bool,
    /// Another one for each revocation of a user, or of everyone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mark: Option<Box<str>>,
    /// Until when it has to be known, in Unix seconds.
    pub(crate) until: i64,
}

impl Announcement {
    /// Reads one. None if it does not say what was revoked.
    #[cfg(any(feature = "verifier", fuzzing))]
    pub(crate) fn read(json: &str) -> Option<Self> {
        let read: Self = serde_json::from_str(json).ok()?;
        let is_token = |jti: &str| TokenId::parse(jti).is_some();
        let is_valid = match (read.sid, &read.jti, &read.sub, read.everyone) {
            (Some(_), None, None, false) => true,
            (None, Some(jti), None, false) => is_token(jti),
            (None, None, Some(sub), false) => read.mark.is_some() && !sub.is_empty(),
            (None, None, None, true) => read.mark.is_some(),
            _ => false,
        };
        is_valid.then_some(read)
    }
}
