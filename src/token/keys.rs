//! The secret, and the keys that are derived from it.

use std::env::VarError;
use std::fmt;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _};
use http::HeaderValue;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::weak::weakness;
use crate::config::SettingsError;

/// The secret of an app, from which all keys are derived with HKDF (RFC 5869). It is zeroized when dropped, and the
/// `Debug` output does not show it.
///
/// It has at least 32 bytes and comes from a random source: `openssl rand -base64 32`. Secrets that are short,
/// repetitive, sequences or placeholders, also in hexadecimal or base64, are rejected when [`Auth`](crate::Auth) is
/// built. All nodes of an app use the same secret.
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

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The header with which it is shown as a bearer token. Marked as sensitive, so that no log shows it.
    pub(crate) fn as_bearer(&self) -> Result<HeaderValue, SettingsError> {
        let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
        let text = [b"Bearer ".as_slice(), &self.0].concat();
        let header = HeaderValue::from_bytes(&text).ok().filter(|_| self.0.iter().all(is_token));
        let mut header = header.ok_or_else(|| {
            let problem = "not a bearer token (RFC 6750 §2.1); use the output of `openssl rand -base64 32`";
            SettingsError::new("secret", problem)
        })?;
        header.set_sensitive(true);
        Ok(header)
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
        weakness(bytes).map_or(Ok(()), |weakness| reject(weakness.to_owned()))
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
    fn good_secrets_are_accepted() {
        for secret in [
            "k4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6rA",
            "7f3c1a9e5b2d8f4061c7a3e9d5b1f708",
            "jlYNy6lHG7B6s4vNqDDsu4xUjhcmHgKdxYY1Fdhwbm0=",
            "correct horse battery staple giraffe",
        ] {
            assert!(!is_rejected(secret), "{secret}");
        }
    }

    #[test]
    fn a_secret_that_repeats_itself_is_rejected() {
        for secret in [
            // A period of up to half the length, also with something between.
            "0123456789abcdef0123456789abcdef",
            "CorrectHorseBattcorrecthorsebatt",
            "0f8a7b6c5d4e3f2a1b0c9d0f8a7b6c5d4e3f2a1b0c9d0f8a7b",
            "2c5ea4c0-4067-11e9-8bad-9b1deb4d3b7d 2c5ea4c0-4067-11e9-8bad-9b1deb4d3b7d",
            "user1user2user3user4user5user6us",
            "spring2024spring2025spring2026spring",
            // Encoded.
            "Q29ycmVjdEhvcnNlQmF0dENvcnJlY3RIb3JzZUJhdHQ=",
            "Q29ycmVjdEhvcnNlQmF0dENvcnJlY3RIb3JzZUJhdHQ",
            "436f7272656374486f72736542617474436f7272656374486f72736542617474",
            "base64:Q29ycmVjdEhvcnNlQmF0dENvcnJlY3RIb3JzZUJhdHQ=",
            "NDM2ZjcyNzI2NTYzNzQ0ODZmNzI3MzY1NDI2MTc0NzQ0MzZmNzI3MjY1NjM3NDQ4NmY3MjczNjU0MjYxNzQ3NA==",
            "\"Q29ycmVjdEhvcnNlQmF0dENvcnJl\nY3RIb3JzZUJhdHQ=\"\n",
        ] {
            assert!(is_rejected(secret), "{secret}");
        }
    }

    #[test]
    fn a_secret_that_is_a_sequence_is_rejected() {
        for secret in [
            "12345678901234567890123456789012",
            "09876543210987654321098765432109",
            "abcdefghijklmnopqrstuvwxyz123456",
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef",
            "zyxwvutsrqponmlkjihgfedcba987654",
            "13579bdfhjlnprtvxz02468acegikmoq",
            "a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6",
            "aabbccddeeffgghhiijjkkllmmnnoopp",
            "qwertyuiopasdfghjklzxcvbnm123456",
            "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik,",
            "0123456789abcdeffedcba9876543210",
            // Encoded.
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            "0x00112233445566778899aabbccddeeff",
            "00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff",
            "12345678-9abc-def0-1234-56789abcdef0",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "__79_Pv6-fj39vX08_Lx8O_u7ezr6uno5-bl5OPi4eA",
            "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=",
            "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY=",
            "6162636465666768696a6b6c6d6e6f707172737475767778797a313233343536",
        ] {
            assert!(is_rejected(secret), "{secret}");
        }
        let run: Vec<u8> = (0..32).collect();
        assert!(Secret::new(run).check().is_err());
    }

    #[test]
    fn an_encoded_placeholder_is_rejected() {
        for secret in [
            "Y2hhbmdlLW1lLWluLXByb2R1Y3Rpb24tOGY3YTZi",
            "bXktc3VwZXItc2VjcmV0LWp3dC1zaWduaW5nLWtleS1mb3ItcHJvZHVjdGlvbg==",
            "796f75722d3235362d6269742d7365637265742d6b65792d68657265",
        ] {
            assert!(is_rejected(secret), "{secret}");
        }
    }

    #[test]
    fn the_error_for_a_weak_secret_names_the_command_that_makes_a_good_one() {
        for secret in ["short", "12345678901234567890123456789012", "changeme-changeme-changeme-changeme!"] {
            let error = Secret::new(secret).check().unwrap_err().to_string();
            assert!(error.contains("openssl rand -base64 32"), "{error}");
        }
    }

    /// Hexadecimal digits, base64 and base64url of 32 bytes, the bytes themselves, two UUIDs, letters and digits.
    #[test]
    fn no_random_secret_is_rejected_in_any_encoding() {
        use base64::Engine as _;
        use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        for _ in 0..200 {
            let secret = Secret::random().unwrap();
            let bytes = secret.0.as_slice();
            let digits = hex(bytes);
            let uuid = |n: usize| {
                let part = |from: usize, to: usize| &digits[32 * n + from..32 * n + to];
                format!("{}-{}-4{}-a{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32))
            };
            let letter = |byte: &u8| {
                char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"[usize::from(*byte) % 62])
            };
            for text in [
                digits.clone(),
                digits.to_uppercase(),
                STANDARD.encode(bytes),
                STANDARD.encode(bytes) + "\n",
                URL_SAFE_NO_PAD.encode(bytes),
                STANDARD.encode(&digits),
                format!("{}{}", uuid(0), uuid(1)),
                format!("{} {}", uuid(0), uuid(1)),
                uuid(0).replace('-', "") + &uuid(1).replace('-', ""),
                bytes.iter().map(letter).collect(),
            ] {
                assert_eq!(Secret::new(text.as_str()).check(), Ok(()), "{text}");
            }
            assert_eq!(secret.check(), Ok(()), "{digits}");
        }
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
