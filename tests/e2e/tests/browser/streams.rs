//! A small app with a WebSocket and an event stream, as the recipes have it: its streams end with their session, and pages of
//! another origin use it.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use axum_refresh::config::{CookieSettings, Transport};
use axum_refresh::store::SqliteStore;
use axum_refresh::{Auth, AuthUser, ClientInfo, Error, Login, NoClaims, Secret, Settings};
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;
use tower_http::cors::CorsLayer;

use crate::browser::Browser;
use crate::scene::{alone, print};

const SECRET: &str = "q8vXh2m0Zr4yTnLwE1sKcPjU7dGfBaOi9xQ3H5tMzVY=";

#[derive(Deserialize)]
struct Credentials {
    username: String,
    password: String,
}

async fn log_in(
    State(auth): State<Auth>,
    client: ClientInfo,
    Json(form): Json<Credentials>,
) -> Result<Login, StatusCode> {
    if form.password != "password" {
        return Err(StatusCode::UNAUTHORIZED);
    }
    let login = auth.login(form.username, NoClaims {}).client(client).transport(Transport::Cookie);
    login.await.map_err(|error: Error| error.into_response().status())
}

async fn socket(upgrade: WebSocketUpgrade, State(auth): State<Auth>, user: AuthUser) -> Response {
    let revoked = auth.revoked(&user);
    upgrade.on_upgrade(move |mut socket: WebSocket| async move {
        if socket.send(Message::text("open")).await.is_ok() {
            tokio::select! {
                () = revoked => {}
                () = async { while let Some(Ok(_)) = socket.recv().await {} } => {}
            }
        }
        socket.send(Message::Close(None)).await.ok();
    })
}

async fn events(State(auth): State<Auth>, user: AuthUser) -> impl IntoResponse {
    let hello = stream::iter([Ok::<_, std::convert::Infallible>(Event::default().data("open"))]);
    Sse::new(hello.chain(stream::pending()).take_until(auth.revoked(&user)))
}

fn app(auth: &Auth) -> Router {
    Router::new()
        .route("/socket", any(socket))
        .route("/events", get(events))
        .route("/me", get(async |user: AuthUser| user.id.to_string()))
        .route_layer((auth.layer(), auth.guard()))
        .route("/login", post(log_in).layer(auth.csrf()))
        .route("/", get(async || Html("<!doctype html><title>app</title>")))
        .nest("/auth", auth.router())
        .with_state(auth.clone())
}

/// Serves an app on a free port, and returns its port.
async fn serve(app: Router) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    port
}

fn auth(store: SqliteStore, change: impl FnOnce(&mut Settings)) -> Auth {
    let builder = Auth::builder(Secret::new(SECRET), store).configure(|settings| {
        settings.access_cookie = Some(CookieSettings::access());
        change(settings);
    });
    builder.build().unwrap()
}

async fn store(folder: &tempfile::TempDir) -> SqliteStore {
    let store = SqliteStore::connect(&format!("sqlite:{}", folder.path().join("sessions.db").display())).await.unwrap();
    store.migrate().await.unwrap();
    store
}

/// An expression that creates the module, logs alice in, and keeps the module in `window.auth`.
fn logged_in(base: &str) -> String {
    format!(
        "(async () => {{
            const {{ createAuth }} = await import('{base}/auth/client.js');
            window.auth = createAuth({{ base: '{base}/auth' }});
            const login = await auth.login('{base}/login', {{ username: 'alice', password: 'password' }});
            return [login.status, auth.state];
        }})()"
    )
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() * 1000.0
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn streams_end_within_a_second_of_a_logout_on_another_node() {
    let _alone = alone().await;
    let folder = tempfile::tempdir().unwrap();
    let (here, elsewhere) = (auth(store(&folder).await, |_| ()), auth(store(&folder).await, |_| ()));
    let (page, other) = (serve(app(&here)).await, serve(app(&elsewhere)).await);
    let base = format!("http://127.0.0.1:{page}");
    let browser = Browser::start().await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    browser.open(&format!("{base}/")).await;
    for all in [false, true] {
        assert_eq!(browser.wait_for(&logged_in(&base)).await, json!([200, "in"]));
        browser
            .wait_for(
                "new Promise(resolve => {
                    window.open_streams = 0;
                    window.ended = {};
                    const opened = () => { if (++window.open_streams === 2) resolve(true); };
                    const socket = new WebSocket(`ws://${location.host}/socket`);
                    socket.onmessage = opened;
                    socket.onclose = () => window.ended.socket ??= Date.now();
                    const events = new EventSource('/events');
                    events.onmessage = opened;
                    events.onerror = () => window.ended.events ??= Date.now();
                })",
            )
            .await;
        // Another device of the same user, on another node.
        let login = http.post(format!("http://127.0.0.1:{other}/login"));
        let login = login.json(&json!({ "username": "alice", "password": "password" })).send().await.unwrap();
        let bearer = login.json::<serde_json::Value>().await.unwrap()["access_token"].as_str().unwrap().to_owned();
        let request = if all {
            http.post(format!("http://127.0.0.1:{other}/auth/logout/all"))
        } else {
            http.post(format!("http://127.0.0.1:{other}/auth/logout/others"))
        };
        assert_eq!(browser.run("return Object.keys(ended)").await, json!([]));
        let before = now();
        assert!(request.bearer_auth(&bearer).send().await.unwrap().status().is_success());
        browser.until("window.ended.socket && window.ended.events").await;
        for stream in ["socket", "events"] {
            let after = browser.run(&format!("return window.ended.{stream}")).await.as_f64().unwrap() - before;
            // A second until the other node knows, and what a busy machine takes to tell the page.
            assert!(after < 1_500.0, "{stream}: {after} ms");
            print(&format!("the {stream} ends after a logout elsewhere"), &format!("{after:>5.0} ms"));
        }
        // A new stream is refused.
        assert_eq!(browser.wait_for("fetch('/events').then(r => r.status)").await, 401);
    }
}

#[tokio::test]
#[ignore = "needs a browser; tests/run runs it"]
async fn a_page_of_another_origin_logs_in_refreshes_and_logs_out() {
    let _alone = alone().await;
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder).await;
    let page = serve(Router::new().route("/", get(async || Html("<!doctype html><title>page</title>")))).await;
    let origin = format!("http://127.0.0.1:{page}");
    let auth = auth(store, |settings| {
        settings.trusted_origins = vec![origin.clone()];
        settings.policy.access_ttl = Duration::from_secs(3);
        settings.policy.grace = Duration::from_secs(1);
    });
    let cors = CorsLayer::new()
        .allow_origin(origin.parse::<HeaderValue>().unwrap())
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE])
        .expose_headers([header::RETRY_AFTER]);
    let api = format!("http://127.0.0.1:{}", serve(app(&auth).layer(cors)).await);
    let browser = Browser::start().await;
    browser.open(&format!("{origin}/")).await;
    assert_eq!(browser.wait_for(&logged_in(&api)).await, json!([200, "in"]));
    let me = format!("auth.fetch('{api}/me').then(async r => [r.status, await r.text()])");
    assert_eq!(browser.wait_for(&me).await, json!([200, "alice"]));
    // Longer than the access token is valid.
    tokio::time::sleep(Duration::from_millis(4_200)).await;
    assert_eq!(browser.wait_for(&me).await, json!([200, "alice"]));
    // A new page is still logged in, by the refresh cookie alone.
    browser.reload().await;
    let returned = format!(
        "(async () => {{
            const {{ createAuth }} = await import('{api}/auth/client.js');
            window.auth = createAuth({{ base: '{api}/auth' }});
            return [(await auth.token()) !== null, auth.user()?.sub];
        }})()"
    );
    assert_eq!(browser.wait_for(&returned).await, json!([true, "alice"]));
    assert_eq!(browser.wait_for("auth.logout().then(() => auth.state)").await, "out");
    browser.reload().await;
    let state = returned.replace("auth.user()?.sub", "auth.state");
    assert_eq!(browser.wait_for(&state).await, json!([false, "out"]));
}
