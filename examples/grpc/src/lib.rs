//! A gRPC service whose methods know the user, behind `Auth::layer` and `Auth::guard`.
//!
//! Clients send the access token in the metadata `authorization`. What the layers refuse arrives as a gRPC status: without
//! a token `UNAUTHENTICATED` with the message `access_token_missing`, and so on, as in the table of `AuthRejection`.
//!
//! [`verified_router`] is the same in a service that only verifies the tokens of another one, behind `Verifier::layer`.
//!
//! [`router`] is a router of axum, so the service and the app's other routes share a server. With tonic's own server, put
//! the layers around it. Its body cannot be made from bytes, so the innermost layer has to replace it:
//!
//! ```
//! use std::net::SocketAddr;
//!
//! use axum_refresh::Auth;
//! use axum_refresh_grpc_example::Notebook;
//! use axum_refresh_grpc_example::proto::NotesServer;
//! use tonic::transport::{Error, Server};
//! use tower_http::map_response_body::MapResponseBodyLayer;
//!
//! async fn serve(auth: &Auth, address: SocketAddr) -> Result<(), Error> {
//!     Server::builder()
//!         .layer(auth.layer())
//!         .layer(auth.guard())
//!         .layer(MapResponseBodyLayer::new(axum::body::Body::new))
//!         .add_service(NotesServer::new(Notebook::default()))
//!         .serve(address)
//!         .await
//! }
//! ```

pub mod proto;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum_refresh::verifier::Verifier;
use axum_refresh::{Auth, AuthUser};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use self::proto::{Added, ListRequest, Note, Notes, NotesServer};

/// Every user's notes, in memory.
#[derive(Clone, Debug, Default)]
pub struct Notebook {
    notes: Arc<Mutex<HashMap<String, Vec<Note>>>>,
}

impl Notebook {
    /// Calls a function with the notes of the user who has sent the request.
    fn of_user<T, R>(&self, request: &Request<T>, call: impl FnOnce(&mut Vec<Note>) -> R) -> Result<R, Status> {
        // The layers let no anonymous request pass. This is what a service without them returns.
        let user: AuthUser =
            AuthUser::from_extensions(request.extensions()).ok_or_else(|| Status::unauthenticated("no user"))?;
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(call(notes.entry(user.id.to_string()).or_default()))
    }
}

#[tonic::async_trait]
impl Notes for Notebook {
    async fn add(&self, request: Request<Note>) -> Result<Response<Added>, Status> {
        let note = request.get_ref().clone();
        let count = self.of_user(&request, |notes| {
            notes.push(note);
            notes.len()
        })?;
        Ok(Response::new(Added { count: count as u64 }))
    }

    type ListStream = tokio_stream::Iter<std::vec::IntoIter<Result<Note, Status>>>;

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let notes: Vec<_> = self.of_user(&request, |notes| notes.iter().cloned().map(Ok).collect())?;
        Ok(Response::new(tokio_stream::iter(notes)))
    }
}

/// The service behind the layers, to be merged into the app's router. axum needs its feature `http2` to serve it.
pub fn router(auth: &Auth) -> Router {
    notes().route_layer((auth.layer(), auth.guard()))
}

/// The same for the users of another service, which issues the access tokens.
pub fn verified_router(verifier: &Verifier) -> Router {
    notes().route_layer(verifier.layer())
}

fn notes() -> Router {
    Routes::new(NotesServer::new(Notebook::default()))
        .into_axum_router()
        // tonic's own fallback would answer the app's unknown paths too.
        .reset_fallback()
}
