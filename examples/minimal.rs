//! The smallest complete app: login, a protected route, refresh, logout and the list of sessions. README.md shows the
//! same code.
//!
//! ```sh
//! AUTH_SECRET=$(openssl rand -base64 32) cargo run --example minimal
//! ```

use std::net::SocketAddr;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use axum_refresh::{Auth, AuthUser, ClientInfo, Login, MemoryStore, Secret};
use serde::{Deserialize, Serialize};

/// The app's own claims, carried by every access token.
#[derive(Clone, Serialize, Deserialize)]
struct MyClaims {
    role: String,
}

#[derive(Deserialize)]
struct Credentials {
    username: String,
    password: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // All keys are derived from the one secret. `build` rejects contradictory settings.
    let auth = Auth::<MyClaims>::builder(Secret::from_env("AUTH_SECRET")?, MemoryStore::new()).build()?;

    let protected = Router::new()
        .route("/me", get(|user: AuthUser<MyClaims>| async { Json(user.claims) }))
        // Covers the routes above it, and only those.
        .route_layer((
            auth.layer(), // verifies the access token and rejects revoked ones
            auth.guard(), // enforces idle timeout and binding
        ));
    let app = Router::new()
        .merge(protected)
        .route("/login", post(log_in).layer(auth.csrf()))
        .nest("/auth", auth.router()) // refresh, logout, sessions; at another path, set `refresh_cookie.path` too
        .with_state(auth);

    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    // With `connect_info`, sessions know the client's address.
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}

async fn log_in(
    State(auth): State<Auth<MyClaims>>,
    client: ClientInfo,
    Json(form): Json<Credentials>,
) -> axum::response::Result<Login> {
    // Replace this with your user table and a password hash.
    if (form.username.as_str(), form.password.as_str()) != ("alice", "password") {
        return Err(StatusCode::UNAUTHORIZED.into());
    }
    let claims = MyClaims { role: "admin".to_owned() };
    Ok(auth.login(form.username, claims).client(client).await?) // sets the refresh cookie and returns the access token
}
