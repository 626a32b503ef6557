//! A second service: it verifies the access tokens of the demo, without its secret and without its store.
//!
//! ```sh
//! examples/verifier/run
//! ```
//!
//! starts both. The settings are environment variables, listed in `examples/README.md`.

use std::process::ExitCode;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use axum_refresh::step_up::Recent;
use axum_refresh::verifier::Verifier;
use axum_refresh::{AuthUser, Error, Secret, Settings};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;

/// What this service needs of the claims. The tokens may have more.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claims {
    role: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::WARN).init();
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), String> {
    let verifier = verifier()?;
    let port = variable("PORT").unwrap_or_else(|| "3001".to_owned());
    let port: u16 = port.parse().map_err(|error| format!("PORT: {port:?}: {error}"))?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| format!("PORT: {port}: {error}"))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    println!("listening on http://{address}");
    axum::serve(listener, app(&verifier)?).with_graceful_shutdown(stop()).await.map_err(|error| error.to_string())
}

/// Returns when the process receives Ctrl+C or SIGTERM.
async fn stop() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
            return;
        };
        tokio::select! {
            _ = interrupt => {}
            _ = terminate.recv() => {}
        }
    }
    #[cfg(not(unix))]
    let _ = interrupt.await;
}

fn verifier() -> Result<Verifier<Claims>, String> {
    let issuer = variable("ISSUER").unwrap_or_else(|| "http://127.0.0.1:3000".to_owned());
    let mut builder = Verifier::from_url(format!("{issuer}/.well-known/jwks.json"));
    builder = match variable("VERIFIER_TOKEN") {
        Some(token) => builder.revocations(format!("{issuer}/auth/revocations"), Secret::new(token)),
        None => {
            eprintln!("warning: VERIFIER_TOKEN is not set, so revoked sessions are accepted until their token expires");
            builder.without_revocations()
        }
    };
    builder.settings(settings()?).build().map_err(|error| error.to_string())
}

fn settings() -> Result<Settings, String> {
    let mut settings = Settings::default();
    set(&mut settings.policy.access_ttl, "ACCESS_TTL")?;
    set(&mut settings.policy.grace, "GRACE")?;
    set(&mut settings.max_staleness, "MAX_STALENESS")?;
    set(&mut settings.store_timeout, "ISSUER_TIMEOUT")?;
    if let Some(audience) = variable("AUDIENCE") {
        settings.audience = audience;
    }
    Ok(settings)
}

/// Takes a setting from an environment variable, such as `15m` or `1500ms`.
fn set(setting: &mut Duration, name: &str) -> Result<(), String> {
    if let Some(text) = variable(name) {
        *setting = text.parse::<humantime::Duration>().map_err(|error| format!("{name}: {text:?}: {error}"))?.into();
    }
    Ok(())
}

fn app(verifier: &Verifier<Claims>) -> Result<Router, String> {
    let recent = verifier.require(Recent(Duration::from_secs(60))).map_err(|error| error.to_string())?;
    let app = Router::new()
        .route("/invoices", get(invoices).route_layer(verifier.layer()))
        .route("/payments", get(invoices).route_layer(recent))
        // For a load balancer: whether requests can be served.
        .route("/ready", get(ready))
        .with_state(verifier.clone());
    Ok(app)
}

async fn invoices(user: AuthUser<Claims>) -> Json<serde_json::Value> {
    Json(json!({ "user": &*user.id, "session": user.session_id, "role": user.claims.role, "invoices": [] }))
}

async fn ready(State(verifier): State<Verifier<Claims>>) -> Result<StatusCode, Error> {
    verifier.ready().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The value of an environment variable. An empty one counts as not set.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}
