//! The demo: a single-page app that logs in, stays logged in, and lists and revokes sessions.
//!
//! ```sh
//! cargo run --example demo
//! ```
//!
//! Then open <http://127.0.0.1:3000>. The users are `alice` (an administrator) and `bob`; the password of both is
//! `password`. The settings are environment variables, listed in `examples/README.md`.

mod config;
mod store;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use axum_refresh::config::Transport;
use axum_refresh::rejection::Problem;
use axum_refresh::{Auth, AuthUser, ClientInfo, Error};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use config::Config;

/// The app's own claims, carried by every access token.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claims {
    role: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    log_to_stderr();
    let config = match Config::from_env().await {
        Ok(config) => config,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    match serve(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Logs warnings, or what `RUST_LOG` selects: `debug`, or `axum_refresh=debug,sqlx=warn`.
fn log_to_stderr() {
    let selected = config::variable("RUST_LOG").ok().flatten().and_then(|text| text.parse::<Targets>().ok());
    let filter = selected.unwrap_or_else(|| Targets::new().with_default(LevelFilter::WARN));
    let output = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry().with(output).with(filter).init();
}

async fn serve(config: Config) -> Result<(), String> {
    let auth = config.auth;
    let listener = TcpListener::bind(("127.0.0.1", config.port))
        .await
        .map_err(|error| format!("PORT: cannot listen on 127.0.0.1:{}: {error}", config.port))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    println!("listening on http://{address}");
    let app = app(&auth).into_make_service_with_connect_info::<SocketAddr>();
    let stop = stop_signal();
    let served = tokio::select! {
        served = async { axum::serve(listener, app).with_graceful_shutdown(stop_signal()).await } => served,
        // Requests in flight are finished; idle connections are closed after this time.
        () = async { stop.await; tokio::time::sleep(Duration::from_secs(2)).await } => Ok(()),
    };
    let flushed = auth.flush().await;
    served.map_err(|error| error.to_string())?;
    flushed.map_err(|error| error.to_string())
}

fn app(auth: &Auth<Claims>) -> Router {
    let admin = auth.admin_router().layer((auth.layer(), auth.guard(), from_fn(admins_only)));
    Router::new()
        .route("/me", get(me).route_layer((auth.layer(), auth.guard())))
        .route("/stateless", get(me).route_layer(auth.layer()))
        .route("/login", post(log_in).layer(auth.csrf()))
        .route("/health", get(|| async { "ok" }))
        .route("/", get(page))
        .route("/page.js", get(script))
        .route("/page.css", get(style))
        .nest("/auth", auth.router())
        .nest("/admin", admin)
        .with_state(auth.clone())
}

/// Returns when the process receives Ctrl+C or SIGTERM.
async fn stop_signal() {
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

// ---- The page -------------------------------------------------------------------------------------------------------

async fn page(State(auth): State<Auth<Claims>>) -> impl IntoResponse {
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                  form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
    // The script reads the name of the hint cookie from this attribute.
    let html = auth.hint_cookie_name().map_or("<html".to_owned(), |name| format!(r#"<html data-hint="{name}""#));
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(include_str!("page.html").replacen("<html", &html, 1)))
}

async fn script() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("page.js"))
}

async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("page.css"))
}

// ---- The API --------------------------------------------------------------------------------------------------------

#[derive(Deserialize)]
struct LoginForm {
    username: String,
    password: String,
    #[serde(default)]
    transport: Transport,
    label: Option<String>,
}

/// Refusals of the demo's own, in the form of the crate's (RFC 9457).
const BAD_CREDENTIALS: Problem = Problem::new(StatusCode::UNAUTHORIZED, "bad_credentials");
const FORBIDDEN: Problem = Problem::new(StatusCode::FORBIDDEN, "forbidden");

async fn log_in(State(auth): State<Auth<Claims>>, client: ClientInfo, Json(form): Json<LoginForm>) -> Response {
    let role = match form.username.as_str() {
        "alice" => "admin",
        "bob" => "user",
        _ => return BAD_CREDENTIALS.into_response(),
    };
    // A real app verifies a password hash (argon2), and takes the same time for unknown users.
    if form.password != "password" {
        return BAD_CREDENTIALS.into_response();
    }
    let claims = Claims { role: role.to_owned() };
    let mut login = auth.login(form.username, claims).client(client).transport(form.transport);
    if let Some(label) = form.label {
        login = login.label(label);
    }
    login.await.map_or_else(Error::into_response, IntoResponse::into_response)
}

async fn me(user: AuthUser<Claims>) -> Json<serde_json::Value> {
    Json(json!({ "user": &*user.id, "session": user.session_id, "claims": user.claims }))
}

async fn admins_only(user: AuthUser<Claims>, request: Request, next: Next) -> Response {
    if user.claims.role == "admin" { next.run(request).await } else { FORBIDDEN.into_response() }
}
