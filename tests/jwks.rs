//! The JWK set that other services verify access tokens with.
#![cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use axum_refresh::Auth;
use axum_refresh::keys::{SigningKey, VerifyingKey};
use http_body_util::BodyExt as _;
#[cfg(feature = "aws_lc_rs")]
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER as PROVIDER;
#[cfg(not(feature = "aws_lc_rs"))]
use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER as PROVIDER;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use serde_json::Value;
use support::{Claims, Node};
use tower::ServiceExt as _;

const PATH: &str = "/.well-known/jwks.json";
const ED25519: &[u8] = include_bytes!("../src/token/keys_for_tests/ed25519.pem");
const ED25519_PUBLIC: &[u8] = include_bytes!("../src/token/keys_for_tests/ed25519.pub.pem");
const ES256: &[u8] = include_bytes!("../src/token/keys_for_tests/es256.pem");
const ES256_PUBLIC: &[u8] = include_bytes!("../src/token/keys_for_tests/es256.pub.pem");

fn ed25519() -> SigningKey {
    SigningKey::from_pem(ED25519).unwrap()
}

fn es256() -> SigningKey {
    SigningKey::from_pem(ES256).unwrap()
}

/// A node that signs with Ed25519.
fn node() -> Node {
    Node::with(|builder| builder.signing_key(ed25519()))
}

async fn call(auth: &Auth<Claims>, method: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, String) {
    let app: Router = Router::new().nest("/auth", auth.router()).merge(auth.jwks_router().unwrap());
    let mut request = Request::builder().method(method).uri(PATH);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), parts.headers, String::from_utf8(body.to_vec()).unwrap())
}

/// The set as a service fetches it.
async fn fetch(auth: &Auth<Claims>) -> JwkSet {
    serde_json::from_str(&call(auth, "GET", &[]).await.2).unwrap()
}

/// Verifies a token as another service does: with the set, and with jsonwebtoken alone. Returns the user.
fn verified_elsewhere(token: &str, keys: &JwkSet) -> Option<String> {
    let _ = PROVIDER.install_default();
    let header = decode_header(token).unwrap();
    assert_eq!(header.typ.as_deref(), Some("at+jwt"));
    let key = keys.find(header.kid.as_deref().unwrap())?;
    let mut validation = Validation::new(header.alg);
    validation.set_issuer(&["axum-refresh"]);
    validation.set_audience(&["axum-refresh"]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    // The tests have a clock of their own.
    validation.validate_exp = false;
    let token = decode::<Value>(token, &DecodingKey::from_jwk(key).unwrap(), &validation).ok()?;
    Some(token.claims["sub"].as_str().unwrap().to_owned())
}

// ---- the route ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_set_is_public_and_may_be_kept_for_five_minutes() {
    let (status, headers, body) = call(&node().auth, "GET", &[("origin", "https://other.example")]).await;
    assert_eq!(status, 200);
    assert_eq!(headers["cache-control"], "public, max-age=300");
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["access-control-allow-origin"], "*");
    assert!(!headers.contains_key("set-cookie"));
    let key = &serde_json::from_str::<Value>(&body).unwrap()["keys"][0];
    assert_eq!(
        (&key["kty"], &key["crv"], &key["alg"], &key["use"]),
        (&"OKP".into(), &"Ed25519".into(), &"EdDSA".into(), &"sig".into())
    );
    assert!(key.get("d").is_none(), "{body}");
}

#[tokio::test]
async fn a_set_that_is_unchanged_is_not_sent_again() {
    let node = node();
    let (_, headers, body) = call(&node.auth, "GET", &[]).await;
    let tag = headers["etag"].to_str().unwrap();
    assert!(tag.starts_with('"') && !body.is_empty(), "{tag}");
    for listed in [tag.to_owned(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
        let (status, headers, body) = call(&node.auth, "GET", &[("if-none-match", &listed)]).await;
        assert_eq!((status, body.as_str()), (304, ""), "{listed}");
        assert_eq!(headers["etag"], tag);
        assert_eq!(headers["cache-control"], "public, max-age=300");
        assert_eq!(headers["access-control-allow-origin"], "*");
    }
    assert_eq!(call(&node.auth, "GET", &[("if-none-match", "\"x\"")]).await.0, 200);
}

#[tokio::test]
async fn another_set_has_another_tag() {
    let tag = async |node: Node| call(&node.auth, "GET", &[]).await.1["etag"].clone();
    let other = Node::with(|builder| builder.signing_key(es256()));
    assert_ne!(tag(node()).await, tag(other).await);
}

#[tokio::test]
async fn head_has_the_headers_alone_and_nothing_else_is_allowed() {
    let node = node();
    let (status, headers, body) = call(&node.auth, "HEAD", &[]).await;
    assert_eq!((status, body.as_str()), (200, ""));
    assert!(headers.contains_key("etag"));
    assert_eq!(call(&node.auth, "POST", &[]).await.0, 405);
}

#[test]
fn a_set_that_would_be_empty_is_an_error_that_names_the_method_to_call() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _guard = runtime.enter();
    let error = Node::new().auth.jwks_router::<()>().unwrap_err();
    assert_eq!(error.setting(), "signing_key");
    assert!(error.to_string().contains("AuthBuilder::signing_key"), "{error}");
}

#[tokio::test]
async fn a_token_is_verified_with_the_set_alone() {
    for key in [ed25519(), es256()] {
        let node = Node::with(|builder| builder.signing_key(key.clone()));
        let token = node.login("alice").await.tokens.access_token;
        let keys = fetch(&node.auth).await;
        assert_eq!(verified_elsewhere(&token, &keys).as_deref(), Some("alice"));
        let other = node.login("bob").await.tokens.access_token;
        let (message, _) = token.rsplit_once('.').unwrap();
        let (_, signature) = other.rsplit_once('.').unwrap();
        assert_eq!(verified_elsewhere(&format!("{message}.{signature}"), &keys), None);
    }
}

#[test]
fn either_kind_of_key_is_read_from_pem_and_nothing_else() {
    for (private, public) in [(ED25519, ED25519_PUBLIC), (ES256, ES256_PUBLIC)] {
        assert!(SigningKey::from_pem(private).is_ok() && VerifyingKey::from_pem(public).is_ok());
        assert!(VerifyingKey::from_pem(private).is_err());
        assert_eq!(SigningKey::from_pem(public).unwrap_err().setting(), "signing_key");
    }
    for pem in [&b""[..], b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", b"{}"] {
        let error = SigningKey::from_pem(pem).unwrap_err();
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
    }
}
