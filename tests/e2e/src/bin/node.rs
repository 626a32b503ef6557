//! A node of the torture test: the routes of the demo, with settings that the demo does not have, among them a wrong clock
//! and a second secret.
//!
//! | variable | meaning |
//! |---|---|
//! | `NODE_STORE` | the URL of the store |
//! | `NODE_SETTINGS` | the [`Settings`] as JSON |
//! | `NODE_SECRETS` | the secret, and others that are accepted as well, separated by commas |
//! | `NODE_CLOCK` | by how many seconds the clock is ahead; negative if it is behind |

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use axum_refresh::config::Transport;
use axum_refresh::{
    Auth, AuthUser, ClientInfo, Error, MySqlStore, PostgresStore, RedisStore, Secret, SessionStore, Settings,
    SqliteStore,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// How long requests that are in flight may take when the node stops.
const LAST_REQUESTS: Duration = Duration::from_millis(500);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claims {
    role: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let auth = auth().await?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    println!("listening on http://{}", listener.local_addr()?);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let until_stopped = |mut stopped: tokio::sync::watch::Receiver<bool>| async move {
        stopped.wait_for(|is_stopped| *is_stopped).await.ok();
    };
    let served = axum::serve(listener, app(&auth)).with_graceful_shutdown(until_stopped(stopped));
    tokio::select! {
        served = served => served?,
        () = async {
            terminate.recv().await;
            stop.send_replace(true);
            tokio::time::sleep(LAST_REQUESTS).await;
        } => {}
    }
    auth.flush().await?;
    Ok(())
}

async fn auth() -> Result<Auth<Claims>, Box<dyn std::error::Error>> {
    let settings: Settings = serde_json::from_str(&std::env::var("NODE_SETTINGS")?)?;
    let secrets = std::env::var("NODE_SECRETS")?;
    let mut secrets = secrets.split(',').map(Secret::new);
    let ahead: i64 = std::env::var("NODE_CLOCK")?.parse()?;
    let clock = move || {
        let by = Duration::from_secs(ahead.unsigned_abs());
        if ahead < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
    };
    let secret = secrets.next().ok_or("NODE_SECRETS is empty")?;
    let mut builder =
        Auth::builder(secret, store(&std::env::var("NODE_STORE")?).await?).settings(settings).clock(clock);
    for secret in secrets {
        builder = builder.verify_secret(secret);
    }
    Ok(builder.build()?)
}

/// An error, not a panic, if the server is down: the test starts a node until it succeeds.
async fn store(url: &str) -> Result<Arc<dyn SessionStore>, Box<dyn std::error::Error>> {
    Ok(match url.split(':').next() {
        Some("postgres") => {
            let store = PostgresStore::connect(url).await?.push();
            store.migrate().await?;
            Arc::new(store)
        }
        Some("mysql") => {
            let store = MySqlStore::connect(url).await?;
            store.migrate().await?;
            Arc::new(store)
        }
        Some("sqlite") => {
            let store = SqliteStore::connect(url).await?;
            store.migrate().await?;
            Arc::new(store)
        }
        Some("redis") => Arc::new(RedisStore::connect(url).await?),
        _ => return Err("NODE_STORE: unknown kind of store".into()),
    })
}

fn app(auth: &Auth<Claims>) -> Router {
    let admin = auth.admin_router().layer((auth.layer(), auth.guard(), from_fn(admins_only)));
    Router::new()
        .route("/me", get(me).route_layer((auth.layer(), auth.guard())))
        .route("/stateless", get(me).route_layer(auth.layer()))
        .route("/login", post(log_in).layer(auth.csrf()))
        .nest("/auth", auth.router())
        .nest("/admin", admin)
        .with_state(auth.clone())
}

#[derive(Deserialize)]
struct Login {
    username: String,
    transport: Transport,
}

async fn log_in(State(auth): State<Auth<Claims>>, client: ClientInfo, Json(login): Json<Login>) -> Response {
    let role = if login.username == "alice" { "admin" } else { "user" };
    let claims = Claims { role: role.to_owned() };
    let login = auth.login(login.username, claims).client(client).transport(login.transport).await;
    login.map_or_else(Error::into_response, IntoResponse::into_response)
}

async fn me(user: AuthUser<Claims>) -> Json<Value> {
    Json(json!({ "user": &*user.id }))
}

async fn admins_only(user: AuthUser<Claims>, request: Request, next: Next) -> Response {
    if user.claims.role == "admin" { next.run(request).await } else { StatusCode::FORBIDDEN.into_response() }
}
