//! The JWK set that other services verify access tokens with.
#![cfg(any(feature = "aws_lc_rs", feature = "rust_crypto"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use axum_refresh::keys::{Signer, SigningKey, VerifyingKey};
use axum_refresh::{Auth, Error};
use http_body_util::BodyExt as _;
#[cfg(feature = "aws_lc_rs")]
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER as PROVIDER;
#[cfg(not(feature = "aws_lc_rs"))]
use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER as PROVIDER;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use serde_json::Value;
use support::{Claims, Clock, Node, client, code, seeded, seeded_der};
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

const MINUTE: Duration = Duration::from_secs(60);

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

// ---- keys that change -----------------------------------------------------------------------------------------------

/// The id of the key that has signed a token.
fn key_id(token: &str) -> String {
    decode_header(token).unwrap().kid.unwrap()
}

async fn key_ids(auth: &Auth<Claims>) -> Vec<String> {
    fetch(auth).await.keys.into_iter().map(|key| key.common.key_id.unwrap()).collect()
}

impl Node {
    fn time(&self) -> SystemTime {
        self.clock.now().into()
    }

    async fn access_token(&self) -> String {
        self.login("alice").await.tokens.access_token
    }
}

#[tokio::test]
async fn a_set_that_a_service_has_fetched_before_the_change_verifies_until_it_is_fetched_again() {
    let node = node();
    node.auth.rotate_to(seeded(2), node.time()).await.unwrap();
    // Fetched in the last moment before another node would have been asked.
    let keys = fetch(&node.auth).await;
    node.clock.advance(5 * MINUTE);
    let token = node.access_token().await;
    assert_eq!(key_id(&token), seeded(2).thumbprint());
    assert_eq!(verified_elsewhere(&token, &keys).as_deref(), Some("alice"));
}

#[tokio::test]
async fn a_change_of_keys_logs_nobody_out() {
    let node = node();
    let login = node.login("alice").await.tokens;
    let at = node.auth.rotate_to(seeded(2), node.time()).await.unwrap();
    assert_eq!(at, node.time() + 5 * MINUTE);
    node.clock.advance(6 * MINUTE);
    node.auth.authenticate(&login.access_token).await.unwrap();
    let refreshed = node.refresh(&login.refresh_token.unwrap()).await.unwrap().tokens;
    assert_eq!(key_id(&refreshed.access_token), seeded(2).thumbprint());
    node.auth.authenticate(&refreshed.access_token).await.unwrap();
    assert_eq!(key_ids(&node.auth).await, [ed25519().thumbprint(), seeded(2).thumbprint()]);
    node.clock.advance(60 * MINUTE);
    assert_eq!(key_ids(&node.auth).await, [seeded(2).thumbprint()]);
}

#[tokio::test]
async fn a_node_accepts_the_next_key_before_it_signs_with_it() {
    let (one, clock) = (node(), Clock::new());
    let two = Node::on(one.store.clone(), clock.clone(), |builder| builder.signing_key(ed25519()));
    let at = one.time() + 30 * MINUTE;
    for node in [&one, &two] {
        node.auth.rotate_to(seeded(2), at).await.unwrap();
    }
    // The clock of the other node is behind by less than the grace period.
    one.clock.advance(30 * MINUTE);
    clock.advance(30 * MINUTE - Duration::from_secs(20));
    let token = one.access_token().await;
    assert_eq!(key_id(&token), seeded(2).thumbprint());
    two.auth.authenticate(&token).await.unwrap();
    assert_eq!(key_id(&two.access_token().await), ed25519().thumbprint());
}

#[tokio::test]
async fn a_node_that_starts_during_a_change_agrees_with_the_others() {
    let one = node();
    let at = one.time() + 30 * MINUTE;
    one.auth.rotate_to(seeded(2), at).await.unwrap();
    for passed in [0, 30, 31] {
        let clock = one.clock.clone();
        clock.advance(passed * MINUTE);
        let started = Node::on(one.store.clone(), clock, |builder| {
            builder.signing_key(ed25519()).next_signing_key(seeded(2), at)
        });
        let tokens = [one.access_token().await, started.access_token().await];
        assert_eq!(key_id(&tokens[0]), key_id(&tokens[1]));
        for (node, token) in [(&one, &tokens[1]), (&started, &tokens[0])] {
            node.auth.authenticate(token).await.unwrap();
        }
        assert_eq!(key_ids(&one.auth).await, key_ids(&started.auth).await);
    }
}

#[tokio::test]
async fn a_removed_key_is_refused_also_for_tokens_that_the_node_knows() {
    let node = node();
    let login = node.login("alice").await.tokens;
    // From now on, the node needs no signature for it.
    node.auth.authenticate(&login.access_token).await.unwrap();
    node.auth.rotate_to(seeded(2), node.time()).await.unwrap();
    assert_eq!(node.auth.remove_key(&ed25519().thumbprint()), Ok(true));
    assert_eq!(code(node.auth.authenticate(&login.access_token).await), "access_token_invalid");
    assert_eq!(key_ids(&node.auth).await, [seeded(2).thumbprint()]);
    // The session lives on.
    let refreshed = node.refresh(&login.refresh_token.unwrap()).await.unwrap().tokens.access_token;
    assert_eq!(key_id(&refreshed), seeded(2).thumbprint());
    node.auth.authenticate(&refreshed).await.unwrap();
}

#[tokio::test]
async fn the_only_key_cannot_be_removed() {
    let node = node();
    let error = node.auth.remove_key(&ed25519().thumbprint()).unwrap_err();
    assert!(error.to_string().contains("rotate_to"), "{error}");
    assert_eq!(node.auth.remove_key("unknown"), Ok(false));
    node.auth.authenticate(&node.access_token().await).await.unwrap();
}

#[tokio::test]
async fn a_removed_key_is_refused_also_if_it_was_given_as_a_verifying_key_too() {
    let public = VerifyingKey::from_pem(ED25519_PUBLIC).unwrap();
    let node = Node::with(|builder| builder.signing_key(ed25519()).verifying_key(public.clone()).verifying_key(public));
    let token = node.access_token().await;
    assert_eq!(key_ids(&node.auth).await, [ed25519().thumbprint()]);
    node.auth.rotate_to(seeded(2), node.time()).await.unwrap();
    assert_eq!(node.auth.remove_key(&ed25519().thumbprint()), Ok(true));
    assert_eq!(code(node.auth.authenticate(&token).await), "access_token_invalid");
    assert_eq!(key_ids(&node.auth).await, [seeded(2).thumbprint()]);
}

#[tokio::test]
async fn a_removed_key_does_not_come_back_when_the_configuration_is_read_again() {
    let node = node();
    let at = node.time() + 60 * MINUTE;
    node.auth.rotate_to(seeded(2), at).await.unwrap();
    assert_eq!(node.auth.remove_key(&seeded(2).thumbprint()), Ok(true));
    let error = node.auth.rotate_to(seeded(2), at).await.unwrap_err();
    assert!(error.to_string().contains("take it out of the configuration"), "{error}");
    node.clock.advance(90 * MINUTE);
    assert_eq!(key_id(&node.access_token().await), ed25519().thumbprint());
}

#[tokio::test]
async fn a_key_of_a_realm_is_removed_by_its_id_or_its_thumbprint() {
    let node = Node::with(|builder| {
        builder.signing_key(ed25519()).configure(|settings| {
            settings.realm = Some("jwks-remove".to_owned());
            settings.audience = "shop.example/remove".to_owned();
        })
    });
    let token = node.access_token().await;
    for key in [seeded(2), seeded(3)] {
        node.auth.rotate_to(key, node.time()).await.unwrap();
    }
    assert_eq!(node.auth.remove_key(&format!("{}.jwks-remove", seeded(3).thumbprint())), Ok(true));
    assert_eq!(node.auth.remove_key(&ed25519().thumbprint()), Ok(true));
    assert_eq!(code(node.auth.authenticate(&token).await), "access_token_invalid");
    assert_eq!(node.auth.signing_key_id(), Some(format!("{}.jwks-remove", seeded(2).thumbprint())));
}

#[tokio::test]
async fn the_key_that_signs_has_a_name_unless_it_is_the_secret() {
    let node = Node::new();
    assert_eq!(node.auth.signing_key_id(), None);
    node.auth.rotate_to(es256(), node.time()).await.unwrap();
    assert_eq!(node.auth.signing_key_id(), None);
    node.clock.advance(5 * MINUTE);
    assert_eq!(node.auth.signing_key_id(), Some(es256().thumbprint()));
}

/// Until `at`, other services accept no tokens of such an app, but their setup can be tested.
#[tokio::test]
async fn an_app_that_will_change_from_its_secret_serves_the_set_with_the_key_that_will_come() {
    let clock = Clock::new();
    let at = SystemTime::from(clock.now()) + 60 * MINUTE;
    let node = Node::on(support::FaultyStore::default(), clock, |builder| builder.next_signing_key(es256(), at));
    assert_eq!(key_ids(&node.auth).await, [es256().thumbprint()]);
    assert_eq!(node.auth.signing_key_id(), None);
    node.clock.advance(60 * MINUTE);
    let token = node.access_token().await;
    assert_eq!(verified_elsewhere(&token, &fetch(&node.auth).await).as_deref(), Some("alice"));
}

#[tokio::test]
async fn if_a_key_is_removed_that_has_taken_the_place_of_the_secret_other_services_accept_the_next_token() {
    let node = Node::new();
    node.auth.rotate_to(seeded(1), node.time()).await.unwrap();
    node.clock.advance(60 * MINUTE);
    node.auth.rotate_to(seeded(2), node.time()).await.unwrap();
    assert_eq!(node.auth.remove_key(&seeded(1).thumbprint()), Ok(true));
    let token = node.access_token().await;
    assert_eq!(verified_elsewhere(&token, &fetch(&node.auth).await).as_deref(), Some("alice"));
}

/// As the recipe has it: a configuration with a current key and a next one.
#[tokio::test]
async fn a_change_is_called_off_by_the_current_key_as_the_next_one() {
    let running = node();
    let at = running.time() + 60 * MINUTE;
    running.auth.rotate_to(seeded(2), at).await.unwrap();
    running.auth.rotate_to(ed25519(), at).await.unwrap();
    let started = Node::on(running.store.clone(), running.clock.clone(), |builder| {
        builder.signing_key(ed25519()).next_signing_key(ed25519(), at)
    });
    running.clock.advance(61 * MINUTE);
    for (one, other) in [(&running, &started), (&started, &running)] {
        other.auth.authenticate(&one.access_token().await).await.unwrap();
    }
    running.clock.advance(60 * MINUTE);
    assert_eq!(key_ids(&running.auth).await, [ed25519().thumbprint()]);
}

#[tokio::test]
async fn an_app_that_signs_with_its_secret_may_change_to_a_private_key() {
    let node = Node::new();
    let old = node.access_token().await;
    node.auth.rotate_to(es256(), node.time()).await.unwrap();
    assert_eq!(key_ids(&node.auth).await, [es256().thumbprint()]);
    node.clock.advance(5 * MINUTE);
    assert_eq!(key_id(&node.access_token().await), es256().thumbprint());
    node.auth.authenticate(&old).await.unwrap();
}

#[tokio::test]
async fn a_realm_without_an_audience_of_its_own_gets_no_key() {
    let node = Node::with(|builder| builder.configure(|settings| settings.realm = Some("jwks-realm".to_owned())));
    let error = node.auth.rotate_to(ed25519(), node.time()).await.unwrap_err();
    assert_eq!(error.setting(), "audience");
}

/// Two nodes get four keys one after the other, at different moments, while users log in, refresh and use their tokens on both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_change_under_load_refuse_no_request() {
    let one = Node::with(|builder| builder.signing_key(seeded(1)));
    let two = Node::on(one.store.clone(), one.clock.clone(), |builder| builder.signing_key(seeded(1)));
    let nodes = [one, two];
    let (stopped, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let users: Vec<_> = (0..6)
        .map(|user| {
            let (nodes, stopped, requests) = (nodes.clone(), Arc::clone(&stopped), Arc::clone(&requests));
            tokio::spawn(async move {
                let name = format!("user{user}");
                let mut tokens = nodes[user % 2].login(&name).await.tokens;
                for turn in 0.. {
                    if stopped.load(Ordering::SeqCst) {
                        return;
                    }
                    for node in &nodes {
                        match node.auth.authenticate(&tokens.access_token).await {
                            // The clock of the test is fast.
                            Ok(_) | Err(Error::AccessTokenExpired) => {}
                            Err(error) => panic!("{name}: {error:?} of {}", key_id(&tokens.access_token)),
                        }
                    }
                    let refresh = tokens.refresh_token.take().unwrap();
                    let refreshed = nodes[(user + turn) % 2].refresh(&refresh).await.unwrap().tokens;
                    tokens = refreshed;
                    tokens.refresh_token.get_or_insert(refresh);
                    requests.fetch_add(3, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let pause = async || {
        let before = requests.load(Ordering::SeqCst);
        while requests.load(Ordering::SeqCst) < before + 12 && !users.iter().any(tokio::task::JoinHandle::is_finished) {
            tokio::task::yield_now().await;
        }
    };
    for key in 2..=4 {
        let at = nodes[0].time() + 12 * MINUTE;
        nodes[0].auth.rotate_to(seeded(key), at).await.unwrap();
        for minute in 0..45 {
            if minute == 6 {
                nodes[1].auth.rotate_to(seeded(key), at).await.unwrap();
            }
            pause().await;
            nodes[0].clock.advance(MINUTE);
        }
        for node in &nodes {
            assert_eq!(key_ids(&node.auth).await, [seeded(key).thumbprint()]);
        }
    }
    stopped.store(true, Ordering::SeqCst);
    for user in users {
        user.await.unwrap();
    }
    assert!(requests.load(Ordering::SeqCst) > 1000);
}

// ---- signers --------------------------------------------------------------------------------------------------------

/// How the service that has the private key handles calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Works,
    ReturnsDer,
    Fails,
    Hangs,
    HasAnotherKey,
    Panics,
}

#[derive(Clone)]
struct Kms {
    service: Arc<std::sync::Mutex<Service>>,
    pem: &'static [u8],
    calls: Arc<AtomicUsize>,
}

impl Kms {
    fn new(service: Service, pem: &'static [u8]) -> Self {
        Self { service: Arc::new(std::sync::Mutex::new(service)), pem, calls: Arc::default() }
    }

    fn set(&self, service: Service) {
        *self.service.lock().unwrap() = service;
    }

    fn key(&self) -> SigningKey {
        let public = if self.pem == ES256 { ES256_PUBLIC } else { ED25519_PUBLIC };
        SigningKey::with_signer(VerifyingKey::from_pem(public).unwrap(), self.clone())
    }
}

#[async_trait]
impl Signer for Kms {
    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        use jsonwebtoken::{Algorithm, EncodingKey};

        self.calls.fetch_add(1, Ordering::SeqCst);
        let service = *self.service.lock().unwrap();
        let (algorithm, key) = match (service, self.pem == ES256) {
            (Service::Fails, _) => return Err("no quorum".into()),
            (Service::Hangs, _) => std::future::pending().await,
            (Service::Panics, _) => panic!("in the signer"),
            (Service::HasAnotherKey, _) => (Algorithm::EdDSA, EncodingKey::from_ed_der(&seeded_der(9))),
            (_, true) => (Algorithm::ES256, EncodingKey::from_ec_pem(ES256)?),
            (_, false) => (Algorithm::EdDSA, EncodingKey::from_ed_pem(ED25519)?),
        };
        let signature = (PROVIDER.signer_factory)(&algorithm, &key)?.try_sign(message)?;
        Ok(if service == Service::ReturnsDer { der(&signature) } else { signature })
    }
}

/// An ECDSA signature as most services return it.
fn der(signature: &[u8]) -> Vec<u8> {
    let integer = |number: &[u8]| {
        let digits: Vec<u8> = number.iter().copied().skip_while(|digit| *digit == 0).collect();
        let zero: &[u8] = if digits[0] >= 0x80 { &[0] } else { &[] };
        [&[2, u8::try_from(zero.len() + digits.len()).unwrap()], zero, &digits].concat()
    };
    let both = [integer(&signature[..32]), integer(&signature[32..])].concat();
    [&[0x30, u8::try_from(both.len()).unwrap()][..], &both].concat()
}

#[tokio::test]
async fn a_signer_of_the_app_signs_and_the_node_verifies_alone() {
    for (service, pem) in [(Service::Works, ES256), (Service::ReturnsDer, ES256), (Service::Works, ED25519)] {
        let kms = Kms::new(service, pem);
        let node = Node::with(|builder| builder.signing_key(kms.key()));
        let login = node.login("alice").await.tokens;
        assert_eq!(kms.calls.load(Ordering::SeqCst), 1);
        node.auth.authenticate(&login.access_token).await.unwrap();
        assert_eq!(verified_elsewhere(&login.access_token, &fetch(&node.auth).await).as_deref(), Some("alice"));
        let refreshed = node.refresh(&login.refresh_token.unwrap()).await.unwrap().tokens;
        node.auth.authenticate(&refreshed.access_token).await.unwrap();
        assert_eq!(kms.calls.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_signer_that_fails_is_503_and_changes_nothing() {
    let kms = Kms::new(Service::Works, ED25519);
    let node = Node::with(|builder| builder.signing_key(kms.key()));
    let login = node.login("alice").await.tokens;
    let refresh = login.refresh_token.unwrap();
    for service in [Service::Fails, Service::Hangs, Service::HasAnotherKey, Service::ReturnsDer, Service::Panics] {
        kms.set(service);
        node.after_grace();
        node.store.calls();
        let error = node.refresh(&refresh).await.unwrap_err();
        assert_eq!(
            (error.code(), matches!(error, Error::Signer(_))),
            ("store_unavailable", true),
            "{service:?}: {error}"
        );
        assert_eq!(node.store.calls().swaps, 0, "{service:?}");
        assert_eq!(code(node.auth.login("bob", support::claims("user")).client(client()).await), "store_unavailable");
        assert_eq!(node.auth.sessions("bob").await.unwrap().len(), 0, "{service:?}");
        node.auth.authenticate(&login.access_token).await.unwrap();
    }
    kms.set(Service::Works);
    let refreshed = node.refresh(&refresh).await.unwrap();
    assert_eq!(refreshed.verdict, axum_refresh::ratchet::Verdict::Rotate);
}

#[tokio::test]
async fn a_failure_of_the_signer_is_503_over_http() {
    let kms = Kms::new(Service::Works, ED25519);
    let node = Node::with(|builder| builder.signing_key(kms.key()));
    let cookie = format!("__Secure-refresh={}", node.refresh_token("alice").await);
    kms.set(Service::Fails);
    let app: Router = Router::new().nest("/auth", node.auth.router());
    let request = Request::post("/auth/refresh").header("cookie", cookie).body(Body::empty()).unwrap();
    let response = app.oneshot(request).await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (503, &"2".parse().unwrap()));
    assert!(!response.headers().contains_key("set-cookie"));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(!String::from_utf8_lossy(&body).contains("quorum"), "the error is in the log alone");
}

#[tokio::test]
async fn a_key_whose_signer_fails_is_not_changed_to() {
    let node = node();
    let kms = Kms::new(Service::Fails, ES256);
    let error = node.auth.rotate_to(kms.key(), node.time()).await.unwrap_err();
    assert!(error.to_string().contains("no quorum"), "{error}");
    assert_eq!(key_ids(&node.auth).await, [ed25519().thumbprint()]);
    kms.set(Service::Works);
    node.auth.rotate_to(kms.key(), node.time()).await.unwrap();
    assert_eq!(key_ids(&node.auth).await.len(), 2);
}

#[test]
fn a_public_key_is_read_from_a_jwk() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _guard = runtime.enter();
    for key in [ed25519(), es256()] {
        let auth = Node::with(|builder| builder.signing_key(key.clone())).auth;
        let jwk = auth.jwks()["keys"][0].clone();
        assert_eq!(VerifyingKey::from_jwk(&jwk).unwrap().thumbprint(), key.thumbprint());
        let mut private = jwk.clone();
        private["d"] = "AAAA".into();
        let mut other_curve = jwk.clone();
        other_curve["crv"] = "P-384".into();
        let mut short = jwk;
        short["x"] = "AAAA".into();
        for jwk in [private, other_curve, short, Value::Null] {
            assert_eq!(VerifyingKey::from_jwk(&jwk).unwrap_err().setting(), "verifying_key", "{jwk}");
        }
    }
}
