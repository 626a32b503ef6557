//! Access tokens: which tokens a protected route accepts, and the error codes of the others.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use axum_refresh_e2e::demo::{Answer, Demo, OTHER_SECRET, SHORT_GRACE, altered, base64url, claims, header_of};

/// One route of each kind: layer and guard, layer alone, the crate's router, the admin router.
const PROTECTED: [&str; 4] = ["/me", "/stateless", "/auth/sessions", "/admin/users/alice/sessions"];

#[track_caller]
fn refused_as(answer: &Answer, code: &str) {
    answer.refused(401, code);
    let challenge = answer.header("www-authenticate").expect("a challenge");
    assert!(challenge.starts_with("Bearer"), "{challenge}");
    assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
}

/// Asserts that every kind of protected route rejects a token.
async fn is_invalid(demo: &Demo, token: &str) {
    for path in PROTECTED {
        refused_as(&demo.get(path).bearer(token).send().await, "access_token_invalid");
    }
}

/// The token with another header or other claims, under the old signature.
fn rewritten(token: &str, segment: usize, change: impl FnOnce(&mut Value)) -> String {
    let mut segments: Vec<String> = token.split('.').map(str::to_owned).collect();
    let mut content = if segment == 0 { header_of(token) } else { claims(token) };
    change(&mut content);
    segments[segment] = base64url(content.to_string());
    segments.join(".")
}

#[tokio::test]
async fn a_protected_route_without_a_token_returns_401_with_a_challenge() {
    let demo = Demo::new().await;
    for path in PROTECTED {
        let answer = demo.get(path).send().await;
        answer.refused(401, "access_token_missing");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{path}");
    }
}

// Hole 1.
#[tokio::test]
async fn garbage_is_not_accepted_as_an_access_token() {
    let demo = Demo::new().await;
    for garbage in ["x", ".", "..", "...", "a.b", "a.b.c", "a.b.c.d", "null", &"A".repeat(8_000)] {
        is_invalid(&demo, garbage).await;
    }
}

#[tokio::test]
async fn an_unsigned_access_token_is_refused() {
    let demo = Demo::new().await;
    let token = demo.logged_in("alice").await.access;
    for none in ["none", "None", "NONE", "nOnE", ""] {
        let unsigned = rewritten(&token, 0, |header| header["alg"] = json!(none));
        is_invalid(&demo, &unsigned).await;
        let (signed_part, _) = unsigned.rsplit_once('.').unwrap();
        is_invalid(&demo, &format!("{signed_part}.")).await;
        is_invalid(&demo, signed_part).await;
    }
}

#[tokio::test]
async fn an_access_token_under_another_algorithm_is_refused() {
    let demo = Demo::new().await;
    let token = demo.logged_in("alice").await.access;
    for algorithm in ["HS384", "HS512", "RS256", "ES256", "EdDSA", "hs256"] {
        is_invalid(&demo, &rewritten(&token, 0, |header| header["alg"] = json!(algorithm))).await;
    }
}

#[tokio::test]
async fn an_access_token_of_another_type_is_refused() {
    let demo = Demo::new().await;
    let token = demo.logged_in("alice").await.access;
    for kind in [json!("JWT"), json!("rt+jwt"), json!("AT+JWT"), json!(null)] {
        is_invalid(&demo, &rewritten(&token, 0, |header| header["typ"] = kind)).await;
    }
}

#[tokio::test]
async fn an_access_token_that_contains_its_own_key_is_refused() {
    let demo = Demo::new().await;
    let token = demo.logged_in("alice").await.access;
    is_invalid(&demo, &rewritten(&token, 0, |header| header["kid"] = json!("../../dev/null"))).await;
    let jwk = json!({ "kty": "oct", "k": "AAAA" });
    is_invalid(&demo, &rewritten(&token, 0, |header| header["jwk"] = jwk)).await;
    is_invalid(&demo, &rewritten(&token, 0, |header| header["jku"] = json!("http://127.0.0.1:1/keys"))).await;
}

#[tokio::test]
async fn an_access_token_whose_claims_were_changed_is_refused() {
    let demo = Demo::new().await;
    let token = demo.logged_in("bob").await.access;
    is_invalid(&demo, &rewritten(&token, 1, |claims| claims["sub"] = json!("alice"))).await;
    is_invalid(&demo, &rewritten(&token, 1, |claims| claims["role"] = json!("admin"))).await;
    is_invalid(&demo, &rewritten(&token, 1, |claims| claims["exp"] = json!(4_102_444_800_u32))).await;
    is_invalid(&demo, &rewritten(&token, 1, |claims| *claims = json!({}))).await;
}

#[tokio::test]
async fn an_access_token_altered_in_any_character_is_refused() {
    let demo = Demo::new().await;
    let mut browser = demo.logged_in("alice").await;
    for index in 0..browser.access.len() {
        let answer = demo.get("/stateless").bearer(&altered(&browser.access, index)).send().await;
        answer.refused(401, "access_token_invalid");
    }
    browser.get("/stateless").await.is(200);
}

#[tokio::test]
async fn an_access_token_that_is_too_short_or_too_long_is_refused() {
    let demo = Demo::new().await;
    let token = demo.logged_in("alice").await.access;
    for missing in [1, 2, 43, 44] {
        is_invalid(&demo, &token[..token.len() - missing]).await;
    }
    for tail in ["A", "=", ".", ".A", "AAAA"] {
        is_invalid(&demo, &format!("{token}{tail}")).await;
    }
}

#[tokio::test]
async fn an_access_token_of_a_server_with_another_key_is_refused() {
    let (ours, theirs) = (Demo::new().await, Demo::start(&[("AUTH_SECRET", OTHER_SECRET)]).await);
    let token = theirs.logged_in("alice").await.access;
    theirs.me(&token).await.is(200);
    is_invalid(&ours, &token).await;
}

// Hole 2.
#[tokio::test]
async fn a_refresh_token_is_not_accepted_as_an_access_token() {
    let demo = Demo::new().await;
    is_invalid(&demo, &demo.logged_in("alice").await.refresh_token()).await;
}

#[tokio::test]
async fn an_access_token_is_not_accepted_as_a_refresh_token() {
    let demo = Demo::new().await;
    let token = demo.logged_in("alice").await.access;
    demo.refresh(&token).await.refused(401, "refresh_token_invalid");
}

#[tokio::test]
async fn an_access_token_expires_at_its_end() {
    let demo = Demo::start(&[SHORT_GRACE, ("ACCESS_TTL", "1500ms")]).await;
    let mut browser = demo.logged_in("alice").await;
    browser.me().await.is(200);
    let start = Instant::now();
    while browser.get("/stateless").await.status == 200 {
        assert!(start.elapsed() < Duration::from_secs(3), "the token does not expire");
        sleep(Duration::from_millis(50)).await;
    }
    refused_as(&browser.me().await, "access_token_expired");
    refused_as(&browser.get("/stateless").await, "access_token_expired");
    refused_as(&browser.get("/auth/sessions").await, "access_token_expired");
}

#[tokio::test]
async fn an_expired_access_token_does_not_prevent_the_refresh_that_replaces_it() {
    let demo = Demo::start(&[SHORT_GRACE, ("ACCESS_TTL", "1500ms")]).await;
    let mut browser = demo.logged_in("alice").await;
    sleep(Duration::from_millis(1_600)).await;
    browser.me().await.refused(401, "access_token_expired");
    browser.post("/auth/refresh").await.tokens();
    browser.refresh().await.tokens();
    browser.me().await.is(200);
}

#[tokio::test]
async fn an_access_token_is_read_from_the_authorization_header_only() {
    let demo = Demo::new().await;
    let token = demo.logged_in("alice").await.access;
    let by_query = demo.get(&format!("/me?access_token={token}")).send().await;
    by_query.refused(401, "access_token_missing");
    let cookies = format!("access={token}; __Host-access={token}; __Secure-access={token}; access_token={token}");
    demo.get("/me").header("cookie", cookies).send().await.refused(401, "access_token_missing");
    demo.get("/me").header("x-access-token", &token).send().await.refused(401, "access_token_missing");
}

#[tokio::test]
async fn a_refresh_cookie_alone_does_not_authenticate() {
    let demo = Demo::new().await;
    let token = demo.logged_in("alice").await.refresh_token();
    for path in PROTECTED {
        demo.get(path).refresh_cookie(&token).send().await.refused(401, "access_token_missing");
    }
}

#[tokio::test]
async fn an_authorization_header_without_a_bearer_token_is_refused() {
    let demo = Demo::new().await;
    let token = demo.logged_in("alice").await.access;
    for value in ["", "Bearer", "Bearer ", "Basic YWxpY2U6cGFzc3dvcmQ=", &token, &format!("Basic {token}"), ","] {
        demo.get("/me").header("authorization", value).send().await.is(401).sets_no_cookie();
    }
}

// Hole 11.
#[tokio::test]
async fn the_access_token_of_a_session_that_was_logged_out_is_refused_at_once() {
    let demo = Demo::new().await;
    let mut browser = demo.logged_in("alice").await;
    browser.me().await.is(200);
    browser.logout().await.is(204);
    for path in PROTECTED {
        refused_as(&browser.get(path).await, "access_token_revoked");
    }
}

// Hole 3: only a refresh issues tokens, however close the expiry is.
#[tokio::test]
async fn using_an_access_token_never_extends_it() {
    let demo = Demo::start(&[SHORT_GRACE, ("ACCESS_TTL", "1500ms")]).await;
    let mut browser = demo.logged_in("alice").await;
    // Every access token under one key has the same header.
    let beginning = browser.access.split_once('.').unwrap().0.to_owned();
    for path in PROTECTED {
        let answer = browser.get(path).await;
        answer.is(200).sets_no_cookie();
        for (name, value) in &answer.headers {
            assert!(!value.to_str().unwrap().contains(&beginning), "{path} returned {name}: {value:?}");
        }
        assert!(!answer.text().contains(&beginning), "{path}");
    }
}
