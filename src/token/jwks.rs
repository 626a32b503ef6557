//! Reading a JWK set (RFC 7517 §5) that an issuer has published.

use std::collections::BTreeSet;

use serde_json::Value;

use super::asymmetric::{VerifyingKey, verifies_tokens};
use super::ring::Key;
use crate::config::SettingsError;

/// A set has a few keys of a few hundred bytes each.
pub(crate) const MAX_BYTES: usize = 64 * 1024;
const MAX_KEYS: usize = 100;
const MAX_KEY_ID_BYTES: usize = 256;

/// The members of private keys (RFC 7518 §6.2.2 and §6.3.2), and of symmetric ones (§6.4).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// The keys of a set that can verify access tokens of this crate. Keys for other purposes and of other algorithms are left
/// out.
///
/// A set with a private or a symmetric key in it is refused as a whole: it was published by mistake, and whoever reads it can
/// sign tokens.
pub(crate) fn read(document: &[u8]) -> Result<Vec<Key>, SettingsError> {
    if document.len() > MAX_BYTES {
        return Err(invalid(format!("larger than {MAX_BYTES} bytes")));
    }
    let document: Value = serde_json::from_slice(document).map_err(|error| invalid(format!("not JSON: {error}")))?;
    read_value(&document)
}

/// The same of a set that was read already.
pub(crate) fn read_value(document: &Value) -> Result<Vec<Key>, SettingsError> {
    let jwks = document.get("keys").and_then(Value::as_array);
    let jwks = jwks.ok_or_else(|| invalid("without the array `keys`"))?;
    if jwks.len() > MAX_KEYS {
        return Err(invalid(format!("{} keys, and {MAX_KEYS} are the limit", jwks.len())));
    }
    let mut keys = Vec::new();
    let mut ids = BTreeSet::new();
    for jwk in jwks {
        let kty = jwk.get("kty").and_then(Value::as_str).ok_or_else(|| invalid("a key without `kty`"))?;
        if kty == "oct" || PRIVATE.iter().any(|member| jwk.get(member).is_some()) {
            return Err(invalid(
                "with a private or symmetric key, which everybody can read; take it out, and replace that key",
            ));
        }
        if !is_for_our_tokens(jwk, kty) {
            continue;
        }
        let id = jwk.get("kid").and_then(Value::as_str).filter(|id| (1..=MAX_KEY_ID_BYTES).contains(&id.len()));
        let id = id.ok_or_else(|| invalid(format!("a key without a `kid` of 1 to {MAX_KEY_ID_BYTES} bytes")))?;
        if !ids.insert(id) {
            return Err(invalid(format!("two keys with the `kid` {id:?}")));
        }
        let key = VerifyingKey::from_jwk(jwk);
        let key = key.map_err(|_| invalid(format!("the key with the `kid` {id:?} is not a point of its curve")))?;
        keys.push(Key::published(key.0, id));
    }
    if keys.is_empty() {
        return Err(invalid("without a key for EdDSA (Ed25519) or ES256; the issuer needs `AuthBuilder::signing_key`"));
    }
    Ok(keys)
}

/// Whether a key is there to verify signatures of an algorithm of ours.
fn is_for_our_tokens(jwk: &Value, kty: &str) -> bool {
    let curve = jwk.get("crv").and_then(Value::as_str);
    matches!((kty, curve), ("OKP", Some("Ed25519")) | ("EC", Some("P-256"))) && verifies_tokens(jwk)
}

fn invalid(problem: impl std::fmt::Display) -> SettingsError {
    SettingsError::new("jwks", format!("the JWK set is invalid: {problem}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The public keys of RFC 8037 appendix A.2 and of RFC 7517 appendix A.1.
    fn ed25519() -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "kid": "one", "alg": "EdDSA", "use": "sig",
               "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
    }

    fn p256() -> Value {
        json!({"kty": "EC", "crv": "P-256", "kid": "two",
               "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
               "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"})
    }

    fn with(mut jwk: Value, member: &str, value: Value) -> Value {
        jwk.as_object_mut().unwrap().insert(member.to_owned(), value);
        jwk
    }

    fn ids(keys: &[Value]) -> Result<Vec<String>, String> {
        let keys = read(json!({ "keys": keys }).to_string().as_bytes());
        keys.map(|keys| keys.iter().map(|key| key.id().to_owned()).collect()).map_err(|error| error.to_string())
    }

    fn problem(keys: &[Value]) -> String {
        ids(keys).unwrap_err()
    }

    #[test]
    fn the_keys_for_signatures_of_ours_are_read() {
        let for_encryption = with(with(ed25519(), "kid", json!("three")), "use", json!("enc"));
        let rsa = json!({"kty": "RSA", "kid": "four", "n": "AQAB", "e": "AQAB"});
        let other_curve = json!({"kty": "EC", "crv": "P-384", "kid": "five", "x": "AA", "y": "AA"});
        let unknown = json!({"kty": "AKP", "kid": "six", "pub": "AA"});
        let other_algorithm = with(with(p256(), "kid", json!("seven")), "alg", json!("ECDH-ES"));
        let signs_only = with(with(p256(), "kid", json!("eight")), "key_ops", json!(["sign"]));
        let keys = [ed25519(), for_encryption, rsa, other_curve, unknown, other_algorithm, signs_only, p256()];
        assert_eq!(ids(&keys).unwrap(), ["one", "two"]);
        assert_eq!(ids(&[with(p256(), "key_ops", json!(["verify"]))]).unwrap(), ["two"]);
    }

    #[test]
    fn a_set_with_a_private_or_symmetric_key_is_refused_as_a_whole() {
        let symmetric = json!({"kty": "oct", "kid": "three", "k": "AAAA"});
        assert!(problem(&[ed25519(), symmetric]).contains("private or symmetric"));
        for member in PRIVATE {
            assert!(
                problem(&[p256(), with(ed25519(), member, json!("AA"))]).contains("private or symmetric"),
                "{member}"
            );
        }
        let rsa = json!({"kty": "RSA", "kid": "four", "n": "AQAB", "e": "AQAB", "d": "AQAB"});
        assert!(problem(&[ed25519(), rsa]).contains("private or symmetric"));
    }

    #[test]
    fn a_set_without_a_usable_key_is_an_error_that_says_what_is_missing() {
        assert!(problem(&[]).contains("AuthBuilder::signing_key"));
        assert!(problem(&[json!({"kty": "RSA", "kid": "four", "n": "AQAB", "e": "AQAB"})]).contains("EdDSA"));
    }

    #[test]
    fn two_keys_of_one_kid_and_a_key_without_one_are_refused() {
        assert!(problem(&[ed25519(), with(p256(), "kid", json!("one"))]).contains("two keys"));
        for kid in [json!(""), json!(7), json!("x".repeat(257)), Value::Null] {
            assert!(problem(&[with(ed25519(), "kid", kid.clone())]).contains("`kid` of 1 to 256 bytes"), "{kid}");
        }
    }

    #[test]
    fn a_key_that_is_no_point_of_its_curve_is_refused() {
        for x in ["", "AAAA", "not base64!", "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHUQ"] {
            assert!(problem(&[with(ed25519(), "x", json!(x))]).contains("not a point"), "{x}");
        }
        assert!(
            problem(&[with(p256(), "y", json!("MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4"))]).contains("not a point")
        );
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for document in ["", "null", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[7]}"#, r#"{"keys":[{}]}"#, "<html>"] {
            assert!(read(document.as_bytes()).is_err(), "{document}");
        }
        let many: Vec<_> = (0..101).map(|n| with(ed25519(), "kid", json!(n.to_string()))).collect();
        assert!(problem(&many).contains("101 keys"));
        let large = format!(r#"{{"keys":[],"more":"{}"}}"#, "x".repeat(MAX_BYTES));
        assert!(read(large.as_bytes()).is_err());
    }
}
