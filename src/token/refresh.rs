//! The refresh token: opaque to clients, and recognized by the server for the whole life of its session.
//!
//! ```text
//! version (1 byte) | key id (1) | session id (16) | generation (u32, big endian) | secret (32) | tag (16)
//! ```
//!
//! The token is written as base64url without padding, 94 characters. The tag is the HMAC-SHA-256 of all bytes before
//! it, cut to 16 bytes. It is checked first, in constant time, so an invalid token costs no I/O.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::Mac as _;
use zeroize::{Zeroize as _, Zeroizing};

use super::keys::{HmacSha256, Purpose, Secret, hmac};
use crate::session::{SecretHash, SessionId};

const VERSION: u8 = 1;
const SIGNED_BYTES: usize = 1 + 1 + 16 + 4 + 32;
const TAG_BYTES: usize = 16;
const BYTES: usize = SIGNED_BYTES + TAG_BYTES;
const CHARS: usize = (BYTES * 8).div_ceil(6);

/// The contents of a refresh token with a verified tag.
#[derive(Clone)]
pub(crate) struct RefreshToken {
    pub(crate) session_id: SessionId,
    pub(crate) generation: u32,
    secret: Zeroizing<[u8; 32]>,
}

impl RefreshToken {
    /// Creates the first token of a session, with a new secret.
    pub(crate) fn begin(session_id: SessionId) -> Result<Self, getrandom::Error> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(secret.as_mut_slice())?;
        Ok(Self { session_id, generation: 0, secret })
    }

    /// Returns the token of another generation of the same session.
    pub(crate) fn at(&self, generation: u32) -> Self {
        Self { generation, ..self.clone() }
    }

    pub(crate) fn secret_hash(&self) -> SecretHash {
        SecretHash::of(&self.secret)
    }
}

struct Key {
    id: u8,
    mac: HmacSha256,
}

impl Key {
    fn new(secret: &Secret, scope: &str) -> Self {
        let [id, ..] = *secret.derive(scope, Purpose::RefreshKeyId);
        Self { id, mac: hmac(&secret.derive(scope, Purpose::RefreshTag)) }
    }

    fn sign(&self, message: &[u8]) -> HmacSha256 {
        let mut mac = self.mac.clone();
        mac.update(message);
        mac
    }
}

/// The keys of refresh tokens: one signs, and all verify.
pub(crate) struct RefreshKeys {
    signing: Key,
    others: Vec<Key>,
}

impl RefreshKeys {
    pub(crate) fn new<'a>(signing: &Secret, others: impl IntoIterator<Item = &'a Secret>, scope: &str) -> Self {
        let others = others.into_iter().map(|secret| Key::new(secret, scope)).collect();
        Self { signing: Key::new(signing, scope), others }
    }

    pub(crate) fn encode(&self, token: &RefreshToken) -> String {
        let mut bytes = Zeroizing::new(Vec::with_capacity(BYTES));
        bytes.extend_from_slice(&[VERSION, self.signing.id]);
        bytes.extend_from_slice(token.session_id.as_bytes());
        bytes.extend_from_slice(&token.generation.to_be_bytes());
        bytes.extend_from_slice(token.secret.as_slice());
        let tag = self.signing.sign(&bytes).finalize().into_bytes();
        bytes.extend(tag.iter().take(TAG_BYTES));
        URL_SAFE_NO_PAD.encode(bytes.as_slice())
    }

    /// Returns whether a text has the length of a token, so that [`decode`](Self::decode) costs a signature.
    pub(crate) const fn has_length_of_token(text: &[u8]) -> bool {
        text.len() == CHARS
    }

    /// Returns the contents of a token, or `None` if it was not signed with one of the keys.
    pub(crate) fn decode(&self, text: &[u8]) -> Option<RefreshToken> {
        if !Self::has_length_of_token(text) {
            return None;
        }
        let mut bytes = Zeroizing::new([0; BYTES]);
        URL_SAFE_NO_PAD.decode_slice(text, bytes.as_mut_slice()).ok()?;
        let (signed, tag) = bytes.split_first_chunk::<SIGNED_BYTES>()?;
        let (&[version, key_id], rest) = signed.split_first_chunk()?;
        if version != VERSION {
            return None;
        }
        // The key id is one byte, so several keys may share it: each of them is tried.
        let mut candidates = std::iter::once(&self.signing).chain(&self.others).filter(|key| key.id == key_id);
        candidates.find(|key| key.sign(signed).verify_truncated_left(tag).is_ok())?;
        let (session, rest) = rest.split_first_chunk()?;
        let (generation, secret) = rest.split_first_chunk()?;
        let mut secret: [u8; 32] = secret.try_into().ok()?;
        let token = RefreshToken {
            session_id: SessionId::from_bytes(*session),
            generation: u32::from_be_bytes(*generation),
            secret: Zeroizing::new(secret),
        };
        secret.zeroize();
        Some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(signing: &str, others: &[&str]) -> RefreshKeys {
        let others: Vec<_> = others.iter().map(|secret| Secret::new(*secret)).collect();
        RefreshKeys::new(&Secret::new(signing), &others, "app")
    }

    fn token() -> RefreshToken {
        RefreshToken::begin(SessionId::generate("alice").unwrap()).unwrap()
    }

    #[test]
    fn a_token_is_read_back_as_it_was_written() {
        let keys = keys("one", &[]);
        let token = token();
        for generation in [0, 1, 0x0102_0304, u32::MAX] {
            let text = keys.encode(&token.at(generation));
            assert_eq!(text.len(), 94);
            let read = keys.decode(text.as_bytes()).unwrap();
            assert_eq!((read.session_id, read.generation), (token.session_id, generation));
            assert_eq!(read.secret_hash(), token.secret_hash());
        }
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let keys = keys("one", &[]);
        let token = token().at(0x0102_0304);
        let bytes = URL_SAFE_NO_PAD.decode(keys.encode(&token)).unwrap();
        assert_eq!(bytes.len(), 70);
        assert_eq!(bytes[0], 1);
        assert_eq!(bytes[1], keys.signing.id);
        assert_eq!(&bytes[2..18], token.session_id.as_bytes());
        assert_eq!(bytes[18..22], [1, 2, 3, 4]);
        assert_eq!(&bytes[22..54], token.secret.as_slice());
        let tag = keys.signing.sign(&bytes[..54]).finalize().into_bytes();
        assert_eq!(bytes[54..], tag[..16]);
    }

    #[test]
    fn not_one_bit_may_differ() {
        let keys = keys("one", &[]);
        let good = URL_SAFE_NO_PAD.decode(keys.encode(&token())).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(keys.decode(URL_SAFE_NO_PAD.encode(&bad).as_bytes()).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn a_token_has_only_one_spelling() {
        let keys = keys("one", &[]);
        let text = keys.encode(&token());
        let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let accepted = |text: &str| keys.decode(text.as_bytes()).is_some();
        // 70 bytes leave four unused bits in the last character.
        let spellings = alphabet.chars().filter(|last| accepted(&format!("{}{last}", &text[..93]))).count();
        assert_eq!(spellings, 1);
        for other in
            [format!("{text}="), format!("{text}A"), text[..93].to_owned(), format!(" {}", &text[..93]), String::new()]
        {
            assert!(!accepted(&other));
        }
    }

    #[test]
    fn a_verify_only_key_verifies_and_the_signing_key_signs() {
        let (old, new) = (keys("old", &["new"]), keys("new", &["old"]));
        let text = old.encode(&token());
        let read = new.decode(text.as_bytes()).unwrap();
        assert_ne!(new.encode(&read), text);
        assert!(old.decode(new.encode(&read).as_bytes()).is_some());
        assert!(keys("new", &[]).decode(text.as_bytes()).is_none());
    }

    #[test]
    fn two_keys_that_share_an_id_are_both_tried() {
        let mut both = keys("one", &["two"]);
        let text = both.encode(&token());
        std::mem::swap(&mut both.signing, &mut both.others[0]);
        both.signing.id = both.others[0].id;
        assert!(both.decode(text.as_bytes()).is_some());
    }

    #[test]
    fn another_issuer_has_another_key() {
        let text = keys("one", &[]).encode(&token());
        let other = RefreshKeys::new(&Secret::new("one"), [], "other app");
        assert!(other.decode(text.as_bytes()).is_none());
    }

    #[test]
    fn two_sessions_never_share_a_secret() {
        assert_ne!(token().secret_hash(), token().secret_hash());
    }
}
