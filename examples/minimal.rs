//! The README's snippet, and nothing else.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use axum_refresh::{Auth, AuthUser, ClientInfo, Error, Login, MemoryStore, Secret};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

#[derive(Clone, Serialize, Deserialize)]
struct Claims {
    role: String,
}

#[derive(Deserialize)]
struct Form {
    username: String,
    password: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let auth = Auth::<Claims>::builder()
        .secret(Secret::from_env("AUTH_SECRET")?) // one secret; keys are derived from it
        .store(MemoryStore::new())
        .build()?; // every contradiction in the settings is an error here

    let app = Router::new()
        .route("/me", get(|user: AuthUser<Claims>| async move { Json(user.claims) }))
        .route_layer((
            auth.layer(), // access token -> AuthUser; revoked ones are refused
            auth.guard(), // idle timeout, IP / User-Agent binding
        ))
        .route("/login", post(login).layer(auth.csrf_layer()))
        .nest("/auth", auth.router())
        .with_state(auth.clone());

    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}

async fn login(
    State(auth): State<Auth<Claims>>,
    client: ClientInfo,
    Json(form): Json<Form>,
) -> Result<Login, LoginError> {
    // The app's own: here stands your user table and your password hash.
    if (form.username.as_str(), form.password.as_str()) != ("alice", "password") {
        return Err(LoginError::Credentials);
    }
    let claims = Claims { role: "admin".to_owned() };
    auth.login(form.username, claims).client(client).await.map_err(LoginError::Session)
}

enum LoginError {
    Credentials,
    Session(Error),
}

impl axum::response::IntoResponse for LoginError {
    fn into_response(self) -> axum::response::Response {
        match self {
            Self::Credentials => StatusCode::UNAUTHORIZED.into_response(),
            Self::Session(error) => error.into_response(),
        }
    }
}
