//! The layers around services that are not axum's, and refusals in the app's own form.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::convert::Infallible;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use axum::response::{Html, IntoResponse as _};
use axum::routing::{any, get};
use axum::{Json, Router};
use axum_refresh::rejection::Problem;
use axum_refresh::{Auth, AuthUser, Settings};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use support::{Claims, Fault, Node};
use tower::{Layer as _, ServiceExt as _, service_fn};

fn request(headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::get("/").header("host", "app.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

/// A service of no framework, with a body of its own.
async fn greet<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    let user: Option<AuthUser<Claims>> = AuthUser::from_extensions(request.extensions());
    let name = user.map_or("nobody".to_owned(), |user| user.id.to_string());
    Ok(Response::new(Full::from(name)))
}

async fn text(response: Response<Full<Bytes>>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

// ---- services of any kind -------------------------------------------------------------------------------------------

#[tokio::test]
async fn every_layer_fits_around_a_service_of_any_body() {
    let node = Node::with(|builder| builder.settings(Settings::for_pages()));
    let auth = &node.auth;
    let service = service_fn(greet::<()>);
    let service = auth.csrf().layer(auth.pages().unwrap().layer(auth.layer().layer(auth.guard().layer(service))));
    let anonymous = service.clone().oneshot(request(&[])).await.unwrap();
    assert_eq!(anonymous.status(), 401);
    assert_eq!(anonymous.headers()["content-type"], "application/problem+json");
    assert!(text(anonymous).await.contains("access_token_missing"));
    let bearer = format!("Bearer {}", node.login("alice").await.tokens.access_token);
    let known = service.clone().oneshot(request(&[("authorization", &bearer)])).await.unwrap();
    assert_eq!(text(known).await, "alice");
    // The refresh within the request, which asks the store, sets cookies on a foreign response.
    let cookie = format!("__Host-refresh={}", node.refresh_token("bob").await);
    let refreshed = service.oneshot(request(&[("cookie", &cookie), ("accept", "text/html")])).await.unwrap();
    assert!(refreshed.headers().contains_key("set-cookie"));
    assert_eq!(text(refreshed).await, "bob");
}

#[tokio::test]
async fn a_service_that_is_not_behind_a_layer_has_no_user() {
    let node = Node::new();
    let bearer = format!("Bearer {}", node.login("alice").await.tokens.access_token);
    let response = greet(request(&[("authorization", &bearer)])).await.unwrap();
    assert_eq!(text(response).await, "nobody");
}

#[tokio::test]
async fn a_grpc_request_is_refused_with_a_grpc_status() {
    let node = Node::with(|builder| builder.configure(|settings| settings.login_page = Some("/login".into())));
    let bearer = format!("Bearer {}", node.login("alice").await.tokens.access_token);
    for (kind, headers, fault, expected) in [
        ("application/grpc", vec![], Fault::None, ("16", "access_token_missing")),
        ("application/grpc+proto", vec![("authorization", "Bearer x")], Fault::None, ("16", "access_token_invalid")),
        // Media types have no case (RFC 9110 §8.3.1).
        ("Application/gRPC; x=y", vec![], Fault::None, ("16", "access_token_missing")),
        ("application/grpc-web-text+proto", vec![], Fault::None, ("16", "access_token_missing")),
        ("application/grpc", vec![("accept", "text/html")], Fault::None, ("16", "access_token_missing")),
        ("application/grpc", vec![("authorization", bearer.as_str())], Fault::Fails, ("14", "store_unavailable")),
    ] {
        node.store.set(fault);
        if fault != Fault::None {
            // The node has heard no revocations for too long.
            node.clock.advance(std::time::Duration::from_secs(60));
        }
        let service = node.auth.layer().layer(service_fn(greet::<()>));
        let headers: Vec<_> = headers.into_iter().chain([("content-type", kind)]).collect();
        let response = service.oneshot(request(&headers)).await.unwrap();
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(response.status(), 200);
        assert_eq!(header("content-type"), kind);
        assert_eq!((header("grpc-status").as_str(), header("grpc-message").as_str()), expected);
        assert!(response.extensions().get::<Problem>().is_some());
        assert_eq!(text(response).await, "");
    }
}

#[tokio::test]
async fn a_media_type_that_only_begins_like_that_of_grpc_is_another_one() {
    let node = Node::new();
    for kind in ["application/grpcs", "application/grpc.v2", "application/json", "application"] {
        let service = node.auth.layer().layer(service_fn(greet::<()>));
        let response = service.oneshot(request(&[("content-type", kind)])).await.unwrap();
        assert_eq!(response.status(), 401, "{kind}");
        assert!(!response.headers().contains_key("grpc-status"), "{kind}");
    }
}

// ---- refusals in the app's own form ---------------------------------------------------------------------------------

/// Pages for browsers, an envelope for `/api`, and problem details for the rest.
fn show(problem: &Problem, request: &Parts) -> Option<axum::response::Response> {
    let accepts_pages = request.headers.get("accept").is_some_and(|accept| accept == "text/html");
    if accepts_pages {
        return Some(Html(format!("<h1>{}</h1>", problem.code())).into_response());
    }
    let is_api = request.uri.path().starts_with("/api");
    is_api.then(|| Json(serde_json::json!({ "error": problem.code() })).into_response())
}

const TEAPOT: Problem = Problem::new(StatusCode::IM_A_TEAPOT, "teapot");

fn app(auth: &Auth<Claims>) -> Router {
    Router::new()
        .route("/api/me", get(async |user: AuthUser<Claims>| user.id.to_string()))
        .route("/own", get(async |_: AuthUser<Claims>| ()))
        .route_layer(auth.guard())
        .route_layer(auth.layer())
        .route("/teapot", get(async || TEAPOT))
        .route("/unchecked", get(async |_: AuthUser<Claims>| ()))
        .route("/plain", get(async || StatusCode::UNAUTHORIZED))
        .route("/csrf", any(async || ()).layer(auth.csrf()))
        .nest("/auth", auth.router())
        .layer(auth.refusals(show))
}

async fn call(app: &Router, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, String) {
    let mut request = Request::builder().method(method).uri(path).header("host", "app.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), parts.headers, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn each_refusal_is_shown_in_the_form_that_the_app_chooses() {
    let node = Node::new();
    let app = app(&node.auth);
    let foreign = ("origin", "https://evil.example");
    let html = ("accept", "text/html");
    for (method, path, headers, status, kind, body) in [
        ("GET", "/own", vec![html], 401, "text/html", "<h1>access_token_missing</h1>"),
        ("GET", "/api/me", vec![], 401, "application/json", r#"{"error":"access_token_missing"}"#),
        (
            "GET",
            "/api/me",
            vec![("authorization", "Bearer x")],
            401,
            "application/json",
            r#"{"error":"access_token_invalid"}"#,
        ),
        ("GET", "/own", vec![], 401, "application/problem+json", "access_token_missing"),
        ("POST", "/csrf", vec![foreign, html], 403, "text/html", "<h1>cross_origin</h1>"),
        ("POST", "/auth/refresh", vec![html], 401, "text/html", "<h1>refresh_token_missing</h1>"),
        ("GET", "/teapot", vec![html], 418, "text/html", "<h1>teapot</h1>"),
        ("GET", "/teapot", vec![], 418, "application/problem+json", r#""code":"teapot""#),
        ("GET", "/unchecked", vec![html], 500, "text/html", "<h1>internal</h1>"),
    ] {
        let (found, headers, text) = call(&app, method, path, &headers).await;
        assert_eq!(found, status, "{method} {path}");
        assert!(headers["content-type"].to_str().unwrap().starts_with(kind), "{method} {path}: {headers:?}");
        assert!(text.contains(body), "{method} {path}: {text}");
        assert_eq!(headers["cache-control"], "no-store");
        assert_eq!(headers.get_all("content-type").iter().count(), 1);
        assert_eq!(headers.contains_key("www-authenticate"), status == 401, "{method} {path}");
    }
}

#[tokio::test]
async fn what_is_not_a_refusal_of_ours_is_left_alone() {
    let node = Node::new();
    let app = app(&node.auth);
    let (status, _, text) = call(&app, "GET", "/plain", &[("accept", "text/html")]).await;
    assert_eq!((status, text.as_str()), (401, ""));
    let bearer = format!("Bearer {}", node.login("alice").await.tokens.access_token);
    let (status, _, text) = call(&app, "GET", "/api/me", &[("authorization", &bearer)]).await;
    assert_eq!((status, text.as_str()), (200, "alice"));
}

#[tokio::test]
async fn redirects_to_the_login_page_and_grpc_statuses_keep_their_form() {
    let node = Node::with(|builder| builder.configure(|settings| settings.login_page = Some("/login".into())));
    let app = app(&node.auth);
    let (status, headers, _) = call(&app, "GET", "/own", &[("accept", "text/html")]).await;
    assert_eq!((status, headers["location"].to_str().unwrap()), (303, "/login?next=/own"));
    let (status, headers, _) =
        call(&app, "GET", "/own", &[("content-type", "application/grpc"), ("accept", "text/html")]).await;
    assert_eq!((status, headers["grpc-status"].to_str().unwrap()), (200, "16"));
    // htmx reads headers only, and the app's form of the refusal may be swapped in.
    let (status, headers, text) = call(&app, "GET", "/own", &[("hx-request", "true"), ("accept", "text/html")]).await;
    assert_eq!((status, headers["hx-redirect"].to_str().unwrap()), (401, "/login"));
    assert_eq!(text, "<h1>access_token_missing</h1>");
}

#[tokio::test]
async fn the_headers_of_a_refusal_survive_its_new_form() {
    let node = Node::new();
    let app = app(&node.auth);
    let cookie = format!("__Secure-refresh={}", node.refresh_token("alice").await);
    node.store.set(Fault::NeverSwaps);
    node.after_grace();
    let headers = [("cookie", cookie.as_str()), ("accept", "text/html")];
    let (status, headers, text) = call(&app, "POST", "/auth/refresh", &headers).await;
    assert_eq!((status, text.as_str()), (409, "<h1>refresh_busy</h1>"));
    assert!(headers.contains_key("retry-after"), "{headers:?}");
}

fn with_header(
    name: &'static str,
    value: &'static str,
) -> impl Fn(Response<Body>) -> std::future::Ready<Response<Body>> + Clone {
    move |mut response: Response<Body>| {
        response.headers_mut().append(name, value.parse().unwrap());
        std::future::ready(response)
    }
}

#[tokio::test]
async fn headers_of_the_old_body_go_with_it_and_cookies_of_both_are_sent() {
    let node = Node::new();
    // Not `Clone`.
    struct Templates(&'static str);
    let templates = Templates("<h1>no</h1>");
    let show = move |_: &Problem, _: &Parts| Some(([("set-cookie", "flash=1")], Html(templates.0)).into_response());
    let app = Router::new()
        .route("/", get(async |_: AuthUser<Claims>| ()))
        .layer(node.auth.layer())
        .layer(axum::middleware::map_response(with_header("content-encoding", "gzip")))
        .layer(axum::middleware::map_response(with_header("etag", "\"x\"")))
        .layer(axum::middleware::map_response(with_header("set-cookie", "refresh=new")))
        .layer(node.auth.refusals(show));
    let (status, headers, text) = call(&app, "GET", "/", &[]).await;
    assert_eq!((status, text.as_str()), (401, "<h1>no</h1>"));
    assert!(!headers.contains_key("content-encoding") && !headers.contains_key("etag"), "{headers:?}");
    let cookies: Vec<_> = headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["refresh=new", "flash=1"]);
}

#[tokio::test]
async fn of_two_forms_the_inner_one_counts() {
    let node = Node::new();
    let form = |text: &'static str| move |_: &Problem, _: &Parts| Some(Html(text).into_response());
    let app = Router::new()
        .route("/", get(async || TEAPOT))
        .layer(node.auth.refusals(form("inner")))
        .layer(node.auth.refusals(form("outer")));
    assert_eq!(call(&app, "GET", "/", &[]).await.2, "inner");
}
