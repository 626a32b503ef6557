//! The demo: a single-page app that logs in, stays logged in, and lists and revokes sessions.
//!
//! ```sh
//! cargo run --example demo
//! ```
//!
//! Then open <http://127.0.0.1:3000>. The users are `alice` (an administrator) and `bob`; the password of both is
//! `password`. The settings are environment variables, listed in `examples/README.md`.

mod config;
mod openapi;
#[cfg(feature = "metrics")]
mod prometheus;
mod signing;
mod store;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use axum_refresh::config::{SettingsError, Transport};
use axum_refresh::rejection::Problem;
use axum_refresh::step_up::Recent;
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
    #[cfg(feature = "metrics")]
    if let Err(message) = prometheus::install() {
        eprintln!("{message}");
        return ExitCode::FAILURE;
    }
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
    let listener = TcpListener::bind(("127.0.0.1", config.port))
        .await
        .map_err(|error| format!("PORT: cannot listen on 127.0.0.1:{}: {error}", config.port))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let app = app(&config).map_err(|error| error.to_string())?;
    println!("listening on http://{address}");
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let stop = stop_signal();
    let auth = config.auth.clone();
    let shutdown = async move {
        stop_signal().await;
        // Services that follow the revocations connect to another node.
        auth.end_feeds();
    };
    let served = tokio::select! {
        served = async { axum::serve(listener, app).with_graceful_shutdown(shutdown).await } => served,
        // Requests in flight are finished; idle connections are closed after this time.
        () = async { stop.await; tokio::time::sleep(Duration::from_secs(2)).await } => Ok(()),
    };
    let flushed = config.auth.flush().await;
    served.map_err(|error| error.to_string())?;
    flushed.map_err(|error| error.to_string())
}

fn app(Config { auth, transfer_max_age, has_signing_key, .. }: &Config) -> Result<Router, SettingsError> {
    let admin = auth.admin_router().route("/act", post(act)).with_state(auth.clone());
    let admin = admin.layer((auth.layer(), auth.guard(), from_fn(admins_only)));
    let recent = auth.require(Recent(*transfer_max_age))?;
    let confirm = || post(reauthenticate).layer((auth.csrf(), auth.layer().optional()));
    // With a private key, other services can verify the access tokens.
    let jwks = if *has_signing_key { signing::router(auth)? } else { Router::new() };
    let app = Router::new()
        .route("/me", get(me).route_layer((auth.layer(), auth.guard())))
        .route("/stateless", get(me).route_layer(auth.layer()))
        .route("/transfer", post(transfer).route_layer((recent, auth.guard())))
        // What the page asks for by itself. It does not keep an idle session alive.
        .route("/news", get(me).route_layer((auth.passive(), auth.guard())))
        .route("/login", post(log_in).layer(auth.csrf()))
        .route("/reauthenticate", confirm())
        // Browsers send the refresh cookie here: for a session that is idle, or whose client has changed.
        .route("/auth/reauthenticate", confirm())
        .route("/health", get(|| async { "ok" }))
        .route("/", get(page))
        .route("/page.js", get(script))
        .route("/page.css", get(style))
        .nest("/auth", auth.router_with(&openapi::routes()))
        .nest("/admin", admin)
        .merge(jwks)
        .merge(openapi::router(auth, *has_signing_key)?)
        .with_state(auth.clone());
    #[cfg(feature = "metrics")]
    let app = app.route("/metrics", get(prometheus::scrape));
    Ok(app)
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
    /// Whether the login outlives the browser.
    remember: Option<bool>,
}

#[derive(Deserialize)]
struct Password {
    password: String,
}

#[derive(Deserialize)]
struct ActFor {
    user: String,
}

/// Refusals of the demo's own, in the form of the crate's (RFC 9457).
const BAD_CREDENTIALS: Problem = Problem::new(StatusCode::UNAUTHORIZED, "bad_credentials");
const FORBIDDEN: Problem = Problem::new(StatusCode::FORBIDDEN, "forbidden");
const UNKNOWN_USER: Problem = Problem::new(StatusCode::NOT_FOUND, "unknown_user");

fn claims_of(user_id: &str) -> Option<Claims> {
    let role = match user_id {
        "alice" => "admin",
        "bob" => "user",
        _ => return None,
    };
    Some(Claims { role: role.to_owned() })
}

/// A real app verifies a password hash (argon2), and takes the same time for unknown users.
fn is_password(password: &str) -> bool {
    password == "password"
}

async fn log_in(State(auth): State<Auth<Claims>>, client: ClientInfo, Json(form): Json<LoginForm>) -> Response {
    let Some(claims) = claims_of(&form.username).filter(|_| is_password(&form.password)) else {
        return BAD_CREDENTIALS.into_response();
    };
    let mut login = auth.login(form.username, claims).client(client).transport(form.transport);
    if let Some(label) = form.label {
        login = login.label(label);
    }
    if let Some(remember) = form.remember {
        login = login.persistent(remember);
    }
    login.await.map_or_else(Error::into_response, IntoResponse::into_response)
}

/// Asks for the password again. The session goes on with another id, new tokens and a fresh `auth_time`.
async fn reauthenticate(
    State(auth): State<Auth<Claims>>,
    user: Option<AuthUser<Claims>>,
    client: ClientInfo,
    headers: HeaderMap,
    Json(form): Json<Password>,
) -> Result<Response, Error> {
    let session_id = match user {
        Some(user) => user.session_id,
        None => auth.session_of_cookies(&headers).await?.ok_or(Error::RefreshTokenMissing)?.id,
    };
    if !is_password(&form.password) {
        return Ok(BAD_CREDENTIALS.into_response());
    }
    Ok(auth.reauthenticated(session_id).client(client).await?.into_response())
}

/// Gets here only if the password was entered a short time ago.
async fn transfer(user: AuthUser<Claims>) -> Json<serde_json::Value> {
    Json(json!({ "user": &*user.id, "transferred": true }))
}

/// An administrator looks into the account of a user. The tokens are in the body alone: as cookies, they would replace the
/// administrator's own.
async fn act(
    State(auth): State<Auth<Claims>>,
    admin: AuthUser<Claims>,
    client: ClientInfo,
    Json(form): Json<ActFor>,
) -> Result<Response, Error> {
    let Some(claims) = claims_of(&form.user) else { return Ok(UNKNOWN_USER.into_response()) };
    if *admin.id == *form.user {
        return Ok(UNKNOWN_USER.into_response());
    }
    let tokens = auth.login(form.user, claims).client(client).acting(&admin).await?.tokens;
    let expires_in = tokens.expires_in.as_secs();
    let body = json!({ "access_token": tokens.access_token, "token_type": "Bearer", "expires_in": expires_in });
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

async fn me(user: AuthUser<Claims>) -> Json<serde_json::Value> {
    let mut body = json!({ "user": &*user.id, "session": user.session_id, "claims": user.claims });
    if let (Some(actor), Some(members)) = (user.actor(), body.as_object_mut()) {
        members.insert("actor".to_owned(), json!(&*actor.user_id));
    }
    Json(body)
}

async fn admins_only(user: AuthUser<Claims>, request: Request, next: Next) -> Response {
    if user.claims.role == "admin" { next.run(request).await } else { FORBIDDEN.into_response() }
}
