//! An app that is set up wrongly gets one line in the log that says what to do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum_refresh::config::SameSite;
use axum_refresh::{Auth, AuthUser, Claims, ClientInfo, MemoryStore, NoClaims, Secret, Settings};
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

/// An app with its router at a path.
fn mounted(realm: &str, path: &str, change: impl FnOnce(&mut Settings)) -> (Auth, Router) {
    let mut settings = Settings { realm: Some(realm.to_owned()), ..Settings::default() };
    change(&mut settings);
    let auth: Auth = Auth::builder(Secret::new(SECRET), MemoryStore::new()).settings(settings).build().unwrap();
    let login =
        async |State(auth): State<Auth>, client: ClientInfo| auth.login("alice", NoClaims {}).client(client).await;
    let app = Router::new().route("/login", post(login)).with_state(auth.clone()).nest(path, auth.router());
    (auth, app)
}

/// The refresh cookie of a new session, as a browser sends it.
async fn refresh_cookie<C: Claims + Default>(auth: &Auth<C>) -> String {
    let response = auth.login("alice", C::default()).await.unwrap().into_response();
    let cookies = response.headers().get_all("set-cookie").iter().map(|cookie| cookie.to_str().unwrap());
    cookies.filter_map(|cookie| cookie.split(';').next()).find(|pair| pair.contains("refresh")).unwrap().to_owned()
}

async fn call(app: &Router, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = Request::builder().method(method).uri(path).header("host", "app.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_router_where_the_refresh_cookie_is_not_sent_is_one_warning_at_the_first_request() {
    let log = Log::default();
    let _guard = log.start();
    for (realm, path, cookie_path, request, headers, expected) in [
        ("mount-default", "/auth", "/auth", "/auth/refresh", vec![], None),
        ("mount-root", "/api/v1/auth", "/", "/api/v1/auth/refresh", vec![], None),
        ("mount-other", "/api/v1/auth", "/auth", "/api/v1/auth/refresh", vec![], Some("/api/v1/auth")),
        ("mount-script", "/api/v1/auth", "/auth", "/api/v1/auth/sessions", vec![], Some("/api/v1/auth")),
        ("mount-similar", "/authentication", "/auth", "/authentication/refresh", vec![], Some("/authentication")),
        // A proxy has removed a prefix and says so.
        ("mount-prefix", "/auth", "/auth", "/auth/refresh", vec![("x-forwarded-prefix", "/shop")], Some("/shop/auth")),
        ("mount-right", "/auth", "/shop/auth", "/auth/refresh", vec![("x-forwarded-prefix", "/shop/")], None),
        // It says nothing, but the browser has sent the cookie.
        (
            "mount-silent",
            "/auth",
            "/shop/auth",
            "/auth/refresh",
            vec![("cookie", "__Secure-refresh-mount-silent=x")],
            None,
        ),
    ] {
        let (_auth, app) = mounted(realm, path, |settings| settings.refresh_cookie.path = cookie_path.to_owned());
        for _ in 0..3 {
            call(&app, "POST", request, &headers).await;
        }
        let text = log.take();
        match expected {
            None => assert_eq!(text, "", "{realm}"),
            Some(mount) => {
                assert_eq!(text.lines().count(), 1, "{realm}: {text}");
                assert!(text.contains("WARN") && text.contains("refresh_cookie.path"), "{text}");
                assert!(text.contains(&format!("such as \"{mount}\"")), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn a_proxy_that_adds_a_prefix_is_no_warning_if_the_refresh_cookie_arrives() {
    let log = Log::default();
    let _guard = log.start();
    let (auth, app) = mounted("added", "/api/auth", |_| ());
    let cookie = refresh_cookie(&auth).await;
    assert_eq!(call(&app, "POST", "/api/auth/refresh", &[("cookie", &cookie)]).await.status(), 200);
    assert_eq!(log.take(), "");
}

#[tokio::test]
async fn a_browser_that_is_logged_in_and_sends_no_refresh_cookie_is_one_warning() {
    let log = Log::default();
    let _guard = log.start();
    let (auth, app) = mounted("missing", "/auth", |settings| settings.hint_cookie = true);
    let hint = format!("{}=1", auth.hint_cookie_name().unwrap());
    let both = format!("{}; {hint}", refresh_cookie(&auth).await);
    for (cookie, lines) in [("theme=dark", 0), (&*both, 0), (&*hint, 1), (&*hint, 0)] {
        call(&app, "POST", "/auth/refresh", &[("cookie", cookie)]).await;
        let text = log.take();
        assert_eq!(text.lines().count(), lines, "{cookie}: {text}");
        assert!(lines == 0 || text.contains("refresh_cookie.path"), "{text}");
    }
}

#[tokio::test]
async fn a_login_by_a_page_of_another_site_is_one_warning_unless_the_cookie_goes_there() {
    let log = Log::default();
    let _guard = log.start();
    let script = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors"), ("origin", "https://spa.example")];
    let form = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
    let near = [("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors")];
    for (realm, same_site, headers, lines) in [
        ("site-script", SameSite::Lax, &script[..], 1),
        ("site-strict", SameSite::Strict, &script[..], 1),
        ("site-none", SameSite::None, &script[..], 0),
        ("site-form", SameSite::Lax, &form[..], 0),
        ("site-near", SameSite::Lax, &near[..], 0),
    ] {
        let (_auth, app) = mounted(realm, "/auth", |settings| settings.refresh_cookie.same_site = same_site);
        for _ in 0..2 {
            assert_eq!(call(&app, "POST", "/login", headers).await.status(), 200);
        }
        let text = log.take();
        assert_eq!(text.lines().count(), lines, "{realm}: {text}");
        assert!(lines == 0 || text.contains("credentials: \"include\""), "{text}");
    }
}

#[tokio::test]
async fn a_login_page_behind_the_layer_is_one_error() {
    let log = Log::default();
    let _guard = log.start();
    let (auth, app) = mounted("login-page", "/auth", |settings| settings.login_page = Some("/login".to_owned()));
    let app = app.layer(auth.layer());
    for path in ["/login", "/login?next=/x", "/other"] {
        call(&app, "GET", path, &[("accept", "text/html")]).await;
    }
    let text = log.take();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("ERROR") && text.contains("outside the layer"), "{text}");
}

#[tokio::test]
async fn an_access_cookie_that_browsers_would_drop_is_left_out_of_a_refresh_with_an_error() {
    #[derive(Clone, Default, Serialize, Deserialize)]
    struct Text {
        text: String,
    }

    let log = Log::default();
    let _guard = log.start();
    let settings = Settings { realm: Some("large".to_owned()), ..Settings::for_pages() };
    let auth: Auth<Text> = Auth::builder(Secret::new(SECRET), MemoryStore::new())
        .settings(settings)
        .claims_hook(async |_| Ok::<_, std::convert::Infallible>(Some(Text { text: "x".repeat(4_000) })))
        .build()
        .unwrap();
    let cookie = refresh_cookie(&auth).await;
    let app: Router = Router::new().nest("/auth", auth.router());
    let response = call(&app, "POST", "/auth/refresh", &[("cookie", &cookie)]).await;
    assert_eq!(response.status(), 200);
    let names: Vec<_> = response.headers().get_all("set-cookie").iter().map(|it| it.to_str().unwrap()).collect();
    assert!(names.iter().all(|it| !it.contains("access")), "{names:?}");
    let text = log.take();
    assert!(text.contains("ERROR") && text.contains("return smaller claims"), "{text}");
}
