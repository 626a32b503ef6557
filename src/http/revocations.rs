//! The routes for services without the store: the feed of revocations, and the state of one session.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum_core::response::{IntoResponse, Response};
use futures_util::stream;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;

use super::bearer::bearer;
use super::router::{json_response, session_id};
use crate::auth::{Auth, Claims};
use crate::error::Error;
use crate::feed::REVOKED;
use crate::node::announcements::Message;

pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Tells nginx to send each event at once.
pub(super) const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// An empty comment follows a silence of this long.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// `GET /revocations`
pub(super) async fn feed<C: Claims>(State(auth): State<Auth<C>>, headers: HeaderMap) -> Result<Response, Error> {
    check_verifier(&auth, &headers)?;
    let resume = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    let follower = auth.follow(resume).await?;
    let events = stream::unfold(follower, |mut follower| async move {
        let message = follower.next().await?;
        Some((event(&message), follower))
    });
    // Whoever hears nothing at all has lost the connection.
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    response.headers_mut().insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

fn event(message: &Message) -> Result<Event, Infallible> {
    Ok(match message {
        Message::Revoked { id, announcement } => {
            // Its members are texts and numbers, and none has a line end once it is JSON.
            let data = serde_json::to_string(announcement).unwrap_or_default();
            Event::default().event(REVOKED).id(id).data(data)
        }
        Message::Position { id } => Event::default().id(id),
        Message::Complete { millis } => Event::default().comment(millis.to_string()),
    })
}

/// `GET /revocations/{id}`
pub(super) async fn session<C: Claims>(
    State(auth): State<Auth<C>>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Error> {
    check_verifier(&auth, &headers)?;
    let id = session_id(id)?;
    let revoked = auth.is_session_revoked(id).await?;
    Ok(json_response(&json!({ "sid": id, "revoked": revoked })))
}

/// Refuses whoever does not show a verifier's token. An access token of a user is none.
fn check_verifier<C>(auth: &Auth<C>, headers: &HeaderMap) -> Result<(), Error> {
    let token = headers.get(AUTHORIZATION).and_then(bearer).ok_or(Error::AccessTokenMissing)?;
    if auth.is_verifier(token) { Ok(()) } else { Err(Error::AccessTokenInvalid) }
}
