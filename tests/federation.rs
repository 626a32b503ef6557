//! Logout by the identity provider: the rules for its tokens, and the route that receives them.
#![cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use axum_refresh::federation::{BackChannelLogout, LogoutToken, LogoutTokenError, LogoutVerifier};
use axum_refresh::store::SessionStore as _;
use axum_refresh::{Event, Login, Policy, RevocationReason};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::BodyExt as _;
#[cfg(feature = "aws_lc_rs")]
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER as PROVIDER;
#[cfg(not(feature = "aws_lc_rs"))]
use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER as PROVIDER;
use jsonwebtoken::jwk::EllipticCurve;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use support::{Claims, Clock, Fault, Node, claims};
use tower::ServiceExt as _;

const ISSUER: &str = "https://id.example";
const CLIENT: &str = "my-client";
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

// ---- the provider ---------------------------------------------------------------------------------------------------

/// A key of the provider.
struct Key {
    id: &'static str,
    algorithm: Algorithm,
    /// The name of the algorithm in the header.
    name: &'static str,
    private: EncodingKey,
    public: Value,
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Key {
    fn ed25519(id: &'static str, seed: u8) -> Self {
        let mut der =
            vec![0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
        der.extend([seed; 32]);
        let private = EncodingKey::from_ed_der(&der);
        let components = PROVIDER.key_utils.ed_pub_components_from_private_key;
        let x = components(private.as_bytes(), &EllipticCurve::Ed25519).unwrap();
        let public = json!({ "kty": "OKP", "crv": "Ed25519", "x": base64(x), "kid": id });
        Self { id, algorithm: Algorithm::EdDSA, name: "EdDSA", private, public }
    }

    fn ec(id: &'static str, algorithm: Algorithm) -> Self {
        let (curve, pem): (_, &[u8]) = match algorithm {
            Algorithm::ES256 => ("P-256", include_bytes!("../src/token/keys_for_tests/es256.pem")),
            _ => ("P-384", include_bytes!("../src/token/keys_for_tests/es384.pem")),
        };
        let private = EncodingKey::from_ec_pem(pem).unwrap();
        let (_, x, y) = (PROVIDER.key_utils.ec_pub_components_from_private_key)(private.as_bytes(), algorithm).unwrap();
        let public = json!({ "kty": "EC", "crv": curve, "x": base64(x), "y": base64(y), "kid": id });
        let name = if algorithm == Algorithm::ES256 { "ES256" } else { "ES384" };
        Self { id, algorithm, name, private, public }
    }

    fn rsa(id: &'static str, algorithm: Algorithm, name: &'static str) -> Self {
        let private = EncodingKey::from_rsa_pem(include_bytes!("../src/token/keys_for_tests/rs256.pem")).unwrap();
        let (n, e) = (PROVIDER.key_utils.rsa_pub_components_from_private_key)(private.as_bytes()).unwrap();
        let public = json!({ "kty": "RSA", "n": base64(n), "e": base64(e), "kid": id });
        Self { id, algorithm, name, private, public }
    }

    fn header(&self) -> Value {
        json!({ "typ": "logout+jwt", "alg": self.name, "kid": self.id })
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_with(&self.header(), claims)
    }

    fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", base64(header.to_string()), base64(claims.to_string()));
        let signer = (PROVIDER.signer_factory)(&self.algorithm, &self.private).unwrap();
        let signature = signer.try_sign(message.as_bytes()).unwrap();
        format!("{message}.{}", base64(signature))
    }

    /// The JWK with another member.
    fn with(&self, name: &str, value: Value) -> Value {
        let mut public = self.public.clone();
        public[name] = value;
        public
    }
}

fn key() -> Key {
    Key::ed25519("one", 1)
}

fn jwks(keys: &[&Value]) -> Value {
    json!({ "keys": keys })
}

fn verifier() -> LogoutVerifier {
    LogoutVerifier::new(ISSUER, CLIENT, &jwks(&[&key().public])).unwrap()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

fn now() -> SystemTime {
    Clock::new().now().into()
}

fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

/// What a provider says, two minutes before it expires.
fn logout_at(now: SystemTime, jti: &str) -> Value {
    json!({
        "iss": ISSUER,
        "aud": CLIENT,
        "iat": seconds(now),
        "exp": seconds(now) + 120,
        "jti": jti,
        "sub": "248289761001",
        "sid": "08a5019c",
        "events": { EVENT: {} },
    })
}

fn logout() -> Value {
    logout_at(now(), "bWJq")
}

/// The same with another claim.
fn logout_with(name: &str, value: impl Into<Value>) -> Value {
    let mut claims = logout();
    claims[name] = value.into();
    claims
}

fn logout_without(name: &str) -> Value {
    let mut claims = logout();
    claims.as_object_mut().unwrap().remove(name).unwrap();
    claims
}

fn verify(claims: &Value) -> Result<LogoutToken, LogoutTokenError> {
    verifier().verify(&key().sign(claims), now())
}

fn error_of(claims: &Value) -> LogoutTokenError {
    verify(claims).expect_err("it is refused")
}

fn error_of_header(header: &Value) -> LogoutTokenError {
    verifier().verify(&key().sign_with(header, &logout()), now()).expect_err("it is refused")
}

fn header_with(name: &str, value: impl Into<Value>) -> Value {
    let mut header = key().header();
    header[name] = value.into();
    header
}

fn header_without(name: &str) -> Value {
    let mut header = key().header();
    header.as_object_mut().unwrap().remove(name).unwrap();
    header
}

// ---- the signature --------------------------------------------------------------------------------------------------

#[test]
fn a_token_is_read_as_it_was_signed() {
    let token = verify(&logout()).unwrap();
    assert_eq!((&*token.issuer, &*token.jti), (ISSUER, "bWJq"));
    assert_eq!((token.subject.as_deref(), token.session_id.as_deref()), (Some("248289761001"), Some("08a5019c")));
    assert_eq!((token.issued_at, token.expires_at), (now(), now() + minutes(2)));
}

#[test]
fn every_asymmetric_algorithm_is_accepted_with_a_key_that_fits() {
    let mut keys = vec![key(), Key::ec("es256", Algorithm::ES256), Key::ec("es384", Algorithm::ES384)];
    keys.push(Key { name: "Ed25519", ..key() });
    for (name, algorithm) in [
        ("RS256", Algorithm::RS256),
        ("RS384", Algorithm::RS384),
        ("RS512", Algorithm::RS512),
        ("PS256", Algorithm::PS256),
        ("PS384", Algorithm::PS384),
        ("PS512", Algorithm::PS512),
    ] {
        keys.push(Key::rsa("rsa", algorithm, name));
    }
    for key in keys {
        for public in [&key.public, &key.with("alg", key.name.into()), &key.with("use", "sig".into())] {
            let verifier = LogoutVerifier::new(ISSUER, CLIENT, &jwks(&[public])).unwrap();
            let token = key.sign(&logout());
            assert!(verifier.verify(&token, now()).is_ok(), "{} {public}", key.name);
            // Another last character may have the same bits.
            let (message, signature) = token.rsplit_once('.').unwrap();
            let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
            for changed in [0, signature.len() - 1] {
                signature[changed] ^= 1;
                let forged = format!("{message}.{}", base64(&signature));
                assert_eq!(verifier.verify(&forged, now()), Err(LogoutTokenError::Signature), "{}", key.name);
            }
        }
    }
}

#[test]
fn no_part_of_a_token_can_be_changed() {
    let token = key().sign(&logout());
    let mut parts: Vec<_> = token.split('.').collect();
    let other = base64(logout_with("sid", "other").to_string());
    parts[1] = &other;
    assert_eq!(verifier().verify(&parts.join("."), now()), Err(LogoutTokenError::Signature));
}

#[test]
fn a_token_that_another_key_has_signed_is_refused() {
    let other = Key::ed25519("one", 2);
    assert_eq!(verifier().verify(&other.sign(&logout()), now()), Err(LogoutTokenError::Signature));
    let unknown = Key::ed25519("two", 2);
    assert_eq!(verifier().verify(&unknown.sign(&logout()), now()), Err(LogoutTokenError::UnknownKey));
}

#[test]
fn a_token_without_a_signature_or_with_a_symmetric_one_is_refused() {
    for algorithm in ["none", "None", "HS256", "HS384", "HS512", "ES512", "RSA-OAEP", "", "eddsa"] {
        assert_eq!(error_of_header(&header_with("alg", algorithm)), LogoutTokenError::Algorithm, "{algorithm}");
    }
    assert_eq!(error_of_header(&header_without("alg")), LogoutTokenError::Algorithm);
    assert_eq!(error_of_header(&header_with("alg", 5)), LogoutTokenError::Algorithm);
    // The public key as the secret of an HMAC, which everybody knows.
    let message = format!("{}.{}", base64(header_with("alg", "HS256").to_string()), base64(logout().to_string()));
    let secret = EncodingKey::from_secret(key().public["x"].as_str().unwrap().as_bytes());
    let signature =
        (PROVIDER.signer_factory)(&Algorithm::HS256, &secret).unwrap().try_sign(message.as_bytes()).unwrap();
    let forged = format!("{message}.{}", base64(signature));
    assert_eq!(verifier().verify(&forged, now()), Err(LogoutTokenError::Algorithm));
    let unsigned = format!("{}.{}.", base64(r#"{"typ":"logout+jwt","alg":"none"}"#), base64(logout().to_string()));
    assert_eq!(verifier().verify(&unsigned, now()), Err(LogoutTokenError::Algorithm));
}

#[test]
fn a_key_is_used_with_its_own_algorithm_alone() {
    let (pss, pkcs1) = (Key::rsa("rsa", Algorithm::PS256, "PS256"), Key::rsa("rsa", Algorithm::RS256, "RS256"));
    let jwk = pss.with("alg", "PS256".into());
    let verifier = LogoutVerifier::new(ISSUER, CLIENT, &jwks(&[&jwk])).unwrap();
    verifier.verify(&pss.sign(&logout()), now()).unwrap();
    assert_eq!(verifier.verify(&pkcs1.sign(&logout()), now()), Err(LogoutTokenError::UnknownKey));
}

#[test]
fn a_token_without_a_key_id_needs_one_key_that_fits() {
    let token = key().sign_with(&header_without("kid"), &logout());
    verifier().verify(&token, now()).unwrap();
    let other = Key::ec("es256", Algorithm::ES256);
    let of = |keys: &[&Value]| LogoutVerifier::new(ISSUER, CLIENT, &jwks(keys)).unwrap();
    of(&[&key().public, &other.public]).verify(&token, now()).unwrap();
    let two = of(&[&key().public, &Key::ed25519("two", 2).public]);
    assert_eq!(two.verify(&token, now()), Err(LogoutTokenError::UnknownKey));
    assert_eq!(error_of_header(&header_with("kid", 5)), LogoutTokenError::Malformed);
}

#[test]
fn critical_header_parameters_are_refused_because_none_is_supported() {
    assert_eq!(error_of_header(&header_with("crit", json!(["b64"]))), LogoutTokenError::CriticalHeader);
}

#[test]
fn what_is_no_signed_jwt_is_refused() {
    let token = key().sign(&logout());
    let [header, payload, signature] = [0, 1, 2].map(|n| token.split('.').nth(n).unwrap());
    for malformed in [
        "",
        ".",
        "..",
        "a.b",
        "ä.ö.ü",
        payload,
        &format!("{header}.{payload}"),
        &format!("{token}."),
        &format!("{token}.x.y.z"),
        &format!("{header}=.{payload}.{signature}"),
        &format!("{header}.{payload}.{signature}="),
        &format!("{header}.{payload}.{signature}!"),
        &format!("{}.{payload}.{signature}", base64("[]")),
        &key().sign(&json!([])),
        &key().sign(&json!("logout")),
        &format!(" {token}"),
    ] {
        assert_eq!(verifier().verify(malformed, now()), Err(LogoutTokenError::Malformed), "{malformed}");
    }
}

#[test]
fn an_encrypted_token_is_refused_with_an_error_of_its_own() {
    assert_eq!(verifier().verify("eyJ.a.b.c.d", now()), Err(LogoutTokenError::Encrypted));
}

#[test]
fn a_long_token_is_refused_before_anything_of_it_is_read() {
    let long = key().sign(&logout_with("note", "x".repeat(7000)));
    assert!(long.len() > 8192);
    assert_eq!(verifier().verify(&long, now()), Err(LogoutTokenError::TooLong));
    let short = key().sign(&logout_with("note", "x".repeat(5000)));
    assert!(short.len() < 8192);
    verifier().verify(&short, now()).unwrap();
}

// ---- the claims -----------------------------------------------------------------------------------------------------

#[test]
fn the_type_has_to_be_that_of_a_logout_token() {
    for (typ, is_accepted) in [
        ("logout+jwt", true),
        ("application/logout+jwt", true),
        ("Logout+JWT", true),
        ("JWT", false),
        ("jwt", false),
        ("at+jwt", false),
        ("secevent+jwt", false),
        ("", false),
    ] {
        let token = key().sign_with(&header_with("typ", typ), &logout());
        let expected = if is_accepted { None } else { Some(LogoutTokenError::WrongType) };
        assert_eq!(verifier().verify(&token, now()).err(), expected, "{typ}");
        let is_untyped = typ.eq_ignore_ascii_case("jwt");
        let is_accepted = verifier().accept_untyped().verify(&token, now()).is_ok();
        assert_eq!(is_accepted, expected.is_none() || is_untyped, "{typ}");
    }
    assert_eq!(error_of_header(&header_without("typ")), LogoutTokenError::WrongType);
    assert_eq!(error_of_header(&header_with("typ", json!(["logout+jwt"]))), LogoutTokenError::WrongType);
    let token = key().sign_with(&header_without("typ"), &logout());
    verifier().accept_untyped().verify(&token, now()).unwrap();
}

#[test]
fn the_issuer_has_to_be_the_provider() {
    for issuer in ["https://id.example/", "https://other.example", ""] {
        assert_eq!(error_of(&logout_with("iss", issuer)), LogoutTokenError::WrongIssuer, "{issuer}");
    }
    assert_eq!(error_of(&logout_without("iss")), LogoutTokenError::WrongIssuer);
    assert_eq!(error_of(&logout_with("iss", json!([ISSUER]))), LogoutTokenError::WrongIssuer);
}

#[test]
fn the_audience_has_to_be_the_client_alone() {
    verify(&logout_with("aud", json!([CLIENT]))).unwrap();
    for audience in
        [json!("other"), json!([]), json!(["other"]), json!([CLIENT, "other"]), json!([CLIENT, 5]), json!(null)]
    {
        assert_eq!(error_of(&logout_with("aud", audience.clone())), LogoutTokenError::WrongAudience, "{audience}");
    }
    assert_eq!(error_of(&logout_without("aud")), LogoutTokenError::WrongAudience);
}

#[test]
fn a_token_expires_and_needs_an_expiry() {
    let token = key().sign(&logout());
    let at = |after: Duration| verifier().verify(&token, now() + after).err();
    // The clocks may differ by a minute.
    assert_eq!(at(minutes(3) - Duration::from_millis(1)), None);
    assert_eq!(at(minutes(3)), Some(LogoutTokenError::Expired));
    assert_eq!(error_of(&logout_without("exp")), LogoutTokenError::Claim("exp"));
    for expiry in [json!("1800000000"), json!(-1), json!(-0.5), json!(null), json!([])] {
        assert_eq!(error_of(&logout_with("exp", expiry.clone())), LogoutTokenError::Claim("exp"), "{expiry}");
    }
    verify(&logout_with("exp", 1_800_000_060.5)).unwrap();
    verify(&logout_with("exp", u64::MAX)).unwrap();
}

#[test]
fn a_token_from_the_future_is_refused_and_the_time_of_its_issue_is_needed() {
    let token = key().sign(&logout());
    let at = |before: Duration| verifier().verify(&token, now() - before).err();
    assert_eq!(at(minutes(1)), None);
    assert_eq!(at(minutes(1) + Duration::from_millis(1)), Some(LogoutTokenError::FromFuture));
    assert_eq!(error_of(&logout_without("iat")), LogoutTokenError::Claim("iat"));
    assert_eq!(error_of(&logout_with("iat", "1800000000")), LogoutTokenError::Claim("iat"));
    assert_eq!(error_of(&logout_with("iat", u64::MAX)), LogoutTokenError::FromFuture);
}

#[test]
fn an_old_token_is_refused_however_late_it_expires() {
    let token = key().sign(&logout_with("exp", seconds(now() + minutes(24 * 60))));
    let at = |after: Duration| verifier().verify(&token, now() + after).err();
    assert_eq!(at(minutes(6) - Duration::from_millis(1)), None);
    assert_eq!(at(minutes(6)), Some(LogoutTokenError::TooOld));
}

#[test]
fn the_id_of_the_token_is_needed() {
    assert_eq!(error_of(&logout_without("jti")), LogoutTokenError::Claim("jti"));
    for id in [json!(""), json!(5), json!(null)] {
        assert_eq!(error_of(&logout_with("jti", id)), LogoutTokenError::Claim("jti"));
    }
}

#[test]
fn the_event_of_a_logout_is_needed_and_has_to_be_an_object() {
    assert_eq!(error_of(&logout_without("events")), LogoutTokenError::NoLogoutEvent);
    for events in [
        json!(null),
        json!([]),
        json!([EVENT]),
        json!(EVENT),
        json!({}),
        json!({ "https://schemas.openid.net/secevent/caep/event-type/session-revoked": {} }),
        json!({ EVENT: null }),
        json!({ EVENT: true }),
        json!({ EVENT: [] }),
        json!({ EVENT: "" }),
    ] {
        assert_eq!(error_of(&logout_with("events", events.clone())), LogoutTokenError::NoLogoutEvent, "{events}");
    }
    verify(&logout_with("events", json!({ EVENT: { "a": 1 }, "other": 5 }))).unwrap();
}

#[test]
fn a_nonce_is_refused_whatever_it_is() {
    for nonce in [json!("n-0S6_WzA2Mj"), json!(""), json!(null), json!(5)] {
        assert_eq!(error_of(&logout_with("nonce", nonce.clone())), LogoutTokenError::HasNonce, "{nonce}");
    }
}

#[test]
fn a_token_needs_a_session_or_a_user() {
    let both_missing = json!({ "iss": ISSUER, "aud": CLIENT, "iat": seconds(now()), "exp": seconds(now()) + 60,
        "jti": "a", "events": { EVENT: {} } });
    assert_eq!(error_of(&both_missing), LogoutTokenError::NoSubject);
    assert_eq!(verify(&logout_without("sub")).unwrap().subject, None);
    assert_eq!(verify(&logout_without("sid")).unwrap().session_id, None);
    for name in ["sub", "sid"] {
        for value in [json!(""), json!(5), json!(null)] {
            assert_eq!(error_of(&logout_with(name, value)), LogoutTokenError::Claim(name));
        }
    }
}

#[test]
fn claims_that_are_not_understood_are_ignored() {
    verify(&logout_with("ignored_claim", json!({ "a": [1] }))).unwrap();
}

#[test]
fn an_id_token_is_no_logout_token() {
    let mut id_token = logout_with("nonce", "n-0S6_WzA2Mj");
    id_token.as_object_mut().unwrap().remove("events");
    for token in [key().sign(&id_token), key().sign_with(&header_with("typ", "JWT"), &id_token)] {
        assert!(verifier().verify(&token, now()).is_err());
        assert!(verifier().accept_untyped().verify(&token, now()).is_err());
    }
}

// ---- the keys -------------------------------------------------------------------------------------------------------

fn rejected(jwks: &Value) -> String {
    let error = LogoutVerifier::new(ISSUER, CLIENT, jwks).expect_err("they are rejected");
    assert_eq!(error.setting(), "jwks");
    error.to_string()
}

#[test]
fn a_symmetric_or_a_private_key_is_rejected_with_all_others() {
    let public = key().public;
    let symmetric = json!({ "kty": "oct", "k": base64([7; 32]), "alg": "HS256", "kid": "s" });
    assert!(rejected(&jwks(&[&public, &symmetric])).contains("symmetric"));
    let private = key().with("d", base64([1; 32]).into());
    assert!(rejected(&jwks(&[&private, &public])).contains("private"));
}

#[test]
fn what_is_no_key_set_is_rejected() {
    for jwks in [json!(null), json!([]), json!({}), json!({ "keys": {} }), key().public] {
        assert!(rejected(&jwks).contains("not a JWK set"), "{jwks}");
    }
    assert!(rejected(&json!({ "keys": [] })).contains("no key that can be used"));
}

#[test]
fn a_key_that_cannot_verify_logout_tokens_is_left_out() {
    let good = Key::ed25519("good", 9);
    let rsa = Key::rsa("rsa", Algorithm::RS256, "RS256");
    let modulus = URL_SAFE_NO_PAD.decode(rsa.public["n"].as_str().unwrap()).unwrap();
    let ec = Key::ec("ec", Algorithm::ES256);
    let others = [
        json!({ "kty": "XYZ", "kid": "x" }),
        json!({ "kid": "x" }),
        json!({ "kty": "EC", "crv": "P-521", "x": base64([1; 66]), "y": base64([1; 66]) }),
        json!({ "kty": "EC", "crv": "secp256k1", "x": base64([1; 32]), "y": base64([1; 32]) }),
        json!({ "kty": "OKP", "crv": "X25519", "x": base64([1; 32]) }),
        json!({ "kty": "OKP", "crv": "Ed448", "x": base64([1; 57]) }),
        json!("key"),
        key().with("use", "enc".into()),
        key().with("key_ops", json!(["sign"])),
        key().with("alg", "ES256".into()),
        key().with("alg", "HS256".into()),
        key().with("alg", 5.into()),
        key().with("x", base64([1; 31]).into()),
        key().with("x", "!".into()),
        ec.with("x", base64([1; 33]).into()),
        ec.with("y", json!(null)),
        rsa.with("alg", "RSA-OAEP".into()),
        // 1024 bits, and 2047.
        rsa.with("n", base64(&modulus[..128]).into()),
        rsa.with("n", base64([&[0x7f], &modulus[1..]].concat()).into()),
        rsa.with("n", base64([1; 1025]).into()),
        rsa.with("e", base64([1]).into()),
        rsa.with("e", base64([1, 0, 0]).into()),
        rsa.with("e", "".into()),
        rsa.with("e", base64([1; 6]).into()),
    ];
    for other in &others {
        assert!(rejected(&jwks(&[other])).contains("no key that can be used"), "{other}");
        let verifier = LogoutVerifier::new(ISSUER, CLIENT, &jwks(&[other, &good.public])).unwrap();
        assert!(format!("{verifier:?}").contains("keys: 1"), "{other}");
        verifier.verify(&good.sign(&logout()), now()).unwrap();
    }
    let for_signatures = key().with("key_ops", json!(["verify"]));
    let padded = rsa.with("n", base64([&[0], modulus.as_slice()].concat()).into());
    for jwk in [&for_signatures, &padded] {
        LogoutVerifier::new(ISSUER, CLIENT, &jwks(&[jwk])).unwrap();
    }
}

#[test]
fn the_keys_are_replaced_in_all_clones_and_stay_if_the_new_ones_are_rejected() {
    let (verifier, next) = (verifier(), Key::ed25519("two", 2));
    let clone = verifier.clone();
    let unknown = |token: &str| clone.verify(token, now()).err() == Some(LogoutTokenError::UnknownKey);
    let (old, new) = (key().sign(&logout()), next.sign(&logout()));
    assert!(!unknown(&old) && unknown(&new));
    verifier.set_jwks(&jwks(&[])).unwrap_err();
    assert!(!unknown(&old) && unknown(&new));
    verifier.set_jwks(&jwks(&[&key().public, &next.public])).unwrap();
    assert!(!unknown(&old) && !unknown(&new));
    verifier.set_jwks(&jwks(&[&next.public])).unwrap();
    assert!(unknown(&old) && !unknown(&new));
}

#[test]
fn a_verifier_needs_an_issuer_and_a_client_id() {
    let new = |issuer, client_id| LogoutVerifier::new(issuer, client_id, &jwks(&[&key().public]));
    assert_eq!(new("", CLIENT).unwrap_err().setting(), "issuer");
    assert_eq!(new(ISSUER, "").unwrap_err().setting(), "client_id");
}

// ---- the route ------------------------------------------------------------------------------------------------------

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

const FORM: &str = "application/x-www-form-urlencoded";

fn app(logout: BackChannelLogout<Claims>) -> Router {
    Router::new().route("/backchannel-logout", logout.route())
}

fn app_of(node: &Node) -> Router {
    app(node.auth.back_channel_logout(verifier()))
}

async fn send(app: &Router, content_type: &str, body: String) -> Answer {
    let request = Request::post("/backchannel-logout").header("content-type", content_type);
    let response = app.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    let answer =
        Answer { status: parts.status.as_u16(), headers: parts.headers, body: String::from_utf8(body).unwrap() };
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert!(!answer.headers.contains_key("set-cookie"));
    answer
}

async fn post(app: &Router, token: &str) -> Answer {
    send(app, FORM, format!("logout_token={token}")).await
}

/// Posts a logout of the session with this `sid`, as of now.
async fn post_logout(app: &Router, node: &Node, jti: &str, sid: &str) -> Answer {
    post(app, &token_of(node, jti, sid)).await
}

fn token_of(node: &Node, jti: &str, sid: &str) -> String {
    let mut claims = logout_at(node.clock.now().into(), jti);
    claims["sid"] = sid.into();
    key().sign(&claims)
}

async fn log_in(node: &Node, user: &str, sid: &str) -> Login {
    node.auth.login(user, claims("user")).external(ISSUER, sid).await.unwrap()
}

async fn revoked(node: &Node, login: &Login) -> Option<RevocationReason> {
    let session = node.store.inner.load(login.tokens.session_id).await.unwrap().unwrap();
    session.rotation.revoked.map(|revocation| revocation.reason)
}

fn assert_refused(answer: &Answer, error: LogoutTokenError) {
    assert_eq!(answer.status, 400, "{}", answer.body);
    let expected = json!({ "error": "invalid_request", "error_description": error.to_string() });
    assert_eq!(answer.json(), expected);
    assert_eq!(answer.headers["content-type"], "application/json");
}

const ENDED: Option<RevocationReason> = Some(RevocationReason::IdentityProvider);

#[tokio::test]
async fn a_logout_token_revokes_the_sessions_of_its_sid_and_no_others() {
    let node = Node::new();
    let app = app_of(&node);
    let [ended, also, other] =
        [log_in(&node, "a", "x").await, log_in(&node, "b", "x").await, log_in(&node, "a", "y").await];
    let answer = post_logout(&app, &node, "1", "x").await;
    assert_eq!((answer.status, &*answer.body), (200, ""));
    assert_eq!((revoked(&node, &ended).await, revoked(&node, &also).await), (ENDED, ENDED));
    assert_eq!(revoked(&node, &other).await, None);
    assert_eq!(support::code(node.auth.authenticate(&ended.tokens.access_token).await), "access_token_revoked");
    node.auth.authenticate(&other.tokens.access_token).await.unwrap();
    let events = node.events();
    let reasons = events.iter().filter(|event| {
        matches!(event, Event::SessionRevoked { reason: RevocationReason::IdentityProvider, user_id: Some(_), .. })
    });
    assert_eq!(reasons.count(), 2);
    // The mark of the used token is nobody's access token.
    assert!(events.iter().all(|event| !matches!(event, Event::TokenRevoked { .. })), "{events:?}");
}

#[tokio::test]
async fn an_unknown_session_is_logged_out_already() {
    let node = Node::new();
    assert_eq!(post_logout(&app_of(&node), &node, "1", "unknown").await.status, 200);
    assert_eq!(node.auth.back_channel_logout(verifier()).accept(&token_of(&node, "2", "unknown")).await.unwrap(), 0);
}

#[tokio::test]
async fn an_idle_session_is_ended_too() {
    let node = Node::new();
    let login = log_in(&node, "alice", "x").await;
    node.clock.advance(Duration::from_secs(8 * 24 * 3600));
    assert_eq!(post_logout(&app_of(&node), &node, "1", "x").await.status, 200);
    assert_eq!(revoked(&node, &login).await, ENDED);
}

#[tokio::test]
async fn a_logout_token_counts_once() {
    let node = Node::new();
    let app = app_of(&node);
    let _ = log_in(&node, "alice", "x").await;
    let token = token_of(&node, "1", "x");
    assert_eq!(post(&app, &token).await.status, 200);
    // A new session of the same one at the provider.
    let again = log_in(&node, "alice", "x").await;
    assert_refused(&post(&app, &token).await, LogoutTokenError::Replayed);
    // By another route of the app, and signed again with the same id.
    assert_refused(&post(&app_of(&node), &token).await, LogoutTokenError::Replayed);
    let mut claims = logout();
    (claims["sid"], claims["jti"]) = ("x".into(), "1".into());
    assert_refused(&post(&app, &key().sign(&claims)).await, LogoutTokenError::Replayed);
    assert_eq!(revoked(&node, &again).await, None);
    assert_eq!(post_logout(&app, &node, "2", "x").await.status, 200);
    assert_eq!(revoked(&node, &again).await, ENDED);
}

#[tokio::test]
async fn the_same_id_of_another_issuer_is_another_token() {
    let node = Node::new();
    let other = LogoutVerifier::new("https://other.example", CLIENT, &jwks(&[&key().public])).unwrap();
    let other = app(node.auth.back_channel_logout(other));
    assert_eq!(post_logout(&app_of(&node), &node, "1", "x").await.status, 200);
    let mut claims = logout_at(node.clock.now().into(), "1");
    claims["iss"] = "https://other.example".into();
    assert_eq!(post(&other, &key().sign(&claims)).await.status, 200);
    assert_refused(&post(&other, &key().sign(&claims)).await, LogoutTokenError::Replayed);
}

#[tokio::test]
async fn a_logout_token_counts_once_on_all_nodes() {
    let first = Node::new();
    let second = Node::on(first.store.clone(), first.clock.clone(), |builder| builder);
    let login = log_in(&first, "alice", "x").await;
    // Both have read the feed before.
    for node in [&first, &second] {
        node.auth.authenticate(&login.tokens.access_token).await.unwrap();
    }
    let token = token_of(&first, "1", "x");
    assert_eq!(post(&app_of(&first), &token).await.status, 200);
    // Makes the other node read the feed, as its background task does every second.
    first.clock.advance(Duration::from_secs(31));
    assert_refused(&post(&app_of(&second), &token).await, LogoutTokenError::Replayed);
    let restarted = Node::on(first.store.clone(), first.clock.clone(), |builder| builder);
    assert_refused(&post(&app_of(&restarted), &token).await, LogoutTokenError::Replayed);
}

#[tokio::test(start_paused = true)]
async fn a_used_token_is_remembered_for_as_long_as_it_can_be_used_however_short_access_tokens_live() {
    let policy = Policy { access_ttl: Duration::from_secs(5), grace: Duration::from_secs(1), ..Policy::default() };
    let node = Node::with_policy(policy.clone());
    let app = app_of(&node);
    // From a provider whose clock is ahead, and whose tokens live long.
    let mut claims = logout_at(SystemTime::from(node.clock.now()) + minutes(1), "1");
    claims["exp"] = seconds(now() + minutes(60)).into();
    let token = key().sign(&claims);
    assert_eq!(post(&app, &token).await.status, 200);
    for _ in 0..7 {
        // The background tasks forget what is over.
        node.clock.advance(minutes(1) - Duration::from_millis(1));
        node.store.age_feed(minutes(1) - Duration::from_millis(1));
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_refused(&post(&app, &token).await, LogoutTokenError::Replayed);
        let restarted = Node::on(node.store.clone(), node.clock.clone(), |builder| {
            builder.configure(|settings| settings.policy = policy.clone())
        });
        assert_refused(&post(&app_of(&restarted), &token).await, LogoutTokenError::Replayed);
    }
    node.clock.advance(Duration::from_secs(1));
    assert_refused(&post(&app, &token).await, LogoutTokenError::TooOld);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_requests_that_race_with_one_token_exactly_one_succeeds() {
    let node = Node::new();
    let app = app_of(&node);
    for round in 0..300 {
        let login = log_in(&node, "alice", &format!("x{round}")).await;
        let token = Arc::new(token_of(&node, &round.to_string(), &format!("x{round}")));
        let racing: Vec<_> = (0..2 + round % 3)
            .map(|_| {
                let (app, token) = (app.clone(), Arc::clone(&token));
                tokio::spawn(async move { post(&app, &token).await.status })
            })
            .collect();
        let count = racing.len();
        let mut statuses = Vec::new();
        for request in racing {
            statuses.push(request.await.unwrap());
        }
        statuses.sort_unstable();
        assert_eq!(statuses[0], 200);
        assert_eq!(statuses[1..], vec![400; count - 1]);
        assert_eq!(revoked(&node, &login).await, ENDED);
    }
}

#[tokio::test]
async fn a_failure_of_the_store_loses_nothing_and_the_token_can_be_used_again() {
    for fault in [Fault::Fails, Fault::FailsToRevoke, Fault::FailsForTokens] {
        let node = Node::new();
        let app = app_of(&node);
        let login = log_in(&node, "alice", "x").await;
        // The feed is read, so that the fault is met where it is meant.
        node.auth.authenticate(&login.tokens.access_token).await.unwrap();
        let token = token_of(&node, "1", "x");
        node.store.set(fault);
        for _ in 0..2 {
            let answer = post(&app, &token).await;
            assert_eq!(
                (answer.status, answer.json()),
                (503, json!({ "error": "temporarily_unavailable" })),
                "{fault:?}"
            );
            assert_eq!(answer.headers["retry-after"], "2");
        }
        node.store.set(Fault::None);
        assert_eq!(post(&app, &token).await.status, 200, "{fault:?}");
        assert_eq!(revoked(&node, &login).await, ENDED);
        assert_refused(&post(&app, &token).await, LogoutTokenError::Replayed);
    }
}

#[tokio::test]
async fn a_session_that_cannot_be_revoked_keeps_the_token_usable() {
    let node = Node::new();
    let app = app_of(&node);
    let logins = [log_in(&node, "alice", "x").await, log_in(&node, "bob", "x").await];
    let token = token_of(&node, "1", "x");
    node.store.set(Fault::FailsFor(logins[1].tokens.session_id));
    assert_eq!(post(&app, &token).await.status, 503);
    node.store.set(Fault::None);
    assert_eq!(post(&app, &token).await.status, 200);
    for login in &logins {
        assert_eq!(revoked(&node, login).await, ENDED);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_waited_for_no_longer_than_its_timeout() {
    let node = Node::new();
    let app = app_of(&node);
    let token = token_of(&node, "1", "x");
    node.store.set(Fault::Hangs);
    let (one, other) = tokio::join!(post(&app, &token), post(&app, &token));
    assert_eq!((one.status, other.status), (503, 503));
    node.store.set(Fault::None);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(post(&app, &token).await.status, 200);
}

#[tokio::test]
async fn whoever_gives_up_waiting_leaves_the_token_usable() {
    let node = Node::new();
    let app = app_of(&node);
    let login = log_in(&node, "alice", "x").await;
    let token = token_of(&node, "1", "x");
    node.store.set(Fault::Hangs);
    assert!(tokio::time::timeout(Duration::from_millis(50), post(&app, &token)).await.is_err());
    node.store.set(Fault::None);
    assert_eq!(post(&app, &token).await.status, 200);
    assert_eq!(revoked(&node, &login).await, ENDED);
}

#[tokio::test]
async fn a_logout_in_one_realm_ends_nothing_in_another() {
    let users = Node::new();
    let admins = Node::on(users.store.clone(), users.clock.clone(), |builder| {
        builder.configure(|settings| settings.realm = Some("admin".to_owned()))
    });
    let (user, admin) = (log_in(&users, "1", "x").await, log_in(&admins, "1", "x").await);
    let token = token_of(&users, "1", "x");
    assert_eq!(post(&app_of(&users), &token).await.status, 200);
    assert_eq!((revoked(&users, &user).await, revoked(&admins, &admin).await), (ENDED, None));
    // It was not used there.
    users.clock.advance(Duration::from_secs(31));
    assert_eq!(post(&app_of(&admins), &token).await.status, 200);
    assert_eq!(revoked(&admins, &admin).await, ENDED);
}

#[tokio::test]
async fn a_token_without_a_sid_revokes_all_sessions_of_the_user_that_the_hook_finds() {
    let node = Node::new();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&asked);
    let app = app(node.auth.back_channel_logout(verifier()).user_of(move |token| {
        log.lock().unwrap().push(format!("{} {}", token.issuer, token.subject.as_deref().unwrap()));
        let user = (token.subject.as_deref() == Some("248289761001")).then(|| "alice".to_owned());
        async move { Ok::<_, std::convert::Infallible>(user) }
    }));
    let (by_provider, by_password) = (log_in(&node, "alice", "x").await, node.login("alice").await);
    let other = log_in(&node, "bob", "x").await;
    assert_eq!(post(&app, &key().sign(&logout_without("sid"))).await.status, 200);
    assert_eq!((revoked(&node, &by_provider).await, revoked(&node, &by_password).await), (ENDED, ENDED));
    assert_eq!(revoked(&node, &other).await, None);
    assert_eq!(*asked.lock().unwrap(), [format!("{ISSUER} 248289761001")]);
    // An unknown user is logged out already, and with a sid nobody is asked.
    let mut claims = logout_with("jti", "2");
    claims["sub"] = "unknown".into();
    claims.as_object_mut().unwrap().remove("sid");
    assert_eq!(post(&app, &key().sign(&claims)).await.status, 200);
    assert_eq!(asked.lock().unwrap().len(), 2);
    assert_eq!(post_logout(&app, &node, "3", "x").await.status, 200);
    assert_eq!(asked.lock().unwrap().len(), 2);
    assert_eq!(revoked(&node, &other).await, ENDED);
}

#[tokio::test]
async fn a_hook_that_fails_leaves_the_token_usable() {
    let node = Node::new();
    let fails = Arc::new(Mutex::new(true));
    let flag = Arc::clone(&fails);
    let app = app(node.auth.back_channel_logout(verifier()).user_of(move |_| {
        let fails = *flag.lock().unwrap();
        async move { if fails { Err(std::io::Error::other("no database")) } else { Ok(Some("alice".to_owned())) } }
    }));
    let login = node.login("alice").await;
    let token = key().sign(&logout_without("sid"));
    let answer = post(&app, &token).await;
    assert_eq!(answer.status, 503);
    assert!(!answer.body.contains("database"));
    *fails.lock().unwrap() = false;
    assert_eq!(post(&app, &token).await.status, 200);
    assert_eq!(revoked(&node, &login).await, ENDED);
}

#[tokio::test]
async fn a_token_without_a_sid_is_refused_if_no_hook_finds_its_user_and_can_be_used_later() {
    let node = Node::new();
    let token = key().sign(&logout_without("sid"));
    assert_refused(&post(&app_of(&node), &token).await, LogoutTokenError::SubjectOnly);
    let hook = async |_| Ok::<_, std::convert::Infallible>(Some("alice".to_owned()));
    let app = app(node.auth.back_channel_logout(verifier()).user_of(hook));
    assert_eq!(post(&app, &token).await.status, 200);
}

#[tokio::test]
async fn a_request_that_is_not_a_form_with_one_token_is_refused() {
    let node = Node::new();
    let app = app_of(&node);
    let token = token_of(&node, "1", "x");
    let form = format!("logout_token={token}");
    for (content_type, body) in [
        ("application/json", form.clone()),
        ("", form.clone()),
        ("text/plain", form.clone()),
        (FORM, String::new()),
        (FORM, token.clone()),
        (FORM, format!("Logout_token={token}")),
        (FORM, "logout_token=".to_owned()),
        (FORM, "logout_token=%zz".to_owned()),
        (FORM, format!("{form}&{form}")),
        (FORM, format!("{form}&note={}", "x".repeat(16 * 1024))),
    ] {
        let answer = send(&app, content_type, body.clone()).await;
        assert_eq!((answer.status, &answer.json()["error"]), (400, &json!("invalid_request")), "{body:.60}");
    }
    let get = Request::get("/backchannel-logout").body(Body::empty()).unwrap();
    assert_eq!(app.clone().oneshot(get).await.unwrap().status(), 405);
    // Other parameters are ignored, and a proxy may have encoded the dots.
    let body = format!("a=b&logout_token={}&c", token.replace('.', "%2e"));
    assert_eq!(send(&app, "Application/X-WWW-Form-Urlencoded; charset=UTF-8", body).await.status, 200);
}

#[tokio::test]
async fn a_token_that_is_refused_costs_no_call_of_the_store() {
    let node = Node::new();
    let app = app_of(&node);
    node.store.calls();
    assert_refused(&post(&app, &Key::ed25519("one", 2).sign(&logout())).await, LogoutTokenError::Signature);
    assert_refused(&post(&app, "a.b.c").await, LogoutTokenError::Malformed);
    let calls = node.store.calls();
    assert_eq!((calls.loads, calls.swaps, calls.others), (0, 0, 0));
}

#[tokio::test]
async fn the_route_fits_into_an_app_with_the_csrf_layer_and_with_any_state() {
    let node = Node::new();
    let route = node.auth.back_channel_logout(verifier()).route::<&'static str>();
    let app = Router::new().route("/backchannel-logout", route).layer(node.auth.csrf()).with_state("state");
    assert_eq!(post_logout(&app, &node, "1", "x").await.status, 200);
}

#[test]
fn every_description_of_an_error_consists_of_what_oauth_allows_in_one() {
    use LogoutTokenError as E;
    let all = [
        E::TooLong,
        E::Malformed,
        E::Encrypted,
        E::Algorithm,
        E::CriticalHeader,
        E::UnknownKey,
        E::Signature,
        E::WrongType,
        E::WrongIssuer,
        E::WrongAudience,
        E::Claim("exp"),
        E::Expired,
        E::FromFuture,
        E::TooOld,
        E::NoLogoutEvent,
        E::HasNonce,
        E::NoSubject,
        E::SubjectOnly,
        E::Replayed,
    ];
    let mut texts: Vec<_> = all.iter().map(ToString::to_string).collect();
    for text in &texts {
        // RFC 6749 §5.2.
        assert!(text.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\'), "{text}");
    }
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), all.len());
}

// ---- the log --------------------------------------------------------------------------------------------------------

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_setup_that_refuses_logouts_is_one_line_in_the_log_that_says_what_to_do() {
    let log = Log::default();
    let writer = log.clone();
    let node = Node::with(|builder| builder.configure(|settings| settings.realm = Some("logged".to_owned())));
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let take = || String::from_utf8(std::mem::take(&mut *log.0.lock().unwrap())).unwrap();
    let verifier = verifier();
    let logout = node.auth.back_channel_logout(verifier.clone());
    let by_user = key().sign(&logout_without("sid"));
    let untyped = key().sign_with(&header_without("typ"), &logout_at(now(), "2"));
    let by_unknown = Key::ed25519("two", 2).sign(&logout_at(now(), "3"));
    for (token, advice) in
        [(&by_user, "BackChannelLogout::user_of"), (&untyped, "accept_untyped"), (&by_unknown, "set_jwks")]
    {
        for _ in 0..2 {
            logout.accept(token).await.unwrap_err();
        }
        let text = take();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("WARN") && text.contains(advice), "{text}");
    }
    // With new keys it may be another mistake.
    verifier.set_jwks(&jwks(&[&key().public])).unwrap();
    logout.accept(&by_unknown).await.unwrap_err();
    assert!(take().contains("set_jwks"));
    // What anybody can send is no news.
    for token in ["a.b.c".to_owned(), Key::ed25519("one", 2).sign(&logout_at(now(), "4"))] {
        logout.accept(&token).await.unwrap_err();
    }
    assert_eq!(take(), "");
}
