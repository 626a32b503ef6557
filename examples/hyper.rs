//! A server on hyper, without axum's server, and without its router for the app's own routes: login, a protected route,
//! and the routes of `Auth::router`, which is a tower service like any other.
//!
//! ```sh
//! cargo run --example hyper
//! ```

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, FromRequestParts as _};
use axum::http::{Method, Request, Response, StatusCode};
use axum::response::IntoResponse as _;
use axum_refresh::{Auth, AuthUser, ClientInfo, MemoryStore, NoClaims, Secret};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use tokio::net::TcpListener;
use tower::{Layer as _, ServiceExt as _, service_fn};

#[derive(Clone)]
struct App {
    auth: Auth,
    auth_routes: Router,
}

impl App {
    fn new(auth: Auth) -> Self {
        Self { auth_routes: Router::new().nest("/auth", auth.router()), auth }
    }

    /// The app's routes.
    async fn call(self, peer: SocketAddr, mut request: Request<Body>) -> Result<Response<Body>, Infallible> {
        // Where the layers and `ClientInfo` look for the address at the other end of the connection.
        request.extensions_mut().insert(ConnectInfo(peer));
        let auth = self.auth;
        match (request.method(), request.uri().path()) {
            (&Method::POST, "/login") => {
                let csrf = auth.csrf();
                csrf.layer(service_fn(move |request| log_in(auth.clone(), request))).oneshot(request).await
            }
            (&Method::GET, "/me") => (auth.layer(), auth.guard()).layer(service_fn(me)).oneshot(request).await,
            (_, path) if path.starts_with("/auth/") => self.auth_routes.oneshot(request).await,
            _ => Ok(StatusCode::NOT_FOUND.into_response()),
        }
    }
}

#[derive(Deserialize)]
struct Credentials {
    username: String,
    password: String,
}

async fn log_in(auth: Auth, request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let (mut parts, body) = request.into_parts();
    let Ok(client) = ClientInfo::from_request_parts(&mut parts, &()).await;
    let form = Limited::new(body, 10_000).collect().await.ok();
    let form = form.and_then(|form| serde_json::from_slice::<Credentials>(&form.to_bytes()).ok());
    // Replace this with your user table and a password hash.
    let Some(form) = form.filter(|form| form.username == "alice" && form.password == "password") else {
        return Ok(StatusCode::UNAUTHORIZED.into_response());
    };
    // A login is a response: it sets the refresh cookie and returns the access token. So is an error.
    Ok(auth.login(form.username, NoClaims {}).client(client).await.into_response())
}

async fn me(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let user: Option<AuthUser> = AuthUser::from_extensions(request.extensions());
    Ok(user.map(|user| user.id.to_string()).ok_or(StatusCode::UNAUTHORIZED).into_response())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    // A random secret logs everybody out at a restart, and so does the memory store.
    let app = App::new(Auth::builder(Secret::random()?, MemoryStore::new()).build()?);
    let port = std::env::var("PORT").ok().map_or(Ok(3000), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                // Too many open files, for example. Others may be closed by then.
                tracing::warn!(%error, "no connection accepted");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let app = app.clone();
        let service = service_fn(move |request: Request<Incoming>| app.clone().call(peer, request.map(Body::new)));
        tokio::spawn(async move {
            let connection =
                http1::Builder::new().serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection has failed");
            }
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const PEER: ([u8; 4], u16) = ([203, 0, 113, 7], 1234);

    async fn call(app: &App, request: axum::http::request::Builder, body: &str) -> (u16, Option<String>, String) {
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = app.clone().call(PEER.into(), request).await.unwrap();
        let (parts, body) = response.into_parts();
        let cookie = parts.headers.get("set-cookie").map(|cookie| cookie.to_str().unwrap().to_owned());
        (parts.status.as_u16(), cookie, String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap())
    }

    fn token(body: &str) -> String {
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        format!("Bearer {}", body["access_token"].as_str().unwrap())
    }

    #[tokio::test]
    async fn a_user_logs_in_refreshes_and_logs_out() {
        let auth = Auth::builder(Secret::random().unwrap(), MemoryStore::new()).build().unwrap();
        let app = App::new(auth.clone());
        let me = |token: &str| Request::get("/me").header("authorization", token);

        let (status, cookie, _) = call(&app, Request::post("/login"), r#"{"username":"alice","password":"x"}"#).await;
        assert_eq!((status, cookie), (401, None));
        let form = r#"{"username":"alice","password":"password"}"#;
        let (status, cookie, body) = call(&app, Request::post("/login"), form).await;
        assert_eq!(status, 200);
        let access = token(&body);
        let (status, _, body) = call(&app, me(&access), "").await;
        assert_eq!((status, body.as_str()), (200, "alice"));
        let sessions = auth.sessions("alice").await.unwrap();
        assert_eq!(sessions[0].ip, Some(PEER.0.into()));

        let cookie = cookie.unwrap().split(';').next().unwrap().to_owned();
        let (status, _, body) = call(&app, Request::post("/auth/refresh").header("cookie", &cookie), "").await;
        assert_eq!(status, 200);
        let access = token(&body);
        assert_eq!(call(&app, me(&access), "").await.0, 200);

        let (status, ..) = call(&app, Request::post("/auth/logout").header("cookie", &cookie), "").await;
        assert_eq!(status, 204);
        let (status, _, body) = call(&app, me(&access), "").await;
        assert_eq!((status, body.contains("access_token_revoked")), (401, true));
    }

    #[tokio::test]
    async fn another_origin_logs_nobody_in() {
        let app = App::new(Auth::builder(Secret::random().unwrap(), MemoryStore::new()).build().unwrap());
        let request = Request::post("/login").header("host", "app.example").header("origin", "https://evil.example");
        let (status, cookie, _) = call(&app, request, r#"{"username":"alice","password":"password"}"#).await;
        assert_eq!((status, cookie), (403, None));
        assert_eq!(call(&app, Request::get("/nowhere"), "").await.0, 404);
    }
}
