//! Access tokens signed with EdDSA (Ed25519) or ES256, so that other services can verify them without being able to
//! issue any.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::backend::{Point, PrivateKey, PublicKey};
use super::signer::{BoxError, Signer, fixed_length};
use crate::config::SettingsError;
use crate::metrics::{Meter, Outcome};

/// A private key that signs access tokens, for [`AuthBuilder::signing_key`](crate::AuthBuilder::signing_key). The
/// `Debug` output shows only the key's thumbprint.
#[derive(Clone)]
pub struct SigningKey(pub(crate) KeyPair);

/// A further public key that verifies access tokens, besides that of the signing key, for
/// [`AuthBuilder::verifying_key`](crate::AuthBuilder::verifying_key).
#[derive(Clone)]
pub struct VerifyingKey(pub(crate) KeyPair);

impl SigningKey {
    /// Reads an Ed25519 or a P-256 private key in PKCS #8 PEM, and signs with EdDSA or ES256 accordingly.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] if `pem` is neither.
    pub fn from_pem(pem: &[u8]) -> Result<Self, SettingsError> {
        let neither = |_| invalid_signing_key("not an Ed25519 or P-256 private key in PKCS #8 PEM");
        Self::ed25519_pem(pem).or_else(|_| Self::es256_pem(pem)).map_err(neither)
    }

    /// Reads an Ed25519 private key in PKCS #8 PEM: `openssl genpkey -algorithm ed25519`. Signs with EdDSA (RFC 8037).
    ///
    /// # Errors
    ///
    /// [`SettingsError`] if `pem` is not such a key.
    pub fn ed25519_pem(pem: &[u8]) -> Result<Self, SettingsError> {
        let key = PrivateKey::ed25519_pem(pem).and_then(KeyPair::private);
        key.map(Self).ok_or_else(|| invalid_signing_key("not an Ed25519 private key in PKCS #8 PEM"))
    }

    /// Reads a P-256 private key in PKCS #8 PEM: `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`.
    /// Signs with ES256 (RFC 7518 §3.4).
    ///
    /// # Errors
    ///
    /// [`SettingsError`] if `pem` is not such a key.
    pub fn es256_pem(pem: &[u8]) -> Result<Self, SettingsError> {
        let key = PrivateKey::p256_pem(pem).and_then(KeyPair::private);
        key.map(Self).ok_or_else(|| invalid_signing_key("not a P-256 private key in PKCS #8 PEM"))
    }

    /// A private key that is elsewhere, such as in a key management service: `signer` signs with it, and `public` is its
    /// public key. See [`Signer`].
    pub fn with_signer(public: VerifyingKey, signer: impl Signer) -> Self {
        Self(KeyPair { private: Some(Private::Elsewhere(Arc::new(signer))), ..public.0 })
    }

    /// The Ed25519 key with this seed.
    #[cfg(test)]
    pub(crate) fn seeded(seed: u8) -> Self {
        let prefix = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        let der = base64::engine::general_purpose::STANDARD.encode([&prefix[..], &[seed; 32]].concat());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{der}\n-----END PRIVATE KEY-----\n");
        Self::ed25519_pem(pem.as_bytes()).unwrap()
    }

    /// The thumbprint of the public key (RFC 7638): the `kid` of its tokens. With a [realm](crate::Settings::realm), a dot and
    /// the realm follow there.
    pub fn thumbprint(&self) -> String {
        self.0.thumbprint()
    }
}

impl VerifyingKey {
    /// Reads an Ed25519 or a P-256 public key in PEM.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] if `pem` is neither.
    pub fn from_pem(pem: &[u8]) -> Result<Self, SettingsError> {
        let neither = |_| invalid_verifying_key("not an Ed25519 or P-256 public key in PEM");
        Self::ed25519_pem(pem).or_else(|_| Self::es256_pem(pem)).map_err(neither)
    }

    /// Reads an Ed25519 public key in PEM: `openssl pkey -pubout`.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] if `pem` is not such a key.
    pub fn ed25519_pem(pem: &[u8]) -> Result<Self, SettingsError> {
        let key = PublicKey::ed25519_pem(pem).and_then(KeyPair::public);
        key.map(Self).ok_or_else(|| invalid_verifying_key("not an Ed25519 public key in PEM"))
    }

    /// Reads a P-256 public key in PEM: `openssl pkey -pubout`.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] if `pem` is not such a key.
    pub fn es256_pem(pem: &[u8]) -> Result<Self, SettingsError> {
        let key = PublicKey::p256_pem(pem).and_then(KeyPair::public);
        key.map(Self).ok_or_else(|| invalid_verifying_key("not a P-256 public key in PEM"))
    }

    /// Reads a JWK (RFC 7517 §4) of type `OKP` with the curve `Ed25519`, or of type `EC` with `P-256`. Its `kid` is not used.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] if `jwk` is neither, has a private key in it, or is for something else: an `alg` other than `EdDSA` or
    /// `ES256` respectively, a `use` other than `sig`, or `key_ops` without `verify`. A point that is not on its curve, or for
    /// which anybody could sign, is no key. (With the feature `aws_lc_rs`, an Ed25519 point that is not on the curve is not
    /// recognized; no signature verifies for it.)
    pub fn from_jwk(jwk: &Value) -> Result<Self, SettingsError> {
        let text = |name| jwk.get(name).and_then(Value::as_str);
        let bytes = |name| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        if jwk.get("d").is_some() {
            return Err(invalid_verifying_key("the JWK has a private key; leave out `d`"));
        }
        if !verifies_tokens(jwk) {
            return Err(invalid_verifying_key("the JWK is for something else, by its `alg`, `use` or `key_ops`"));
        }
        let point = match (text("kty"), text("crv")) {
            (Some("OKP"), Some("Ed25519")) => bytes("x").and_then(|x| Point::ed25519(&x)),
            (Some("EC"), Some("P-256")) => bytes("x").zip(bytes("y")).and_then(|(x, y)| Point::p256(&x, &y)),
            _ => None,
        };
        let key = point.and_then(KeyPair::public);
        key.map(Self).ok_or_else(|| invalid_verifying_key("not the JWK of an Ed25519 or P-256 public key"))
    }

    /// The thumbprint of the key (RFC 7638): the `kid` of its tokens. With a [realm](crate::Settings::realm), a dot and the
    /// realm follow there.
    pub fn thumbprint(&self) -> String {
        self.0.thumbprint()
    }
}

/// Whether a JWK says nothing else than that it verifies signatures with the algorithm of its curve.
pub(super) fn verifies_tokens(jwk: &Value) -> bool {
    let is_absent_or = |name, allowed: &str| jwk.get(name).is_none_or(|value| value.as_str() == Some(allowed));
    let algorithm = if jwk.get("kty").is_some_and(|kty| kty == "EC") { "ES256" } else { "EdDSA" };
    let verifies = jwk.get("key_ops").is_none_or(|operations| {
        operations.as_array().is_some_and(|operations| operations.iter().any(|one| one.as_str() == Some("verify")))
    });
    is_absent_or("alg", algorithm) && is_absent_or("use", "sig") && verifies
}

fn invalid_signing_key(problem: impl fmt::Display) -> SettingsError {
    SettingsError::new("signing_key", format!("{problem}; see `SigningKey` for the formats"))
}

fn invalid_verifying_key(problem: impl fmt::Display) -> SettingsError {
    SettingsError::new("verifying_key", format!("{problem}; see `VerifyingKey` for the formats"))
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.0.thumbprint())
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", self.0.thumbprint())
    }
}

/// A public key and, if it signs, its private key.
#[derive(Clone)]
pub(crate) struct KeyPair {
    point: Point,
    public: PublicKey,
    private: Option<Private>,
}

#[derive(Clone)]
enum Private {
    Here(PrivateKey),
    /// Wherever the app keeps it.
    Elsewhere(Arc<dyn Signer>),
}

impl KeyPair {
    fn private((private, point): (PrivateKey, Point)) -> Option<Self> {
        Some(Self { private: Some(Private::Here(private)), ..Self::public(point)? })
    }

    fn public(point: Point) -> Option<Self> {
        Some(Self { public: PublicKey::new(&point)?, point, private: None })
    }

    pub(crate) const fn algorithm_name(&self) -> &'static str {
        match self.point {
            Point::Ed25519 { .. } => "EdDSA",
            Point::P256 { .. } => "ES256",
        }
    }

    /// The required members of the JWK, in the order of RFC 7638.
    fn required_members(&self) -> String {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match &self.point {
            Point::Ed25519 { x } => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, encode(x)),
            Point::P256 { x, y } => {
                format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, encode(x), encode(y))
            }
        }
    }

    /// The key's id: its JWK thumbprint (RFC 7638).
    pub(crate) fn thumbprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(self.required_members()))
    }

    /// The key's id in a realm. Tokens of one realm have another header than those of another one, and so they are refused
    /// there even if both realms use this key.
    pub(crate) fn id(&self, realm: Option<&str>) -> String {
        let thumbprint = self.thumbprint();
        realm.map_or_else(|| thumbprint.clone(), |realm| format!("{thumbprint}.{realm}"))
    }

    pub(crate) fn jwk(&self, id: &str) -> Value {
        let mut jwk: Value = serde_json::from_str(&self.required_members()).unwrap_or_default();
        if let Some(members) = jwk.as_object_mut() {
            members.insert("kid".to_owned(), json!(id));
            members.insert("alg".to_owned(), json!(self.algorithm_name()));
            members.insert("use".to_owned(), json!("sig"));
        }
        jwk
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        match self.private.as_ref()? {
            Private::Here(key) => key.sign(message),
            Private::Elsewhere(_) => None,
        }
    }

    /// What signs, if the private key is not here.
    pub(crate) fn signer(&self) -> Option<&dyn Signer> {
        match self.private.as_ref()? {
            Private::Here(_) => None,
            Private::Elsewhere(signer) => Some(&**signer),
        }
    }

    /// Has the message signed. The signature is verified: one that others refuse would log users out.
    pub(crate) async fn sign_by(
        &self,
        signer: &dyn Signer,
        message: &[u8],
        time_limit: Duration,
        meter: Meter,
    ) -> Result<Vec<u8>, BoxError> {
        let call = meter.signer_call();
        let signing = async {
            // A panic in the app's signer must not take down whoever waits for the request.
            let signing = AssertUnwindSafe(async { signer.sign(message).await }).catch_unwind();
            let signature = signing.await.map_err(|_| "it panicked")??;
            let signature = match self.point {
                Point::Ed25519 { .. } => Some(signature),
                Point::P256 { .. } => fixed_length(signature),
            };
            let signature = signature.filter(|signature| self.verify(message, signature));
            signature.ok_or_else(|| BoxError::from("the signature is not one of the public key; compare the two"))
        };
        let result = tokio::time::timeout(time_limit, signing).await;
        call.end(match &result {
            Ok(Ok(_)) => Outcome::Ok,
            Ok(Err(_)) => Outcome::Error,
            Err(_) => Outcome::Timeout,
        });
        result.map_err(|_| format!("no signature within {time_limit:?}"))?
    }

    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        self.public.verify(message, signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) const ED25519: &[u8] = b"-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g
-----END PRIVATE KEY-----
";
    /// `ED25519` is the private key of RFC 8037 appendix A.1, so its thumbprint is the one in A.3.
    const THUMBPRINT: &str = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
    const P256: &[u8] = include_bytes!("keys_for_tests/es256.pem");
    const P256_PUBLIC: &[u8] = include_bytes!("keys_for_tests/es256.pub.pem");
    const ED25519_PUBLIC: &[u8] = include_bytes!("keys_for_tests/ed25519.pub.pem");

    #[test]
    fn both_algorithms_verify_what_they_sign_and_nothing_else() {
        for (signing, verifying) in [
            (SigningKey::ed25519_pem(ED25519).unwrap(), VerifyingKey::ed25519_pem(ED25519_PUBLIC).unwrap()),
            (SigningKey::es256_pem(P256).unwrap(), VerifyingKey::es256_pem(P256_PUBLIC).unwrap()),
        ] {
            let signature = signing.0.sign(b"message").unwrap();
            assert_eq!(signature.len(), 64);
            assert!(signing.0.verify(b"message", &signature));
            assert!(verifying.0.verify(b"message", &signature));
            assert!(!verifying.0.verify(b"massage", &signature));
            assert!(!verifying.0.verify(b"message", &signature[1..]));
            assert!(!verifying.0.verify(b"message", b""));
            assert_eq!(verifying.0.thumbprint(), signing.0.thumbprint());
            assert_eq!(verifying.0.sign(b"message"), None);
        }
    }

    #[test]
    fn the_key_id_is_the_thumbprint_of_rfc_7638() {
        assert_eq!(SigningKey::ed25519_pem(ED25519).unwrap().0.thumbprint(), THUMBPRINT);
    }

    #[test]
    fn a_jwk_has_no_private_member() {
        let jwk = SigningKey::es256_pem(P256).unwrap().0;
        let jwk = jwk.jwk(&jwk.id(None));
        let names: Vec<_> = jwk.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["alg", "crv", "kid", "kty", "use", "x", "y"]);
    }

    #[test]
    fn a_key_of_another_type_is_rejected() {
        assert!(SigningKey::ed25519_pem(P256).is_err());
        assert!(SigningKey::es256_pem(ED25519).is_err());
        assert!(VerifyingKey::ed25519_pem(P256_PUBLIC).is_err());
        assert!(VerifyingKey::es256_pem(ED25519_PUBLIC).is_err());
        assert!(SigningKey::ed25519_pem(b"garbage").is_err());
        assert!(SigningKey::ed25519_pem(ED25519_PUBLIC).is_err());
    }

    #[test]
    fn a_pem_file_may_have_other_line_ends_and_space_around_it() {
        for pem in [ED25519, P256] {
            let text = std::str::from_utf8(pem).unwrap().trim();
            for written in [text.to_owned(), format!("\n{text}\n\n"), text.replace('\n', "\r\n")] {
                assert!(SigningKey::from_pem(written.as_bytes()).is_ok(), "{written:?}");
            }
        }
    }

    #[test]
    fn a_key_that_two_realms_share_signs_tokens_that_are_valid_in_one_of_them() {
        use std::time::Duration;

        use crate::config::Settings;
        use crate::session::{Authentication, SessionId};
        use crate::time::Timestamp;
        use crate::token::access::{AccessKeys, AccessTokenParams};
        use crate::token::ring::Key;

        let keys = |realm| {
            let key = Key::asymmetric(SigningKey::ed25519_pem(ED25519).unwrap().0, realm);
            AccessKeys::new(key, Vec::new(), &Settings::default()).unwrap()
        };
        let authentication = Authentication::at(Timestamp::from_millis(0));
        let params = AccessTokenParams {
            authentication: &authentication,
            actor: None,
            user_id: "1",
            session_id: SessionId::from_bytes([7; 16]),
            generation: 0,
            now: Timestamp::from_millis(1_700_000_000_000),
            ttl: Duration::from_secs(60),
            session_expires_at: Timestamp::MAX,
            random: [7; 8],
            claims: "{}",
        };
        let token = keys(Some("one")).issue(params).unwrap().token;
        for (realm, accepted) in [(Some("one"), true), (Some("two"), false), (None, false)] {
            assert_eq!(keys(realm).verify::<serde::de::IgnoredAny>(&token).is_ok(), accepted, "{realm:?}");
        }
        assert_eq!(keys(Some("one")).ring.jwks(params.now)["keys"][0]["kid"], format!("{THUMBPRINT}.one"));
    }

    #[test]
    fn a_jwks_has_all_public_keys_and_no_symmetric_key() {
        use super::super::access::AccessKeys;
        use super::super::keys::Secret;
        use super::super::ring::Key;
        use crate::config::Settings;
        use crate::time::Timestamp;

        let hs256 = || Key::hs256(&Secret::new("k4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6rA"), "app");
        let ed25519 = Key::asymmetric(SigningKey::ed25519_pem(ED25519).unwrap().0, None);
        let es256 = Key::asymmetric(VerifyingKey::es256_pem(P256_PUBLIC).unwrap().0, None);
        let keys = AccessKeys::new(ed25519, vec![hs256(), es256], &Settings::default()).unwrap();
        let jwks = keys.ring.jwks(Timestamp::from_millis(0));
        let found: Vec<_> = jwks["keys"].as_array().unwrap().iter().map(|key| (&key["alg"], &key["crv"])).collect();
        assert_eq!(found, [(&json!("EdDSA"), &json!("Ed25519")), (&json!("ES256"), &json!("P-256"))]);
        assert_eq!(jwks["keys"][0]["kid"], THUMBPRINT);
        let symmetric = AccessKeys::new(hs256(), Vec::new(), &Settings::default()).unwrap();
        assert_eq!(symmetric.ring.jwks(Timestamp::from_millis(0)), json!({ "keys": [] }));
    }

    #[test]
    fn a_jwk_for_something_else_is_rejected() {
        for pem in [ED25519, P256] {
            let key = SigningKey::from_pem(pem).unwrap().0;
            let jwk = key.jwk("id");
            let with = |name: &str, value: Value| {
                let mut jwk = jwk.clone();
                jwk[name] = value;
                VerifyingKey::from_jwk(&jwk)
            };
            assert!(with("key_ops", json!(["verify"])).is_ok());
            let other = if key.algorithm_name() == "EdDSA" { "ES256" } else { "EdDSA" };
            for (name, value) in [
                ("alg", json!(other)),
                ("alg", json!("ECDH-ES")),
                ("alg", Value::Null),
                ("use", json!("enc")),
                ("key_ops", json!(["encrypt"])),
                ("key_ops", json!("verify")),
                ("d", Value::Null),
            ] {
                assert!(with(name, value.clone()).is_err(), "{name} {value}");
            }
        }
    }

    #[test]
    fn a_public_key_of_another_length_is_rejected() {
        let bytes = |count| vec![7_u8; count];
        assert!(Point::ed25519(&bytes(32)).is_some() && Point::ed25519(&bytes(31)).is_none());
        assert!(Point::p256(&bytes(32), &bytes(32)).is_some());
        for (x, y) in [(32, 31), (31, 32), (33, 33)] {
            assert!(Point::p256(&bytes(x), &bytes(y)).is_none(), "{x} {y}");
        }
    }

    #[test]
    fn the_debug_output_shows_only_the_thumbprint() {
        let shown = format!("{:?}", SigningKey::ed25519_pem(ED25519).unwrap());
        assert_eq!(shown, format!("SigningKey({THUMBPRINT})"));
        let shown = format!("{:?}", VerifyingKey::ed25519_pem(ED25519_PUBLIC).unwrap());
        assert_eq!(shown, format!("VerifyingKey({THUMBPRINT})"));
    }
}
