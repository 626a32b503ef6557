//! The JWK set of a demo that signs with a private key.

use axum_refresh_e2e::demo::{Demo, claims, header_of, run_to_end, run_to_end_with_default_features};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use serde_json::Value;

const PATH: &str = "/.well-known/jwks.json";
const ED25519: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../src/token/keys_for_tests/ed25519.pem");
const ES256: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../src/token/keys_for_tests/es256.pem");
const PUBLIC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../src/token/keys_for_tests/es256.pub.pem");

#[tokio::test]
async fn another_service_verifies_a_token_with_the_set() {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    for (path, algorithm) in [(ED25519, "EdDSA"), (ES256, "ES256")] {
        let demo = Demo::start(&[("SIGNING_KEY", path)]).await;
        let token = demo.logged_in("alice").await.access.clone();
        assert_eq!(header_of(&token)["alg"], algorithm);
        let keys: JwkSet = serde_json::from_value(demo.get(PATH).send().await.is(200).json()).unwrap();
        let header = decode_header(&token).unwrap();
        let key = keys.find(&header.kid.unwrap()).unwrap();
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&["axum-refresh"]);
        validation.set_audience(&["axum-refresh"]);
        let claims = decode::<Value>(&token, &DecodingKey::from_jwk(key).unwrap(), &validation).unwrap().claims;
        assert_eq!(claims["sub"], "alice");
    }
}

#[tokio::test]
async fn the_set_may_be_kept_and_asked_for_again() {
    let demo = Demo::start(&[("SIGNING_KEY", ED25519)]).await;
    let answer = demo.get(PATH).send().await;
    assert_eq!(answer.header("cache-control"), Some("public, max-age=300"));
    let tag = answer.header("etag").unwrap().to_owned();
    demo.get(PATH).header("if-none-match", &tag).send().await.is(304);
}

#[tokio::test]
async fn without_a_signing_key_there_is_no_set() {
    Demo::new().await.get(PATH).send().await.is(404);
}

#[tokio::test]
async fn a_realm_with_a_signing_key_has_an_audience_of_its_own() {
    let demo = Demo::start(&[("SIGNING_KEY", ED25519), ("REALM", "staff")]).await;
    let mut browser = demo.logged_in("alice").await;
    assert_eq!(claims(&browser.access)["aud"], "axum-refresh/staff");
    browser.me().await.is(200);
}

#[tokio::test]
async fn a_file_that_is_no_private_key_prevents_the_start() {
    for path in ["/does/not/exist.pem", "/", PUBLIC, "Cargo.toml"] {
        let run = run_to_end(&[("SIGNING_KEY", path)]).await;
        let stderr = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!((run.status.code(), stderr.lines().count()), (Some(2), 1), "{path}: {stderr}");
        assert!(stderr.starts_with("SIGNING_KEY: "), "{stderr}");
    }
}

#[tokio::test]
async fn a_build_without_the_feature_names_it() {
    let run = run_to_end_with_default_features(&[("SIGNING_KEY", ED25519)]).await;
    let stderr = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!((run.status.code(), stderr.lines().count()), (Some(2), 1), "{stderr}");
    assert!(stderr.contains("--features signing"), "{stderr}");
}
