//! The routes that serve a document.

use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::extract::Request;
use axum::routing::{MethodRouter, get};
use axum_core::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, StatusCode};
use utoipa::openapi::OpenApi;

use crate::auth::{Auth, Claims};
use crate::http::etag;
use crate::http::head::Head;
use crate::http::layers::public_path;
use crate::http::problem::Problem;
use crate::http::routes::{Route, Routes};

/// The document is asked for again each time, so that clients are not generated from an old one.
pub(super) const CACHE: &str = "no-cache";

/// A route that serves an OpenAPI document as it is, with an `ETag` and `Cache-Control: no-cache`: for an app that has a
/// document of its own, with more than the routes of [`Auth::router`](crate::Auth::router) in it.
///
/// ```
/// use axum::Router;
/// use axum_refresh::Auth;
/// use axum_refresh::router::{Route, Routes, openapi_route};
/// use utoipa::openapi::{Info, OpenApi, Paths};
///
/// fn app(auth: &Auth) -> Router {
///     let document = OpenApi::new(Info::new("Shop", "1.0.0"), Paths::new()).nest("/auth", auth.openapi());
///     Router::new()
///         .nest("/auth", auth.router_with(&Routes::all().without(Route::OpenApi)))
///         .route("/auth/openapi.json", openapi_route(&document))
/// }
/// ```
pub fn openapi_route<S: Clone + Send + Sync + 'static>(document: &OpenApi) -> MethodRouter<S> {
    let served = Served::new(String::new(), document).map(Arc::new);
    get(move |headers: HeaderMap| {
        let served = served.clone();
        async move { served.map_or_else(|| Problem::INTERNAL.into_response(), |served| served.respond(&headers)) }
    })
}

/// The route that serves the document of a router, with the paths at which it is mounted.
pub(in crate::http) fn route<S: Clone + Send + Sync + 'static, C: Claims>(
    auth: &Auth<C>,
    routes: &Routes,
) -> MethodRouter<S> {
    let (auth, routes, first) = (auth.clone(), routes.clone(), Arc::new(OnceLock::new()));
    get(move |request: Request| {
        let response = document_of(&auth, &routes, &first, &request);
        async move { response }
    })
}

/// The document of a router is nearly always asked for at one path, so that of the `first` is kept.
fn document_of<C: Claims>(auth: &Auth<C>, routes: &Routes, first: &OnceLock<Served>, head: &impl Head) -> Response {
    let path = public_path(auth.resolved(), head);
    let prefix = path.strip_suffix(Route::OpenApi.path()).unwrap_or_default();
    if let Some(served) = first.get().filter(|served| served.prefix == prefix) {
        return served.respond(head.headers());
    }
    let document = auth.openapi_with(&Routes(Vec::new())).nest(prefix, auth.openapi_with(routes));
    let Some(served) = Served::new(prefix.to_owned(), &document) else { return Problem::INTERNAL.into_response() };
    let response = served.respond(head.headers());
    // Another request may have been faster.
    let _ = first.set(served);
    response
}

/// A document as it is sent.
struct Served {
    /// The path at which the router is mounted.
    prefix: String,
    body: Bytes,
    tag: String,
}

impl Served {
    /// None if the document cannot be written, which does not happen.
    fn new(prefix: String, document: &OpenApi) -> Option<Self> {
        let body = Bytes::from(document.to_json().ok()?);
        Some(Self { prefix, tag: etag::of(&body), body })
    }

    fn respond(&self, headers: &HeaderMap) -> Response {
        let common: [(HeaderName, &str); 3] =
            [(ETAG, &self.tag), (CACHE_CONTROL, CACHE), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
        if etag::matches(headers, &self.tag) {
            return (StatusCode::NOT_MODIFIED, common).into_response();
        }
        (common, [(CONTENT_TYPE, "application/json")], Body::from(self.body.clone())).into_response()
    }
}
