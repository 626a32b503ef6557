//! The id of an access token (`jti`).

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::display::Base64Display;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
#[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
use sha2::{Digest as _, Sha256};

use crate::time::Timestamp;

/// The id of an access token (`jti`): the time of issue (48 bits) and the lifetime (32 bits), both in milliseconds, and
/// 64 random bits.
///
/// The JWT's own `iat` and `exp` are whole seconds, rounded down, as other libraries expect them. Some decisions need
/// milliseconds: acknowledgement after the grace period, a lifetime of 1500 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TokenId([u8; 18]);

impl TokenId {
    pub(super) fn new(issued_at: Timestamp, lifetime: Duration, random: [u8; 8]) -> Self {
        let issued = u64::try_from(issued_at.as_millis()).unwrap_or(0).to_be_bytes();
        let lifetime = u32::try_from(lifetime.as_millis()).unwrap_or(u32::MAX).to_be_bytes();
        let mut bytes = [0; 18];
        let parts = issued.iter().skip(2).chain(&lifetime).chain(&random);
        bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
        Self(bytes)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 18];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        (length == bytes.len()).then_some(Self(bytes))
    }

    /// An id that is no access token's, for something else that is used up.
    #[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
    pub(crate) fn hash(parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        let mut bytes = [0; 18];
        bytes.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
        Self(bytes)
    }

    /// One of so many shards.
    #[cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
    pub(crate) fn shard(&self, count: usize) -> usize {
        let [.., last] = self.0;
        usize::from(last) % count
    }

    pub(crate) fn issued_at(&self) -> Timestamp {
        let millis = self.0.iter().take(6).fold(0, |sum, byte| sum << 8 | i64::from(*byte));
        Timestamp::from_millis(millis)
    }

    pub(crate) fn expires_at(&self) -> Timestamp {
        let lifetime = self.0.iter().skip(6).take(4).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        self.issued_at().after(Duration::from_millis(lifetime))
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Base64Display::new(&self.0, &URL_SAFE_NO_PAD).fmt(f)
    }
}
