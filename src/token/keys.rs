//! The secret, and the keys that are derived from it.

use std::env::VarError;
use std::fmt;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::config::SettingsError;

/// The secret of an app, from which all keys are derived with HKDF (RFC 5869). It is zeroized when dropped, and the
/// `Debug` output does not show it.
///
/// It has at least 32 bytes and comes from a random source: `openssl rand -base64 32`. Short, repetitive and
/// placeholder secrets are rejected when [`Auth`](crate::Auth) is built. All nodes of an app use the same secret.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Creates a secret from bytes that the app has loaded.
    pub fn new(secret: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(secret.into()))
    }

    /// Reads the secret from an environment variable, without the white space around it.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] if the variable is not set or not UTF-8.
    pub fn from_env(name: &str) -> Result<Self, SettingsError> {
        let value = std::env::var(name).map_err(|error| {
            let problem = match error {
                VarError::NotPresent => "missing; set it to the output of `openssl rand -base64 32`",
                VarError::NotUnicode(_) => "not UTF-8; set it to the output of `openssl rand -base64 32`",
            };
            SettingsError::new("secret", format!("environment variable {name}: {problem}"))
        })?;
        let value = Zeroizing::new(value);
        Ok(Self::new(value.trim()))
    }

    /// Generates a random secret, for demos and tests: all tokens signed with it are invalid after a restart.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] if the operating system returns no random bytes.
    pub fn random() -> Result<Self, SettingsError> {
        let mut bytes = Zeroizing::new(vec![0; 32]);
        getrandom::fill(&mut bytes).map_err(|error| {
            SettingsError::new("secret", format!("the operating system returned no random bytes: {error}"))
        })?;
        Ok(Self(bytes))
    }

    /// Rejects a secret that can be guessed.
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        let reject = |problem: String| {
            Err(SettingsError::new("secret", format!("{problem}; generate one with `openssl rand -base64 32`")))
        };
        let bytes = self.0.as_slice();
        if bytes.len() < 32 {
            return reject(format!("too short: {} bytes, but at least 32 are required", bytes.len()));
        }
        if is_repetitive(bytes) {
            return reject("too repetitive".to_owned());
        }
        let text = Zeroizing::new(String::from_utf8_lossy(bytes).to_ascii_lowercase());
        if is_placeholder(&text) {
            return reject("a placeholder".to_owned());
        }
        Ok(())
    }

    /// Derives a key of 32 bytes for one purpose. Different [scopes](crate::config::ResolvedSettings::key_scope), that is
    /// issuers and realms, get different keys from the same secret.
    pub(crate) fn derive(&self, scope: &str, purpose: Purpose) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        let length = (scope.len() as u64).to_be_bytes();
        let info = [b"axum-refresh 1 ".as_slice(), &length, scope.as_bytes(), purpose.label().as_bytes()];
        // 32 bytes are far below HKDF's limit of 255 blocks.
        let expanded = Hkdf::<Sha256>::new(None, &self.0).expand_multi_info(&info, key.as_mut_slice());
        debug_assert!(expanded.is_ok());
        key
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The purpose of a derived key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    RefreshTag,
    RefreshKeyId,
    AccessHs256,
    AccessKeyId,
}

impl Purpose {
    const fn label(self) -> &'static str {
        match self {
            Self::RefreshTag => "refresh token tag",
            Self::RefreshKeyId => "refresh token key id",
            Self::AccessHs256 => "access token HS256",
            Self::AccessKeyId => "access token key id",
        }
    }
}

pub(crate) type HmacSha256 = Hmac<Sha256>;

/// Returns the HMAC state with the key already absorbed, to be cloned for every token.
pub(crate) fn hmac(key: &[u8; 32]) -> HmacSha256 {
    // HMAC pads a key that is shorter than its block with zeros (RFC 2104 §2).
    let mut block = Zeroizing::new([0; 64]);
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    HmacSha256::new((&*block).into())
}

/// Returns whether there are fewer than eight different bytes, or a repeating pattern of up to eight bytes.
fn is_repetitive(bytes: &[u8]) -> bool {
    let mut seen = [false; 256];
    for byte in bytes {
        if let Some(slot) = seen.get_mut(usize::from(*byte)) {
            *slot = true;
        }
    }
    let different = seen.iter().filter(|seen| **seen).count();
    let repeats = |period: usize| bytes.iter().zip(bytes.iter().skip(period)).all(|(a, b)| a == b);
    different < 8 || (1..=8).any(repeats)
}

/// Returns whether a lower-case text is a placeholder: it has a phrase that no random secret has, or fewer than 16
/// characters besides the words and punctuation of examples and templates.
fn is_placeholder(lower: &str) -> bool {
    const PHRASES: [&str; 10] = [
        "changeme",
        "change-me",
        "change_me",
        "change me",
        "changethis",
        "change-this",
        "change_this",
        "change this",
        "placeholder",
        "replace-me",
    ];
    const WORDS: [&str; 38] = [
        "insecure",
        "password",
        "development",
        "production",
        "example",
        "default",
        "refresh",
        "replace",
        "sample",
        "secret",
        "signing",
        "session",
        "please",
        "access",
        "random",
        "string",
        "change",
        "minimum",
        "super",
        "token",
        "bytes",
        "chars",
        "characters",
        "least",
        "your",
        "auth",
        "long",
        "must",
        "this",
        "that",
        "with",
        "test",
        "demo",
        "axum",
        "jwt",
        "key",
        "some",
        "very",
    ];
    if PHRASES.iter().any(|word| lower.contains(word)) {
        return true;
    }
    let mut rest = lower.to_owned();
    for word in WORDS {
        rest = rest.replace(word, "");
    }
    rest.retain(|c| !c.is_ascii_punctuation() && !c.is_whitespace());
    rest.len() < 16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_rejected(secret: &str) -> bool {
        Secret::new(secret).check().is_err()
    }

    #[test]
    fn hole_23_short_repetitive_and_placeholder_secrets_are_rejected() {
        for secret in [
            "",
            "secret",
            "Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "abcabcabcabcabcabcabcabcabcabcabcabcabc",
            "12345678123456781234567812345678",
            "changeme-changeme-changeme-changeme!",
            "please-CHANGE-ME-0f8a7b6c5d4e3f2a1b0c",
            "your-256-bit-secret-your-256-bit-secret",
            "my-super-secret-jwt-signing-key-for-production",
            "secretsecretsecretsecretsecretsecret",
            "this_must_be_at_least_32_characters_long",
        ] {
            assert!(is_rejected(secret), "{secret}");
        }
    }

    #[test]
    fn random_secrets_are_accepted_in_every_encoding() {
        for secret in [
            "k4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6rA",
            "7f3c1a9e5b2d8f4061c7a3e9d5b1f708",
            "jlYNy6lHG7B6s4vNqDDsu4xUjhcmHgKdxYY1Fdhwbm0=",
            "correct horse battery staple giraffe",
        ] {
            assert!(!is_rejected(secret), "{secret}");
        }
        for _ in 0..1000 {
            assert_eq!(Secret::random().unwrap().check(), Ok(()));
        }
        assert_eq!(Secret::new((0..32).collect::<Vec<u8>>()).check(), Ok(()));
    }

    #[test]
    fn eight_different_bytes_are_enough_and_seven_are_not() {
        assert!(is_repetitive(b"abcdefgaccebdfgaggcfebdaefdcgbaf"));
        assert!(!is_repetitive(b"abcdefghaccebdfgaggcfebdaefdchba"));
    }

    #[test]
    fn sixteen_characters_beside_words_are_enough_and_fifteen_are_not() {
        assert!(is_placeholder("my-secret-key: 0f8a7b6c5d4e3"));
        assert!(!is_placeholder("my-secret-key: 0f8a7b6c5d4e3f"));
    }

    #[test]
    fn keys_differ_by_secret_issuer_and_purpose() {
        let (a, b) = (Secret::new("a".repeat(32)), Secret::new("b".repeat(32)));
        let keys = [
            a.derive("x", Purpose::RefreshTag),
            b.derive("x", Purpose::RefreshTag),
            a.derive("y", Purpose::RefreshTag),
            a.derive("", Purpose::RefreshTag),
            a.derive("x", Purpose::RefreshKeyId),
            a.derive("x", Purpose::AccessHs256),
            a.derive("x", Purpose::AccessKeyId),
        ];
        let different: std::collections::HashSet<_> = keys.iter().map(|key| **key).collect();
        assert_eq!(different.len(), keys.len());
        assert_eq!(a.derive("x", Purpose::RefreshTag), a.derive("x", Purpose::RefreshTag));
    }

    #[test]
    fn a_secret_is_not_in_its_debug_output() {
        assert_eq!(format!("{:?}", Secret::new("k4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6rA")), "Secret(..)");
    }

    #[test]
    fn the_error_names_a_missing_variable() {
        let error = Secret::from_env("AXUM_REFRESH_NO_SUCH_VARIABLE").unwrap_err();
        assert!(error.to_string().contains("AXUM_REFRESH_NO_SUCH_VARIABLE"));
    }
}
