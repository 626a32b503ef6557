//! The OpenAPI document. Every response in the other tests is held against it, too.

use axum_refresh_e2e::demo::Demo;
use axum_refresh_e2e::document::PATH;
use serde_json::Value;

const JWKS: &str = "/.well-known/jwks.json";
const SIGNING_KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../src/token/keys_for_tests/ed25519.pem");

async fn document(demo: &Demo) -> Value {
    let answer = demo.get(PATH).send().await;
    assert_eq!(answer.is(200).header("content-type"), Some("application/json"));
    answer.json()
}

#[tokio::test]
async fn the_document_has_all_routes_where_the_demo_mounts_them() {
    let demo = Demo::new().await;
    let document = document(&demo).await;
    assert_eq!(document["openapi"], "3.1.0");
    for (path, method) in [
        ("/auth/refresh", "post"),
        ("/auth/logout", "post"),
        ("/auth/logout/all", "post"),
        ("/auth/logout/others", "post"),
        ("/auth/sessions", "get"),
        ("/auth/sessions/{id}", "delete"),
        ("/auth/client.js", "get"),
        (PATH, "get"),
        ("/admin/users/{user}/sessions", "get"),
        ("/admin/users/{user}/sessions", "delete"),
        ("/admin/sessions", "delete"),
        ("/admin/sessions/{id}", "delete"),
        ("/admin/tokens/revoke", "post"),
        ("/login", "post"),
        ("/me", "get"),
    ] {
        assert!(document["paths"][path][method].is_object(), "{method} {path}");
    }
    assert_eq!(document["paths"].get(JWKS), None);
}

#[tokio::test]
async fn the_jwk_set_is_in_the_document_of_a_demo_with_a_signing_key() {
    let demo = Demo::start(&[("SIGNING_KEY", SIGNING_KEY)]).await;
    assert!(document(&demo).await["paths"][JWKS]["get"].is_object());
    demo.get(JWKS).send().await.is(200);
}

#[tokio::test]
async fn the_document_may_be_kept_and_asked_for_again() {
    let demo = Demo::new().await;
    let answer = demo.get(PATH).send().await;
    assert_eq!(answer.is(200).header("cache-control"), Some("no-cache"));
    let tag = answer.header("etag").unwrap().to_owned();
    demo.get(PATH).header("if-none-match", &tag).send().await.is(304);
}
