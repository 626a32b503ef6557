//! An app that is set up wrongly gets one line in the log that says what to do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use axum_refresh::{Auth, AuthUser, MemoryStore, NoClaims, Secret, Settings};
use serde::{Deserialize, Serialize};
use tower::ServiceExt as _;

const SECRET: &str = "k4Jx0pQm1vN8sT2wZ7yB5cD9fG3hL6rA";

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// What was logged since the last call.
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }

    /// Logs in this thread until the guard is dropped.
    fn start(&self) -> tracing::subscriber::DefaultGuard {
        let writer = self.clone();
        tracing::subscriber::set_default(tracing_subscriber::fmt().with_writer(move || writer.clone()).finish())
    }
}

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_second_auth_with_the_same_keys_and_realm_is_an_error_in_the_log() {
    let log = Log::default();
    let _guard = log.start();
    let build = |realm: &str| {
        let settings = Settings { realm: Some(realm.to_owned()), ..Settings::default() };
        Auth::<NoClaims>::builder(Secret::new(SECRET), MemoryStore::new()).settings(settings).build().unwrap()
    };
    let _first = build("logged-one");
    let _other = build("logged-two");
    assert_eq!(log.take(), "");
    let _twin = build("logged-one");
    let text = log.take();
    assert!(text.contains("ERROR") && text.contains("set a different `realm` for each"), "{text}");
}

#[tokio::test]
async fn an_optional_user_without_a_layer_for_its_claims_is_one_error_in_the_log_for_each_route() {
    #[derive(Clone, Serialize, Deserialize)]
    struct OtherClaims {}

    let log = Log::default();
    let _guard = log.start();
    let settings = Settings { realm: Some("optional".to_owned()), ..Settings::default() };
    let auth: Auth = Auth::builder(Secret::new(SECRET), MemoryStore::new()).settings(settings).build().unwrap();
    let name = async |user: Option<AuthUser<OtherClaims>>| user.map_or("nobody".to_owned(), |user| user.id.to_string());
    let app = Router::new()
        .route("/with-the-layer-of-another-type", get(name).route_layer(auth.layer().optional()))
        .route("/without-a-layer", get(name));
    for path in ["/with-the-layer-of-another-type", "/without-a-layer", "/without-a-layer"] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        assert_eq!(&*body, b"nobody");
    }
    let text = log.take();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("ERROR") && text.contains("OtherClaims") && text.contains("add one of them"), "{text}");
}

#[tokio::test]
async fn an_admin_router_behind_another_guard_than_a_layer_of_its_auth_logs_nothing() {
    let log = Log::default();
    let _guard = log.start();
    let settings = Settings { realm: Some("admin-router".to_owned()), ..Settings::default() };
    let auth: Auth = Auth::builder(Secret::new(SECRET), MemoryStore::new()).settings(settings).build().unwrap();
    let request = Request::get("/users/alice/sessions").body(Body::empty()).unwrap();
    let response = auth.admin_router::<()>().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(log.take(), "");
}
