//! Requests to the issuer, whose responses are not trusted to be small, quick, or what was asked for.

use http::StatusCode;
use http::header::{ACCEPT, AUTHORIZATION};
use reqwest::{RequestBuilder, Response, Url};
use serde::Deserialize;
use tracing::Span;
use tracing::field::Empty;

use super::Issuer;
use crate::session::SessionId;
use crate::store::StoreError;

/// The longest answer about a session.
const MAX_ANSWER_BYTES: usize = 4 * 1024;

/// The answer about a session.
#[derive(Deserialize)]
struct SessionState {
    sid: SessionId,
    revoked: bool,
}

impl Issuer {
    /// Whether a session was revoked, by the issuer's store.
    pub(super) async fn is_revoked(&self, id: SessionId) -> Result<bool, StoreError> {
        let feed = self.feed.as_ref().ok_or_else(|| StoreError::new("no feed of revocations"))?;
        let mut url = feed.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push(&id.to_string());
        }
        let request = self.client.get(url).header(AUTHORIZATION, feed.token.clone()).header(ACCEPT, "application/json");
        let mut response = send(request).await?;
        check_status(&response)?;
        let answer = read_body(&mut response, MAX_ANSWER_BYTES).await?;
        let state: SessionState = serde_json::from_slice(&answer).map_err(StoreError::new)?;
        if state.sid != id {
            return Err(StoreError::new("the issuer has answered about another session"));
        }
        Ok(state.revoked)
    }
}

/// The span of a request, within the span of a request to this service. What the background task does is in none.
pub(super) fn span(url: Option<&Url>) -> Span {
    if Span::current().is_none() {
        return Span::none();
    }
    tracing::debug_span!(
        target: "axum_refresh",
        "issuer_request",
        http.request.method = "GET",
        url.full = url.map(tracing::field::display),
        error.type = Empty
    )
}

/// Sends a request. An error names the cause, not only that there was one.
pub(super) async fn send(request: RequestBuilder) -> Result<Response, StoreError> {
    request.send().await.map_err(|error| describe(&error))
}

pub(super) fn describe(error: &reqwest::Error) -> StoreError {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    StoreError::new(text)
}

/// Refuses what is no success, and says what to do about it.
pub(super) fn check_status(response: &Response) -> Result<(), StoreError> {
    let advice = match response.status() {
        status if status.is_success() => return Ok(()),
        StatusCode::UNAUTHORIZED => "; give both services the same verifier's token",
        StatusCode::NOT_FOUND => {
            "; check the URL, and that the issuer has `AuthBuilder::verifier_token` and mounts its routers"
        }
        status if status.is_redirection() => "; redirects are not followed, so use the final URL",
        _ => "",
    };
    Err(StoreError::new(format!("{} answered {}{advice}", response.url(), response.status())))
}

/// Reads a body, but no more than a limit.
pub(super) async fn read_body(response: &mut Response, limit: usize) -> Result<Vec<u8>, StoreError> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| describe(&error))? {
        if body.len() + piece.len() > limit {
            return Err(StoreError::new(format!("{} answered with more than {limit} bytes", response.url())));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}
