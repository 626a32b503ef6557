//! gRPC and HTTP on one port.

use axum_refresh_e2e::app::{App, Setup};
use axum_refresh_grpc_example::proto::{ListRequest, Note, NotesClient};
use tonic::{Code, Request};

use crate::{Visitor, access_tokens_expire};

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

#[tokio::test]
async fn a_login_over_http_counts_for_grpc_until_the_logout() {
    let origin = App::new(&Setup::new("sqlite")).await.on_tcp().await;
    let mut client = NotesClient::connect(origin.clone()).await.unwrap();
    let mut browser = Visitor::new(&origin);
    browser.log_in("/api/login", "alice").await;
    let staff = browser.log_in("/staff/login", "alice").await;
    let note = || Note { text: "buy milk".to_owned() };

    let status = client.add(note()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "access_token_missing"));
    let status = client.add(with_token(note(), &staff)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "access_token_invalid"));

    let token = browser.refresh("/auth/refresh").await;
    assert_eq!(client.add(with_token(note(), &token)).await.unwrap().into_inner().count, 1);
    access_tokens_expire().await;
    let status = client.list(with_token(ListRequest {}, &token)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "access_token_expired"));

    let token = browser.refresh("/auth/refresh").await;
    let mut notes = client.list(with_token(ListRequest {}, &token)).await.unwrap().into_inner();
    assert_eq!(notes.message().await.unwrap(), Some(note()));
    assert_eq!(notes.message().await.unwrap(), None);
    browser.post("/auth/logout").await.is(204);
    let status = client.list(with_token(ListRequest {}, &token)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "access_token_revoked"));
    // Unknown paths are the app's, not tonic's.
    browser.get("/nowhere").await.is(404);
}
