//! A gRPC server, and a client that calls it without a token, with one, and after the session has ended.
//!
//! ```sh
//! cargo run -p axum-refresh-grpc-example
//! ```

use axum_refresh::{Auth, MemoryStore, NoClaims, RevocationReason, Secret};
use axum_refresh_grpc_example::proto::{ListRequest, Note, NotesClient};
use tonic::Request;
use tonic::metadata::MetadataValue;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let auth: Auth = Auth::builder(Secret::random()?, MemoryStore::new()).build()?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let mut client = NotesClient::connect(format!("http://{}", listener.local_addr()?)).await?;
    let app = axum_refresh_grpc_example::router(&auth);
    tokio::spawn(async move { axum::serve(listener, app).await });

    let Err(status) = client.add(note("without a token")).await else { return Err("nobody was refused".into()) };
    println!("{:?}: {}", status.code(), status.message());

    // A login needs no HTTP. An app has its `/login` beside the service.
    let tokens = auth.login("alice", NoClaims {}).await?.tokens;
    let bearer: MetadataValue<_> = format!("Bearer {}", tokens.access_token).parse()?;
    let with_token = |text: &str| {
        let mut request = note(text);
        request.metadata_mut().insert("authorization", bearer.clone());
        request
    };
    println!("{:?}", client.add(with_token("buy milk")).await?.get_ref());
    let mut notes = client.list(with_token("").map(|_| ListRequest {})).await?.into_inner();
    while let Some(note) = notes.message().await? {
        println!("{note:?}");
    }

    auth.revoke_session(tokens.session_id, RevocationReason::Logout).await?;
    let Err(status) = client.add(with_token("too late")).await else { return Err("nobody was refused".into()) };
    println!("{:?}: {}", status.code(), status.message());
    Ok(())
}

fn note(text: &str) -> Request<Note> {
    Request::new(Note { text: text.to_owned() })
}
