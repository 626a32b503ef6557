//! The refusals of layers and extractors, in the form that the client understands: problem details, a redirect to the login
//! page, or a gRPC status.

use std::fmt;

use axum::body::Body;
use axum_core::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::head::Head;
use super::negotiate::{LoginPage, login_page};
use super::problem::Problem;
use crate::config::ResolvedSettings;

pub(super) const HX_REDIRECT: HeaderName = HeaderName::from_static("hx-redirect");
const GRPC: &[u8] = b"application/grpc";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Why a request was refused by a layer or an extractor.
///
/// As a response it is, depending on the request:
///
/// - `application/problem+json` (RFC 9457), unless one of the following applies.
/// - A redirect (303) to the [login page](crate::Settings::login_page) with `?next=`, if the app has one, the refusal is a 401
///   and the request is a GET that accepts a page.
/// - The same to the [page for that](crate::Settings::step_up_page), if the user has to authenticate again; also for a form that
///   was submitted.
/// - 401 with `HX-Redirect` to the page, if the request was sent by htmx.
/// - A gRPC status without messages, if the content type of the request is `application/grpc` or `application/grpc-web`:
///   `UNAUTHENTICATED` for 401, `PERMISSION_DENIED` for 403, `ABORTED` for 409, `UNAVAILABLE` for 503, `INTERNAL` for 500, with
///   the code as the message.
///
/// Each of them carries the [`Problem`] in its extensions.
#[derive(Clone)]
pub struct AuthRejection {
    problem: Problem,
    form: Form,
}

#[derive(Clone)]
enum Form {
    Problem,
    Login(LoginPage),
    /// The content type of the request.
    Grpc(HeaderValue),
}

impl AuthRejection {
    pub(super) fn new(settings: &ResolvedSettings, head: &impl Head, problem: Problem) -> Self {
        let form = if let Some(kind) = grpc(head.headers()) {
            Form::Grpc(kind.clone())
        } else if problem.is_unauthorized() {
            login_page(settings, head, problem.is_step_up()).map_or(Form::Problem, Form::Login)
        } else {
            Form::Problem
        };
        Self { problem, form }
    }

    /// The refusal where no layer has checked the request.
    pub(super) const fn unchecked() -> Self {
        Self { problem: Problem::INTERNAL, form: Form::Problem }
    }

    /// The status of the refusal: 401, 403, 409, 500 or 503. The response has 303 instead if it redirects to the login page,
    /// and 200 if it is a gRPC status.
    pub const fn status(&self) -> StatusCode {
        self.problem.status()
    }

    /// The code of the refusal, as listed in the [HTTP contract](crate::guide::http).
    pub const fn code(&self) -> &'static str {
        self.problem.code()
    }

    pub(super) fn render(self) -> Response<Bytes> {
        let problem = self.problem.clone();
        let mut response = match self.form {
            Form::Problem => return self.problem.render(),
            Form::Login(LoginPage::Redirect(location)) => {
                let mut response = empty(StatusCode::SEE_OTHER);
                response.headers_mut().insert(LOCATION, location);
                response.headers_mut().insert(VARY, HeaderValue::from_static("accept, hx-request"));
                response
            }
            // htmx would follow a redirect itself and show the login page within the current one.
            Form::Login(LoginPage::Htmx(location)) => {
                let mut response = self.problem.render();
                response.headers_mut().insert(HX_REDIRECT, location);
                response
            }
            Form::Grpc(content_type) => {
                let mut response = empty(StatusCode::OK);
                let headers = response.headers_mut();
                headers.insert(CONTENT_TYPE, content_type);
                headers.insert(GRPC_STATUS, grpc_status(problem.status()).into());
                headers.insert(GRPC_MESSAGE, HeaderValue::from_static(problem.code()));
                response
            }
        };
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response.extensions_mut().insert(problem);
        response
    }
}

fn empty(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response
}

/// The content type of a gRPC request: `application/grpc`, with a message format or a parameter, or `application/grpc-web`,
/// whose clients read a status from the headers too.
fn grpc(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(CONTENT_TYPE).filter(|kind| {
        let (name, rest) = kind.as_bytes().split_at_checked(GRPC.len()).unwrap_or_default();
        // The case does not matter (RFC 9110 §8.3.1).
        name.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';' | b'-' | b' ' | b'\t'))
    })
}

/// The status code of gRPC that comes closest.
const fn grpc_status(status: StatusCode) -> u16 {
    match status {
        StatusCode::UNAUTHORIZED => 16,
        StatusCode::FORBIDDEN => 7,
        StatusCode::CONFLICT => 10,
        StatusCode::SERVICE_UNAVAILABLE => 14,
        _ => 13,
    }
}

impl fmt::Debug for AuthRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthRejection").field("status", &self.status()).field("code", &self.code()).finish()
    }
}

impl fmt::Display for AuthRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

impl std::error::Error for AuthRejection {}

impl IntoResponse for AuthRejection {
    fn into_response(self) -> Response {
        self.render().map(Body::from)
    }
}
