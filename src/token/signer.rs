//! Private keys that the app keeps elsewhere.

use async_trait::async_trait;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Signs access tokens with a private key that is not in this process, such as in a key management service or a hardware
/// security module. For [`SigningKey::with_signer`](super::asymmetric::SigningKey::with_signer).
///
/// It is called at least once for each login, refresh and update of claims, before anything is stored, and once more if the
/// session was changed meanwhile. Verifying needs no call: the public key is in memory.
///
/// - A call that takes longer than [`store_timeout`](crate::Settings::store_timeout), fails or panics is
///   [`Error::Signer`](crate::Error::Signer): 503 `store_unavailable`. Nobody is logged out, and the client tries again.
/// - Each signature is verified before its token is handed out.
/// - [`Auth::rotate_to`](crate::Auth::rotate_to) tries it before anything changes.
///   [`build`](crate::AuthBuilder::build) does not, because it cannot wait.
/// - A call may be dropped before it is complete, if the client hangs up.
///
/// ```
/// use async_trait::async_trait;
/// use axum_refresh::keys::{Signer, SigningKey, VerifyingKey};
/// # struct Kms;
/// # impl Kms {
/// #     async fn sign(&self, _key: &str, _message: &[u8]) -> Result<Vec<u8>, std::io::Error> { Ok(Vec::new()) }
/// #     async fn public_key_pem(&self, _key: &str) -> Result<String, std::io::Error> { Ok(String::new()) }
/// # }
///
/// struct KmsKey {
///     kms: Kms,
///     name: String,
/// }
///
/// #[async_trait]
/// impl Signer for KmsKey {
///     async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
///         Ok(self.kms.sign(&self.name, message).await?)
///     }
/// }
///
/// # async fn key(kms: Kms) -> Result<SigningKey, Box<dyn std::error::Error>> {
/// let public = VerifyingKey::from_pem(kms.public_key_pem("tokens").await?.as_bytes())?;
/// let key = SigningKey::with_signer(public, KmsKey { kms, name: "tokens".to_owned() });
/// # Ok(key)
/// # }
/// ```
#[async_trait]
pub trait Signer: Send + Sync + 'static {
    /// Returns the signature of `message`, which is the text of a token without its signature.
    ///
    /// For a P-256 key, it is the ECDSA signature of the SHA-256 of `message`, as `r` and `s` of 32 bytes each (RFC 7518 §3.4)
    /// or in DER, as most services return it. For an Ed25519 key, it is the 64 bytes of RFC 8032. A service that limits the
    /// length of messages, such as AWS KMS to 4096 bytes, may be sent the SHA-256 instead with P-256.
    ///
    /// # Errors
    ///
    /// Whatever goes wrong. The text is logged, and not shown to clients.
    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>>;
}

/// An ECDSA signature with P-256 as 64 bytes, from those or from DER: a sequence of two integers.
pub(super) fn fixed_length(signature: Vec<u8>) -> Option<Vec<u8>> {
    if signature.len() == 64 {
        return Some(signature);
    }
    let [0x30, length, rest @ ..] = signature.as_slice() else { return None };
    let (r, rest) = integer(rest)?;
    let (s, nothing) = integer(rest)?;
    let is_whole = nothing.is_empty() && usize::from(*length) + 2 == signature.len();
    is_whole.then(|| [r, s].concat())
}

/// An integer of at most 32 bytes in DER, and what follows it. It may have a zero in front, which keeps it positive.
fn integer(der: &[u8]) -> Option<([u8; 32], &[u8])> {
    let [0x02, length, rest @ ..] = der else { return None };
    let (mut digits, rest) = rest.split_at_checked((*length).into())?;
    if let [0, others @ ..] = digits {
        digits = others;
    }
    let mut number = [0; 32];
    let start = number.len().checked_sub(digits.len())?;
    number.get_mut(start..)?.copy_from_slice(digits);
    Some((number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The signature in DER of `r` and `s`, which are positive and have no zero in front.
    fn der(r: &[u8], s: &[u8]) -> Vec<u8> {
        let integer = |digits: &[u8]| {
            let zero: &[u8] = if digits[0] >= 0x80 { &[0] } else { &[] };
            [&[0x02, (zero.len() + digits.len()) as u8], zero, digits].concat()
        };
        let both = [integer(r), integer(s)].concat();
        [&[0x30, both.len() as u8][..], &both].concat()
    }

    #[test]
    fn a_signature_in_der_becomes_two_numbers_of_32_bytes() {
        let numbers = |r: &[u8], s: &[u8]| {
            let mut both = vec![0; 64];
            both[32 - r.len()..32].copy_from_slice(r);
            both[64 - s.len()..].copy_from_slice(s);
            both
        };
        for (r, s) in [(&[0xff; 32][..], &[0x7f; 32][..]), (&[1; 31], &[0x80; 30]), (&[1], &[2; 32])] {
            assert_eq!(fixed_length(der(r, s)), Some(numbers(r, s)), "{r:?} {s:?}");
        }
        assert_eq!(fixed_length(vec![0x30; 64]), Some(vec![0x30; 64]));
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        let valid = der(&[0xff; 32], &[0x7f; 32]);
        let without_the_end = valid[..valid.len() - 1].to_vec();
        let with_more = [&valid[..], &[0]].concat();
        for bytes in [vec![], vec![0x30], vec![0x30, 0], without_the_end, with_more, der(&[1; 33], &[1; 32])] {
            assert_eq!(fixed_length(bytes.clone()), None, "{bytes:?}");
        }
    }
}
