//! The main job in one command: log in, stay logged in, see and end sessions.
//!
//! Settings come from the environment; the README lists them. `alice` (an administrator) and `bob` have the password
//! `password`.

mod config;
mod store;

use std::net::SocketAddr;
use std::process::ExitCode;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use axum_refresh::{Auth, AuthUser, ClientInfo, Error, Transport};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;

use config::Config;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claims {
    role: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let config = match Config::from_env().await {
        Ok(config) => config,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    match serve(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
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
        // Answers under way are finished; connections that only wait are not waited for longer than this.
        served = async { axum::serve(listener, app).with_graceful_shutdown(stop_signal()).await } => served,
        () = async { stop.await; tokio::time::sleep(std::time::Duration::from_secs(2)).await } => Ok(()),
    };
    let flushed = auth.flush().await;
    served.map_err(|error| error.to_string())?;
    flushed.map_err(|error| error.to_string())
}

fn app(auth: &Auth<Claims>) -> Router {
    let admin = auth.admin_router().layer(from_fn(admins_only)).layer((auth.layer(), auth.guard()));
    Router::new()
        .route("/me", get(me).route_layer((auth.layer(), auth.guard())))
        .route("/stateless", get(me).route_layer(auth.layer()))
        .route("/login", post(login).layer(auth.csrf_layer()))
        .route("/health", get(|| async { "ok" }))
        .route("/", get(page))
        .route("/page.js", get(script))
        .route("/page.css", get(style))
        .nest("/auth", auth.router())
        .nest("/admin", admin)
        .with_state(auth.clone())
}

/// Completes when the process is asked to stop.
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

async fn page(State(auth): State<Auth<Claims>>) -> impl IntoResponse {
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                  form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
    let hint = if auth.settings().hint_cookie { "<html data-hint" } else { "<html" };
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(include_str!("page.html").replacen("<html", hint, 1)))
}

async fn script() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("page.js"))
}

async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("page.css"))
}

#[derive(Deserialize)]
struct Form {
    username: String,
    password: String,
    #[serde(default)]
    transport: Transport,
    label: Option<String>,
}

async fn login(State(auth): State<Auth<Claims>>, client: ClientInfo, Json(form): Json<Form>) -> Response {
    let role = match form.username.as_str() {
        "alice" => "admin",
        "bob" => "user",
        _ => return refuse(StatusCode::UNAUTHORIZED, "bad_credentials"),
    };
    // A real app compares a hash (argon2) and takes as long for a user whom it does not know.
    if form.password != "password" {
        return refuse(StatusCode::UNAUTHORIZED, "bad_credentials");
    }
    let claims = Claims { role: role.to_owned() };
    let mut login = auth.login(form.username, claims).client(client).transport(form.transport);
    if let Some(label) = form.label {
        login = login.label(label);
    }
    login.await.map_or_else(Error::into_response, IntoResponse::into_response)
}

async fn me(user: AuthUser<Claims>) -> Json<serde_json::Value> {
    Json(json!({ "user": &*user.id, "session": user.session, "claims": user.claims }))
}

async fn admins_only(user: AuthUser<Claims>, request: Request, next: Next) -> Response {
    if user.claims.role == "admin" { next.run(request).await } else { refuse(StatusCode::FORBIDDEN, "forbidden") }
}

fn refuse(status: StatusCode, code: &str) -> Response {
    let title = status.canonical_reason();
    let body = json!({ "type": "about:blank", "title": title, "status": status.as_u16(), "code": code });
    let headers = [(header::CONTENT_TYPE, "application/problem+json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, body.to_string()).into_response()
}
