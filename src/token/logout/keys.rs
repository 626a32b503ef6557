//! The public keys of an identity provider.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
#[cfg(feature = "aws_lc_rs")]
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER as PROVIDER;
#[cfg(not(feature = "aws_lc_rs"))]
use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER as PROVIDER;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use crate::config::SettingsError;

const MIN_RSA_BITS: usize = 2048;
/// What the backend supports.
const MAX_RSA_BITS: usize = if cfg!(feature = "aws_lc_rs") { 8192 } else { 4096 };
/// Both backends support exponents of up to 33 bits.
const MAX_RSA_EXPONENT_BYTES: usize = 5;

const OF_RSA: &[Algorithm] =
    &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

/// A supported algorithm with a public key, by its name.
pub(super) fn asymmetric(name: &str) -> Option<Algorithm> {
    Some(match name {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        // RFC 9864 has a name of its own for the curve.
        "EdDSA" | "Ed25519" => Algorithm::EdDSA,
        _ => return None,
    })
}

/// A key of the provider.
pub(super) struct PublicKey {
    pub(super) id: Option<Box<str>>,
    pub(super) algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl PublicKey {
    /// The key of a JWK; none if it cannot verify logout tokens.
    fn of(jwk: &Map<String, Value>) -> Option<Self> {
        let member = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(member(name)?).ok();
        let (algorithms, key): (&[Algorithm], _) = match (member("kty")?, member("crv")) {
            ("RSA", _) => {
                let (n, e) = (bytes("n")?, bytes("e")?);
                let (n, e) = (without_zeros(&n), without_zeros(&e));
                let bits = (8 * n.len()).checked_sub(usize::try_from(n.first()?.leading_zeros()).ok()?)?;
                let is_strong = (MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits);
                let is_odd = e.last()? & 1 == 1 && e != [1] && e.len() <= MAX_RSA_EXPONENT_BYTES;
                (OF_RSA, (is_strong && is_odd).then(|| DecodingKey::from_rsa_raw_components(n, e))?)
            }
            ("EC", Some(curve)) => {
                let (algorithms, length): (&[Algorithm], usize) = match curve {
                    "P-256" => (&[Algorithm::ES256], 32),
                    "P-384" => (&[Algorithm::ES384], 48),
                    _ => return None,
                };
                let (x, y) = (bytes("x")?, bytes("y")?);
                let has_length = x.len() == length && y.len() == length;
                let point = [&[4], x.as_slice(), y.as_slice()].concat();
                (algorithms, has_length.then(|| DecodingKey::from_ec_der(&point))?)
            }
            ("OKP", Some("Ed25519")) => {
                let x = bytes("x")?;
                (&[Algorithm::EdDSA], (x.len() == 32).then(|| DecodingKey::from_ed_der(&x))?)
            }
            _ => return None,
        };
        if jwk.get("use").is_some_and(|value| value != "sig") {
            return None;
        }
        let can_verify = |operations: &Value| {
            operations.as_array().is_some_and(|operations| operations.iter().any(|value| value == "verify"))
        };
        if !jwk.get("key_ops").is_none_or(can_verify) {
            return None;
        }
        let algorithms = match jwk.get("alg") {
            None => algorithms.to_vec(),
            Some(alg) => vec![alg.as_str().and_then(asymmetric).filter(|alg| algorithms.contains(alg))?],
        };
        let key = Self { id: member("kid").map(Box::from), algorithms, key };
        let is_usable = |algorithm: &Algorithm| (PROVIDER.verifier_factory)(algorithm, &key.key).is_ok();
        key.algorithms.iter().all(is_usable).then_some(key)
    }

    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let verifier = (PROVIDER.verifier_factory)(&algorithm, &self.key);
        verifier.is_ok_and(|verifier| verifier.verify(message, &signature.to_vec()).is_ok())
    }
}

/// An integer without the zeros before it, which a backend would refuse.
fn without_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

/// The keys of a JWK set that can verify logout tokens.
pub(super) fn public_keys(jwks: &Value) -> Result<Arc<[PublicKey]>, SettingsError> {
    let refused = |problem: &str| SettingsError::new("jwks", problem);
    let members = jwks.get("keys").and_then(Value::as_array);
    let members = members.ok_or_else(|| refused("not a JWK set; give the document at the provider's `jwks_uri`"))?;
    let mut keys = Vec::new();
    for jwk in members.iter().filter_map(Value::as_object) {
        if jwk.get("kty").is_some_and(|kty| kty == "oct") || jwk.contains_key("k") {
            return Err(refused("it has a symmetric key in it; give public keys only"));
        }
        if jwk.contains_key("d") {
            return Err(refused("it has a private key in it; give public keys only, and replace that one"));
        }
        keys.extend(PublicKey::of(jwk));
    }
    if keys.is_empty() {
        return Err(refused(
            "it has no key that can be used; supported are RSA keys of at least 2048 bits, P-256, P-384 and Ed25519",
        ));
    }
    Ok(keys.into())
}
